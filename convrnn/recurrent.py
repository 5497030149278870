"""Recurrence over arrays: RNN, LSTM and GRU, one layer in one direction, forward and backward through time.

Letters: T time, B batch, I input size, H hidden size, G gates (1, 4, 3 for RNN, LSTM, GRU), R the width of h: H, or P
under a projection. Shapes and gate order (i f g o; r z n) are PyTorch's: with W = w_ih, U = w_hh, b = b_ih, b' = b_hh,

    RNN   h_t = s(W x_t + b + U h_{t-1} + b')
    LSTM  i, f, o = sigmoid and g = tanh of (W x_t + b + U h_{t-1} + b')
          c_t = f*c_{t-1} + i*g        h_t = o*tanh(c_t), or w_hr (o*tanh(c_t))
    GRU   r, z = sigmoid(W x_t + b + U h_{t-1} + b')        h_t = (1-z)*n + z*h_{t-1}
          n = tanh(W x_t + b + r*(U h_{t-1} + b')) if reset_after, else tanh(W x_t + b + U (r*h_{t-1}) + b')
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _core
from .arguments import as_array, as_integers, as_vector, boolean, choice, integer

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    State = ArrayLike | tuple[ArrayLike, ArrayLike] | None
    Arrays = tuple[Any, ...]  # (h, c): arrays or None
    Shapes = tuple[tuple[int, ...], ...]


class Cell(NamedTuple):
    """A kind of recurrent unit."""

    name: str
    gates: int
    has_c: bool


RNN = Cell("rnn", 1, False)
LSTM = Cell("lstm", 4, True)
GRU = Cell("gru", 3, False)


class Weights(NamedTuple):
    """The parameters of one layer in one direction, checked: arrays of one dtype."""

    w_ih: np.ndarray
    w_hh: np.ndarray
    w_hr: np.ndarray | None
    b_ih: np.ndarray | None
    b_hh: np.ndarray | None

    @property
    def width(self) -> int:
        """R, the width of h."""
        return self.w_hh.shape[1]


class Options(NamedTuple):
    """What a cell does besides its weights."""

    activation: str | None = "tanh"  # in the core's words: None is the identity
    reset_after: bool = True
    reverse: bool = False


# ---------------------------------------------------------------------------------------------------- checks


def checked_weights(cell: Cell, w_ih: ArrayLike, w_hh: ArrayLike, w_hr: ArrayLike | None, b_ih: ArrayLike | None,
                    b_hh: ArrayLike | None, dtype: np.dtype) -> tuple[Weights, int]:
    """The weights, and H."""
    w_ih, w_hh = as_array("w_ih", w_ih, dtype), as_array("w_hh", w_hh, dtype)
    gates = f"{cell.gates}*H" if cell.gates > 1 else "H"
    if w_hh.ndim != 2 or w_hh.shape[0] == 0 or w_hh.shape[0] % cell.gates:
        raise ValueError(f"w_hh must have shape ({gates}, H) with a hidden size H of at least 1, got {w_hh.shape}")
    hidden = w_hh.shape[0] // cell.gates
    width = hidden
    if w_hr is not None:
        w_hr = as_array("w_hr", w_hr, dtype)
        if w_hr.ndim != 2 or w_hr.shape[0] == 0 or w_hr.shape[1] != hidden:
            raise ValueError(f"w_hr must have shape (P, H) = (P, {hidden}), got {w_hr.shape}")
        width = w_hr.shape[0]
    if w_hh.shape[1] != width:
        raise ValueError(f"w_hh must have shape ({gates}, {'H' if w_hr is None else 'P'}) = "
                         f"({cell.gates * hidden}, {width}), got {w_hh.shape}")
    if w_ih.ndim != 2 or w_ih.shape[0] != w_hh.shape[0] or w_ih.shape[1] == 0:
        raise ValueError(f"w_ih must have shape ({gates}, I) = ({w_hh.shape[0]}, I) with an input size I of at least "
                         f"1, got {w_ih.shape}")
    b_ih = as_vector("b_ih", b_ih, w_hh.shape[0], dtype)
    b_hh = as_vector("b_hh", b_hh, w_hh.shape[0], dtype)
    return Weights(w_ih, w_hh, w_hr, b_ih, b_hh), hidden


def checked_lengths(lengths: ArrayLike | None, steps: int, batch: int) -> np.ndarray | None:
    """lengths as contiguous int64 of shape (B,), each in 0..T."""
    if lengths is None:
        return None
    array = as_integers("lengths", lengths)
    if array.shape != (batch,):
        raise ValueError(f"lengths must have shape (B,) = ({batch},), got {array.shape}")
    if batch and not (array.min() >= 0 and array.max() <= steps):
        raise ValueError(f"lengths must be in 0..T = 0..{steps}, got {array.min()}..{array.max()}")
    return np.array(array, np.int64)  # a copy: the cache keeps it


def checked_state(name: str, cell: Cell, state: Any, shapes: Shapes, dtype: np.dtype) -> Arrays:
    """(h, c) as contiguous arrays of these shapes; None for what is not given or not there."""
    if state is None:
        return None, None
    parts = state if cell.has_c else (state,)
    if cell.has_c and not (isinstance(state, (tuple, list)) and len(state) == 2):
        raise ValueError(f"{name} of an LSTM must be a tuple (h, c), got {type(state).__name__}")
    arrays = []
    for part, shape, letter in zip(parts, shapes, ("h", "c"), strict=False):
        label = f"{name} {letter}" if cell.has_c else name
        array = as_array(label, part, dtype)
        if array.shape != shape:
            raise ValueError(f"{label} must have shape {shape}, got {array.shape}")
        arrays.append(np.ascontiguousarray(array))
    return arrays[0], arrays[1] if cell.has_c else None


# ---------------------------------------------------------------------------------------------------- time


def in_order(series: np.ndarray, lengths: np.ndarray | None, reverse: bool) -> np.ndarray:
    """series (T, B, ..) in the order in which steps are processed; with lengths a copy, zero past each row's end.

    It is its own inverse.
    """
    if lengths is None:
        return series[::-1] if reverse else series
    ordered = np.zeros_like(series, order="C")
    for row, steps in enumerate(lengths):
        part = series[:steps, row]
        ordered[:steps, row] = part[::-1] if reverse else part
    return ordered


# ---------------------------------------------------------------------------------------------------- one direction


class Cache:
    """What one direction of one layer keeps for backward: every step's h, c and gates, and the operands."""

    __slots__ = ("_room", "batched", "cell", "core", "lengths", "x")

    def __init__(self, cell: Cell, core: _core.Recurrence, x: np.ndarray, lengths: np.ndarray | None, batched: bool,
                 room: np.ndarray) -> None:
        self.cell, self.core, self._room = cell, core, room
        self.x, self.lengths, self.batched = x, lengths, batched  # x (T, B, I), in the order of processing

    @property
    def shape(self) -> tuple[int, int, int]:
        """(T, B, R), that of y."""
        return (*self.x.shape[:2], self.core.R)

    @property
    def h(self) -> np.ndarray:
        """(T, B, R): the state after every step; zero past a row's end."""
        return self._in_time(self.core.series_in(self._room)[0][1:])

    @property
    def c(self) -> np.ndarray | None:
        """(T, B, H): the cell after every step of an LSTM."""
        cells = self.core.series_in(self._room)[1]
        return cells if cells is None else self._in_time(cells[1:])

    @property
    def gates(self) -> np.ndarray:
        """(T, B, G*H): the gates of every step, after their activations."""
        return self._in_time(self.core.series_in(self._room)[2])

    def _in_time(self, series: np.ndarray) -> np.ndarray:
        series = in_order(series, self.lengths, self.core.reverse)
        return series if self.batched else series[:, 0]


