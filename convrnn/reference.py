"""The formulas, in loops: a pure-Python twin of every operator, to learn from and to test against.

A convolution is a relation. Output o reads pixel i through tap q when, along every axis,

    i = pad_source(o*stride + q*dilation - low)

and each operator is a sum over the triples (o, q, i) of that relation. Output, kernel and image are its three ends:

    y[n,k,o]  = b[k] + sum over c and all (q, i) with o   of  w[k,c,q] x[n,c,i]        sums_at_outputs
    dx[n,c,i] =        sum over k and all (o, q) with i   of  w[k,c,q] dy[n,k,o]       sums_at_pixels
    dw[k,c,q] =        sum over n and all (o, i) with q   of  dy[n,k,o] x[n,c,i]       sums_at_taps

On a line, with one channel, stride 1, no padding and indices from 1, the three read

    o_i = sum_j w_j x_{i+j-1}        dx_m = sum_{i+j-1=m} w_j do_i        dw_j = sum_i do_i x_{i+j-1}

The gradient of a convolution is a convolution: dw is x convolved with do, dx is do convolved with the flipped w.
A transposed convolution is the second sum as an operator of its own, and its gradients are the other two.

Everything is computed in float64. Products of float32 values are exact there, and `math.fsum` rounds a sum once, so
results for float32 data are the exact ones, correctly rounded; products of float64 values are rounded once each.
Calling a function with the absolute values of its operands gives the sum of |x||w| that bounds rounding errors.

Operands are taken to fit each other (the checks stand with the compiled functions), and the loops are slow: about
a tenth of a microsecond per multiplication.

Letters: N batch, C in-channels, K out-channels; arrays are laid out as `layout` says, as in `convrnn.conv2d`:

    channels_last    x (N, *image, C)    w (*kernel, C/groups, K)    y (N, *out, K)
    channels_first   x (N, C, *image)    w (K, C/groups, *kernel)    y (N, K, *out)

with one, two or three axes in image, kernel and out. The batch axis may be absent.

A recurrence is a step taken again and again: (x_t, state) -> state, and y_t is its h. Its gradient is the step's own,
taken in the other order, each receiving what the step after it sends to the state between them. So there is one
function per cell for a step (rnn_step, lstm_step, gru_step), one for its gradient (rnn_step_backward, ..), and all
share the loop over time, `unroll`, and the one back, `propagate`, a row of the batch at a time.

Letters: T time, B batch, I input size, H hidden size, G gates (1, 4, 3), R the width of h: H, or that of a projection;
W = w_ih (G*H, I), U = w_hh (G*H, R), V = w_hr (R, H), b = b_ih, b' = b_hh (G*H,); x (T, B, I), y (T, B, R). Gates stand
in the order i f g o (LSTM) and r z n (GRU).
"""

import math
from itertools import product
from operator import mul
from typing import NamedTuple

import numpy as np

# ---------------------------------------------------------------------------------------------------- elementwise


def exp(value):
    """e**value of a float; infinity where it overflows.

    >>> exp(0.0), exp(1000.0)
    (1.0, inf)
    """
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def tanh(value):
    """(e**value - e**-value) / (e**value + e**-value) of a float."""
    return math.tanh(value)


def sigmoid(value):
    """1 / (1 + e**-value) of a float.

    >>> sigmoid(0.0), sigmoid(-1000.0), sigmoid(1000.0)
    (0.5, 0.0, 1.0)
    """
    return 1 / (1 + exp(-value)) if value >= 0 else exp(value) / (1 + exp(value))


def relu(value):
    """max(value, 0) of a float; NaN stays NaN.

    >>> relu(-2.0), relu(3.0), relu(math.nan)
    (0.0, 3.0, nan)
    """
    return 0.0 if value <= 0 else value


ACTIVATIONS = {None: float, "relu": relu, "tanh": tanh, "sigmoid": sigmoid}


def total(terms):
    """The sum of an iterable of floats, rounded once; IEEE arithmetic where infinities or overflow leave no such sum.

    >>> total([1e16, 1.0, -1e16]), total([math.inf, 1.0]), total([math.inf, -math.inf])
    (1.0, inf, nan)
    """
    terms = list(terms)
    try:
        return math.fsum(terms)
    except (OverflowError, ValueError):
        return sum(terms)


# ------------------------------------------------------------------------------------------------------- geometry


def per_axis(value, rank):
    """`value` for every axis, if it is a single int, else one value per axis as given.

    >>> per_axis(2, 3), per_axis((1, 2), 2)
    ((2, 2, 2), (1, 2))
    """
    return (value,) * rank if isinstance(value, int) else tuple(value)


def conv_output_size(size, kernel, stride=1, dilation=1, low=0, high=0):
    """Outputs along one axis: floor((size + low + high - dilation*(kernel-1) - 1) / stride) + 1.

    >>> conv_output_size(28, 3), conv_output_size(28, 3, stride=2, low=1, high=1)
    (26, 14)
    """
    room = size + low + high - dilation * (kernel - 1) - 1
    if room < 0:
        raise ValueError(f"kernel extent {dilation * (kernel - 1) + 1} exceeds the padded image, {size + low + high}")
    return room // stride + 1


def conv_transpose_output_size(size, kernel, stride=1, dilation=1, low=0, high=0, output_padding=0):
    """The image size of which a convolution makes `size` outputs; `output_padding` chooses among the possible ones.

    (size-1)*stride - low - high + dilation*(kernel-1) + output_padding + 1.

    >>> conv_transpose_output_size(14, 3, stride=2, low=1, high=1, output_padding=1)
    28
    """
    return (size - 1) * stride - low - high + dilation * (kernel - 1) + output_padding + 1


