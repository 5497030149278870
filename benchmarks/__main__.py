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


def _shared():
    """The options of every command; a new parser each time, because a command's defaults are kept in its options."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--dtype", type=_listed(problems.DTYPES), metavar="LIST", help=", ".join(problems.DTYPES))
    shared.add_argument("--pass", dest="passes", type=_listed(problems.PASSES), metavar="LIST",
                        help=", ".join(problems.PASSES))
    shared.add_argument("--only", default="", metavar="SUBSTRING", help="only problems whose line has this in it")
    shared.add_argument("--problem", action="append", metavar="LINE", help="this problem; may be given repeatedly")
    shared.add_argument("--seconds", type=_seconds, default=0.2, help="of each turn (default: 0.2)")
    shared.add_argument("--rounds", type=_positive, default=3, help="turns of each library (default: 3)")
    shared.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return shared


def parse_arguments(arguments=None):
    """The command line as a namespace; usage errors end the process with status 2."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Times beside what the machine allows.")
    commands = parser.add_subparsers(dest="operator", required=True)
    conv = commands.add_parser("conv", parents=[_shared()], help="two-dimensional convolution")
    conv.add_argument("--threads", type=_threads, default=(1, 2) if len(processors()) > 1 else (1,), metavar="LIST",
                      help="numbers of threads (default: 1,2)")
    conv.add_argument("--layout", type=_listed(problems.LAYOUTS), default=problems.LAYOUTS, metavar="LIST",
                      help=", ".join(problems.LAYOUTS))
    conv.add_argument("--peers", type=_peers, default=OTHERS, metavar="LIST",
                      help=f"libraries beside ours: none, or of {', '.join(OTHERS)} (default: the installed ones)")
    conv.set_defaults(lines=problems.CONV, dtype=problems.DTYPES, passes=problems.PASSES[:3])
    call = commands.add_parser("call", parents=[_shared()], help="what a call of conv2d costs beside its arithmetic")
    call.set_defaults(lines=problems.CALL, dtype=("float32",), passes=("forward", "backward"), threads=(1,),
                      layout=None, peers=())

    parsed = parser.parse_args(arguments)
    try:
        given = [str(problems.parse(parsed.operator, line)) for line in parsed.problem or parsed.lines]
    except ValueError as error:
        parser.error(str(error))
    parsed.lines = [line for line in given if parsed.only in line]
    if not parsed.lines:
        parser.error(f"no problem has {parsed.only!r} in it")
    return parsed


def main(arguments=None):
    """Runs one command and returns the status to exit with."""
    parsed = parse_arguments(arguments)
    options = measure.Options(parsed.seconds, parsed.rounds, parsed.layout)
    cases = [measure.Case(parsed.operator, pass_, line, dtype)
             for pass_ in parsed.passes for dtype in parsed.dtype for line in parsed.lines]
    rows, limits, versions = [], [], {}
    try:
        for threads in parsed.threads:
            more, limit, versions = measure.run(cases, threads, parsed.peers, options)
            rows += more
            limits.append(limit)
    except ProcessError as failure:
        print(failure, file=sys.stderr)
        return 1
    described = machine.describe()
    if parsed.json:
        parsed.json.write_text(json.dumps({"machine": described, "libraries": versions,
                                           "limits": [asdict(limit) for limit in limits], "rows": rows}, indent=1))
    print(table.header(described, versions, limits, options), end="\n\n")
    print({"conv": table.conv_tables, "call": table.call_table}[parsed.operator](rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
