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
from benchmarks.peers import OTHERS  # noqa: E402

SMALLEST = "1,1,28,28,1,3,1,0,1"
PASSES = problems.Convolution.passes
LINES = [(operator, line) for operator, lines in problems.LINES.items()
         for line in dict.fromkeys(line for pass_ in lines for line in lines[pass_])]


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


def test_traffic():
    problem = problems.parse("conv", "2,4,5,6,8,3,1,1,2")
    x, w, y = 2 * 4 * 5 * 6, 8 * 2 * 9, 2 * 8 * 5 * 6
    forward, backward = 4 * (x + w + y), 8 * (2 * x + 2 * w + y)
    assert problem.traffic("forward", "float32") == (forward, forward, False)
    assert problem.traffic("backward", "float64") == (backward, backward, False)


@pytest.mark.parametrize(("cell", "gates"), [("RNN", 1), ("LSTM", 4), ("GRU", 3)])
def test_recurrent_multiply_adds_and_traffic(cell, gates):
    problem = problems.parse("rnn", f"{cell} 7,5,2,3")
    count = sum(1 for _step in range(7) for _row in range(5) for _gate in range(gates) for _unit in range(3)
                for _source in [*range(2), *range(3)])
    assert problem.flops("inference") == problem.flops("step") == 2 * count
    assert problem.flops("training") == 6 * count
    inputs, recurrent = 3 * gates * 2, 3 * gates * 3
    assert problem.traffic("inference", "float32") == (4 * (7 * recurrent + inputs), 4 * recurrent, True)
    assert problem.traffic("training", "float64") == (16 * (7 * recurrent + inputs), 8 * recurrent, True)


@pytest.mark.parametrize(("operator", "line"), LINES)
def test_lines_parse_and_print_back(operator, line):
    assert str(problems.parse(operator, line)) == line


@pytest.mark.parametrize("operator", problems.LINES)
def test_lines_are_different_and_have_their_passes(operator):
    for pass_, lines in problems.LINES[operator].items():
        assert len(set(lines)) == len(lines) > 0
        assert all(pass_ in problems.parse(operator, line).passes for line in lines)


@pytest.mark.parametrize("line", ["", "1,2,3", "1,1,4,4,1,3,1,0,1,1", "1,1,4,4,1,3,1,0,x", "0,1,4,4,1,3,1,0,1",
                                  "1,1,4,4,1,5,1,0,1", "1,3,4,4,2,3,1,0,2", "1,1,4,4,1,3,0,0,1", "1,1,4,4,1,3,1,-1,1"])
def test_other_lines_are_refused(line):
    with pytest.raises(ValueError, match="N,C,H,W,K"):
        problems.parse("conv", line)


@pytest.mark.parametrize("line", ["", "LSTM", "1,1,2,3", "LSTM 1,1,2", "LSTM 1,1,2,3,4", "LSTM 1,1,2,x", "LSTM 0,1,2,3",
                                  "LSTM 1,1,2,3 4", "CNN 1,1,2,3"])
def test_other_recurrent_lines_are_refused(line):
    with pytest.raises(ValueError, match="CELL T,B,I,H"):
        problems.parse("rnn", line)


def test_floor_is_the_larger_of_arithmetic_and_memory():
    limits = limits_of(1)
    moved_once = problems.Traffic(5000, 5000, repeated=False)
    assert limits.floor(2e6, moved_once, "float32") == (pytest.approx(2e-5), "fma")
    assert limits.floor(100, moved_once, "float32") == (pytest.approx(1e-7), "L2")
    assert limits.floor(100, problems.Traffic(10000, 10000, repeated=False), "float32") == (pytest.approx(1e-6), "DRAM")


@pytest.mark.parametrize(("threads", "held", "repeated", "level"), [
    (1, 1000, True, "L1"), (1, 1001, True, "L2"), (2, 1001, True, "L1"), (2, 2001, True, "L2"), (1, 8000, True, "L2"),
    (2, 8001, True, "DRAM"), (1, 1000, False, "L2"), (2, 8001, False, "DRAM")])
def test_floor_finds_the_cache_that_holds_what_is_read(threads, held, repeated, level):
    limits = limits_of(threads)
    floor = limits.floor(1, problems.Traffic(10**6, held, repeated), "float32")
    assert floor == (pytest.approx(10**6 / (limits.bandwidth[level] * 1e9)), level)


def limits_of(threads):
    """Made-up limits; the second cache is the last, which threads share."""
    return machine.Limits(threads, fma={"float32": 100.0}, bandwidth={"L1": 400.0, "L2": 50.0, "DRAM": 10.0},
                          caches={"L1": 1000, "L2": 8000}, method="")


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


@pytest.fixture(scope="module")
def libraries():
    """The processes of ours and of the peers that are installed."""
    with measure.Libraries(1, OTHERS, measure.Options(seconds=0.001, rounds=1, variants=None)) as processes:
        yield [processes.ours, *processes.peers.values()]


