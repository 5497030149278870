"""ONNX Runtime: weights are constants of the model, so all its variants are prepared; one binds its buffers, too."""

from .. import onnx_models
from ..protocol import serve
from . import Variant, methods


def sessions(threads):
    """The operators, with so many threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4

    def variants(model, inputs, results):
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in session.run(None, inputs)]
        binding = session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        for output, value in zip(session.get_outputs(), values, strict=True):
            binding.bind_ortvalue_output(output.name, value)
        return {"run": Variant(lambda: session.run(None, inputs), results, prepared=True),
                "bound": Variant(lambda: session.run_with_iobinding(binding),
                                 lambda _: results([value.numpy() for value in values]), prepared=True)}

    return onnx_models.operators(variants)


def load(threads):
    """The methods of the process."""
    import onnx  # noqa: F401, missing like the library itself: the models are made with it
    import onnxruntime

    return methods(onnxruntime.__version__, sessions(threads))


if __name__ == "__main__":
    serve(load)
