"""Problems of recurrence: one line of text is a shape, a test id, and what reproduces a failure.

    lstm_t5b3i4h7_p2_l5,0,3_reverse_nobih_k2

    lstm           rnn, lstm or gru
    t5b3i4h7       5 steps, batch 3, input size 4, hidden size 7 (no b: no batch axis)
    p2             the width of an LSTM's projection
    l5,0,3         lengths
    k2             truncate
    relu sigmoid identity           the activation of an RNN, tanh if none is named
    before                          a GRU with the reset before the product
    reverse nobih nobhh nostate     as they say; nostate is also without gradients at the last state

Operands hold float32 values, so that one run of the reference serves every dtype and instruction set. Past a row's end
x and dy are NaN.
"""

import functools
import math
import re
import zlib
from dataclasses import dataclass

import numpy as np
from problems import UNIT

import convrnn
from convrnn import reference

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
KINDS = ("rnn", "lstm", "lstm p", "gru", "gru before")  #: cells that are told apart in C
FUNCTIONS = {"tanh": np.tanh, "relu": lambda a: np.maximum(a, 0), "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
             "identity": lambda a: a}  #: the activations of an RNN, by NumPy
ACTIVATIONS = tuple(FUNCTIONS)
WEIGHTS = ("w_ih", "w_hh", "b_ih", "b_hh", "w_hr")
SIZES = (1, 2, 7, 8, 15, 16, 17, 33, 64)  # about the vectors and tiles of all instruction sets
LENGTHS = ("l6,0,3", "l0,0,1", "l1,6,6", "l6,6,6", "l0,0,0")


@dataclass(frozen=True)
class Recurrence:
    """The shape and the options of one call."""

    cell: str
    T: int
    B: int | None
    I: int
    H: int
    P: int = 0
    activation: str = "tanh"
    reset_after: bool = True
    lengths: tuple | None = None
    reverse: bool = False
    absent: frozenset = frozenset()  # of "b_ih", "b_hh", "state"
    truncate: int | None = None

    def __str__(self):
        batch = "" if self.B is None else f"b{self.B}"
        fields = [self.cell, f"t{self.T}{batch}i{self.I}h{self.H}"]
        fields += [f"p{self.P}"] * bool(self.P) + [self.activation] * (self.activation != "tanh")
        fields += ["before"] * (not self.reset_after) + ["reverse"] * self.reverse
        if self.lengths is not None:
            fields.append("l" + ",".join(map(str, self.lengths)))
        fields += [f"k{self.truncate}"] * (self.truncate is not None)
        return "_".join(fields + sorted("no" + name.replace("_", "") for name in self.absent))

    def function(self, module, suffix=""):
        """lstm_backward, say, of convrnn or of the reference."""
        return getattr(module, self.cell + suffix)

    @property
    def width(self):
        """R, the width of h."""
        return self.P or self.H

    @property
    def state_widths(self):
        """Those of h and, of an LSTM, c."""
        return (self.width, self.H) if self.cell == "lstm" else (self.width,)

    def options(self):
        """The keywords of the forward function but w_hr, those that differ from the defaults."""
        lengths = None if self.lengths is None else np.array(self.lengths, np.int64)
        options = {"lengths": lengths, "reverse": self.reverse or None,
                   "activation": None if self.activation == "tanh" else self.activation,
                   "reset_after": None if self.reset_after else False}
        return {name: value for name, value in options.items() if value is not None}


def parse(text):
    """The `Recurrence` that a line of text describes."""
    cell, head, *fields = text.split("_")
    sizes = {letter: int(size) for letter, size in re.findall(r"([tbih])(\d+)", head)}
    options, absent = {}, set()
    for field in fields:
        if field in ACTIVATIONS:
            options["activation"] = field
        elif field == "before":
            options["reset_after"] = False
        elif field == "reverse":
            options["reverse"] = True
        elif field.startswith("no"):
            absent.add({"nobih": "b_ih", "nobhh": "b_hh", "nostate": "state"}[field])
        elif field[0] == "l":
            options["lengths"] = tuple(map(int, field[1:].split(","))) if field[1:] else ()
        else:
            options[{"p": "P", "k": "truncate"}[field[0]]] = int(field[1:])
    return Recurrence(cell, sizes["t"], sizes.get("b"), sizes["i"], sizes["h"], absent=frozenset(absent), **options)


