"""Losses: each returns the mean over what counts and its gradient, ready for `backward`.

``mask=`` says what counts: booleans over the leading axes of the first argument, all of its axes or fewer. What a
mask leaves out is never read (it may hold NaN, or a padding index in targets) and has zero gradient. Where nothing
counts the loss is 0.0 and the gradient zero.

The loss is a Python float, summed in float64; gradients have the dtype of the first argument.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .arguments import as_array, as_indices, as_integers

if TYPE_CHECKING:
    from types import EllipsisType

    from numpy.typing import ArrayLike

__all__ = ["gaussian_nll", "mean_squared_error", "softmax_cross_entropy"]


def _like(name: str, value: ArrayLike, first_name: str, first: np.ndarray) -> np.ndarray:
    array = as_array(name, value, first.dtype)
    if array.shape != first.shape:
        raise ValueError(f"{name} must have the shape of {first_name}, {first.shape}, got {array.shape}")
    return array


def _counted(mask: ArrayLike | None, shape: tuple[int, ...]) -> np.ndarray | EllipsisType:
    """The index that selects what counts in an array whose axes begin with `shape`."""
    if mask is None:
        return ...
    mask = np.asarray(mask)
    if mask.dtype != np.bool_:
        raise TypeError(f"mask must be boolean, got {mask.dtype}")
    if mask.shape != shape[: mask.ndim]:
        raise ValueError(f"mask must have shape {shape} or its leading axes, got {mask.shape}")
    return mask


def _spread(gradient: np.ndarray, where: np.ndarray | EllipsisType, shape: tuple[int, ...]) -> np.ndarray:
    """The gradient of what counts, in an array of zeros of the given shape."""
    spread = np.zeros(shape, gradient.dtype)
    spread[where] = gradient
    return spread


def softmax_cross_entropy(
    logits: ArrayLike, targets: ArrayLike, *, mask: ArrayLike | None = None
) -> tuple[float, np.ndarray]:
    """Mean negative log-probability of the targets under softmax(logits).

    ``loss = mean(log(sum_v exp(logits[v])) - logits[target])``, with the largest logit subtracted first.

    Parameters
    ----------
    logits : array_like, shape (..., V)
        float32 or float64.
    targets : array_like of int, shape (...)
        The right class of each row, 0 to V - 1.
    mask : array_like of bool, optional
        Which rows count: shape (...) or its leading axes.

    Returns
    -------
    loss : float
        In nats; 0.0 if no row counts.
    dlogits : ndarray, shape (..., V)
        ``(softmax(logits) - onehot(targets)) / rows``, zero where the mask is False.

    Raises
    ------
    TypeError
        A dtype is not as above.
    ValueError
        A shape is not as above, or a target that counts is no class.

    Examples
    --------
    >>> loss, dlogits = softmax_cross_entropy([[0.0, 0.0]], [1])
    >>> round(loss, 4), dlogits
    (0.6931, array([[ 0.5, -0.5]]))
    """
    logits, targets = as_array("logits", logits), as_integers("targets", targets)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits must have a last axis of at least one class, got shape {logits.shape}")
    if targets.shape != logits.shape[:-1]:
        raise ValueError(f"targets must have shape {logits.shape[:-1]}, got {targets.shape}")
    classes = logits.shape[-1]
    where = _counted(mask, targets.shape)
    counted = logits[where]
    rows, labels = counted.reshape(-1, classes), as_indices("targets", targets[where].reshape(-1), classes)
    if labels.size == 0:
        return 0.0, np.zeros_like(logits)

    shifted = rows - rows.max(axis=1, keepdims=True)
    right = np.arange(len(rows)), labels
    gradient = np.exp(shifted)
    total = gradient.sum(axis=1, keepdims=True)
    loss = (np.log(total[:, 0]) - shifted[right]).mean(dtype=np.float64)
    gradient /= total
    gradient[right] -= 1
    gradient /= len(rows)
    return float(loss), _spread(gradient.reshape(counted.shape), where, logits.shape)


def mean_squared_error(
    y: ArrayLike, targets: ArrayLike, *, mask: ArrayLike | None = None
) -> tuple[float, np.ndarray]:
    """Mean of ``(y - targets)**2`` over the elements that count.

    Parameters
    ----------
    y, targets : array_like, of one shape
        float32 or float64, both the same.
    mask : array_like of bool, optional
        Which elements count: the shape of y or its leading axes.

    Returns
    -------
    loss : float
        In the unit of y squared; 0.0 if no element counts.
    dy : ndarray, shape of y
        ``2 (y - targets) / elements``, zero where the mask is False.

    Raises
    ------
    TypeError, ValueError
        A dtype or a shape is not as above.

    Examples
    --------
    >>> mean_squared_error(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    (2.0, array([ 0., -2.]))
    """
    y = as_array("y", y)
    targets = _like("targets", targets, "y", y)
    where = _counted(mask, y.shape)
    difference = y[where] - targets[where]
    if difference.size == 0:
        return 0.0, np.zeros_like(y)
    loss = np.square(difference, dtype=np.float64).mean()
    return float(loss), _spread(difference * (2 / difference.size), where, y.shape)


def gaussian_nll(
    mean: ArrayLike, log_variance: ArrayLike, targets: ArrayLike, *, mask: ArrayLike | None = None
) -> tuple[float, tuple[np.ndarray, np.ndarray]]:
    """Mean negative log-density of the targets under normal distributions.

    ``loss = mean((log(2 pi) + log_variance + (targets - mean)**2 exp(-log_variance)) / 2)``

    Parameters
    ----------
    mean, log_variance, targets : array_like, of one shape
        float32 or float64, all the same.
    mask : array_like of bool, optional
        Which elements count: the shape of mean or its leading axes.

    Returns
    -------
    loss : float
        In nats, the constant included; 0.0 if no element counts.
    gradients : tuple of two ndarray, shape of mean
        dmean and dlog_variance, zero where the mask is False.

    Raises
    ------
    TypeError, ValueError
        A dtype or a shape is not as above.

    Examples
    --------
    >>> loss, (dmean, dlog_variance) = gaussian_nll(np.zeros(1), np.zeros(1), np.ones(1))
    >>> round(loss, 4), dmean, dlog_variance
    (1.4189, array([-1.]), array([0.]))
    """
    mean = as_array("mean", mean)
    log_variance = _like("log_variance", log_variance, "mean", mean)
    targets = _like("targets", targets, "mean", mean)
    where = _counted(mask, mean.shape)
    difference = mean[where] - targets[where]
    if difference.size == 0:
        return 0.0, (np.zeros_like(mean), np.zeros_like(mean))
    scaled = difference * np.exp(-log_variance[where])  # (mean - targets) / variance
    squares = scaled * difference
    loss = (math.log(2 * math.pi) + (log_variance[where] + squares).mean(dtype=np.float64)) / 2
    dmean = _spread(scaled / difference.size, where, mean.shape)
    dlog_variance = _spread((1 - squares) / (2 * difference.size), where, mean.shape)
    return float(loss), (dmean, dlog_variance)
