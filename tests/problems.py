"""Problems: one line of text is a shape, a test id, and what reproduces a failure.

    n2c3h9w8k5_3x2_s2x1_p1,0x0,2_d1x2_g1_reflect

    n2c3h9w8k5     batch 2, 3 in-channels, image 9 x 8, 5 out-channels (no n: no batch axis; no k: a pooling)
    3x2            kernel or window, one number per axis; it sets the rank
    s2x1           stride; for a pooling, none means the window. One number stands for all axes, here and below
    p1,0x0,2       padding, low,high per axis or one number for both; or pvalid, psame, psame-lower, pfull, pcausal
    d1x2           dilation
    g3             groups
    o1x0           output padding; it makes the problem a transposed convolution, and is given even if it is zero
    reflect symmetric edge wrap flip relu tanh sigmoid nobias       as they say

Operands hold float32 values in float32 and in float64, so that products are exact in the reference, and one run of
it serves every dtype, layout, instruction set and thread count. They are made, and expected results are kept, in
channels_first; `laid_out` and `canonical` go between that and a layout.
"""

import functools
import math
import re
import zlib
from dataclasses import dataclass

import numpy as np

import convrnn
from convrnn import reference

LAYOUTS = ("channels_last", "channels_first")
DTYPES = ("float32", "float64")
PADDING_MODES = ("reflect", "symmetric", "edge", "wrap")
ACTIVATIONS = ("relu", "tanh", "sigmoid")
UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}  #: the rounding unit u


@dataclass(frozen=True)
class Problem:
    """The shape and the options of one call. C and K are the channels of x and of y, also of a transposed one."""

    N: int | None
    C: int
    image: tuple
    K: int | None
    kernel: tuple
    stride: tuple | None = None
    padding: tuple | str = "valid"  # (low, high) pairs, or a name
    dilation: tuple | None = None
    groups: int = 1
    output_padding: tuple | None = None
    padding_mode: str = "constant"
    flip: bool = False
    activation: str | None = None
    bias: bool = True

    def __str__(self):
        image = "".join(f"{letter}{size}" for letter, size in zip("dhw"[-self.rank:], self.image, strict=True))
        fields = [("" if self.N is None else f"n{self.N}") + f"c{self.C}{image}" + (f"k{self.K}" if self.K else ""),
                  "x".join(map(str, self.kernel))]
        if self.stride:
            fields.append("s" + "x".join(map(str, self.stride)))
        if isinstance(self.padding, str):
            fields.append("p" + self.padding.replace("_", "-"))
        else:
            fields.append("p" + "x".join(f"{low},{high}" for low, high in self.padding))
        if self.dilation:
            fields.append("d" + "x".join(map(str, self.dilation)))
        if self.groups > 1:
            fields.append(f"g{self.groups}")
        if self.output_padding:
            fields.append("o" + "x".join(map(str, self.output_padding)))
        fields += [word for word in (self.padding_mode, self.activation) if word not in ("constant", None)]
        return "_".join(fields + ["flip"] * self.flip + ["nobias"] * (not self.bias))

    @property
    def rank(self):
        return len(self.kernel)

    def function(self, module, operator, suffix=""):
        """conv2d_backward, say, of convrnn: operator "conv", "conv_transpose", "max_pool" or "avg_pool"."""
        return getattr(module, f"{operator}{self.rank}d{suffix}")

    def geometry(self):
        """The keywords that forward and backward share, those of this problem that differ from the defaults."""
        options = {"stride": self.stride, "padding": None if self.padding == "valid" else self.padding,
                   "dilation": self.dilation, "output_padding": self.output_padding,
                   "groups": None if self.groups == 1 else self.groups, "flip": self.flip or None,
                   "padding_mode": None if self.padding_mode == "constant" else self.padding_mode}
        return {name: value for name, value in options.items() if value is not None}

    @functools.cached_property
    def out(self):
        """The sizes of y."""
        geometry = {name: value for name, value in self.geometry().items() if name != "groups"}
        if self.K is None:
            geometry.setdefault("stride", self.kernel)
        if self.output_padding is not None:
            return reference.transpose_reads(self.image, self.kernel, **geometry)[0]
        return reference.window_reads(self.image, self.kernel, **geometry)[0]


