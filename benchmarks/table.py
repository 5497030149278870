"""Figures as Markdown tables that read as plain text: a header that names the machine, a table for every pass, dtype
and number of threads, geometric means, and the rows in which a peer is faster."""

import math


def header(machine, versions, limits, options):
    """The lines above the tables."""
    lines = [f"machine     {machine}"]
    lines += [f"{name:<11} {version}" for name, version in versions.items()]
    lines += [f"times       minimum and median of {options.rounds} interleaved rounds of {options.seconds:g} s; "
              "*: weights or buffers were prepared"]
    lines += [f"limits      {limits[0].method}"]
    for limit in limits:
        fma = ", ".join(f"{rate:.1f} {dtype}" for dtype, rate in limit.fma.items())
        read = ", ".join(f"{level} {rate:.0f}" for level, rate in limit.bandwidth.items())
        lines += [f"  {threads_text(limit.threads):<9} multiply-adds: {fma} GFLOP/s; reads: {read} GB/s"]
    return "\n".join(lines)


def comparisons(rows):
    """A table for every pass, dtype and number of threads, the means of them all, and where the best peer is ahead."""
    alone = {_key(row): row["us"] for row in rows if row["threads"] == 1}
    parts = []
    for (operator, pass_, dtype, threads), group in grouped(rows, "operator", "pass", "dtype", "threads").items():
        peers = peers_of(group)
        parts += [f"## {operator} {pass_}, {dtype}, {threads_text(threads)}", markdown(
            [_cells(row, peers, alone.get(_key(row)) if threads > 1 else None) for row in group])]
    parts += ["## Geometric means", markdown(_means(rows))]
    if behind := sorted((row for row in rows if row["best"] and _best(row)["ratio"] < 1), key=lambda row:
                        _best(row)["ratio"]):
        parts += [f"## The best peer is ahead in {len(behind)} of {len(rows)} rows", markdown(map(_behind, behind))]
    return "\n\n".join(parts)


def call_table(rows):
    """What a call costs, and how much of that is spent in the core."""
    cells = []
    for (problem, pass_, dtype, threads), group in grouped(rows, "problem", "pass", "dtype", "threads").items():
        variants = {row["variant"]: row for row in group}
        whole, core = variants["whole"]["us"], variants["core"]["us"]
        cells += [{"problem": problem, "pass": pass_, "dtype": dtype, "threads": str(threads),
                   "us": f"{whole:.2f}", "median": f"{variants['whole']['median_us']:.2f}",
                   "core us": f"{core:.2f}", "Python us": f"{whole - core:.2f}"}]
    return markdown(cells)


def geometric_mean(values):
    """
    >>> geometric_mean([1.0, 4.0])
    2.0
    """
    values = list(values)
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def threads_text(count):
    """
    >>> threads_text(2)
    '2 threads'
    """
    return "1 thread" if count == 1 else f"{count} threads"


def _key(row):
    """What a row is, whatever the number of threads."""
    return tuple(row[name] for name in ("operator", "pass", "dtype", "problem", "variant"))


def grouped(rows, *names):
    """{values of names: rows}, in the order they come."""
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def peers_of(rows):
    """The names of the peers that have any of the rows."""
    return sorted({name for row in rows for name in row["peers"]})


def _cells(row, peers, alone):
    """A row as {heading: text}, with a ratio to each of the peers that has it; `alone` is its time with one thread."""
    cells = {"problem": row["problem"], "variant": row["variant"], "us": time_text(row["us"]),
             "median": time_text(row["median_us"]), "GFLOP/s": f"{row['gflops']:.1f}",
             "% limit": f"{row['percent']:.1f}", "limit": row["limited_by"]}
    if alone is not None:
        cells["x 1 thread"] = f"{alone / row['us']:.2f}"
    for name in peers:
        peer = row["peers"].get(name)
        cells[f"x {name}"] = f"{peer['ratio']:.2f}{_star(peer)}" if peer else ""
    return cells | _best_cells(row)


def _best(row):
    """The figures of the best peer."""
    return row["peers"][row["best"]]


def _best_cells(row):
    """The best peer of a row, its time and the ratio; nothing if there is no peer."""
    if not row["best"]:
        return {}
    best = _best(row)
    return {"best peer": f"{row['best']} {best['variant']}{_star(best)}", "best us": time_text(best["us"]),
            "x best": f"{best['ratio']:.2f}"}


def _star(peer):
    """The mark of a variant whose weights or buffers were prepared."""
    return "*" if peer["prepared"] else ""


def _behind(row):
    """A row that a peer is ahead of."""
    return {"problem": row["problem"], "pass": row["pass"], "dtype": row["dtype"], "threads": str(row["threads"]),
            "variant": row["variant"], "us": time_text(row["us"])} | _best_cells(row)


def _means(rows):
    """Of the share of the limit, and of the ratio to each peer and to the best one of each row.

    A peer's mean is over the rows that it has.
    """
    peers = peers_of(rows)
    for (operator, pass_, dtype, threads, variant), group in grouped(rows, "operator", "pass", "dtype", "threads",
                                                                     "variant").items():
        cells = {"pass": f"{operator} {pass_}", "dtype": dtype, "threads": str(threads), "variant": variant,
                 "rows": str(len(group)), "% limit": f"{geometric_mean(row['percent'] for row in group):.1f}"}
        for name in peers:
            if ratios := [row["peers"][name]["ratio"] for row in group if name in row["peers"]]:
                cells[f"x {name}"] = f"{geometric_mean(ratios):.2f}"
        if ratios := [_best(row)["ratio"] for row in group if row["best"]]:
            cells |= {"x best": f"{geometric_mean(ratios):.2f}", "least x best": f"{min(ratios):.2f}",
                      "best ahead": str(sum(ratio < 1 for ratio in ratios))}
        yield cells


def time_text(microseconds):
    """
    >>> time_text(3.14159), time_text(1234.5)
    ('3.14', '1234')
    """
    return f"{microseconds:.2f}" if microseconds < 100 else f"{microseconds:.0f}"


def markdown(rows):
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
