"""Layers: parameters, forward and backward around the array functions, and `Sequential` to chain them.

Letters: N batch, C in-channels, K out-channels, H W image, KH KW kernel; gradients dx, dw, db, dy.

Every layer is used in the same four ways::

    y = layer(x)                             inference, nothing is kept
    y, cache = layer.forward(x)              training
    dx, grads = layer.backward(dy, cache)    grads has the keys and shapes of layer.params
    fast = layer.frozen()                    a snapshot for inference

The cache refers to arrays, it does not copy them: between forward and backward leave x, y and the parameters as they
are. backward leaves the cache as it was and may be called again.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core
from .arguments import (
    as_array, as_indices, boolean, channels_first, check_names, choice, explicit_padding, generator, integer, per_axis,
    real_dtype, resolve_padding,
)
from .conv import (
    FrozenConv, conv1d, conv1d_backward, conv2d, conv2d_backward, conv3d, conv3d_backward,
    conv_transpose1d, conv_transpose1d_backward, conv_transpose2d, conv_transpose2d_backward,
)
from .pool import avg_pool2d, avg_pool2d_backward, max_pool2d, max_pool2d_backward

if TYPE_CHECKING:  # numpy.random and numpy.typing take longer to import than this package
    from collections.abc import Iterable, Mapping
    from typing import Self

    from numpy.typing import ArrayLike, DTypeLike

    from .arguments import Seed

__all__ = [
    "AvgPool2d",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "Embedding",
    "Flatten",
    "Layer",
    "Linear",
    "MaxPool2d",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Tanh",
]


def _checked_gradient(dy: ArrayLike, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """dy as an array of the shape and dtype that the output had."""
    dy = as_array("dy", dy, dtype)
    if dy.shape != shape:
        raise ValueError(f"dy must have the shape of the output, {shape}, got {dy.shape}")
    return dy


class Layer:
    """What all layers share: named parameters, their exchange with PyTorch, snapshots.

    A layer derives from this class and writes `__call__`, `forward` and `backward`. Pickling needs nothing more.

    Attributes
    ----------
    params : dict of str to ndarray
        The parameters, float32 or float64, in the layer's own layout; writable in place at any time.
    """

    params: dict[str, np.ndarray]
    has_state: bool = False  # taken and returned besides x and y

    def __init__(self) -> None:
        self.params = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name} {array.shape}' for name, array in self.params.items())})"

    def __call__(self, x: ArrayLike) -> np.ndarray:
        """Inference: the output for x. Nothing is kept."""
        raise NotImplementedError(f"{type(self).__name__} has no __call__")

    def forward(self, x: ArrayLike) -> tuple[np.ndarray, Any]:
        """Training: the output for x, and the cache that `backward` takes."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def backward(
        self, dy: ArrayLike, cache: Any, *, needs_dx: bool = True
    ) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
        """Gradients of a loss, given its gradient dy at the output.

        Parameters
        ----------
        dy : array_like
            Shape and dtype of the output.
        cache
            What `forward` returned; left as it was.
        needs_dx : bool, optional
            False skips the gradient at the input: the first layer of a network need not compute it.

        Returns
        -------
        dx : ndarray or None
            Shape of x; None if not `needs_dx`.
        grads : dict of str to ndarray
            Keys and shapes of `params`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no backward")

    def frozen(self) -> Frozen:
        """A snapshot for inference, called like the layer; later changes to `params` do not reach it."""
        return Frozen(self._snapshot())

    def _snapshot(self) -> Self:
        return copy.deepcopy(self)

    def _torch_views(self) -> dict[str, np.ndarray]:
        """The parameters by PyTorch's names, as views of PyTorch's shapes."""
        return dict(self.params)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of the parameters, with PyTorch's key names, shapes and axis order whatever the layout."""
        return {name: np.array(view, order="C") for name, view in self._torch_views().items()}

    def load_state_dict(self, state: Mapping[str, ArrayLike]) -> None:
        """Sets all parameters from what `state_dict`, PyTorch's too, has returned.

        Everything is checked before the first parameter is written.

        Parameters
        ----------
        state : mapping of str to array_like
            PyTorch's names and shapes, in the dtype of the layer.

        Raises
        ------
        ValueError
            A key is missing or unexpected, or an array has the wrong shape.
        TypeError
            An array has another dtype than the parameter.
        """
        views = self._torch_views()
        check_names("state", state, views)
        arrays = {name: as_array(f"state[{name!r}]", state[name], view.dtype) for name, view in views.items()}
        for name, view in views.items():
            if arrays[name].shape != view.shape:
                raise ValueError(f"state[{name!r}] must have shape {view.shape}, got {arrays[name].shape}")
        for name, view in views.items():
            view[...] = arrays[name]