def of_kind(kind, head, *fields):
    """The line of text of a problem of one of `KINDS`, a projection being about half as wide as h."""
    cell, *form = kind.split()
    words = {"before": "before", "p": f"p{(int(head.split('h')[1]) + 1) // 2}"}
    return "_".join([cell, head, *(words[word] for word in form), *fields])


def shapes_of(kind):
    """Lines of text: every size and option that all cells have."""
    heads = [f"t3b2i3h{size}" for size in SIZES] + [f"t3b2i{size}h5" for size in SIZES]
    heads += [f"t2b{size}i3h9" for size in (1, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 17, 33)]
    heads += ["t3b1i16h16", "t2b3i17h33", "t2b2i64h64", "t1b1i1h1", "t40b1i2h3", "t4i3h5", "t1i1h1", "t9b2i2h21"]
    # Columns there and back; a matrix that one row packs; rows of x that share a cache set.
    heads += ["t5b1i3h150", "t70b1i2h40", "t2b15i1024h3"]
    heads += ["t0b2i3h5", "t3b0i3h5", "t0b0i3h5", "t0i3h5"]
    lines = [(head,) for head in heads]
    lines += [("t6b3i4h5", lengths, *more) for lengths in LENGTHS for more in ((), ("reverse",), ("reverse", "k2"))]
    lines += [("t6b3i4h5", *words) for words in (
        ("reverse",), ("nobih",), ("nobhh",), ("nobih", "nobhh"), ("nostate",), ("nobih", "nobhh", "nostate"),
        ("reverse", "nostate"), ("l2,6,0", "nostate"))]
    lines += [("t6b2i3h5", f"k{truncate}") for truncate in range(1, 8)]
    lines += [("t6i4h5", "reverse", "k4"), ("t7b5i2h17", "l7,3,4,1,0", "k3"), ("t0b2i3h5", "l0,0"), ("t3b0i3h5", "l"),
              ("t4b17i3h9", "l" + ",".join(str(row * 3 % 5) for row in range(17)))]
    return [of_kind(kind, *line) for line in lines]


# -------------------------------------------------------------------------------------------------------- operands


@functools.lru_cache(maxsize=None)
def operands(problem):
    """Read-only x, WEIGHTS, state, dy and dstate of a problem in float64, by name; None for what is absent.

    Weights are large enough for gates to open and close, and small enough for a state not to explode.
    """
    rng = np.random.default_rng(zlib.crc32(str(problem).encode()))
    batch = () if problem.B is None else (problem.B,)
    rows = GATES[problem.cell] * problem.H

    def draw(*shape, scale=1.0):
        array = (scale * rng.standard_normal(shape)).astype(np.float32).astype(np.float64)
        array.setflags(write=False)
        return array

    arrays = {"x": draw(problem.T, *batch, problem.I), "w_ih": draw(rows, problem.I, scale=problem.I**-0.5),
              "w_hh": draw(rows, problem.width, scale=0.8 * problem.width**-0.5), "b_ih": draw(rows),
              "b_hh": draw(rows), "w_hr": None, "dy": draw(problem.T, *batch, problem.width)}
    if problem.P:
        arrays["w_hr"] = draw(problem.P, problem.H, scale=1.5 * problem.H**-0.5)
    for name in ("state", "dstate"):
        arrays[name] = as_state([draw(*batch, width) for width in problem.state_widths])
    if problem.lengths is not None:
        for name in ("x", "dy"):
            array = arrays[name].copy()
            for row, length in enumerate(problem.lengths):
                array[length:, row] = math.nan
            array.setflags(write=False)
            arrays[name] = array
    return arrays | dict.fromkeys(problem.absent) | ({"dstate": None} if "state" in problem.absent else {})


def as_state(parts):
    """(h, c), or h by itself."""
    return tuple(parts) if len(parts) > 1 else parts[0]


def parts_of(state):
    """The arrays of a state: a list of one or two, or of none for None."""
    return [] if state is None else list(state) if isinstance(state, tuple) else [state]


def as_dtype(arrays, dtype):
    """The `operands` in a dtype."""
    return {name: None if value is None else as_state([part.astype(dtype) for part in parts_of(value)])
            for name, value in arrays.items()}


def forward(module, problem, arrays, suffix="", **options):
    """The forward function of a module, convrnn or the reference, with the operands of a problem."""
    if arrays["w_hr"] is not None:
        options["w_hr"] = arrays["w_hr"]
    return problem.function(module, suffix)(arrays["x"], *(arrays[name] for name in WEIGHTS[:4]), arrays["state"],
                                            **problem.options() | options)


