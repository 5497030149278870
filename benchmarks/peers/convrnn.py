"""This package. A row of the tables is one of its variants, and other libraries are held against it."""

import numpy as np

from ..problems import LAYOUTS, PARAMETERS, on_cache_line
from ..protocol import serve
from . import Variant, as_state, listed, methods


def image(array, layout):
    """A canonical x or dy, contiguous in a layout."""
    return on_cache_line(np.moveaxis(array, 1, -1)) if layout == "channels_last" else array


def options(problem):
    """The keywords a user would write: those that are not the defaults."""
    given = {"stride": problem.stride, "padding": problem.padding, "groups": problem.groups}
    defaults = {"stride": 1, "padding": 0, "groups": 1}
    return {name: value for name, value in given.items() if value != defaults[name]}


def canonical(array, layout):
    """A y or dx of a layout, canonical."""
    return np.moveaxis(array, -1, 1) if layout == "channels_last" else array


def canonical_kernel(array, layout):
    """A dw of a layout, canonical."""
    return np.moveaxis(array, (-1, -2), (0, 1)) if layout == "channels_last" else array


def conv(problem, pass_, operands):
    """The array functions in both layouts, and for the forward pass the layer frozen."""
    variants = {layout: variant(problem, pass_, operands, layout) for layout in LAYOUTS}
    return variants | {"frozen": frozen(problem, operands)} if pass_ == "forward" else variants


def frozen(problem, operands):
    """A snapshot of the layer, channels_last."""
    import convrnn

    x = image(operands["x"], "channels_last")
    layer = convrnn.Conv2d(problem.C, problem.K, problem.kernel, dtype=x.dtype, **options(problem))
    layer.load_state_dict({"weight": operands["w"], "bias": operands["b"]})
    snapshot = layer.frozen()
    return Variant(lambda: snapshot(x), lambda y: [canonical(y, "channels_last")], prepared=True)


def variant(problem, pass_, operands, layout):
    """A pass in a layout, plain."""
    import convrnn

    x, dy = image(operands["x"], layout), image(operands["dy"], layout)
    w, b = operands["w"], operands["b"]
    keywords = options(problem)
    if layout == "channels_last":
        w = on_cache_line(np.moveaxis(w, (0, 1), (-1, -2)))
    else:
        keywords["layout"] = layout
    if pass_ == "forward":
        return Variant(lambda: convrnn.conv2d(x, w, b, **keywords), lambda y: [canonical(y, layout)])
    needs = {"backward": "xwb", "backward_data": "x", "backward_weights": "w"}[pass_]

    def results(gradients):
        dx, dw, db = gradients
        back = {"x": lambda: canonical(dx, layout), "w": lambda: canonical_kernel(dw, layout), "b": lambda: db}
        return [back[name]() for name in needs]

    if pass_ == "backward":
        return Variant(lambda: convrnn.conv2d_backward(dy, x, w, **keywords), results)
    return Variant(lambda: convrnn.conv2d_backward(dy, x, w, needs=needs, **keywords), results)


def call(problem, pass_, operands):
    """The whole call, and of it the part below Python: what it asked of _core, asked again."""
    whole, results, _ = variant(problem, pass_, operands, "channels_last")
    expected = results(whole())
    requests = core_requests(whole)

    def core():
        for function, arguments in requests:
            function(*arguments)

    return {"whole": Variant(whole, results), "core": Variant(core, lambda _: expected)}


def rnn(problem, pass_, operands):
    """The array function and the layer; for inference also the layer frozen."""
    import convrnn

    name = problem.cell.lower()
    function, backward = getattr(convrnn, name), getattr(convrnn, f"{name}_backward")
    x, dy, *first = (operands[name] for name in operands if name not in PARAMETERS)
    weights = [operands[name] for name in PARAMETERS]
    layer = getattr(convrnn, problem.cell)(problem.I, problem.H, dtype=x.dtype)
    layer.load_state_dict({f"{name}_l0": operands[name] for name in PARAMETERS})
    state, layer_state = as_state(first), as_state([part[None] for part in first])

    if pass_ != "training":
        snapshot = layer.frozen()

        def outputs(result):
            return [result[0], *listed(result[1])]

        return {"array": Variant(lambda: function(x, *weights, state), outputs),
                "layer": Variant(lambda: layer(x, layer_state), outputs),
                "frozen": Variant(lambda: snapshot(x, layer_state), outputs, prepared=True)}

    def train_array():
        y, _, cache = function(x, *weights, state, return_cache=True)
        return y, backward(dy, cache)

    def train_layer():
        y, _, cache = layer.forward(x, layer_state)
        return y, *layer.backward(dy, cache)

    def array_results(result):
        y, gradients = result
        return [y, *(gradients[name] for name in ("x", "w_ih", "w_hh", "b_ih", "b_hh")), *listed(gradients["state"])]

    def layer_results(result):
        y, dx, dstate, gradients = result
        return [y, dx, *(gradients[f"{name}_l0"] for name in PARAMETERS), *listed(dstate)]

    return {"array": Variant(train_array, array_results), "layer": Variant(train_layer, layer_results)}


def core_requests(whole):
    """The calls of operators in convrnn._core, functions and arguments, that a call comes to on the long way: on the
    short one, the looking at arguments and the operator are one function."""
    from convrnn import _core

    requests, convolve = [], _core.convolve
    functions = {name: function for name, function in vars(_core).items() if name.startswith("conv_")}

    def recorded(function):
        def record(*arguments):
            requests.append((function, arguments))
            return function(*arguments)
        return record

    for name, function in functions.items():
        setattr(_core, name, recorded(function))
    _core.convolve = lambda *_: None
    try:
        whole()
    finally:
        _core.convolve = convolve
        for name, function in functions.items():
            setattr(_core, name, function)
    return requests


def load(threads):
    """The methods of the process."""
    import convrnn

    convrnn.set_num_threads(threads)
    version = f"{convrnn.__version__}, isa {convrnn.isa()}"
    return methods(version, {"conv": conv, "call": call, "rnn": rnn})


if __name__ == "__main__":
    serve(load)
