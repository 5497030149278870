"""Convolution, forward and backward, against the reference: every shape, option, layout, dtype, instruction set."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from problems import (ACTIVATIONS, LAYOUTS, PADDING_MODES, UNIT, Problem, arranged, assert_bounded_errors,
                      assert_exact_results, assert_gradients_of_differences, assert_same, assert_within, bounds,
                      canonical, expected, operands, parse)

import convrnn as cr
from convrnn import _core, conv, reference

SIZES = [1, 2, 5, 6, 7, 8, 13, 14, 15, 16, 17, 31, 32, 33, 64, 65]  # about the tiles of all instruction sets

SHAPES = [
    # one pixel, one tap, kernels as large as the image or its padding allows, strides past the kernel
    "n1c1w1k1_1", "n1c1h1w1k1_1x1", "n1c1d1h1w1k1_1x1x1", "c1h1w1k1_1x1", "n2c3h1w1k5_3x3_p1",
    "n1c2h1w1k3_5x1_p2,2x0,0", "n2c3h4w5k3_4x5", "n1c2h4w5k3_6x7_p1", "n2c1h3w3k2_5x5_p2,0x0,2", "n2c3h9w10k5_2x2_s5",
    "n1c2w20k3_3_s7", "n1c4h7w5k3_1x1_s2x3", "n2c3h9w8k5_1x1_p1", "n1c2h3w9k3_1x1_s4_p2,1x5,0",
    # ranks, with and without a batch axis
    "n2c3w19k4_3", "c3w19k4_3", "n2c3h7w6k4_3x2", "c3h7w6k4_3x2", "n2c3d4h3w5k4_2x3x2", "c3d4h3w5k4_2x3x2_p1",
    "n1c5d5h4w3k7_3x3x3_s2x1x2_p1,0x0,1x2,2_d1x2x1", "c2d2h2w9k3_1x2x5_p0,0x1,1x2,2", "n3c1w40k1_7_p3",
    # strides, dilation, asymmetric padding, also past the image
    "n2c3h9w8k5_3x2_s2x1_p1,0x0,2_d1x2", "n1c4h11w13k6_3x3_s3x2_p2", "n1c3h12w11k4_2x3_d4x3",
    "n1c2h5w6k3_3x3_p4,5x6,7", "n1c2w3k4_2_p9,0", "n1c2w3k4_2_p0,9_s4", "n1c3w23k5_4_s3_d5_p7,8",
    "n2c2h8w8k3_2x2_s2_d3_p3,1x1,3", "n1c7h10w6k11_5x5_p2", "n1c6h14w14k10_3x3_p1", "n1c16h8w17k16_3x3_p1",
    "n1c13h5w29k17_3x3", "n1c3h17w3k2_7x1_s2x1_p3,3x0,0", "n1c3h24w5k2_5x2_s4",
    # groups: two, some, depthwise, depthwise with a multiplier
    "n2c4h6w7k6_3x3_g2_p1", "n1c6w13k9_3_g3_s2", "n2c5h6w7k5_3x3_g5_p1", "n1c3h6w7k12_3x3_g3_s2x1",
    "n1c17h5w6k17_3x3_g17_p1_d2", "n1c33w21k33_5_g33_p2", "n1c4d3h4w5k4_2x2x2_g4", "n1c34h4w5k34_2x3_g17",
    "n1c65w9k65_3_g65_p2_edge", "n1c4h9w9k8_3x3_g4_s2_psame", "n2c8h3w5k4_1x1_g4", "n1c16w18k32_3_g2",
    "n1c19h7w8k38_3x3_g19_p1_flip", "n3c16h4w4k16_4x4_g16_p2",
    # depthwise rows longer than a tile, kernels of few and many taps, vectors of channels that are not full
    "n1c20h4w33k20_3x3_g20_p1", "n2c40h5w17k40_2x7_g40_p3", "n1c36h3w24k36_3x5_g36_p2_d2",
    "n2c100h4w9k100_3x3_g100_p1", "n1c70h5w8k70_2x2_g70_s2",
    # narrow groups: vectors across them, of several outputs or inputs a group, of three and of five that leave columns
    "n2c36h6w7k36_3x3_g9_p1", "n1c24h5w6k72_3x2_g24_s2x1_p1", "n1c72w11k24_3_g24_p1_d2", "n1c33h4w9k33_1x3_g11_flip",
    "c40h4w5k40_1x1_g20", "n1c50h5w4k50_3x3_g10_p2,0x1_nobias", "n1c36d2h3w4k36_2x2x2_g9", "n1c36w7k36_3_g9_p1_edge",
    "n1c130h3w5k26_2x2_g13_p1",
    # padding modes, at the image's edge and far past it
    "n2c3h5w6k4_3x3_p1_reflect", "n2c3h5w6k4_3x3_p1_symmetric", "n2c3h5w6k4_3x3_p1_edge", "n2c3h5w6k4_3x3_p1_wrap",
    "n1c2h3w4k2_3x3_p7,9x9,8_reflect", "n1c2h3w4k2_3x3_p7,9x9,8_symmetric", "n1c2h3w4k2_3x3_p7,9x9,8_edge",
    "n1c2h3w4k2_3x3_p7,9x9,8_wrap", "n1c2h1w1k2_3x3_p2_reflect", "n1c2h1w2k2_3x3_p2_symmetric",
    "n1c2h1w1k2_3x3_p2_edge", "n1c2h1w1k2_3x3_p2_wrap", "n1c3w9k4_4_s2_d2_p5,3_reflect",
    "c2d3h2w3k2_2x2x2_p1,2x2,1x0,3_wrap", "n1c4w8k4_3_g4_p2_wrap", "n2c3h5w6k4_3x3_psame_s2_reflect_flip",
    "n1c4h5w7k6_3x2_g2_s2_p3,2x1,4_symmetric",
    # named paddings, flipped kernels, no bias
    "n2c3h7w6k4_3x2_pvalid", "n2c3h7w6k4_3x2_psame", "n2c3h7w6k4_4x2_psame_s2x3", "n2c3h7w6k4_4x2_psame-lower_s2x3",
    "n1c3h8w9k2_2x3_psame_s3_d2", "n1c3h8w9k2_2x4_psame-lower_d2", "n1c2h4w5k3_3x2_pfull", "n1c2w9k3_3_pfull_s2_d2",
    "n2c3w11k2_4_pcausal", "n2c3w11k2_4_pcausal_d3_s2", "n2c3w11k2_4_flip", "n2c3h7w6k4_3x2_s2x1_p1,0x0,2_flip",
    "c2d3h4w5k3_2x3x2_flip", "n1c2h4w5k3_3x2_pfull_flip", "n2c3h7w6k4_3x2_nobias",
    # long sums
    "n1c2048w1k2_1", "n1c1w9000k1_9000", "n1c1w20000k1_1", "n1c300h3w3k2_3x3", "n1c1h97w103k1_1x1", "n1c2w40k600_1",
    "n40c1h9w9k1_3x3",
    # more channels, taps and readers of one pixel than are taken at a time
    "n1c1100w3k17_2_p1", "n1c1100w3k2_2", "n1c1h70w70k9_70x70_p0,1x0,0", "n1c2w3k3_3_p1500_edge",
    "n1c1h2w2k5_2x2_p0x900_edge", "n1c1w2k1_2_p2500_wrap",
    # rows of x that are copied band by band, for all three kinds of tile
    "n1c17h24w90k17_3x3_g17_p1", "n1c18h40w60k18_3x3_g18_s2_p2,0x1,3", "n2c2h30w50k48_3x3_p1",
    "n1c3h41w60k33_5x5_s2_p2,1x2,0_d1x2", "n1c20h9w14k16_3x3_p1", "n1c33h9w10k40_2x2_s2x1",
    "n1c17h14w200k17_11x1_g17_s2",
    # panels of dy, packed in batches, and chunks of x under them
    "n1c60w6k300_1", "n1c560w2k150_1", "n1c120w4k300_1_g2", "n1c36h3w3k150_2x2", "n2c20h2w70k70_1x2",
    # small kernels, lines summed in segments
    "n2c2h61w20k3_3x3_p1", "n2c10h40w50k10_1x3_g10_s1x2", "n30c1d3h5w9k20_2x3x3", "n700c1h1w1k20_1x1",
    # a narrow dw: channels of dy as rows of a product, those of x as vectors
    "n2c40h6w7k3_3x3_p1", "n1c70w9k20_3_s2_d2_p3", "n2c64h4w5k16_2x3_g2_p1x0,1", "n1c40h4w5k3_3x2_p2_reflect",
    "n1c36h3w4k2_1x1_p1,0x0,2", "n2c20d2h3w4k1_2x2x3_p1", "n0c40w5k2_3",
    # one channel, pixels as vectors
    "n2c1d3h5w40k1_2x3x5_p1_d1x2x2", "n1c1h6w70k1_3x16_p2_wrap", "n2c1h40w41k1_2x2_s3x1", "n1c1h3w700k1_1x30_p29",
    # tiles that go through the images, of which there are more than pixels of one; and where a phase of stride has few
    "n19c5h2w3k34_3x3_p1", "n30c6h3w2k7_2x2_s2_pfull", "n17c4d1h2w2k3_1x2x2_p1_wrap", "n9c20h3w2k20_3x3_g20_p1",
    "n31c3h5w4k40_2x2_p1,0", "n18c9h1w1k140_1x1", "n16c6h6w5k5_5x5",
    # two and three rows of long vectors
    "n1c3h2w150k2_3x3_p1", "n1c5h3w149k3_2x3", "n2c2h2w90k40_3x3_p1", "n1c40h2w70k3_2x2", "n1c3w160k2_1",
    # channels that lie a power of two apart; chunks of taps of which a phase sees none
    "n2c14h16w16k3_3x3_p1", "n1c3h32w16k20_3x3_s1x2_p1,1x0,1", "n1c2h24w23k96_11x11_s4",
    # few channels and taps as rows of dw, from a copy of x that several panels read, slice by slice, block by block
    "n2c3d4h5w6k70_2x3x3_p1", "n2c4h9w9k34_3x3_g2_p1", "n1c12h5w9k21_2x5_g3_s2_p2",
    # few pixels, and more channels of y than a panel has
    "n1c5h2w2k300_3x3_p1", "n1c300h1w3k130_1x3_p1", "n1c4h3w3k140_3x3_p2_g2", "n1c3h1w1k160_3x3_p1",
    # volumes copied in whole, slice by slice, and in rows of slices; tall images, of which rows of y stay rows
    "n3c17d4h5w6k3_2x3x3_p1",
    "n2c18d3h21w20k18_2x3x3_g18_p1,0", "n1c40d3h4w19k33_1x3x3_s3", "n2c9h50w6k9_3x3_g9_p1",
    # results by pixels, with the gaps of phases, by way of a copy: rows, images, segments
    "n2c33h20w31k33_3x3_s2_g33_p1", "n40c17h5w4k17_3x3_g17_p1",
    "n3c5h30w30k5_5x5_g5_p2,1",
    # narrow groups, spread from either layout, or by pixels
    "n2c12h9w20k8_3x3_g4_p1", "n1c36h5w90k3_1x2_g3", "n1c24w300k6_3_g6_p1", "n2c34h6w7k51_3x2_g17_s2_p1",
    # pointwise, x and dy changing places in dw
    "n2c40h5w6k60_1x1", "n3c150w1k130_1", "n9c34h4w3k35_1x1",
    # panels of small depthwise images that take turns in a rectangle, in copies of several
    "n1c150h7w6k150_5x5_g150_p2", "n2c70h3w4k70_3x3_s2_g70_p1",
    # one pixel or one channel of y: squares transposed in registers
    "n1c50w1k70_1", "n1c80h1w1k66_1x1_g2", "n2c37h5w7k1_1x1_p1", "n1c66h4w9k2_1x1_s2_g2",
    "n1c3w1k50_1_p0,1_reflect", "n1c1h4w5k40_1x1_p1_wrap",
    # depthwise planes: rows of a vector more or less, padding wider than a vector and dilations past the image, slices,
    # planes of which some are left
    "n2c3h6w40k3_3x3_g3_p1", "n1c5h9w70k5_5x5_g5_p2,0x1,3_d1x2", "n1c2h3w20k2_3x3_g2_p20,1",
    "n1c4h2w9k4_3x3_g4_p9_d7", "n2c7d3h5w17k7_1x3x3_g7_p0,0x1,1x1,1", "n1c1h20w33k1_3x3_p1_d3",
    "n1c3h4w16k3_5x5_g3_pfull", "n1c9h1w30k9_3x3_g9_p1x18,20", "n1c3h5w20k3_7x7_g3_p3",
    # depthwise vectors of channels, from strips at both borders on, the last of them twice; strides; few channels mixed
    "n2c16h9w11k16_3x3_g16_p1", "n1c37h8w13k37_5x5_g37_p3,1x0,2_s2", "n1c17h6w6k17_7x7_g17_p4_d2x1",
    "n1c33h7w9k33_3x3_g33_s2_p1,0x0,1", "n2c18h5w12k18_3x3_g18_p0x5_s2_d2x3", "n1c16h13w7k16_7x7_g16_s2_p2",
    "n1c20d2h4w7k20_1x3x3_g20_s1x2x2_p0x1x1", "n1c16h1w1k16_3x3_g16_p1", "n1c16h2w3k16_5x5_g16_p9_s2",
    "n2c2h6w9k2_3x3_g2_p1", "n1c7h5w8k7_5x5_g7_p2,0x0,3_d1x2", "n1c8h4w1k8_3x3_g8_p1", "n1c6h9w12k6_7x7_g6_p3_nobias",
    # no images
    "n0c3w9k4_3", "n0c1w40k1_3", "n0c3h7w6k4_3x2_s2_p1", "n0c4h7w6k4_3x2_g4_p1_wrap",
]
SHAPES += [f"n1c2w7k{size}_3" for size in SIZES]
SHAPES += [f"n1c{size}w7k2_3" for size in SIZES]
SHAPES += [f"n2c2w{size + 2}k3_3" for size in SIZES]
SHAPES += [f"n1c2h{height}w{width}k9_1x1" for height, width in ((7, 2), (3, 14), (5, 13), (2, 64))]
SHAPES += [f"n2c1h3w{size}k1_2x3_p1" for size in SIZES]
SHAPES += [f"n1c{size}w5k{size}_2_g{size}" for size in SIZES]


# Rows of y that are cut into segments, in whole and in copied rows of x, channels of 1x1 kernels that are packed or
# not, chunks of weights that take turns in a band, out-channels of dw side by side, and rows of x that share a cache
# set: too many sums for bounds that hold by chance.
MANY_SUMS = ["n1c32w2500k3_3_p1", "n1c70w1100k40_5_p2", "n1c40w700k2_4_s2_p1", "n1c9h3w2100k20_2x3_p1_s1x3",
             "n1c24w1900k24_9_g24_p4", "n1c1w40000k20_3_s2", "n1c1w300k20_64_p63",
             "n3c33w600k5_2", "n1c3h30w40k70_3x3_p1", "n2c6h9w70k66_3x3_g2_p1", "n1c16h40w70k33_3x3_s2x3_p1",
             "n1c20w3000k20_4_s3_g20", "n1c20d6h17w15k3_3x3x3_p1_s2x1x1", "n1c33d5h40w18k16_3x2x2_p1_d2x1x1",
             "n2c130h20w20k66_1x1", "n2c200h16w20k200_1x1", "n1c40h30w30k140_1x1_s2", "n1c70h12w40k3_9x9_p4",
             "n1c20h30w20k34_5x5_p2", "n1c1024w30k40_1", "n1c2h300w260k2_3x3_g2_p1",
             "n1c70h9w20k70_3x3_g70_p1", "n1c6h11w52k6_7x7_g6_p3", "n1c40h40w30k40_3x3_g40_s2_p1",
             "n1c5h30w40k5_5x5_g5_p2"]


@pytest.mark.parametrize("text", SHAPES + MANY_SUMS)
def test_integers_are_exact(text, isa, layout, dtype):
    assert_exact_results(parse(text), "conv", dtype, layout)


@pytest.mark.parametrize("kind", ["real", "positive"])
@pytest.mark.parametrize("text", SHAPES)
def test_rounding_errors(text, kind, isa, layout, dtype):
    assert_bounded_errors(parse(text), "conv", kind, dtype, layout)


@pytest.mark.parametrize("text", ["n2c3h7w6k5_3x2_p1", "n1c5w33k17_3", "c2d2h4w5k3_2x2x2_flip", "n1c6h5w7k6_3x3_g6_p1",
                                  "n2c4h6w5k9_2x2_g1_s2_nobias", "n1c3h4w17k2_3x3_p3_wrap", "n0c3h7w6k5_3x2"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_fused_activation(text, name, isa, layout, dtype):
    """Applied to the rounded sum, as a function of its own would be; the slopes of all three are at most one."""
    problem = parse(f"{text}_{name}")
    options = problem.geometry() | {"layout": layout, "algorithm": "direct"}
    for kind in ("integers", "real"):
        x, w, b, _ = arranged(operands(problem, "conv", kind), layout, problem.rank, dtype)
        y = canonical(problem.function(cr, "conv")(x, w, b, activation=name, **options), layout, problem.rank)
        sums = expected(problem, "conv", kind)[0]
        if kind == "integers":
            assert_same(y, _core.map(name, sums.astype(dtype).ravel()).reshape(sums.shape))
        wanted = np.reshape([reference.ACTIVATIONS[name](value) for value in sums.ravel()], sums.shape)
        rounding = 0 if kind == "integers" else bounds(problem, "conv", kind, dtype)[0]
        assert_within(y, wanted, rounding + 4 * UNIT[dtype] * np.abs(wanted) + np.finfo(dtype).smallest_subnormal)


@pytest.mark.parametrize("text", [
    "n2c3h7w6k4_3x2_s2x1_p1,0x0,2", "n1c4w17k6_3_g2_d2_flip", "n1c5h6w6k5_3x3_g5_p1", "c2d3h4w5k3_2x2x2_p1",
    "n2c2h5w5k3_3x3_p6_reflect", "n1c2h5w4k3_3x3_p5_edge_s2", "n1c2h5w4k3_3x3_p5_wrap", "n1c2h5w4k3_2x3_p4_symmetric",
    "n2c3h5w6k2_3x3_psame_s2", "n1c17h4w9k33_3x3",
])
def test_gradients_by_differences(text, isa, layout):
    """Along any direction v, <gradient, v> is the central difference of the loss <dy, y>, in float64."""
    problem = parse(text)
    assert_gradients_of_differences(problem, "conv", layout)


@pytest.mark.parametrize("text", ["n2c3h7w6k4_3x2_p1", "c5w9k3_3_flip", "n1c4h5w6k4_3x3_g4", "n1c2d3h4w5k3_2x2x2",
                                  "n0c3h7w6k4_3x2", "n1c2h3w3k2_3x3_p4_wrap"])
def test_needs(text, isa, layout):
    """What is not needed is None, and what is needed does not change."""
    problem = parse(text)
    x, w, _, dy = arranged(operands(problem, "conv", "real"), layout, problem.rank, np.float32)
    backward, options = problem.function(cr, "conv", "_backward"), problem.geometry() | {"layout": layout}
    everything = backward(dy, x, w, **options)
    for needs in ((), ("x",), ("w",), ("b",), ("w", "x"), ["b", "x"], ("w", "b"), ("b", "w", "x")):
        for name, gradient, whole in zip("xwb", backward(dy, x, w, needs=needs, **options), everything, strict=True):
            assert (gradient is None) == (name not in needs)
            if name in needs:
                assert np.array_equal(gradient, whole)


@pytest.mark.parametrize("text", ["n2c3h7w6k4_3x2_p1", "c5w9k3_3_flip", "n1c4h5w6k4_3x3_g4",
                                  "n1c2d3h4w5k3_2x2x2_relu", "n0c3h7w6k4_3x2", "n1c17w40k33_3"])
def test_out(text, isa, layout, dtype):
    """`out` is what is returned, every element of it is written, and nothing beside it."""
    problem = parse(text)
    x, w, b, _ = arranged(operands(problem, "conv", "real"), layout, problem.rank, dtype)
    options = problem.geometry() | {"layout": layout, "activation": problem.activation}
    y = problem.function(cr, "conv")(x, w, b, **options)
    around = np.full(y.size + 64, np.nan, dtype)
    out = around[32:32 + y.size].reshape(y.shape)
    assert problem.function(cr, "conv")(x, w, b, out=out, **options) is out
    assert np.array_equal(out, y)
    assert np.isnan(around[:32]).all() and np.isnan(around[32 + y.size:]).all()


def frozen_options(problem, layout):
    """The options of FrozenConv."""
    options = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "padding_mode": "constant"}
    options |= problem.geometry() | {"layout": layout}
    options.pop("flip", None)
    return options


@pytest.mark.parametrize("text", SHAPES)
def test_prepared_weights(text, isa, dtype):
    """Bit for bit what the plain call gives. What was prepared in one layout serves the other."""
    problem, prepared = parse(text), {}
    for layout in LAYOUTS:
        x, w, b, _ = arranged(operands(problem, "conv", "real"), layout, problem.rank, dtype)
        options = frozen_options(problem, layout)
        frozen = conv.FrozenConv(problem.rank, w, b, **options)
        frozen._weights = prepared
        y = problem.function(cr, "conv")(x, w, b, activation=problem.activation, **options)
        for _ in range(2):  # the second call keeps what the first has made
            assert np.array_equal(frozen(x, problem.activation), y)
    (weights,) = prepared.values()
    assert weights.ctypes.data % 64 == 0


@pytest.mark.parametrize("text", ["n2c3h9w8k5_3x2_s2x1_p1", "n1c40h9w8k48_5x3", "n2c33h9w8k33_3x3_g33_p1",
                                  "n1c70h9w20k70_5x5_g70_p2",
                                  "n1c8h9w8k12_1x1_g4", "n1c1100w9k17_3_p1", "n1c2w9k3_3_p1500_edge"])
def test_prepared_weights_serve_all_images(text, isa, layout, dtype):
    """Any number of any size."""
    problem = parse(text)
    _, w, b, _ = arranged(operands(problem, "conv", "real"), layout, problem.rank, dtype)
    options = frozen_options(problem, layout)
    frozen = conv.FrozenConv(problem.rank, w, b, **options)
    for N, sizes in ((2, (9, 8)), (1, (60, 70)), (3, (5, 200)), (0, (9, 9)), (1, (6, 3))):
        size = sizes[:problem.rank]
        shape = (N, *size, problem.C) if layout == "channels_last" else (N, problem.C, *size)
        x = np.random.default_rng(N).standard_normal(shape).astype(dtype)
        y = problem.function(cr, "conv")(x, w, b, activation=problem.activation, **options)
        assert np.array_equal(frozen(x, problem.activation), y)
    assert len(frozen._weights) == 1


def test_a_frozen_convolution_follows_the_instruction_set():
    """What was prepared for one is not read by another, and a copy prepares anew."""
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 9, 9, 5), (3, 3, 5, 33), (33,)))
    frozen = conv.FrozenConv(2, w, b, **frozen_options(parse("n2c5h9w9k33_3x3"), "channels_last"))
    best = _core.isa()
    try:
        for name in [*_core.available_isas(), *_core.available_isas()]:
            _core.set_isa(name)
            copied = pickle.loads(pickle.dumps(frozen))
            assert copied._last == (None, None, None) and not copied._weights
            assert np.array_equal(frozen(x), cr.conv2d(x, w, b))
            assert np.array_equal(copied(x), cr.conv2d(x, w, b))
    finally:
        _core.set_isa(best)


@pytest.mark.parametrize("options", [
    {"stride": (1, 1)}, {"stride": np.int64(1)}, {"dilation": [1, 1]}, {"groups": np.int8(1)}, {"padding": "valid"},
    {"padding": ((0, 0), (0, 0))}, {"flip": np.False_}, {"b": np.zeros(12)[::2]}, {"b": [0.0] * 6}], ids=repr)
def test_both_ways_of_a_call_give_the_same(options):
    """Plain arguments go the short way, in the core, and all others the long one."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 9, 8, 4)), rng.standard_normal((3, 3, 4, 6))
    b = np.asarray(options.pop("b", np.zeros(6)))
    plain = _core.convolve(2, x, w, np.zeros(6), 1, 0, 1, 1, "channels_last", "constant", None, "auto")
    assert plain is not None
    assert np.array_equal(cr.conv2d(x, w, b, **options), plain)


