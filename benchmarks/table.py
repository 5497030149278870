"""Figures as Markdown tables that read as plain text: a header that names the machine, a table for every pass, dtype
and number of threads, and geometric means."""

import math


def header(machine, versions, limits, options):
    """The lines above the tables."""
    lines = [f"machine     {machine}"]
    lines += [f"{name:<11} {version}" for name, version in versions.items()]
    lines += [f"times       minimum and median of {options.rounds} interleaved rounds of {options.seconds:g} s"]
    lines += [f"limits      {limits[0].method}"]
    for limit in limits:
        fma = ", ".join(f"{rate:.1f} {dtype}" for dtype, rate in limit.fma.items())
        read = ", ".join(f"{level} {rate:.0f}" for level, rate in limit.bandwidth.items())
        lines += [f"  {_threads(limit.threads):<9} multiply-adds: {fma} GFLOP/s; reads: {read} GB/s"]
    return "\n".join(lines)


def comparisons(rows):
    """A table for every pass, dtype and number of threads, and the geometric means of them all."""
    alone = {_key(row): row["us"] for row in rows if row["threads"] == 1}
    parts = []
    for (operator, pass_, dtype, threads), group in _grouped(rows, "operator", "pass", "dtype", "threads").items():
        parts += [f"## {operator} {pass_}, {dtype}, {_threads(threads)}", _table(
            [_cells(row, alone.get(_key(row)) if threads > 1 else None) for row in group])]
    return "\n\n".join([*parts, "## Geometric means", _table(_means(rows))])


def call_table(rows):
    """What a call costs, and how much of that is spent in the core."""
    cells = []
    for (problem, pass_, dtype, threads), group in _grouped(rows, "problem", "pass", "dtype", "threads").items():
        variants = {row["variant"]: row for row in group}
        whole, core = variants["whole"]["us"], variants["core"]["us"]
        cells += [{"problem": problem, "pass": pass_, "dtype": dtype, "threads": str(threads),
                   "us": f"{whole:.2f}", "median": f"{variants['whole']['median_us']:.2f}",
                   "core us": f"{core:.2f}", "Python us": f"{whole - core:.2f}"}]
    return _table(cells)


def geometric_mean(values):
    """
    >>> geometric_mean([1.0, 4.0])
    2.0
    """
    values = list(values)
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def _threads(count):
    return "1 thread" if count == 1 else f"{count} threads"


def _key(row):
    """What a row is, whatever the number of threads."""
    return tuple(row[name] for name in ("operator", "pass", "dtype", "problem", "variant"))


def _grouped(rows, *names):
    """{values of names: rows}, in the order they come."""
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def _cells(row, alone):
    """A row as {heading: text}; `alone` is its time with one thread."""
    cells = {"problem": row["problem"], "variant": row["variant"], "us": _time(row["us"]),
             "median": _time(row["median_us"]), "GFLOP/s": f"{row['gflops']:.1f}", "% limit": f"{row['percent']:.1f}",
             "limit": row["limited_by"]}
    if alone is not None:
        cells["x 1 thread"] = f"{alone / row['us']:.2f}"
    for name, peer in row["peers"].items():
        cells |= {f"{name} us": _time(peer["us"]), f"x {name}": f"{peer['ratio']:.2f}"}
    return cells


def _means(rows):
    """Of the share of the limit, and of the ratio to each peer with its least and the rows where the peer is ahead."""
    for (pass_, dtype, threads, variant), group in _grouped(rows, "pass", "dtype", "threads", "variant").items():
        cells = {"pass": pass_, "dtype": dtype, "threads": str(threads), "variant": variant, "rows": str(len(group)),
                 "% limit": f"{geometric_mean(row['percent'] for row in group):.1f}"}
        for name in dict.fromkeys(name for row in rows for name in row["peers"]):
            ratios = [row["peers"][name]["ratio"] for row in group if name in row["peers"]]
            if ratios:
                cells |= {f"x {name}": f"{geometric_mean(ratios):.2f}", f"least x {name}": f"{min(ratios):.2f}",
                          f"{name} ahead": str(sum(ratio < 1 for ratio in ratios))}
        yield cells


def _time(microseconds):
    return f"{microseconds:.2f}" if microseconds < 100 else f"{microseconds:.0f}"


def _table(rows):
    """Dicts from heading to text as a Markdown table, the first column to the left; a heading that only some have is
    empty in the others."""
    rows = list(rows)
    headings = list(dict.fromkeys(heading for row in rows for heading in row))
    lines = [headings, *([row.get(heading, "") for heading in headings] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]

    def text(line):
        padded = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        return "| " + " | ".join([line[0].ljust(widths[0]), *padded[1:]]) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([text(headings), rule, *map(text, lines[1:])])
