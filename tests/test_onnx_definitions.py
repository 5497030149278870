"""RNN, LSTM and GRU against the definitions of the ONNX operators, as the onnx package computes them.

Weights are drawn anew: those of its own test cases are mostly all ones, and would pass with gates in any order. ONNX
stacks gates in the order i o f c (LSTM; its c is our g) and z r h (GRU; its h is our n), puts both biases into one
array and the directions in an axis of their own, and resets before the product unless linear_before_reset is set. Its
reference knows no lengths, projection, or activations of an RNN but tanh and affine ones.
"""

import numpy as np
import pytest

import convrnn as cr

onnx = pytest.importorskip("onnx")
evaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator

ORDERS = {"RNN": (0,), "LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2)}  #: where each of our gates stands among ONNX's
CASES = [("RNN", {}), ("RNN", {"activation": "identity"}), ("LSTM", {}), ("GRU", {"reset_after": True}),
         ("GRU", {"reset_after": False})]
DIRECTIONS = ("forward", "reverse", "bidirectional")


def onnx_results(operator, arrays, direction, options):
    """The outputs of a model of one node: Y (T, D, B, H), Y_h (D, B, H) and, of an LSTM, Y_c."""
    attributes = {"hidden_size": arrays["R"].shape[-1], "direction": direction}
    if "reset_after" in options:
        attributes["linear_before_reset"] = int(options["reset_after"])
    if options.get("activation") == "identity":
        ways = arrays["W"].shape[0]
        attributes |= {"activations": ["Affine"] * ways, "activation_alpha": [1.0] * ways,
                       "activation_beta": [0.0] * ways}
    inputs = [name if arrays.get(name) is not None else "" for name in
              ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c")]
    outputs = ["Y", "Y_h"] + ["Y_c"] * (operator == "LSTM")
    node = onnx.helper.make_node(operator, inputs[:7 if operator == "LSTM" else 6], outputs, **attributes)
    given = {name: array for name, array in arrays.items() if array is not None}
    values = {name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, array.shape)
              for name, array in given.items()}
    results = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, None) for name in outputs]
    graph = onnx.helper.make_graph([node], operator, list(values.values()), results)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)])
    return evaluator(model).run(None, given)


def drawn(operator, ways, T, B, I, H, biased, with_state):
    """Operands of an ONNX node, in float64."""
    rng, rows = np.random.default_rng(4), len(ORDERS[operator]) * H
    return {"X": rng.standard_normal((T, B, I)), "W": rng.standard_normal((ways, rows, I)),
            "R": rng.standard_normal((ways, rows, H)) / 2,
            "B": rng.standard_normal((ways, 2 * rows)) if biased else None,
            "initial_h": rng.standard_normal((ways, B, H)) if with_state else None,
            "initial_c": rng.standard_normal((ways, B, H)) if with_state and operator == "LSTM" else None}


def ordered(operator, array):
    """An array with ONNX's gates along its first axis, with ours."""
    gates = np.split(array, len(ORDERS[operator]))
    return np.concatenate([gates[place] for place in ORDERS[operator]])


def parameters(operator, arrays, way):
    """w_ih, w_hh, b_ih, b_hh of one direction, in our order."""
    weights = [ordered(operator, arrays[name][way]) for name in "WR"]
    if arrays["B"] is None:
        return weights
    return weights + [ordered(operator, bias) for bias in np.split(arrays["B"][way], 2)]


@pytest.mark.parametrize("biased, with_state", [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("operator, options", CASES)
def test_functions(operator, options, direction, biased, with_state, isa):
    """Each direction by the array function."""
    ways = 2 if direction == "bidirectional" else 1
    arrays = drawn(operator, ways, 5, 3, 4, 7, biased, with_state)
    Y, *last = onnx_results(operator, arrays, direction, options)
    for way in range(ways):
        state = tuple(arrays[name][way] for name in ("initial_h", "initial_c") if arrays[name] is not None)
        y, end = getattr(cr, operator.lower())(
            arrays["X"], *parameters(operator, arrays, way), reverse=way == 1 or direction == "reverse", **options,
            state=None if not state else state if operator == "LSTM" else state[0])
        np.testing.assert_allclose(y, Y[:, way], rtol=1e-12, atol=1e-13)
        for one, other in zip(end if operator == "LSTM" else (end,), last, strict=True):
            np.testing.assert_allclose(one, other[way], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("operator, options", CASES)
def test_layers(operator, options, direction, isa):
    """Both directions by the layer, whose y has them side by side."""
    ways = 2 if direction == "bidirectional" else 1
    arrays = drawn(operator, ways, 5, 3, 4, 7, biased=True, with_state=True)
    Y, *last = onnx_results(operator, arrays, direction, options)
    layer = getattr(cr, operator)(4, 7, bidirectional=ways == 2, dtype=np.float64, **options)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    layer.load_state_dict({f"{name}_l0{suffix}": array for way, suffix in enumerate(("", "_reverse")[:ways])
                           for name, array in zip(names, parameters(operator, arrays, way), strict=True)})
    h, c = arrays["initial_h"], arrays["initial_c"]
    y, state = layer(arrays["X"], (h, c) if operator == "LSTM" else h)
    np.testing.assert_allclose(y, np.concatenate([Y[:, way] for way in range(ways)], axis=-1), rtol=1e-12, atol=1e-13)
    for one, other in zip(state if operator == "LSTM" else (state,), last, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("operator, options", CASES)
def test_the_oracle_tells_gates_apart(operator, options):
    """With the gates in any other order the definition gives something else."""
    arrays = drawn(operator, 1, 5, 3, 4, 7, biased=True, with_state=True)
    Y, *_ = onnx_results(operator, arrays, "forward", options)
    for turn in range(1, len(ORDERS[operator])):
        turned = arrays | {name: np.roll(arrays[name], 7 * turn, axis=1) for name in "WR"}
        assert not np.allclose(onnx_results(operator, turned, "forward", options)[0], Y, atol=1e-3)
