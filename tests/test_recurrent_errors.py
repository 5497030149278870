"""Bad input of recurrence: which argument, what was given and what was expected; never a crash, nothing written."""

import math

import numpy as np
import pytest
from recurrent_problems import KINDS, WEIGHTS, forward, of_kind, operands, parse

import convrnn as cr


class Broken:
    """The operands of a good call of one kind, in float64, to be spoilt one at a time."""

    def __init__(self, kind):
        self.problem = parse(of_kind(kind, "t4b3i2h5"))
        self.arrays = dict(operands(self.problem))
        self.rows, self.width = self.arrays["b_ih"].size, self.problem.width

    def call(self, **changes):
        options = {name: value for name, value in changes.items() if name not in self.arrays}
        arrays = self.arrays | {name: value for name, value in changes.items() if name in self.arrays}
        return forward(cr, self.problem, arrays, **options)

    def state(self, part, value):
        """The state with one of its parts replaced."""
        parts = list(self.arrays["state"]) if self.problem.cell == "lstm" else [self.arrays["state"]]
        parts[part] = value
        return tuple(parts) if len(parts) > 1 else parts[0]


@pytest.fixture(params=KINDS)
def broken(request):
    return Broken(request.param)


def refuses(error, *words):
    """A context that expects an error whose message has all these words, in this order."""
    return pytest.raises(error, match="(?s)" + ".*".join(words))


def shape(*sizes):
    """The words of a shape."""
    return rf"\({', '.join(map(str, sizes))}{',' if len(sizes) == 1 else ''}\)"


# -------------------------------------------------------------------------------------------------------- operands


@pytest.mark.parametrize("given", [(4, 3, 3), (4, 3, 1), (4, 3, 0), (4, 3), (2,), (), (4, 3, 2, 1)])
def test_x(broken, given):
    with refuses(ValueError, "x must", "I = 2", shape(*given)):
        broken.call(x=np.zeros(given))


def test_weights_of_the_wrong_shape(broken):
    """Ranks and sizes that disagree with each other, in either matrix, in the projection and in both biases."""
    G, rows, R = broken.rows // 5, broken.rows, broken.width
    wrong = {"w_ih": [(rows + 1, 2), (rows - 1, 2), (2, rows), (rows,), (rows, 2, 1), (rows, 0), ()],
             "w_hh": [(rows, R + 1), (rows, R - 1), (rows,), (rows, R, 1), (0, 0), (0, R), (rows, 0), ()],
             "b_ih": [(rows + 1,), (rows - 1,), (1,), (0,), (), (1, rows), (rows, 1)]}
    wrong["b_hh"] = wrong["b_ih"]
    if G > 1:
        wrong["w_hh"] += [(rows + 1, R), (5, R)]
    if broken.arrays["w_hr"] is not None:
        wrong["w_hr"] = [(R, 6), (R, 4), (R,), (R, 5, 1), (0, 5), ()]
    for name, shapes in wrong.items():
        for given in shapes:
            with refuses(ValueError, f"{name} must have shape", shape(*given)):
                broken.call(**{name: np.zeros(given)})


def test_weights_that_disagree(broken):
    """A good hidden size in one matrix, another in the other: one of them is named, with its shape."""
    G, R = broken.rows // 5, broken.width
    with pytest.raises(ValueError, match=r"w_(ih|hh|hr) must have shape"):
        broken.call(w_hh=np.zeros((6 * G, 6)))
    with pytest.raises(ValueError, match=r"w_(ih|hh|hr) must have shape"):
        broken.call(w_ih=np.zeros((6 * G, 2)))
    if broken.arrays["w_hr"] is not None:
        with refuses(ValueError, "w_h[hr] must have shape"):
            broken.call(w_hr=np.zeros((R + 1, 5)))


def test_state_of_the_wrong_shape(broken):
    for part, name, width in ((0, "state", broken.width), (1, "state c", 5))[:1 + (broken.problem.cell == "lstm")]:
        for given in ((3, width + 1), (2, width), (4, width), (3, width, 1), (width,), (1, 3, width), (0, width), ()):
            with refuses(ValueError, f"{name}.* must have shape", shape(3, width), shape(*given)):
                broken.call(state=broken.state(part, np.zeros(given)))
    single = broken.arrays["x"][:, 0]
    with refuses(ValueError, "state", shape(3, broken.width)):
        broken.call(x=single)


