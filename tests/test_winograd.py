"""Winograd's algorithm, forward, backward and with prepared weights, against the reference and the direct sum."""

import math

import numpy as np
import pytest
from problems import (UNIT, arranged, assert_within, canonical, canonical_kernel, expected, kernel_laid_out, laid_out,
                      operands, parse)

import convrnn as cr
from convrnn import _core, reference

SHAPES = [
    # one pixel, one tile, one row or column of them, and one output more
    "n1c1h1w1k1_3x3_p1", "n1c2h2w2k3_3x3_p1", "n1c3h3w3k2_3x3", "n1c2h4w4k2_3x3", "n2c3h5w6k4_3x3", "n1c2h3w9k3_3x3",
    "n1c2h1w17k2_3x3_p1", "n1c2h17w1k2_3x3_p1", "c3h5w7k2_3x3_p1",
    # both sizes of tile, whole tiles and parts of them, height and width different
    "n2c3h12w12k5_3x3_p1", "n1c2h11w13k3_3x3_p1", "n1c2h14w15k3_3x3", "n1c3h4w31k2_3x3_p1", "n1c2h33w5k2_3x3_p1",
    # padding: none, two, asymmetric, past the kernel, all of a tile
    "n1c2h9w8k3_3x3_p2", "n1c2h12w13k3_3x3_p0,2x1,0", "n2c2h5w4k3_3x3_p3,4x0,5", "n1c1h2w3k2_3x3_p9,0x0,9",
    # channels about vectors, panels and chunks of sums
    "n1c16h4w5k16_3x3_p1", "n1c17h3w4k33_3x3_p1", "n1c7h5w4k9_3x3_p1", "n1c65h3w3k31_3x3_p1", "n1c130h3w3k2_3x3_p1",
    "n1c2h3w3k130_3x3_p1",
    # groups, flipped kernels, activations, no bias, no images
    "n2c4h6w7k6_3x3_g2_p1", "n1c34h4w4k34_3x3_g2_p1", "n1c3h5w6k3_3x3_g3_p1", "n1c3h12w14k4_3x3_p1_flip",
    "n2c3h5w6k4_3x3_p1_relu", "n1c3h5w6k4_3x3_p1_tanh", "n1c3h12w12k17_3x3_sigmoid", "n2c3h7w6k4_3x3_nobias",
    "n0c3h7w6k4_3x3_p1",
]

#: Larger: several blocks of tiles, panels and chunks; in the last two, several rounds of evaluated weights, of the
#: panels of a group and of groups. Compared with the direct sum in float64.
LARGE = ["n2c16h40w37k20_3x3_p1", "n3c40h23w24k70_3x3_p1", "n1c300h12w13k40_3x3_p1", "n5c33h9w9k65_3x3_p1",
         "n2c64h20w21k64_3x3_g2_p1", "n1c2h3w200k3_3x3_p1",
         "n2c300h12w12k320_3x3", "n3c560h12w12k560_3x3_g4"]

#: Of dw: several blocks of tiles, which images share, segments of blocks, and rectangles of channels.
LARGE_SUMS = ["n9c70h24w21k40_3x3_p1", "n30c9h7w9k140_3x3_p1", "n3c150h19w22k130_3x3", "n4c260h14w13k35_3x3_p1",
              "n2c66h26w25k132_3x3_g2_p1", "n12c20h30w27k24_3x3_p1"]


def results(problem, arrays, layout, algorithm="winograd"):
    """y without activation, dx and dw, canonical."""
    x, w, b, dy = arrays
    options = problem.geometry() | {"layout": layout, "algorithm": algorithm}
    y = cr.conv2d(x, w, b, **options)
    dx, dw, db = cr.conv2d_backward(dy, x, w, needs=("x", "w"), **options)
    assert db is None
    return canonical(y, layout, 2), canonical(dx, layout, 2), canonical_kernel(dw, layout)


def assert_close(actual, wanted, problem, dtype):
    """In the largest result: the transforms magnify what rounding there is in a sum some ten times."""
    channels, pixels = max(problem.C, problem.K) // problem.groups, wanted[0].size // problem.K
    for one, other, terms in zip(actual, wanted, (channels, channels, pixels), strict=True):
        bound = 32 * UNIT[dtype] * math.sqrt(terms)
        assert_within(one, other, bound * np.abs(other).max(initial=1))