def parse(text):
    """The `Problem` that a line of text describes."""
    head, kernel, *fields = text.split("_")
    sizes = {letter: int(size) for letter, size in re.findall(r"([ncdhwk])(\d+)", head)}
    kernel = tuple(map(int, kernel.split("x")))
    rank = len(kernel)
    options = {}
    for field in fields:
        letter, numbers = field[0], field[1:].split("x")
        if field in PADDING_MODES:
            options["padding_mode"] = field
        elif field in ACTIVATIONS:
            options["activation"] = field
        elif field in ("flip", "nobias"):
            options.update({"flip": True} if field == "flip" else {"bias": False})
        elif letter == "g":
            options["groups"] = int(field[1:])
        elif letter == "p" and field[1].isalpha():
            options["padding"] = field[1:].replace("-", "_")
        elif letter == "p":
            pairs = [tuple(map(int, pair.split(","))) for pair in numbers]
            pairs = [(pair[0], pair[-1]) for pair in pairs]
            options["padding"] = tuple(pairs * rank if len(pairs) == 1 else pairs)
        else:
            name = {"s": "stride", "d": "dilation", "o": "output_padding"}[letter]
            options[name] = tuple(map(int, numbers * rank if len(numbers) == 1 else numbers))
    image = tuple(sizes[letter] for letter in "dhw"[-rank:])
    return Problem(sizes.get("n"), sizes["c"], image, sizes.get("k"), kernel, **options)


# -------------------------------------------------------------------------------------------------------- operands


def laid_out(array, layout, rank, dtype=np.float64):
    """A canonical x, y, dx or dy as `layout` and `dtype` have it, contiguous."""
    array = np.moveaxis(array, -rank - 1, -1) if layout == "channels_last" else array
    return np.ascontiguousarray(array, dtype=dtype)


def canonical(array, layout, rank):
    """An x, y, dx or dy in channels_first."""
    return np.moveaxis(array, -1, -rank - 1) if layout == "channels_last" else array


def kernel_laid_out(array, layout, dtype=np.float64):
    """A canonical w or dw as `layout` and `dtype` have it, contiguous."""
    array = np.moveaxis(array, (0, 1), (-1, -2)) if layout == "channels_last" else array
    return np.ascontiguousarray(array, dtype=dtype)


def canonical_kernel(array, layout):
    """A w or dw in channels_first."""
    return np.moveaxis(array, (-1, -2), (0, 1)) if layout == "channels_last" else array


def numbers(kind, shape, rng):
    """float32 numbers in float64: "integers" whose sums of products are exact, "real" of zero mean, "positive"."""
    if kind == "integers":
        return rng.integers(-4, 5, shape).astype(np.float64)
    values = rng.standard_normal(shape).astype(np.float32).astype(np.float64)
    return values if kind == "real" else np.abs(values)


