"""What the package costs beside arithmetic: its size and import, memory, idle threads, decayed states, calls.

What needs a process of its own is done by this module, run as one (``python -m benchmarks.footprint THREADS``).
"""

import gc
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from . import measure, table
from .protocol import ROOT, Process, processors, serve

IMPORTS = 9  #: fresh interpreters
SHAPES = 1000  #: of the loop that memory may not grow in
IDLE_AFTER, IDLE_SECONDS = 1e-3, 0.1  #: when idle threads are looked at, and for how long
STEPS = 100_000  #: of the state that decays
STATUS = Path("/proc/self/status")  #: where the system tells how much memory is resident

#: Calls of which the arithmetic is nothing.
CALLS = [measure.Case("call", pass_, line, "float32") for pass_ in ("forward", "backward")
         for line in ("1,1,1,1,1,1,1,0,1", "1,1,28,28,1,3,1,0,1", "1,1,28,28,8,3,1,0,1")]


def figures(wheel, seconds):
    """[{what, figure, unit}]; `wheel` is a file or None, `seconds` the length of what is repeated."""
    lines = [_line("import, beyond NumPy's", 1e3 * import_seconds(), "ms"),
             _line("the package's files", package_bytes() / 2**20, "MiB")]
    if wheel:
        lines.append(_line("the wheel", wheel.stat().st_size / 2**20, "MiB"))
    threads = len(processors())
    with Process("benchmarks.footprint", threads) as process:
        if STATUS.exists():
            first, again = process.ask("growth", count=SHAPES)
            lines += [_line(f"resident memory after {SHAPES} random shapes", first / 1024, "MiB more"),
                      _line("after the same shapes again", again / 1024, "MiB more")]
        lines += [_line(f"processor time of {table.threads_text(threads)} {1e3 * IDLE_AFTER:g} ms after a call",
                        100 * process.ask("idle"), "% of a processor")]
        for name, per_step in process.ask("decayed", seconds=seconds).items():
            lines.append(_line(f"a step of a {name} state, of {STEPS}", 1e9 * per_step, "ns"))
    return lines


def _line(what, figure, unit):
    return {"what": what, "figure": figure, "unit": unit}


def report(lines, rows):
    """The figures, and what a call costs."""
    cells = [line | {"figure": f"{line['figure']:.3g}"} for line in lines]
    return "\n\n".join([table.markdown(cells), "## A call", table.call_table(rows)])


def import_seconds():
    """The median over fresh interpreters, which have NumPy already."""
    program = ("import time, numpy; start = time.perf_counter(); import convrnn; "
               "print(time.perf_counter() - start)")
    return statistics.median(float(subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, text=True,
                                                  stdout=subprocess.PIPE).stdout) for _ in range(IMPORTS))


def package_bytes():
    """Of the files of the package that is imported, but for compiled Python."""
    import convrnn

    return sum(file.stat().st_size for file in Path(convrnn.__file__).parent.rglob("*")
               if file.is_file() and "__pycache__" not in file.parts)


def growth(count):
    """KiB that the process has grown by after forward and backward of random shapes, and after all of them again."""
    np.random.default_rng(0)  # numpy.random, with a library for cryptography, is loaded by its first use: 6 MiB
    start = _resident()
    sizes = []
    for _ in range(2):
        rng = np.random.default_rng(0)
        for _ in range(count):
            _convolve(rng)
            _recur(rng)
        gc.collect()
        sizes.append(_resident())
    return [sizes[0] - start, sizes[1] - sizes[0]]


def _resident():
    """KiB."""
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1])


def _convolve(rng):
    """A convolution of a random shape."""
    import convrnn

    N, C, H, W, K, KH, KW, stride = map(int, rng.integers(1, (5, 17, 41, 41, 17, 6, 6, 3)))
    x = np.ones((N, H + KH, W + KW, C), np.float32)
    w = np.ones((KH, KW, C, K), np.float32)
    y = convrnn.conv2d(x, w, stride=stride)
    convrnn.conv2d_backward(y, x, w, stride=stride)


def _recur(rng):
    """A recurrent layer of a random shape."""
    import convrnn

    T, B, I, H, kind = map(int, rng.integers(1, (21, 9, 65, 65, 4)))  # noqa: E741 - the letter of the legend
    layer = (convrnn.RNN, convrnn.LSTM, convrnn.GRU)[kind - 1](I, H, rng=0)
    y, _, cache = layer.forward(np.ones((T, B, I), np.float32))
    layer.backward(y, cache)


def idle():
    """The share of a processor that the process uses while it waits: the median over calls that all threads share."""
    import convrnn

    x, w = np.ones((4, 56, 56, 64), np.float32), np.ones((3, 3, 64, 64), np.float32)
    shares = []
    for _ in range(9):
        convrnn.conv2d(x, w)
        time.sleep(IDLE_AFTER)
        start, used = time.perf_counter(), time.process_time()
        time.sleep(IDLE_SECONDS)
        shares.append((time.process_time() - used) / (time.perf_counter() - start))
    return statistics.median(shares)


def decayed(seconds):
    """Seconds of a step, {"normal", "decayed"}, of a tanh layer whose units see themselves alone.

    With a weight of 1.5 they come to rest at 0.86. With 0.99 they decay until rounding to the nearest subnormal number
    holds them there, unless such numbers are flushed to zero; they have got there after a tenth of the steps.
    """
    import convrnn

    H = 64
    x, h = np.zeros((STEPS, 1, 1), np.float32), np.ones((1, H), np.float32)
    w_ih, b = np.zeros((H, 1), np.float32), np.zeros(H, np.float32)
    matrices = {name: np.asfortranarray(weight * np.eye(H, dtype=np.float32))
                for name, weight in (("normal", 1.5), ("decayed", 0.99))}
    return {name: min(measure.repetitions(lambda w_hh=w_hh: convrnn.rnn(x, w_ih, w_hh, b, b, h), seconds, 3)) / STEPS
            for name, w_hh in matrices.items()}


def load(threads):
    """The methods of the process."""
    import convrnn

    convrnn.set_num_threads(threads)
    return {"growth": growth, "idle": idle, "decayed": decayed}


if __name__ == "__main__":
    serve(load)