@functools.lru_cache(maxsize=None)
def expected(problem):
    """What the reference gives: results by name, as `computed`."""
    arrays = operands(problem)
    y, state, cache = forward(reference, problem, arrays, "_forward")
    grads = problem.function(reference, "_backward")(arrays["dy"], cache, arrays["dstate"], truncate=problem.truncate)
    batched = problem.B is not None
    dh, *kept = (array if array is None or batched else array[:, 0]
                 for array in (grads.pop("h"), cache.h, cache.c, cache.gates))
    return results_of(y, state, grads) | {"dh": dh, "cache.h": kept[0], "cache.c": kept[1], "cache.gates": kept[2]}


def results_of(y, state, grads):
    """y, the parts of the state and the gradients by name: "y", "state 0", "state 1", "d w_ih", "d state 0", .."""
    results = {"y": y, **{f"state {i}": part for i, part in enumerate(parts_of(state))}}
    results |= {f"d {name}": array for name, array in grads.items() if name != "state"}
    return results | {f"d state {i}": part for i, part in enumerate(parts_of(grads["state"]))}


def computed(problem, arrays):
    """What the compiled functions give: all results by name."""
    y, state, cache = forward(convrnn, problem, arrays, return_cache=True)
    grads, dh = problem.function(convrnn, "_backward")(arrays["dy"], cache, arrays["dstate"], truncate=problem.truncate,
                                                       return_hidden_gradients=True)
    return results_of(y, state, grads) | {"dh": dh, "cache.h": cache.h, "cache.c": cache.c, "cache.gates": cache.gates}


# ------------------------------------------------------------------------------------------------------ comparison


def assert_equal(actual, wanted, names=None):
    """Results by name, or some of them, bit for bit."""
    assert names is not None or list(actual) == list(wanted)
    for name in wanted if names is None else names:
        np.testing.assert_array_equal(actual[name], wanted[name], err_msg=name, strict=True)


def assert_near(actual, wanted, dtype, units=64):
    """Results by name: within so many rounding units of the largest number of an array, or of one."""
    assert set(actual) == set(wanted)
    for name, array in wanted.items():
        if array is None:
            assert actual[name] is None, name
            continue
        assert (actual[name].dtype, actual[name].shape) == (np.dtype(dtype), array.shape), name
        assert np.isfinite(actual[name]).all(), name
        error = np.abs(actual[name] - array).max(initial=0)
        allowed = units * UNIT[dtype] * np.abs(array).max(initial=1)
        assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}"


def assert_results(problem, dtype):
    """All results of a problem against the reference; inference, with no cache, gives the same bits."""
    arrays = as_dtype(operands(problem), dtype)
    results = computed(problem, arrays)
    assert_near(results, expected(problem), dtype)
    y, state = forward(convrnn, problem, arrays)
    assert_equal({"y": y} | {f"state {i}": part for i, part in enumerate(parts_of(state))}, results,
                 ["y", *(f"state {i}" for i in range(len(problem.state_widths)))])


def assert_gradients_of_differences(problem, eps=1e-6):
    """Along any direction v, <gradient, v> is the central difference of the loss <dy, y> + <dstate, state>."""
    arrays = operands(problem)
    steps = np.arange(problem.T)[:, None] < np.array(problem.lengths or [problem.T] * (problem.B or 1))
    counted = (steps if problem.B is not None else steps[:, 0])[..., None]
    results = computed(problem, arrays)

    def loss(name, index, moved):
        if name == "state":
            moved = as_state([moved if part == index else array for part, array in enumerate(parts_of(arrays[name]))])
        y, state = forward(convrnn, problem, arrays | {name: moved})
        of_state = zip(parts_of(arrays["dstate"]), parts_of(state), strict=True)
        return np.sum(arrays["dy"] * y, where=counted) + sum(np.vdot(*pair) for pair in of_state)

    rng = np.random.default_rng(5)
    for name in ("x", *WEIGHTS, "state"):
        for index, array in enumerate(parts_of(arrays[name])):
            gradient = results[f"d {name} {index}" if name == "state" else f"d {name}"]
            direction = rng.standard_normal(array.shape)
            above, below = (loss(name, index, array + step * direction) for step in (eps, -eps))
            np.testing.assert_allclose(np.vdot(gradient, direction), (above - below) / (2 * eps), rtol=1e-6,
                                       atol=1e-6 * np.linalg.norm(gradient), err_msg=name)
