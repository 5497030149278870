"""The command line of the benchmarks; README.md says what the tables mean."""

import argparse
import importlib.util
import json
import sys
from dataclasses import asdict
from pathlib import Path

from . import footprint, growth, machine, measure, plot, problems, table
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


def _set(text):
    if text not in problems.SETS:
        raise argparse.ArgumentTypeError(f"{text} is not one of {', '.join(problems.SETS)}")
    return text


def _plot(text):
    if importlib.util.find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError("needs matplotlib")  # said now, not after half an hour
    return Path(text)


def _wheel(text):
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"{text} is no file")
    return Path(text)


def _measured():
    """The options of every command."""
    measured = argparse.ArgumentParser(add_help=False)
    measured.add_argument("--seconds", type=_seconds, default=0.2, help="of each turn (default: 0.2)")
    measured.add_argument("--rounds", type=_positive, default=3, help="turns of each library (default: 3)")
    measured.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return measured


def parse_arguments(arguments=None):
    """The command line as a namespace, with the cases to measure; usage errors end the process with status 2."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Times beside what the machine allows.")
    commands = parser.add_subparsers(dest="command", required=True)
    compare = commands.add_parser("compare", parents=[_measured()], help="beside limits and libraries")
    compare.add_argument("sets", nargs="*", type=_set, default=problems.USUAL_SETS, metavar="SET",
                         help=f"{', '.join(problems.SETS)} (default: {', '.join(problems.USUAL_SETS)})")
    compare.add_argument("--peers", type=_peers, default=OTHERS, metavar="LIST",
                         help=f"libraries beside ours: none, or of {', '.join(OTHERS)} (default: the installed ones)")
    compare.add_argument("--threads", type=_threads, default=(1, 2) if len(processors()) > 1 else (1,), metavar="LIST",
                         help="numbers of threads (default: 1,2)")
    compare.add_argument("--dtype", type=_listed(problems.DTYPES), default=problems.DTYPES, metavar="LIST",
                         help=", ".join(problems.DTYPES))
    forms = tuple(dict.fromkeys(form for forms in problems.FORMS.values() for form in forms))
    compare.add_argument("--variant", dest="variants", type=_listed(forms), default=forms, metavar="LIST",
                         help=f"of ours: {', '.join(forms)}")
    compare.add_argument("--only", default="", metavar="SUBSTRING", help="only problems whose line has this in it")
    compare.add_argument("--problem", dest="lines", action="append", metavar="LINE",
                         help="this problem, in the sets that can have it; may be given repeatedly")
    compare.add_argument("--plot", type=_plot, metavar="FILE", help="draw rooflines there (needs matplotlib)")
    grow = commands.add_parser("growth", parents=[_measured()], help="what doubling a size costs")
    grow.set_defaults(peers=(), variants=growth.VARIANTS, plan=growth.plan())
    weigh = commands.add_parser("footprint", parents=[_measured()],
                                help="import, size, memory, idle threads, subnormal numbers, calls")
    weigh.add_argument("--wheel", type=_wheel, metavar="FILE", help="tell its size too")
    weigh.set_defaults(peers=(), variants=None, plan={1: footprint.CALLS})

    parsed = parser.parse_args(arguments)
    if parsed.command == "compare":
        try:
            cases = list(_cases(parsed))
        except ValueError as error:
            parser.error(str(error))
        if not cases:
            parser.error("no problem is left to measure")
        parsed.plan = dict.fromkeys(parsed.threads, cases)
    return parsed


def _cases(parsed):
    """Every problem of the sets, or of those asked for the ones that a set can have, in every dtype."""
    asked = [(operator, problems.parse(operator, line)) for line in parsed.lines or ()
             for operator in [problems.operator_of(line)]]
    for name in parsed.sets:
        case_set = problems.SETS[name]
        chosen = ([problem for operator, problem in asked if operator == case_set.operator] if parsed.lines else
                  [problems.parse(case_set.operator, line) for line in case_set.lines])
        for dtype in parsed.dtype:
            yield from (measure.Case(case_set.operator, case_set.pass_, str(problem), dtype) for problem in chosen
                        if case_set.pass_ in problem.passes and parsed.only in str(problem))


def main(arguments=None):
    """Runs one command and returns the status to exit with."""
    parsed = parse_arguments(arguments)
    options = measure.Options(parsed.seconds, parsed.rounds, parsed.variants)
    figures = {}
    try:
        if parsed.command == "footprint":
            figures["footprint"] = footprint.figures(parsed.wheel, parsed.seconds)
        rows, limits, versions = measure.run_all(parsed.plan, parsed.peers, options)
    except ProcessError as failure:
        print(failure, file=sys.stderr)
        return 1
    if not rows:
        print("nothing of ours was measured", file=sys.stderr)
        return 1
    described = machine.describe()
    figures |= {"machine": described, "libraries": versions, "limits": [asdict(limit) for limit in limits],
                "rows": rows}
    if parsed.json:
        parsed.json.write_text(json.dumps(figures, indent=1))
    print(table.header(described, versions, limits, options), end="\n\n")
    if parsed.command == "compare":
        print(table.comparisons(rows))
        if parsed.plot:
            plot.save(rows, limits, parsed.plot)
    elif parsed.command == "growth":
        print(growth.report(rows))
    else:
        print(footprint.report(figures["footprint"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
