"""Recurrent layers: RNN, LSTM and GRU, stacked and in both directions, around the walks of `recurrent`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core, recurrent
from .arguments import as_array, boolean, generator, integer, real_dtype
from .layers import Frozen, Layer

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

    from .arguments import Seed
    from .recurrent import Arrays, Cache, Shapes, State

__all__ = ["GRU", "LSTM", "RNN"]


class SequenceCache:
    """What forward keeps for backward: a cache for every layer and direction, in the order of the state."""

    __slots__ = ("build", "parts", "shape", "state_shapes")

    def __init__(self, parts: list[Cache], shape: tuple[int, ...], state: Shapes, build: tuple[Any, ...]) -> None:
        self.parts = parts
        self.shape = shape  # of y
        self.state_shapes = state
        self.build = build  # of the layer

    @property
    def h(self) -> np.ndarray:
        """(L*D, T, B, H): the state after every step, of every layer and direction; zero past a row's end."""
        return np.stack([part.h for part in self.parts])

    @property
    def c(self) -> np.ndarray | None:
        """(L*D, T, B, H): the cell after every step; None but for an LSTM."""
        steps = [part.c for part in self.parts if part.c is not None]
        return np.stack(steps) if steps else None

    @property
    def gates(self) -> np.ndarray:
        """(L*D, T, B, G*H): the gates of every step, after their activations."""
        return np.stack([part.gates for part in self.parts])


