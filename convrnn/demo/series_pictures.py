"""Pictures of the sunspots: forecasts with their uncertainty, and how far back it pays to look. Needs matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .figures import INK, titled_figure

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from ..autoregressive import AR, LatentAR
    from .series import Series

COLOR = "#30638e"
COLORS = {"in order": "#d1495b", "shuffled": "#30638e"}


def forecasts(series: Series, models: dict[str, AR | LatentAR], first: int, paths: int, seed: int) -> Figure:
    """What each model expects from the year `first` on, knowing the years before; the bands hold drawn futures."""
    known = int((series.years < first).sum())
    past, years = series.values[:known], series.years[known:]
    figure = titled_figure(11, 6.4, f"Yearly sunspots: forecasts from {first} on, and what came")
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    for axes, (name, model) in zip(grid.flat, models.items(), strict=True):
        futures = model.sample(len(years), start=past, rng=seed, paths=paths)
        low, lower, upper, high = np.quantile(futures, (0.05, 0.25, 0.75, 0.95), axis=0)
        axes.fill_between(years, low, high, color=COLOR, alpha=0.18, linewidth=0, label="90% of the futures drawn")
        axes.fill_between(years, lower, upper, color=COLOR, alpha=0.3, linewidth=0, label="50%")
        axes.plot(years, futures.mean(axis=0), color=COLOR, label="their mean")
        axes.plot(series.years, series.values, color=INK, linewidth=1, marker="o", markersize=2.5, label="observed")
        axes.axvline(first - 0.5, color=INK, linewidth=0.8, linestyle=":")
        inside = np.mean((series.values[known:] >= low) & (series.values[known:] <= high))
        axes.set_title(f"{name}: {inside:.0%} of the years within the 90% band", fontsize=10, color=INK)
        axes.set_xlim(first - 30, series.years[-1] + 1)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("mean sunspot number")
    for axes in grid[1]:
        axes.set_xlabel("year")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=9, loc="outside lower center", ncols=4)
    return figure


def lags(by_tau: dict[str, np.ndarray]) -> Figure:
    """The likelihood of years by AR(tau) fit to those before them, over tau."""
    figure = titled_figure(8, 4, "How far back does it pay to look?")
    axes = figure.subplots()
    for (name, nats), below in zip(by_tau.items(), (False, True), strict=True):
        axes.plot(nats, color=COLORS[name], marker="o", markersize=3.5, label=f"sunspots {name}")
        best = int(nats.argmax())
        axes.annotate(f"AR({best})", (best, nats[best]), xytext=(0, -14 if below else 7), textcoords="offset points",
                      ha="center", color=COLORS[name], fontsize=9)
    axes.set(xlabel="tau: years looked back", ylabel="log-likelihood per year (nats)")
    axes.margins(y=0.15)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center right")
    return figure


def draw(
    out: Path, series: Series, models: dict[str, AR | LatentAR], by_tau: dict[str, np.ndarray], first: int, paths: int,
    seed: int,
) -> list[Path]:
    """Draws all pictures into the folder `out` and returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    figures = {
        "series_forecast.png": forecasts(series, models, first, paths, seed),
        "series_tau.png": lags(by_tau),
    }
    for name, figure in figures.items():
        figure.savefig(out / name)
    return [out / name for name in figures]
