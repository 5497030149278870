"""Ways for the same values to lie in memory."""

import numpy as np


def spread(array, steps):
    """The same values in a larger array, read with these steps along its axes."""
    shape = tuple(size * abs(step) + 1 for size, step in zip(array.shape, steps, strict=True))
    room = np.full(shape, np.nan, array.dtype)
    view = room[tuple(slice(None, size * step, step) if step > 0 else slice(size * -step, 0, step)
                      for size, step in zip(array.shape, steps, strict=True))]
    view[...] = array
    return view


def unaligned(array):
    """The same values one byte off any boundary."""
    view = np.frombuffer(bytearray(array.nbytes + 1), np.uint8)[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def read_only(array):
    copy = array.copy()
    copy.setflags(write=False)
    return copy


def repeated(array, axis):
    """The first slice along an axis (None: the first element) in place of all, by a stride of zero."""
    first = array.flat[0] if axis is None else array.take([0], axis % array.ndim)
    return np.broadcast_to(first, array.shape)


ARRANGEMENTS = {
    "every other": lambda array: spread(array, (2,) * array.ndim),
    "backwards": lambda array: spread(array, (-1,) * array.ndim),
    "mixed steps": lambda array: spread(array, [(3, -2, 1, -1, 2)[axis % 5] for axis in range(array.ndim)]),
    "Fortran": np.asfortranarray,
    "transposed twice": lambda array: np.ascontiguousarray(np.swapaxes(array, 0, -1)).swapaxes(0, -1),
    "unaligned": unaligned,
    "read-only": read_only,
}
