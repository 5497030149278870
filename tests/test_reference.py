"""The reference against NumPy's own correlate, convolve, pad and sliding windows."""

import math

import numpy as np
import pytest
from problems import Problem, assert_within, operands, parse

from convrnn import reference

CONVOLUTIONS = [
    "n1c1w1k1_1", "n2c3w9k4_3", "n2c3w9k4_3_s2_p1,2", "c2w7k3_2_d3_p4_flip", "n1c4w8k6_3_g2_p2", "n2c3w5k3_3_pcausal",
    "n1c1h1w1k1_1x1", "n2c3h5w6k4_3x2", "n2c3h7w6k4_3x2_s2x3_p1,0x2,1_d1x2", "n1c2h5w4k2_3x3_psame_s2",
    "c4h4w5k8_2x2_g4", "n1c2h4w5k2_3x2_p4,5x6,3_reflect", "n1c2h4w5k2_3x2_p5x5_symmetric_flip",
    "n1c2h4w5k2_3x2_p3x7_edge_s2", "n1c2h4w5k2_3x2_p9,2x1,6_wrap", "n1c1h1w1k1_3x3_p2_reflect",
    "n1c3h3w3k2_3x3_pfull_flip", "n0c3h5w5k2_3x3", "n1c2d3h4w3k3_2x3x2_s2x1x1_p1,0x1,1x0,1_d1x1x2",
    "n1c4d3h3w2k2_2x2x2_g2_flip",
]
TRANSPOSED = ["n2c3w5k2_3_o0", "n1c2w4k3_3_s2_p1_o1", "n1c2w4k2_2_d3_o2", "n1c2h3w4k3_3x2_s2x3_p1,0x0,1_o1x2",
              "n1c4h2w3k6_2x3_g2_d2x1_o0x0", "c2d2h3w2k2_2x2x2_s2_o1"]
POOLS = ["n2c3w9_3", "n1c2w7_3_s1_p1,2", "n2c3h6w5_2x2", "c2h7w6_3x2_s2x1_p1,2x0,1", "n1c1h3w3_3x3_s5"]


def padded(x, pads, mode, **constant):
    """x with its last axes padded by numpy.pad."""
    return np.pad(x, [(0, 0)] * (x.ndim - len(pads)) + list(pads), mode=mode, **constant)


