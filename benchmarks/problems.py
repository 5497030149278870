"""What is measured: shapes as data, one line of text each, and what their arithmetic and their arrays come to.

The line is the benchmark's id, what ``--only`` looks in and what ``--problem`` takes. A convolution's is
``N,C,H,W,K,kernel,stride,padding,groups``, the kernel square and the padding on all four sides; that of a recurrent
layer its cell and ``T,B,I,H``:

>>> problem = parse("conv", "1,64,56,56,64,3,1,1,1")
>>> problem.out, problem.flops("forward")
((56, 56), 225738752)
>>> str(problem)
'1,64,56,56,64,3,1,1,1'
>>> parse("rnn", "LSTM 100,1,64,128").flops("inference")
19660800
"""

import math
from dataclasses import astuple, dataclass
from typing import NamedTuple

import numpy as np

LAYOUTS = ("channels_last", "channels_first")
FORMS = {"conv": (*LAYOUTS, "frozen"), "rnn": ("array", "layer", "frozen")}  #: our variants, by operator
DTYPES = ("float32", "float64")
GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}
CACHE_LINE = 64  #: bytes
PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")  #: of a recurrent layer, by PyTorch's names


class Traffic(NamedTuple):
    """What has to come from memory, whatever the algorithm."""

    moved: int  #: bytes in all
    held: int  #: bytes that a cache must hold to be where they come from
    repeated: bool  #: read again and again, so they come from the smallest such cache; otherwise the last one counts


