"""The benchmarks: what they count, what they compare, and that they run. No time is asserted."""

import doctest
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT))  # the benchmarks are no part of an installed package

from benchmarks import machine, measure, problems, table  # noqa: E402
from benchmarks.__main__ import parse_arguments  # noqa: E402

SMALLEST = "1,1,28,28,1,3,1,0,1"


def brute_force_macs(problem):
    """Multiply-adds of one image, counted one by one."""
    rows, columns = ([(o, q) for o in range(out) for q in range(problem.kernel)
                      if 0 <= o * problem.stride + q - problem.padding < size]
                     for out, size in zip(problem.out, (problem.H, problem.W), strict=True))
    return len(rows) * len(columns) * problem.C * problem.K // problem.groups


@pytest.mark.parametrize("module", [problems, table])
def test_doctests(module):
    result = doctest.testmod(module)
    assert result.attempted and not result.failed


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3, 7])
@pytest.mark.parametrize("padding", [0, 1, 2, 4])
def test_valid_multiply_adds(kernel, stride, padding):
    for height, width in [(5, 5), (6, 9), (1, 5), (13, 7)]:
        if min(height, width) + 2 * padding < kernel:
            continue
        problem = problems.Convolution(3, 4, height, width, 6, kernel, stride, padding, 2)
        count = 3 * brute_force_macs(problem)
        for pass_, factor in [("forward", 1), ("backward_data", 1), ("backward_weights", 1), ("backward", 2)]:
            assert problem.flops(pass_) == 2 * factor * count


def test_bytes():
    problem = problems.parse("conv", "2,4,5,6,8,3,1,1,2")
    x, w, y = 2 * 4 * 5 * 6, 8 * 2 * 9, 2 * 8 * 5 * 6
    assert problem.bytes("forward", "float32") == 4 * (x + w + y)
    assert problem.bytes("backward", "float64") == 8 * (2 * x + 2 * w + y)


@pytest.mark.parametrize("line", [*problems.CONV, *problems.CALL])
def test_lines_parse_and_print_back(line):
    assert str(problems.parse("conv", line)) == line


def test_lines_are_different():
    assert len(set(problems.CONV)) == len(problems.CONV)
    assert SMALLEST in problems.CONV


@pytest.mark.parametrize("line", ["", "1,2,3", "1,1,4,4,1,3,1,0,1,1", "1,1,4,4,1,3,1,0,x", "0,1,4,4,1,3,1,0,1",
                                  "1,1,4,4,1,5,1,0,1", "1,3,4,4,2,3,1,0,2", "1,1,4,4,1,3,0,0,1", "1,1,4,4,1,3,1,-1,1"])
def test_other_lines_are_refused(line):
    with pytest.raises(ValueError, match="N,C,H,W,K"):
        problems.parse("conv", line)


def test_floor_is_the_larger_of_arithmetic_and_memory():
    limits = machine.Limits(threads=1, fma={"float32": 100.0}, bandwidth={"L1": 400.0, "L2": 50.0, "DRAM": 10.0},
                            caches={"L1": 1000, "L2": 8000}, method="")
    assert limits.floor(2e6, 5000, "float32") == (pytest.approx(2e-5), "fma")
    assert limits.floor(100, 5000, "float32") == (pytest.approx(1e-7), "L2")
    assert limits.floor(100, 10000, "float32") == (pytest.approx(1e-6), "DRAM")


@pytest.mark.parametrize("compiler", [True, False])
def test_limits_are_measured_with_and_without_a_compiler(compiler, monkeypatch):
    if compiler and shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    if not compiler:
        monkeypatch.setattr(machine.CompiledKernels, "_build", lambda *_: subprocess.run(["/no/such/cc"], check=True))
    monkeypatch.setattr(machine, "cache_sizes", lambda: {"L1": 2**14, "L2": 2**16})
    monkeypatch.setattr(machine, "LARGEST_BUFFER", 2**18)
    limits = machine.Limits(**machine.load(1)["limits"](seconds=0.001))
    assert ("no C compiler" in limits.method) is not compiler
    assert set(limits.fma) == set(problems.DTYPES)
    assert set(limits.bandwidth) == {"L1", "L2", "DRAM"}
    assert all(rate > 0 for rate in [*limits.fma.values(), *limits.bandwidth.values()])


