"""OpenVINO: weights are constants of the model, so all its variants are prepared; one binds its inputs, too."""

import numpy as np

from .. import onnx_models
from ..protocol import serve
from . import Variant, methods


def compiled(threads):
    """The operators, with so many threads."""
    import openvino

    core = openvino.Core()
    options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
               "INFERENCE_PRECISION_HINT": "f32"}  # else bfloat16, where the processor has it

    def variants(model, inputs, results):
        network = core.compile_model(core.read_model(model), "CPU", options)
        request, bound = network.create_infer_request(), network.create_infer_request()
        for name, array in inputs.items():
            bound.set_tensor(name, openvino.Tensor(array, shared_memory=True))

        def infer():
            answer = request.infer(inputs)
            return [answer[output] for output in network.outputs]

        return {"infer": Variant(infer, results, prepared=True),
                "bound": Variant(bound.infer, lambda _: results([np.array(bound.get_tensor(output).data)
                                                                 for output in network.outputs]), prepared=True)}

    return onnx_models.operators(variants)


def load(threads):
    """The methods of the process."""
    import onnx  # noqa: F401, missing like the library itself: the models are made with it
    import openvino

    return methods(openvino.__version__, compiled(threads))


if __name__ == "__main__":
    serve(load)
