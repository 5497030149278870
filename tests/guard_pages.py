"""Operands and results that lie flush against pages that nobody may touch; by test_arrays.py in a process of its own.

`python tests/guard_pages.py LAYOUT DTYPE low|high` goes through every tail that vectors of up to 64 bytes can leave. A
read or write past the end of an array on that side is a segmentation fault; on the other side lies NaN.
"""

import ctypes
import itertools
import math
import mmap
import sys
from unittest import mock

import numpy as np

import convrnn as cr
from convrnn import _core

LIBC = ctypes.CDLL(None)
PAGES = 40  #: of an arena


class Arena:
    """Memory between two pages that nobody may touch."""

    def __init__(self, dtype, side):
        self.memory = mmap.mmap(-1, (PAGES + 2) * mmap.PAGESIZE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        for page in (0, PAGES + 1):
            address, size = ctypes.c_void_p(start + page * mmap.PAGESIZE), ctypes.c_size_t(mmap.PAGESIZE)
            assert LIBC.mprotect(address, size, 0) == 0
        count = PAGES * mmap.PAGESIZE // np.dtype(dtype).itemsize
        self.inside = np.frombuffer(self.memory, dtype, count, offset=mmap.PAGESIZE)
        self.side = side

    def room(self, shape):
        """An array against the guard of one side; it and all around it is NaN."""
        size = math.prod(shape)
        self.inside.fill(np.nan)
        return (self.inside[:size] if self.side == "low" else self.inside[self.inside.size - size:]).reshape(shape)

    def place(self, values):
        array = self.room(values.shape)
        array[...] = values
        return array


class Calls:
    """Makes calls in one layout and dtype, and compares them with the same calls on ordinary arrays."""

    def __init__(self, layout, dtype, side):
        self.layout, self.dtype = layout, dtype
        self.arenas = {name: Arena(dtype, side) for name in ("x", "w", "b", "dy", "out", 0, 1, 2)}
        self.rng = np.random.default_rng(3)

    def numbers(self, *shape):
        return self.rng.standard_normal(shape).astype(self.dtype)

    def image(self, N, H, W, C):
        return self.numbers(N, C, H, W) if self.layout == "channels_first" else self.numbers(N, H, W, C)

    def kernel(self, KH, KW, C, K):
        return self.numbers(K, C, KH, KW) if self.layout == "channels_first" else self.numbers(KH, KW, C, K)

    def check(self, function, operands, **options):
        """Returns what an ordinary call gives."""
        options["layout"] = self.layout
        wanted = function(**operands, **options)
        guarded = {name: self.arenas[name].place(values) for name, values in operands.items()}
        results = itertools.count()

        def empty(shape, dtype=None):
            return self.arenas[next(results)].room((shape,) if isinstance(shape, int) else shape)

        with (mock.patch.object(np, "empty", empty),
              mock.patch.object(_core, "empty_like", lambda array, read: empty(array.shape))):
            actual = function(**guarded, **options)
        backward = function.__name__.endswith("backward")
        assert next(results) > 0 or not backward  # forward, the guarded result is that of out=
        pairs = list(zip(actual, wanted, strict=True)) if isinstance(wanted, tuple) else [(actual, wanted)]
        if not backward:
            pairs.append((function(**guarded, **options, out=self.arenas["out"].room(wanted.shape)), wanted))
        for a, b in pairs + [(guarded[name], values) for name, values in operands.items()]:
            assert a.tobytes() == b.tobytes(), (function, {name: a.shape for name, a in operands.items()}, options)
        return wanted

    def conv(self, image, K, kernel, groups=1, **options):
        x, w = self.image(*image), self.kernel(*kernel, image[-1] // groups, K)
        y = self.check(cr.conv2d, {"x": x, "w": w, "b": self.numbers(K)}, groups=groups, **options)
        self.check(cr.conv2d_backward, {"dy": self.numbers(*y.shape), "x": x, "w": w}, groups=groups, **options)

    def conv_transpose(self, image, K, kernel, **options):
        x, w = self.image(*image), self.kernel(*kernel, K, image[-1])
        y = self.check(cr.conv_transpose2d, {"x": x, "w": w, "b": self.numbers(K)}, **options)
        self.check(cr.conv_transpose2d_backward, {"dy": self.numbers(*y.shape), "x": x, "w": w}, **options)

    def pools(self, image, size, **options):
        x = self.image(*image)
        y = self.check(cr.max_pool2d, {"x": x}, size=size, **options)
        self.check(cr.max_pool2d_backward, {"dy": self.numbers(*y.shape), "x": x}, size=size, **options)
        self.check(cr.avg_pool2d, {"x": x}, size=size, **options)
        self.check(cr.avg_pool2d_backward, {"dy": self.numbers(*y.shape)}, x_shape=x.shape, size=size, **options)

    def all_tails(self, n):
        """n channels, pixels in a row, rows."""
        self.conv((1, 2, 3, n), 3, (1, 2))
        self.conv((2, 3, 4, 3), n, (2, 2), padding=1)
        self.conv((1, 2, n, 2), 3, (1, 1))
        self.conv((1, 3, n + 2, 3), 2, (3, 3))
        self.conv((1, 2, 2 * n + 1, 1), 5, (2, 3), stride=(1, 2))
        self.conv((1, n, 3, 1), 1, (1, 2), padding=((0, 0), (2, 1)), padding_mode="wrap")
        self.conv((1, 2, 4, n), n, (2, 3), groups=n, padding=(0, 1))
        self.conv((1, 2, n + 3, 3), 3, (3, 3), groups=3, padding=((1, 2), (2, 0)))
        self.conv((1, 3, 5, n), n, (3, 3), groups=n, padding=1, stride=2)
        self.conv((1, 2, n, 4), 4, (3, 3), groups=4, padding=1)
        self.conv((1, 2, 5, 2 * n), 2, (1, 3), groups=2, dilation=2)
        self.conv((1, 3, 4, n), 3, (3, 3), padding=1, algorithm="winograd")
        self.conv((1, 11, n + 2, 2), n, (3, 3), padding=((0, 1), (2, 0)), algorithm="winograd")
        self.conv_transpose((1, 2, 3, n), 2, (2, 2), stride=2)
        self.conv_transpose((1, 2, n, 2), 3, (2, 3), stride=(1, 2), padding=1)
        self.conv_transpose((1, 1, 4, 3), n, (1, 2), dilation=2)
        self.pools((1, 3, 4, n), 2)
        self.pools((1, 2, n + 1, 2), (1, 2), stride=1, padding=((0, 0), (1, 0)))


def main(layout, dtype, side):
    calls = Calls(layout, dtype, side)
    for n in range(1, 41):
        calls.all_tails(n)
    print("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