def new_core(cell: Cell, weights: Weights, hidden: int, options: Options) -> _core.Recurrence:
    """Checked weights as the core takes them."""
    return _core.Recurrence(_core.CELLS[cell.name], *weights, hidden, _core.ACTIVATIONS[options.activation],
                            options.reset_after, options.reverse)


def new_state(cell: Cell, shapes: Shapes, dtype: np.dtype) -> Arrays:
    """(h, c), not filled in; None for what is not there."""
    return np.empty(shapes[0], dtype), np.empty(shapes[1], dtype) if cell.has_c else None


def run_forward(cell: Cell, core: _core.Recurrence, x: np.ndarray, state: Arrays, lengths: np.ndarray | None,
                y: np.ndarray, last: Arrays, keep: bool, batched: bool) -> Cache | None:
    """Fills y (T, B, R), contiguous along R, and the last state; the cache, if keep. Operands are checked."""
    x = in_order(x, lengths, core.reverse)
    target = y
    if core.reverse:
        target = y[::-1] if lengths is None else np.empty(y.shape, x.dtype)
    room = core.forward(x, lengths, state[0], state[1], target, last[0], last[1], keep)
    if core.reverse and lengths is not None:
        y[...] = in_order(target, lengths, True)
    return None if room is None else Cache(cell, core, x, lengths, batched, room)


