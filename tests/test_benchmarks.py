"""The benchmarks: what they count, what they compare, and that they run. No time is asserted."""

import doctest
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT))  # the benchmarks are no part of an installed package

from benchmarks import footprint, growth, machine, measure, onnx_models, plot, problems, table  # noqa: E402
from benchmarks.__main__ import main, parse_arguments  # noqa: E402
from benchmarks.peers import OTHERS  # noqa: E402

SMALLEST = "1,1,28,28,1,3,1,0,1"
LINES = dict.fromkeys((case_set.operator, line) for case_set in problems.SETS.values() for line in case_set.lines)


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


@pytest.mark.parametrize("name", problems.SETS)
def test_lines_are_different_and_have_their_pass(name):
    operator, pass_, lines = problems.SETS[name]
    assert len(set(lines)) == len(lines) > 0
    assert all(pass_ in problems.parse(operator, line).passes for line in lines)
    assert all(problems.operator_of(line) == operator for line in lines)


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


def prepared(libraries, case):
    """{(library, variant): {"prepared", "signature"}}."""
    return {(library.name, variant): found for library in libraries for variant, found in
            library.ask("prepare", operator=case.operator, pass_=case.pass_, problem=case.problem,
                        dtype=case.dtype).items()}


@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("line", ["2,4,9,8,6,3,1,1,1", "3,4,9,9,6,5,2,2,2", "1,4,9,9,4,3,1,1,4", "2,3,7,7,5,1,2,0,1"])
def test_convolutions_compute_the_same(line, dtype, libraries):
    for pass_, arrays in [("forward", 1), ("backward", 3), ("backward_data", 1), ("backward_weights", 1)]:
        found = prepared(libraries, measure.Case("conv", pass_, line, dtype))
        ours = {variant: made["prepared"] for (name, variant), made in found.items() if name == measure.OURS}
        assert ours == dict.fromkeys(problems.LAYOUTS, False) | ({"frozen": True} if pass_ == "forward" else {})
        first = found[measure.OURS, "channels_last"]["signature"]
        assert len(first) == arrays
        for variant, made in found.items():
            assert measure.agree(made["signature"], first, dtype), variant
        if pass_ == "forward" and dtype == "float32":
            assert {name for name, _ in found} == {library.name for library in libraries}


@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("line", [f"{cell} {sizes}" for cell in problems.GATES
                                  for sizes in ("5,3,4,6", "5,1,4,6", "1,1,6,6")])
def test_recurrent_variants_compute_the_same(line, dtype, libraries):
    problem = problems.parse("rnn", line)
    for pass_ in problem.passes:
        found = prepared(libraries, measure.Case("rnn", pass_, line, dtype))
        ours = {variant: made["prepared"] for (name, variant), made in found.items() if name == measure.OURS}
        assert ours == {"array": False, "layer": False} | ({} if pass_ == "training" else {"frozen": True})
        first = found[measure.OURS, "array"]["signature"]
        # y and the last state, or y and the gradients of x, of four parameters and of the first state
        assert len(first) == (6 if pass_ == "training" else 1) + (2 if problem.cell == "LSTM" else 1)
        assert all(norm > 0 for _, norm in first)
        for variant, made in found.items():
            assert measure.agree(made["signature"], first, dtype), variant
        if pass_ != "training" and dtype == "float32" and problem.B == 1:
            assert {name for name, _ in found} == {library.name for library in libraries}


@pytest.mark.parametrize("cell", problems.GATES)
def test_onnx_models_are_valid(cell):
    onnx = pytest.importorskip("onnx")
    problem = problems.parse("rnn", f"{cell} 2,3,4,5")
    for made, expected in ((onnx_models.rnn(problem, problem.operands("float32")), problem.shapes["x"]),
                           (onnx_models.conv(convolution := problems.parse("conv", "2,4,9,8,6,3,1,1,2"),
                                             convolution.operands("float32")), (2, 4, 9, 8))):
        model, inputs = made
        onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
        assert inputs["x"].shape == expected


