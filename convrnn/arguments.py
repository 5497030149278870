"""What every function does with its arguments: arrays, numbers, flags, padding, layouts.

Each function here takes the name of an argument and says, where it is wrong, what was given and what was expected.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core

if TYPE_CHECKING:  # numpy.typing takes longer to import than this package
    from collections.abc import Iterable, Sequence
    from typing import SupportsIndex, TypeGuard, TypeVar

    from numpy.typing import ArrayLike, DTypeLike

    PerAxis = SupportsIndex | tuple[SupportsIndex, ...] | list[int]
    ExplicitPadding = SupportsIndex | tuple[PerAxis, ...] | list[Any]
    Padding = str | ExplicitPadding
    Pairs = tuple[tuple[int, int], ...]  # (low, high) for each axis
    Seed = int | np.random.Generator | None  # None: a different start every time

    T = TypeVar("T")

LAYOUTS = ("channels_last", "channels_first")
PADDINGS = ("valid", "same", "same_lower", "full", "causal")
_LARGEST = 2**63 - 1


def as_array(name: str, value: ArrayLike, dtype: np.dtype | None = None) -> np.ndarray:
    """value as an aligned array of float32 or float64 (or of dtype), a copy only where it has to be one.

    Takes anything with ``__array__``, the buffer protocol or DLPack on the CPU.
    """
    array = value if _core.is_plain(value) else _plain_array(name, value)
    if dtype is not None and array.dtype is not dtype and array.dtype != dtype:
        raise TypeError(f"{name} must have the dtype of the other arrays, {dtype}, got {array.dtype}")
    return array


def _view(name: str, value: Any) -> np.ndarray:
    """value as an array of any dtype, over its own memory if it has any."""
    try:
        if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
            value = np.from_dlpack(value)
        return np.asarray(value)
    except (TypeError, ValueError, BufferError, RuntimeError) as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"{name} cannot be read as an array: {error}") from error


def _plain_array(name: str, value: Any) -> np.ndarray:
    array = _view(name, value)
    if array.dtype not in (np.float32, np.float64) or not array.dtype.isnative:
        raise TypeError(f"{name} must be float32 or float64 in native byte order, got {array.dtype.str} "
                        f"({array.dtype.name})")
    return array if _core.is_plain(array) else array.copy()


def as_vector(name: str, value: ArrayLike | None, size: int, dtype: np.dtype) -> np.ndarray | None:
    """value as a contiguous array of shape (size,), or None."""
    if value is None:
        return None
    array = as_array(name, value, dtype)
    if array.shape != (size,):
        raise ValueError(f"{name} must have shape ({size},), got {array.shape}")
    return np.ascontiguousarray(array)


def as_output(out: np.ndarray | None, shape: tuple[int, ...], dtype: np.dtype,
              inputs: Iterable[ArrayLike | None]) -> np.ndarray:
    """A new array, or out if it can take the result: shape, dtype, C-contiguous, writable, no part of an input.

    inputs are the arguments as they were given: out must not overlap one that is read through a copy, either.
    """
    if out is None:
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a numpy.ndarray, got {type(out).__name__}")
    if out.dtype != dtype:
        raise ValueError(f"out must have dtype {dtype}, got {out.dtype}")
    if out.shape != tuple(shape):
        raise ValueError(f"out must have shape {tuple(shape)}, got {out.shape}")
    if not out.flags.carray:
        raise ValueError("out must be C-contiguous, aligned and writable")
    for value in inputs:
        if value is not None:
            read = value if _core.is_plain(value) else _view("an input", value)
            if np.shares_memory(out, read):
                raise ValueError("out must not overlap an input")
    return out if type(out) is np.ndarray else out.view(np.ndarray)


def as_integers(name: str, value: ArrayLike) -> np.ndarray:
    """value as an array of integers of any size; an empty list too, which is of floats to NumPy."""
    array = _view(name, value)
    if array.size == 0 and isinstance(value, (list, tuple)):
        array = array.astype(np.intp)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got {array.dtype}")
    return array


def as_indices(name: str, value: ArrayLike, end: int) -> np.ndarray:
    """value as an array of indices, each in [0, end): negative ones do not count from the end."""
    indices = as_integers(name, value)
    if indices.size and not 0 <= indices.min() <= indices.max() < end:
        wrong = indices[(indices < 0) | (indices >= end)][0]
        raise ValueError(f"{name} must be 0 to {end - 1}, got {wrong}")
    return indices.astype(np.intp, copy=False)


def real_dtype(name: str, value: DTypeLike) -> np.dtype:
    """value as the dtype float32 or float64."""
    try:
        dtype = np.dtype(value)
    except TypeError:
        raise TypeError(f"{name} must be float32 or float64, got {value!r}") from None
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"{name} must be float32 or float64, got {dtype}")
    return dtype


def generator(name: str, value: Seed) -> np.random.Generator:
    """A generator of random numbers from a seed, or value if it is one."""
    try:
        return np.random.default_rng(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} must be a seed, an int of at least 0, or a numpy.random.Generator, "
                          f"got {value!r}") from None


def boolean(name: str, value: Any) -> bool:
    """value as a bool: True or False, and nothing that might be meant as one."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def real(name: str, value: Any) -> Any:
    """value, if it is a number."""
    if not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    return value


