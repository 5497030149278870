"""The machine's limits, measured: multiply-adds from registers, and reads from every level of memory.

Run as a process beside the libraries (``python -m benchmarks.machine THREADS``), on the same processors, so that it
sees the clock that they see. The kernels are in peak.c; without a C compiler NumPy stands in, and the header of the
tables says so.
"""

import ctypes
import math
import os
import platform
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .problems import DTYPES, on_cache_line
from .protocol import affinity, processors, serve

WIDTHS = (64, 32, 16)  #: bytes of a vector; the best one counts
CALL_SECONDS = 5e-3  #: of one timed call: long beside starting the threads, short beside an interruption
LARGEST_BUFFER = 2**29  #: beyond the share of a last cache that one machine has
USUAL_CACHES = {"L1": 32 * 2**10, "L2": 2**20, "L3": 32 * 2**20}  #: where the system does not tell


@dataclass(frozen=True)
class Limits:
    """What `threads` cores reach together."""

    threads: int
    fma: dict  #: GFLOP/s by dtype
    bandwidth: dict  #: GB/s, reading, by level: L1, L2, L3, DRAM
    caches: dict  #: bytes by level
    method: str

    def floor(self, flops, traffic, dtype):
        """The seconds below which the work cannot be done, and what sets them: "fma", or the memory that is read."""
        level = self._level(traffic)
        seconds = {"fma": flops / (self.fma[dtype] * 1e9), level: traffic.moved / (self.bandwidth[level] * 1e9)}
        bound = max(seconds, key=seconds.get)
        return seconds[bound], bound

    def _level(self, traffic):
        """The memory that serves a `Traffic`: a cache that holds it, or DRAM.

        The last cache is shared; of the others each thread has its own, and an equal share of the bytes in it.
        """
        last = max(self.caches, key=self.caches.get)
        for level, size in self.caches.items() if traffic.repeated else [(last, self.caches[last])]:
            if traffic.held <= size * (1 if level == last else self.threads):
                return level
        return "DRAM"

    def best(self, other):
        """The better of two measurements, figure by figure."""
        return Limits(self.threads, {name: max(rate, other.fma[name]) for name, rate in self.fma.items()},
                      {name: max(rate, other.bandwidth[name]) for name, rate in self.bandwidth.items()},
                      self.caches, self.method)


def describe():
    """The machine in one line."""
    caches = ", ".join(f"{level} {size // 1024} KiB" for level, size in cache_sizes().items())
    return (f"{_processor_name()}, {len(processors())} processors, {caches}; {platform.system()} "
            f"{platform.release()}, Python {platform.python_version()}")


