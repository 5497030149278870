"""This package. A row of the tables is one of its variants, and other libraries are held against it."""

import numpy as np

from ..problems import LAYOUTS
from ..protocol import serve
from . import methods


def image(array, layout):
    """A canonical x or dy, contiguous in a layout."""
    return np.ascontiguousarray(np.moveaxis(array, 1, -1)) if layout == "channels_last" else array


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
    """The array functions, in both layouts."""
    return {layout: variant(problem, pass_, operands, layout) for layout in LAYOUTS}


def variant(problem, pass_, operands, layout):
    """(call, results) of a pass in a layout."""
    import convrnn

    x, dy = image(operands["x"], layout), image(operands["dy"], layout)
    w, b = operands["w"], operands["b"]
    keywords = options(problem)
    if layout == "channels_last":
        w = np.ascontiguousarray(np.moveaxis(w, (0, 1), (-1, -2)))
    else:
        keywords["layout"] = layout
    if pass_ == "forward":
        return lambda: convrnn.conv2d(x, w, b, **keywords), lambda y: [canonical(y, layout)]
    needs = {"backward": "xwb", "backward_data": "x", "backward_weights": "w"}[pass_]

    def results(gradients):
        dx, dw, db = gradients
        back = {"x": lambda: canonical(dx, layout), "w": lambda: canonical_kernel(dw, layout), "b": lambda: db}
        return [back[name]() for name in needs]

    if pass_ == "backward":
        return lambda: convrnn.conv2d_backward(dy, x, w, **keywords), results
    return lambda: convrnn.conv2d_backward(dy, x, w, needs=needs, **keywords), results


def call(problem, pass_, operands):
    """The whole call, and of it the part below Python: what it asked of _core, asked again."""
    whole, results = variant(problem, pass_, operands, "channels_last")
    expected = results(whole())
    requests = core_requests(whole)

    def core():
        for function, arguments in requests:
            function(*arguments)

    return {"whole": (whole, results), "core": (core, lambda _: expected)}


def core_requests(whole):
    """The calls of operators in convrnn._core, functions and arguments, that a call comes to."""
    from convrnn import _core

    requests = []
    functions = {name: function for name, function in vars(_core).items() if name.startswith("conv_")}

    def recorded(function):
        def record(*arguments):
            requests.append((function, arguments))
            return function(*arguments)
        return record

    for name, function in functions.items():
        setattr(_core, name, recorded(function))
    try:
        whole()
    finally:
        for name, function in functions.items():
            setattr(_core, name, function)
    return requests


def load(threads):
    """The methods of the process."""
    import convrnn

    convrnn.set_num_threads(threads)
    return methods(f"{convrnn.__version__}, isa {convrnn.isa()}", {"conv": conv, "call": call})


if __name__ == "__main__":
    serve(load)
