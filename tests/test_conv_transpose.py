"""Transposed convolution, forward and backward, against the reference."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from problems import (Problem, arranged, assert_bounded_errors, assert_exact_results, assert_gradients_of_differences,
                      operands, parse)

import convrnn as cr

SHAPES = [
    "n1c1w1k1_1_o0", "n1c1h1w1k1_1x1_o0", "n1c1d1h1w1k1_1x1x1_o0", "c1h1w1k3_3x3_o0", "n1c2h1w1k3_5x4_s3_p1_o2",
    "n2c3w9k4_3_o0", "c3w9k4_3_s2_o1", "n2c3h5w6k4_3x2_o0", "c3h5w6k4_3x2_s2x1_p1,0x0,1_o1x0",
    "n2c3d2h3w4k4_2x3x2_o0", "c3d2h3w4k4_2x3x2_s2_p1,0x1,1x0,0_o1x0x1", "n1c4h5w4k6_3x3_s3x2_p2,1x1,1_d2_o2x1",
    "n2c3h5w4k2_2x2_s4_o3", "n1c2w6k3_2_d4_o3", "n1c2w6k3_2_s3_d4_o3", "n1c2w6k3_4_p3_o0", "n1c2w6k3_1_s5_o4",
    "n1c2h4w6k3_1x1_s2_p1_o1", "n1c16h7w7k8_4x4_s2_p1_o0", "n2c4h5w4k6_3x3_s2_p1_g2_o1", "n1c5h4w7k5_3x3_s2_g5_o0",
    "n1c3w9k12_5_g3_s2_p2_o1", "n1c17w9k17_3_g17_o0", "n2c4d2h3w3k4_2x2x2_g4_o0", "n1c34h3w4k34_2x3_g17_o0x0",
    "n2c3h5w6k4_3x2_s2_o1_nobias", "n1c1024w1k2_1_o0", "n40c1h9w9k1_3x3_s1_o0", "n0c3w9k4_3_s2_o1",
    "n0c4h5w4k6_3x3_g2_o0",
    # depthwise with a stride of 2: vectors of channels, the last of them twice; padding of either parity
    "n2c17h4w5k17_3x3_s2_p1_g17_o1", "n1c33h3w6k33_5x5_s2_p2,1x1,0_g33_o0x1", "n1c18h5w4k18_7x7_s2_p3_g18_o0",
    "n1c16h4w9k16_3x3_s2_g16_o0_nobias", "n1c16d2h3w4k16_1x5x5_s1x2x2_p0x4x3_g16_o0",
]
SIZES = [1, 2, 5, 6, 7, 8, 13, 14, 15, 16, 17, 31, 32, 33, 64, 65]
SHAPES += [f"n1c2w5k{size}_3_s2_o0" for size in SIZES]
SHAPES += [f"n1c{size}w5k2_3_s2_o0" for size in SIZES]
SHAPES += [f"n1c2w{size}k3_3_s2_p1_o1" for size in SIZES]


@pytest.mark.parametrize("text", SHAPES)
def test_integers_are_exact(text, isa, layout, dtype):
    assert_exact_results(parse(text), "conv_transpose", dtype, layout)


@pytest.mark.parametrize("kind", ["real", "positive"])
@pytest.mark.parametrize("text", SHAPES)
def test_rounding_errors(text, kind, isa, layout, dtype):
    assert_bounded_errors(parse(text), "conv_transpose", kind, dtype, layout)


@pytest.mark.parametrize("text", ["n2c3h5w6k4_3x2_s2x1_p1,0x0,1_o1x0", "n1c4w6k6_3_g2_s2_d3_o2",
                                  "c2d2h3w3k3_2x2x2_s2_o1", "n1c5h4w5k5_3x3_s2_g5_o1", "n1c2w6k3_4_p3_o0_nobias"])
def test_gradients_by_differences(text, isa, layout):
    assert_gradients_of_differences(parse(text), "conv_transpose", layout)


@pytest.mark.parametrize("text", ["n2c3w9k4_3_p1", "c3w9k4_3_s2_d2", "n2c3h7w6k4_3x2_s2x1_p1,0x0,2",
                                  "n1c4h5w6k8_3x3_g2_s2_p1", "n1c5h5w7k5_3x3_g5_s2_p2", "n2c2d3h4w5k3_2x2x2_s2"])
def test_is_backward_data(text, isa, layout, dtype):
    """Bit for bit the input gradient of the convolution with the same w, where output_padding restores its image."""
    problem = parse(text)
    x, w, _, dy = arranged(operands(problem, "conv", "real"), layout, problem.rank, dtype)
    options = problem.geometry() | {"layout": layout}
    dx, _, _ = problem.function(cr, "conv", "_backward")(dy, x, w, needs=("x",), algorithm="direct", **options)
    ones = (1,) * problem.rank
    pads = ((0, 0),) * problem.rank if problem.padding == "valid" else problem.padding
    rest = tuple((size + low + high - d * (k - 1) - 1) % s for size, (low, high), k, s, d in
                 zip(problem.image, pads, problem.kernel, problem.stride or ones, problem.dilation or ones,
                     strict=True))
    assert np.array_equal(problem.function(cr, "conv_transpose")(dy, w, output_padding=rest, **options), dx)


@pytest.mark.parametrize("text", ["n2c3h5w6k4_3x2_s2x1_o1x0", "c3w9k4_3_o0", "n1c4h5w4k4_3x3_g4_o0", "n0c3w9k4_3_o0"])
def test_needs_and_out(text, isa, layout):
    problem = parse(text)
    x, w, b, dy = arranged(operands(problem, "conv_transpose", "real"), layout, problem.rank, np.float32)
    options = problem.geometry() | {"layout": layout}
    forward, backward = (problem.function(cr, "conv_transpose", suffix) for suffix in ("", "_backward"))
    out = np.full(dy.shape, np.nan, np.float32)
    assert forward(x, w, b, out=out, **options) is out
    assert np.array_equal(out, forward(x, w, b, **options))
    everything = backward(dy, x, w, **options)
    for needs in ((), ("x",), ("w",), ("b",), ("w", "x"), ("b", "x"), ("w", "b")):
        for name, gradient, whole in zip("xwb", backward(dy, x, w, needs=needs, **options), everything, strict=True):
            assert (gradient is None) == (name not in needs)
            if name in needs:
                assert np.array_equal(gradient, whole)


@st.composite
def transposed_convolutions(draw):
    rank = draw(st.integers(1, 3))

    def axes(low, high):
        return tuple(draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank)))

    image, kernel = axes(1, (20, 6, 3)[rank - 1]), axes(1, (9, 4, 3)[rank - 1])
    stride, dilation = axes(1, 4), axes(1, 3)
    extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation))
    padding = []
    for size, k, s, d, more in zip(image, kernel, stride, dilation, extra):
        room = (size - 1) * s + d * (k - 1) + more  # one pixel stays
        low = draw(st.integers(0, min(room, 6)))
        padding.append((low, draw(st.integers(0, min(room - low, 6)))))
    groups = draw(st.sampled_from([1, 1, 2, 3, 5]))
    most = max(1, 6 // groups)
    return Problem(draw(st.sampled_from([None, 0, 1, 1, 2])), groups * draw(st.integers(1, most)), image,
                   groups * draw(st.integers(1, most)), kernel, stride, tuple(padding), dilation, groups, extra,
                   bias=draw(st.booleans()))


def small(problem):
    work = math.prod(problem.image) * (problem.N or 1) * problem.C * problem.K // problem.groups
    return work * math.prod(problem.kernel) < 20000


@given(problem=transposed_convolutions().filter(small))
@settings(max_examples=200, derandomize=True, deadline=None, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much])
def test_random_problems(isa, layout, dtype, problem):
    assert parse(str(problem)) == problem
    assert_exact_results(problem, "conv_transpose", dtype, layout)