def positive(name: str, value: Any) -> Any:
    """value, if it is a number above zero; infinity is."""
    if not real(name, value) > 0:
        raise ValueError(f"{name} must be positive, got {value}")
    return value


def check_names(name: str, given: Any, wanted: Iterable[str]) -> None:
    """That given is a mapping with the wanted keys and no others."""
    if not isinstance(given, Mapping):
        raise TypeError(f"{name} must be a mapping of names to arrays, got {type(given).__name__}")
    wanted = tuple(wanted)
    missing = [key for key in wanted if key not in given]
    unexpected = [key for key in given if key not in wanted]
    if missing or unexpected:
        raise ValueError(f"{name} has missing keys {missing} and unexpected keys {unexpected}")


def integer(name: str, value: Any, low: int) -> int:
    """value as an int in [low, 2**63)."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {value!r} ({type(value).__name__})") from None
    if not low <= number <= _LARGEST:
        raise ValueError(f"{name} must be at least {low} and less than 2**63, got {number}")
    return number


def shape_of(name: str, value: Any) -> tuple[int, ...]:
    """value as the shape of an array."""
    try:
        sizes = tuple(value)
    except TypeError:
        raise TypeError(f"{name} must be a sequence of ints, got {value!r}") from None
    return tuple(integer(name, size, 0) for size in sizes)


def per_axis(name: str, value: Any, rank: int, low: int = 1) -> tuple[int, ...]:
    """An int >= low for each of rank axes, from one int or a sequence of them."""
    if type(value) is int and low <= value <= _LARGEST:
        return (value,) * rank
    if _is_sequence(value):
        if len(value) != rank:
            raise ValueError(f"{name} must be one int or {rank} of them, one per axis, got {value!r}")
        return tuple(integer(name, item, low) for item in value)
    return (integer(name, value, low),) * rank


def _is_sequence(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, (tuple, list)) or (isinstance(value, np.ndarray) and value.ndim > 0)


def choice(name: str, value: Any, choices: Mapping[Any, T]) -> T:
    """choices[value], or a ValueError that lists them."""
    try:
        return choices[value]
    except (KeyError, TypeError):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}") from None


def channels_first(layout: str) -> bool:
    """Whether layout is "channels_first"; a ValueError if it is neither."""
    if not isinstance(layout, str) or layout not in LAYOUTS:
        raise ValueError(f"layout must be 'channels_last' or 'channels_first', got {layout!r}")
    return layout == "channels_first"


def explicit_padding(padding: ExplicitPadding, rank: int) -> Pairs:
    """A (low, high) pair for each axis, from an int or from a sequence of ints or pairs, one per axis."""
    if type(padding) is int and 0 <= padding <= _LARGEST:
        return ((padding, padding),) * rank
    if _is_sequence(padding):
        if len(padding) != rank:
            raise ValueError(
                f"padding must be one int, or one int or (low, high) pair for each of {rank} axes, got {padding!r}")
        return tuple(_pair(item) for item in padding)
    if isinstance(padding, str):
        raise ValueError(f"padding must be ints or (low, high) pairs here, got {padding!r}")
    return (_pair(padding),) * rank  # type: ignore[arg-type] # not a sequence


def _pair(item: PerAxis) -> tuple[int, int]:
    if _is_sequence(item):
        if len(item) != 2:
            raise ValueError(f"padding along an axis must be an int or a (low, high) pair, got {item!r}")
        return integer("padding", item[0], 0), integer("padding", item[1], 0)
    number = integer("padding", item, 0)
    return number, number


def resolve_padding(padding: Padding, rank: int, x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: PerAxis,
                    dilation: PerAxis, first: bool) -> int | Pairs:
    """A (low, high) pair for each axis, from what explicit_padding takes or a name of PADDINGS."""
    if not isinstance(padding, str):
        return explicit_padding(padding, rank)
    if padding not in PADDINGS:
        raise ValueError(f"padding must be ints, (low, high) pairs or one of {', '.join(map(repr, PADDINGS))}, "
                         f"got {padding!r}")
    if padding == "causal" and rank != 1:
        raise ValueError(f"padding 'causal' is for one axis, got {rank}")
    if padding == "valid" or len(x_shape) < rank + 1 or len(w_shape) != rank + 2:
        return 0  # the words for wrong shapes come from whoever reads them
    size = x_shape[-rank:] if first else x_shape[-rank - 1:-1]
    kernel = w_shape[2:] if first else w_shape[:rank]
    return tuple(_named_pair(padding, *axis) for axis in zip(
        size, kernel, per_axis("stride", stride, rank), per_axis("dilation", dilation, rank), strict=True))


def _named_pair(padding: str, size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """padding along one axis; extent of the kernel: dilation*(kernel - 1) + 1."""
    reach = dilation * (kernel - 1)
    if padding == "full":
        return integer("padding 'full'", reach, 0), reach
    if padding == "causal":
        return integer("padding 'causal'", reach, 0), 0
    total = integer("padding 'same'", max((-(-size // stride) - 1) * stride + reach + 1 - size, 0), 0)
    return (total // 2, total - total // 2) if padding == "same" else (total - total // 2, total // 2)