@pytest.mark.parametrize("given", [np.zeros((2, 3, 5)), (np.zeros((3, 5)),), (np.zeros((3, 5)),) * 3, ()])
def test_state_of_an_lstm_is_a_pair(given):
    with refuses(ValueError, "state", r"\(h, c\)"):
        Broken("lstm").call(state=given)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int64", "complex128", ">f8", "bool", "object", "U3"])
@pytest.mark.parametrize("name", ["x", "state", *WEIGHTS])
def test_dtypes(name, dtype, broken):
    """All arrays of a call share float32 or float64; that of x decides."""
    if broken.arrays[name] is None:
        return
    words = (name, "float32" if dtype == "float32" else "")
    if name == "x":
        if dtype == "float32":
            words = ("w_hh|w_ih", "float32", "float64")
        change = {name: np.zeros((4, 3, 2)).astype(dtype)}
    elif name == "state":
        change = {name: broken.state(0, np.zeros((3, broken.width)).astype(dtype))}
    else:
        change = {name: np.zeros(broken.arrays[name].shape).astype(dtype)}
    with refuses(TypeError, *words):
        broken.call(**change)


# ------------------------------------------------------------------------------------------------- options, lengths


@pytest.mark.parametrize("given, error, words", [
    ([4, 3, -1], ValueError, ("lengths", "0..4", "-1")), ([5, 0, 1], ValueError, ("lengths", "0..4", "5")),
    ([4, 3], ValueError, ("lengths", r"\(3,\)", r"\(2,\)")), ([4, 3, 2, 1], ValueError, ("lengths", r"\(4,\)")),
    ([[4, 3, 2]], ValueError, ("lengths", r"\(1, 3\)")), (3, ValueError, ("lengths", r"\(3,\)", r"\(\)")),
    ([4.0, 3.0, 2.0], TypeError, ("lengths", "integers", "float64")), (["4", "3", "2"], TypeError, ("lengths",)),
    ([True, True, False], TypeError, ("lengths", "bool")), ([math.nan, 1, 2], TypeError, ("lengths", "float64")),
    (np.array([4, 3, 2**63], np.uint64), ValueError, ("lengths", str(2**63))),
    (np.array([4, 3, -2**63]), ValueError, ("lengths", str(-2**63))),
    ([4, 3, 2**70], (TypeError, ValueError), ("lengths",)), ([None, 1, 2], TypeError, ("lengths",)),
    ([[4], [3, 2]], ValueError, ("lengths cannot be read",)),
])
def test_lengths(given, error, words, broken):
    with refuses(error, *words):
        broken.call(lengths=given)


def test_flags(broken):
    """True or False: a word would count as true whatever it says."""
    for name in ("reverse", "reset_after") if broken.problem.cell == "gru" else ("reverse",):
        with refuses(TypeError, f"{name} must be True or False", "'no'"):
            broken.call(**{name: "no"})
    with refuses(TypeError, "reset_after", "'no'"):
        cr.GRU(3, 5, reset_after="no")


def test_activation():
    for name in ("softmax", "Tanh", None, 3, ["tanh"]):
        with refuses(ValueError, "activation", "'tanh'", "'relu'", "'sigmoid'", "'identity'"):
            Broken("rnn").call(activation=name)


# --------------------------------------------------------------------------------------------------------- backward


@pytest.fixture
def after(broken):
    """The operands, and the backward function with a cache."""
    _, _, cache = broken.call(return_cache=True)
    backward = broken.problem.function(cr, "_backward")
    return broken, lambda dy=broken.arrays["dy"], cache=cache, **options: backward(dy, cache, **options)


def test_dy(after):
    broken, backward = after
    right = (4, 3, broken.width)
    for given in ((4, 3, broken.width + 1), (3, 3, broken.width), (4, 2, broken.width), (4, broken.width), (), (0,)):
        with refuses(ValueError, "dy must have the shape", shape(*right), shape(*given)):
            backward(np.zeros(given))
    for dtype in ("float32", "int64", ">f8"):
        with refuses(TypeError, "dy must"):
            backward(np.zeros(right, dtype))


def test_dstate(after):
    broken, backward = after
    with refuses(ValueError, "dstate.* must have shape", shape(3, broken.width), shape(2, broken.width)):
        backward(dstate=broken.state(0, np.zeros((2, broken.width))))
    with refuses(TypeError, "dstate.*float32"):
        backward(dstate=broken.state(0, np.zeros((3, broken.width), np.float32)))
    if broken.problem.cell == "lstm":
        with refuses(ValueError, "dstate c must have shape", shape(3, 5), shape(3, 6)):
            backward(dstate=broken.state(1, np.zeros((3, 6))))
        with refuses(ValueError, "dstate", r"\(h, c\)"):
            backward(dstate=np.zeros((3, 5)))


