"""What must hold for convolution and pooling without knowing a single result: symmetry, locality, bits."""

import math

import numpy as np
import pytest
from arrangements import ARRANGEMENTS, repeated
from problems import arranged, canonical, canonical_kernel, kernel_laid_out, laid_out, operands, parse

import convrnn as cr
from convrnn import reference

OPERATORS = ("conv", "conv_transpose", "max_pool", "avg_pool")


def passes(problem, operator, arrays, layout, **more):
    """All results of one operator: y, dx and, where there are any, dw and db."""
    x, w, b, dy = arrays
    options = problem.geometry() | {"layout": layout} | more
    forward, backward = (problem.function(cr, operator, suffix) for suffix in ("", "_backward"))
    if operator == "max_pool":
        return forward(x, problem.kernel, **options), backward(dy, x, problem.kernel, **options)
    if operator == "avg_pool":
        return forward(x, problem.kernel, **options), backward(dy, x.shape, problem.kernel, **options)
    return forward(x, w, b, **options), *backward(dy, x, w, **options)


def random_arrays(text, operator, layout, dtype):
    problem = parse(text)
    return problem, arranged(operands(problem, operator, "real"), layout, problem.rank, dtype)


# ------------------------------------------------------------------------------------------------------- symmetry


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels, groups", [(3, 1), (16, 1), (6, 2), (17, 17)])
def test_translation(channels, groups, stride, isa, layout, dtype):
    """A moved image gives the moved result, bit for bit."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2, channels, 19, 40))
    w = kernel_laid_out(rng.standard_normal((channels, channels // groups, 3, 4)), layout, dtype)
    options = {"stride": stride, "groups": groups, "algorithm": "direct"}

    def convolved(image):
        y = cr.conv2d(laid_out(image, layout, 2, dtype), w, layout=layout, **options)
        return canonical(y, layout, 2)

    whole = convolved(x)
    for down, right in ((1, 0), (0, 1), (3, 5), (6, 17)):
        moved = convolved(x[:, :, down * stride:, right * stride:])
        assert np.array_equal(moved, whole[:, :, down:, right:])


@pytest.mark.parametrize("text", ["n2c3h7w6k4_3x2_s2x1_p1,0x0,2_d1x2", "n1c6w20k4_5_g2_p3", "n1c5h6w7k5_3x3_g5_s2_p1",
                                  "c2d3h4w5k3_2x3x2_flip", "n1c2h5w4k3_3x3_p6_reflect",
                                  "n1c2h5w4k3_3x3_p6_symmetric", "n1c2h5w4k3_3x3_p6_edge", "n1c2h5w4k3_3x3_p6_wrap",
                                  "n2c33h4w9k17_3x3_p1"])
def test_adjoint(text, isa, layout):
    """<dy, w * x> = <dx, x> = <dw, w>: convolution is linear in x and in w, and the gradients are its adjoints."""
    problem, (x, w, _, dy) = random_arrays(text, "conv", layout, np.float64)
    y, dx, dw, db = passes(problem, "conv", (x, w, None, dy), layout)
    scale = 1e-13 * np.vdot(np.abs(dy), np.abs(y))
    assert abs(np.vdot(dy, y) - np.vdot(dx, x)) <= scale
    assert abs(np.vdot(dy, y) - np.vdot(dw, w)) <= scale
    ones = np.ones_like(db)
    moved, *_ = passes(problem, "conv", (x, w, ones, dy), layout)
    np.testing.assert_allclose(db.sum(), np.vdot(dy, moved - y), rtol=1e-10)


@pytest.mark.parametrize("operator", ["conv", "conv_transpose", "avg_pool"])
def test_linearity(operator, isa, layout):
    text = {"conv": "n2c3h7w6k4_3x2_p1", "conv_transpose": "n2c3h7w6k4_3x2_s2_o0",
            "avg_pool": "n2c3h7w6_3x2_p1"}[operator]
    problem, (x, w, _, dy) = random_arrays(text, operator, layout, np.float64)
    other = np.cos(x)
    one, two, both = (passes(problem, operator, (image, w, None, dy), layout)[0]
                      for image in (x, other, 2 * x - 3 * other))
    np.testing.assert_allclose(both, 2 * one - 3 * two, rtol=1e-12, atol=1e-13)


# ------------------------------------------------------------------------------------------------------- locality

LOCAL = ["n2c2h5w6k3_3x2_s1x2_p1,0x2,1", "n1c4h5w5k4_3x3_g2_p1_d2", "n1c3h4w5k3_3x3_g3_p1_flip", "c2w17k5_3_s2_p2",
         "n1c2h4w5k2_2x3_p3_reflect", "n1c2d3h3w3k2_2x2x2_p1", "n1c2h4w4k2_2x2_s3"]


def reached(problem, index, dx_of=False):
    """Which outputs read the pixel x[index]; or, of dx, which pixels the output dy[index] goes to. All canonical."""
    x, w, _, dy = operands(problem, "conv", "real")
    options = problem.geometry() | {"layout": "channels_first"}
    mark = np.zeros(dy.shape if dx_of else x.shape)
    mark[index] = 1
    if dx_of:
        return reference.conv_backward(mark, x, np.ones(w.shape), **options)[0] > 0
    return reference.conv_forward(mark, np.ones(w.shape), **options) > 0


@pytest.mark.parametrize("value", [math.nan, math.inf, 7.5])
@pytest.mark.parametrize("text", LOCAL)
def test_pixel_reaches_its_windows_alone(text, value, isa, layout, dtype):
    """A pixel changes every output whose window holds it, and the bits of no other; the same of dy and dx."""
    problem, (x, w, b, dy) = random_arrays(text, "conv", layout, dtype)
    x, dy = x.copy(), dy.copy()
    y, dx, *_ = passes(problem, "conv", (x, w, b, dy), layout, algorithm="direct")
    rank = problem.rank
    options = problem.geometry() | {"layout": layout, "algorithm": "direct"}
    for array, before, dx_of in ((x, y, False), (dy, dx, True)):
        view = canonical(array, layout, rank)
        for index in list(np.ndindex(view.shape))[::3]:
            kept, view[index] = view[index], value
            if dx_of:
                after, _, _ = problem.function(cr, "conv", "_backward")(dy, x, w, needs=("x",), **options)
            else:
                after = problem.function(cr, "conv")(x, w, b, **options)
            view[index] = kept
            mask = reached(problem, index, dx_of)
            after, unmoved = canonical(after, layout, rank), canonical(before, layout, rank)
            assert np.array_equal(after[~mask], unmoved[~mask])
            assert (after[mask] != unmoved[mask]).all() if math.isfinite(value) else not np.isfinite(after[mask]).any()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("text", LOCAL)
def test_weight_reaches_its_channel_inside_the_image(text, value, isa, layout, dtype):
    """Zero padding is skipped: a NaN or infinite weight spoils the outputs that multiply it with a pixel, no other."""
    problem, (x, w, b, dy) = random_arrays(text, "conv", layout, dtype)
    w, rank = w.copy(), problem.rank
    before = canonical(passes(problem, "conv", (x, w, b, dy), layout, algorithm="direct")[0], layout, rank)
    view = canonical_kernel(w, layout)
    options = problem.geometry() | {"layout": "channels_first"}
    for index in list(np.ndindex(view.shape))[::5]:
        mark = np.zeros(view.shape)
        mark[index] = 1
        mask = reference.conv_forward(np.ones(canonical(x, layout, rank).shape), mark, **options) > 0
        kept, view[index] = view[index], value
        after = canonical(passes(problem, "conv", (x, w, b, dy), layout, algorithm="direct")[0], layout, rank)
        view[index] = kept
        assert np.array_equal(after[~mask], before[~mask])
        assert not np.isfinite(after[mask]).any()


@pytest.mark.parametrize("text", LOCAL)
def test_pixel_reaches_its_taps_alone(text, isa, layout, dtype):
    """A NaN in x spoils the elements of dw that multiply it with an output gradient, and the bits of no other."""
    problem, (x, w, _, dy) = random_arrays(text, "conv", layout, dtype)
    x, rank = x.copy(), problem.rank
    options = problem.geometry()

    def gradient():
        arrays, more = (dy, x, w), {"layout": layout, "algorithm": "direct"} | options
        return canonical_kernel(problem.function(cr, "conv", "_backward")(*arrays, needs=("w",), **more)[1], layout)

    before = gradient()
    view = canonical(x, layout, rank)
    ones, kernel = np.ones(canonical(dy, layout, rank).shape), canonical_kernel(w, layout)
    for index in list(np.ndindex(view.shape))[::5]:
        mark = np.zeros(view.shape)
        mark[index] = 1
        mask = reference.conv_backward(ones, mark, kernel, layout="channels_first", **options)[1] > 0
        kept, view[index] = view[index], math.nan
        after = gradient()
        view[index] = kept
        assert np.array_equal(after[~mask], before[~mask])
        assert np.isnan(after[mask]).all()


@pytest.mark.parametrize("C, groups", [(3, 1), (17, 17), (4, 4)])
def test_infinite_image_with_zero_padding(isa, layout, dtype, C, groups):
    """Padding is not multiplied: no infinity times zero, in either direction."""
    K = 17 if groups == 1 else groups
    x = laid_out(np.full((1, C, 6, 20), math.inf), layout, 2, dtype)
    dy = laid_out(np.full((1, K, 6, 20), math.inf), layout, 2, dtype)
    w = kernel_laid_out(np.full((K, C // groups, 3, 3), 0.5), layout, dtype)
    options = {"groups": groups, "layout": layout, "algorithm": "direct"}
    assert (cr.conv2d(x, w, padding=1, **options) == math.inf).all()
    dx, dw, db = cr.conv2d_backward(dy, x, w, padding=1, **options)
    assert (dx == math.inf).all() and (dw == math.inf).all() and (db == math.inf).all()
    infinite = np.full_like(w, math.inf)
    y = canonical(cr.conv2d(np.ones_like(x), infinite, padding=((9, 0), (0, 9)), **options), layout, 2)
    assert (y[:, :, :7] == 0).all() and (y[..., 20:] == 0).all() and (y[:, :, 7:, :20] == math.inf).all()


# ----------------------------------------------------------------------------------------------------------- bits

# large enough that work is shared out
LARGE = {
    "conv": ["n3c16h30w31k33_3x3_p1", "n1c8h120w40k24_3x3", "n2c64w500k8_5_s2", "n4c32h20w20k32_3x3_g32_p1",
             "n1c4d9h20w21k12_3x3x3_p1", "n2c12h25w24k10_3x3_g2_p4_wrap", "n64c3h9w9k5_3x3", "n1c200h5w5k210_3x3_p1",
             "n2c5h60w61k1_1x1", "n9c48h30w30k72_3x3_p1", "n2c40h50w50k40_5x5_g40_p2", "n2c3h90w80k32_5x5_s2_p2",
             "n1c80h30w20k300_1x1", "n1c100w90k500_3_g2", "n2c1h130w140k1_11x9_p5",
             "n1c3w9000k32_5_p2", "n1c40w3000k70_3_s2_d2"],
    "conv_transpose": ["n2c24h20w21k16_4x4_s2_p1_o0", "n3c16w300k16_5_s3_o2", "n2c32h20w20k32_3x3_g32_o0"],
    "max_pool": ["n4c32h40w41_3x3_s2_p1", "n2c64w3000_2"],
    "avg_pool": ["n4c32h40w41_3x3_s2_p1", "n2c64w3000_2"],
}


@pytest.mark.parametrize("operator, text", [(operator, text) for operator in OPERATORS for text in LARGE[operator]])
def test_thread_counts(operator, text, isa, layout):
    problem, arrays = random_arrays(text, operator, layout, np.float32)
    results = []
    for threads in (1, 2, 3, 4):
        with cr.num_threads(threads):
            results.append(passes(problem, operator, arrays, layout))
    for one, *others in zip(*results, strict=True):
        for other in others:
            assert np.array_equal(one, other)


@pytest.mark.parametrize("operator, text", [
    ("conv", "n5c3h7w6k4_3x2_p1"), ("conv", "n7c16h5w33k17_3x3"), ("conv", "n5c6w40k6_3_g6"),
    ("conv", "n9c2h5w5k3_3x3_p4_reflect"), ("conv", "n5c4d3h4w5k3_2x2x2_s2"), ("conv", "n33c7h1w1k5_1x1"),
    ("conv", "n4c33h24w40k50_3x3_p1"), ("conv", "n4c34h24w40k34_3x3_g34_p1"), ("conv", "n4c2h24w30k33_5x5_s2_p2"),
    ("conv_transpose", "n5c3h7w6k4_3x2_s2_o0"), ("max_pool", "n5c3h7w6_3x2_p1"), ("avg_pool", "n5c17h7w6_3x2_p1"),
])
def test_batch_composition(operator, text, isa, layout, dtype):
    """A row of a batch is what it would be alone, in any place, and without a batch axis; forward and dx."""
    problem, (x, w, b, dy) = random_arrays(text, operator, layout, dtype)
    y, dx, *_ = passes(problem, operator, (x, w, b, dy), layout)
    order = np.random.default_rng(1).permutation(problem.N)
    for rows in ([0], [problem.N - 1], [2, 3], order):
        part, dpart, *_ = passes(problem, operator, (x[rows], w, b, dy[rows]), layout)
        assert np.array_equal(part, y[rows])
        assert np.array_equal(dpart, dx[rows])
    alone, dalone, *_ = passes(problem, operator, (x[1], w, b, dy[1]), layout)
    assert np.array_equal(alone, y[1])
    assert np.array_equal(dalone, dx[1])


# ------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("operator, text", [
    ("conv", "n2c3h7w6k5_3x2_p1_d1x2"), ("conv", "n2c17w40k33_3_s2"), ("conv", "n2c5h5w6k5_3x3_g5_p1"),
    ("conv", "n1c4d3h4w5k6_2x2x2_g2_flip"), ("conv", "n2c3h5w4k2_3x3_p5_symmetric"),
    ("conv_transpose", "n2c3h5w6k4_3x2_s2_o0"), ("max_pool", "n2c3h7w6_3x2_p1"), ("avg_pool", "n2c3h7w6_3x2_p1"),
])
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_arrays_of_any_strides(arrangement, operator, text, isa, layout, dtype):
    """However an array lies in memory, the result is that of its contiguous copy, bit for bit, and it is unchanged."""
    problem, arrays = random_arrays(text, operator, layout, dtype)
    wanted = passes(problem, operator, arrays, layout)
    laid = [None if array is None else ARRANGEMENTS[arrangement](array) for array in arrays]
    for one, other in zip(passes(problem, operator, laid, layout), wanted, strict=True):
        assert np.array_equal(one, other)
    for array, kept in zip(laid, arrays, strict=True):
        assert array is None or np.array_equal(array, kept)


@pytest.mark.parametrize("operator, text", [("conv", "n2c3h7w6k5_3x2_p1"), ("conv", "n2c4w9k4_3_g4"),
                                            ("conv_transpose", "n2c3h5w6k4_3x2_s2_o0"),
                                            ("max_pool", "n2c3h7w6_3x2_p1"), ("avg_pool", "n2c3h7w6_3x2_p1")])
def test_broadcast_arrays(operator, text, isa, layout, dtype):
    """Strides of zero along every axis in turn, and along all of them."""
    problem, arrays = random_arrays(text, operator, layout, dtype)
    for axis in [*range(problem.rank + 2), None]:
        flat = [None if array is None else repeated(array, axis) for array in arrays]
        copies = [None if array is None else array.copy() for array in flat]
        for one, other in zip(passes(problem, operator, flat, layout), passes(problem, operator, copies, layout),
                              strict=True):
            assert np.array_equal(one, other)


def test_one_array_twice(isa, layout, dtype):
    """Operands may share memory, as long as none is written to."""
    array = np.random.default_rng(2).standard_normal((3, 3, 3, 3)).astype(dtype)
    copies = array.copy(), array.copy(), array.copy()
    for one, other in zip(cr.conv2d_backward(array, array, array, padding=1, layout=layout),
                          cr.conv2d_backward(*copies, padding=1, layout=layout), strict=True):
        assert np.array_equal(one, other)


# --------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("text", ["n2c3h7w6k5_3x2_p1", "n1c5w40k5_3_g5", "n1c17w20k33_3"])
def test_subnormals_are_kept(text, isa, layout, dtype):
    """Multiples of the smallest number add up like integers."""
    problem = parse(text)
    x, w, _, dy = operands(problem, "conv", "integers")
    tiny = float(np.finfo(dtype).smallest_subnormal)

    def results(x, dy):
        arrays = arranged((x, w, None, dy), layout, problem.rank, dtype)
        return passes(problem, "conv", arrays, layout, algorithm="direct")

    whole = results(x, dy)
    y, _, dw, _ = results(x * tiny, dy)
    _, dx, _, db = results(x, dy * tiny)
    for small, large in zip((y, dx, dw, db), whole, strict=True):
        assert np.array_equal(small, large * np.array(tiny, dtype))
        assert small.any()


def test_subnormals_in_every_thread(isa):
    """Workers do not flush them either."""
    tiny = np.finfo(np.float32).smallest_subnormal
    x, w = np.full((8, 64, 64, 8), tiny, np.float32), np.ones((3, 3, 8, 16), np.float32)
    with cr.num_threads(4):
        assert (cr.conv2d(x, w, algorithm="direct") == 72 * tiny).all()


def test_signed_zeros(isa, layout, dtype):
    """A sum begins at +0, so that no sum of zeros is -0; a maximum is one of its numbers, sign and all."""
    x = laid_out(np.full((1, 5, 4, 4), -0.0), layout, 2, dtype)
    w = kernel_laid_out(np.ones((5, 5, 2, 2)), layout, dtype)
    assert not np.signbit(cr.conv2d(x, w, padding=1, layout=layout, algorithm="direct")).any()
    assert np.signbit(cr.max_pool2d(x, 2, padding=1, layout=layout)).all()


def test_overflow_is_infinite(isa, layout, dtype):
    """Past the largest number comes infinity, and infinity minus infinity is NaN, without a warning."""
    x = laid_out(np.full((1, 2, 3, 20), np.finfo(dtype).max), layout, 2, dtype)
    w = kernel_laid_out(np.array([1, 1, 1, -1, -1, -1]).reshape(3, 2, 1, 1), layout, dtype)
    y = canonical(cr.conv2d(x, w, layout=layout, algorithm="direct"), layout, 2)
    for channel, value in enumerate((math.inf, 0.0, -math.inf)):
        np.testing.assert_array_equal(y[:, channel], np.full((1, 3, 20), value))
