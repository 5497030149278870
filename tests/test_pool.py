"""Maximum and average pooling, forward and backward, against the reference."""

import math

import numpy as np
import pytest
from problems import UNIT, arranged, assert_same, assert_within, canonical, expected, laid_out, operands, parse

import convrnn as cr
from convrnn import reference

SHAPES = [
    "n1c1w1_1", "n1c1h1w1_1x1", "c1h1w1_1x1", "n2c3w9_3", "c3w9_2_s1", "n2c3h7w6_2x2", "c3h7w6_3x2_s2x1_p1,2x0,1",
    "n1c5h9w8_3x3_s2_p1", "n1c2h4w5_4x5", "n2c3h5w7_2x3_s4x5", "n1c2w20_3_s7_p2", "n1c2h4w4_1x1_s3",
    "n1c2h6w6_4x4_s1_p3", "n1c2h3w3_3x3_p2", "n1c2h5w1_3x1_s1_p1,1x0,0", "n1c1h2w2_5x5_s1_p4,3x3,4", "n3c8h8w8_2x2",
    "n1c2h17w33_3x3_s2_p0,1x1,0", "n1c3w300_255_s9", "n0c3w9_3", "n0c3h7w6_2x2_p1", "n1c2h4w4_2x2_s1",
    "n2c3h8w9_4x2_s2",
]
SIZES = [1, 2, 5, 6, 7, 8, 13, 14, 15, 16, 17, 31, 32, 33, 64, 65]
SHAPES += [f"n1c{size}w7_3_s2_p1" for size in SIZES] + [f"n1c2w{size}_2_s1_p1" for size in SIZES]


def pooled(problem, operator, kind, dtype, layout):
    """y and dx, canonical."""
    rank, size = problem.rank, problem.kernel
    x, _, _, dy = arranged(operands(problem, operator, kind), layout, rank, dtype)
    options = problem.geometry() | {"layout": layout}
    y = problem.function(cr, operator)(x, size, **options)
    dx = problem.function(cr, operator, "_backward")(dy, x if operator == "max_pool" else x.shape, size, **options)
    assert y.dtype == dx.dtype == np.dtype(dtype)
    assert (y.shape, dx.shape) == (dy.shape, x.shape)
    return canonical(y, layout, rank), canonical(dx, layout, rank)


@pytest.mark.parametrize("text", SHAPES)
@pytest.mark.parametrize("kind", ["integers", "real"])
def test_max_pool(text, kind, isa, layout, dtype):
    """The maximum is exact; integers have ties, of which the first wins, and exact sums of gradients."""
    problem = parse(text)
    y, dx = pooled(problem, "max_pool", kind, dtype, layout)
    wanted_y, wanted_dx = expected(problem, "max_pool", kind)
    assert_same(y, wanted_y)
    if kind == "integers":
        assert_same(dx, wanted_dx)
    else:
        x, _, _, dy = operands(problem, "max_pool", kind)
        scale = reference.max_pool_backward(np.abs(dy), x, problem.kernel, layout="channels_first",
                                            **problem.geometry())
        assert_within(dx, wanted_dx, 4 * UNIT[dtype] * scale)


@pytest.mark.parametrize("text", SHAPES)
@pytest.mark.parametrize("kind", ["real", "positive", "integers"])
def test_avg_pool(text, kind, isa, layout, dtype):
    """Within the bound of a convolution and the rounding of 1/size; exact for integers and powers of two."""
    problem = parse(text)
    taps = math.prod(problem.kernel)
    units = {"real": 5, "positive": 3 + math.sqrt(taps)}
    for actual, wanted, scale in zip(pooled(problem, "avg_pool", kind, dtype, layout),
                                     expected(problem, "avg_pool", kind),
                                     expected(problem, "avg_pool", "positive"), strict=True):
        if kind != "integers":
            assert_within(actual, wanted, units[kind] * UNIT[dtype] * scale)
        elif taps & (taps - 1) == 0:
            assert_same(actual, wanted)


