"""Pooling of arrays, forward and backward, in one and two dimensions. Letters as in conv.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import _core
from .arguments import as_array, as_output, channels_first, explicit_padding, per_axis, shape_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import SupportsIndex

    from numpy.typing import ArrayLike

    from .arguments import ExplicitPadding, PerAxis


def _geometry(rank: int, x_shape: tuple[int, ...], size: PerAxis, stride: PerAxis | None, padding: ExplicitPadding,
              layout: str) -> _core.Geometry:
    if stride is not None:
        stride = per_axis("stride", stride, rank)
    return _core.Geometry.of_pool(rank, channels_first(layout), x_shape, per_axis("size", size, rank), stride,
                                  explicit_padding(padding, rank))


def _check_gradient(dy: np.ndarray, geometry: _core.Geometry) -> None:
    if dy.shape != geometry.y_shape:
        raise ValueError(f"dy must have the shape of the output, {geometry.y_shape}, got {dy.shape}")


def _ones(geometry: _core.Geometry, dtype: np.dtype, layout: str) -> np.ndarray:
    """The kernel of the depthwise convolution that adds up windows: a one, seen everywhere."""
    channels, window = geometry.channels, geometry.window
    shape = (channels, 1, *window) if layout == "channels_first" else (*window, 1, channels)
    return np.broadcast_to(np.ones((), dtype), shape)


def _cells(geometry: _core.Geometry, dtype: np.dtype) -> np.floating:
    """How many cells a window has, as a number of this dtype."""
    return np.prod(geometry.window, dtype=np.float64).astype(dtype)


def _max_pool(rank: int, x: ArrayLike, size: PerAxis, stride: PerAxis | None, padding: ExplicitPadding, layout: str,
              out: np.ndarray | None) -> np.ndarray:
    given = x
    x = as_array("x", x)
    geometry = _geometry(rank, x.shape, size, stride, padding, layout)
    y = as_output(out, geometry.y_shape, x.dtype, (given,))
    _core.max_pool_forward(geometry, x, y)
    return y if out is None else out


def _max_pool_backward(rank: int, dy: ArrayLike, x: ArrayLike, size: PerAxis, stride: PerAxis | None,
                       padding: ExplicitPadding, layout: str) -> np.ndarray:
    x = as_array("x", x)
    dy = as_array("dy", dy, x.dtype)
    geometry = _geometry(rank, x.shape, size, stride, padding, layout)
    _check_gradient(dy, geometry)
    dx = np.empty(x.shape, x.dtype)
    _core.max_pool_backward(geometry, dy, x, dx)
    return dx


def _avg_pool(rank: int, x: ArrayLike, size: PerAxis, stride: PerAxis | None, padding: ExplicitPadding, layout: str,
              out: np.ndarray | None) -> np.ndarray:
    given = x
    x = as_array("x", x)
    geometry = _geometry(rank, x.shape, size, stride, padding, layout)
    y = as_output(out, geometry.y_shape, x.dtype, (given,))
    _core.conv_forward(geometry, x, _ones(geometry, x.dtype, layout), None, y, _core.ACTIVATIONS[None])
    y /= _cells(geometry, x.dtype)
    return y if out is None else out


def _avg_pool_backward(rank: int, dy: ArrayLike, x_shape: Sequence[SupportsIndex], size: PerAxis,
                       stride: PerAxis | None, padding: ExplicitPadding, layout: str) -> np.ndarray:
    dy = as_array("dy", dy)
    shape = shape_of("x_shape", x_shape)
    geometry = _geometry(rank, shape, size, stride, padding, layout)
    _check_gradient(dy, geometry)
    dx = np.empty(shape, dy.dtype)
    _core.conv_backward_data(geometry, dy / _cells(geometry, dy.dtype), _ones(geometry, dy.dtype, layout), None, dx)
    return dx


def max_pool1d(x: ArrayLike, size: PerAxis, *, stride: PerAxis | None = None, padding: ExplicitPadding = 0,
               layout: str = "channels_last", out: np.ndarray | None = None) -> np.ndarray:
    """Maxima of windows of signals; see :func:`max_pool2d`."""
    return _max_pool(1, x, size, stride, padding, layout, out)


def max_pool2d(x: ArrayLike, size: PerAxis, *, stride: PerAxis | None = None, padding: ExplicitPadding = 0,
               layout: str = "channels_last", out: np.ndarray | None = None) -> np.ndarray:
    """Maxima of windows of images: ``y[n,o,p,c] = max_{i,j} x[n, o*sh + i - low_h, p*sw + j - low_w, c]``.

    Parameters
    ----------
    x : (N, H, W, C) or (H, W, C) array of float32 or float64; channels_first (N, C, H, W) or (C, H, W)
    size : int or one per axis
        The window.
    stride : int or one per axis, optional
        Pixels from one window to the next; size if None.
    padding : int, or an int or a (low, high) pair for each axis
        Cells of -infinity beyond the image; less than size.
    layout : {"channels_last", "channels_first"}
    out : C-contiguous array, optional
        Takes the result; must not overlap an input.

    Returns
    -------
    y : (N, OH, OW, C) array; channels_first (N, C, OH, OW)
        ``OH = floor((H + low + high - size) / stride) + 1``. A NaN in a window is passed on.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As :func:`convrnn.conv2d`.

    Examples
    --------
    >>> import numpy as np, convrnn as cr
    >>> cr.max_pool2d(np.arange(16.0).reshape(4, 4, 1), 2)[..., 0]
    array([[ 5.,  7.],
           [13., 15.]])
    """
    return _max_pool(2, x, size, stride, padding, layout, out)


def max_pool1d_backward(dy: ArrayLike, x: ArrayLike, size: PerAxis, *, stride: PerAxis | None = None,
                        padding: ExplicitPadding = 0, layout: str = "channels_last") -> np.ndarray:
    """Gradient of :func:`max_pool1d`; see :func:`max_pool2d_backward`."""
    return _max_pool_backward(1, dy, x, size, stride, padding, layout)


def max_pool2d_backward(dy: ArrayLike, x: ArrayLike, size: PerAxis, *, stride: PerAxis | None = None,
                        padding: ExplicitPadding = 0, layout: str = "channels_last") -> np.ndarray:
    """Gradient of :func:`max_pool2d`: dy goes to the first maximum, or NaN, of its window, row by row.

    Parameters
    ----------
    dy : array of the shape of max_pool2d(x, size)
    x, size, stride, padding, layout
        As in the forward call.

    Returns
    -------
    dx : array of the shape of x

    Examples
    --------
    >>> import numpy as np, convrnn as cr
    >>> x = np.array([[1.0, 3.0], [3.0, 2.0]])[..., None]
    >>> cr.max_pool2d_backward(np.full((1, 1, 1), 5.0), x, 2)[..., 0]
    array([[0., 5.],
           [0., 0.]])
    """
    return _max_pool_backward(2, dy, x, size, stride, padding, layout)


def avg_pool1d(x: ArrayLike, size: PerAxis, *, stride: PerAxis | None = None, padding: ExplicitPadding = 0,
               layout: str = "channels_last", out: np.ndarray | None = None) -> np.ndarray:
    """Means of windows of signals; see :func:`avg_pool2d`."""
    return _avg_pool(1, x, size, stride, padding, layout, out)


def avg_pool2d(x: ArrayLike, size: PerAxis, *, stride: PerAxis | None = None, padding: ExplicitPadding = 0,
               layout: str = "channels_last", out: np.ndarray | None = None) -> np.ndarray:
    """Means of windows of images: sums over the window divided by its full size, padding counted as zeros.

    Parameters
    ----------
    x, size, stride, layout, out
        As in :func:`max_pool2d`.
    padding : int, or an int or a (low, high) pair for each axis
        Cells of zero beyond the image; less than size.

    Returns
    -------
    y : (N, OH, OW, C) array; channels_first (N, C, OH, OW)

    Examples
    --------
    >>> import numpy as np, convrnn as cr
    >>> cr.avg_pool2d(np.arange(16.0).reshape(4, 4, 1), 2)[..., 0]
    array([[ 2.5,  4.5],
           [10.5, 12.5]])
    """
    return _avg_pool(2, x, size, stride, padding, layout, out)


def avg_pool1d_backward(dy: ArrayLike, x_shape: Sequence[SupportsIndex], size: PerAxis, *,
                        stride: PerAxis | None = None, padding: ExplicitPadding = 0,
                        layout: str = "channels_last") -> np.ndarray:
    """Gradient of :func:`avg_pool1d`; see :func:`avg_pool2d_backward`."""
    return _avg_pool_backward(1, dy, x_shape, size, stride, padding, layout)


def avg_pool2d_backward(dy: ArrayLike, x_shape: Sequence[SupportsIndex], size: PerAxis, *,
                        stride: PerAxis | None = None, padding: ExplicitPadding = 0,
                        layout: str = "channels_last") -> np.ndarray:
    """Gradient of :func:`avg_pool2d`: each pixel of a window gets an equal share of dy.

    Parameters
    ----------
    dy : array of the shape of avg_pool2d(x, size)
    x_shape : tuple of int
        The shape of x.
    size, stride, padding, layout
        As in the forward call.

    Returns
    -------
    dx : array of shape x_shape

    Examples
    --------
    >>> import numpy as np, convrnn as cr
    >>> cr.avg_pool2d_backward(np.full((1, 1, 1), 8.0), (2, 2, 1), 2)[..., 0]
    array([[2., 2.],
           [2., 2.]])
    """
    return _avg_pool_backward(2, dy, x_shape, size, stride, padding, layout)