def test_signatures_tell_results_apart():
    a = np.random.default_rng(2).standard_normal((3, 5, 4))
    signature = measure.signature([a])
    assert measure.agree(measure.signature([a.astype(np.float32)]), signature, "float32")
    assert not measure.agree(measure.signature([a.astype(np.float32)]), signature, "float64")
    for other in ([a[[1, 0, 2]]], [1.01 * a], [a, a], [np.where(a > 1, np.nan, a)], []):
        assert not measure.agree(measure.signature(other), signature, "float32")


def test_repetitions():
    calls = []
    samples = measure.repetitions(lambda: calls.append(1), 0.0, 4)
    assert len(samples) == 4
    assert len(calls) > 400  # in groups: one of these takes nanoseconds
    assert all(0 < sample < measure.REPETITION_SECONDS for sample in samples)


def row(problem, us, torch, threads=1):
    return {"operator": "conv", "pass": "forward", "dtype": "float32", "threads": threads, "problem": problem,
            "variant": "channels_last", "us": us, "median_us": us, "gflops": 1.0, "percent": 50.0, "limited_by": "fma",
            "limit_us": us / 2, "peers": {"torch": {"us": torch, "ratio": torch / us}} if torch else {}}


def test_tables():
    text = table.conv_tables([row("a", 10.0, 20.0), row("b", 10.0, 5.0), row("c", 8.0, None), row("a", 5.0, 20.0, 2)])
    one, two, means = parsed_tables(text)
    assert [(line["problem"], line["torch us"], line["x torch"]) for line in one] == [
        ("a", "20.00", "2.00"), ("b", "5.00", "0.50"), ("c", "", "")]
    assert two[0]["x 1 thread"] == "2.00"
    assert [(line["rows"], line["% limit"], line["x torch"], line["least x torch"], line["torch ahead"])
            for line in means] == [("3", "50.0", "1.00", "0.50", "1"), ("1", "50.0", "4.00", "4.00", "0")]


def parsed_tables(text):
    """The Markdown tables in a text: lists of {heading: cell}."""
    tables = []
    for block in text.split("\n\n"):
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()
                 if line.startswith("|")]
        if lines:
            tables.append([dict(zip(lines[0], line, strict=True)) for line in lines[2:]])
    return tables


def run(*arguments):
    """The output of a run of the benchmarks, on as little as possible."""
    result = subprocess.run([sys.executable, "-m", "benchmarks", *arguments, "--seconds", "0.01", "--rounds", "1"],
                            cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_conv_runs(tmp_path):
    target = tmp_path / "figures.json"
    output = run("conv", "--only", SMALLEST, "--threads", "1", "--dtype", "float32", "--pass", "forward,backward",
                 "--peers", "none", "--json", str(target))
    forward, backward, means = parsed_tables(output)
    figures = json.loads(target.read_text())
    assert figures["machine"] in output
    assert len(forward) == len(backward) == len(means) / 2 == 2
    for line, written in zip(forward + backward, figures["rows"], strict=True):
        assert line["problem"] == written["problem"] == SMALLEST
        assert line["layout"] == written["variant"]
        assert line["limit"] in ("fma", "DRAM", *figures["limits"][0]["caches"])
        assert 0 < float(line["us"]) <= float(line["median"])
        flops = problems.parse("conv", SMALLEST).flops(written["pass"])
        assert written["gflops"] == pytest.approx(flops / written["us"] / 1e3)
        assert written["percent"] == pytest.approx(100 * written["limit_us"] / written["us"])
        assert float(line["GFLOP/s"]) == pytest.approx(written["gflops"], abs=0.051)


def test_call_runs():
    (lines,) = parsed_tables(run("call", "--only", SMALLEST))
    assert [line["pass"] for line in lines] == ["forward", "backward"]
    assert all(float(line["core us"]) > 0 for line in lines)


def test_defaults_of_one_command_are_not_those_of_another():
    conv, call = parse_arguments(["conv"]), parse_arguments(["call"])
    assert (conv.dtype, conv.passes, conv.lines) == (problems.DTYPES, problems.PASSES[:3], problems.CONV)
    assert (call.dtype, call.passes, call.lines) == (("float32",), ("forward", "backward"), problems.CALL)


def test_wrong_arguments():
    for arguments in (["--threads", "0"], ["--pass", "sideways"], ["--only", "no such problem"],
                      ["--problem", "1,2"], ["--peers", "numpy"], ["--seconds", "0"]):
        result = subprocess.run([sys.executable, "-m", "benchmarks", "conv", *arguments], cwd=ROOT,
                                capture_output=True, text=True, check=False)
        assert result.returncode == 2
        assert "usage" in result.stderr