@pytest.mark.parametrize("given, error", [(0, ValueError), (-1, ValueError), (2**63, ValueError), (1.0, TypeError),
                                          ("1", TypeError), ([1], TypeError)])
def test_truncate(after, given, error):
    with refuses(error, "truncate"):
        after[1](truncate=given)


def test_cache_of_something_else(after):
    broken, backward = after
    other = Broken({"rnn": "gru", "gru": "lstm", "lstm": "rnn"}[broken.problem.cell])
    for cache in (None, 3, other.call(return_cache=True)[2]):
        with refuses(TypeError, "cache must be", broken.problem.cell):
            backward(cache=cache)


# ---------------------------------------------------------------------------------------------------------- size


def unwritten(*sizes):
    """Zeros of any shape, in the memory of one."""
    return np.broadcast_to(np.float32(0), sizes)


@pytest.mark.parametrize("function, gates", [(cr.rnn, 1), (cr.lstm, 4), (cr.gru, 3)])
@pytest.mark.parametrize("return_cache", [False, True])
def test_products_past_63_bits(function, gates, return_cache):
    """Sizes whose products no integer holds, or no memory; shown by arrays that take none."""
    cases = [((2**20, 2**20, 2), 2**23), ((2**30, 2**30, 1), 2**4), ((2**31, 2**28, 1), 8), ((2**58, 1, 1), 16),
             ((1, 2**58, 1), 16), ((2**30, 2**24, 1), 8)]
    for sizes, hidden in cases:
        w_ih, w_hh = unwritten(gates * hidden, sizes[-1]), unwritten(gates * hidden, hidden)
        with pytest.raises((ValueError, MemoryError)):
            function(unwritten(*sizes), w_ih, w_hh, return_cache=return_cache)


def test_large_but_empty(isa):
    """No steps or no rows: nothing to compute, whatever the other sizes."""
    for sizes in ((0, 3, 2**20), (2**40, 0, 5), (0, 0, 1)):
        y, state = cr.gru(unwritten(*sizes), unwritten(6, sizes[-1]), unwritten(6, 2))
        assert y.shape == (*sizes[:2], 2) and state.shape == (sizes[1], 2) and not state.any()


# ---------------------------------------------------------------------------------------------------------- layers

LAYERS = (cr.RNN, cr.LSTM, cr.GRU)


@pytest.mark.parametrize("arguments, options, error, words", [
    ((0, 5), {}, ValueError, ("input_size", "at least 1", "0")),
    ((3, 0), {}, ValueError, ("hidden_size", "at least 1", "0")),
    ((-3, 5), {}, ValueError, ("input_size", "-3")), ((3, 2.0), {}, TypeError, ("hidden_size", "float")),
    (("3", 5), {}, TypeError, ("input_size", "str")), ((3, 5), {"num_layers": 0}, ValueError, ("num_layers", "0")),
    ((3, 5), {"num_layers": 1.5}, TypeError, ("num_layers", "float")),
    ((3, 5), {"dtype": np.float16}, TypeError, ("dtype", "float16")),
    ((3, 5), {"dtype": int}, TypeError, ("dtype", "int64")),
    ((3, 5), {"dtype": "real"}, TypeError, ("dtype", "'real'")),
    ((3, 5), {"bias": "no"}, TypeError, ("bias", "True or False", "'no'")),
    ((3, 5), {"bidirectional": "no"}, TypeError, ("bidirectional", "'no'")),
    ((3, 5), {"batch_first": None}, TypeError, ("batch_first", "None")),
    ((3, 5), {"rng": "seed"}, TypeError, ("rng", "'seed'")),
])
@pytest.mark.parametrize("make", LAYERS)
def test_bad_construction(make, arguments, options, error, words):
    with refuses(error, *words):
        make(*arguments, **options)