def resolve_padding(padding, image, kernel, stride=1, dilation=1):
    """The (low, high) padding of every axis.

    Parameters
    ----------
    padding : int, one int or (low, high) pair per axis, or str
        "valid" pads nothing. "same" gives ceil(size / stride) outputs, the odd cell going after the image, and
        "same_lower" before it. "full" keeps every output that touches the image, "causal" lets output o read up to
        pixel o only.
    image, kernel : sequence of int
    stride, dilation : int or one per axis

    >>> resolve_padding("same", (5, 6), (3, 3), stride=2)
    [(1, 1), (0, 1)]
    """
    rank = len(kernel)
    if not isinstance(padding, str):
        return [per_axis(pads, 2) for pads in per_axis(padding, rank)]
    pairs = []
    for size, taps, step, spread in zip(image, kernel, per_axis(stride, rank), per_axis(dilation, rank), strict=True):
        reach = spread * (taps - 1)
        same = max((math.ceil(size / step) - 1) * step + reach + 1 - size, 0)
        half = same // 2
        pairs.append({"valid": (0, 0), "full": (reach, reach), "causal": (reach, 0),
                      "same": (half, same - half), "same_lower": (same - half, half)}[padding])
    return pairs


def pad_source(position, size, mode="constant"):
    """The pixel that stands at `position` of a padded line of `size` pixels, or None where that is a zero.

    Pixels are 0 .. size-1, padding lies before and after. The modes are those of `numpy.pad`, at any distance.

    >>> for mode in "constant", "reflect", "symmetric", "edge", "wrap":
    ...     print([pad_source(position, 3, mode) for position in range(-4, 7)], mode)
    [None, None, None, None, 0, 1, 2, None, None, None, None] constant
    [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2] reflect
    [2, 2, 1, 0, 0, 1, 2, 2, 1, 0, 0] symmetric
    [0, 0, 0, 0, 0, 1, 2, 2, 2, 2, 2] edge
    [2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0] wrap
    """
    if 0 <= position < size:
        return position
    if mode == "reflect":  # period 0 1 2 .. 2 1: the ends are not repeated
        phase = position % max(2 * size - 2, 1)
        return min(phase, 2 * size - 2 - phase)
    if mode == "symmetric":  # period 0 1 2 .. 2 1 0
        phase = position % (2 * size)
        return min(phase, 2 * size - 1 - phase)
    return {"constant": None, "edge": min(max(position, 0), size - 1), "wrap": position % size}[mode]


class Reads(NamedTuple):
    """The triples (o, q, i), "output o reads pixel i through tap q", sorted by each of their ends.

    o, q and i count outputs, taps and pixels in row-major order, whatever the number of axes. Zeros around the image
    belong to no triple.
    """

    of_output: list  #: of_output[o] = [(q, i), ...], in ascending q: the window of o
    of_tap: list  #: of_tap[q] = [(o, i), ...]
    of_pixel: list  #: of_pixel[i] = [(o, q), ...]


def reads(image, kernel, out, *, stride, dilation, padding, flip=False, padding_mode="constant"):
    """The `Reads` of one geometry, given one entry per axis.

    >>> reads((4,), (3,), (2,), stride=(1,), dilation=(1,), padding=[(0, 0)]).of_output
    [[(0, 0), (1, 1), (2, 2)], [(0, 1), (1, 2), (2, 3)]]
    """
    triples = [(0, 0, 0)]
    for size, taps, outputs, step, spread, (low, _) in zip(image, kernel, out, stride, dilation, padding, strict=True):
        axis = [(o, q, pad_source(o * step + (taps - 1 - q if flip else q) * spread - low, size, padding_mode))
                for o, q in product(range(outputs), range(taps))]
        axis = [(o, q, i) for o, q, i in axis if i is not None]
        triples = [(above_o * outputs + o, above_q * taps + q, above_i * size + i)
                   for (above_o, above_q, above_i), (o, q, i) in product(triples, axis)]
    relation = Reads(*([[] for _ in range(math.prod(sizes))] for sizes in (out, kernel, image)))
    for o, q, i in triples:
        relation.of_output[o].append((q, i))
        relation.of_tap[q].append((o, i))
        relation.of_pixel[i].append((o, q))
    return relation


def window_reads(image, kernel, *, stride=1, padding=0, dilation=1, flip=False, padding_mode="constant"):
    """The output sizes and the `Reads` of a convolution or a pooling of `image`."""
    stride, dilation = per_axis(stride, len(kernel)), per_axis(dilation, len(kernel))
    padding = resolve_padding(padding, image, kernel, stride, dilation)
    out = tuple(conv_output_size(*sizes, *pair)
                for *sizes, pair in zip(image, kernel, stride, dilation, padding, strict=True))
    return out, reads(image, kernel, out, stride=stride, dilation=dilation, padding=padding, flip=flip,
                      padding_mode=padding_mode)


def transpose_reads(image, kernel, *, stride=1, padding=0, output_padding=0, dilation=1):
    """The output sizes and the `Reads` of a transposed convolution, which are those of the convolution it undoes.

    Its input stands where that convolution has its outputs, and its output where that one has its pixels.
    """
    stride, dilation, extra = (per_axis(value, len(kernel)) for value in (stride, dilation, output_padding))
    padding = resolve_padding(padding, image, kernel)
    out = tuple(conv_transpose_output_size(*sizes, *pair, more)
                for *sizes, pair, more in zip(image, kernel, stride, dilation, padding, extra, strict=True))
    return out, reads(out, kernel, image, stride=stride, dilation=dilation, padding=padding)


