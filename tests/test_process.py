"""The process around the calls: threads, fork, signals, memory, environment variables, start and end.

What may hang, crash or change a process runs in one of its own, which ends itself, and says where it is, after a while.
"""

import os
import platform
import re
import sys
import threading
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from interpreters import run, start

import convrnn as cr
from convrnn import _core

ROOT = Path(__file__).parent.parent

#: Two calls that are worth two threads, and their results on one.
PREPARE = """
import os, signal, sys, threading, time
import numpy as np
import convrnn as cr

rng = np.random.default_rng(1)
x, w = rng.standard_normal((4, 40, 40, 16)).astype(np.float32), rng.standard_normal((3, 3, 16, 32)).astype(np.float32)
dy = rng.standard_normal((4, 38, 38, 32)).astype(np.float32)

def results():
    return [cr.conv2d(x, w).tobytes(), *(g.tobytes() for g in cr.conv2d_backward(dy, x, w))]

with cr.num_threads(1):
    wanted = results()
cr.set_num_threads(2)

def same():
    return results() == wanted

def threads():
    return len(os.listdir("/proc/self/task"))

def same_on_two_threads():  # in a child, which begins with one
    return same() and threads() == 2

def fork():
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # ends a child that hangs; a watch on its parent does not
    return child

def wait(child):
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def run_prepared(code, *arguments, **environment):
    return run(PREPARE + code, *arguments, **environment)


def status_of(field):
    """Code that reads a size of the process, in bytes."""
    return f"next(int(line.split()[1]) * 1024 for line in open('/proc/self/status') if line.startswith('{field}'))"


# ------------------------------------------------------------------------------------------------------------ fork


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@needs_fork
def test_fork():
    """The parent, its child, a grandchild, and the parent again use a pool each."""
    run_prepared("""
for _ in range(20):
    assert same()
    child = fork()
    if child == 0:
        good = same_on_two_threads()
        grandchild = fork()
        if grandchild == 0:
            os._exit(not same_on_two_threads())
        wait(grandchild)
        os._exit(not (good and same()))
    assert same()
    wait(child)
""")


@needs_fork
def test_fork_while_other_threads_call():
    """Also from a thread that is not the main one; a child has none of the callers."""
    run_prepared("""
done = threading.Event()
failed = []
def call():
    while not done.is_set():
        if not same():
            failed.append("call")
def fork_often():
    for _ in range(40):
        child = fork()
        if child == 0:
            os._exit(not same_on_two_threads())
        wait(child)
callers = [threading.Thread(target=call) for _ in range(3)]
forker = threading.Thread(target=fork_often)
for thread in (*callers, forker):
    thread.start()
forker.join()
for _ in range(10):
    child = fork()
    if child == 0:
        os._exit(not same_on_two_threads())
    wait(child)
done.set()
for thread in callers:
    thread.join()
assert not failed and same()
""")


@needs_fork
def test_fork_of_a_pool_at_rest():
    """Without threads, though it may have some."""
    run_prepared("""
cr.set_num_threads(1)  # ends the pool that there was
cr.set_num_threads(2)
child = fork()
if child == 0:
    os._exit(not same_on_two_threads())
assert same()
wait(child)
""")


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_multiprocessing(method, tmp_path):
    """Its processes get arrays and give the results that this one gets."""
    program = tmp_path / "program.py"
    program.write_text(PREPARE + f"""
import multiprocessing
def work(index):
    return same()
if __name__ == "__main__":
    assert same()
    with multiprocessing.get_context("{method}").Pool(2) as pool:
        assert pool.map(work, range(6)) == [True] * 6
    assert same()
