"""Whether cost grows as it should: times while one size is doubled, beside what the multiply-adds do."""

from typing import NamedTuple

from . import problems, table
from .measure import Case
from .protocol import processors


class Series(NamedTuple):
    """A problem with one size left open, and what is put there."""

    name: str  #: of the set
    size: str  #: that is doubled, in the letters of the legend, or "threads"
    line: str
    values: tuple

    def points(self):
        """(number of threads, case) of each value."""
        operator, pass_, _ = problems.SETS[self.name]
        return [(value if self.size == "threads" else 1, Case(operator, pass_, self.line.format(value), "float32"))
                for value in self.values]


#: 1, 2, 4 and so on, up to the processors there are.
THREADS = tuple(2**power for power in range(len(processors()).bit_length()))

#: Problems between the first cache and the last, where arithmetic is the limit and no call's overhead shows.
SERIES = (
    *(Series(name, *series) for name in ("conv", "conv-backward") for series in (
        ("N", "{},32,28,28,32,3,1,1,1", (1, 2, 4, 8, 16)),
        ("C", "1,{},28,28,32,3,1,1,1", (32, 64, 128, 256)),
        ("K", "1,32,28,28,{},3,1,1,1", (32, 64, 128, 256)),
        ("H, W", "1,32,{0},{0},32,3,1,1,1", (14, 28, 56, 112)))),
    *(Series(name, *series) for name in ("rnn", "rnn-train") for series in (
        ("T", "LSTM {},16,64,128", (16, 32, 64, 128)),
        ("B", "LSTM 16,{},64,128", (16, 32, 64, 128)),
        ("I, H", "LSTM 16,16,{0},{0}", (64, 128, 256, 512)))),
    *(Series(name, "threads", "8,64,56,56,64,3,1,1,1", THREADS) for name in ("conv", "conv-backward")),
    *(Series(name, "threads", "LSTM 50,32,128,512", THREADS) for name in ("rnn", "rnn-train")),
)

VARIANTS = ("channels_last", "array")  #: of ours: plain calls


def plan():
    """{number of threads: cases}."""
    cases = {}
    for series in SERIES:
        for threads, case in series.points():
            cases.setdefault(threads, {})[case] = None  # an ordered set: series may share a problem
    return {threads: list(chosen) for threads, chosen in cases.items()}


def report(rows):
    """One table: a line for each value, with the factors since the one before.

    The factor that theory has is that of the multiply-adds of each thread.
    """
    measured = {(row["threads"], Case(row["operator"], row["pass"], row["problem"], row["dtype"])): row for row in rows}
    lines = []
    for series in SERIES:
        before = None
        for value, (threads, case) in zip(series.values, series.points(), strict=True):
            time = measured[threads, case]["us"]
            work = problems.parse(case.operator, case.problem).flops(case.pass_) / threads
            cells = {"set": series.name, "doubled": series.size, "value": str(value), "problem": case.problem,
                     "us": table.time_text(time)}
            if before:
                cells |= {"x time": f"{time / before[0]:.2f}", "x multiply-adds": f"{work / before[1]:.2f}"}
            lines.append(cells)
            before = time, work
    return table.markdown(lines)