# --------------------------------------------------------------------------------------- layouts, left at the door


def open_images(x, rank, layout):
    """(N, C, pixels) in float64 of images in `layout`, and the sizes of their `rank` axes."""
    x = np.asarray(x, dtype=np.float64)
    x = np.moveaxis(x, -1, -rank - 1) if layout == "channels_last" else x
    image = x.shape[-rank:]
    return x.reshape(x.shape[0] if x.ndim == rank + 2 else 1, x.shape[-rank - 1], math.prod(image)), image


def close_images(x, image, layout, batched):
    """The inverse of `open_images`; the batch axis goes if it was not there."""
    x = x.reshape(*x.shape[:2], *image)[slice(None) if batched else 0]
    return np.moveaxis(x, -len(image) - 1, -1) if layout == "channels_last" else x


def open_kernels(w, layout):
    """(K, C/groups, taps) in float64 of kernels in `layout`, and the sizes of their axes."""
    w = np.asarray(w, dtype=np.float64)
    w = np.moveaxis(w, (-1, -2), (0, 1)) if layout == "channels_last" else w
    return w.reshape(*w.shape[:2], -1), w.shape[2:]


def close_kernels(w, kernel, layout):
    """The inverse of `open_kernels`."""
    w = w.reshape(*w.shape[:2], *kernel)
    return np.moveaxis(w, (0, 1), (-1, -2)) if layout == "channels_last" else w


# ------------------------------------------------------------------------------------------------- the three sums


def sums_at_outputs(x, w, relation, groups, b=None):
    """y[n,k,o] = b[k] + sum over c and all (q, i) with o of w[k,c,q] x[n,c,i], c in the group of k."""
    (N, _, _), (K, members, _) = x.shape, w.shape
    y = np.zeros((N, K, len(relation.of_output)))
    x, w, b = x.tolist(), w.tolist(), [0.0] * K if b is None else np.asarray(b).tolist()
    for n, k in product(range(N), range(K)):
        first = k // (K // groups) * members
        channels = list(zip(w[k], x[n][first:first + members], strict=True))
        for o, window in enumerate(relation.of_output):
            y[n, k, o] = total([b[k], *(w_c[q] * x_c[i] for w_c, x_c in channels for q, i in window)])
    return y


