"""JSON lines between the harness and a process of its own for every library: one request, one answer.

Every process is started alike: on the last processors of those this one may run on, as many as it may use threads
(so one thread is pinned), and with the usual environment variables set to that number before anything is imported.
"""

import json
import os
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parent.parent
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "CONVRNN_NUM_THREADS")


class ProcessError(Exception):
    """A process could not do what it was asked; the message says why."""


def processors():
    """The processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


@contextmanager
def affinity(allowed):
    """Confines this thread, and what it starts, to some processors, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, allowed)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Process:
    """A module of this package, running as a program, that may use so many threads."""

    def __init__(self, module, threads):
        self.name = module.rpartition(".")[2]
        environment = os.environ | {variable: str(threads) for variable in THREAD_VARIABLES}
        with affinity(processors()[-threads:]):
            self._child = subprocess.Popen([sys.executable, "-m", module, str(threads)], cwd=ROOT, env=environment,
                                           text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            self._answer()
        except ProcessError:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Ends the process: it stops when there is nothing more to read."""
        with suppress(BrokenPipeError):
            self._child.stdin.close()
        self._child.stdout.close()
        self._child.wait()

    def ask(self, method, **arguments):
        """What `method` of the process returns."""
        with suppress(BrokenPipeError):  # the missing answer tells
            print(json.dumps({"method": method, **arguments}), file=self._child.stdin, flush=True)
        return self._answer()

    def _answer(self):
        line = self._child.stdout.readline()
        if not line:
            raise ProcessError(f"{self.name} ended with status {self._child.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise ProcessError(f"{self.name}: {answer['error']}")
        return answer["result"]


def serve(load):
    """Answers requests until there are no more: the main function of a process.

    ``load(threads)`` imports what the process is for and returns its methods, a dict from names to functions. What
    they print goes to the error stream.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(function, **arguments):
        try:
            reply = {"result": function(**arguments)}
        except Exception as error:  # whatever it is, the harness can go on without this answer
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=answers, flush=True)

    methods = {}
    answer(lambda: methods.update(load(int(sys.argv[1]))))
    for line in sys.stdin:
        request = json.loads(line)
        answer(methods[request.pop("method")], **request)