def run_backward(cache: Cache, dy: np.ndarray, dlast: Arrays, truncate: int, dstate: Arrays, dh: np.ndarray | None,
                 needs_dx: bool) -> tuple[Any, Arrays]:
    """dx (T, B, I) and the gradients of the weights; fills the first state's and, at every h, dh (T, B, R)."""
    core, lengths = cache.core, cache.lengths
    dy = in_order(dy, lengths, core.reverse)
    if dy.strides[-1] != dy.itemsize:
        dy = np.ascontiguousarray(dy)
    every = None if dh is None else np.zeros(cache.shape, dy.dtype)
    dx, grads = core.backward(cache.x, lengths, cache._room, dy, dlast[0], dlast[1], truncate, needs_dx, dstate[0],
                              dstate[1], every)
    if dh is not None and every is not None:
        dh[...] = in_order(every, lengths, core.reverse)
    return dx if dx is None else in_order(dx, lengths, core.reverse), grads


# ---------------------------------------------------------------------------------------------------- array functions


def _forward(cell: Cell, x: ArrayLike, w_ih: ArrayLike, w_hh: ArrayLike, w_hr: ArrayLike | None,
             b_ih: ArrayLike | None, b_hh: ArrayLike | None, state: State, lengths: ArrayLike | None,
             options: Options, return_cache: bool) -> tuple[Any, ...]:
    if lengths is None:
        walked = _core.walk_arrays(_core.CELLS[cell.name], x, w_ih, w_hh, w_hr, b_ih, b_hh, state,
                                   _core.ACTIVATIONS[options.activation], options.reset_after, options.reverse,
                                   return_cache)
        if walked is not None:
            if not return_cache:
                return walked
            y, last, (kept,) = walked
            return y, last, kept_cache(cell, *kept, batch_first=False)
    x = as_array("x", x)
    weights, hidden = checked_weights(cell, w_ih, w_hh, w_hr, b_ih, b_hh, x.dtype)
    if x.ndim not in (2, 3) or x.shape[-1] != weights.w_ih.shape[1]:
        raise ValueError(f"x must have shape (T, B, I) or (T, I) with I = {weights.w_ih.shape[1]}, got {x.shape}")
    batched = x.ndim == 3
    shapes = tuple((x.shape[1], width) if batched else (width,) for width in (weights.width, hidden))
    first = checked_state("state", cell, state, shapes, x.dtype)
    if not batched:
        x = x[:, None]
        first = tuple(part if part is None else part[None] for part in first)
    steps, batch = x.shape[:2]
    y = np.empty((steps, batch, weights.width), x.dtype)
    last = new_state(cell, ((batch, weights.width), (batch, hidden)), x.dtype)
    cache = run_forward(cell, new_core(cell, weights, hidden, options), x, first,
                        checked_lengths(lengths, steps, batch), y, last, return_cache, batched)
    if not batched:
        y, last = y[:, 0], tuple(part if part is None else part[0] for part in last)
    result = y, last if cell.has_c else last[0]
    return (*result, cache) if return_cache else result


def kept_cache(cell: Cell, core: _core.Recurrence, x: np.ndarray, room: np.ndarray, *, batch_first: bool) -> Cache:
    """The cache of what `_core.walk` has kept."""
    batched = x.ndim == 3
    if not batched:
        x = x[:, None]
    elif batch_first:
        x = x.swapaxes(0, 1)
    return Cache(cell, core, x[::-1] if core.reverse else x, None, batched, room)


