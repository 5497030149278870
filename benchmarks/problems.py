"""What is measured: shapes as data, one line of text each, and what their arithmetic and their arrays come to.

The line is the benchmark's id, what ``--only`` looks in and what ``--problem`` takes. A convolution's is
``N,C,H,W,K,kernel,stride,padding,groups``, the kernel square and the padding on all four sides:

>>> problem = parse("conv", "1,64,56,56,64,3,1,1,1")
>>> problem.out, problem.flops("forward")
((56, 56), 225738752)
>>> str(problem)
'1,64,56,56,64,3,1,1,1'
"""

import math
from dataclasses import astuple, dataclass

import numpy as np

PASSES = ("forward", "backward_data", "backward_weights", "backward")
LAYOUTS = ("channels_last", "channels_first")
DTYPES = ("float32", "float64")


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

    def bytes(self, pass_, dtype):
        """Of the operands and results, each moved once."""
        x, w, _, y = (math.prod(shape) for shape in self.shapes.values())
        return np.dtype(dtype).itemsize * (2 * x + 2 * w + y if pass_ == "backward" else x + w + y)

    def operands(self, dtype):
        """x, w, b, dy in channels_first: normal random numbers, the same in every process."""
        rng = np.random.default_rng(0)
        return {name: rng.standard_normal(shape).astype(dtype) for name, shape in self.shapes.items()}


#: What a name in a request or on the command line is parsed with.
OPERATORS = {"conv": Convolution, "call": Convolution}


def parse(operator, text):
    """The problem of an operator that a line of text describes."""
    return OPERATORS[operator].parse(text)


#: Calls of which the arithmetic is nothing.
CALL = ["1,1,1,1,1,1,1,0,1", "1,1,28,28,1,3,1,0,1", "1,1,28,28,8,3,1,0,1"]

#: Small images, first layers, the body of residual networks, strided 1x1, depthwise, one large kernel.
CONV = [
    "1,1,28,28,1,3,1,0,1", "1,1,28,28,8,3,1,0,1", "32,1,28,28,8,3,1,0,1", "32,16,14,14,32,3,1,1,1",
    "64,32,8,8,64,3,1,1,1", "1,3,224,224,64,7,2,3,1", "1,64,56,56,64,1,1,0,1",
    *(f"1,{channels},{side},{side},{channels},3,1,1,1" for channels in (64, 128, 256) for side in (56, 28, 14)),
    "1,512,7,7,512,3,1,1,1", "1,1024,14,14,2048,1,2,0,1", "16,64,56,56,64,3,1,1,1", "16,256,14,14,256,3,1,1,1",
    "1,32,112,112,32,3,1,1,32", "1,512,14,14,512,3,1,1,512", "1,1,1024,1024,1,11,1,5,1", "8,3,32,32,16,5,1,2,1",
]
