"""The rows of ``compare`` as rooflines: GFLOP/s over flops per byte, below the machine's limits. Needs matplotlib."""

import math

from . import table
from .measure import OURS

COLOURS = {OURS: "black", "torch": "tab:red", "onnxruntime": "tab:blue", "openvino": "tab:purple", "ncnn": "tab:green",
           "jax": "tab:orange"}
MARKERS = {False: "o", True: "D"}  #: by whether the variant is prepared
PANEL_INCHES = (6.5, 4.6)


def save(rows, limits, file):
    """Writes the figure, in the format of the file's name: a panel for each table, a line of them for each pass.

    In a panel a vertical line joins what has the same intensity: one problem, from the slowest library to the fastest.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    limits = {limit.threads: limit for limit in limits}
    panels = [(*pass_, *kind, group) for pass_, some in table.grouped(rows, "operator", "pass").items()
              for kind, group in table.grouped(some, "dtype", "threads").items()]
    columns = max(len(table.grouped(rows, "dtype", "threads")), min(len(panels), 2))
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(PANEL_INCHES[0] * columns, PANEL_INCHES[1] * lines + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = iter(figure.subplots(lines, columns, squeeze=False).flat)
    handles = {}
    for (operator, pass_, dtype, threads, group), ax in zip(panels, axes, strict=False):
        _draw(ax, group, limits[threads], dtype)
        ax.set_title(f"{operator} {pass_}, {dtype}, {table.threads_text(threads)}", fontsize=10)
        handles |= {handle.get_label(): handle for handle in ax.get_legend_handles_labels()[0]}
    for ax in axes:
        ax.set_axis_off()  # a place that is left
    figure.legend(handles=list(handles.values()), loc="outside upper center", ncols=5 * columns, frameon=False,
                  fontsize=8)
    figure.savefig(file, dpi=120)


def _draw(ax, rows, limits, dtype):
    """A panel: the roofs, a stem for every intensity, and a marker for every library's plain and prepared best."""
    points = _points(rows)
    intensities, rates = ([point[name] for pairs in points.values() for point in pairs] for name in range(2))
    left, right = min(intensities) / 3, max(intensities) * 2
    _draw_roofs(ax, limits, dtype, left, right)
    for x in set(intensities):
        there = [rate for other, rate in zip(intensities, rates, strict=True) if other == x]
        ax.plot([x, x], [min(there), max(there)], color="0.8", linewidth=0.8, zorder=1)
    for (name, prepared), pairs in points.items():
        colour = COLOURS.get(name, "tab:gray")
        ax.plot(*zip(*pairs, strict=True), linestyle="none", marker=MARKERS[prepared], color=colour,
                markersize=5 if name == OURS else 4.5, markerfacecolor=colour if name == OURS else "none",
                zorder=3 if name == OURS else 2, label=f"{name}, prepared" if prepared else name)
    ax.set(xscale="log", yscale="log", xlim=(left, right), xlabel="flops per byte", ylabel="GFLOP/s")
    ax.set_ylim(min(rates) / 1.5, 2 * max(*rates, limits.fma[dtype]))
    ax.tick_params(labelsize=8)


def _points(rows):
    """{(library, prepared): [(intensity, GFLOP/s)]}, of the fastest variant of each problem."""
    best = {}
    for row in rows:
        work = row["gflops"] * row["us"]
        for name, figures in ((OURS, row), *row["peers"].items()):
            point = best.setdefault((name, figures["prepared"]), {})
            point[row["problem"]] = max(point.get(row["problem"], (0, 0)), (row["intensity"], work / figures["us"]))
    return {kind: list(point.values()) for kind, point in best.items()}


def _draw_roofs(ax, limits, dtype, left, right):
    """The multiply-adds' roof, and the slopes of what each memory can feed, up to that roof."""
    peak = limits.fma[dtype]
    ax.axhline(peak, color="0.4", linewidth=1.2, zorder=1)
    ax.annotate(f"multiply-adds {peak:.0f} GFLOP/s", (left, peak), xytext=(3, 3), textcoords="offset points",
                fontsize=7, color="0.3")
    for level, bandwidth in limits.bandwidth.items():
        ridge = peak / bandwidth
        if ridge <= left:
            continue  # that memory is never what limits these
        end = min(ridge, right)
        ax.plot([left, end], [bandwidth * left, bandwidth * end], color="0.6", linewidth=0.9, zorder=1)
        ax.annotate(f"{level} {bandwidth:.0f} GB/s", (left, bandwidth * left), xytext=(3, 3), fontsize=7,
                    textcoords="offset points", color="0.4")
