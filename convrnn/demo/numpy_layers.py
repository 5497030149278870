"""The layers of the digits network in plain NumPy, as one writes them without a C core: windows and matrix products.

Each has the parameters and the interface of its twin in `convrnn.layers`, so the two train with the same code: they
are what the demonstration's speed is measured against, and check each other's gradients.
"""

from __future__ import annotations

import numpy as np

from ..layers import Conv2d, Linear, MaxPool2d, ReLU

__all__ = ["NumpyConv2d", "NumpyLinear", "NumpyMaxPool2d", "NumpyReLU"]


class NumpyConv2d(Conv2d):
    """`Conv2d` by im2col: every window copied into a row of a matrix. channels_last, stride 1, no padding."""

    def __call__(self, x):
        return self.forward(x)[0]

    def forward(self, x):
        w = self.params["weight"]
        KH, KW, C, K = w.shape
        windows = np.lib.stride_tricks.sliding_window_view(x, (KH, KW), axis=(1, 2))  # (N, OH, OW, C, KH, KW)
        rows = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, KH * KW * C)
        y = rows @ w.reshape(-1, K) + self.params["bias"]
        return y.reshape(*windows.shape[:3], K), (rows, x.shape)

    def backward(self, dy, cache, *, needs_dx=True):
        rows, x_shape = cache
        w = self.params["weight"]
        KH, KW, C, K = w.shape
        OH, OW = dy.shape[1:3]
        flat = dy.reshape(-1, K)
        grads = {"weight": (rows.T @ flat).reshape(w.shape), "bias": flat.sum(axis=0)}
        if not needs_dx:
            return None, grads
        windows = (flat @ w.reshape(-1, K).T).reshape(*dy.shape[:3], KH, KW, C)
        dx = np.zeros(x_shape, dy.dtype)
        for kh in range(KH):
            for kw in range(KW):
                dx[:, kh : kh + OH, kw : kw + OW] += windows[:, :, :, kh, kw]
        return dx, grads


class NumpyMaxPool2d(MaxPool2d):
    """`MaxPool2d` with windows side by side. channels_last, no padding."""

    def __call__(self, x):
        return self._windows(x).max(axis=-1)

    def forward(self, x):
        first = self._windows(x).argmax(axis=-1, keepdims=True)
        return np.take_along_axis(self._windows(x), first, axis=-1)[..., 0], (first, x.shape)

    def backward(self, dy, cache, *, needs_dx=True):
        first, x_shape = cache
        dx = np.zeros(x_shape, dy.dtype)
        windows = np.zeros((*dy.shape, self._options["size"] ** 2), dy.dtype)
        np.put_along_axis(windows, first, dy[..., np.newaxis], axis=-1)
        size, (N, OH, OW, C) = self._options["size"], dy.shape
        image = windows.reshape(N, OH, OW, C, size, size).transpose(0, 1, 4, 2, 5, 3)
        dx[:, : OH * size, : OW * size] = image.reshape(N, OH * size, OW * size, C)
        return dx, {}

    def _windows(self, x):
        """x (N, H, W, C) as (N, OH, OW, C, size * size)."""
        size, (N, H, W, C) = self._options["size"], x.shape
        OH, OW = H // size, W // size
        image = x[:, : OH * size, : OW * size].reshape(N, OH, size, OW, size, C)
        return image.transpose(0, 1, 3, 5, 2, 4).reshape(N, OH, OW, C, size * size)


class NumpyLinear(Linear):
    """`Linear` by the matrix product of NumPy."""

    def forward(self, x):
        return x @ self.params["weight"].T + self.params["bias"], x

    def backward(self, dy, cache, *, needs_dx=True):
        grads = {"weight": dy.T @ cache, "bias": dy.sum(axis=0)}
        return dy @ self.params["weight"] if needs_dx else None, grads


class NumpyReLU(ReLU):
    """`ReLU` by `numpy.maximum`."""

    def __call__(self, x):
        return np.maximum(x, 0)