def test_bad_construction_of_one_cell():
    with refuses(ValueError, "activation", "'tanh'", "'softmax'"):
        cr.RNN(3, 5, activation="softmax")
    with refuses(ValueError, "proj_size", "-1"):
        cr.LSTM(3, 5, proj_size=-1)
    with refuses(TypeError, "proj_size", "float"):
        cr.LSTM(3, 5, proj_size=2.0)


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("frozen", [False, True])
def test_bad_call(make, frozen):
    layer = make(3, 5, num_layers=2, bidirectional=True)
    call = layer.frozen() if frozen else layer
    x, lstm = np.zeros((4, 2, 3), np.float32), make is cr.LSTM
    for given in ((4, 2, 4), (4, 2, 0), (3,), (), (1, 4, 2, 3)):
        with refuses(ValueError, "x must have shape", "I = 3", shape(*given)):
            call(np.zeros(given, np.float32))
    with refuses(TypeError, "x must", "float32", "float64"):
        call(x.astype(np.float64))
    for given in ((4, 2, 4), (2, 2, 5), (4, 3, 5), (4, 5)):
        state = np.zeros(given, np.float32)
        with refuses(ValueError, "state", shape(4, 2, 5), shape(*given)):
            call(x, (state, state) if lstm else state)
    state = np.zeros((4, 2, 5))
    with refuses(TypeError, "state", "float64"):
        call(x, (state, state) if lstm else state)
    with refuses(ValueError, "lengths", "0..4", "5"):
        call(x, lengths=[5, 0])
    with refuses(TypeError, "lengths", "float64"):
        call(x, lengths=[1.0, 2.0])


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_bad_backward(make, batch_first):
    layer = make(3, 5, batch_first=batch_first)
    x = np.zeros((4, 2, 3), np.float32)
    y, _, cache = layer.forward(x)
    for given in ((2, 4, 5), (4, 2, 4), (4, 5)):
        with refuses(ValueError, "dy must have the shape", shape(4, 2, 5), shape(*given)):
            layer.backward(np.zeros(given, np.float32), cache)
    with refuses(TypeError, "dy must", "float64"):
        layer.backward(np.zeros((4, 2, 5)), cache)
    state = np.zeros((2, 2, 5), np.float32)
    with refuses(ValueError, "dstate", r"\(2, 2, 5\)"):
        layer.backward(y, cache, (state, state) if make is cr.LSTM else state)
    with refuses(ValueError, "truncate", "0"):
        layer.backward(y, cache, truncate=0)
    with refuses(TypeError, "cache"):
        layer.backward(y, None)
    y, _, cache = LAYERS[LAYERS.index(make) - 1](3, 5, batch_first=batch_first).forward(x)
    with refuses(TypeError, "cache"):
        layer.backward(y, cache)


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("options, other", [
    ({}, {"input_size": 4}), ({}, {"hidden_size": 6}), ({}, {"num_layers": 2}), ({}, {"bidirectional": True}),
    ({"num_layers": 2}, {"bidirectional": True}), ({"bidirectional": True}, {"num_layers": 2}), ({}, {"bias": False}),
    ({}, {"batch_first": True}),
])
def test_cache_of_another_layer(make, options, other):
    """Of the same cell: whatever fits dy, its parts may not be those of this layer."""
    sizes = {"input_size": 5, "hidden_size": 5}
    layer, strange = make(**sizes | options), make(**sizes | other)
    x = np.zeros((4, 4, strange.input_size), np.float32)
    y, _, cache = strange.forward(x)
    with refuses(ValueError, "cache", "forward"):
        layer.backward(y, cache)


@pytest.mark.parametrize("make", LAYERS)
def test_cache_of_a_layer_that_was_changed(make):
    """Attributes are open to all: dy of the other order of axes would be read past its end."""
    layer = make(3, 5)
    y, _, cache = layer.forward(np.zeros((2, 50, 3), np.float32))
    layer.batch_first = True
    with refuses(ValueError, "cache", "batch first"):
        layer.backward(y, cache)


def test_cache_of_a_projection():
    layer, strange = cr.LSTM(3, 5, proj_size=2), cr.LSTM(3, 5)
    y, _, cache = strange.forward(np.zeros((4, 2, 3), np.float32))
    with refuses(ValueError, "cache", "forward"):
        layer.backward(y, cache)


@pytest.mark.parametrize("make", LAYERS)
def test_parameters_put_in_the_place_of_others(make):
    """params is a dict: what does not fit is refused before it is read."""
    x = np.zeros((4, 2, 3), np.float32)
    for name, given in (("weight_ih_l0", np.zeros((1, 1), np.float32)), ("weight_hh_l0", np.zeros((1, 1), np.float32)),
                        ("bias_ih_l0", np.zeros(1, np.float32))):
        layer = make(3, 5)
        layer.params[name] = given
        for use in (layer, layer.forward):
            with pytest.raises(ValueError):
                use(x)
        layer.params[name] = make(3, 5, dtype=np.float64).params[name]
        for use in (layer, layer.forward):
            with pytest.raises(TypeError):
                use(x)