def test_repetitions():
    calls = []
    samples = measure.repetitions(lambda: calls.append(1), 0.0, 4)
    assert len(samples) == 4
    assert len(calls) > 400  # in groups: one of these takes nanoseconds
    assert all(0 < sample < measure.REPETITION_SECONDS for sample in samples)


def turns(**seconds):
    """Variants with one sample each; a name that ends in an underscore is a prepared one."""
    return {name: measure.Turns(name.endswith("_"), [sample]) for name, sample in seconds.items()}


def test_like_is_compared_with_like():
    times = {measure.OURS: turns(channels_last=4.0, frozen_=2.0), "torch": turns(first=8.0, last=6.0, mkldnn_=3.0),
             "ncnn": turns(default_=1.0), "jax": turns(channels_last=5.0, slow_=7.0)}
    plain, frozen = measure.rows(measure.Case("conv", "forward", SMALLEST, "float32"), times, limits_of(1))
    assert {name: (peer["variant"], peer["ratio"]) for name, peer in plain["peers"].items()} == {
        "torch": ("last", 1.5), "jax": ("channels_last", 1.25)}
    assert {name: (peer["variant"], peer["ratio"]) for name, peer in frozen["peers"].items()} == {
        "torch": ("mkldnn_", 1.5), "ncnn": ("default_", 0.5), "jax": ("channels_last", 2.5)}
    assert (plain["best"], frozen["best"]) == ("jax", "ncnn")
    assert not plain["prepared"] and frozen["prepared"] and frozen["peers"]["ncnn"]["prepared"]
    alone, _ = measure.rows(measure.Case("conv", "forward", SMALLEST, "float32"),
                            {measure.OURS: times[measure.OURS], "ncnn": times["ncnn"]}, limits_of(1))
    assert alone["peers"] == {} and alone["best"] is None


def row(problem, us, threads=1, variant="channels_last", **peers):
    """A row in which the peers take so many microseconds; prepared, if ours is frozen."""
    prepared = variant == "frozen"
    figures = {name: {"variant": "layer", "prepared": prepared, "us": time, "median_us": time, "ratio": time / us}
               for name, time in peers.items()}
    return {"operator": "conv", "pass": "forward", "dtype": "float32", "threads": threads, "problem": problem,
            "variant": variant, "prepared": prepared, "us": us, "median_us": us, "gflops": 1.0, "intensity": 2.0,
            "percent": 50.0, "limited_by": "fma", "limit_us": us / 2, "peers": figures,
            "best": min(peers, key=peers.get, default=None)}


def test_tables():
    text = table.comparisons([row("a", 10.0, torch=20.0, jax=40.0), row("b", 10.0, torch=5.0), row("c", 8.0),
                              row("a", 5.0, 2, torch=20.0), row("a", 5.0, variant="frozen", ncnn=2.0)])
    one, two, means, behind = parsed_tables(text)
    assert [(line["problem"], line["x torch"], line["x jax"], line["x ncnn"], line["best peer"], line["best us"],
             line["x best"]) for line in one] == [
        ("a", "2.00", "4.00", "", "torch layer", "20.00", "2.00"), ("b", "0.50", "", "", "torch layer", "5.00", "0.50"),
        ("c", "", "", "", "", "", ""), ("a", "", "", "0.40*", "ncnn layer*", "2.00", "0.40")]
    assert two[0]["x 1 thread"] == "2.00"
    assert [(line["variant"], line["threads"], line["rows"], line["% limit"], line["x torch"], line["x jax"],
             line["x best"], line["least x best"], line["best ahead"]) for line in means] == [
        ("channels_last", "1", "3", "50.0", "1.00", "4.00", "1.00", "0.50", "1"),
        ("channels_last", "2", "1", "50.0", "4.00", "", "4.00", "4.00", "0"),
        ("frozen", "1", "1", "50.0", "", "", "0.40", "0.40", "1")]
    assert [(line["problem"], line["variant"], line["x best"]) for line in behind] == [
        ("a", "frozen", "0.40"), ("b", "channels_last", "0.50")]
    assert "ahead in 2 of 5 rows" in text


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_plot(suffix, tmp_path):
    pytest.importorskip("matplotlib")
    target = tmp_path / f"rooflines.{suffix}"
    rows = [row("a", 10.0, torch=20.0, jax=40.0), row("b", 10.0, variant="frozen", ncnn=5.0), row("a", 5.0, 2)]
    plot.save(rows, [limits_of(1), limits_of(2)], target)
    assert target.stat().st_size > 1000


