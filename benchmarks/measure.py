"""Timing: repetitions of one call in its process, and rounds over the libraries, so that all see the same weather."""

import gc
import itertools
import math
import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from . import problems
from .machine import Limits
from .protocol import Process, ProcessError

OURS = "convrnn"  #: the library whose times are rows, and that the others are held against
REPETITION_SECONDS = 50e-6  #: short calls are timed in groups this long, beside which reading the clock is nothing
LEAST_CALLS = 7  #: in all rounds, however long a call takes
SETTLE_SECONDS = 0.03  #: before a turn: idle threads of the last library's go on spinning, some for 20 ms


def repetitions(call, seconds, least):
    """Seconds per call of each repetition: for `seconds`, and at least `least` of them. Garbage is not collected."""
    group = 1
    while _seconds(call, group) < REPETITION_SECONDS:
        group *= 2
    samples = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        end = time.perf_counter() + seconds
        while len(samples) < least or time.perf_counter() < end:
            samples.append(_seconds(call, group) / group)
    finally:
        if collecting:
            gc.enable()
    return samples


def _seconds(call, times):
    start = time.perf_counter()
    for _ in itertools.repeat(None, times):
        call()
    return time.perf_counter() - start


def signature(results):
    """[projection on random signs, norm] of each array: enough to tell whether two libraries computed the same."""
    rng = np.random.default_rng(1)
    doubles = [result.astype(np.float64) for result in results]
    return [[float(np.vdot(array, rng.choice((-1.0, 1.0), array.shape))), float(np.linalg.norm(array))]
            for array in doubles]


def agree(one, other, dtype):
    """Whether two signatures are the same, with ample room for the order of sums."""
    tolerance = {"float32": 1e-3, "float64": 1e-9}[dtype]
    one, other = np.array(one), np.array(other)
    return one.shape == other.shape and bool((np.abs(one - other) <= tolerance * other[:, 1:]).all())


@dataclass(frozen=True)
class Case:
    """What every library is asked to do."""

    operator: str
    pass_: str
    problem: str
    dtype: str

    def __str__(self):
        return f"{self.operator} {self.pass_} {self.dtype} {self.problem}"


class Turns(NamedTuple):
    """What a variant's turns came to."""

    prepared: bool
    samples: list  #: seconds of a call


@dataclass(frozen=True)
class Options:
    """How to measure."""

    seconds: float  #: of a turn
    rounds: int
    variants: tuple  #: those of ours to show; None: all


class Libraries:
    """The processes of ours, of its peers and of the machine's limits, all with the same number of threads."""

    def __init__(self, threads, peers, options):
        self.threads = threads
        self.options = options
        self.peers = {}
        self._stack = ExitStack()
        with ExitStack() as stack:
            self.ours = stack.enter_context(Process(f"benchmarks.peers.{OURS}", threads))
            self._machine = stack.enter_context(Process("benchmarks.machine", threads))
            for peer in peers:
                try:
                    self.peers[peer] = stack.enter_context(Process(f"benchmarks.peers.{peer}", threads))
                except ProcessError as missing:
                    print(f"without {missing}", file=sys.stderr)
            self._stack = stack.pop_all()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stack.close()

    def versions(self):
        """Of the libraries, by name."""
        return {process.name: process.ask("version") for process in (self.ours, *self.peers.values())}

    def limits(self):
        """The machine's, now."""
        return Limits(**self._machine.ask("limits", seconds=self.options.seconds))

    def times(self, case):
        """{library: {variant: Turns}}, over interleaved rounds."""
        contenders = self._contenders(case)
        times = {}
        for _ in range(self.options.rounds):
            for process, variant, prepared in contenders:
                time.sleep(SETTLE_SECONDS)
                turn = process.ask("time", variant=variant, seconds=self.options.seconds,
                                   least=math.ceil(LEAST_CALLS / self.options.rounds))
                times.setdefault(process.name, {}).setdefault(variant, Turns(prepared, [])).samples.extend(turn)
        return times

    def _contenders(self, case):
        """(process, variant, prepared) of those that take part: they can do the case, and compute what ours does."""
        contenders, first = [], None
        for process in (self.ours, *self.peers.values()):
            try:
                variants = process.ask("prepare", operator=case.operator, pass_=case.pass_, problem=case.problem,
                                       dtype=case.dtype)
            except ProcessError as failure:
                print(f"{case}: {failure}", file=sys.stderr)
                continue
            for variant, found in variants.items():
                first = found["signature"] if first is None else first
                if not agree(found["signature"], first, case.dtype):
                    print(f"{case}: {process.name} {variant} computes something else; left out", file=sys.stderr)
                elif process is not self.ours or self.options.variants is None or variant in self.options.variants:
                    contenders.append((process, variant, found["prepared"]))
        return contenders


def rows(case, times, limits):
    """A dict of figures for every variant of ours, with the best of what each peer has of its kind.

    A plain variant is compared with plain ones; one that is prepared also with what peers have prepared.
    """
    problem = problems.parse(case.operator, case.problem)
    flops, traffic = problem.flops(case.pass_), problem.traffic(case.pass_, case.dtype)
    floor, bound = limits.floor(flops, traffic, case.dtype)
    for variant, (prepared, samples) in times.get(OURS, {}).items():
        seconds = min(samples)
        peers = {name: best | {"ratio": best["us"] / (seconds * 1e6)} for name, variants in times.items()
                 if name != OURS and (best := _best(variants, prepared))}
        yield {"operator": case.operator, "pass": case.pass_, "dtype": case.dtype, "threads": limits.threads,
               "problem": case.problem, "variant": variant, "prepared": prepared, **_microseconds(samples),
               "gflops": flops / seconds / 1e9, "intensity": flops / traffic.moved, "limit_us": floor * 1e6,
               "limited_by": bound, "percent": 100 * floor / seconds, "peers": peers,
               "best": min(peers, key=lambda name, peers=peers: peers[name]["us"], default=None)}


def _best(variants, prepared):
    """The figures of the fastest variant, of the prepared ones too if they may take part; None if there is none."""
    admitted = {name: turns for name, turns in variants.items() if prepared or not turns.prepared}
    if not admitted:
        return None
    name = min(admitted, key=lambda variant: min(admitted[variant].samples))
    return {"variant": name, "prepared": admitted[name].prepared, **_microseconds(admitted[name].samples)}


def _microseconds(samples):
    return {"us": min(samples) * 1e6, "median_us": statistics.median(samples) * 1e6}


def run(cases, threads, peers, options):
    """(rows, limits, versions) of all cases with so many threads; one line of progress for each case."""
    measured = []
    with Libraries(threads, peers, options) as libraries:
        versions = libraries.versions()
        limits = libraries.limits()
        for case in cases:
            times = libraries.times(case)
            measured.append((case, times))
            progress = ", ".join(f"{name} {variant} {min(turns.samples) * 1e6:.1f}"
                                 for name, variants in times.items() for variant, turns in variants.items())
            print(f"{case}, threads {threads}: {progress} us", file=sys.stderr)
        limits = limits.best(libraries.limits())  # again: the clock may have been lower before
    return [row for case, times in measured for row in rows(case, times, limits)], limits, versions


def run_all(plan, peers, options):
    """(rows, [limits], versions) of a plan: {number of threads: cases}."""
    rows, limits, versions = [], [], {}
    for threads, cases in plan.items():
        more, limit, versions = run(cases, threads, peers, options)
        rows += more
        limits.append(limit)
    return rows, limits, versions
