"""Sequences as distributions: ``P(X_1..X_T) = prod_s P(X_s | X_{s-1}, .., X_1)``.

`AR` looks back over a window of tau values; `LatentAR` over all of them, summed up in the state of a recurrent layer.
Both are used alike::

    model.fit(x)
    model.predict(x, steps)          the values expected after x
    model.sample(steps, start=x)     values drawn after x; with paths=B, B futures at once
    model.log_prob(x)                the sum of log P(X_s | what came before)

Letters: T time, d width of a value, tau lags, B paths, H hidden size, V categories. Log-probabilities are in nats; of a
continuous series they are log-densities in its own unit.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from . import optimizers
from .arguments import as_array, as_indices, choice, generator, integer, positive, real_dtype
from .layers import Embedding, Layer, Linear
from .losses import gaussian_nll, softmax_cross_entropy
from .optimizers import Adam
from .recurrent_layers import GRU, LSTM, RNN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import ArrayLike, DTypeLike

    from .arguments import Seed

__all__ = ["AR", "LatentAR"]

_LOG_2PI = math.log(2 * math.pi)
_CHUNK = 1024  # steps at a time where nothing is kept: bounds the memory, and changes no bit of the result


def _as_series(name: str, value: ArrayLike, value_shape: tuple[int, ...] | None = None) -> np.ndarray:
    """value as an array (T,) or (T, d); as the one of the two that the model was fitted to, if that is given."""
    x = as_array(name, value)
    if value_shape is None:
        if x.ndim not in (1, 2) or 0 in x.shape[1:]:
            raise ValueError(f"{name} must have shape (T,) or (T, d) with d at least 1, got {x.shape}")
    elif x.ndim == 0 or x.shape[1:] != value_shape:
        expected = f"(T, {value_shape[0]})" if value_shape else "(T,)"
        raise ValueError(f"{name} must have shape {expected} like the series of fit, got {x.shape}")
    return x


def _rows(x: np.ndarray) -> np.ndarray:
    """A series (T,) or (T, d) as (T, d) in float64."""
    return x.reshape(len(x), math.prod(x.shape[1:])).astype(np.float64)


def _finite(name: str, x: np.ndarray) -> None:
    if not np.isfinite(x).all():
        raise ValueError(f"{name} must be finite, got {x[~np.isfinite(x)][0]}")


def _checked_given(given: int, low: int, T: int) -> int:
    given = integer("given", given, low)
    if given > T:
        raise ValueError(f"x must have at least the {given} values that are given, got {T}")
    return given


def _checked_paths(paths: int | None) -> int:
    return 1 if paths is None else integer("paths", paths, 1)


class AR:
    """An autoregressive model: every value is linear in the tau values before it, up to normal noise.

    ``X_s = intercept + sum_k coefficients[k-1] @ X_{s-k} + e_s,  k = 1..tau,  e_s ~ N(0, covariance)``

    Parameters
    ----------
    tau : int
        How many values to look back, >= 0; 0 is independent normal noise.

    Attributes
    ----------
    intercept : (d,) float64 array
    coefficients : (tau, d, d) float64 array
    covariance : (d, d) float64 array
        Of the noise, in the unit of the series squared. A series (T,) has d = 1.

    Notes
    -----
    `fit` is least squares, which under normal noise is the maximum of the likelihood given the first tau values, and
    the covariance is the mean of the squared residuals. Series are float32 or float64; all is computed in float64.

    Examples
    --------
    >>> x = np.sin(np.arange(100.0))  # sin(s) = 2 cos(1) sin(s-1) - sin(s-2)
    >>> model = AR(2).fit(x)
    >>> model.coefficients[:, 0, 0].round(4)
    array([ 1.0806, -1.    ])
    >>> np.allclose(model.predict(x, 50), np.sin(np.arange(100, 150)))
    True
    """

    def __init__(self, tau: int) -> None:
        self.tau = integer("tau", tau, 0)
        self._value_shape: tuple[int, ...] | None = None

    def __repr__(self) -> str:
        return f"AR({self.tau})"

    def fit(self, x: ArrayLike) -> AR:
        """Estimates the parameters from a series, and returns the model.

        Parameters
        ----------
        x : (T,) or (T, d) array
            At least as many values after the first tau as there are parameters to a component, tau*d + 1, and d more.

        Raises
        ------
        ValueError
            A shape is not as above, or a value is not finite.
        """
        x = _as_series("x", x)
        _finite("x", x)
        values = _rows(x)
        T, d = values.shape
        fewest = self.tau + self.tau * d + 1 + d
        if T < fewest:
            raise ValueError(f"x must have at least {fewest} values for tau = {self.tau} and d = {d}, got {T}")
        self._start = values.mean(axis=0)
        # About the mean the columns of the least squares problem do not all resemble the intercept's.
        past, present = self._past(values - self._start), values[self.tau :] - self._start
        rows = np.concatenate((np.ones((len(past), 1)), past), axis=1)
        solution = np.linalg.lstsq(rows, present, rcond=None)[0]
        residuals = present - rows @ solution
        self.coefficients = solution[1:].reshape(self.tau, d, d).swapaxes(1, 2)
        self.intercept = solution[0] + self._start - self.coefficients.sum(axis=0) @ self._start
        self.covariance = residuals.T @ residuals / len(residuals)
        self._value_shape = x.shape[1:]
        return self

    def log_prob(self, x: ArrayLike, *, given: int | None = None) -> float:
        """``sum over s > given of log P(X_s | X_{s-1}..X_{s-tau})``, in nats.

        Parameters
        ----------
        x : (T,) or (T, d) array
        given : int, optional
            How many of the first values are given: tau or more; tau if None.

        Raises
        ------
        ValueError
            A shape is wrong, there are fewer values than are given, or the covariance is singular.
        """
        x = self._series("x", x)
        given = _checked_given(self.tau if given is None else given, self.tau, len(x))
        values = _rows(x)
        mean = self.intercept + self._past(values) @ self._stacked()
        residuals = (values[self.tau :] - mean)[given - self.tau :]
        try:
            root = np.linalg.cholesky(self.covariance)
        except np.linalg.LinAlgError:
            raise ValueError("x has no density: the series of fit had no noise, its covariance is singular") from None
        squares = np.square(np.linalg.solve(root, residuals.T)).sum()
        return float(-squares / 2 - residuals.size * _LOG_2PI / 2 - len(residuals) * np.log(np.diag(root)).sum())

    def predict(self, x: ArrayLike, steps: int) -> np.ndarray:
        """The expected values of the `steps` that follow x.

        Parameters
        ----------
        x : (T,) or (T, d) array
            At least tau values.
        steps : int

        Returns
        -------
        (steps,) or (steps, d) array, in the dtype of x
        """
        x = self._series("x", x)
        return self._continued("x", x, integer("steps", steps, 0), 1, lambda mean: mean)[0]

    def sample(
        self, steps: int, *, start: ArrayLike | None = None, rng: Seed = None, paths: int | None = None
    ) -> np.ndarray:
        """Draws the `steps` values that follow a start.

        Parameters
        ----------
        steps : int
        start : (T,) or (T, d) array, optional
            At least tau values; not part of the result. None: tau times the mean of the series of `fit`.
        rng : int or numpy.random.Generator, optional
        paths : int, optional
            So many independent draws at once.

        Returns
        -------
        (steps,) or (steps, d) array, behind an axis of paths if these are given
            In the dtype of start; float64 if that is None.
        """
        steps, B = integer("steps", steps, 0), _checked_paths(paths)
        if start is None:
            self._value_shape_or_error()
            start = np.broadcast_to(self._start, (self.tau, len(self._start))).reshape(-1, *self._value_shape)
        start = self._series("start", start)
        variances, axes = np.linalg.eigh(self.covariance)  # a singular covariance has this root too
        root = axes * np.sqrt(np.maximum(variances, 0))
        rng = generator("rng", rng)
        drawn = self._continued("start", start, steps, B, lambda mean: mean + rng.standard_normal(mean.shape) @ root.T)
        return drawn[0] if paths is None else drawn

    def _continued(
        self, name: str, x: np.ndarray, steps: int, B: int, choose: Callable[[np.ndarray], np.ndarray]
    ) -> np.ndarray:
        """(B, steps, ...): what `choose` makes of the mean (B, d) of every step, fed back into the next."""
        if len(x) < self.tau:
            raise ValueError(f"{name} must have at least tau = {self.tau} values, got {len(x)}")
        d, stacked = len(self.intercept), self._stacked()
        series = np.empty((B, self.tau + steps, d))
        series[:, : self.tau] = x[len(x) - self.tau :].reshape(self.tau, d)
        for s in range(self.tau, self.tau + steps):
            newest_first = series[:, s - self.tau : s][:, ::-1].reshape(B, -1)
            series[:, s] = choose(self.intercept + newest_first @ stacked)
        return series[:, self.tau :].reshape(B, steps, *self._value_shape).astype(x.dtype)

    def _past(self, values: np.ndarray) -> np.ndarray:
        """(T - tau, tau*d): what came before each value, the newest first."""
        T, d = values.shape
        lags = [values[self.tau - k : T - k] for k in range(1, self.tau + 1)]
        return np.concatenate(lags, axis=1) if lags else np.empty((T, 0))

    def _stacked(self) -> np.ndarray:
        """(tau*d, d): the coefficients as `_past` needs them."""
        return self.coefficients.swapaxes(1, 2).reshape(-1, len(self.intercept))

    def _value_shape_or_error(self) -> tuple[int, ...]:
        if self._value_shape is None:
            raise RuntimeError("this AR has no parameters yet: call fit first")
        return self._value_shape

    def _series(self, name: str, value: ArrayLike) -> np.ndarray:
        return _as_series(name, value, self._value_shape_or_error())


# ---------------------------------------------------------------------------------------------- what a state can say
#
# An output turns series into the values a network works on, (T,) or (T, d), and the vectors that the network returns
# into distributions of the next value. `marginal` is the vector of the distribution of the first one, `nothing` an
# empty series.


class _Gaussian:
    """Normal values with independent components: the network returns mean and log variance, standardised."""

    def __init__(self, x: np.ndarray, dtype: np.dtype) -> None:
        _finite("x", x)
        self.value_shape = x.shape[1:]
        self.dtype = dtype
        values = _rows(x)
        self.mean, deviation = values.mean(axis=0), values.std(axis=0)
        self.scale = np.where(deviation > 0, deviation, 1.0)
        self.nothing = np.empty((0, len(self.mean)), dtype)
        self.marginal = np.zeros(2 * len(self.mean), dtype)

    @staticmethod
    def series(name: str, x: ArrayLike) -> np.ndarray:
        return _as_series(name, x)

    def encode(self, name: str, x: ArrayLike) -> tuple[np.ndarray, np.dtype]:
        x = _as_series(name, x, self.value_shape)
        return ((_rows(x) - self.mean) / self.scale).astype(self.dtype), x.dtype

    def decode(self, values: np.ndarray, dtype: np.dtype | None) -> np.ndarray:
        unscaled = values * self.scale + self.mean
        return unscaled.reshape(*values.shape[:-1], *self.value_shape).astype(dtype or self.dtype)

    def loss(self, outputs: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
        """Nats per value, in the series' own unit, and their gradient."""
        d = targets.shape[-1]
        loss, gradients = gaussian_nll(outputs[..., :d], outputs[..., d:], targets)
        return d * loss + float(np.log(self.scale).sum()), d * np.concatenate(gradients, axis=-1)

    def log_densities(self, outputs: np.ndarray, values: np.ndarray) -> np.ndarray:
        mean, log_variance = np.split(outputs.astype(np.float64), 2, axis=-1)
        squares = np.square(values - mean) * np.exp(-log_variance)
        return -(squares + log_variance + _LOG_2PI).sum(axis=-1) / 2 - np.log(self.scale).sum()

    def expected(self, outputs: np.ndarray) -> np.ndarray:
        return outputs[..., : len(self.mean)]

    def draw(self, outputs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        mean, log_variance = np.split(outputs, 2, axis=-1)
        return mean + np.exp(log_variance / 2) * rng.standard_normal(mean.shape)


class _Categorical:
    """Integers 0..V-1: the network returns logits."""

    nothing = np.empty(0, np.intp)

    def __init__(self, x: np.ndarray, categories: int) -> None:
        # One imagined occurrence each: what fit has not seen stays possible.
        self.marginal = np.log((np.bincount(x, minlength=categories) + 1) / (len(x) + categories))

    @staticmethod
    def series(name: str, x: ArrayLike) -> np.ndarray:
        x = np.asarray(x)
        if x.ndim != 1:
            raise ValueError(f"{name} must have shape (T,), got {x.shape}")
        return x

    def encode(self, name: str, x: ArrayLike) -> tuple[np.ndarray, np.dtype | None]:
        return as_indices(name, self.series(name, x), len(self.marginal)), None

    def decode(self, values: np.ndarray, dtype: None) -> np.ndarray:
        return values.astype(np.int64)

    def loss(self, outputs: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
        """Nats per value and their gradient."""
        return softmax_cross_entropy(outputs, targets)

    def log_densities(self, outputs: np.ndarray, values: np.ndarray) -> np.ndarray:
        logits = outputs.astype(np.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        right = np.take_along_axis(logits, values[..., np.newaxis], axis=-1)[..., 0]
        return right - np.log(np.exp(logits).sum(axis=-1))

    def expected(self, outputs: np.ndarray) -> np.ndarray:
        return outputs.argmax(axis=-1)

    def draw(self, outputs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        # The largest logit after Gumbel noise is distributed as their softmax.
        return (outputs + rng.gumbel(size=outputs.shape)).argmax(axis=-1)


class _Network(Layer):
    """Values to outputs: an embedding if the values are integers, the cell, a linear layer."""

    def __init__(self, embedding: Embedding | None, cell: Layer, head: Linear) -> None:
        self.parts = {"cell": cell, "head": head} if embedding is None else \
            {"embedding": embedding, "cell": cell, "head": head}

    @property
    def params(self) -> dict[str, np.ndarray]:
        return self._named({part: layer.params for part, layer in self.parts.items()})

    def __call__(self, x: np.ndarray, state: Any = None) -> tuple[np.ndarray, Any]:
        """The outputs after each of the values (T, B) or (T, B, d), and the state after the last."""
        embedding = self.parts.get("embedding")
        y, state = self.parts["cell"](x if embedding is None else embedding(x), state)
        return self.parts["head"](y), state

    def forward(self, x, state=None):
        caches = {}
        if "embedding" in self.parts:
            x, caches["embedding"] = self.parts["embedding"].forward(x)
        y, state, caches["cell"] = self.parts["cell"].forward(x, state)
        outputs, caches["head"] = self.parts["head"].forward(y)
        return outputs, state, caches

    def backward(self, dy, cache):
        """Gradients of the parameters; none goes to the values or to the first state."""
        grads = {}
        dy, grads["head"] = self.parts["head"].backward(dy, cache["head"])
        dx, _, grads["cell"] = self.parts["cell"].backward(dy, cache["cell"], needs_dx="embedding" in self.parts)
        if dx is not None:
            _, grads["embedding"] = self.parts["embedding"].backward(dx, cache["embedding"])
        return self._named(grads)

    def _named(self, dicts: dict[str, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {f"{part}.{name}": array for part in self.parts for name, array in dicts[part].items()}


class LatentAR:
    """A latent autoregressive model: the past summed up in the state of a recurrent network.

    ``h_s = cell(h_{s-1}, X_{s-1});  P(X_s | X_{s-1}, .., X_1) = P(X_s | W h_s + b)``

    Parameters
    ----------
    hidden_size : int
        H.
    cell : {"rnn", "gru", "lstm"}, optional
    output : {"gaussian", "categorical"}, optional
        What a series holds: numbers, (T,) or (T, d), whose components are independent and normal given the past; or
        integers from 0 to V - 1, (T,), which enter the network through an `Embedding`.
    num_layers : int, optional
    num_categories : int, optional
        V of a categorical output; None is the largest integer of the series of `fit` plus 1.
    embedding_dim : int, optional
        Of a categorical output; None is the smaller of V and H.
    dtype : {float32, float64}, optional
        Of the network. Series of numbers may have either.
    rng : int or numpy.random.Generator, optional
        Seed of the start values and of `fit`.

    Attributes
    ----------
    params : dict of str to ndarray
        "embedding.weight", "cell.weight_ih_l0", .., "head.weight", "head.bias", once `fit` has been called.
    losses : list of float
        The mean -log P(X_s | ..) of every block that `fit` has learned from, in nats, before its step.
    validation_losses : list of float
        The same of the values held back, after every epoch.

    Notes
    -----
    `fit` standardises numbers with their mean and deviation; log-densities and samples are in the series' own unit.
    The first value has a distribution of its own, learned from the series as a set: normal, or the frequencies with one
    occurrence added to each.

    Examples
    --------
    >>> x = np.arange(300) % 3
    >>> model = LatentAR(8, output="categorical", rng=0).fit(x, epochs=20, lr=0.02)
    >>> model.predict([0, 1], 5)
    array([2, 0, 1, 2, 0])
    >>> bool(np.exp(model.log_prob([0, 1, 2, 0])) > 0.9)
    True
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        cell: str = "rnn",
        output: str = "gaussian",
        num_layers: int = 1,
        num_categories: int | None = None,
        embedding_dim: int | None = None,
        dtype: DTypeLike = np.float32,
        rng: Seed = None,
    ) -> None:
        self.hidden_size = integer("hidden_size", hidden_size, 1)
        self.num_layers = integer("num_layers", num_layers, 1)
        self.num_categories = None if num_categories is None else integer("num_categories", num_categories, 1)
        self.embedding_dim = None if embedding_dim is None else integer("embedding_dim", embedding_dim, 1)
        self._cell_class = choice("cell", cell, {"rnn": RNN, "gru": GRU, "lstm": LSTM})
        self._categorical = choice("output", output, {"gaussian": False, "categorical": True})
        if not self._categorical and (num_categories, embedding_dim) != (None, None):
            raise ValueError("num_categories and embedding_dim are for output='categorical', got output='gaussian'")
        self._dtype = real_dtype("dtype", dtype)
        self._rng = rng
        self._network: _Network | None = None
        self.losses: list[float] = []
        self.validation_losses: list[float] = []

    def __repr__(self) -> str:
        output = "categorical" if self._categorical else "gaussian"
        return f"LatentAR({self.hidden_size}, cell={self._cell_class.__name__.lower()!r}, output={output!r})"

    @property
    def params(self) -> dict[str, np.ndarray]:
        return self._fitted().params

    def fit(
        self, x: ArrayLike, *, epochs: int = 100, block: int = 32, strands: int = 1, lr: float = 5e-3,
        clip_norm: float = 1.0, validation: int = 0, progress: bool = False,
    ) -> LatentAR:
        """Learns a series from new start values, by truncated BPTT, and returns the model.

        The series is cut into strands of equal length, which are walked side by side, a block at a time: the state goes
        on from block to block, its gradient does not. Each block is one step of `Adam`, whose learning rate falls to
        zero along a cosine.

        Parameters
        ----------
        x : (T,) or (T, d) array, or (T,) array of int
        epochs : int, optional
            How often to walk the series.
        block : int, optional
            Steps through which gradients go back.
        strands : int, optional
            The batch: more of them make an epoch faster and take fewer, steadier steps. Up to strands - 1 values,
            others in each epoch, are left out for equal lengths.
        lr : float, optional
            The learning rate at first.
        clip_norm : float, optional
            The largest norm of all gradients of a step together.
        validation : int, optional
            How many of the last values not to learn from. After every epoch their probability is measured, as many
            values before them given, and the parameters of the best epoch are kept.
        progress : bool, optional
            Whether to show a progress bar, if tqdm is installed.

        Raises
        ------
        TypeError, ValueError
            The series or a number is not as above.
        """
        x = (_Categorical if self._categorical else _Gaussian).series("x", x)
        epochs, block = integer("epochs", epochs, 1), integer("block", block, 1)
        strands, validation = integer("strands", strands, 1), integer("validation", validation, 0)
        positive("clip_norm", clip_norm)
        T = len(x) - validation
        if T <= strands:
            raise ValueError(f"x must have more values to learn from than strands, {strands}, got {len(x)} with "
                             f"{validation} for validation")
        output = self._new_output(x, T)
        rng = generator("rng", self._rng)
        network = self._new_network(output, rng)
        optimizer = Adam(network.params, lr)
        self._output, self._network, self.losses, self.validation_losses = output, network, [], []
        values, _ = output.encode("x", x[:T])
        steps = epochs * math.ceil((T - 1) // strands / block)
        lowest, best = math.inf, network.params  # which is what it is at the end, where nothing validates it
        with _progress_bar(steps, progress) as advance:
            for _ in range(epochs):
                for loss, grads in self._walk(values, strands, block, rng):
                    self.losses.append(loss)
                    optimizers.clip_norm(grads, clip_norm)
                    optimizer.lr = lr * (1 + math.cos(math.pi * optimizer.steps / steps)) / 2
                    optimizer.step(grads)
                    advance(loss)
                if validation:
                    nats = self._validation_loss(x, validation)
                    self.validation_losses.append(nats)
                    if nats < lowest:
                        lowest, best = nats, network.state_dict()
        network.load_state_dict(best)
        return self

    def log_prob(self, x: ArrayLike, *, given: int = 1) -> float:
        """``sum over s > given of log P(X_s | X_{s-1}, .., X_1)``, in nats.

        Parameters
        ----------
        x : (T,) or (T, d) array, or (T,) array of int
        given : int, optional
            How many of the first values are given. 0 counts the first one too.

        Raises
        ------
        TypeError, ValueError
            A shape or dtype is not as in `fit`, an integer is no category, or fewer values are there than are given.
        """
        network = self._fitted()
        values, _ = self._output.encode("x", x)
        given = _checked_given(given, 0, len(values))
        total = 0.0 if given or not len(values) else float(self._output.log_densities(self._output.marginal, values[0]))
        state = None
        for first in range(0, len(values) - 1, _CHUNK):
            inputs, targets = values[first:-1][:_CHUNK], values[first + 1 :][:_CHUNK]
            outputs, state = network(inputs[:, np.newaxis], state)
            counted = slice(max(given - 1 - first, 0), None)
            total += float(self._output.log_densities(outputs[counted, 0], targets[counted]).sum())
        return total

    def predict(self, x: ArrayLike, steps: int) -> np.ndarray:
        """A forecast of the `steps` values that follow x: of each the most expected, as if those before had come true.

        After the first step this is not the mean of all futures: for that, and for how far they scatter, draw many by
        ``sample(steps, start=x, paths=1000)``.

        Parameters
        ----------
        x : (T,) or (T, d) array, or (T,) array of int
        steps : int

        Returns
        -------
        (steps,) or (steps, d) array
            In the dtype of x; int64 if categorical: each the most probable category.
        """
        self._fitted()
        values, dtype = self._output.encode("x", x)
        return self._continued(values, integer("steps", steps, 0), 1, self._output.expected, dtype)[0]

    def sample(
        self, steps: int, *, start: ArrayLike | None = None, rng: Seed = None, paths: int | None = None
    ) -> np.ndarray:
        """Draws the `steps` values that follow a start, each from its distribution given all before it.

        Parameters
        ----------
        steps : int
        start : (T,) or (T, d) array, or (T,) array of int, optional
            Not part of the result. None: the first value is drawn too.
        rng : int or numpy.random.Generator, optional
        paths : int, optional
            So many independent draws at once.

        Returns
        -------
        (steps,) or (steps, d) array, behind an axis of paths if these are given
            In the dtype of start, or of the network if that is None; int64 if categorical.
        """
        self._fitted()
        steps, B = integer("steps", steps, 0), _checked_paths(paths)
        values, dtype = (self._output.nothing, None) if start is None else self._output.encode("start", start)
        rng = generator("rng", rng)
        drawn = self._continued(values, steps, B, lambda outputs: self._output.draw(outputs, rng), dtype)
        return drawn[0] if paths is None else drawn

    # ---- below: how the network walks

    def _walk(
        self, values: np.ndarray, strands: int, block: int, rng: np.random.Generator
    ) -> Iterator[tuple[float, dict[str, np.ndarray]]]:
        """Loss and gradients of one block after another, with the parameters as they are by then."""
        length, left = divmod(len(values) - 1, strands)
        first = int(rng.integers(left + 1))

        def cut(first: int) -> np.ndarray:
            strand_by_strand = values[first : first + strands * length].reshape(strands, length, *values.shape[1:])
            return strand_by_strand.swapaxes(0, 1)

        inputs, targets, state = cut(first), cut(first + 1), None
        for t in range(0, length, block):
            outputs, state, cache = self._network.forward(inputs[t : t + block], state)
            loss, doutputs = self._output.loss(outputs, targets[t : t + block])
            yield loss, self._network.backward(doutputs, cache)

    def _validation_loss(self, x: np.ndarray, count: int) -> float:
        """Nats per value of the last `count` of x, as many before them given."""
        given = min(count, len(x) - count)
        return -self.log_prob(x[len(x) - count - given :], given=given) / count

    def _continued(
        self, values: np.ndarray, steps: int, B: int, choose: Callable[[np.ndarray], np.ndarray],
        dtype: np.dtype | None,
    ) -> np.ndarray:
        """(B, steps, ...): what `choose` makes of the outputs of every step, fed back into the next."""
        network, state = self._network.frozen(), None
        outputs = self._output.marginal[np.newaxis]
        for first in range(0, len(values), _CHUNK):
            outputs, state = network(values[first : first + _CHUNK, np.newaxis], state)
            outputs = outputs[-1]
        outputs = np.repeat(outputs, B, axis=0)
        if isinstance(state, tuple):
            state = tuple(np.repeat(array, B, axis=1) for array in state)
        elif state is not None:
            state = np.repeat(state, B, axis=1)
        chosen = np.empty((steps, B, *values.shape[1:]), values.dtype)
        for s in range(steps):
            chosen[s] = choose(outputs)
            outputs, state = network(chosen[s : s + 1], state)
            outputs = outputs[0]
        return self._output.decode(chosen.swapaxes(0, 1), dtype)

    # ---- below: what fit makes

    def _new_output(self, x: np.ndarray, T: int) -> _Gaussian | _Categorical:
        """What x holds, as far as its first T values tell."""
        if not self._categorical:
            _finite("x", x)
            return _Gaussian(x[:T], self._dtype)
        categories = self.num_categories
        if categories is None:
            categories = 1 + int(x.max()) if x.dtype.kind in "iu" and x.max() >= 0 else 1
        return _Categorical(as_indices("x", x, categories)[:T], categories)

    def _new_network(self, output: _Gaussian | _Categorical, rng: np.random.Generator) -> _Network:
        outputs, embedding = len(output.marginal), None
        width = outputs // 2
        if self._categorical:
            width = min(outputs, self.hidden_size) if self.embedding_dim is None else self.embedding_dim
            embedding = Embedding(outputs, width, dtype=self._dtype, rng=rng)
        cell = self._cell_class(width, self.hidden_size, num_layers=self.num_layers, dtype=self._dtype, rng=rng)
        return _Network(embedding, cell, Linear(self.hidden_size, outputs, dtype=self._dtype, rng=rng))

    def _fitted(self) -> _Network:
        if self._network is None:
            raise RuntimeError("this LatentAR has no parameters yet: call fit first")
        return self._network


@contextlib.contextmanager
def _progress_bar(steps: int, shown: bool) -> Iterator[Callable[[float], None]]:
    """What to call with the loss after every step; it draws nothing if tqdm is missing."""
    if not shown or importlib.util.find_spec("tqdm") is None:
        yield lambda loss: None
        return
    from tqdm import tqdm

    with tqdm(total=steps, unit=" steps", leave=False) as bar:

        def advance(loss: float) -> None:
            bar.set_postfix_str(f"{loss:.3f} nats", refresh=False)
            bar.update()

        yield advance