def test_growth(monkeypatch):
    series = (growth.Series("conv", "N", "{},1,4,4,1,1,1,0,1", (1, 2)),
              growth.Series("rnn", "threads", "LSTM 2,1,2,2", (1, 2)))
    monkeypatch.setattr(growth, "SERIES", series)
    plan = growth.plan()
    assert {threads: [case.problem for case in cases] for threads, cases in plan.items()} == {
        1: ["1,1,4,4,1,1,1,0,1", "2,1,4,4,1,1,1,0,1", "LSTM 2,1,2,2"], 2: ["LSTM 2,1,2,2"]}
    times = iter([10.0, 15.0, 30.0, 12.0])
    rows = [{"operator": case.operator, "pass": case.pass_, "problem": case.problem, "dtype": case.dtype,
             "threads": threads, "us": next(times)} for threads, cases in plan.items() for case in cases]
    (lines,) = parsed_tables(growth.report(rows))
    assert [(line["doubled"], line["value"], line["us"], line["x time"], line["x multiply-adds"])
            for line in lines] == [
        ("N", "1", "10.00", "", ""), ("N", "2", "15.00", "1.50", "2.00"), ("threads", "1", "30.00", "", ""),
        ("threads", "2", "12.00", "0.40", "0.50")]


def test_growth_doubles():
    for series in growth.SERIES:
        assert all(after == 2 * before for before, after in itertools.pairwise(series.values))
        assert all(case.problem == str(problems.parse(case.operator, case.problem)) for _, case in series.points())


def test_growth_runs(monkeypatch, capsys):
    monkeypatch.setattr(growth, "SERIES", (growth.Series("conv", "N", "{},1,4,4,1,1,1,0,1", (1, 2)),
                                           growth.Series("rnn", "B", "GRU 2,{},2,2", (1, 2))))
    assert main(["growth", "--seconds", "0.01", "--rounds", "1"]) == 0
    (lines,) = parsed_tables(capsys.readouterr().out)
    assert [line["set"] for line in lines] == ["conv", "conv", "rnn", "rnn"]


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


def test_compare_runs(tmp_path):
    target = tmp_path / "figures.json"
    output = run("compare", "conv", "conv-backward", "--only", SMALLEST, "--threads", "1", "--dtype", "float32",
                 "--peers", "none", "--json", str(target))
    forward, backward, means = parsed_tables(output)
    figures = json.loads(target.read_text())
    assert figures["machine"] in output
    assert [line["variant"] for line in forward] == ["channels_last", "channels_first", "frozen"]
    assert [line["variant"] for line in backward] == ["channels_last", "channels_first"]
    assert len(means) == 5
    for line, written in zip(forward + backward, figures["rows"], strict=True):
        assert line["problem"] == written["problem"] == SMALLEST
        assert line["variant"] == written["variant"]
        assert line["limit"] in ("fma", "DRAM", *figures["limits"][0]["caches"])
        assert 0 < float(line["us"]) <= float(line["median"])
        flops = problems.parse("conv", SMALLEST).flops(written["pass"])
        assert written["gflops"] == pytest.approx(flops / written["us"] / 1e3)
        assert written["percent"] == pytest.approx(100 * written["limit_us"] / written["us"])
        assert float(line["GFLOP/s"]) == pytest.approx(written["gflops"], abs=0.051)