""", encoding="utf-8")
    process = start(str(program))
    assert process.returncode == 0, process.stderr


# --------------------------------------------------------------------------------------------------------- threads


def mixed_calls():
    """Sixteen calls of different sizes, some of them worth several threads; each returns bytes."""
    rng = np.random.default_rng(2)

    def convolution(size, channels, filters):
        x, w = rng.standard_normal((2, size, size, channels)), rng.standard_normal((3, 3, channels, filters))
        dy = rng.standard_normal((2, size - 2, size - 2, filters))
        return lambda: b"".join(a.tobytes() for a in (cr.conv2d(x, w), *cr.conv2d_backward(dy, x, w)))

    def pooling(size, channels):
        x = rng.standard_normal((2, size, size, channels)).astype(np.float32)
        return lambda: cr.max_pool2d(x, 3, stride=1).tobytes() + cr.avg_pool2d(x, 2).tobytes()

    return [convolution(6 + 3 * i, 1 + 3 * i, 40 - 3 * i) for i in range(12)] + [pooling(9 * i, 8) for i in range(1, 5)]


def test_many_threads_at_once():
    """As many callers as calls, with the pool free for one of them at a time: bits as of one after the other."""
    calls = mixed_calls()
    wanted = [call() for call in calls]
    barrier = threading.Barrier(len(calls))

    def repeat(index):
        barrier.wait()
        return all(calls[(index + i) % len(calls)]() == wanted[(index + i) % len(calls)] for i in range(12))

    with cr.num_threads(2), ThreadPoolExecutor(len(calls)) as pool:
        assert all(pool.map(repeat, range(len(calls))))


def test_thread_count_does_not_matter(isa):
    calls = mixed_calls()
    with cr.num_threads(1):
        wanted = [call() for call in calls]
    for threads in (2, 3, 7, 16):
        with cr.num_threads(threads):
            assert [call() for call in calls] == wanted


def test_setting_threads_while_calls_run():
    calls, done = mixed_calls()[8:], threading.Event()
    wanted = [call() for call in calls]

    def repeat():
        while not done.is_set():
            assert [call() for call in calls] == wanted
        return True

    before = cr.get_num_threads()
    with ThreadPoolExecutor(3) as pool:
        callers = [pool.submit(repeat) for _ in range(3)]
        for count in list(range(1, 9)) * 20:
            cr.set_num_threads(count)
        cr.set_num_threads(before)
        done.set()
        assert all(caller.result(timeout=60) for caller in callers)


def test_num_threads_context():
    """What was set before comes back, also after an exception, and one inside another."""
    before = cr.get_num_threads()
    with cr.num_threads(3):
        assert cr.get_num_threads() == 3
        with pytest.raises(KeyError), cr.num_threads(5):
            assert cr.get_num_threads() == 5
            raise KeyError
        assert cr.get_num_threads() == 3
        with pytest.raises(ValueError, match="n must"), cr.num_threads(0):
            pytest.fail("entered")
        assert cr.get_num_threads() == 3
    assert cr.get_num_threads() == before


def test_more_threads_than_processors():
    run_prepared("""
cr.set_num_threads(64)
assert same()
cr.set_num_threads(2**62)
assert 1 <= cr.get_num_threads() <= 2**20
cr.set_num_threads(1)
assert same()
""")


def test_one_thread_ends_the_idle_ones():
    run_prepared("""
cr.set_num_threads(1)
alone = threads()
for count in (3, 2, 1, 4):
    cr.set_num_threads(count)
    assert same() and threads() == alone + count - 1
cr.set_num_threads(1)
assert threads() == alone
""")


def test_idle_threads_rest():
    """Once calls are over, no thread keeps a processor busy."""
    run_prepared("""
for _ in range(20):
    assert same()
time.sleep(0.05)
before = time.process_time()
time.sleep(0.5)
assert time.process_time() - before < 0.02
""")


def test_other_threads_run_during_a_call():
    """The GIL is released while C works."""
    run_prepared("""
x = np.ones((1, 1000, 1000, 16), np.float32)
cr.set_num_threads(1)
begin, longest = time.perf_counter(), 0
caller = threading.Thread(target=lambda: cr.conv2d(x, w))
caller.start()
while caller.is_alive():
    tick = time.perf_counter()
    time.sleep(0.001)
    longest = max(longest, time.perf_counter() - tick)