class _Recurrent(Layer):
    """Layers of one cell, the next fed with every state of the one before, in one direction or both."""

    _cell: recurrent.Cell
    has_state = True

    def __init__(
        self, input_size: int, hidden_size: int, *, num_layers: int, bias: bool, bidirectional: bool,
        batch_first: bool, proj_size: int, options: recurrent.Options, dtype: DTypeLike, rng: Seed,
    ) -> None:
        super().__init__()
        self.input_size = integer("input_size", input_size, 1)
        self.hidden_size = integer("hidden_size", hidden_size, 1)
        self.num_layers = integer("num_layers", num_layers, 1)
        self.proj_size = integer("proj_size", proj_size, 0)
        self.bidirectional = boolean("bidirectional", bidirectional)
        self.batch_first = boolean("batch_first", batch_first)
        self._options = options
        self._width = self.proj_size or self.hidden_size
        self._directions = 2 if self.bidirectional else 1
        self._names = tuple(tuple(_key(stem, layer, direction) for stem in _STEMS)
                            for layer in range(self.num_layers) for direction in range(self._directions))
        self.params = self._initial_params(boolean("bias", bias), real_dtype("dtype", dtype), generator("rng", rng))

    def _initial_params(self, bias: bool, dtype: np.dtype, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """PyTorch's default start: all uniform within 1/sqrt(H) on both sides of zero."""
        bound = 1 / math.sqrt(self.hidden_size)
        rows = self._cell.gates * self.hidden_size
        params = {}
        for layer in range(self.num_layers):
            inputs = self._width * self._directions if layer else self.input_size
            for direction in range(self._directions):
                shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, inputs), "weight_hh": (rows, self._width)}
                if bias:
                    shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
                if self.proj_size:
                    shapes["weight_hr"] = (self.proj_size, self.hidden_size)
                for name, shape in shapes.items():
                    value = rng.uniform(-bound, bound, shape)
                    params[_key(name, layer, direction)] = _streamable(value.astype(dtype))
        return params

    @property
    def _build(self) -> tuple[Any, ...]:
        """What a cache has in common with the layer that `backward` takes it to."""
        return (self.input_size, self.hidden_size, self.proj_size, "batch first" if self.batch_first else "time first",
                *self.params)

    def __call__(  # type: ignore[override]
        self, x: ArrayLike, state: State = None, *, lengths: ArrayLike | None = None
    ) -> tuple[Any, ...]:
        """Inference: y and the last state. Nothing is kept.

        Parameters
        ----------
        x : (T, B, I) array; (B, T, I) with batch_first; (T, I) without a batch
        state : (L*D, B, H) array, optional
            The states before the first step, layer by layer, forward before backward; (L*D, H) without a batch.
            Of an LSTM a tuple (h, c). Zeros if None.
        lengths : (B,) array of int, optional
            Steps of each row, 0..T, in any order.

        Returns
        -------
        y : (T, B, D*H) array; (B, T, D*H) with batch_first; (T, D*H) without a batch
        state
            The states after each row's last step, like `state`.
        """
        parts = self._parts()
        if lengths is None and parts is not None:
            result = _core.walk(parts, x, state, self._directions, True, self.batch_first, False)
            if result is not None:
                return result
        return self._run(x, state, lengths, parts, keep=False)[:2]

    def forward(
        self, x: ArrayLike, state: State = None, *, lengths: ArrayLike | None = None
    ) -> tuple[Any, ...]:
        """Training: y, the last state and the cache, whose h, c and gates hold every step of every layer."""
        parts = self._parts()
        if lengths is None and parts is not None:
            result = _core.walk(parts, x, state, self._directions, True, self.batch_first, True)
            if result is not None:
                y, last, kept = result
                caches = [recurrent.kept_cache(self._cell, *part, batch_first=self.batch_first and i < self._directions)
                          for i, part in enumerate(kept)]
                return y, last, self._sequence_cache(caches, y, last if self._cell.has_c else (last,))
        return self._run(x, state, lengths, parts, keep=True)

    def backward(
        self, dy: ArrayLike, cache: SequenceCache, dstate: State = None, *, truncate: int | None = None,
        return_hidden_gradients: bool = False, needs_dx: bool = True,
    ) -> tuple[Any, ...]:
        """Backpropagation through time.

        Parameters
        ----------
        dy : array of the shape of y
        cache
            What `forward` returned; left as it was.
        dstate : array or tuple like the state, optional
            The gradient at the last state.
        truncate : int, optional
            Truncated BPTT: the gradient through the state is cut at every multiple of so many steps, counted in the
            order of processing; dstate enters the last block. None is full BPTT.
        return_hidden_gradients : bool
            Appends dL/dh_t of every step, (L*D, T, B, H), to what is returned.
        needs_dx : bool
            False returns None for dx.

        Returns
        -------
        dx : array of the shape of x
        dstate0 : array or tuple like the state
            The gradient at the first state.
        grads : dict
            Keys and shapes of `params`.
        """
        if not isinstance(cache, SequenceCache) or cache.parts[0].cell is not self._cell:
            raise TypeError(f"cache must be what this layer's forward returned, got {type(cache).__name__}")
        if cache.build != self._build:
            raise ValueError(f"cache must be what this layer's forward returned, of {self._build}, got that of "
                             f"{cache.build}")
        first = cache.parts[0]
        dtype = first.x.dtype
        dy = as_array("dy", dy, dtype)
        if dy.shape != cache.shape:
            raise ValueError(f"dy must have the shape of y, {cache.shape}, got {dy.shape}")
        dlast = recurrent.checked_state("dstate", self._cell, dstate, cache.state_shapes, dtype)
        truncate = 0 if truncate is None else integer("truncate", truncate, 1)
        series: Any = self._open(dy)
        hidden_gradients = None
        if return_hidden_gradients:
            hidden_gradients = np.empty((len(cache.parts), *first.shape), dtype)
        dstate0 = recurrent.new_state(self._cell, cache.state_shapes, dtype)
        grads: dict[str, Any] = dict.fromkeys(self.params)  # in their order
        for layer in reversed(range(self.num_layers)):
            dx: Any = None
            for direction in range(self._directions):
                part = layer * self._directions + direction
                share = series
                if self._directions > 1:
                    share = series[:, :, direction * self._width:(direction + 1) * self._width]
                dx_part, arrays = recurrent.run_backward(
                    cache.parts[part], share, self._part_of(dlast, part, first.batched), truncate,
                    self._part_of(dstate0, part, first.batched),
                    None if hidden_gradients is None else hidden_gradients[part], needs_dx or layer > 0)
                dx = dx_part if dx is None else dx + dx_part
                for name, array in zip(self._names[part], arrays, strict=True):
                    if array is not None:
                        grads[name] = array
            series = dx
        if hidden_gradients is not None and not first.batched:
            hidden_gradients = hidden_gradients[:, :, 0]
        result = (self._close(series, first.batched) if needs_dx else None,
                  dstate0 if self._cell.has_c else dstate0[0], grads)
        return (*result, hidden_gradients) if return_hidden_gradients else result

    def frozen(self) -> FrozenRecurrent:
        """A snapshot for inference, called like the layer; later changes to `params` do not reach it.

        Its matrices are checked once, and prepared: packed as their products read them.
        """
        return FrozenRecurrent(self._snapshot())

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Copying and pickling keep numbers, not where they lie."""
        self.__dict__.update(state)
        self.params = {name: _streamable(array) if type(array) is np.ndarray and array.ndim in (1, 2) else array
                       for name, array in self.params.items()}

    # ---- below: one call the short way

    def _parts(self) -> tuple[_core.Recurrence, ...] | None:
        """The parameters as the core takes them; None if they have to be converted or refused."""
        options = self._options
        return _core.recurrences(
            _core.CELLS[self._cell.name], self.params, self._names, self._directions, self.input_size,
            self.hidden_size, self._width, _core.ACTIVATIONS[options.activation], options.reset_after)

    # ---- below: one call as the walks of `recurrent`

    def _run(self, x: ArrayLike, state: State, lengths: ArrayLike | None,
             parts: tuple[_core.Recurrence, ...] | None, *, keep: bool) -> tuple[Any, Any, Any]:
        dtype = self.params["weight_ih_l0"].dtype
        x = as_array("x", x, dtype)
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_size:
            order = "(B, T, I)" if self.batch_first else "(T, B, I)"
            raise ValueError(f"x must have shape {order} or (T, I) with I = {self.input_size}, got {x.shape}")
        batched = x.ndim == 3
        x = self._open(x)
        steps, batch = x.shape[:2]
        states = self.num_layers * self._directions
        shapes = tuple((states, batch, width) if batched else (states, width)
                       for width in (self._width, self.hidden_size))
        first = recurrent.checked_state("state", self._cell, state, shapes, dtype)
        lengths = recurrent.checked_lengths(lengths, steps, batch)
        last = recurrent.new_state(self._cell, shapes, dtype)
        caches: list[Any] = []
        for layer in range(self.num_layers):
            y = np.empty((steps, batch, self._directions * self._width), dtype)
            for direction in range(self._directions):
                part = layer * self._directions + direction
                core = self._checked_part(part, dtype) if parts is None else parts[part]
                caches.append(recurrent.run_forward(
                    self._cell, core, x, self._part_of(first, part, batched), lengths,
                    y[:, :, direction * self._width:(direction + 1) * self._width],
                    self._part_of(last, part, batched), keep, batched))
            x = y
        y = self._close(x, batched)
        cache = self._sequence_cache(caches, y, last) if keep else None
        return y, last if self._cell.has_c else last[0], cache

    def _checked_part(self, part: int, dtype: np.dtype) -> _core.Recurrence:
        """The parameters of one layer and direction: params is a dict, and what is put there may not fit."""
        arrays: list[Any] = [self.params.get(name) for name in self._names[part]]
        weights, hidden = recurrent.checked_weights(self._cell, *recurrent.Weights(*arrays), dtype)
        layer = part // self._directions
        inputs = self._width * self._directions if layer else self.input_size
        if hidden != self.hidden_size or weights.w_ih.shape[1] != inputs or weights.width != self._width:
            raise ValueError(f"params of layer {layer} must be for {inputs} inputs, {self.hidden_size} hidden units "
                             f"and a state of {self._width}, got {weights.w_ih.shape[1]}, {hidden} and {weights.width}")
        options = self._options._replace(reverse=part % self._directions == 1)
        return recurrent.new_core(self._cell, weights, hidden, options)

    def _sequence_cache(self, caches: list[Cache], y: np.ndarray, last: Arrays) -> SequenceCache:
        shapes = tuple(part.shape for part in last if part is not None)
        return SequenceCache(caches, y.shape, shapes, self._build)

    @staticmethod
    def _part_of(state: Arrays, part: int, batched: bool) -> Arrays:
        """(h, c) of one layer and direction, (B, H) each."""
        rows = part if batched else slice(part, part + 1)
        h, c = state
        return h if h is None else h[rows], c if c is None else c[rows]

    def _open(self, series: np.ndarray) -> np.ndarray:
        """(T, B, ..) of an array as the user has it."""
        if series.ndim == 2:
            return series[:, None]
        return series.swapaxes(0, 1) if self.batch_first else series

    def _close(self, series: np.ndarray, batched: bool) -> np.ndarray:
        """The array as the user has it of (T, B, ..)."""
        if not batched:
            return series[:, 0]
        return series.swapaxes(0, 1) if self.batch_first else series


class FrozenRecurrent(Frozen):
    """An inference snapshot of recurrent layers."""

    _layer: _Recurrent

    def __init__(self, layer: _Recurrent) -> None:
        super().__init__(layer)
        self._parts = layer._parts()
        for part in self._parts or ():
            part.prepare()
        self._directions, self._batch_first = layer._directions, layer.batch_first

    def __call__(self, x: ArrayLike, state: State = None, *, lengths: ArrayLike | None = None) -> Any:
        """The output that the layers had when they were frozen."""
        if lengths is None and self._parts is not None:
            result = _core.walk(self._parts, x, state, self._directions, True, self._batch_first, False)
            if result is not None:
                return result
        return self._layer._run(x, state, lengths, self._parts, keep=False)[:2]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._layer,)


def _streamable(value: np.ndarray) -> np.ndarray:
    """A copy of a matrix or vector as a step of one row streams it: column by column, each on a cache line of its own.

    Columns that begin inside a line take 1.7 times as long. Those a multiple of half a page apart share a few cache
    sets and take up to 1.3 times as long: they are put one line further apart.
    """
    rows, columns = value.shape[0], math.prod(value.shape[1:])
    line = 64 // value.itemsize
    pitch = -(-rows // line) * line
    if pitch * value.itemsize % 2048 == 0:
        pitch += line
    room = np.empty(columns * pitch + line, value.dtype)
    start = -room.__array_interface__["data"][0] % 64 // value.itemsize
    copy = room[start:start + columns * pitch].reshape(columns, pitch)[:, :rows].T
    copy = copy if value.ndim == 2 else copy[:, 0]
    copy[...] = value
    return copy


_STEMS = ("weight_ih", "weight_hh", "weight_hr", "bias_ih", "bias_hh")  # of PyTorch, in the order of Weights


def _key(stem: str, layer: int, direction: int) -> str:
    """PyTorch's name of a parameter."""
    return f"{stem}_l{layer}{'_reverse' if direction else ''}"


