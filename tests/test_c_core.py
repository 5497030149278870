"""The C core stands alone: programs that know nothing of Python, built by csrc/Makefile.

CONVRNN_TEST_SANITIZE=address,undefined (or thread) builds the core and the programs with those sanitizers.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SANITIZE = os.environ.get("CONVRNN_TEST_SANITIZE", "")
EXTRA = f"-g -fsanitize={SANITIZE} -fno-sanitize-recover=all" if SANITIZE else ""

pytestmark = pytest.mark.skipif(shutil.which("make") is None or shutil.which("cc") is None,
                                reason="needs make and a C compiler")


def run(*command, **environment):
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600,
                            env={**os.environ, "UBSAN_OPTIONS": "print_stacktrace=1", **environment})
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout}\n{result.stderr}"
    return result


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    out = tmp_path_factory.mktemp("c")
    built = run("make", "-j2", "-C", str(ROOT / "csrc"), f"OUT={out}", f"EXTRA={EXTRA}",
                f"OPTIMIZE={'-O1' if SANITIZE else '-O3'}")
    assert "warning" not in built.stderr
    return out / "libconvrnn.a"


@pytest.fixture
def program(library, tmp_path):
    def build(source):
        target = tmp_path / Path(source).stem
        libraries = ["-lm", "-lquadmath"] if Path(source).stem == "ulp" else ["-lm"]
        run("cc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", *EXTRA.split(), f"-I{ROOT / 'csrc'}",
            str(ROOT / source), str(library), "-pthread", *libraries, "-o", str(target))
        return str(target)

    return build


def test_the_example_convolves(program):
    lines = run(program("examples/convolve.c")).stdout.splitlines()
    assert lines[0] == "0 4 4 0"
    assert lines[4].startswith("dx[2][2] = -16, dw[1][2] = 32, db = 32")
    assert lines[5] == "groups must divide C = 1 and K = 1, got 2"


def test_memory_may_run_out_at_any_point(program):
    run(program("tests/c/test_memory.c"))


def test_threads_fork_and_floating_point_modes(program):
    run(program("tests/c/test_runtime.c"))


@pytest.mark.skipif(bool(SANITIZE), reason="a measurement of accuracy, which sanitizers slow down twentyfold")
def test_functions_within_two_ulp(program, isa):
    run(program("tests/c/ulp.c"), "--isa", isa)