def _backward(cell: Cell, dy: ArrayLike, cache: Cache, dstate: State, truncate: int | None,
              return_hidden_gradients: bool) -> Any:
    if not isinstance(cache, Cache) or cache.cell is not cell:
        raise TypeError(f"cache must be that of {cell.name}(..., return_cache=True), got {type(cache).__name__}")
    dtype = cache.x.dtype
    steps, batch, width = full = cache.shape
    shape = full if cache.batched else (steps, width)
    dy = as_array("dy", dy, dtype)
    if dy.shape != shape:
        raise ValueError(f"dy must have the shape of y, {shape}, got {dy.shape}")
    widths = (width, cache.core.H)
    shapes = tuple((batch, size) if cache.batched else (size,) for size in widths)
    last = checked_state("dstate", cell, dstate, shapes, dtype)
    truncate = 0 if truncate is None else integer("truncate", truncate, 1)
    if not cache.batched:
        dy, last = dy[:, None], tuple(part if part is None else part[None] for part in last)
    first = new_state(cell, tuple((batch, size) for size in widths), dtype)
    dh = np.empty(full, dtype) if return_hidden_gradients else None
    dx, grads = run_backward(cache, dy, last, truncate, first, dh, True)
    if not cache.batched:
        dx, first = dx[:, 0], tuple(part if part is None else part[0] for part in first)
        dh = dh if dh is None else dh[:, 0]
    named = {"x": dx, **dict(zip(Weights._fields, grads, strict=True)), "state": first if cell.has_c else first[0]}
    if cache.core.parameters[2] is None:
        del named["w_hr"]
    return (named, dh) if return_hidden_gradients else named


def rnn(x: ArrayLike, w_ih: ArrayLike, w_hh: ArrayLike, b_ih: ArrayLike | None = None, b_hh: ArrayLike | None = None,
        state: State = None, *, activation: str = "tanh", lengths: ArrayLike | None = None, reverse: bool = False,
        return_cache: bool = False) -> tuple[Any, ...]:
    """The vanilla recurrent network: ``h_t = s(W x_t + b + U h_{t-1} + b')``, with the same weights at every step.

    Parameters
    ----------
    x : (T, B, I) or (T, I) array of float32 or float64
        The sequences, with any strides. Past a row's end it is not read.
    w_ih : (H, I) array
    w_hh : (H, H) array
    b_ih, b_hh : (H,) array, optional
    state : (B, H) or (H,) array, optional
        The state before the first step; zeros if None.
    activation : {"tanh", "relu", "sigmoid", "identity"}
    lengths : (B,) array of int, optional
        Steps of each row, 0..T, in any order; T if None.
    reverse : bool
        Goes from each row's end to its beginning; y stays in the order of time.
    return_cache : bool
        Returns a third value, for :func:`rnn_backward`.

    Returns
    -------
    y : (T, B, H) or (T, H) array
        Every state; zero past a row's end.
    state : (B, H) or (H,) array
        That after each row's last step.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As :func:`convrnn.conv2d`.

    Examples
    --------
    >>> import numpy as np, convrnn as cr
    >>> x, one = np.array([[1.0], [0.0], [0.0]]), np.ones((1, 1))
    >>> y, state = cr.rnn(x, one, one / 2, activation="identity")
    >>> y[:, 0], state
    (array([1.  , 0.5 , 0.25]), array([0.25]))
    """
    options = Options(activation=activation_of(activation), reverse=boolean("reverse", reverse))
    return _forward(RNN, x, w_ih, w_hh, None, b_ih, b_hh, state, lengths, options, return_cache)


def lstm(x: ArrayLike, w_ih: ArrayLike, w_hh: ArrayLike, b_ih: ArrayLike | None = None,
         b_hh: ArrayLike | None = None, state: State = None, *, lengths: ArrayLike | None = None,
         reverse: bool = False, w_hr: ArrayLike | None = None, return_cache: bool = False) -> tuple[Any, ...]:
    """Long short-term memory; see :func:`rnn` for what is not said here.

    ``i, f, o = sigmoid`` and ``g = tanh`` of ``W x_t + b + U h_{t-1} + b'``; ``c_t = f*c_{t-1} + i*g``;
    ``h_t = o*tanh(c_t)``.

    Parameters
    ----------
    w_ih : (4*H, I) array
        Rows of the gates i, f, g, o.
    w_hh : (4*H, H) array; (4*H, P) with a projection
    b_ih, b_hh : (4*H,) array, optional
    state : tuple (h, c) of (B, H) arrays, optional
        h is (B, P) with a projection.
    w_hr : (P, H) array, optional
        Projects: ``h_t = w_hr (o*tanh(c_t))``.

    Returns
    -------
    y : (T, B, H) array; (T, B, P) with a projection
    state : tuple (h, c)

    Examples
    --------
    >>> import numpy as np, convrnn as cr
    >>> y, (h, c) = cr.lstm(np.ones((5, 2, 3)), np.ones((16, 3)), np.ones((16, 4)))
    >>> y.shape, h.shape, c.shape
    ((5, 2, 4), (2, 4), (2, 4))
    """
    options = Options(reverse=boolean("reverse", reverse))
    return _forward(LSTM, x, w_ih, w_hh, w_hr, b_ih, b_hh, state, lengths, options, return_cache)