def test_compare_runs_with_recurrent_problems():
    output = run("compare", "rnn", "rnn-train", "step", "--problem", "GRU 3,2,4,5", "--problem", "lstm 1,1,4,4",
                 "--problem", "rnn 2,2,2,2", "--problem", "1,1,4,4,1,3,1,0,1", "--only", "4", "--variant",
                 "layer,frozen", "--threads", "1", "--dtype", "float64", "--peers", "none")
    inference, training, step, means = parsed_tables(output)
    both = ["GRU 3,2,4,5", "LSTM 1,1,4,4"]
    assert [(line["problem"], line["variant"]) for line in inference] == [
        (problem, form) for problem in both for form in ("layer", "frozen")]
    assert [(line["problem"], line["variant"]) for line in training] == [(problem, "layer") for problem in both]
    assert [line["problem"] for line in step] == 2 * both[1:]
    assert [(line["pass"], line["rows"]) for line in means] == [
        ("rnn inference", "2"), ("rnn inference", "2"), ("rnn training", "2"), ("rnn step", "1"), ("rnn step", "1")]
    assert all(float(line["us"]) > 0 and line["limit"] in ("fma", "L1") for line in inference + training + step)


def test_a_run_without_rows_fails():
    result = subprocess.run([sys.executable, "-m", "benchmarks", "compare", "rnn-train", "--variant", "frozen",
                             "--problem", "RNN 1,1,2,2", "--threads", "1", "--peers", "none", "--seconds", "0.01"],
                            cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 1
    assert result.stderr.endswith("nothing of ours was measured\n")


def test_footprint_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(footprint, "IMPORTS", 1)
    wheel = tmp_path / "convrnn.whl"
    wheel.write_bytes(bytes(2**20))
    assert main(["footprint", "--wheel", str(wheel), "--seconds", "0.01", "--rounds", "1"]) == 0
    figures, calls = parsed_tables(capsys.readouterr().out)
    found = {line["what"]: line["figure"] for line in figures}
    assert found["the wheel"] == "1"
    assert float(found["import, beyond NumPy's"]) > 0
    assert any("1000 random shapes" in what for what in found) is footprint.STATUS.exists()
    assert sum("of 100000" in what for what in found) == 2
    assert [line["pass"] for line in calls] == 3 * ["forward"] + 3 * ["backward"]
    assert all(float(line["core us"]) > 0 for line in calls)


def test_default_cases():
    parsed = parse_arguments(["compare"])
    expected = [measure.Case(*problems.SETS[name][:2], line, dtype) for name in problems.USUAL_SETS
                for dtype in problems.DTYPES for line in problems.SETS[name].lines]
    assert parsed.plan == dict.fromkeys(parsed.threads, expected)
    assert parsed.peers == OTHERS
    assert {"convrnn"} & set(OTHERS) == set()


def test_problems_are_chosen():
    plan = parse_arguments(["compare", "step", "--dtype", "float32", "--only", ",32", "--threads", "1"]).plan
    assert [case.problem for case in plan[1]] == [f"{cell} 1,1,32,32" for cell in problems.GATES]


@pytest.mark.parametrize("arguments", [
    ["conv", "--threads", "0"], ["conv", "--only", "no such problem"], ["conv", "--problem", "1,2"],
    ["conv", "--problem", "LSTM 2,1,3,3"], ["conv", "--peers", "numpy"], ["conv", "--seconds", "0"],
    ["conv", "--variant", "sideways"], ["step", "--problem", "LSTM 2,1,3,3"], ["step", "--problem", "CNN 1,1,3,3"],
    ["gru"]])
def test_wrong_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_arguments(["compare", *arguments])
    assert stopped.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_what_cannot_be_done_is_said_first(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    for arguments in (["compare", "--plot", "rooflines.png"], ["footprint", "--wheel", "/no/such.whl"], ["sideways"]):
        with pytest.raises(SystemExit) as stopped:
            parse_arguments(arguments)
        assert stopped.value.code == 2
        assert "usage" in capsys.readouterr().err
