"""Pooling of arrays, forward and backward, in one and two dimensions. Letters as in conv.py."""

import numpy as np

from . import _core
from .arguments import as_array, as_output, channels_first, explicit_padding, join_shape, per_axis, split_shape


class _Window:
    """The geometry of one pooling: a depthwise convolution's."""

    __slots__ = ("batch", "channels", "space", "size", "out", "first", "geometry")

    def __init__(self, rank, x_shape, size, stride, padding, layout):
        self.first = channels_first(layout)
        self.batch, self.channels, self.space = split_shape("x", x_shape, rank, self.first)
        self.size = per_axis("size", size, rank)
        stride = self.size if stride is None else per_axis("stride", stride, rank)
        padding = explicit_padding(padding, rank)
        for window, pair in zip(self.size, padding, strict=True):
            if max(pair) >= window:
                raise ValueError(f"padding must be less than size, {window}, got {pair}")
        one = (1,) * rank
        self.geometry = _core.Geometry(
            self.first, self.batch is not None, 1 if self.batch is None else self.batch, self.channels, self.channels,
            self.channels, self.space, self.size, stride, one, padding, _core.PAD_MODES["constant"])
        self.out = self.geometry.out

    @property
    def x_shape(self):
        return join_shape(self.batch, self.channels, self.space, self.first)

    @property
    def y_shape(self):
        return join_shape(self.batch, self.channels, self.out, self.first)

    def check_gradient(self, dy):
        if dy.shape != self.y_shape:
            raise ValueError(f"dy must have the shape of the output, {self.y_shape}, got {dy.shape}")

    def ones(self, dtype):
        """The kernel of the depthwise convolution that adds up windows: a one, seen everywhere."""
        shape = (self.channels, 1, *self.size) if self.first else (*self.size, 1, self.channels)
        return np.broadcast_to(np.ones((), dtype), shape)


def _max_pool(rank, x, size, stride, padding, layout, out):
    x = as_array("x", x)
    window = _Window(rank, x.shape, size, stride, padding, layout)
    y = as_output(out, window.y_shape, x.dtype, (x,))
    _core.max_pool_forward(window.geometry, x, y)
    return y if out is None else out


def _max_pool_backward(rank, dy, x, size, stride, padding, layout):
    x = as_array("x", x)
    dy = as_array("dy", dy, x.dtype)
    window = _Window(rank, x.shape, size, stride, padding, layout)
    window.check_gradient(dy)
    dx = np.empty(x.shape, x.dtype)
    _core.max_pool_backward(window.geometry, dy, x, dx)
    return dx


def _avg_pool(rank, x, size, stride, padding, layout, out):
    x = as_array("x", x)
    window = _Window(rank, x.shape, size, stride, padding, layout)
    y = as_output(out, window.y_shape, x.dtype, (x,))
    _core.conv_forward(window.geometry, x, window.ones(x.dtype), None, y, _core.ACTIVATIONS[None])
    y /= np.prod(window.size, dtype=np.float64).astype(x.dtype)
    return y if out is None else out


def _avg_pool_backward(rank, dy, x_shape, size, stride, padding, layout):
    dy = as_array("dy", dy)
    window = _Window(rank, tuple(x_shape), size, stride, padding, layout)
    window.check_gradient(dy)
    dx = np.empty(window.x_shape, dy.dtype)
    shares = dy / np.prod(window.size, dtype=np.float64).astype(dy.dtype)
    _core.conv_backward_data(window.geometry, shares, window.ones(dy.dtype), None, dx)
    return dx


def max_pool1d(x, size, *, stride=None, padding=0, layout="channels_last", out=None):
    """Maxima of windows of signals; see :func:`max_pool2d`."""
    return _max_pool(1, x, size, stride, padding, layout, out)


def max_pool2d(x, size, *, stride=None, padding=0, layout="channels_last", out=None):
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


def max_pool1d_backward(dy, x, size, *, stride=None, padding=0, layout="channels_last"):
    """Gradient of :func:`max_pool1d`; see :func:`max_pool2d_backward`."""
    return _max_pool_backward(1, dy, x, size, stride, padding, layout)


def max_pool2d_backward(dy, x, size, *, stride=None, padding=0, layout="channels_last"):
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


def avg_pool1d(x, size, *, stride=None, padding=0, layout="channels_last", out=None):
    """Means of windows of signals; see :func:`avg_pool2d`."""
    return _avg_pool(1, x, size, stride, padding, layout, out)


def avg_pool2d(x, size, *, stride=None, padding=0, layout="channels_last", out=None):
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


def avg_pool1d_backward(dy, x_shape, size, *, stride=None, padding=0, layout="channels_last"):
    """Gradient of :func:`avg_pool1d`; see :func:`avg_pool2d_backward`."""
    return _avg_pool_backward(1, dy, x_shape, size, stride, padding, layout)


def avg_pool2d_backward(dy, x_shape, size, *, stride=None, padding=0, layout="channels_last"):
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