def sums_at_pixels(dy, w, relation, groups, b=None):
    """dx[n,c,i] = b[c] + sum over k and all (o, q) with i of w[k,c,q] dy[n,k,o], k in the group of c.

    The gradient of a convolution has no b; the transposed convolution has.
    """
    (N, _, _), (K, members, _) = dy.shape, w.shape
    dx = np.zeros((N, groups * members, len(relation.of_pixel)))
    dy, w, b = dy.tolist(), w.tolist(), [0.0] * dx.shape[1] if b is None else np.asarray(b).tolist()
    for n, c in product(range(N), range(groups * members)):
        first = c // members * (K // groups)
        channels = [(w[k][c % members], dy[n][k]) for k in range(first, first + K // groups)]
        for i, readers in enumerate(relation.of_pixel):
            dx[n, c, i] = total([b[c], *(w_k[q] * dy_k[o] for w_k, dy_k in channels for o, q in readers)])
    return dx


def sums_at_taps(dy, x, relation, groups):
    """dw[k,c,q] = sum over n and all (o, i) with q of dy[n,k,o] x[n,c,i], c in the group of k."""
    (N, K, _), members = dy.shape, x.shape[1] // groups
    dw = np.zeros((K, members, len(relation.of_tap)))
    dy, x = dy.tolist(), x.tolist()
    for k, c in product(range(K), range(members)):
        images = [(dy[n][k], x[n][k // (K // groups) * members + c]) for n in range(N)]
        for q, pairs in enumerate(relation.of_tap):
            dw[k, c, q] = total(dy_n[o] * x_n[i] for dy_n, x_n in images for o, i in pairs)
    return dw


def sums_of_channels(dy):
    """db[k] = sum over n and o of dy[n,k,o]."""
    return np.array([total(channel) for channel in np.moveaxis(dy, 1, 0).reshape(dy.shape[1], -1).tolist()])


# ---------------------------------------------------------------------------------------------------- convolution


def conv_forward(x, w, b=None, *, groups=1, layout="channels_last", activation=None, **geometry):
    """y = activation(b + w * x), as `convrnn.conv1d`, `conv2d` and `conv3d`; the rank is that of w.

    y[n,k,o] = activation(b[k] + sum_{c,q} w[k,c,q] x[n, c, o*stride + q*dilation - low])

    `geometry` is any of stride, padding, dilation, flip and padding_mode.

    >>> conv_forward([[1.0], [2.0], [4.0], [8.0]], [[[1.0]], [[10.0]]]).ravel()
    array([21., 42., 84.])
    """
    kernels, kernel = open_kernels(w, layout)
    images, image = open_images(x, len(kernel), layout)
    out, relation = window_reads(image, kernel, **geometry)
    y = sums_at_outputs(images, kernels, relation, groups, b)
    y = np.reshape([ACTIVATIONS[activation](value) for value in y.ravel().tolist()], y.shape)
    return close_images(y, out, layout, batched=np.ndim(x) > np.ndim(w) - 1)


def conv_backward(dy, x, w, *, groups=1, layout="channels_last", **geometry):
    """The gradients (dx, dw, db) of <dy, b + w * x>.

    dx[n,c,i] = sum of w[k,c,q] dy[n,k,o] over the k and the (o, q) that read pixel i in the forward pass
    dw[k,c,q] = sum_{n,o} dy[n,k,o] x[n, c, o*stride + q*dilation - low]
    db[k]     = sum_{n,o} dy[n,k,o]

    >>> dx, dw, db = conv_backward([[1.0], [0.0], [2.0]], [[1.0], [2.0], [4.0], [8.0]], [[[1.0]], [[10.0]]])
    >>> dx.ravel(), dw.ravel(), db
    (array([ 1., 10.,  2., 20.]), array([ 9., 18.]), array([3.]))
    """
    kernels, kernel = open_kernels(w, layout)
    images, image = open_images(x, len(kernel), layout)
    gradients, _ = open_images(dy, len(kernel), layout)
    _, relation = window_reads(image, kernel, **geometry)
    dx = sums_at_pixels(gradients, kernels, relation, groups)
    dw = sums_at_taps(gradients, images, relation, groups)
    dx = close_images(dx, image, layout, batched=np.ndim(x) > np.ndim(w) - 1)
    return dx, close_kernels(dw, kernel, layout), sums_of_channels(gradients)


def conv_transpose_forward(x, w, b=None, *, groups=1, layout="channels_last", **geometry):
    """y = b + the input gradient, at the output gradient x, of the convolution with kernel w.

    y[n,k,i] = b[k] + sum of w[c,k,q] x[n,c,o] over all c and all (o, q) with o*stride + q*dilation - low = i

    w is the array of that convolution: its in-channels are the out-channels here. `geometry` is any of stride,
    padding, output_padding and dilation.

    >>> conv_transpose_forward([[1.0], [0.0], [2.0]], [[[1.0]], [[10.0]]]).ravel()
    array([ 1., 10.,  2., 20.])
    """
    kernels, kernel = open_kernels(w, layout)
    images, image = open_images(x, len(kernel), layout)
    out, relation = transpose_reads(image, kernel, **geometry)
    y = sums_at_pixels(images, kernels, relation, groups, b)
    return close_images(y, out, layout, batched=np.ndim(x) > np.ndim(w) - 1)


def conv_transpose_backward(dy, x, w, *, groups=1, layout="channels_last", **geometry):
    """The gradients (dx, dw, db) of <dy, conv_transpose_forward(x, w, b)>; dx is the convolution of dy with w.

    dx[n,c,o] = sum_{k,q} w[c,k,q] dy[n, k, o*stride + q*dilation - low]
    dw[c,k,q] = sum_{n,o} x[n,c,o] dy[n, k, o*stride + q*dilation - low]
    db[k]     = sum_{n,i} dy[n,k,i]
    """
    kernels, kernel = open_kernels(w, layout)
    images, image = open_images(x, len(kernel), layout)
    gradients, _ = open_images(dy, len(kernel), layout)
    _, relation = transpose_reads(image, kernel, **geometry)
    dx = sums_at_outputs(gradients, kernels, relation, groups)
    dw = sums_at_taps(images, gradients, relation, groups)
    dx = close_images(dx, image, layout, batched=np.ndim(x) > np.ndim(w) - 1)
    return dx, close_kernels(dw, kernel, layout), sums_of_channels(gradients)


# ------------------------------------------------------------------------------------------------------- Winograd

#: The finite points of F(m, 3), by m. One more stands at infinity.
WINOGRAD_POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, 0.5**0.5, -(0.5**0.5), 2.0**0.5, -(2.0**0.5))}


def polynomial_of_roots(roots):
    """The coefficients of (x - r_0) (x - r_1) .., ascending.

    >>> polynomial_of_roots([1.0, -1.0])
    [-1.0, 0.0, 1.0]
    """
    coefficients = [1.0]
    for root in roots:
        coefficients = [low - root * high for low, high in
                        zip([0.0, *coefficients], [*coefficients, 0.0], strict=True)]
    return coefficients


def winograd_matrices(m):
    """A' (m, m+2), G (m+2, 3) and B' (m+2, m+2) of F(m, 3): y = A' [(G w) * (B' d)] are the m sums of d with w.

    This is Toom-Cook's product of polynomials turned round: A' takes powers of the points, G evaluates w there, and the
    rows of B' are the polynomials that vanish at all points but one.
    """
    points = WINOGRAD_POINTS[m]
    others = [[q for q in points if q != p] for p in points]
    A = [[p**i for p in points] + [float(i == m - 1)] for i in range(m)]
    G = [[p**i / math.prod(p - q for q in rest) for i in range(3)] for p, rest in zip(points, others, strict=True)]
    B = [[*polynomial_of_roots(rest), 0.0] for rest in others]
    return A, [*G, [0.0, 0.0, 1.0]], [*B, polynomial_of_roots(points)]


def on_both_axes(matrix, array):
    """matrix array matrix': matrix on the columns and then on the rows."""
    columns = [[total(map(mul, row, column)) for column in zip(*array, strict=True)] for row in matrix]
    return [[total(map(mul, row, line)) for row in matrix] for line in columns]


def winograd_tile(d, w):
    """The m x m sums of a patch d (m+2, m+2) with taps w (3, 3): A' [(G w G') * (B' d B)] A, * by element.

    >>> winograd_tile([[1.0] * 4] * 4, [[0.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    [[3.0, 3.0], [3.0, 3.0]]
    """
    A, G, B = winograd_matrices(len(d) - 2)
    products = [list(map(mul, *rows)) for rows in zip(on_both_axes(G, w), on_both_axes(B, d), strict=True)]
    return on_both_axes(A, products)


def winograd_tile_weights(d, dy):
    """The gradient at w of a tile, from dy (m, m) at its outputs: G' [(B' d B) * (A dy A')] G, * by element.

    >>> winograd_tile_weights([[1.0] * 4] * 4, [[0.0, 2.0], [0.0, 1.0]])
    [[3.0, 3.0, 3.0], [3.0, 3.0, 3.0], [3.0, 3.0, 3.0]]
    """
    A, G, B = winograd_matrices(len(dy))
    A, G = list(zip(*A, strict=True)), list(zip(*G, strict=True))
    products = [list(map(mul, *rows)) for rows in zip(on_both_axes(B, d), on_both_axes(A, dy), strict=True)]
    return on_both_axes(G, products)


# -------------------------------------------------------------------------------------------------------- pooling


def first_maximum(values, pixels):
    """The first of `pixels` at which `values` is largest, or NaN.

    >>> first_maximum([3.0, 7.0, 7.0], [0, 1, 2]), first_maximum([3.0, math.nan, 7.0], [0, 1, 2])
    (1, 1)
    """
    return max(pixels, key=lambda i: (math.isnan(values[i]), values[i]))


def max_pool_forward(x, size, *, stride=None, padding=0, layout="channels_last"):
    """y[n,c,o] = the maximum of x[n,c,i] over the i in the window of o; a NaN in the window is passed on.

    `size` has one entry per axis, a stride of None is the size, padding counts as -infinity.

    >>> max_pool_forward([[1.0], [5.0], [2.0], [3.0], [9.0]], (2,)).ravel()
    array([5., 3.])
    """
    images, image = open_images(x, len(size), layout)
    out, relation = window_reads(image, size, stride=size if stride is None else stride, padding=padding)
    y = np.zeros((*images.shape[:2], len(relation.of_output)))
    for n, c in np.ndindex(*images.shape[:2]):
        values = images[n, c].tolist()
        y[n, c] = [values[first_maximum(values, [i for _, i in window])] for window in relation.of_output]
    return close_images(y, out, layout, batched=np.ndim(x) > len(size) + 1)


def max_pool_backward(dy, x, size, *, stride=None, padding=0, layout="channels_last"):
    """dx[n,c,i] = the sum of dy[n,c,o] over the windows o of which i is the first maximum (or NaN).

    >>> max_pool_backward([[10.0], [20.0]], [[1.0], [5.0], [2.0], [3.0], [9.0]], (2,)).ravel()
    array([ 0., 10.,  0., 20.,  0.])
    """
    images, image = open_images(x, len(size), layout)
    gradients, _ = open_images(dy, len(size), layout)
    _, relation = window_reads(image, size, stride=size if stride is None else stride, padding=padding)
    dx = np.zeros(images.shape)
    for n, c in np.ndindex(*images.shape[:2]):
        values, received = images[n, c].tolist(), [[] for _ in relation.of_pixel]
        for window, given in zip(relation.of_output, gradients[n, c].tolist(), strict=True):
            received[first_maximum(values, [i for _, i in window])].append(given)
        dx[n, c] = [total(terms) for terms in received]
    return close_images(dx, image, layout, batched=np.ndim(x) > len(size) + 1)


def avg_pool_forward(x, size, *, stride=None, padding=0, layout="channels_last"):
    """y[n,c,o] = the sum of x[n,c,i] over the i in the window of o, divided by its full size, padding counted.

    It is the convolution of every channel with a kernel of ones, divided.

    >>> avg_pool_forward([[1.0], [5.0], [2.0], [4.0]], (2,), padding=1).ravel()
    array([0.5, 3.5, 2. ])
    """
    images, image = open_images(x, len(size), layout)
    out, relation = window_reads(image, size, stride=size if stride is None else stride, padding=padding)
    channels, taps = images.shape[1], math.prod(size)
    y = sums_at_outputs(images, np.ones((channels, 1, taps)), relation, groups=channels) / taps
    return close_images(y, out, layout, batched=np.ndim(x) > len(size) + 1)


def avg_pool_backward(dy, x_shape, size, *, stride=None, padding=0, layout="channels_last"):
    """dx[n,c,i] = the sum of dy[n,c,o] over the windows o that hold i, divided by the full size of a window.

    >>> avg_pool_backward([[2.0], [4.0], [6.0]], (4, 1), (2,), padding=1).ravel()
    array([1., 2., 2., 3.])
    """
    gradients, _ = open_images(dy, len(size), layout)
    image = x_shape[-len(size) - 1:-1] if layout == "channels_last" else x_shape[-len(size):]
    _, relation = window_reads(image, size, stride=size if stride is None else stride, padding=padding)
    channels, taps = gradients.shape[1], math.prod(size)
    dx = sums_at_pixels(gradients, np.ones((channels, 1, taps)), relation, groups=channels) / taps
    return close_images(dx, image, layout, batched=len(x_shape) > len(size) + 1)


# ---------------------------------------------------------------------------------------------- recurrence, a step


def identity(value):
    """A float as it is."""
    return value


SLOPES = {  # s'(a) by the value h = s(a)
    "identity": lambda h: np.ones_like(h),
    "relu": lambda h: (h > 0).astype(np.float64),
    "tanh": lambda h: 1 - h * h,
    "sigmoid": lambda h: h * (1 - h),
}


class Weights(NamedTuple):
    """The parameters of a cell: W, U, b, b' and, for an LSTM with a projection, V. A bias left out is zero."""

    w_ih: np.ndarray
    w_hh: np.ndarray
    b_ih: np.ndarray
    b_hh: np.ndarray
    w_hr: np.ndarray | None


class Step(NamedTuple):
    """One step of one row, as the backward pass needs it."""

    time: int
    x: np.ndarray
    before: tuple  # the state it started from, (h,) or (h, c)
    after: tuple  # the state it led to
    gates: np.ndarray


def each(function, values):
    """A function of floats, of every element of a vector."""
    return np.array([function(value) for value in values.tolist()])


def times(matrix, vector):
    """The product matrix @ vector, every sum rounded once.

    >>> times(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1.0, 10.0]))
    array([21., 43.])
    """
    vector = vector.tolist()
    return np.array([total(map(mul, row, vector)) for row in matrix.tolist()])


def rnn_step(w, x, state, activation):
    """h' = s(W x + b + U h + b'). Its only gate is h' itself."""
    (h,) = state
    h_next = each(identity if activation == "identity" else ACTIVATIONS[activation],
                  times(w.w_ih, x) + w.b_ih + times(w.w_hh, h) + w.b_hh)
    return (h_next,), h_next


def rnn_step_backward(w, step, dstate, activation):
    """From dh' to dx, dh and what this step adds to the gradient of each parameter; da is that of s's argument."""
    (dh_next,), (h,), (h_next,) = dstate, step.before, step.after
    da = dh_next * SLOPES[activation](h_next)
    dw = {"w_ih": np.outer(da, step.x), "w_hh": np.outer(da, h), "b_ih": da, "b_hh": da}
    return times(w.w_ih.T, da), (times(w.w_hh.T, da),), dw


def lstm_step(w, x, state):
    """i, f, o = sigmoid and g = tanh of W x + b + U h + b';  c' = f c + i g;  h' = o tanh(c'), or V (o tanh(c'))."""
    h, c = state
    a_i, a_f, a_g, a_o = np.split(times(w.w_ih, x) + w.b_ih + times(w.w_hh, h) + w.b_hh, 4)
    i, f, g, o = each(sigmoid, a_i), each(sigmoid, a_f), each(tanh, a_g), each(sigmoid, a_o)
    c_next = f * c + i * g
    m = o * each(tanh, c_next)
    h_next = m if w.w_hr is None else times(w.w_hr, m)
    return (h_next, c_next), np.concatenate([i, f, g, o])


def lstm_step_backward(w, step, dstate):
    """From dh', dc' to dx, (dh, dc) and what this step adds to the gradient of each parameter."""
    (dh_next, dc_next), (h, c), (_, c_next) = dstate, step.before, step.after
    i, f, g, o = np.split(step.gates, 4)
    tanh_c = each(tanh, c_next)
    dm = dh_next if w.w_hr is None else times(w.w_hr.T, dh_next)
    dc_next = dc_next + dm * o * (1 - tanh_c**2)
    di, df, dg, do = dc_next * g, dc_next * c, dc_next * i, dm * tanh_c
    da = np.concatenate([di * i * (1 - i), df * f * (1 - f), dg * (1 - g**2), do * o * (1 - o)])
    dw = {"w_ih": np.outer(da, step.x), "w_hh": np.outer(da, h), "b_ih": da, "b_hh": da,
          "w_hr": np.outer(dh_next, o * tanh_c)}
    return times(w.w_ih.T, da), (times(w.w_hh.T, da), dc_next * f), dw


def gru_step(w, x, state, reset_after):
    """r, z = sigmoid(W x + b + U h + b');  h' = (1 - z) n + z h, with

    n = tanh(W x + b + r (U h + b')) if `reset_after`, else tanh(W x + b + U (r h) + b').
    """
    (h,) = state
    a_r, a_z, a_n = np.split(times(w.w_ih, x) + w.b_ih, 3)
    (u_r, u_z, u_n), (b_r, b_z, b_n) = np.split(w.w_hh, 3), np.split(w.b_hh, 3)
    r = each(sigmoid, a_r + times(u_r, h) + b_r)
    z = each(sigmoid, a_z + times(u_z, h) + b_z)
    n = each(tanh, a_n + (r * (times(u_n, h) + b_n) if reset_after else times(u_n, r * h) + b_n))
    return ((1 - z) * n + z * h,), np.concatenate([r, z, n])


def gru_step_backward(w, step, dstate, reset_after):
    """From dh' to dx, dh and what this step adds to the gradient of each parameter.

    da is the gradient at W x + b, du that at U h + b' or, for n without `reset_after`, at U (r h) + b'.
    """
    (dh_next,), (h,) = dstate, step.before
    r, z, n = np.split(step.gates, 3)
    (u_r, u_z, u_n), b_n = np.split(w.w_hh, 3), np.split(w.b_hh, 3)[2]
    da_n = dh_next * (1 - z) * (1 - n**2)
    if reset_after:
        du_n, read = da_n * r, h
        dr = da_n * (times(u_n, h) + b_n)
        dh = dh_next * z + times(u_n.T, du_n)
    else:
        du_n, read = da_n, r * h
        dr = times(u_n.T, du_n) * h
        dh = dh_next * z + times(u_n.T, du_n) * r
    da_r = dr * r * (1 - r)
    da_z = dh_next * (h - n) * z * (1 - z)
    dh = dh + times(u_r.T, da_r) + times(u_z.T, da_z)
    da = np.concatenate([da_r, da_z, da_n])
    dw = {"w_ih": np.outer(da, step.x), "b_ih": da, "b_hh": np.concatenate([da_r, da_z, du_n]),
          "w_hh": np.concatenate([np.outer(da_r, h), np.outer(da_z, h), np.outer(du_n, read)])}
    return times(w.w_ih.T, da), (dh,), dw


# -------------------------------------------------------------------------------------- recurrence, through time


class RecurrentCache(NamedTuple):
    """What a forward pass leaves to the backward pass, and what it shows: every h, c and gate, zero past a row's end.

    rows holds the steps of each row in the order in which they were taken.
    """

    h: np.ndarray  # (T, B, R)
    c: np.ndarray | None  # (T, B, H), of an LSTM
    gates: np.ndarray  # (T, B, G*H)
    rows: list
    weights: Weights
    given: tuple  # the names of the parameters that were not None
    options: dict
    shapes: tuple  # of x and of the parts of the state, as they came


def unroll(step, gates, x, parameters, state, lengths, reverse, **options):
    """Takes every row, by itself, from its first step to its last; or, in reverse, from its last time to its first.

    A cell gives its `step` and its number of gates. Returns y, the state after each row's last step, and the cache.
    """
    given = tuple(name for name, array in parameters.items() if array is not None)
    parameters = {name: None if array is None else np.asarray(array, dtype=np.float64)
                  for name, array in parameters.items()}
    zeros = np.zeros(len(parameters["w_hh"]))
    w = Weights(**parameters | {name: zeros for name in ("b_ih", "b_hh") if parameters[name] is None})
    x = np.asarray(x, dtype=np.float64)
    batch, hidden = x.shape[1:-1], w.w_hh.shape[0] // gates
    widths = (w.w_hh.shape[1], hidden) if step is lstm_step else (hidden,)
    if state is None:
        state = tuple(np.zeros((*batch, width)) for width in widths)
    parts = [np.asarray(part, dtype=np.float64) for part in (state if isinstance(state, tuple) else (state,))]
    shapes = (x.shape, *(part.shape for part in parts))
    x, parts = x if batch else x[:, None], [np.atleast_2d(part) for part in parts]
    (T, B, _), last = x.shape, [part.copy() for part in parts]
    series = [np.zeros((T, B, width)) for width in (*widths, gates * hidden)]
    rows = []
    for b in range(B):
        current, steps = tuple(part[b] for part in parts), []
        order = range(T if lengths is None else int(lengths[b]))
        for t in reversed(order) if reverse else order:
            after, values = step(w, x[t, b], current, **options)
            steps.append(Step(t, x[t, b], current, after, values))
            current = after
            for kept, vector in zip(series, (*after, values), strict=True):
                kept[t, b] = vector
        for part, vector in zip(last, current, strict=True):
            part[b] = vector
        rows.append(steps)
    cache = RecurrentCache(series[0], series[1] if step is lstm_step else None, series[-1], rows, w, given, options,
                           shapes)
    y = series[0].reshape(T, *batch, widths[0])
    return y, as_state(last, shapes), cache


def as_state(parts, shapes):
    """The parts of a state in the shapes that they came in; a single one by itself, not in a tuple."""
    parts = tuple(part.reshape(shape) for part, shape in zip(parts, shapes[1:], strict=True))
    return parts if len(parts) > 1 else parts[0]


def propagate(step_backward, dy, cache, dstate, truncate):
    """Backpropagation through time, for every row by itself, from the last step that it took to the first.

    The gradient at h is what dy and the step after it send; that step's share is dropped where `truncate` divides
    the number of steps taken before it. Every parameter's gradient is the sum over all steps of all rows.
    """
    x_shape, *state_shapes = cache.shapes
    T, B, _ = cache.h.shape
    dy = np.asarray(dy, dtype=np.float64).reshape(cache.h.shape)
    if dstate is None:
        dstate = tuple(np.zeros(shape) for shape in state_shapes)
    dstate = dstate if isinstance(dstate, tuple) else (dstate,)
    dparts = [np.array(part, dtype=np.float64, ndmin=2) for part in dstate]
    dx, dh = np.zeros((T, B, x_shape[-1])), np.zeros(cache.h.shape)
    added = {name: [] for name in cache.given}
    for b, steps in enumerate(cache.rows):
        from_after = tuple(part[b] for part in dparts)
        for taken, step in reversed(list(enumerate(steps))):
            dh[step.time, b] = dy[step.time, b] + from_after[0]
            dnext = (dh[step.time, b], *from_after[1:])
            dx[step.time, b], from_after, dw = step_backward(cache.weights, step, dnext, **cache.options)
            for name in cache.given:
                added[name].append(dw[name])
            if truncate is not None and taken > 0 and taken % truncate == 0:
                from_after = tuple(np.zeros_like(part) for part in from_after)
        for part, vector in zip(dparts, from_after, strict=True):
            part[b] = vector
    grads = {name: sum_of(added[name], getattr(cache.weights, name).shape) if name in cache.given else None
             for name in ("w_ih", "w_hh", "b_ih", "b_hh")}
    if "w_hr" in cache.given:
        grads["w_hr"] = sum_of(added["w_hr"], cache.weights.w_hr.shape)
    return {"x": dx.reshape(x_shape), **grads, "state": as_state(dparts, cache.shapes), "h": dh}


def sum_of(arrays, shape):
    """The sum of arrays of one shape, every element rounded once."""
    elements = zip(*(array.ravel().tolist() for array in arrays), strict=True)
    return np.reshape([total(terms) for terms in elements], shape) if arrays else np.zeros(shape)


def rnn_forward(x, w_ih, w_hh, b_ih=None, b_hh=None, state=None, *, activation="tanh", lengths=None, reverse=False):
    """y, the last state and the cache of a vanilla RNN, as `convrnn.rnn`.

    h_t = s(W x_t + b + U h_{t-1} + b'), that is H_t = s(X_t W_X + H_{t-1} W_H + b) with the states in rows.

    >>> y, state, cache = rnn_forward([[1.0], [2.0], [3.0]], [[1.0]], [[10.0]], activation="identity")
    >>> y.ravel(), state
    (array([  1.,  12., 123.]), array([123.]))
    """
    parameters = {"w_ih": w_ih, "w_hh": w_hh, "b_ih": b_ih, "b_hh": b_hh, "w_hr": None}
    return unroll(rnn_step, 1, x, parameters, state, lengths, reverse, activation=activation)


def rnn_backward(dy, cache, dstate=None, *, truncate=None):
    """The gradients of <dy, y> + <dstate, state>: a dict "x", "w_ih", "w_hh", "b_ih", "b_hh", "state", and "h".

    "h" (T, B, R) is dL/dh_t, of every hidden state. For h_t = s(a_t), t = T, .., 1:

    dh_t = dy_t + U^T da_{t+1}        da_t = dh_t s'(a_t)        dx_t = W^T da_t
    dW = sum_t da_t x_t^T             dU = sum_t da_t h_{t-1}^T             db = db' = sum_t da_t

    >>> y, state, cache = rnn_forward([[1.0], [2.0], [3.0]], [[1.0]], [[10.0]], activation="identity")
    >>> grads = rnn_backward([[0.0], [0.0], [1.0]], cache)
    >>> grads["x"].ravel(), grads["w_ih"], grads["w_hh"], grads["state"]
    (array([100.,  10.,   1.]), array([[123.]]), array([[22.]]), array([1000.]))
    >>> rnn_backward([[0.0], [0.0], [1.0]], cache, truncate=2)["x"].ravel()
    array([0., 0., 1.])
    """
    return propagate(rnn_step_backward, dy, cache, dstate, truncate)


def lstm_forward(x, w_ih, w_hh, b_ih=None, b_hh=None, state=None, *, w_hr=None, lengths=None, reverse=False):
    """y, the last state (h, c) and the cache of an LSTM, as `convrnn.lstm`; the equations stand with `lstm_step`.

    Weights of zero leave all gates half open:

    >>> y, (h, c), cache = lstm_forward(np.ones((3, 1)), np.zeros((4, 1)), np.zeros((4, 1)), state=([0.0], [8.0]))
    >>> cache.c.ravel(), c
    (array([4., 2., 1.]), array([1.]))
    """
    parameters = {"w_ih": w_ih, "w_hh": w_hh, "b_ih": b_ih, "b_hh": b_hh, "w_hr": w_hr}
    return unroll(lstm_step, 4, x, parameters, state, lengths, reverse)


def lstm_backward(dy, cache, dstate=None, *, truncate=None):
    """The gradients of <dy, y> + <dh, h> + <dc, c>, dstate being (dh, dc); as `rnn_backward`, and "w_hr" if given."""
    return propagate(lstm_step_backward, dy, cache, dstate, truncate)


def gru_forward(x, w_ih, w_hh, b_ih=None, b_hh=None, state=None, *, reset_after=True, lengths=None, reverse=False):
    """y, the last state and the cache of a GRU, as `convrnn.gru`; the equations stand with `gru_step`.

    >>> gru_forward(np.ones((3, 1)), np.zeros((3, 1)), np.zeros((3, 1)), state=[8.0])[0].ravel()
    array([4., 2., 1.])
    """
    parameters = {"w_ih": w_ih, "w_hh": w_hh, "b_ih": b_ih, "b_hh": b_hh, "w_hr": None}
    return unroll(gru_step, 3, x, parameters, state, lengths, reverse, reset_after=reset_after)


def gru_backward(dy, cache, dstate=None, *, truncate=None):
    """The gradients of <dy, y> + <dstate, state>, as `rnn_backward`."""
    return propagate(gru_step_backward, dy, cache, dstate, truncate)


# ------------------------------------------------------------------------------------------------ the output layer


def linear_forward(x, w, b):
    """y = W x + b for every vector x along the last axis: the head O_t = H_t W_2 + b_2, with W_2 = W^T.

    >>> linear_forward([[1.0, 10.0]], [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [0.0, 0.0, 0.5])
    array([[21. , 43. , 65.5]])
    """
    x, w = np.asarray(x, dtype=np.float64), np.asarray(w, dtype=np.float64)
    return np.reshape([times(w, row) + b for row in x.reshape(-1, x.shape[-1])], (*x.shape[:-1], len(w)))


def linear_backward(dy, x, w):
    """The gradients (dx, dw, db) of <dy, linear_forward(x, w, b)>: dx = W^T dy, dw = sum dy x^T, db = sum dy."""
    dy, x, w = (np.asarray(array, dtype=np.float64) for array in (dy, x, w))
    gradients, vectors = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1])
    dx = np.reshape([times(w.T, row) for row in gradients], x.shape)
    return dx, sum_of(list(map(np.outer, gradients, vectors)), w.shape), sum_of(list(gradients), (len(w),))
