"""Convolution of arrays: forward, backward and transposed, in one, two and three dimensions.

Letters: N batch, C in-channels, K out-channels, D H W image, KD KH KW kernel, OD OH OW output; gradients are dx, dw, db
of a scalar loss whose gradient at y is dy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core
from .arguments import (as_array, as_output, as_vector, boolean, channels_first, choice, explicit_padding, integer,
                        per_axis, real_dtype, resolve_padding, shape_of)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import SupportsIndex

    from numpy.typing import ArrayLike, DTypeLike

    from .arguments import ExplicitPadding, Padding, PerAxis

    # dx, dw, db. None where not needed, but Any says so: what was asked for is there, and need not be checked for None.
    Gradients = tuple[np.ndarray | Any, np.ndarray | Any, np.ndarray | Any]


def _geometry(rank: int, x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: PerAxis, padding: Padding,
              dilation: PerAxis, groups: SupportsIndex, layout: str, padding_mode: str,
              algorithm: str) -> _core.Geometry:
    """The convolution of arrays of these shapes, its options resolved. Plain ints pass as they are: they are checked
    further down, and most calls have nothing else."""
    if type(stride) is not int:
        stride = per_axis("stride", stride, rank)
    if type(dilation) is not int:
        dilation = per_axis("dilation", dilation, rank)
    if type(groups) is not int:
        groups = integer("groups", groups, 1)
    first = channels_first(layout)
    if type(padding) is not int:
        padding = resolve_padding(padding, rank, x_shape, w_shape, stride, dilation, first)
    return _core.Geometry(rank, first, x_shape, w_shape, stride, padding, dilation, groups,
                          choice("padding_mode", padding_mode, _core.PAD_MODES),
                          choice("algorithm", algorithm, _core.ALGORITHMS))


def _transposed_geometry(rank: int, x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: PerAxis,
                         padding: ExplicitPadding, output_padding: PerAxis, dilation: PerAxis, groups: SupportsIndex,
                         layout: str) -> _core.Geometry:
    """The convolution whose input gradient this transposed one is: x_shape and y_shape are exchanged."""
    return _core.Geometry.of_transposed(
        rank, channels_first(layout), x_shape, w_shape, per_axis("stride", stride, rank),
        explicit_padding(padding, rank), per_axis("output_padding", output_padding, rank, 0),
        per_axis("dilation", dilation, rank), integer("groups", groups, 1))


def _oriented(w: np.ndarray, rank: int, layout: str, flip: bool) -> np.ndarray:
    """w, or if flip a view of it with its kernel axes reversed."""
    kernel = (slice(None, None, -1 if boolean("flip", flip) else 1),) * rank
    return w[(slice(None), slice(None), *kernel)] if layout == "channels_first" else w[kernel]


# ---- any rank ----


def _conv(rank: int, x: ArrayLike, w: ArrayLike, b: ArrayLike | None, stride: PerAxis, padding: Padding,
          dilation: PerAxis, groups: SupportsIndex, layout: str, flip: bool, padding_mode: str, activation: str | None,
          algorithm: str, out: np.ndarray | None) -> np.ndarray:
    if out is None and flip is False:
        y = _core.convolve(rank, x, w, b, stride, padding, dilation, groups, layout, padding_mode, activation,
                           algorithm)
        if y is not None:
            return y
    given = x, w, b
    x = as_array("x", x)
    w = as_array("w", w, x.dtype)
    fused = choice("activation", activation, _core.ACTIVATIONS)
    geometry = _geometry(rank, x.shape, w.shape, stride, padding, dilation, groups, layout, padding_mode, algorithm)
    if b is not None:
        b = as_vector("b", b, geometry.filters, x.dtype)
    y = geometry.new_output(x) if out is None else as_output(out, geometry.y_shape, x.dtype, given)
    if flip is not False:
        w = _oriented(w, rank, layout, flip)
    _core.conv_forward(geometry, x, w, b, y, fused)
    return y if out is None else out


class FrozenConv:
    """conv1d, conv2d or conv3d, bit for bit, with weights that are always the same: what can be computed of them alone
    is kept, and so is what was made of the last shape of x. options: those of conv1d, but for flip, activation,
    algorithm and out; all of them."""

    def __init__(self, rank: int, w: np.ndarray, b: np.ndarray | None, **options: Any) -> None:
        self._rank, self._w, self._b, self._options = rank, w, b, options
        self._forget()

    def _forget(self) -> None:
        self._weights: dict[tuple[int, str], np.ndarray] = {}  # algorithms and sizes of tiles have sizes of their own
        self._last: tuple[Any, Any, Any] = None, None, None  # replaced as a whole: threads may call at once

    def __getstate__(self) -> dict[str, Any]:
        return {"_rank": self._rank, "_w": self._w, "_b": self._b, "_options": self._options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __call__(self, x: ArrayLike, activation: str | None = None) -> np.ndarray:
        x = as_array("x", x, self._w.dtype)
        fused = choice("activation", activation, _core.ACTIVATIONS)
        seen = x.shape, _core.isa()
        last, geometry, weights = self._last
        if last != seen:
            geometry = _geometry(self._rank, x.shape, self._w.shape, algorithm="auto", **self._options)
            key = _core.conv_prepared_size(geometry, self._w), seen[1]
            weights = self._weights.get(key)
            if weights is None:
                weights = self._weights[key] = _core.conv_prepare(geometry, self._w)
            self._last = seen, geometry, weights
        y = geometry.new_output(x)
        _core.conv_forward_prepared(geometry, x, weights, self._b, y, fused)
        return y


def _conv_backward(rank: int, dy: ArrayLike, x: ArrayLike, w: ArrayLike, stride: PerAxis, padding: Padding,
                   dilation: PerAxis, groups: SupportsIndex, layout: str, flip: bool, padding_mode: str,
                   algorithm: str, needs: Iterable[str]) -> Gradients:
    x = as_array("x", x)
    w = as_array("w", w, x.dtype)
    dy = as_array("dy", dy, x.dtype)
    need_x, need_w, need_b = _parse_needs(needs)
    geometry = _geometry(rank, x.shape, w.shape, stride, padding, dilation, groups, layout, padding_mode, algorithm)
    geometry.algorithm(x.itemsize == 8)  # raises where it does not apply, whatever is needed
    if dy.shape != geometry.y_shape:
        raise ValueError(f"dy must have the shape of the output, {geometry.y_shape}, got {dy.shape}")
    dx = dw = db = None
    if need_x:
        dx = _core.empty_like(x, dy)
        _core.conv_backward_data(geometry, dy, w if flip is False else _oriented(w, rank, layout, flip), None, dx)
    if need_w:
        dw = _core.empty_like(w, x)
        _core.conv_backward_weights(geometry, dy, x, dw if flip is False else _oriented(dw, rank, layout, flip))
    if need_b:
        db = np.empty(geometry.filters, x.dtype)
        _core.conv_backward_bias(geometry, dy, db)
    return dx, dw, db


def _parse_needs(needs: Iterable[str]) -> tuple[bool, bool, bool]:
    try:
        needs = tuple(needs)
    except TypeError:
        raise TypeError(f"needs must hold some of 'x', 'w', 'b', got {needs!r}") from None
    for name in needs:
        if not isinstance(name, str) or name not in ("x", "w", "b"):
            raise ValueError(f"needs must hold some of 'x', 'w', 'b', got {name!r}")
    return "x" in needs, "w" in needs, "b" in needs


def _conv_transpose(rank: int, x: ArrayLike, w: ArrayLike, b: ArrayLike | None, stride: PerAxis,
                    padding: ExplicitPadding, output_padding: PerAxis, dilation: PerAxis, groups: SupportsIndex,
                    layout: str, out: np.ndarray | None) -> np.ndarray:
    given = x, w, b
    x = as_array("x", x)
    w = as_array("w", w, x.dtype)
    geometry = _transposed_geometry(rank, x.shape, w.shape, stride, padding, output_padding, dilation, groups, layout)
    b = as_vector("b", b, geometry.channels, x.dtype)
    y = as_output(out, geometry.x_shape, x.dtype, given)
    _core.conv_backward_data(geometry, x, w, b, y)
    return y if out is None else out


def _conv_transpose_backward(rank: int, dy: ArrayLike, x: ArrayLike, w: ArrayLike, stride: PerAxis,
                             padding: ExplicitPadding, output_padding: PerAxis, dilation: PerAxis,
                             groups: SupportsIndex, layout: str, needs: Iterable[str]) -> Gradients:
    x = as_array("x", x)
    w = as_array("w", w, x.dtype)
    dy = as_array("dy", dy, x.dtype)
    need_x, need_w, need_b = _parse_needs(needs)
    geometry = _transposed_geometry(rank, x.shape, w.shape, stride, padding, output_padding, dilation, groups, layout)
    if dy.shape != geometry.x_shape:
        raise ValueError(f"dy must have the shape of the output, {geometry.x_shape}, got {dy.shape}")
    dx = dw = db = None
    if need_x:
        dx = _core.empty_like(x, dy)
        _core.conv_forward(geometry, dy, w, None, dx, _core.ACTIVATIONS[None])
    if need_w:
        dw = _core.empty_like(w, x)
        _core.conv_backward_weights(geometry, x, dy, dw)
    if need_b:
        db = np.empty(geometry.channels, x.dtype)
        _core.conv_backward_bias(geometry.of_bias(), dy, db)
    return dx, dw, db


# ---- forward ----


def conv1d(x: ArrayLike, w: ArrayLike, b: ArrayLike | None = None, *, stride: PerAxis = 1, padding: Padding = 0,
           dilation: PerAxis = 1, groups: SupportsIndex = 1, layout: str = "channels_last", flip: bool = False,
           padding_mode: str = "constant", activation: str | None = None, algorithm: str = "auto",
           out: np.ndarray | None = None) -> np.ndarray:
    """Convolution of signals; see :func:`conv2d`.

    Parameters
    ----------
    x : (N, W, C) or (W, C) array; channels_first (N, C, W) or (C, W)
    w : (KW, C/groups, K) array; channels_first (K, C/groups, KW)

    Returns
    -------
    y : (N, OW, K) array; channels_first (N, K, OW)

    Examples
    --------
    >>> import numpy as np, convrnn as cr
    >>> x, w = np.array([1., 2., 3., 4.])[:, None], np.array([1., 10.])[:, None, None]
    >>> cr.conv1d(x, w)[:, 0]
    array([21., 32., 43.])
    >>> cr.conv1d(x, w, padding="causal")[:, 0]
    array([10., 21., 32., 43.])
    """
    return _conv(1, x, w, b, stride, padding, dilation, groups, layout, flip, padding_mode, activation, algorithm,
                 out)


def conv2d(x: ArrayLike, w: ArrayLike, b: ArrayLike | None = None, *, stride: PerAxis = 1, padding: Padding = 0,
           dilation: PerAxis = 1, groups: SupportsIndex = 1, layout: str = "channels_last", flip: bool = False,
           padding_mode: str = "constant", activation: str | None = None, algorithm: str = "auto",
           out: np.ndarray | None = None) -> np.ndarray:
    """Convolution of images: one small kernel, shared over all positions.

    ``y[n,o,p,k] = act(b[k] + sum_{i,j,c} w[i,j,c,k] x[n, o*sh + i*dh - low_h, p*sw + j*dw - low_w, c])``, with
    ``OH = floor((H + low + high - dilation*(KH-1) - 1) / stride) + 1``: H - KH + 1 without options.

    Parameters
    ----------
    x : (N, H, W, C) or (H, W, C) array of float32 or float64; channels_first (N, C, H, W) or (C, H, W)
        The images, with any strides. Never written to.
    w : (KH, KW, C/groups, K) array; channels_first (K, C/groups, KH, KW)
        The kernels, of the dtype of x.
    b : (K,) array, optional
        The bias.
    stride, dilation : int or one per axis
        Pixels from one output to the next, and from one tap to the next; at least 1.
    padding : int, sequence or str
        Cells beyond the image: one int; an int or a (low, high) pair for each axis; or "valid" (none), "same" (as
        many outputs as pixels / stride, the odd cell after), "same_lower" (before), "full", "causal" (one axis only).
    groups : int
        Divides C and K: the channels are convolved in that many groups that do not see each other.
    layout : {"channels_last", "channels_first"}
    flip : bool
        False is cross-correlation, what networks call convolution; True the convolution of mathematics.
    padding_mode : {"constant", "reflect", "symmetric", "edge", "wrap"}
        What lies beyond the image, as in numpy.pad; "constant" is zeros, and is skipped, not multiplied.
    activation : {None, "relu", "tanh", "sigmoid"}
        Applied to the result.
    algorithm : {"auto", "direct", "winograd"}
        "direct" adds the products one by one. "winograd" needs up to four times fewer multiplications, for 3x3 kernels
        of stride and dilation 1 with zeros beyond the image, and raises for others; its rounding errors are larger, and
        a NaN or an infinity may reach any output of the same tile of 4x4. "auto" takes it in float32 where it is
        faster, as :func:`conv_algorithm` says: by channels and size of the image, never by N.
    out : C-contiguous array, optional
        Takes the result; must not overlap an input.

    Returns
    -------
    y : (N, OH, OW, K) array; channels_first (N, K, OH, OW); without N if x has no batch

    Raises
    ------
    TypeError
        An array is neither float32 nor float64, or the dtypes differ.
    ValueError
        Shapes or options that do not fit together, or a kernel whose extent exceeds the padded image.
    MemoryError
        The result does not fit in memory.

    Examples
    --------
    >>> import numpy as np, convrnn as cr
    >>> x = np.arange(9.0).reshape(3, 3, 1)
    >>> w = np.array([[0.0, 1.0], [2.0, 3.0]]).reshape(2, 2, 1, 1)
    >>> cr.conv2d(x, w)[..., 0]
    array([[19., 25.],
           [37., 43.]])
    """
    return _conv(2, x, w, b, stride, padding, dilation, groups, layout, flip, padding_mode, activation, algorithm,
                 out)


def conv3d(x: ArrayLike, w: ArrayLike, b: ArrayLike | None = None, *, stride: PerAxis = 1, padding: Padding = 0,
           dilation: PerAxis = 1, groups: SupportsIndex = 1, layout: str = "channels_last", flip: bool = False,
           padding_mode: str = "constant", activation: str | None = None, algorithm: str = "auto",
           out: np.ndarray | None = None) -> np.ndarray:
    """Convolution of volumes; see :func:`conv2d`.

    Parameters
    ----------
    x : (N, D, H, W, C) or (D, H, W, C) array; channels_first (N, C, D, H, W) or (C, D, H, W)
    w : (KD, KH, KW, C/groups, K) array; channels_first (K, C/groups, KD, KH, KW)

    Returns
    -------
    y : (N, OD, OH, OW, K) array; channels_first (N, K, OD, OH, OW)

    Examples
    --------
    >>> import numpy as np, convrnn as cr
    >>> cr.conv3d(np.ones((4, 5, 6, 2)), np.ones((3, 3, 3, 2, 1))).shape
    (2, 3, 4, 1)
    """
    return _conv(3, x, w, b, stride, padding, dilation, groups, layout, flip, padding_mode, activation, algorithm,
                 out)


# ---- backward ----


def conv1d_backward(dy: ArrayLike, x: ArrayLike, w: ArrayLike, *, stride: PerAxis = 1, padding: Padding = 0,
                    dilation: PerAxis = 1, groups: SupportsIndex = 1, layout: str = "channels_last",
                    flip: bool = False, padding_mode: str = "constant", algorithm: str = "auto",
                    needs: Iterable[str] = ("x", "w", "b")) -> Gradients:
    """Gradients of :func:`conv1d`; see :func:`conv2d_backward`.

    Examples
    --------
    >>> import numpy as np, convrnn as cr
    >>> x, w = np.array([1., 2., 3., 4.])[:, None], np.array([1., 10.])[:, None, None]
    >>> dx, dw, db = cr.conv1d_backward(np.array([[1.0], [0.0], [2.0]]), x, w)
    >>> dx[:, 0], dw[:, 0, 0], db
    (array([ 1., 10.,  2., 20.]), array([ 7., 10.]), array([3.]))
    """
    return _conv_backward(1, dy, x, w, stride, padding, dilation, groups, layout, flip, padding_mode, algorithm, needs)


def conv2d_backward(dy: ArrayLike, x: ArrayLike, w: ArrayLike, *, stride: PerAxis = 1, padding: Padding = 0,
                    dilation: PerAxis = 1, groups: SupportsIndex = 1, layout: str = "channels_last",
                    flip: bool = False, padding_mode: str = "constant", algorithm: str = "auto",
                    needs: Iterable[str] = ("x", "w", "b")) -> Gradients:
    """Gradients of :func:`conv2d` from that of its output: convolutions again.

    ``dw[i,j,c,k] = sum_{n,o,p} dy[n,o,p,k] x[n, o*sh + i*dh - low_h, p*sw + j*dw - low_w, c]`` is the convolution of x
    with dy; dx, that of dy with the flipped w; ``db[k] = sum_{n,o,p} dy[n,o,p,k]``.

    Parameters
    ----------
    dy : array of the shape of conv2d(x, w)
        The gradient at the output, before any activation.
    x, w, stride, padding, dilation, groups, layout, flip, padding_mode, algorithm
        As in the forward call. The algorithm is that of dx and of dw; db is always computed directly. "auto" takes
        "winograd" for dw from 16 channels (of a group) and 7x7 outputs on, also where it is not worth it for y and dx.
    needs : iterable of {"x", "w", "b"}
        Which gradients to compute.

    Returns
    -------
    dx, dw, db : arrays of the shapes of x, w and (K,); None where not needed

    Raises
    ------
    TypeError, ValueError, MemoryError
        As the forward call.

    Examples
    --------
    >>> import numpy as np, convrnn as cr
    >>> x, w = np.arange(9.0).reshape(3, 3, 1), np.array([[0.0, 1.0], [2.0, 3.0]]).reshape(2, 2, 1, 1)
    >>> dx, dw, db = cr.conv2d_backward(np.ones((2, 2, 1)), x, w)
    >>> dx[..., 0]
    array([[0., 1., 1.],
           [2., 6., 4.],
           [2., 5., 3.]])
    """
    return _conv_backward(2, dy, x, w, stride, padding, dilation, groups, layout, flip, padding_mode, algorithm, needs)


def conv3d_backward(dy: ArrayLike, x: ArrayLike, w: ArrayLike, *, stride: PerAxis = 1, padding: Padding = 0,
                    dilation: PerAxis = 1, groups: SupportsIndex = 1, layout: str = "channels_last",
                    flip: bool = False, padding_mode: str = "constant", algorithm: str = "auto",
                    needs: Iterable[str] = ("x", "w", "b")) -> Gradients:
    """Gradients of :func:`conv3d`; see :func:`conv2d_backward`.

    Examples
    --------
    >>> import numpy as np, convrnn as cr
    >>> dx, dw, db = cr.conv3d_backward(np.ones((2, 2, 2, 1)), np.ones((3, 3, 3, 1)), np.ones((2, 2, 2, 1, 1)))
    >>> dx.shape, dw.shape, db
    ((3, 3, 3, 1), (2, 2, 2, 1, 1), array([8.]))
    """
    return _conv_backward(3, dy, x, w, stride, padding, dilation, groups, layout, flip, padding_mode, algorithm, needs)


# ---- transposed ----


def conv_transpose1d(x: ArrayLike, w: ArrayLike, b: ArrayLike | None = None, *, stride: PerAxis = 1,
                     padding: ExplicitPadding = 0, output_padding: PerAxis = 0, dilation: PerAxis = 1,
                     groups: SupportsIndex = 1, layout: str = "channels_last",
                     out: np.ndarray | None = None) -> np.ndarray:
    """Transposed convolution of signals; see :func:`conv_transpose2d`.

    Examples
    --------
    >>> import numpy as np, convrnn as cr
    >>> x, w = np.array([[1.0], [2.0]]), np.array([1.0, 10.0])[:, None, None]
    >>> cr.conv_transpose1d(x, w, stride=2)[:, 0]
    array([ 1., 10.,  2., 20.])
    """
    return _conv_transpose(1, x, w, b, stride, padding, output_padding, dilation, groups, layout, out)


def conv_transpose2d(x: ArrayLike, w: ArrayLike, b: ArrayLike | None = None, *, stride: PerAxis = 1,
                     padding: ExplicitPadding = 0, output_padding: PerAxis = 0, dilation: PerAxis = 1,
                     groups: SupportsIndex = 1, layout: str = "channels_last",
                     out: np.ndarray | None = None) -> np.ndarray:
    """Transposed convolution of images: every pixel of x adds a copy of the kernel, times its value, to y.

    It is the input gradient of the convolution with the same w, from y to x.
    ``OH = (H-1)*stride - low - high + dilation*(KH-1) + output_padding + 1``.

    Parameters
    ----------
    x : (N, H, W, C) or (H, W, C) array of float32 or float64; channels_first (N, C, H, W) or (C, H, W)
    w : (KH, KW, K/groups, C) array; channels_first (C, K/groups, KH, KW)
    b : (K,) array, optional
    stride, dilation : int or one per axis
    padding : int, or an int or a (low, high) pair for each axis
        Cells cut off the result.
    output_padding : int or one per axis
        Cells added after the result; less than the larger of stride and dilation.
    groups : int
    layout : {"channels_last", "channels_first"}
    out : C-contiguous array, optional

    Returns
    -------
    y : (N, OH, OW, K) array; channels_first (N, K, OH, OW)

    Raises
    ------
    TypeError, ValueError, MemoryError
        As :func:`conv2d`.

    Examples
    --------
    >>> import numpy as np, convrnn as cr
    >>> cr.conv_transpose2d(np.ones((2, 2, 1)), np.ones((2, 2, 1, 1)))[..., 0]
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]])
    """
    return _conv_transpose(2, x, w, b, stride, padding, output_padding, dilation, groups, layout, out)


def conv_transpose3d(x: ArrayLike, w: ArrayLike, b: ArrayLike | None = None, *, stride: PerAxis = 1,
                     padding: ExplicitPadding = 0, output_padding: PerAxis = 0, dilation: PerAxis = 1,
                     groups: SupportsIndex = 1, layout: str = "channels_last",
                     out: np.ndarray | None = None) -> np.ndarray:
    """Transposed convolution of volumes; see :func:`conv_transpose2d`.

    Examples
    --------
    >>> import numpy as np, convrnn as cr
    >>> cr.conv_transpose3d(np.ones((2, 2, 2, 4)), np.ones((3, 3, 3, 5, 4)), stride=2, output_padding=1).shape
    (6, 6, 6, 5)
    """
    return _conv_transpose(3, x, w, b, stride, padding, output_padding, dilation, groups, layout, out)


def conv_transpose1d_backward(dy: ArrayLike, x: ArrayLike, w: ArrayLike, *, stride: PerAxis = 1,
                              padding: ExplicitPadding = 0, output_padding: PerAxis = 0, dilation: PerAxis = 1,
                              groups: SupportsIndex = 1, layout: str = "channels_last",
                              needs: Iterable[str] = ("x", "w", "b")) -> Gradients:
    """Gradients of :func:`conv_transpose1d`; see :func:`conv_transpose2d_backward`."""
    return _conv_transpose_backward(1, dy, x, w, stride, padding, output_padding, dilation, groups, layout, needs)


def conv_transpose2d_backward(dy: ArrayLike, x: ArrayLike, w: ArrayLike, *, stride: PerAxis = 1,
                              padding: ExplicitPadding = 0, output_padding: PerAxis = 0, dilation: PerAxis = 1,
                              groups: SupportsIndex = 1, layout: str = "channels_last",
                              needs: Iterable[str] = ("x", "w", "b")) -> Gradients:
    """Gradients of :func:`conv_transpose2d`: dx is a convolution of dy, dw one of dy with x.

    Parameters
    ----------
    dy : array of the shape of conv_transpose2d(x, w)
    x, w, stride, padding, output_padding, dilation, groups, layout
        As in the forward call.
    needs : iterable of {"x", "w", "b"}

    Returns
    -------
    dx, dw, db : arrays of the shapes of x, w and (K,); None where not needed
    """
    return _conv_transpose_backward(2, dy, x, w, stride, padding, output_padding, dilation, groups, layout, needs)


def conv_transpose3d_backward(dy: ArrayLike, x: ArrayLike, w: ArrayLike, *, stride: PerAxis = 1,
                              padding: ExplicitPadding = 0, output_padding: PerAxis = 0, dilation: PerAxis = 1,
                              groups: SupportsIndex = 1, layout: str = "channels_last",
                              needs: Iterable[str] = ("x", "w", "b")) -> Gradients:
    """Gradients of :func:`conv_transpose3d`; see :func:`conv_transpose2d_backward`."""
    return _conv_transpose_backward(3, dy, x, w, stride, padding, output_padding, dilation, groups, layout, needs)


# ---- questions about a convolution ----


def conv_output_shape(x_shape: Sequence[SupportsIndex], w_shape: Sequence[SupportsIndex], *, stride: PerAxis = 1,
                      padding: Padding = 0, dilation: PerAxis = 1, groups: SupportsIndex = 1,
                      layout: str = "channels_last") -> tuple[int, ...]:
    """The shape of conv1d, conv2d or conv3d, by the length of w_shape, of arrays of these shapes.

    Examples
    --------
    >>> import convrnn as cr
    >>> cr.conv_output_shape((1, 28, 28, 1), (3, 3, 1, 8))
    (1, 26, 26, 8)
    """
    return _shapes_geometry(x_shape, w_shape, stride, padding, dilation, groups, layout).y_shape


def conv_algorithm(x_shape: Sequence[SupportsIndex], w_shape: Sequence[SupportsIndex], *, stride: PerAxis = 1,
                   padding: Padding = 0, dilation: PerAxis = 1, groups: SupportsIndex = 1,
                   layout: str = "channels_last", dtype: DTypeLike = np.float32) -> str:
    """The algorithm that algorithm="auto" takes for y and dx of these shapes, with zeros beyond the image.

    Examples
    --------
    >>> import convrnn as cr
    >>> cr.conv_algorithm((1, 28, 28, 1), (3, 3, 1, 8)), cr.conv_algorithm((1, 56, 56, 64), (3, 3, 64, 64), padding=1)
    ('direct', 'winograd')
    """
    geometry = _shapes_geometry(x_shape, w_shape, stride, padding, dilation, groups, layout)
    return geometry.algorithm(real_dtype("dtype", dtype) == np.float64)


def _shapes_geometry(x_shape: Sequence[SupportsIndex], w_shape: Sequence[SupportsIndex], stride: PerAxis,
                     padding: Padding, dilation: PerAxis, groups: SupportsIndex, layout: str) -> _core.Geometry:
    image, kernel = shape_of("x_shape", x_shape), shape_of("w_shape", w_shape)
    rank = len(kernel) - 2
    if rank not in (1, 2, 3):
        raise ValueError(f"w_shape must have 3, 4 or 5 entries, got {kernel}")
    return _geometry(rank, image, kernel, stride, padding, dilation, groups, layout, "constant", "auto")