@pytest.mark.parametrize("text", ["n2c3h7w6_3x2_s2x1_p1,1x0,1", "n1c17w20_3_s2", "c2h6w6_2x2"])
def test_nan_and_infinity(text, isa, layout, dtype):
    """A NaN makes every window that holds it NaN and takes its gradient; -inf is a number like any other."""
    problem = parse(text)
    x, _, _, dy = (None if a is None else a.copy() for a in operands(problem, "max_pool", "integers"))
    x.flat[::7], x.flat[1::5], x.flat[2::11] = math.nan, -math.inf, math.inf
    options = problem.geometry()
    wanted = (reference.max_pool_forward(x, problem.kernel, layout="channels_first", **options),
              reference.max_pool_backward(dy, x, problem.kernel, layout="channels_first", **options))
    x, dy = (laid_out(a, layout, problem.rank, dtype) for a in (x, dy))
    y = problem.function(cr, "max_pool")(x, problem.kernel, layout=layout, **options)
    dx = problem.function(cr, "max_pool", "_backward")(dy, x, problem.kernel, layout=layout, **options)
    assert_same(canonical(y, layout, problem.rank), wanted[0])
    assert_same(canonical(dx, layout, problem.rank), wanted[1])


def test_first_maximum(isa, layout, dtype):
    """Of equal pixels the first in row-major order takes the gradient, also when all of them are -infinity or NaN."""
    for value in (0.0, 2.0, -math.inf, math.inf, math.nan):
        for channels in (1, 3, 16, 37):
            x = laid_out(np.full((2, channels, 4, 6), value), layout, 2, dtype)
            dy = laid_out(np.ones((2, channels, 2, 2)), layout, 2, dtype)
            dx = canonical(cr.max_pool2d_backward(dy, x, (2, 3), layout=layout), layout, 2)
            wanted = np.zeros((4, 6))
            wanted[::2, ::3] = 1
            assert_same(dx, np.broadcast_to(wanted, dx.shape))
            # windows that begin in the padding: the first pixel inside
            dx = canonical(cr.max_pool2d_backward(dy, x, (2, 3), padding=((1, 0), (1, 0)), layout=layout), layout, 2)
            wanted = np.zeros((4, 6))
            wanted[np.ix_([0, 1], [0, 2])] = 1
            assert_same(dx, np.broadcast_to(wanted, dx.shape))


def test_padding_is_minus_infinity(isa, layout, dtype):
    """Padding never wins, and counts as zeros in an average."""
    x = laid_out(np.full((1, 5, 3, 3), -7.0), layout, 2, dtype)
    assert (cr.max_pool2d(x, 2, stride=1, padding=1, layout=layout) == -7).all()
    average = canonical(cr.avg_pool2d(x, 2, stride=1, padding=1, layout=layout), layout, 2)
    assert_same(average[0, 4], np.outer([0.5, 1, 1, 0.5], [0.5, 1, 1, 0.5]) * -7)


@pytest.mark.parametrize("operator", ["max_pool", "avg_pool"])
def test_options(operator, isa, layout, dtype):
    """A stride of None is the size; one number stands for all axes."""
    for text, size in (("n2c3h9w8_2x2", 2), ("n2c3w9_3", 3)):
        problem = parse(text)
        x, _, _, _ = arranged(operands(problem, operator, "real"), layout, problem.rank, dtype)
        forward = problem.function(cr, operator)
        y = forward(x, size, layout=layout)
        for options in ({"stride": None}, {"stride": size}, {"stride": problem.kernel, "padding": 0}):
            assert np.array_equal(forward(x, problem.kernel, layout=layout, **options), y)


@pytest.mark.parametrize("text", ["n2c3h7w6_3x2_s2x1_p1,2x0,1", "n1c5w20_3_s2", "c2h6w6_2x2"])
@pytest.mark.parametrize("operator", ["max_pool", "avg_pool"])
def test_gradients_by_differences(operator, text, isa, layout):
    """Away from ties both are linear in x along a short line."""
    problem = parse(text)
    x, _, _, dy = arranged(operands(problem, operator, "real"), layout, problem.rank, np.float64)
    options = problem.geometry() | {"layout": layout}
    forward, backward = (problem.function(cr, operator, suffix) for suffix in ("", "_backward"))
    dx = backward(dy, x if operator == "max_pool" else x.shape, problem.kernel, **options)
    direction = np.random.default_rng(5).standard_normal(x.shape)
    above, below = (forward(x + step * direction, problem.kernel, **options) for step in (1e-6, -1e-6))
    np.testing.assert_allclose(np.vdot(dx, direction), np.vdot(dy, above - below) / 2e-6, rtol=1e-6,
                               atol=1e-6 * np.linalg.norm(dx))