@pytest.mark.parametrize("text", SHAPES)
def test_reference(text, isa, layout, dtype):
    problem = parse(text)
    arrays = arranged(operands(problem, "conv", "real"), layout, 2, dtype)
    assert_close(results(problem, arrays, layout), expected(problem, "conv", "real")[:3], problem, dtype)
    if problem.activation:
        x, w, b, _ = arrays
        options = problem.geometry() | {"layout": layout, "algorithm": "winograd", "activation": problem.activation}
        sums = results(problem, arrays, layout)[0]
        wanted = _core.map(problem.activation, np.ascontiguousarray(sums))
        np.testing.assert_array_equal(canonical(cr.conv2d(x, w, b, **options), layout, 2), wanted)


@pytest.mark.parametrize("m, size", [(2, 2), (2, 10), (4, 12)])
def test_reference_tiles(m, size, isa, layout):
    """Every tile of y is the reference's, of its patch: the points are the same."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1, 1, size + 2, size + 2)), rng.standard_normal((1, 1, 3, 3))
    y = canonical(cr.conv2d(laid_out(x, layout, 2), kernel_laid_out(w, layout), layout=layout, algorithm="winograd"),
                  layout, 2)
    for i in range(0, size, m):
        for j in range(0, size, m):
            tile = reference.winograd_tile(x[0, 0, i:i + m + 2, j:j + m + 2].tolist(), w[0, 0].tolist())
            np.testing.assert_allclose(y[0, 0, i:i + m, j:j + m], tile, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("m, size", [(2, 2), (2, 10), (4, 12)])
def test_reference_tiles_of_weights(m, size, isa, layout):
    """dw is the sum of the reference's of the tiles."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((1, 1, size + 2, size + 2)), rng.standard_normal((1, 1, size, size))
    _, dw, _ = cr.conv2d_backward(laid_out(dy, layout, 2), laid_out(x, layout, 2),
                                  kernel_laid_out(np.zeros((1, 1, 3, 3)), layout), layout=layout,
                                  algorithm="winograd", needs="w")
    tiles = [reference.winograd_tile_weights(x[0, 0, i:i + m + 2, j:j + m + 2].tolist(),
                                             dy[0, 0, i:i + m, j:j + m].tolist())
             for i in range(0, size, m) for j in range(0, size, m)]
    np.testing.assert_allclose(canonical_kernel(dw, layout)[0, 0], np.sum(tiles, axis=0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("text", LARGE + LARGE_SUMS)
def test_direct(text, isa, layout, dtype):
    problem = parse(text)
    wanted = results(problem, arranged(operands(problem, "conv", "real"), layout, 2, np.float64), layout, "direct")
    actual = results(problem, arranged(operands(problem, "conv", "real"), layout, 2, dtype), layout)
    assert_close(actual, wanted, problem, dtype)


# -------------------------------------------------------------------------------------------------------- accuracy


@pytest.mark.parametrize("text", ["n1c16h20w20k64_3x3_p1", "n1c32h28w28k32_3x3_p1", "n1c128h16w16k48_3x3_p1",
                                  "n1c200h12w12k32_3x3_p1", "n1c512h12w12k32_3x3_p1", "n1c1500h12w12k16_3x3_p1",
                                  "n1c64h7w7k64_3x3_p1", "n3c32h7w7k32_3x3_p1", "n40c64h8w8k64_3x3_p1"])
@pytest.mark.parametrize("kind", ["real", "relu", "positive"])
def test_error_is_at_most_four_times_that_of_the_direct_sum(text, kind, isa, layout):
    """In the root of the mean square, where "auto" may take it: measured 0.1 to 2.9, of dw to 3.8."""
    problem = parse(text)
    x, w, _, dy = operands(problem, "conv", "positive" if kind == "positive" else "real")
    if kind == "relu":
        x, dy = np.maximum(x, 0), np.where(np.random.default_rng(4).random(dy.shape) < 0.5, dy, 0)
    exact, direct, winograd = (
        results(problem, arranged((x, w, None, dy), layout, 2, dtype), layout, algorithm)
        for dtype, algorithm in ((np.float64, "direct"), (np.float32, "direct"), (np.float32, "winograd")))
    for truth, one, other in zip(exact, direct, winograd, strict=True):
        assert np.linalg.norm(other - truth) <= 4 * np.linalg.norm(one - truth)


@pytest.mark.parametrize("size", [(56, 56), (28, 28), (14, 14), (13, 30)])
@pytest.mark.parametrize("channels", [(64, 64), (256, 64), (32, 512)])
def test_auto_takes_it(size, channels, layout):
    """In float32, whatever N; not in float64, of small images or of few channels."""
    def taken(height=size[0], width=size[1], C=channels[0], K=channels[1], N=1, dtype=np.float32, **options):
        x_shape = (N, C, height, width) if layout == "channels_first" else (N, height, width, C)
        w_shape = (K, C, 3, 3) if layout == "channels_first" else (3, 3, C, K)
        return cr.conv_algorithm(x_shape, w_shape, padding=1, layout=layout, dtype=dtype, **options)

    assert {taken(N=N) for N in (0, 1, 2, 100)} == {"winograd"}
    assert taken(dtype=np.float64) == taken(C=8) == taken(K=8) == taken(height=5, width=5) == "direct"
    assert taken(height=7, width=7) == "direct" and taken(height=7, width=7, C=512, K=256) == "winograd"
    assert taken(stride=2) == taken(dilation=2) == "direct"


def test_auto_is_what_it_says(isa, layout):
    x, w, b, dy = arranged(operands(parse("n2c32h13w12k40_3x3_p1"), "conv", "real"), layout, 2, np.float32)
    options = {"padding": 1, "layout": layout}
    assert cr.conv_algorithm(x.shape, w.shape, **options) == "winograd"
    y, (dx, dw, db) = cr.conv2d(x, w, b, **options), cr.conv2d_backward(dy, x, w, **options)
    assert np.array_equal(y, cr.conv2d(x, w, b, algorithm="winograd", **options))
    assert not np.array_equal(y, cr.conv2d(x, w, b, algorithm="direct", **options))
    for one, other in zip((dx, dw, db), cr.conv2d_backward(dy, x, w, algorithm="winograd", **options), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("text, dtype, name", [
    ("n1c16h7w7k16_3x3_p1", "float32", "winograd"), ("n3c64h7w9k48_3x3_p1", "float32", "winograd"),
    ("n1c64h12w12k64_3x3_g4_p1", "float32", "winograd"), ("n1c16h7w7k16_3x3_p1", "float64", "direct"),
    ("n1c16h6w30k16_3x3_p1", "float32", "direct"), ("n9c15h14w14k64_3x3_p1", "float32", "direct"),
    ("n9c64h14w14k64_3x3_g8_p1", "float32", "direct")])
def test_auto_of_weights(text, dtype, name, isa, layout):
    """From 7x7 and from 16 channels of a group on, in float32, also where y and dx are direct."""
    problem = parse(text)
    x, w, _, dy = arranged(operands(problem, "conv", "real"), layout, 2, dtype)
    options = problem.geometry() | {"layout": layout, "needs": "w"}
    auto, *others = (cr.conv2d_backward(dy, x, w, algorithm=algorithm, **options)[1]
                     for algorithm in ("auto", "direct", "winograd"))
    assert [np.array_equal(auto, other) for other in others] == [name == "direct", name == "winograd"]


# ------------------------------------------------------------------------------------------------------------ bits


@pytest.mark.parametrize("text", ["n5c3h7w6k4_3x3_p1", "n7c16h12w13k33_3x3_p1", "n9c130h5w5k3_3x3_p1",
                                  "n40c8h12w12k8_3x3_g2"])
def test_a_row_of_a_batch_is_what_it_is_alone(text, isa, layout, dtype):
    problem = parse(text)
    x, w, b, dy = arranged(operands(problem, "conv", "real"), layout, 2, dtype)
    whole = results(problem, (x, w, b, dy), layout)[:2]
    for rows in ([0], [problem.N - 1], [2, 3], np.random.default_rng(1).permutation(problem.N)):
        for part, all_rows in zip(results(problem, (x[rows], w, b, dy[rows]), layout), whole, strict=False):
            assert np.array_equal(part, all_rows[rows])
    for alone, all_rows in zip(results(problem, (x[1], w, b, dy[1]), layout), whole, strict=False):
        assert np.array_equal(alone, all_rows[1])


@pytest.mark.parametrize("text", ["n1c64h28w28k64_3x3_p1", "n3c32h20w20k40_3x3_p1", "n1c140h12w14k70_3x3_p1",
                                  "n4c64h12w12k64_3x3_g4_p1", *LARGE_SUMS])
def test_thread_counts(text, isa, layout, dtype):
    problem = parse(text)
    arrays = arranged(operands(problem, "conv", "real"), layout, 2, dtype)
    found = []
    for threads in (1, 2, 3, 4):
        with cr.num_threads(threads):
            found.append(results(problem, arrays, layout))
    for one, *others in zip(*found, strict=True):
        assert all(np.array_equal(one, other) for other in others)


@pytest.mark.parametrize("text", ["n2c3h7w6k5_3x3_p1", "n1c17h12w13k33_3x3_p1"])
def test_strides_of_arrays(text, isa, layout, dtype):
    """Every other element, backwards, transposed, broadcast: the result is that of the contiguous copy."""
    problem = parse(text)
    arrays = arranged(operands(problem, "conv", "real"), layout, 2, dtype)
    wanted = results(problem, arrays, layout)
    for change in (lambda a: np.repeat(a, 2, -1)[..., ::2], lambda a: np.ascontiguousarray(a[..., ::-1])[..., ::-1],
                   lambda a: np.ascontiguousarray(np.swapaxes(a, 0, -1)).swapaxes(0, -1)):
        x, w, dy = (change(arrays[index]) for index in (0, 1, 3))
        for one, other in zip(results(problem, (x, w, arrays[2], dy), layout), wanted, strict=True):
            assert np.array_equal(one, other)
    constant = [np.broadcast_to(array.flat[0], array.shape) for array in (arrays[0], arrays[1], arrays[3])]
    copies = [array.copy() for array in constant]
    for one, other in zip(results(problem, (*constant[:2], None, constant[2]), layout),
                          results(problem, (*copies[:2], None, copies[2]), layout), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("text", ["n2c3h7w6k4_3x3_p1", "n1c17h13w14k33_3x3_p1", "n1c4h5w4k6_3x3_g2"])
def test_out(text, isa, layout, dtype):
    """Every element of it is written, and nothing beside it."""
    problem = parse(text)
    x, w, b, _ = arranged(operands(problem, "conv", "real"), layout, 2, dtype)
    options = problem.geometry() | {"layout": layout, "algorithm": "winograd"}
    y = cr.conv2d(x, w, b, **options)
    around = np.full(y.size + 64, np.nan, dtype)
    out = around[32:32 + y.size].reshape(y.shape)
    assert cr.conv2d(x, w, b, out=out, **options) is out
    assert np.array_equal(out, y)
    assert np.isnan(around[:32]).all() and np.isnan(around[32 + y.size:]).all()


def test_nan_stays_in_its_tile(isa, layout, dtype):
    """It may spoil any output of the tiles that read it, and no other."""
    for size, m in ((6, 2), (16, 4)):
        x = np.random.default_rng(2).standard_normal((1, 3, size, size))
        w = kernel_laid_out(np.random.default_rng(3).standard_normal((5, 3, 3, 3)), layout, dtype)
        options = {"padding": 1, "layout": layout, "algorithm": "winograd"}
        before = canonical(cr.conv2d(laid_out(x, layout, 2, dtype), w, **options), layout, 2)
        x[0, 1, m, 0] = math.nan
        after = canonical(cr.conv2d(laid_out(x, layout, 2, dtype), w, **options), layout, 2)
        assert np.isnan(after[0, :, m - 1:m + 2, :2]).all()
        assert np.array_equal(after[..., m:], before[..., m:])
        assert np.array_equal(after[:, :, 2 * m:], before[:, :, 2 * m:])


# ------------------------------------------------------------------------------------------------ prepared weights


@pytest.mark.parametrize("text", ["n2c32h13w12k40_3x3_p1", "n1c130h14w14k33_3x3_p1", "n3c64h12w20k64_3x3_g2",
                                  "n2c3h7w6k5_3x3_p1"])
@pytest.mark.parametrize("algorithm", ["auto", "winograd"])
def test_prepared_weights_give_the_same_bits(text, algorithm, isa, layout, dtype):
    problem = parse(text)
    x, w, b, _ = arranged(operands(problem, "conv", "real"), layout, 2, dtype)
    options = problem.geometry() | {"layout": layout}
    pad = 0 if problem.padding == "valid" else 1
    geometry = _core.Geometry(2, layout == "channels_first", x.shape, w.shape, 1, pad, 1, problem.groups, 0,
                              _core.ALGORITHMS[algorithm])
    prepared = _core.conv_prepare(geometry, w)
    assert prepared.nbytes == _core.conv_prepared_size(geometry, w)
    y = geometry.new_output(x)
    for _ in range(2):
        _core.conv_forward_prepared(geometry, x, prepared, b, y, _core.ACTIVATIONS["relu"])
        assert np.array_equal(y, cr.conv2d(x, w, b, algorithm=algorithm, activation="relu", **options))


def test_prepared_weights_of_another_convolution_are_refused(isa):
    x, w = np.zeros((1, 12, 12, 32), np.float32), np.zeros((3, 3, 32, 32), np.float32)

    def geometry(size=12, channels=32, algorithm="winograd"):
        return _core.Geometry(2, False, (1, size, size, channels), (3, 3, channels, 32), 1, 1, 1, 1, 0,
                              _core.ALGORITHMS[algorithm])

    prepared = _core.conv_prepare(geometry(), w)
    _core.conv_forward_prepared(geometry(size=40), np.zeros((1, 40, 40, 32), np.float32), prepared, None,
                                np.empty((1, 40, 40, 32), np.float32), 0)
    for other, dtype in ((geometry(size=4), np.float32), (geometry(), np.float64)):
        shape = other.x_shape
        with pytest.raises(ValueError, match="prepared weights"):
            _core.conv_forward_prepared(other, np.zeros(shape, dtype), prepared, None, np.empty(shape, dtype), 0)
    with pytest.raises(ValueError, match="prepared"):
        _core.conv_forward_prepared(geometry(algorithm="direct"), x, prepared, None, np.empty_like(x), 0)


def test_frozen_layers(isa, layout):
    """Bit for bit what the layer gives, for images of any size, also after the instruction set has changed."""
    net = cr.Sequential(cr.Conv2d(32, 48, 3, padding=1, layout=layout, rng=0), cr.ReLU(),
                        cr.Conv2d(48, 32, 3, layout=layout, bias=False, rng=1))
    fast = net.frozen()
    for size in (40, 5, 14, 40):
        x = laid_out(np.random.default_rng(size).standard_normal((2, 32, size, size)), layout, 2, np.float32)
        assert np.array_equal(fast(x), net(x))
        for other in _core.available_isas():
            _core.set_isa(other)
            assert np.array_equal(fast(x), net(x))
        _core.set_isa(isa)
    kept, params = net(x), {name: array.copy() for name, array in net.params.items()}
    for array in net.params.values():
        array[...] = 0
    assert np.array_equal(fast(x), kept)
    assert params.keys() == net.params.keys()


# ---------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("text", ["n1c2h9w9k2_3x3_s2", "n1c2h9w9k2_3x3_s1x2", "n1c2h9w9k2_3x3_d2", "n1c2h9w9k2_3x2",
                                  "n1c2h9w9k2_5x5", "n1c2h9w9k2_1x1", "n1c2h9w9k2_3x3_p1_reflect",
                                  "n1c2h9w9k2_3x3_p1_wrap"])
def test_where_it_does_not_apply(text, layout, dtype):
    problem = parse(text)
    x, w, b, dy = arranged(operands(problem, "conv", "real"), layout, 2, dtype)
    options = problem.geometry() | {"layout": layout, "algorithm": "winograd"}
    with pytest.raises(ValueError, match="winograd does not apply"):
        cr.conv2d(x, w, b, **options)
    for needs in (("x",), ("w",), ("b",), ()):
        with pytest.raises(ValueError, match="winograd does not apply"):
            cr.conv2d_backward(dy, x, w, needs=needs, **options)


def test_lines_and_volumes(dtype):
    with pytest.raises(ValueError, match="winograd"):
        cr.conv1d(np.zeros((9, 2), dtype), np.zeros((3, 2, 2), dtype), algorithm="winograd")
    with pytest.raises(ValueError, match="winograd"):
        cr.conv3d(np.zeros((9, 9, 9, 2), dtype), np.zeros((3, 3, 3, 2, 2), dtype), algorithm="winograd")