def valid_taps(size, kernel, stride, padding):
    """How many pairs (output, tap) of one axis see a pixel of the image: padding is not counted.

    The sum over taps q of the number of outputs o with ``0 <= o*stride + q - padding < size``. The valid taps of an
    image are the product over its axes.

    >>> valid_taps(5, 3, 1, 0), valid_taps(5, 3, 1, 1)
    (9, 13)
    """
    out = output_size(size, kernel, stride, padding)
    taps = 0
    for q in range(kernel):
        first = max(0, -((q - padding) // stride))
        last = min(out - 1, (size - 1 + padding - q) // stride)
        taps += max(0, last - first + 1)
    return taps


def output_size(size, kernel, stride, padding):
    """Outputs along one axis."""
    return (size + 2 * padding - kernel) // stride + 1


@dataclass(frozen=True)
class Convolution:
    """A two-dimensional convolution with a square kernel, and any of its passes."""

    N: int
    C: int
    H: int
    W: int
    K: int
    kernel: int
    stride: int
    padding: int
    groups: int

    passes = ("forward", "backward_data", "backward_weights", "backward")

    def __post_init__(self):
        if self.padding < 0 or any(value < 1 for name, value in vars(self).items() if name != "padding"):
            raise ValueError(f"sizes must be at least 1 and padding at least 0: {self}")
        if self.C % self.groups or self.K % self.groups:
            raise ValueError(f"groups must divide C and K: {self}")
        if min(self.out) < 1:
            raise ValueError(f"the kernel does not fit the padded image: {self}")

    def __str__(self):
        return ",".join(map(str, astuple(self)))

    @classmethod
    def parse(cls, text):
        try:
            return cls(*map(int, text.split(",")))
        except (TypeError, ValueError) as error:
            raise ValueError(f"a convolution is N,C,H,W,K,kernel,stride,padding,groups; {text!r}: {error}") from None

    @property
    def out(self):
        """(OH, OW)."""
        return tuple(output_size(size, self.kernel, self.stride, self.padding) for size in (self.H, self.W))

    @property
    def shapes(self):
        """Of x, w, b and dy, in channels_first."""
        return {"x": (self.N, self.C, self.H, self.W), "w": (self.K, self.C // self.groups, self.kernel, self.kernel),
                "b": (self.K,), "dy": (self.N, self.K, *self.out)}

    def flops(self, pass_):
        """Two for each multiply-add that the formula asks for; "backward" is dx and dw, the sums of db are nothing."""
        taps = math.prod(valid_taps(size, self.kernel, self.stride, self.padding) for size in (self.H, self.W))
        products = 2 if pass_ == "backward" else 1
        return 2 * products * self.N * taps * self.C // self.groups * self.K

    def traffic(self, pass_, dtype):
        """The operands and results, each moved once."""
        x, w, _, y = (math.prod(shape) for shape in self.shapes.values())
        moved = np.dtype(dtype).itemsize * (2 * x + 2 * w + y if pass_ == "backward" else x + w + y)
        return Traffic(moved, moved, repeated=False)

    def operands(self, dtype):
        """x, w, b, dy in channels_first: normal random numbers, the same in every process."""
        rng = np.random.default_rng(0)
        return {name: on_cache_line(rng.standard_normal(shape).astype(dtype)) for name, shape in self.shapes.items()}


@dataclass(frozen=True)
class Recurrence:
    """One recurrent layer, with biases and a first state, over B sequences of T steps.

    The passes are "inference"; "training": inference and BPTT, with the gradients of all parameters, of x and of the
    first state; and "step": inference of one step, as in a stream.
    """

    cell: str
    T: int
    B: int
    I: int  # noqa: E741 - the letter of the legend
    H: int

    def __post_init__(self):
        if self.cell not in GATES:
            raise ValueError(f"the cell is one of {', '.join(GATES)}, not {self.cell!r}")
        if min(self.T, self.B, self.I, self.H) < 1:
            raise ValueError(f"sizes must be at least 1: {self}")

    def __str__(self):
        return f"{self.cell} {self.T},{self.B},{self.I},{self.H}"

    @classmethod
    def parse(cls, text):
        try:
            cell, sizes = text.split()
            return cls(cell.upper(), *map(int, sizes.split(",")))
        except (TypeError, ValueError) as error:
            raise ValueError(f"a recurrent layer is CELL T,B,I,H; {text!r}: {error}") from None

    @property
    def passes(self):
        return ("inference", "training", "step") if self.T == 1 else ("inference", "training")

    @property
    def shapes(self):
        """Of the parameters, by PyTorch's names, x, dy and the first state, whose c only an LSTM has."""
        rows = GATES[self.cell] * self.H
        shapes = {"weight_ih": (rows, self.I), "weight_hh": (rows, self.H), "bias_ih": (rows,), "bias_hh": (rows,),
                  "x": (self.T, self.B, self.I), "dy": (self.T, self.B, self.H), "h": (self.B, self.H)}
        return shapes | {"c": (self.B, self.H)} if self.cell == "LSTM" else shapes

    def flops(self, pass_):
        """Two for each multiply-add of the two products of each step; BPTT has two products for each of them."""
        products = 3 if pass_ == "training" else 1
        return 2 * products * self.T * self.B * GATES[self.cell] * self.H * (self.I + self.H)

    def traffic(self, pass_, dtype):
        """w_hh once a step, w_ih once, from where w_hh fits; BPTT reads both as often again. Activations are free."""
        directions = 2 if pass_ == "training" else 1
        w_ih, w_hh = (np.dtype(dtype).itemsize * math.prod(self.shapes[f"weight_{name}"]) for name in ("ih", "hh"))
        return Traffic(directions * (self.T * w_hh + w_ih), w_hh, repeated=True)

    def operands(self, dtype):
        """The arrays of `shapes`, the same in every process: parameters within 1/sqrt(H), PyTorch's start."""
        rng = np.random.default_rng(0)
        bounds = dict.fromkeys(self.shapes, 1.0) | dict.fromkeys(PARAMETERS, 1 / math.sqrt(self.H))
        return {name: on_cache_line(rng.uniform(-bounds[name], bounds[name], shape).astype(dtype))
                for name, shape in self.shapes.items()}


def on_cache_line(array):
    """A contiguous copy that begins on a cache line, as the tensors of every library do, and convrnn's results.

    Arrays that NumPy allocates begin 16 bytes past one.
    """
    room = np.empty(array.nbytes + CACHE_LINE, np.uint8)
    start = -room.ctypes.data % CACHE_LINE
    copy = room[start:start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


#: What a name in a request or on the command line is parsed with.
OPERATORS = {"conv": Convolution, "call": Convolution, "rnn": Recurrence}


def parse(operator, text):
    """The problem of an operator that a line of text describes."""
    return OPERATORS[operator].parse(text)


def operator_of(text):
    """What kind of problem a line is: that of a recurrent layer begins with a word.

    >>> operator_of("GRU 1,1,2,3"), operator_of("1,1,4,4,1,3,1,0,1")
    ('rnn', 'conv')
    """
    return "rnn" if " " in text.strip() else "conv"


#: Small images, first layers, the body of residual networks, strided 1x1, depthwise, one large kernel.
_CONVOLUTIONS = (
    "1,1,28,28,1,3,1,0,1", "1,1,28,28,8,3,1,0,1", "32,1,28,28,8,3,1,0,1", "32,16,14,14,32,3,1,1,1",
    "64,32,8,8,64,3,1,1,1", "1,3,224,224,64,7,2,3,1", "1,64,56,56,64,1,1,0,1",
    *(f"1,{channels},{side},{side},{channels},3,1,1,1" for channels in (64, 128, 256) for side in (56, 28, 14)),
    "1,512,7,7,512,3,1,1,1", "1,1024,14,14,2048,1,2,0,1", "16,64,56,56,64,3,1,1,1", "16,256,14,14,256,3,1,1,1",
    "1,32,112,112,32,3,1,1,32", "1,512,14,14,512,3,1,1,512", "1,1,1024,1024,1,11,1,5,1", "8,3,32,32,16,5,1,2,1",
)

#: What else networks have: first layers, the 1x1, strided, grouped and depthwise layers of networks for small devices,
#: large kernels, few channels, one channel, batches of small images, and numbers of channels that fill no vectors.
_OTHER_CONVOLUTIONS = (
    "1,3,224,224,64,3,1,1,1", "1,3,224,224,32,3,2,1,1", "1,3,224,224,96,4,4,0,1", "1,3,227,227,96,11,4,0,1",
    "32,3,32,32,64,3,1,1,1", "64,1,32,32,6,5,1,0,1", "64,6,14,14,16,5,1,0,1", "32,1,28,28,32,3,1,0,1",
    "100,1,28,28,20,5,1,0,1", "100,20,12,12,50,5,1,0,1", "256,128,4,4,128,3,1,1,1", "16,128,8,8,128,4,2,1,1",
    "1000,4,5,5,8,3,1,0,1", "128,256,1,1,256,1,1,0,1", "1,512,1,1,512,1,1,0,1", "1,64,56,56,128,3,2,1,1",
    "1,256,14,14,512,3,2,1,1", "1,16,112,112,96,1,1,0,1", "1,96,56,56,24,1,1,0,1", "1,192,28,28,32,1,1,0,1",
    "1,960,7,7,320,1,1,0,1", "1,256,56,56,64,1,1,0,1", "1,2048,7,7,512,1,1,0,1", "1,96,112,112,96,3,2,1,96",
    "1,144,56,56,144,3,1,1,144", "1,192,28,28,192,5,2,2,192", "1,960,7,7,960,3,1,1,960", "1,96,56,56,96,7,1,3,96",
    "1,128,56,56,128,3,1,1,32", "1,256,28,28,256,3,1,1,32", "1,96,56,56,192,2,2,0,1", "1,20,40,40,20,3,1,1,1",
    "1,100,20,20,100,3,1,1,1", "4,10,50,50,10,5,1,2,1", "1,64,27,27,192,5,1,2,1", "1,128,17,17,192,7,1,3,1",
    "1,48,80,80,48,5,1,2,1", "1,64,56,56,1,3,1,1,1", "1,64,112,112,3,9,1,4,1", "1,32,224,224,2,1,1,0,1",
    "1,1,512,512,16,7,1,3,1", "1,1,512,512,1,3,1,1,1", "1,16,256,256,16,3,1,1,1", "1,64,224,224,64,3,1,1,1",
)

#: One row and batches, from weights that fit the first cache to some that no second cache holds.
_SEQUENCES = tuple(f"{cell} {sizes}" for cell in GATES for sizes in (
    "1,1,64,128", "100,1,64,128", "50,32,64,128", "50,32,128,512", "25,16,512,512", "25,32,1024,1024", "150,16,256,256",
    "1000,1,1,32", "100,1,256,1024", "20,64,28,128"))

#: One step of one row.
_STEPS = tuple(f"{cell} 1,1,{size},{size}" for cell in GATES for size in (32, 128, 256))


class CaseSet(NamedTuple):
    """A pass of an operator, and the problems it is measured on."""

    operator: str
    pass_: str
    lines: tuple


#: The names that ``compare`` takes.
SETS = {
    "conv": CaseSet("conv", "forward", _CONVOLUTIONS),
    "conv-backward": CaseSet("conv", "backward", _CONVOLUTIONS),
    "conv-data": CaseSet("conv", "backward_data", _CONVOLUTIONS),
    "conv-weights": CaseSet("conv", "backward_weights", _CONVOLUTIONS),
    "conv-more": CaseSet("conv", "forward", _OTHER_CONVOLUTIONS),
    "conv-more-backward": CaseSet("conv", "backward", _OTHER_CONVOLUTIONS),
    "rnn": CaseSet("rnn", "inference", _SEQUENCES),
    "rnn-train": CaseSet("rnn", "training", _SEQUENCES),
    "step": CaseSet("rnn", "step", _STEPS),
}

#: Those it takes if none is named: "conv-data" and "conv-weights" are parts of "conv-backward", and more is more.
USUAL_SETS = ("conv", "conv-backward", "rnn", "rnn-train", "step")
