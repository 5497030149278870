"""Timing: repetitions of one call in its process, and rounds over the libraries, so that all see the same weather."""

import gc
import itertools
import math
import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from . import problems
from .machine import Limits
from .protocol import Process, ProcessError

OURS = "convrnn"  #: the library whose times are rows, and that the others are held against
REPETITION_SECONDS = 50e-6  #: short calls are timed in groups this long, beside which reading the clock is nothing
LEAST_CALLS = 7  #: in all rounds, however long a call takes
SETTLE_SECONDS = 0.02  #: before a turn: the threads of the library that was last go on spinning for milliseconds


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
        """{library: {variant: samples}}, over interleaved rounds."""
        turns = self._turns(case)
        samples = {}
        for _ in range(self.options.rounds):
            for process, variant in turns:
                time.sleep(SETTLE_SECONDS)
                turn = process.ask("time", variant=variant, seconds=self.options.seconds,
                                   least=math.ceil(LEAST_CALLS / self.options.rounds))
                samples.setdefault(process.name, {}).setdefault(variant, []).extend(turn)
        return samples

    def _turns(self, case):
        """Who takes part: the variants of all libraries that can do the case and compute what ours does."""
        turns, first = [], None
        for process in (self.ours, *self.peers.values()):
            try:
                prepared = process.ask("prepare", operator=case.operator, pass_=case.pass_, problem=case.problem,
                                       dtype=case.dtype)
            except ProcessError as failure:
                print(f"{case}: {failure}", file=sys.stderr)
                continue
            for variant, signature in prepared.items():
                first = signature if first is None else first
                if not agree(signature, first, case.dtype):
                    print(f"{case}: {process.name} {variant} computes something else; left out", file=sys.stderr)
                elif process is not self.ours or self.options.variants is None or variant in self.options.variants:
                    turns.append((process, variant))
        return turns


def rows(case, samples, limits):
    """A dict of figures for every variant of ours, with the better variant of each peer."""
    peers = {name: _best(variants) for name, variants in samples.items() if name != OURS}
    problem = problems.parse(case.operator, case.problem)
    flops = problem.flops(case.pass_)
    floor, bound = limits.floor(flops, problem.traffic(case.pass_, case.dtype), case.dtype)
    for variant, seconds in samples.get(OURS, {}).items():
        best = min(seconds)
        yield {"operator": case.operator, "pass": case.pass_, "dtype": case.dtype, "threads": limits.threads,
               "problem": case.problem, "variant": variant, **_microseconds(seconds), "gflops": flops / best / 1e9,
               "limit_us": floor * 1e6, "limited_by": bound, "percent": 100 * floor / best,
               "peers": {name: peer | {"ratio": peer["us"] / (best * 1e6)} for name, peer in peers.items()}}


def _best(variants):
    """The figures of the fastest variant."""
    name = min(variants, key=lambda variant: min(variants[variant]))
    return {"variant": name, **_microseconds(variants[name])}


def _microseconds(samples):
    return {"us": min(samples) * 1e6, "median_us": statistics.median(samples) * 1e6}


def run(cases, threads, peers, options):
    """(rows, limits, versions) of all cases with so many threads; one line of progress for each case."""
    measured = []
    with Libraries(threads, peers, options) as libraries:
        versions = libraries.versions()
        limits = libraries.limits()
        for case in cases:
            samples = libraries.times(case)
            measured.append((case, samples))
            times = ", ".join(f"{name} {variant} {min(seconds) * 1e6:.1f}" for name, variants in samples.items()
                              for variant, seconds in variants.items())
            print(f"{case}, threads {threads}: {times} us", file=sys.stderr)
        limits = limits.best(libraries.limits())  # again: the clock may have been lower before
    return [row for case, samples in measured for row in rows(case, samples, limits)], limits, versions
