"""The command line of the benchmarks; README.md says what the tables mean."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from . import machine, measure, problems, table
from .peers import OTHERS
from .protocol import ProcessError, processors


def _listed(allowed):
    """A type of argument: a comma-separated list of some of `allowed`."""
    def parse(text):
        items = tuple(text.split(","))
        if unknown := [item for item in items if item not in allowed]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is not one of {', '.join(allowed)}")
        return items
    return parse


def _peers(text):
    return () if text == "none" else _listed(OTHERS)(text)


def _threads(text):
    numbers = tuple(map(int, text.split(",")))
    if not all(1 <= number <= len(processors()) for number in numbers):
        raise argparse.ArgumentTypeError(f"this process may run on {len(processors())} processors")
    return numbers


def _seconds(text):
    if not 0 < float(text) < 3600:
        raise argparse.ArgumentTypeError("must be more than 0 and less than an hour")
    return float(text)


def _positive(text):
    if int(text) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def _cells(text):
    return _listed(tuple(problems.GATES))(text.upper())


def _shared(operator):
    """The options of every command; a new parser each time, because a command's defaults are kept in its options."""
    shared = argparse.ArgumentParser(add_help=False)
    passes = tuple(problems.LINES[operator])
    shared.add_argument("--dtype", type=_listed(problems.DTYPES), metavar="LIST", help=", ".join(problems.DTYPES))
    shared.add_argument("--pass", dest="passes", type=_listed(passes), metavar="LIST", help=", ".join(passes))
    shared.add_argument("--only", default="", metavar="SUBSTRING", help="only problems whose line has this in it")
    shared.add_argument("--problem", dest="lines", action="append", metavar="LINE",
                        help="this problem; may be given repeatedly")
    shared.add_argument("--seconds", type=_seconds, default=0.2, help="of each turn (default: 0.2)")
    shared.add_argument("--rounds", type=_positive, default=3, help="turns of each library (default: 3)")
    shared.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return shared


def _compared(operator):
    """Those of the commands that compare libraries."""
    compared = _shared(operator)
    compared.add_argument("--threads", type=_threads, default=(1, 2) if len(processors()) > 1 else (1,), metavar="LIST",
                          help="numbers of threads (default: 1,2)")
    compared.add_argument("--peers", type=_peers, default=OTHERS, metavar="LIST",
                          help=f"libraries beside ours: none, or of {', '.join(OTHERS)} (default: the installed ones)")
    compared.set_defaults(dtype=problems.DTYPES)
    return compared


def parse_arguments(arguments=None):
    """The command line as a namespace, with the cases to measure; usage errors end the process with status 2."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Times beside what the machine allows.")
    commands = parser.add_subparsers(dest="operator", required=True)
    conv = commands.add_parser("conv", parents=[_compared("conv")], help="two-dimensional convolution")
    conv.add_argument("--layout", dest="variants", type=_listed(problems.LAYOUTS), default=problems.LAYOUTS,
                      metavar="LIST", help=", ".join(problems.LAYOUTS))
    conv.set_defaults(passes=("forward", "backward_data", "backward_weights"))
    rnn = commands.add_parser("rnn", parents=[_compared("rnn")], help="RNN, LSTM and GRU layers")
    rnn.add_argument("--form", dest="variants", type=_listed(problems.FORMS), default=problems.FORMS, metavar="LIST",
                     help=f"of ours: {', '.join(problems.FORMS)}")
    rnn.add_argument("--cell", type=_cells, default=tuple(problems.GATES), metavar="LIST",
                     help=", ".join(problems.GATES))
    rnn.set_defaults(passes=tuple(problems.LINES["rnn"]))
    call = commands.add_parser("call", parents=[_shared("call")],
                               help="what a call of conv2d costs beside its arithmetic")
    call.set_defaults(dtype=("float32",), passes=("forward", "backward"), threads=(1,), variants=None, peers=())

    parsed = parser.parse_args(arguments)
    try:
        parsed.cases = list(_cases(parsed))
    except ValueError as error:
        parser.error(str(error))
    if not parsed.cases:
        parser.error("no problem is left to measure")
    return parsed


def _cases(parsed):
    """Every pass and dtype of every problem that is asked for and has the pass."""
    for pass_, lines in problems.LINES[parsed.operator].items():
        chosen = [problems.parse(parsed.operator, line) for line in parsed.lines or lines]
        chosen = [problem for problem in chosen if pass_ in parsed.passes and pass_ in problem.passes
                  and parsed.only in str(problem) and ("cell" not in parsed or problem.cell in parsed.cell)]
        for dtype in parsed.dtype:
            yield from (measure.Case(parsed.operator, pass_, str(problem), dtype) for problem in chosen)


def main(arguments=None):
    """Runs one command and returns the status to exit with."""
    parsed = parse_arguments(arguments)
    options = measure.Options(parsed.seconds, parsed.rounds, parsed.variants)
    rows, limits, versions = [], [], {}
    try:
        for threads in parsed.threads:
            more, limit, versions = measure.run(parsed.cases, threads, parsed.peers, options)
            rows += more
            limits.append(limit)
    except ProcessError as failure:
        print(failure, file=sys.stderr)
        return 1
    if not rows:
        print("nothing of ours was measured", file=sys.stderr)
        return 1
    described = machine.describe()
    if parsed.json:
        parsed.json.write_text(json.dumps({"machine": described, "libraries": versions,
                                           "limits": [asdict(limit) for limit in limits], "rows": rows}, indent=1))
    print(table.header(described, versions, limits, options), end="\n\n")
    print(table.call_table(rows) if parsed.operator == "call" else table.comparisons(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
