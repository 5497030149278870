"""``python -m convrnn``: the demonstrations, and what this installation runs on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from . import show_config
from .demo import PARTS
from .demo.extras import MissingPackage


def _integer(low: int) -> Callable[[str], int]:
    """The type of an option that is an int of at least low."""
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"must be an int of at least {low}, got {text!r}")
        return int(text)

    return parse


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line as a namespace; usage errors end the process with status 2."""
    parser = argparse.ArgumentParser(prog="python -m convrnn", description="Convolution and recurrence for NumPy.")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="train networks on real data and draw what they learned")
    demo.add_argument("parts", nargs="*", metavar="part", help=f"which: {', '.join(PARTS)} (default: all)")
    demo.add_argument("--out", type=Path, default=Path("convrnn-demo"), metavar="DIR", help="folder for pictures")
    demo.add_argument("--epochs", type=_integer(1), metavar="N", help="how long to train (default: each part's own)")
    demo.add_argument("--seed", type=_integer(0), default=0, metavar="N", help="of all random numbers (default: 0)")
    commands.add_parser("info", help="print version, instruction set, threads and NumPy's version")
    parsed = parser.parse_args(arguments)
    if parsed.command == "demo":
        unknown = [part for part in parsed.parts if part not in PARTS]
        if unknown:
            demo.error(f"unknown part {', '.join(unknown)}; there is {', '.join(PARTS)}")
    return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the status to exit with."""
    parsed = parse_arguments(arguments)
    if parsed.command == "info":
        show_config()
        return 0
    try:
        for part in parsed.parts or PARTS:
            PARTS[part](parsed.out, epochs=parsed.epochs, seed=parsed.seed)
    except MissingPackage as missing:
        print(missing, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