@pytest.mark.parametrize("position, value", [
    (1, [[[1.0]]]), (1, np.ones((9, 8, 4), int)), (2, np.ones((3, 3, 4, 6), np.float32)), (3, np.zeros(12)[::2]),
    (3, np.zeros(5)), (3, [0.0] * 6), (4, 1.0), (5, "same"), (6, (1, 1)), (7, True), (8, "last"), (8, None),
    (9, "zeros"), (9, []), (10, "elu"), (10, {}), (11, "fft"), (11, 0)], ids=repr)
def test_the_short_way_leaves_the_rest_to_the_long_one(position, value):
    arguments = [2, np.ones((2, 9, 8, 4)), np.ones((3, 3, 4, 6)), None, 1, 0, 1, 1, "channels_last", "constant", None,
                 "auto"]
    assert _core.convolve(*arguments) is not None
    arguments[position] = value
    assert _core.convolve(*arguments) is None


def test_prepared_weights_of_another_convolution_are_refused(isa):
    x = np.zeros((1, 9, 9, 4), np.float32)

    def geometry(kernel=(3, 3), filters=6, groups=1, stride=1):
        return _core.Geometry(2, False, x.shape, (*kernel, 4 // groups, filters), stride, 1, 1, groups, 0,
                              _core.ALGORITHMS["direct"])

    prepared = _core.conv_prepare(geometry(), np.zeros((3, 3, 4, 6), np.float32))
    assert prepared.nbytes == _core.conv_prepared_size(geometry(), np.zeros((3, 3, 4, 6), np.float32))
    strided = geometry(stride=2)
    _core.conv_forward_prepared(strided, x, prepared, None, np.empty(strided.y_shape, np.float32), 0)
    for other in (geometry(kernel=(1, 9)), geometry(filters=8), geometry(groups=2)):
        y = np.full(other.y_shape, 7, np.float32)
        with pytest.raises(ValueError, match="prepared weights"):
            _core.conv_forward_prepared(other, x, prepared, None, y, 0)
        assert (y == 7).all()


@pytest.mark.parametrize("text", SHAPES)
def test_output_shape(text, layout):
    problem = parse(text)
    x, w, _, dy = arranged(operands(problem, "conv", "real"), layout, problem.rank, np.float32)
    options = {name: value for name, value in problem.geometry().items() if name not in ("flip", "padding_mode")}
    assert cr.conv_output_shape(x.shape, w.shape, layout=layout, **options) == dy.shape


@pytest.mark.parametrize("text", ["n2c16h14w14k16_3x3_p1", "n1c3h9w8k4_3x2_s2", "n2c8h9w9k8_3x3_g8", "c4w30k6_3_p1"])
def test_algorithm_auto(text, isa, layout, dtype):
    """The default may round more than "direct", not much more; y and dx are direct where conv_algorithm says so."""
    problem = parse(text)
    x, w, b, dy = arranged(operands(problem, "conv", "real"), layout, problem.rank, dtype)
    options = problem.geometry() | {"layout": layout}
    name = cr.conv_algorithm(x.shape, w.shape, dtype=dtype, **options)
    assert name in ("direct", "winograd")
    for function, arrays in ((problem.function(cr, "conv"), (x, w, b)),
                             (problem.function(cr, "conv", "_backward"), (dy, x, w))):
        auto, direct = function(*arrays, **options), function(*arrays, algorithm="direct", **options)
        pairs = zip(*([result] if isinstance(result, np.ndarray) else result for result in (auto, direct)))
        for which, (one, other) in enumerate(pairs):
            assert np.array_equal(one, other) or name == "winograd" or which == 1
            np.testing.assert_allclose(one, other, rtol=0, atol=64 * UNIT[dtype] * np.abs(other).max())


def test_named_and_default_options(isa):
    """Numbers, one per axis, and pairs that mean the same give the same; so does leaving the defaults out."""
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((2, 9, 8, 3)), rng.standard_normal((3, 3, 3, 4))
    spelled = [{}, {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "layout": "channels_last", "flip": False},
               {"stride": (1, 1), "padding": (0, 0), "dilation": [1, 1], "padding_mode": "constant",
                "activation": None},
               {"padding": ((0, 0), (0, 0))}, {"padding": "valid"}]
    assert all(np.array_equal(cr.conv2d(x, w), cr.conv2d(x, w, None, **options)) for options in spelled)
    spelled = [{"padding": 1}, {"padding": (1, 1)}, {"padding": ((1, 1), (1, 1))}, {"padding": "same"}]
    assert len({cr.conv2d(x, w, **options).tobytes() for options in spelled}) == 1


# ------------------------------------------------------------------------------------------------- random problems


@st.composite
def convolutions(draw):
    """Convolutions over the whole space of options, at most some 1e4 multiplications each."""
    rank = draw(st.integers(1, 3))

    def axes(low, high):
        return tuple(draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank)))

    kernel, dilation, stride = axes(1, (9, 4, 3)[rank - 1]), axes(1, 3), axes(1, 3)
    named = st.sampled_from(["valid", "same", "same_lower", "full"] + ["causal"] * (rank == 1))
    padding = draw(st.one_of(named, st.tuples(*[st.tuples(st.integers(0, 5), st.integers(0, 5))] * rank)))
    pads = [(0, 0)] * rank if isinstance(padding, str) else padding
    image = tuple(max(size, extent - low - high) for size, extent, (low, high) in
                  zip(axes(1, (40, 9, 5)[rank - 1]), (d * (k - 1) + 1 for d, k in zip(dilation, kernel)), pads))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 5]))
    most = max(1, draw(st.sampled_from([3, 8, 40])) // groups)
    return Problem(draw(st.sampled_from([None, 0, 1, 1, 2, 3])), groups * draw(st.integers(1, most)), image,
                   groups * draw(st.integers(1, most)), kernel, stride, padding, dilation, groups,
                   padding_mode=draw(st.sampled_from(("constant", "constant", *PADDING_MODES))),
                   flip=draw(st.booleans()), bias=draw(st.booleans()))


def small(problem):
    outputs = math.prod(problem.out)
    return outputs * (problem.N or 1) * problem.K * problem.C // problem.groups * math.prod(problem.kernel) < 20000


@given(problem=convolutions().filter(small))
@settings(max_examples=300, derandomize=True, deadline=None, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much])
def test_random_problems(isa, layout, dtype, problem):
    """Integers again, over the whole space of options; a failure prints the line that reproduces it."""
    assert parse(str(problem)) == problem
    assert_exact_results(problem, "conv", dtype, layout)