@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("line", [f"{cell} {sizes}" for cell in problems.GATES for sizes in ("5,3,4,6", "1,1,6,6")])
def test_recurrent_variants_compute_the_same(line, dtype, libraries):
    problem = problems.parse("rnn", line)
    for pass_ in problem.passes:
        signatures = {(library.name, variant): signature for library in libraries for variant, signature in
                      library.ask("prepare", operator="rnn", pass_=pass_, problem=line, dtype=dtype).items()}
        forms = {variant for name, variant in signatures if name == measure.OURS}
        assert forms == ({"array", "layer"} if pass_ == "training" else set(problems.FORMS))
        first = signatures[measure.OURS, "array"]
        # y and the last state, or y and the gradients of x, of four parameters and of the first state
        assert len(first) == (6 if pass_ == "training" else 1) + (2 if problem.cell == "LSTM" else 1)
        assert all(norm > 0 for _, norm in first)
        for variant, signature in signatures.items():
            assert measure.agree(signature, first, dtype), variant


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
    text = table.comparisons([row("a", 10.0, 20.0), row("b", 10.0, 5.0), row("c", 8.0, None), row("a", 5.0, 20.0, 2)])
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
        assert line["variant"] == written["variant"]
        assert line["limit"] in ("fma", "DRAM", *figures["limits"][0]["caches"])
        assert 0 < float(line["us"]) <= float(line["median"])
        flops = problems.parse("conv", SMALLEST).flops(written["pass"])
        assert written["gflops"] == pytest.approx(flops / written["us"] / 1e3)
        assert written["percent"] == pytest.approx(100 * written["limit_us"] / written["us"])
        assert float(line["GFLOP/s"]) == pytest.approx(written["gflops"], abs=0.051)


def test_rnn_runs():
    output = run("rnn", "--problem", "GRU 3,2,4,5", "--problem", "lstm 1,1,4,4", "--problem", "rnn 2,2,2,2", "--cell",
                 "GRU,LSTM", "--form", "layer,frozen", "--threads", "1", "--dtype", "float64", "--peers", "none")
    inference, training, step, means = parsed_tables(output)
    both = ["GRU 3,2,4,5", "LSTM 1,1,4,4"]
    assert [(line["problem"], line["variant"]) for line in inference] == [
        (problem, form) for problem in both for form in ("layer", "frozen")]
    assert [(line["problem"], line["variant"]) for line in training] == [(problem, "layer") for problem in both]
    assert [line["problem"] for line in step] == 2 * both[1:]
    assert [(line["pass"], line["rows"]) for line in means] == [
        ("inference", "2"), ("inference", "2"), ("training", "2"), ("step", "1"), ("step", "1")]
    assert all(float(line["us"]) > 0 and line["limit"] in ("fma", "L1") for line in inference + training + step)


def test_a_run_without_rows_fails():
    result = subprocess.run([sys.executable, "-m", "benchmarks", "rnn", "--pass", "training", "--form", "frozen",
                             "--problem", "RNN 1,1,2,2", "--threads", "1", "--peers", "none", "--seconds", "0.01"],
                            cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 1
    assert result.stderr.endswith("nothing of ours was measured\n")


def test_call_runs():
    (lines,) = parsed_tables(run("call", "--only", SMALLEST))
    assert [line["pass"] for line in lines] == ["forward", "backward"]
    assert all(float(line["core us"]) > 0 for line in lines)


def test_defaults_of_one_command_are_not_those_of_another():
    dtypes = {}
    for operator, passes in (("conv", PASSES[:3]), ("call", ("forward", "backward")),
                             ("rnn", ("inference", "training", "step"))):
        parsed = parse_arguments([operator])
        dtypes[operator] = parsed.dtype
        assert [(case.operator, case.pass_, case.problem, case.dtype) for case in parsed.cases] == [
            (operator, pass_, line, dtype)
            for pass_ in passes for dtype in parsed.dtype for line in problems.LINES[operator][pass_]]
    assert dtypes == {"conv": problems.DTYPES, "call": ("float32",), "rnn": problems.DTYPES}


def test_cells_are_chosen():
    cases = parse_arguments(["rnn", "--cell", "rnn,GRU", "--pass", "step", "--dtype", "float32", "--only", ",32"]).cases
    assert [case.problem for case in cases] == ["RNN 1,1,32,32", "GRU 1,1,32,32"]


def test_wrong_arguments(capsys):
    for arguments in (["conv", "--threads", "0"], ["conv", "--pass", "sideways"], ["conv", "--only", "no such problem"],
                      ["conv", "--problem", "1,2"], ["conv", "--peers", "numpy"], ["conv", "--seconds", "0"],
                      ["conv", "--cell", "LSTM"], ["rnn", "--cell", "CNN"], ["rnn", "--layout", "channels_last"],
                      ["rnn", "--pass", "forward"], ["rnn", "--pass", "step", "--problem", "LSTM 2,1,3,3"]):
        with pytest.raises(SystemExit) as stopped:
            parse_arguments(arguments)
        assert stopped.value.code == 2
        assert "usage" in capsys.readouterr().err