def gru(x: ArrayLike, w_ih: ArrayLike, w_hh: ArrayLike, b_ih: ArrayLike | None = None,
        b_hh: ArrayLike | None = None, state: State = None, *, reset_after: bool = True,
        lengths: ArrayLike | None = None, reverse: bool = False, return_cache: bool = False) -> tuple[Any, ...]:
    """The gated recurrent unit; see :func:`rnn` for what is not said here.

    ``r, z = sigmoid(W x_t + b + U h_{t-1} + b')``; ``h_t = (1-z)*n + z*h_{t-1}`` with
    ``n = tanh(W x_t + b + r*(U h_{t-1} + b'))``.

    Parameters
    ----------
    w_ih : (3*H, I) array
        Rows of the gates r, z, n.
    w_hh : (3*H, H) array
    b_ih, b_hh : (3*H,) array, optional
    reset_after : bool
        False is the original form: ``n = tanh(W x_t + b + U (r*h_{t-1}) + b')``.

    Examples
    --------
    >>> import numpy as np, convrnn as cr
    >>> y, h = cr.gru(np.ones((5, 2, 3)), np.ones((12, 3)), np.ones((12, 4)), lengths=[5, 0])
    >>> y.shape, h[1]
    ((5, 2, 4), array([0., 0., 0., 0.]))
    """
    options = Options(reset_after=boolean("reset_after", reset_after), reverse=boolean("reverse", reverse))
    return _forward(GRU, x, w_ih, w_hh, None, b_ih, b_hh, state, lengths, options, return_cache)


def activation_of(name: str) -> str | None:
    """The activation in the core's words: None is the identity."""
    return choice("activation", name, {"tanh": "tanh", "relu": "relu", "sigmoid": "sigmoid", "identity": None})


def rnn_backward(dy: ArrayLike, cache: Cache, dstate: State = None, *, truncate: int | None = None,
                 return_hidden_gradients: bool = False) -> Any:
    """Backpropagation through time of :func:`rnn`.

    Parameters
    ----------
    dy : array of the shape of y
        The gradient at y.
    cache
        What rnn(..., return_cache=True) returned; left as it was.
    dstate : array of the shape of the last state, optional
        The gradient at the last state.
    truncate : int, optional
        Truncated BPTT: the gradient through the state is cut at every multiple of so many steps, counted in the order
        of processing; dstate enters the last block. None is full BPTT.
    return_hidden_gradients : bool
        Returns also dL/dh_t of every step, of the shape of y.

    Returns
    -------
    grads : dict
        "x", "w_ih", "w_hh", "b_ih", "b_hh", "state": gradients of the shapes of the arguments, None for a missing bias.

    Examples
    --------
    >>> import numpy as np, convrnn as cr
    >>> x, one = np.array([[1.0], [0.0], [0.0]]), np.ones((1, 1))
    >>> y, state, cache = cr.rnn(x, one, one / 2, activation="identity", return_cache=True)
    >>> grads = cr.rnn_backward(np.array([[0.0], [0.0], [1.0]]), cache)
    >>> grads["x"][:, 0], grads["state"]
    (array([0.25, 0.5 , 1.  ]), array([0.125]))
    """
    return _backward(RNN, dy, cache, dstate, truncate, return_hidden_gradients)


def lstm_backward(dy: ArrayLike, cache: Cache, dstate: State = None, *, truncate: int | None = None,
                  return_hidden_gradients: bool = False) -> Any:
    """Backpropagation through time of :func:`lstm`; see :func:`rnn_backward`.

    dstate and grads["state"] are tuples (h, c); with a projection grads has "w_hr".
    """
    return _backward(LSTM, dy, cache, dstate, truncate, return_hidden_gradients)


def gru_backward(dy: ArrayLike, cache: Cache, dstate: State = None, *, truncate: int | None = None,
                 return_hidden_gradients: bool = False) -> Any:
    """Backpropagation through time of :func:`gru`; see :func:`rnn_backward`."""
    return _backward(GRU, dy, cache, dstate, truncate, return_hidden_gradients)
