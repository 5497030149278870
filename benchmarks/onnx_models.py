"""The problems as ONNX models, for the libraries that read them: weights are constants, x and first states are inputs.

The operands are arranged as ONNX wants them: gates in its order, an axis of directions.
"""

import numpy as np

from .problems import GATES

OPSET = 17  #: of the operators; any from 14 on has what is used here
IR_VERSION = 8  #: of the file, the one that came with the operators' version

#: ONNX's order of the gates (i o f c; z r h), as positions in PyTorch's (i f g o; r z n).
GATE_ORDER = {"RNN": (0,), "LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}


def conv(problem, operands):
    """(model, inputs) of a convolution in channels_first."""
    weights = {"w": operands["w"], "b": operands["b"]}
    attributes = {"strides": [problem.stride] * 2, "pads": [problem.padding] * 4, "group": problem.groups}
    return _model("Conv", ["x", "w", "b"], {"x": operands["x"]}, weights, {"y": 4}, attributes)


def rnn(problem, operands):
    """(model, inputs) of a recurrent layer; the outputs are y and the last state."""
    weights = {name: _directions(_gates(operands[f"weight_{name}"], problem)) for name in ("ih", "hh")}
    biases = [_gates(operands[f"bias_{name}"], problem) for name in ("ih", "hh")]
    weights["bias"] = _directions(np.concatenate(biases))
    states = [name for name in ("h", "c") if name in operands]
    inputs = {"x": operands["x"]} | {name: operands[name][None] for name in states}
    attributes = {"hidden_size": problem.H}
    if problem.cell == "GRU":
        attributes["linear_before_reset"] = 1  # PyTorch's form: r is applied to the product
    return _model(problem.cell, ["x", "ih", "hh", "bias", "", *states], inputs, weights,
                  {"y": 4} | {f"last_{name}": 3 for name in states}, attributes)


def rnn_results(outputs):
    """y and the last state, without the axis of directions."""
    y, *state = outputs
    return [y[:, 0], *(part[0] for part in state)]


def operators(variants):
    """The operators of a library that runs models: inference in float32. ``variants(model, inputs, results)`` are its
    own for one model, `results` making the canonical arrays of what the model puts out."""
    def operator(model_of, results):
        def call(problem, pass_, operands):
            if pass_ not in ("forward", "inference", "step") or operands["x"].dtype != "float32":
                return {}
            return variants(*model_of(problem, operands), results)
        return call

    return {"conv": operator(conv, list), "rnn": operator(rnn, rnn_results)}


def _gates(array, problem):
    """The blocks of gates in ONNX's order."""
    blocks = array.reshape(GATES[problem.cell], problem.H, *array.shape[1:])
    return blocks[list(GATE_ORDER[problem.cell])].reshape(array.shape)


def _directions(array):
    return np.ascontiguousarray(array[None])


def _model(operator, names, inputs, weights, outputs, attributes):
    """(the bytes of a model of one node, the inputs it is called with); `outputs` have their numbers of axes."""
    from onnx import helper, numpy_helper

    real = helper.np_dtype_to_tensor_dtype(next(iter(inputs.values())).dtype)
    graph = helper.make_graph(
        [helper.make_node(operator, names, list(outputs), **attributes)], operator,
        [helper.make_tensor_value_info(name, real, array.shape) for name, array in inputs.items()],
        [helper.make_tensor_value_info(name, real, [None] * axes) for name, axes in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in weights.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return model.SerializeToString(), inputs