class RNN(_Recurrent):
    """Vanilla recurrent layers: ``h_t = s(W x_t + b + U h_{t-1} + b')``.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    num_layers : int
        Layers, each fed with every state of the one before.
    activation : {"tanh", "relu", "sigmoid", "identity"}
    bias : bool
    bidirectional : bool
        A second walk from each row's end; y holds both, (T, B, 2*H).
    batch_first : bool
        x and y are (B, T, ..); the state stays (L*D, B, H).
    dtype : {float32, float64}
    rng : int or numpy.random.Generator, optional
        The seed of the initial parameters, uniform within 1/sqrt(H).

    Attributes
    ----------
    params : dict
        ``weight_ih_l0`` (G*H, I), ``weight_hh_l0`` (G*H, H), ``bias_ih_l0``, ``bias_hh_l0`` (G*H,), ``.._reverse``,
        ``.._l1``, ...: PyTorch's names and shapes; writable in place at any time.

    Examples
    --------
    >>> import numpy as np, convrnn as cr
    >>> layer = cr.RNN(3, 5, num_layers=2, bidirectional=True, rng=0)
    >>> y, state, cache = layer.forward(np.ones((7, 2, 3), np.float32))
    >>> y.shape, state.shape, cache.h.shape
    ((7, 2, 10), (4, 2, 5), (4, 7, 2, 5))
    >>> dx, dstate0, grads = layer.backward(np.ones_like(y), cache)
    >>> dx.shape, grads["weight_ih_l1_reverse"].shape
    ((7, 2, 3), (5, 10))
    """

    _cell = recurrent.RNN

    def __init__(
        self, input_size: int, hidden_size: int, *, num_layers: int = 1, activation: str = "tanh", bias: bool = True,
        bidirectional: bool = False, batch_first: bool = False, dtype: DTypeLike = np.float32, rng: Seed = None,
    ) -> None:
        options = recurrent.Options(activation=recurrent.activation_of(activation))
        super().__init__(input_size, hidden_size, num_layers=num_layers, bias=bias, bidirectional=bidirectional,
                         batch_first=batch_first, proj_size=0, options=options, dtype=dtype, rng=rng)