def _processor_name():
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def cache_sizes():
    """Bytes of the data caches that the last processor sees, by level."""
    sizes = {}
    for index in sorted(Path(f"/sys/devices/system/cpu/cpu{processors()[-1]}/cache").glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            sizes[f"L{level}"] = int(size.rstrip("K")) * 1024
    return dict(sorted(sizes.items())) or USUAL_CACHES


def footprints(caches, threads):
    """Bytes that each thread reads to measure a level.

    Half of the first cache; of the others the geometric mean of its size and of what the caches before it hold, so
    that neither edge is near; for DRAM four times the last cache. The last cache and DRAM are shared.
    """
    sizes = {}
    below = 0
    for level, size in caches.items():
        share = threads if size == max(caches.values()) else 1
        sizes[level] = int(math.sqrt(below * size / share)) if below else size // 2
        below = size
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    sizes["DRAM"] = min(4 * max(caches.values()), LARGEST_BUFFER, memory // 8) // threads
    return sizes


class CompiledKernels:
    """peak.c, built for every dtype and vector width."""

    method = "multiply-adds and reads in C"

    def __init__(self):
        with tempfile.TemporaryDirectory() as folder:
            self._libraries = {(dtype, width): self._build(Path(folder), dtype, width)
                               for dtype in DTYPES for width in WIDTHS}

    @staticmethod
    def _build(folder, dtype, width):
        real, c_real = {"float32": ("float", ctypes.c_float), "float64": ("double", ctypes.c_double)}[dtype]
        target = folder / f"peak_{real}_{width}.so"
        subprocess.run(["cc", "-std=gnu11", "-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC",
                        f"-DREAL={real}", f"-DBYTES={width}", "-o", target, Path(__file__).with_name("peak.c")],
                       check=True, stdout=subprocess.DEVNULL)
        library = ctypes.CDLL(str(target))
        library.fma_flops.restype = library.read_bytes.restype = ctypes.c_int64
        library.fma_rounds.argtypes = [ctypes.c_int64, c_real, c_real]
        library.read_rounds.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
        library.fma_rounds.restype = library.read_rounds.restype = c_real
        return library

    def fma(self, dtype, threads, seconds):
        """FLOP/s."""
        return max(best_rate(lambda _, rounds, fma=library.fma_rounds: fma(rounds, 0.999, 0.001),
                             library.fma_flops(), threads, seconds)
                   for library in (self._libraries[dtype, width] for width in WIDTHS))

    def read(self, size, threads, seconds):
        """Bytes per second, each thread reading its own `size` bytes over and over."""
        buffers = [aligned_ones(size) for _ in range(threads)]
        rates = []
        for width in WIDTHS:
            library = self._libraries["float32", width]
            block = library.read_bytes()
            rates.append(best_rate(lambda thread, rounds, read=library.read_rounds, blocks=size // block:
                                   read(buffers[thread].ctypes.data, blocks, rounds),
                                   size // block * block, threads, seconds))
        return max(rates)


class NumPyKernels:
    """What can be measured without a compiler: lower bounds."""

    method = "no C compiler: NumPy's matmul and max stand in, so the limits are too low"
    _SIDE = 768

    def fma(self, dtype, threads, seconds):
        """FLOP/s of a matrix product; BLAS runs the threads."""
        a = np.ones((self._SIDE, self._SIDE), dtype)
        product = np.empty_like(a)
        return best_rate(lambda _, rounds: [np.matmul(a, a, out=product) for _ in range(rounds)],
                         2 * self._SIDE**3, 1, seconds)

    def read(self, size, threads, seconds):
        """Bytes per second of a maximum."""
        buffers = [aligned_ones(size) for _ in range(threads)]
        return best_rate(lambda thread, rounds: [buffers[thread].max() for _ in range(rounds)],
                         buffers[0].nbytes, threads, seconds)


def aligned_ones(size):
    """`size` bytes of float32."""
    return on_cache_line(np.ones(size // 4, np.float32))


def best_rate(work, units, threads, seconds):
    """The most units per second that the threads reach together, over calls of `CALL_SECONDS` for `seconds`.

    ``work(thread, rounds)`` does `units` a round, without holding the GIL.
    """
    work(0, 1)
    rounds = 1
    while (elapsed := _seconds(work, 0, rounds)) < CALL_SECONDS:
        rounds *= 2
    repeats = max(3, math.ceil(seconds / elapsed))
    rates = np.empty((threads, repeats))
    barrier = threading.Barrier(threads)

    def run(thread):
        with affinity([processors()[thread - threads]] if threads > 1 else processors()):
            for repeat in range(repeats):
                barrier.wait()
                rates[thread, repeat] = units * rounds / _seconds(work, thread, rounds)

    workers = [threading.Thread(target=run, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return float(rates.sum(axis=0).max())


def _seconds(work, thread, rounds):
    start = time.perf_counter()
    work(thread, rounds)
    return time.perf_counter() - start


def load(threads):
    """The methods of the process: ``limits(seconds)``, the fields of `Limits`."""
    try:
        kernels = CompiledKernels()
    except (OSError, subprocess.CalledProcessError):  # no compiler, or nothing that it makes can be loaded
        kernels = NumPyKernels()
    caches = cache_sizes()

    def limits(seconds):
        return {"threads": threads, "method": kernels.method, "caches": caches,
                "fma": {dtype: kernels.fma(dtype, threads, seconds) / 1e9 for dtype in DTYPES},
                "bandwidth": {level: kernels.read(size, threads, seconds) / 1e9
                              for level, size in footprints(caches, threads).items()}}

    return {"limits": limits}


if __name__ == "__main__":
    serve(load)
