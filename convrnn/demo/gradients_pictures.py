"""The picture of vanishing gradients: their norm over the lag, of every cell. Needs matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .figures import INK, titled_figure

if TYPE_CHECKING:
    from pathlib import Path

COLORS = {"RNN": "#d1495b", "LSTM": "#30638e", "GRU": "#3c8d5a"}
LOWEST = 1e-18  # where the axis ends


def draw(out: Path, whole: dict[str, np.ndarray], truncated: dict[str, np.ndarray], truncate: int) -> Path:
    """Draws both into the folder `out` and returns the path."""
    out.mkdir(parents=True, exist_ok=True)
    figure = titled_figure(11, 4.8, "How far back does the loss reach?")
    grid = figure.subplots(1, 2, sharex=True, sharey=True)
    titles = "full BPTT", f"truncated BPTT: blocks of {truncate} steps"
    for axes, reaches, title in zip(grid, (whole, truncated), titles, strict=True):
        for name, norms in reaches.items():
            kind, _, kept = name.partition(",")
            lags = np.flatnonzero(norms)  # zeros have no place on a logarithmic axis
            axes.plot(lags, norms[lags], color=COLORS[kind], linestyle="-" if kept else "--", label=name)
        axes.set(yscale="log", ylim=(LOWEST, 10), xlabel="steps back from the loss")
        axes.set_title(title, fontsize=10, color=INK)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    grid[1].axvspan(truncate - 0.5, len(norms), color=INK, alpha=0.06, linewidth=0)
    grid[1].text((truncate + len(norms)) / 2, 1e-8, "gradient cut: exactly 0", ha="center", color=INK)
    grid[0].set_ylabel("|dL/dh|, as a share of the last step's")
    figure.legend(*grid[0].get_legend_handles_labels(), frameon=False, fontsize=9, loc="outside lower center", ncols=3)
    figure.savefig(out / "gradients.png")
    return out / "gradients.png"