call = time.perf_counter() - begin
assert call > 0.02 and longest < call / 2, (call, longest)
""")


def test_small_stacks():
    """Threads of 64 KiB can call everything."""
    run_prepared("""
threading.stack_size(64 * 1024)
good = []
def work():
    good.append(same())
    image = np.ones((2, 30, 31, 17))
    for threads in (1, 2):
        cr.set_num_threads(threads)
        cr.conv2d(image, np.ones((3, 3, 1, 17)), groups=17, activation="sigmoid")
        cr.conv2d(image, np.ones((3, 3, 17, 9)), padding=40, padding_mode="reflect")
        cr.conv_transpose2d(image, np.ones((3, 3, 9, 17)), stride=2)
        cr.max_pool2d_backward(np.ones((2, 15, 15, 17)), image, 2)
    try:
        cr.conv2d(image, image)
    except ValueError:
        good.append(True)
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert good == [True] * 8
""")


FLOAT_MODE = """
import ctypes
libm = ctypes.CDLL("libm.so.6")
def float_mode(bits=None):
    environment = ctypes.create_string_buffer(32)  # fenv_t: MXCSR stands at byte 28
    libm.fegetenv(environment)
    mode = int.from_bytes(environment[28:32], "little")
    if bits is not None:
        environment[28:32] = (mode | bits).to_bytes(4, "little")
        libm.fesetenv(environment)
    return mode & ~0x3f  # without the flags of what happened
"""


@pytest.mark.skipif(platform.machine() != "x86_64" or sys.platform != "linux", reason="knows glibc on x86-64")
@pytest.mark.parametrize("bits", [0, 0x8040, 0x4000, 0x2000], ids=["plain", "no subnormals", "round up", "round down"])
def test_floating_point_mode(bits, isa):
    """The caller's mode holds in all threads, and is the same after the call."""
    run_prepared(FLOAT_MODE + """
bits = int(sys.argv[1])
tiny, halves = np.full(x.shape, 2.0**-140, np.float32), np.full(w.shape, 0.5, np.float32)

def all_results():
    exact = cr.conv2d(tiny, halves, algorithm="direct")
    return [y.tobytes() for y in (exact, cr.conv2d(x, w), *cr.conv2d_backward(dy, x, w))]

plain = all_results()  # on two threads: the second starts in the mode that holds now
float_mode(bits)
before = float_mode()
assert before & 0xe040 == bits
two = all_results()
cr.set_num_threads(1)
one = all_results()
assert float_mode() == before
assert one == two
assert (one[1:] == plain[1:]) == (bits in (0, 0x8040))
sums = np.frombuffer(one[0], np.uint32)
assert (sums == (0 if bits == 0x8040 else 72 << 9)).all()  # 2**-149 is 1, so 2**-140 is 1 << 9
""", str(bits), CONVRNN_ISA=isa)


# --------------------------------------------------------------------------------------------------------- signals


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals of POSIX")
def test_keyboard_interrupt():
    """It is raised once the call under way is over, and everything works afterwards."""
    run_prepared("""
signal.signal(signal.SIGINT, signal.default_int_handler)  # a program in the background begins with it ignored
for delay in (0.001, 0.01, 0.05, 0.1):
    try:
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT)).start()
        while True:
            cr.conv2d(x, w)
    except KeyboardInterrupt:
        pass
    assert same()
""")


def test_signal_handlers_run_in_the_main_thread():
    run_prepared("""
import signal
seen = []
signal.signal(signal.SIGUSR1, lambda *_: seen.append(threading.current_thread()))
for _ in range(50):
    os.kill(os.getpid(), signal.SIGUSR1)
    assert same()
assert set(seen) == {threading.main_thread()}
""")


# ---------------------------------------------------------------------------------------------------- start and end