class Frozen:
    """An inference snapshot of a layer: only called, never trained. Made by `Layer.frozen`."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer

    def __call__(self, *args: Any, **options: Any) -> Any:
        """The output that the layer had when it was frozen."""
        return self._layer(*args, **options)

    def __repr__(self) -> str:
        return f"Frozen({self._layer!r})"


def initial_uniform(
    weight_shape: tuple[int, ...], bias_size: int | None, dtype: DTypeLike, rng: Seed
) -> tuple[np.ndarray, np.ndarray | None]:
    """PyTorch's default start: weight and bias uniform within 1/sqrt(fan_in) on both sides of zero.

    fan_in is the product of the weight's shape after its first axis, in PyTorch's order: the inputs of one output
    (of a transposed convolution: K/groups * KH * KW). Numbers are drawn in that order and as float64, so that a seed
    gives the same layer in every layout and, to rounding, dtype.
    """
    rng = generator("rng", rng)
    bound = 1 / math.sqrt(math.prod(weight_shape[1:]))
    weight = rng.uniform(-bound, bound, weight_shape).astype(dtype)
    return weight, None if bias_size is None else rng.uniform(-bound, bound, bias_size).astype(dtype)


# -------------------------------------------------------------------------------------------------- weighted layers


class _Weighted(Layer):
    """A weight and perhaps a bias."""

    _activation: str | None = None  # fused into the product; set in snapshots alone, since backward does not know it

    def _set_params(self, weight: np.ndarray, bias: np.ndarray | None) -> None:
        self.params = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}

    def _needs(self, needs_dx: bool) -> tuple[str, ...]:
        return ("x",) * needs_dx + ("w",) + ("b",) * ("bias" in self.params)

    def _named(self, dw: np.ndarray, db: np.ndarray | None) -> dict[str, np.ndarray]:
        return {"weight": dw} if db is None else {"weight": dw, "bias": db}


class _Convolution(_Weighted):
    """A convolution or a transposed one, of any rank: the array functions of a derived class with its options bound."""

    _function: Any  # staticmethods of the derived class
    _function_backward: Any
    _rank: int

    def __init__(
        self,
        torch_channels: tuple[int, int],
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        bias: bool,
        layout: str,
        dtype: DTypeLike,
        rng: Seed,
        **options: Any,
    ) -> None:
        self._first = channels_first(layout)
        self._options = options | {"layout": layout}
        torch_shape = torch_channels + per_axis("kernel_size", kernel_size, self._rank)
        for name in ("stride", "dilation"):
            per_axis(name, options[name], self._rank)
        weight, bias_array = initial_uniform(
            torch_shape, out_channels if boolean("bias", bias) else None, real_dtype("dtype", dtype), rng
        )
        if not self._first:
            weight = np.ascontiguousarray(np.moveaxis(weight, (1, 0), (-2, -1)))
        self._set_params(weight, bias_array)

    def __call__(self, x: ArrayLike) -> np.ndarray:
        return self.forward(x)[0]

    def forward(self, x: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        weight = self.params["weight"]
        x = as_array("x", x, weight.dtype)
        fused = {} if self._activation is None else {"activation": self._activation}
        return self._function(x, weight, self.params.get("bias"), **self._options, **fused), x

    def backward(
        self, dy: ArrayLike, cache: Any, *, needs_dx: bool = True
    ) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
        dx, dw, db = self._function_backward(
            dy, cache, self.params["weight"], **self._options, needs=self._needs(needs_dx)
        )
        return dx, self._named(dw, db)

    def _torch_views(self) -> dict[str, np.ndarray]:
        views = dict(self.params)
        if not self._first:
            views["weight"] = np.moveaxis(views["weight"], (-2, -1), (1, 0))
        return views


def _divided(name: str, channels: int, groups: int) -> int:
    if channels % groups:
        raise ValueError(f"groups must divide {name}, {channels}, got {groups}")
    return channels // groups


class _Conv(_Convolution):
    _frozen: FrozenConv | None = None  # of snapshots, whose weight stays as it is

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        *,
        stride: int | tuple[int, ...] = 1,
        padding: Any = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        layout: str = "channels_last",
        padding_mode: str = "constant",
        dtype: DTypeLike = np.float32,
        rng: Seed = None,
    ) -> None:
        K, groups = integer("out_channels", out_channels, 1), integer("groups", groups, 1)
        C = _divided("in_channels", integer("in_channels", in_channels, 1), groups)
        _divided("out_channels", K, groups)
        one_pixel = (1,) * (self._rank + 2)
        resolve_padding(padding, self._rank, one_pixel, one_pixel, 1, 1, False)
        choice("padding_mode", padding_mode, _core.PAD_MODES)
        super().__init__(
            (K, C), K, kernel_size, bias, layout, dtype, rng,
            stride=stride, padding=padding, dilation=dilation, groups=groups, padding_mode=padding_mode,
        )

    def forward(self, x: ArrayLike) -> tuple[np.ndarray, Any]:
        if self._frozen is None:
            return super().forward(x)
        return self._frozen(x, self._activation), x

    def _snapshot(self) -> Self:
        snapshot = copy.deepcopy(self)
        snapshot._frozen = FrozenConv(
            self._rank, snapshot.params["weight"], snapshot.params.get("bias"), **snapshot._options
        )
        return snapshot


class Conv1d(_Conv):
    """Convolution of sequences: `convrnn.conv1d` with its weight. See `Conv2d`, of which this drops H."""

    _rank = 1
    _function = staticmethod(conv1d)
    _function_backward = staticmethod(conv1d_backward)


class Conv2d(_Conv):
    """Convolution of images: `convrnn.conv2d` with its weight.

    ``y[n, k, o] = b[k] + sum_{c, q} w[k, c, q] x[n, c, o * stride + q * dilation - padding]``

    Parameters
    ----------
    in_channels, out_channels : int
        C and K.
    kernel_size : int or tuple of int
        KH and KW.
    stride, padding, dilation, groups, padding_mode
        As of `convrnn.conv2d`.
    bias : bool, optional
        Whether to add a bias of shape (K,).
    layout : {"channels_last", "channels_first"}, optional
        Of x, y and the weight: (N, H, W, C) and (KH, KW, C/groups, K), or (N, C, H, W) and (K, C/groups, KH, KW).
    dtype : {float32, float64}, optional
        Of the parameters, and so of x.
    rng : int or numpy.random.Generator, optional
        Seed of the start values, uniform within 1/sqrt(C/groups * KH * KW) on both sides of zero as in PyTorch.

    Raises
    ------
    ValueError, TypeError
        A size is below 1, groups does not divide the channels, or a name or dtype is unknown.

    Examples
    --------
    >>> layer = Conv2d(1, 8, 3, rng=0)
    >>> y, cache = layer.forward(np.ones((5, 28, 28, 1), np.float32))
    >>> dx, grads = layer.backward(np.ones_like(y), cache)
    >>> y.shape, dx.shape, grads["weight"].shape
    ((5, 26, 26, 8), (5, 28, 28, 1), (3, 3, 1, 8))
    """

    _rank = 2
    _function = staticmethod(conv2d)
    _function_backward = staticmethod(conv2d_backward)


class Conv3d(_Conv):
    """Convolution of volumes: `convrnn.conv3d` with its weight. See `Conv2d`, to which this adds D before H."""

    _rank = 3
    _function = staticmethod(conv3d)
    _function_backward = staticmethod(conv3d_backward)


class _ConvTranspose(_Convolution):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        *,
        stride: int | tuple[int, ...] = 1,
        padding: Any = 0,
        output_padding: int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        layout: str = "channels_last",
        dtype: DTypeLike = np.float32,
        rng: Seed = None,
    ) -> None:
        C, groups = integer("in_channels", in_channels, 1), integer("groups", groups, 1)
        out_channels = integer("out_channels", out_channels, 1)
        K = _divided("out_channels", out_channels, groups)
        _divided("in_channels", C, groups)
        explicit_padding(padding, self._rank)
        per_axis("output_padding", output_padding, self._rank, 0)
        super().__init__(
            (C, K), out_channels, kernel_size, bias, layout, dtype, rng,
            stride=stride, padding=padding, output_padding=output_padding, dilation=dilation, groups=groups,
        )


class ConvTranspose1d(_ConvTranspose):
    """Transposed convolution of sequences. See `ConvTranspose2d`, of which this drops H."""

    _rank = 1
    _function = staticmethod(conv_transpose1d)
    _function_backward = staticmethod(conv_transpose1d_backward)


class ConvTranspose2d(_ConvTranspose):
    """Transposed convolution of images: `convrnn.conv_transpose2d` with its weight.

    It turns a convolution's output size back into its input size: the input-gradient of a convolution, as a layer.

    Parameters
    ----------
    in_channels, out_channels : int
        C and K, of this layer's x and y.
    kernel_size : int or tuple of int
        KH and KW.
    stride, padding, output_padding, dilation, groups
        As of `convrnn.conv_transpose2d`.
    bias, dtype
        As of `Conv2d`.
    layout : {"channels_last", "channels_first"}, optional
        The weight is (KH, KW, K/groups, C) or (C, K/groups, KH, KW).
    rng : int or numpy.random.Generator, optional
        Seed of the start values, uniform within 1/sqrt(K/groups * KH * KW) on both sides of zero as in PyTorch.

    Examples
    --------
    >>> ConvTranspose2d(8, 1, 4, stride=2, padding=1)(np.ones((5, 13, 13, 8), np.float32)).shape
    (5, 26, 26, 1)
    """

    _rank = 2
    _function = staticmethod(conv_transpose2d)
    _function_backward = staticmethod(conv_transpose2d_backward)


class Linear(_Weighted):
    """A matrix product on the last axis of any array: ``y = x W.T + b``.

    Parameters
    ----------
    in_features, out_features : int
        I and O: x is (..., I), y is (..., O).
    bias : bool, optional
        Whether to add a bias of shape (O,).
    dtype : {float32, float64}, optional
        Of the parameters, and so of x.
    rng : int or numpy.random.Generator, optional
        Seed of the start values, uniform within 1/sqrt(I) on both sides of zero as in PyTorch.

    Notes
    -----
    ``params["weight"]`` is (O, I) as in PyTorch, the transpose of a contiguous (I, O) array.

    Examples
    --------
    >>> Linear(4, 3, rng=0)(np.ones((2, 5, 4), np.float32)).shape
    (2, 5, 3)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
        rng: Seed = None,
    ) -> None:
        shape = integer("out_features", out_features, 1), integer("in_features", in_features, 1)
        weight, bias_array = initial_uniform(
            shape, shape[0] if boolean("bias", bias) else None, real_dtype("dtype", dtype), rng
        )
        self._set_params(np.asfortranarray(weight), bias_array)

    def __call__(self, x: ArrayLike) -> np.ndarray:
        return self.forward(x)[0]

    def forward(self, x: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        weight = self.params["weight"]
        out_features, in_features = weight.shape
        x = as_array("x", x, weight.dtype)
        if x.ndim == 0 or x.shape[-1] != in_features:
            raise ValueError(f"x must have {in_features} features along its last axis, got shape {x.shape}")
        y = conv1d(self._as_row(x), self._as_kernel(), self.params.get("bias"), activation=self._activation)
        return y.reshape(*x.shape[:-1], out_features), x

    def backward(
        self, dy: ArrayLike, cache: Any, *, needs_dx: bool = True
    ) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
        dy = _checked_gradient(dy, (*cache.shape[:-1], self.params["weight"].shape[0]), cache.dtype)
        dx, dw, db = conv1d_backward(
            self._as_row(dy), self._as_row(cache), self._as_kernel(), needs=self._needs(needs_dx)
        )
        return None if dx is None else dx.reshape(cache.shape), self._named(dw[0].T, db)

    def _as_kernel(self) -> np.ndarray:
        return self.params["weight"].T[np.newaxis]

    @staticmethod
    def _as_row(x: np.ndarray) -> np.ndarray:
        """x (..., I) as one channels_last image, a row of pixels; as a batch of none where x is empty."""
        rows = math.prod(x.shape[:-1])
        return x.reshape(min(rows, 1), max(rows, 1), x.shape[-1])


class Embedding(Layer):
    """A table of vectors, looked up by index: ``y = W[x]``, what `Linear` would make of one-hot rows.

    Parameters
    ----------
    num_embeddings, embedding_dim : int
        V and E: x holds integers from 0 to V - 1 in any shape (...), y is (..., E).
    dtype : {float32, float64}, optional
        Of the table, and so of y.
    rng : int or numpy.random.Generator, optional
        Seed of the start values, standard normal as in PyTorch.

    Raises
    ------
    TypeError
        x is not of integers, or the dtype is neither of the two.
    ValueError
        A size is below 1, or an index is outside 0 to V - 1: negative ones do not count from the end.

    Notes
    -----
    ``params["weight"]`` is (V, E). `backward` returns None for dx, as integers have no gradient.

    Examples
    --------
    >>> layer = Embedding(10, 3, rng=0)
    >>> y, cache = layer.forward([4, 1, 4])
    >>> dx, grads = layer.backward(np.ones_like(y), cache)
    >>> y.shape, dx, grads["weight"][4]
    ((3, 3), None, array([2., 2., 2.], dtype=float32))
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, *, dtype: DTypeLike = np.float32, rng: Seed = None
    ) -> None:
        shape = integer("num_embeddings", num_embeddings, 1), integer("embedding_dim", embedding_dim, 1)
        dtype = real_dtype("dtype", dtype)
        self.params = {"weight": generator("rng", rng).standard_normal(shape).astype(dtype)}

    def __call__(self, x: ArrayLike) -> np.ndarray:
        return self.forward(x)[0]

    def forward(self, x: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        weight = self.params["weight"]
        x = as_indices("x", x, len(weight))
        return weight[x], x

    def backward(
        self, dy: ArrayLike, cache: Any, *, needs_dx: bool = True
    ) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
        weight = self.params["weight"]
        dy = _checked_gradient(dy, (*cache.shape, weight.shape[1]), weight.dtype).reshape(-1, weight.shape[1])
        dw = np.zeros_like(weight)
        if cache.size:
            # Equal indices side by side, each run summed at once: several times as fast as numpy.add.at.
            order = np.argsort(cache, axis=None, kind="stable")
            indices, starts = np.unique(cache.ravel()[order], return_index=True)
            dw[indices] = np.add.reduceat(dy[order], starts, axis=0)
        return None, {"weight": dw}


# ----------------------------------------------------------------------------------------------------------- pooling


class _Pool2d(Layer):
    def __init__(
        self,
        size: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] | None = None,
        padding: Any = 0,
        layout: str = "channels_last",
    ) -> None:
        super().__init__()
        channels_first(layout)
        per_axis("size", size, 2)
        if stride is not None:
            per_axis("stride", stride, 2)
        explicit_padding(padding, 2)
        self._options = {"size": size, "stride": stride, "padding": padding, "layout": layout}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={self._options['size']})"


class MaxPool2d(_Pool2d):
    """The maximum over windows of an image: `convrnn.max_pool2d` with its options.

    Parameters
    ----------
    size : int or tuple of int
        The window.
    stride : int or tuple of int, optional
        None is `size`: windows side by side.
    padding, layout
        As of `convrnn.max_pool2d`.
    """

    def __call__(self, x: ArrayLike) -> np.ndarray:
        return max_pool2d(x, **self._options)

    def forward(self, x: ArrayLike) -> tuple[np.ndarray, Any]:
        return self(x), x

    def backward(
        self, dy: ArrayLike, cache: Any, *, needs_dx: bool = True
    ) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
        return max_pool2d_backward(dy, cache, **self._options) if needs_dx else None, {}


class AvgPool2d(_Pool2d):
    """The mean over windows of an image: `convrnn.avg_pool2d` with its options. Parameters as of `MaxPool2d`."""

    def __call__(self, x: ArrayLike) -> np.ndarray:
        return avg_pool2d(x, **self._options)

    def forward(self, x: ArrayLike) -> tuple[np.ndarray, tuple[tuple[int, ...], np.dtype]]:
        x = as_array("x", x)
        return self(x), (x.shape, x.dtype)

    def backward(
        self, dy: ArrayLike, cache: Any, *, needs_dx: bool = True
    ) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
        shape, dtype = cache
        dy = as_array("dy", dy, dtype)
        return avg_pool2d_backward(dy, shape, **self._options) if needs_dx else None, {}


# ------------------------------------------------------------------------------------------------------ element-wise


class _Activation(Layer):
    """A function of every element whose derivative follows from its value."""

    _function: str  # as `_core.map` and the convolutions' activation= name it

    def __call__(self, x: ArrayLike) -> np.ndarray:
        return _core.map(self._function, np.asarray(as_array("x", x), order="C"))

    def forward(self, x: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        y = self(x)
        return y, y

    def backward(
        self, dy: ArrayLike, cache: Any, *, needs_dx: bool = True
    ) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
        dy = _checked_gradient(dy, cache.shape, cache.dtype)
        return self._gradient(dy, cache) if needs_dx else None, {}

    @staticmethod
    def _gradient(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class ReLU(_Activation):
    """``y = max(x, 0)``, element by element. The gradient at 0 is 0."""

    _function = "relu"

    @staticmethod
    def _gradient(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
        return dy * (y > 0)  # seven times as fast as numpy.where on signs that no branch predictor foresees


class Tanh(_Activation):
    """``y = tanh(x)``, element by element."""

    _function = "tanh"

    @staticmethod
    def _gradient(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
        return dy * (1 - y * y)


class Sigmoid(_Activation):
    """``y = 1 / (1 + exp(-x))``, element by element."""

    _function = "sigmoid"

    @staticmethod
    def _gradient(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
        return dy * (y * (1 - y))


# --------------------------------------------------------------------------------------------------------- structure


class Flatten(Layer):
    """Makes one axis of all axes after the batch: (N, ...) becomes (N, F).

    The order is C, H, W whatever the layout, so that the weights of a `Linear` that follows do not depend on it.

    Parameters
    ----------
    layout : {"channels_last", "channels_first"}, optional
        Of x.

    Examples
    --------
    >>> Flatten()(np.arange(8.0).reshape(1, 2, 2, 2))
    array([[0., 2., 4., 6., 1., 3., 5., 7.]])
    """

    def __init__(self, *, layout: str = "channels_last") -> None:
        super().__init__()
        self._channel_axis = 1 if channels_first(layout) else -1

    def __call__(self, x: ArrayLike) -> np.ndarray:
        return self.forward(x)[0]

    def forward(self, x: ArrayLike) -> tuple[np.ndarray, tuple[tuple[int, ...], np.dtype]]:
        x = as_array("x", x)
        if x.ndim < 2:
            raise ValueError(f"x must have a batch axis and at least one more, got shape {x.shape}")
        moved = np.moveaxis(x, self._channel_axis, 1)
        return moved.reshape(len(x), math.prod(x.shape[1:])), (moved.shape, x.dtype)

    def backward(
        self, dy: ArrayLike, cache: Any, *, needs_dx: bool = True
    ) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
        shape, dtype = cache
        dy = _checked_gradient(dy, (shape[0], math.prod(shape[1:])), dtype)
        return np.moveaxis(dy.reshape(shape), 1, self._channel_axis) if needs_dx else None, {}


class Sequential(Layer):
    """Layers one after another: the output of each is the input of the next.

    Parameters
    ----------
    *layers : Layer
        In the order of the computation. Kept as the tuple ``layers``.

    Notes
    -----
    ``params`` holds the very arrays of the layers, under "0.weight", "0.bias", "2.weight", ...: write into them
    (``params[name][...] = value``), since setting a key of the dict reaches no layer.

    ``frozen()`` fuses a `ReLU`, `Tanh` or `Sigmoid` that follows a convolution or a `Linear` into it.

    Examples
    --------
    >>> net = Sequential(Conv2d(1, 8, 3), ReLU(), MaxPool2d(2), Flatten(), Linear(8 * 13 * 13, 10))
    >>> net(np.ones((5, 28, 28, 1), np.float32)).shape
    (5, 10)
    >>> list(net.params)
    ['0.weight', '0.bias', '4.weight', '4.bias']
    """

    def __init__(self, *layers: Layer) -> None:
        for i, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"layer {i} must be a convrnn Layer, got {type(layer).__name__}")
            if layer.has_state:
                raise TypeError(f"layer {i} must return y alone, got {type(layer).__name__}, which returns a state "
                                "too: call it by itself, before or after a Sequential")
        self.layers = layers

    @property
    def params(self) -> dict[str, np.ndarray]:  # type: ignore[override]
        return _prefixed(layer.params for layer in self.layers)

    def __repr__(self) -> str:
        return f"Sequential({', '.join(map(repr, self.layers))})"

    def __call__(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x

    def forward(self, x: Any) -> tuple[Any, list[Any]]:
        caches = []
        for layer in self.layers:
            x, cache = layer.forward(x)
            caches.append(cache)
        return x, caches

    def backward(
        self, dy: ArrayLike, cache: Any, *, needs_dx: bool = True
    ) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
        dx: Any = dy
        grads: list[dict[str, np.ndarray]] = [{} for _ in self.layers]
        for i in reversed(range(len(self.layers))):
            needed = needs_dx or any(layer.params for layer in self.layers[:i])
            dx, grads[i] = self.layers[i].backward(dx, cache[i], needs_dx=needed)
            if not needed:
                return None, _prefixed(grads)
        return dx, _prefixed(grads)

    def _snapshot(self) -> Any:  # of a derived class, too, a plain Sequential
        snapshots: list[Layer] = []
        for layer in self.layers:
            last: Any = snapshots[-1] if snapshots else None
            # Exact types: a class that a user derives may compute something else.
            fuses = type(last) in _FUSING and last._activation is None
            if fuses and isinstance(layer, _Activation) and type(layer) in _FUSED:
                last._activation = layer._function
            else:
                snapshots.append(layer._snapshot())
        return Sequential(*snapshots)

    def _torch_views(self) -> dict[str, np.ndarray]:
        return _prefixed(layer._torch_views() for layer in self.layers)


_FUSING = (Conv1d, Conv2d, Conv3d, Linear)
_FUSED = (ReLU, Tanh, Sigmoid)


def _prefixed(dicts: Iterable[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """One dict of many, the keys prefixed with the position: "0.weight", ..."""
    return {f"{i}.{name}": array for i, arrays in enumerate(dicts) for name, array in arrays.items()}
