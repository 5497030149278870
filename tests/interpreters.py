"""Fresh interpreters: for what may crash, hang or change a process, and for what depends on how one starts."""

import os
import subprocess
import sys
from pathlib import Path

import convrnn

PATHS = [str(Path(convrnn.__file__).parents[1]), str(Path(__file__).parent)]


def start(*arguments, timeout=120, **environment):
    """The finished process of `python arguments`, which imports this convrnn and these tests; None unsets a variable.

    A process that hangs says where all its threads are.
    """
    variables = {"PYTHONPATH": os.pathsep.join(PATHS), "PYTHONFAULTHANDLER": "1", **environment}
    settings = {name: value for name, value in (os.environ | variables).items() if value is not None}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=timeout,
                          env=settings)


def run(code, *arguments, timeout=120, **environment):
    """What a program prints; it has to end well and in time."""
    watched = f"import faulthandler; faulthandler.dump_traceback_later({timeout}, exit=True)\n{code}"
    process = start("-c", watched, *arguments, timeout=timeout + 10, **environment)
    assert process.returncode == 0, f"status {process.returncode}\n{process.stderr[-4000:]}{process.stdout[-2000:]}"
    return process.stdout