def test_exit_while_calls_run():
    """Daemon threads in the middle of a call do not keep a process from ending, nor spoil its status."""
    for _ in range(5):
        run_prepared("""
for _ in range(3):
    threading.Thread(target=lambda: [same() for _ in range(10**6)], daemon=True).start()
time.sleep(0.05)
""")


def test_import_time():
    """Less than 50 ms on top of NumPy's own."""
    code = """
import numpy, time
start = time.perf_counter()
import convrnn
print(time.perf_counter() - start)
"""
    assert min(float(run(code)) for _ in range(5)) < 0.05


def test_import_needs_numpy_alone():
    """Modules of no other package are loaded, and no thread is started."""
    loaded = run("""
import os, sys, numpy
before, threads = set(sys.modules), len(os.listdir("/proc/self/task"))
import convrnn
assert len(os.listdir("/proc/self/task")) == threads
print(*{name.partition(".")[0] for name in set(sys.modules) - before})
""").split()
    assert set(loaded) <= {"convrnn", *sys.stdlib_module_names, "cython_runtime"} | {
        name for name in loaded if name.startswith("_cython")}


@pytest.mark.parametrize(("ours", "openmp", "count"), [
    ("3", None, 3), (None, "5", 5), (None, "4,2", 4), ("3", "5", 3),
    ("", "5", 5), ("none", "5", 5), ("0", "5", 5), ("-2", "5", 5), ("3x", "5", 5)])
def test_thread_variables(ours, openmp, count):
    variables = {"CONVRNN_NUM_THREADS": ours, "OMP_NUM_THREADS": openmp}
    assert run("import convrnn as cr; print(cr.get_num_threads())", **variables) == f"{count}\n"


def test_absurd_thread_variable():
    count = int(run("import convrnn as cr; print(cr.get_num_threads())", CONVRNN_NUM_THREADS="9" * 30))
    assert 1 <= count <= 2**20


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs processor affinity")
def test_affinity():
    """By default as many threads as processors that this process may run on."""
    code = """
import os, convrnn as cr
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
print(cr.get_num_threads())
"""
    assert run(code, CONVRNN_NUM_THREADS=None, OMP_NUM_THREADS=None) == "1\n"


def test_isa_variable():
    for name in _core.available_isas():
        process = start("-c", "import convrnn as cr; print(cr.isa())", CONVRNN_ISA=name)
        assert (process.stdout, process.stderr) == (f"{name}\n", "")


@pytest.mark.parametrize("name", ["sse9", "AVX2", "avx512 ", "generic,avx2", "x" * 300])
def test_unknown_isa(name):
    """One line says what happens, once."""
    best = _core.available_isas()[-1]
    code = "import numpy as np, convrnn as cr; cr.conv1d(np.ones((3, 1)), np.ones((1, 1, 1))); print(cr.isa())"
    process = start("-c", code, CONVRNN_ISA=name)
    assert (process.returncode, process.stdout) == (0, f"{best}\n")
    assert process.stderr.count("\n") == 1 and name in process.stderr and best in process.stderr
    assert start("-c", code, CONVRNN_ISA="").stderr == ""


def test_versions():
    """Of the package, of the C core, of its header, of what is installed."""
    assert cr.__version__ == _core.version()
    header = Path(cr.get_include(), "convrnn.h").read_text(encoding="utf-8")
    assert re.search(r'#define CR_VERSION "(.*)"', header)[1] == cr.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "convrnn._version.__version__"}
    assert f"## {cr.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_show_config(capsys):
    cr.show_config()
    shown = capsys.readouterr().out
    for word in (cr.__version__, np.__version__, cr.isa(), str(cr.get_num_threads()), cr.get_include()):
        assert word in shown


