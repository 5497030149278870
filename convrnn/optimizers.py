"""Optimizers: small steps of parameters against their gradients, in place.

    optimizer = Adam(net.params, 1e-3)
    ...
    optimizer.step(grads)

``params`` is the dict of a layer, or of several under keys of your own; ``lr`` may be changed between steps.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .arguments import as_array, check_names, positive, real

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SGD", "Adam", "clip_norm"]


def _checked_range(name: str, value: float, low: float, high: float) -> float:
    if not low <= real(name, value) < high:
        raise ValueError(f"{name} must be at least {low} and below {high}, got {value}")
    return value


def _checked_pair(name: str, values: tuple[float, float]) -> tuple[float, float]:
    """Two numbers, at least 0 and below 1."""
    try:
        first, second = values
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} must be two numbers, got {values!r}") from None
    return _checked_range(name, first, 0, 1), _checked_range(name, second, 0, 1)


class _Optimizer:
    def __init__(self, params: Mapping[str, np.ndarray], lr: float) -> None:
        check_names("params", params, params)
        for name, array in params.items():
            kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            if kind not in (np.float32, np.float64):
                raise TypeError(f"params[{name!r}] must be a NumPy array of float32 or float64, got {kind}")
            if not array.flags.writeable:
                raise ValueError(f"params[{name!r}] must be writable")
        self.params = dict(params)
        self.lr = _checked_range("lr", lr, 0, math.inf)
        self.steps = 0

    def step(self, grads: Mapping[str, np.ndarray | None]) -> None:
        """Moves every parameter, in place.

        Everything is checked before the first parameter is written.

        Parameters
        ----------
        grads : mapping of str to ndarray or None
            Keys, shapes and dtypes of the parameters. A parameter whose gradient is None stays as it is.

        Raises
        ------
        ValueError
            A key is missing or unexpected, or a gradient has the wrong shape.
        TypeError
            A gradient has another dtype than its parameter.
        """
        check_names("grads", grads, self.params)
        moving = {name: as_array(f"grads[{name!r}]", gradient, param.dtype) for name, param in self.params.items()
                  if (gradient := grads[name]) is not None}
        for name, gradient in moving.items():
            if gradient.shape != self.params[name].shape:
                raise ValueError(f"grads[{name!r}] must have shape {self.params[name].shape}, got {gradient.shape}")
        self.steps += 1
        for name, gradient in moving.items():
            self._move(name, self.params[name], gradient)

    def _move(self, name: str, param: np.ndarray, gradient: np.ndarray) -> None:
        raise NotImplementedError


class SGD(_Optimizer):
    """Gradient descent with momentum: ``v = momentum * v + g;  p -= lr * v``.

    Parameters
    ----------
    params : mapping of str to ndarray
        Changed in place by `step`.
    lr : float
        Learning rate, >= 0.
    momentum : float, optional
        0 <= momentum < 1.

    Examples
    --------
    >>> params = {"w": np.array([1.0, 2.0])}
    >>> SGD(params, 0.5).step({"w": np.array([1.0, -1.0])})
    >>> params["w"]
    array([0.5, 2.5])
    """

    def __init__(self, params: Mapping[str, np.ndarray], lr: float, momentum: float = 0.0) -> None:
        super().__init__(params, lr)
        self.momentum = _checked_range("momentum", momentum, 0, 1)
        self.velocity = {name: np.zeros_like(array) for name, array in params.items()}

    def _move(self, name: str, param: np.ndarray, gradient: np.ndarray) -> None:
        velocity = self.velocity[name]
        velocity *= self.momentum
        velocity += gradient
        param -= self.lr * velocity


class Adam(_Optimizer):
    """Adam: steps scaled by running means of the gradient and of its square, both corrected for their start at zero.

    ``m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g**2;  p -= lr * (m / (1-b1**t)) / (sqrt(v / (1-b2**t)) + eps)``

    Parameters
    ----------
    params : mapping of str to ndarray
        Changed in place by `step`.
    lr : float
        Learning rate, >= 0.
    betas : tuple of two float, optional
        b1 and b2, 0 <= b < 1.
    eps : float, optional
        Keeps the division finite, >= 0.

    Notes
    -----
    t counts the steps of the optimizer. A parameter skipped because its gradient is None keeps its m and v.
    """

    def __init__(
        self,
        params: Mapping[str, np.ndarray],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, lr)
        self.betas = _checked_pair("betas", betas)
        self.eps = _checked_range("eps", eps, 0, math.inf)
        self.mean = {name: np.zeros_like(array) for name, array in params.items()}
        self.mean_square = {name: np.zeros_like(array) for name, array in params.items()}

    def _move(self, name: str, param: np.ndarray, gradient: np.ndarray) -> None:
        b1, b2 = self.betas
        m, v = self.mean[name], self.mean_square[name]
        change = np.multiply(gradient, 1 - b1)  # the one temporary, reused for all that follows
        m *= b1
        m += change
        np.square(gradient, out=change)
        change *= 1 - b2
        v *= b2
        v += change
        np.divide(v, 1 - b2**self.steps, out=change)
        np.sqrt(change, out=change)
        change += self.eps
        np.divide(m, change, out=change)
        change *= self.lr / (1 - b1**self.steps)
        param -= change


def clip_norm(grads: Mapping[str, np.ndarray | None], max_norm: float) -> float:
    """Scales all gradients, in place and by one factor, so that their joint norm is at most max_norm.

    Parameters
    ----------
    grads : mapping of str to ndarray or None
        None is skipped.
    max_norm : float
        > 0.

    Returns
    -------
    norm : float
        The root of the sum of all squares before scaling, summed in float64. If it is not finite the gradients are
        left as they are.

    Raises
    ------
    ValueError
        max_norm is not positive.

    Examples
    --------
    >>> grads = {"w": np.array([3.0, 4.0])}
    >>> clip_norm(grads, 1.0), grads["w"]
    (5.0, array([0.6, 0.8]))
    """
    positive("max_norm", max_norm)
    arrays = [array for array in grads.values() if array is not None]
    norm = math.sqrt(sum(float(np.square(array, dtype=np.float64).sum()) for array in arrays))
    if max_norm < norm < math.inf:
        for array in arrays:
            array *= max_norm / norm
    return norm