class LSTM(_Recurrent):
    """Long short-term memory layers; see :class:`RNN` for what is not said here, :func:`convrnn.lstm` for the formula.

    Parameters
    ----------
    proj_size : int
        Not 0: h is projected to so many units by ``weight_hr_l0`` (P, H); y is then (T, B, D*P).

    Examples
    --------
    >>> import numpy as np, convrnn as cr
    >>> layer = cr.LSTM(3, 5, rng=0)
    >>> y, (h, c) = layer(np.ones((7, 2, 3), np.float32))
    >>> y.shape, h.shape, c.shape
    ((7, 2, 5), (1, 2, 5), (1, 2, 5))
    """

    _cell = recurrent.LSTM

    def __init__(
        self, input_size: int, hidden_size: int, *, num_layers: int = 1, bias: bool = True, bidirectional: bool = False,
        batch_first: bool = False, proj_size: int = 0, dtype: DTypeLike = np.float32, rng: Seed = None,
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers=num_layers, bias=bias, bidirectional=bidirectional,
                         batch_first=batch_first, proj_size=proj_size, options=recurrent.Options(), dtype=dtype,
                         rng=rng)


class GRU(_Recurrent):
    """Gated recurrent layers; see :class:`RNN` for what is not said here and :func:`convrnn.gru` for the formula.

    Parameters
    ----------
    reset_after : bool
        Whether the reset gate acts after the product with U, as in PyTorch, or before it, as in the original.

    Examples
    --------
    >>> import numpy as np, convrnn as cr
    >>> y, h = cr.GRU(3, 5, batch_first=True, rng=0)(np.ones((2, 7, 3), np.float32), lengths=[7, 4])
    >>> y.shape, h.shape, float(np.abs(y[1, 4:]).sum())
    ((2, 7, 5), (1, 2, 5), 0.0)
    """

    _cell = recurrent.GRU

    def __init__(
        self, input_size: int, hidden_size: int, *, num_layers: int = 1, bias: bool = True, bidirectional: bool = False,
        batch_first: bool = False, reset_after: bool = True, dtype: DTypeLike = np.float32, rng: Seed = None,
    ) -> None:
        options = recurrent.Options(reset_after=boolean("reset_after", reset_after))
        super().__init__(input_size, hidden_size, num_layers=num_layers, bias=bias, bidirectional=bidirectional,
                         batch_first=batch_first, proj_size=0, options=options, dtype=dtype, rng=rng)