def windows(x, kernel, stride, dilation):
    """(..., out, kernel): every window of the last axes of x, by NumPy."""
    rank = len(kernel)
    extents = [d * (size - 1) + 1 for d, size in zip(dilation, kernel, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(x, extents, axis=tuple(range(-rank, 0)))
    return view[(..., *(slice(None, None, s) for s in stride), *(slice(None, None, d) for d in dilation))]


def convolved(problem, x, w, b):
    """The forward convolution in channels_first, by NumPy's padding, windows and einsum."""
    rank, ones = problem.rank, (1,) * problem.rank
    stride, dilation = problem.stride or ones, problem.dilation or ones
    pads = reference.resolve_padding(problem.padding, problem.image, problem.kernel, stride, dilation)
    x = padded(x, pads, problem.padding_mode)
    w = np.flip(w, tuple(range(2, 2 + rank))) if problem.flip else w
    read = windows(x, problem.kernel, stride, dilation)  # (N, C, *out, *kernel)
    members, share = w.shape[1], w.shape[0] // problem.groups
    letters = "opr"[:rank], "uvz"[:rank]
    sums = [np.einsum(f"...c{letters[0]}{letters[1]},kc{letters[1]}->...k{letters[0]}",
                      np.take(read, range(g * members, (g + 1) * members), axis=-2 * rank - 1),
                      w[g * share:(g + 1) * share]) for g in range(problem.groups)]
    return np.concatenate(sums, axis=-rank - 1) + (0 if b is None else b.reshape(-1, *ones))


@pytest.mark.parametrize("text", CONVOLUTIONS)
def test_convolution(text):
    problem = parse(text)
    assert str(problem) == str(parse(str(problem)))
    x, w, b, dy = operands(problem, "conv", "real")
    options = problem.geometry() | {"layout": "channels_first"}
    y = reference.conv_forward(x, w, b, **options)
    np.testing.assert_allclose(y, convolved(problem, x, w, b), rtol=1e-13, atol=1e-13)
    # y is linear in x, in w and in b, so its gradients are known by the products they must give for any direction
    # v; unit vectors v are all there is to know.
    dx, dw, db = reference.conv_backward(dy, x, w, **options)
    for gradient, operand, along in ((dx, x, lambda v: convolved(problem, v, w, None)),
                                     (dw, w, lambda v: convolved(problem, x, v, None))):
        assert gradient.shape == operand.shape
        for place in list(np.ndindex(operand.shape))[::max(operand.size // 24, 1)]:
            v = np.zeros(operand.shape)
            v[place] = 1
            np.testing.assert_allclose(gradient[place], np.vdot(dy, along(v)), rtol=1e-13, atol=1e-13)
    assert_within(db, np.sum(dy, axis=tuple(axis for axis in range(dy.ndim) if axis != dy.ndim - problem.rank - 1)),
                  1e-13)


@pytest.mark.parametrize("text", ["n2c3h7w6k4_3x2_s2x3_p1,0x2,1_d1x2_g1", "n1c2d3h4w3k3_2x3x2", "c2w7k3_2_d3"])
def test_layouts_agree(text):
    problem = parse(text)
    rank, options = problem.rank, problem.geometry()
    x, w, b, dy = operands(problem, "conv", "real")
    last = [np.moveaxis(x, -rank - 1, -1), np.moveaxis(w, (0, 1), (-1, -2)), np.moveaxis(dy, -rank - 1, -1)]
    y = reference.conv_forward(last[0], last[1], b, **options)
    first = reference.conv_forward(x, w, b, layout="channels_first", **options)
    assert np.array_equal(np.moveaxis(y, -1, -rank - 1), first)
    dx, dw, db = reference.conv_backward(last[2], last[0], last[1], **options)
    first = reference.conv_backward(dy, x, w, layout="channels_first", **options)
    moved = np.moveaxis(dx, -1, -rank - 1), np.moveaxis(dw, (-1, -2), (0, 1)), db
    for here, there in zip(moved, first, strict=True):
        assert np.array_equal(here, there)


def test_formulas_of_the_line():
    """o_i = sum_j w_j x_{i+j-1} and its gradients, as they stand in books, against all of numpy.convolve's modes."""
    x, w, do = np.array([1.0, 2.0, 4.0, 8.0, 16.0]), np.array([1.0, 10.0, 100.0]), np.array([1.0, 3.0, -2.0])
    column, kernel = x[:, None], w[:, None, None]
    for padding, mode in (("valid", "valid"), ("same", "same"), ("full", "full")):
        correlation = reference.conv_forward(column, kernel, padding=padding).ravel()
        np.testing.assert_array_equal(correlation, np.correlate(x, w, mode))
        convolution = reference.conv_forward(column, kernel, padding=padding, flip=True).ravel()
        np.testing.assert_array_equal(convolution, np.convolve(x, w, mode))
    dx, dw, db = reference.conv_backward(do[:, None], column, kernel)
    np.testing.assert_array_equal(dw.ravel(), np.correlate(x, do, "valid"))
    np.testing.assert_array_equal(dx.ravel(), np.convolve(do, w, "full"))
    assert db == [2.0]


@pytest.mark.parametrize("text", TRANSPOSED)
def test_transposed_convolution(text):
    """It is the matrix transpose of the convolution with the same kernel, and its gradients are checked as one."""
    problem = parse(text)
    x, w, b, dy = operands(problem, "conv_transpose", "real")
    options = problem.geometry() | {"layout": "channels_first"}
    y = reference.conv_transpose_forward(x, w, b, **options)
    assert y.shape == dy.shape
    of_conv = Problem(problem.N, problem.K, problem.out, problem.C, problem.kernel, problem.stride, problem.padding,
                      problem.dilation, problem.groups)
    forward = convolved(of_conv, dy, w, None)[(..., *map(slice, problem.image))]  # dilation may leave room for more
    plain = y - b.reshape(-1, *(1,) * problem.rank)
    np.testing.assert_allclose(np.vdot(plain, dy), np.vdot(x, forward), rtol=1e-12)
    dx, dw, db = reference.conv_transpose_backward(dy, x, w, **options)
    np.testing.assert_allclose(dx, forward, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(np.vdot(dw, w), np.vdot(plain, dy), rtol=1e-12)
    for place in list(np.ndindex(w.shape))[::max(w.size // 24, 1)]:
        v = np.zeros(w.shape)
        v[place] = 1
        change = np.vdot(dy, reference.conv_transpose_forward(x, v, **options))
        np.testing.assert_allclose(dw[place], change, rtol=1e-12, atol=1e-13)
    assert db.shape == b.shape
    np.testing.assert_allclose(np.vdot(db, b), np.vdot(dy, y - plain), rtol=1e-12)


@pytest.mark.parametrize("text", POOLS)
@pytest.mark.parametrize("kind", ["integers", "real"])  # integers have ties
def test_pooling(text, kind):
    problem = parse(text)
    size, rank, taps = problem.kernel, problem.rank, math.prod(problem.kernel)
    stride = problem.stride or size
    x, _, _, dy = operands(problem, "max_pool", kind)
    options = problem.geometry() | {"layout": "channels_first"}
    pads = reference.resolve_padding(problem.padding, problem.image, size, stride)
    axes = tuple(range(-rank, 0))

    zeros = windows(padded(x, pads, "constant"), size, stride, (1,) * rank)
    average = reference.avg_pool_forward(x, size, **options)
    np.testing.assert_allclose(average, zeros.mean(axes), rtol=1e-14, atol=1e-15)
    dx = reference.avg_pool_backward(dy, x.shape, size, **options)
    np.testing.assert_allclose(np.vdot(dx, x), np.vdot(dy, average), rtol=1e-12)

    read = windows(padded(x, pads, "constant", constant_values=-math.inf), size, stride, (1,) * rank)
    assert np.array_equal(reference.max_pool_forward(x, size, **options), read.max(axes))
    # numpy.argmax takes the first maximum as well: number the pixels, and see which one each window takes
    number = padded(np.broadcast_to(np.arange(math.prod(x.shape)).reshape(x.shape), x.shape), pads, "constant")
    first = read.reshape(*dy.shape, taps).argmax(-1)[..., None]
    taken = np.take_along_axis(windows(number, size, stride, (1,) * rank).reshape(*dy.shape, taps), first, -1)
    wanted = np.bincount(taken.ravel(), dy.ravel(), x.size).reshape(x.shape)
    np.testing.assert_allclose(reference.max_pool_backward(dy, x, size, **options), wanted, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("mode", ["reflect", "symmetric", "edge", "wrap"])
def test_pad_source_is_numpy_pad(mode):
    for size in range(1, 6):
        line = [reference.pad_source(position, size, mode) for position in range(-13, size + 14)]
        assert np.array_equal(line, np.pad(np.arange(size), (13, 14), mode=mode))


def test_named_paddings():
    """"same" gives ceil(size / stride) outputs with the odd cell after the image, "same_lower" with it before."""
    for size, kernel, stride, dilation in np.ndindex(9, 4, 4, 3):
        size, kernel, stride, dilation = size + 1, kernel + 1, stride + 1, dilation + 1
        [(low, high)] = reference.resolve_padding("same", (size,), (kernel,), stride, dilation)
        assert 0 <= high - low <= 1
        assert reference.resolve_padding("same_lower", (size,), (kernel,), stride, dilation) == [(high, low)]
        extent = dilation * (kernel - 1) + 1
        if extent <= size + low + high:
            assert reference.conv_output_size(size, kernel, stride, dilation, low, high) == -(-size // stride)
        assert low + high == 0 or (-(-size // stride) - 1) * stride + extent == size + low + high


def test_output_size_counts_the_steps():
    for size, kernel, stride, dilation, low, high in np.ndindex(6, 4, 4, 3, 3, 3):
        size, kernel, stride, dilation = size + 1, kernel + 1, stride + 1, dilation + 1
        starts = range(-low, size + high - dilation * (kernel - 1), stride)
        if len(starts):
            assert reference.conv_output_size(size, kernel, stride, dilation, low, high) == len(starts)
        else:
            with pytest.raises(ValueError, match="exceeds the padded image"):
                reference.conv_output_size(size, kernel, stride, dilation, low, high)


def test_sums_are_exact():
    """A float64 loop loses the 1 between the large terms."""
    y = reference.conv_forward([[2.0**60], [1.0], [-(2.0**60)]], np.ones((3, 1, 1)))
    assert y == 1.0


def test_values_outside_arithmetic():
    """Infinities of both signs give NaN, padding is skipped and not multiplied, a lone infinity stays what it is."""
    x = np.array([[math.inf], [1.0], [-math.inf]])
    y = reference.conv_forward(x, np.ones((3, 1, 1)), padding=1).ravel()
    np.testing.assert_array_equal(y, [math.inf, math.nan, -math.inf])


def test_elementwise():
    for name, function in (("exp", np.exp), ("tanh", np.tanh), ("sigmoid", lambda v: 1 / (1 + np.exp(-v))),
                           ("relu", lambda v: np.maximum(v, 0))):
        for value in (-700.0, -20.0, -1.0, -1e-9, 0.0, 1e-9, 0.5, 3.0, 20.0, 700.0):
            np.testing.assert_allclose(getattr(reference, name)(value), function(value), rtol=4e-16, err_msg=name)
        assert math.isnan(getattr(reference, name)(math.nan))


def test_activation_is_applied_last():
    x, w, b = np.array([[1.0], [-2.0]]), np.array([[[3.0]]]), np.array([0.5])
    for name in ("relu", "tanh", "sigmoid"):
        wanted = [getattr(reference, name)(3.5), getattr(reference, name)(-5.5)]
        assert reference.conv_forward(x, w, b, activation=name).ravel().tolist() == wanted


@pytest.mark.parametrize("m", [2, 4])
def test_winograd_tile_is_a_correlation(m):
    rng = np.random.default_rng(m)
    d, w = rng.standard_normal((m + 2, m + 2)), rng.standard_normal((3, 3))
    windows = np.lib.stride_tricks.sliding_window_view(d, (3, 3))
    y = reference.winograd_tile(d.tolist(), w.tolist())
    np.testing.assert_allclose(y, (windows * w).sum((-2, -1)), rtol=1e-13, atol=1e-13)
    dy = rng.standard_normal((m, m))
    dw = reference.winograd_tile_weights(d.tolist(), dy.tolist())
    np.testing.assert_allclose(dw, (windows * dy[..., None, None]).sum((0, 1)), rtol=1e-13, atol=1e-13)