@functools.lru_cache(maxsize=None)
def operands(problem, operator, kind):
    """Read-only canonical x, w, b, dy of a problem; w and b are None for a pooling, b also where there is no bias."""
    rng = np.random.default_rng(zlib.crc32(f"{operator} {problem}".encode()))
    batch = () if problem.N is None else (problem.N,)
    channels = (problem.C, problem.K) if operator == "conv_transpose" else (problem.K, problem.C)
    shapes = [(*batch, problem.C, *problem.image), None, None, (*batch, problem.K or problem.C, *problem.out)]
    if problem.K:
        shapes[1] = (channels[0], channels[1] // problem.groups, *problem.kernel)
        shapes[2] = (problem.K,) if problem.bias else None
    arrays = [None if shape is None else numbers(kind, shape, rng) for shape in shapes]
    for array in arrays:
        if array is not None:
            array.setflags(write=False)
    return arrays


def arranged(arrays, layout, rank, dtype):
    """The four `operands` as `layout` and `dtype` have them."""
    x, w, b, dy = arrays
    return (laid_out(x, layout, rank, dtype), None if w is None else kernel_laid_out(w, layout, dtype),
            None if b is None else b.astype(dtype), laid_out(dy, layout, rank, dtype))


@functools.lru_cache(maxsize=None)
def expected(problem, operator, kind):
    """What the reference gives, canonical: y, dx, dw, db; y, dx of a pooling."""
    x, w, b, dy = operands(problem, operator, kind)
    options = problem.geometry() | {"layout": "channels_first"}
    if operator == "max_pool":
        return (reference.max_pool_forward(x, problem.kernel, **options),
                reference.max_pool_backward(dy, x, problem.kernel, **options))
    if operator == "avg_pool":
        return (reference.avg_pool_forward(x, problem.kernel, **options),
                reference.avg_pool_backward(dy, x.shape, problem.kernel, **options))
    if operator == "conv_transpose":
        return (reference.conv_transpose_forward(x, w, b, **options),
                *reference.conv_transpose_backward(dy, x, w, **options))
    return reference.conv_forward(x, w, b, **options), *reference.conv_backward(dy, x, w, **options)


# ------------------------------------------------------------------------------------------------------ comparison


def assert_same(actual, wanted):
    """Bit for bit, NaN for NaN, but for the sign of a zero; `wanted` is rounded to the dtype of `actual` first."""
    np.testing.assert_array_equal(actual, np.asarray(wanted).astype(actual.dtype))


def assert_within(actual, wanted, bound):
    """|actual - wanted| <= bound everywhere; the worst place is named."""
    assert actual.shape == np.shape(wanted)
    bound = np.broadcast_to(bound, actual.shape)
    error = np.abs(actual - wanted)
    if not (error <= bound).all():
        with np.errstate(divide="ignore", invalid="ignore"):
            worst = np.nanargmax(np.where(np.isnan(error), np.inf, error / bound))
        where = np.unravel_index(worst, actual.shape)
        raise AssertionError(f"at {tuple(map(int, where))}: {actual[where]} for {np.asarray(wanted)[where]}, "
                             f"error {error[where]:.3g}, allowed {bound[where]:.3g}")


def terms(problem, operator):
    """The most terms that a sum for an element of y, dx, dw and db may have."""
    taps, outputs, batch = math.prod(problem.kernel), math.prod(problem.out), problem.N or 1
    forward, backward = problem.C // problem.groups * taps + 1, problem.K // problem.groups * taps
    reached = taps if problem.padding_mode == "constant" else taps * outputs  # one edge pixel may be read by all
    pixels = math.prod(problem.image) if operator == "conv_transpose" else outputs
    return forward, backward // taps * reached, batch * pixels, batch * outputs


def assert_exact_results(problem, operator, dtype, layout):
    """Of small integers: their sums are exact in any order, so all results are the reference's, bit for bit."""
    for actual, wanted in zip(computed(problem, operator, "integers", dtype, layout),
                              expected(problem, operator, "integers"), strict=True):
        assert_same(actual, wanted)


def assert_bounded_errors(problem, operator, kind, dtype, layout):
    """Of "real" or "positive" numbers."""
    for actual, wanted, bound in zip(computed(problem, operator, kind, dtype, layout),
                                     expected(problem, operator, kind),
                                     bounds(problem, operator, kind, dtype), strict=True):
        assert_within(actual, wanted, bound)


def bounds(problem, operator, kind, dtype):
    """The allowed errors of y, dx, dw and db: so many rounding units of the same sums over absolute values."""
    sums = expected(problem, operator, "positive")
    if kind == "real":
        return [4 * UNIT[dtype] * scale for scale in sums]
    return [(2 + math.sqrt(n)) * UNIT[dtype] * scale
            for n, scale in zip(terms(problem, operator), sums, strict=True)]


def computed(problem, operator, kind, dtype, layout):
    """What the compiled functions give, canonical: y without activation, dx, dw, db."""
    x, w, b, dy = arranged(operands(problem, operator, kind), layout, problem.rank, dtype)
    options = problem.geometry() | {"layout": layout}
    if operator == "conv":
        options["algorithm"] = "direct"
    y = problem.function(convrnn, operator)(x, w, b, **options)
    dx, dw, db = problem.function(convrnn, operator, "_backward")(dy, x, w, **options)
    assert {a.dtype for a in (y, dx, dw, db)} == {np.dtype(dtype)}
    assert (dx.shape, dw.shape) == (x.shape, w.shape)
    return canonical(y, layout, problem.rank), canonical(dx, layout, problem.rank), canonical_kernel(dw, layout), db


def assert_gradients_of_differences(problem, operator, layout, eps=1e-6):
    """Along any direction v, <gradient, v> is the central difference of the loss <dy, y>, in float64."""
    *point, dy = arranged(operands(problem, operator, "real"), layout, problem.rank, np.float64)
    options = problem.geometry() | {"layout": layout}
    forward = problem.function(convrnn, operator)
    gradients = problem.function(convrnn, operator, "_backward")(dy, *point[:2], **options)
    rng = np.random.default_rng(5)
    for index, gradient in enumerate(gradients):
        if point[index] is None:
            continue
        direction = rng.standard_normal(point[index].shape)
        above, below = ([*point[:index], point[index] + step * direction, *point[index + 1:]] for step in (eps, -eps))
        change = np.vdot(dy, forward(*above, **options) - forward(*below, **options)) / (2 * eps)
        np.testing.assert_allclose(np.vdot(gradient, direction), change, rtol=1e-6,
                                   atol=1e-6 * np.linalg.norm(gradient))