def test_threadpoolctl():
    """Once registered, its limits hold here too; importing this package does not import it."""
    pytest.importorskip("threadpoolctl")
    run("""
import sys, convrnn as cr
assert "threadpoolctl" not in sys.modules
cr.set_num_threads(3)
cr.register_threadpoolctl()
cr.register_threadpoolctl()
import threadpoolctl
info, = [info for info in threadpoolctl.threadpool_info() if info["user_api"] == "convrnn"]
assert (info["num_threads"], info["version"]) == (3, cr.__version__)
for options in ({}, {"user_api": "convrnn"}):
    with threadpoolctl.threadpool_limits(1, **options):
        assert cr.get_num_threads() == 1
    assert cr.get_num_threads() == 3
with threadpoolctl.threadpool_limits(1, user_api="blas"):
    assert cr.get_num_threads() == 3
""")


# ---------------------------------------------------------------------------------------------------------- memory


def test_memory_does_not_grow():
    """A thousand calls of different shapes leave nothing behind."""
    run_prepared(f"""
def resident():
    return {status_of("VmRSS")}

def call(rng):
    N, H, W, C, K, KH, KW = (int(n) for n in rng.integers(1, (4, 40, 40, 40, 40, 5, 5)))
    x = np.ones((N, H + KH, W + KW, C), np.float32)
    w = np.ones((KH, KW, C, K), np.float32)
    stride, mode = int(rng.integers(1, 4)), ("constant", "wrap")[rng.integers(2)]
    y = cr.conv2d(x, w, stride=stride, padding=2, padding_mode=mode)
    cr.conv2d_backward(y, x, w, stride=stride, padding=2, padding_mode=mode)
    cr.max_pool2d_backward(cr.max_pool2d(x, 2), x, 2)
    cr.avg_pool2d(x, 2)
    try:
        cr.conv2d(x, w, stride=0)
    except ValueError:
        pass

rng = np.random.default_rng(5)
for _ in range(300):
    call(rng)
before = resident()
for _ in range(1000):
    call(rng)
assert resident() - before < 5e6, resident() - before
""")


def test_threads_that_end_leave_nothing():
    """Each thread keeps some workspace between its calls, and gives it back when it ends: 160 threads would leave more
    than 100 MB, and the C library's heaps, one for each of some threads at a time, differ by up to 12."""
    run_prepared(f"""
from threading import Thread
layer = cr.LSTM(64, 128, rng=0)
x = np.ones((100, 1, 64), np.float32)

def call():
    y, _, cache = layer.forward(x)
    layer.backward(y, cache)

def rounds(number):
    for _ in range(number):
        threads = [Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return {status_of("VmRSS")}

before = rounds(10)
after = rounds(40)
assert after - before < 4e7, after - before
""")


@pytest.mark.parametrize("what", ["forward", "x", "w", "pool"])
def test_workspace_does_not_grow_with_the_image(what, layout):
    """1 x 8192 x 8192 x 1, an 11 x 11 kernel (3 x 3 for dw): beside arrays, at most 4 MB for each of two threads."""
    run(f"""
import sys, numpy as np, convrnn as cr
what, layout = sys.argv[1:]
cr.set_num_threads(2)
shape = (1, 8192, 8192, 1) if layout == "channels_last" else (1, 1, 8192, 8192)
size = 3 if what == "w" else 11
x, w = np.ones(shape, np.float32), np.ones((size, size, 1, 1), np.float32)
if layout == "channels_first":
    w = w.transpose(2, 3, 0, 1)

def call(x, dy):
    if what == "forward":
        return cr.conv2d(x, w, padding=size // 2, layout=layout)
    if what == "pool":
        return cr.max_pool2d(x, 2, layout=layout)
    return cr.conv2d_backward(dy, x, w, padding=size // 2, layout=layout, needs=what)["xw".index(what)]

small = (slice(None),) * (1 if layout == "channels_last" else 2) + (slice(64),) * 2
call(x[small], x[small])  # threads and their stacks
before = {status_of("VmRSS")}
result = call(x, x)
beside = {status_of("VmHWM")} - before - result.nbytes
assert beside < 8e6, beside
assert result.max() == {{"forward": 121, "x": 121, "w": 2**26, "pool": 1}}[what]
""", what, layout)
