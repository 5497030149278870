"""The part "series": yearly sunspots as a distribution, from a window of the past and from a latent state.

The numbers, 1700 to 2008, are those inside the statsmodels wheel. The years after 1920 are held out. Every model is
also fit to the same numbers shuffled, before 1920 and after it: what it then loses is what the order tells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..autoregressive import AR, LatentAR
from . import series_pictures
from .extras import package_folder, require

LAST_TO_LEARN = 1920
FORETOLD = 121  # the last years to learn from: each is foretold from those before it to choose tau
LONGEST = 20  # of the tau tried
VALIDATION = 60  # the last years to learn from: they choose the epoch at which a network stops
EPOCHS = 60
HIDDEN = 16
BLOCK = 16
LEARNING_RATE = 5e-3
NETWORKS = {"vanilla RNN": "rnn", "GRU": "gru", "LSTM": "lstm"}
STARTS = 5  # of each network, from different seeds: so few years leave much to chance
FORECAST_FROM = 1975
PATHS = 2000


@dataclass
class Series:
    """Years, their values, and how many of the first of them are there to learn from."""

    years: np.ndarray
    values: np.ndarray
    learned: int

    @property
    def train(self) -> np.ndarray:
        """The values to learn from."""
        return self.values[: self.learned]


@dataclass
class Score:
    """How well a model foretells each held-out year from all before it: nats per year, root-mean-square error."""

    log_likelihood: float
    error: float


def load() -> Series:
    """Mean sunspot numbers of the years 1700 to 2008."""
    path = package_folder("statsmodels") / "datasets" / "sunspots" / "sunspots.csv"
    years, values = np.loadtxt(path, delimiter=",", skiprows=1, unpack=True)
    return Series(years.astype(int), values, int((years <= LAST_TO_LEARN).sum()))


def shuffled(series: Series, seed: int) -> Series:
    """The same values in random order, those held out among themselves."""
    rng = np.random.default_rng(seed)
    parts = np.split(series.values, [series.learned])
    return Series(series.years, np.concatenate([rng.permutation(part) for part in parts]), series.learned)


def likelihood_by_tau(series: Series) -> np.ndarray:
    """Nats per year of AR(0), AR(1), .. over the later years to learn from, each after a fit to all before it."""
    train, likelihoods = series.train, []
    for tau in range(LONGEST + 1):
        later = range(len(train) - FORETOLD, len(train))
        likelihoods.append(np.mean([AR(tau).fit(train[:s]).log_prob(train[: s + 1], given=s) for s in later]))
    return np.array(likelihoods)


def network(series: Series, cell: str, *, epochs: int, seed: int) -> LatentAR:
    """A latent AR fit to the years to learn from."""
    model = LatentAR(HIDDEN, cell=cell, rng=seed)
    return model.fit(series.train, epochs=epochs, block=BLOCK, lr=LEARNING_RATE, validation=VALIDATION)


def score(model: AR | LatentAR, series: Series) -> Score:
    """The held-out years, each foretold one year ahead."""
    held_out = range(series.learned, len(series.values))
    errors = [model.predict(series.values[:s], 1)[0] - series.values[s] for s in held_out]
    log_likelihood = model.log_prob(series.values, given=series.learned) / len(held_out)
    return Score(log_likelihood, float(np.sqrt(np.mean(np.square(errors)))))


def fit_all(
    series: Series, *, epochs: int, seed: int, advance: Callable[[], object]
) -> tuple[dict[str, list[AR | LatentAR]], np.ndarray]:
    """The models by name, networks from several starts, and the likelihood by which tau was chosen."""
    by_tau = likelihood_by_tau(series)
    tau = int(by_tau.argmax())
    models: dict[str, list[AR | LatentAR]] = {
        "independent years": [AR(0).fit(series.train)],
        f"AR({tau})": [AR(tau).fit(series.train)],
    }
    for name, cell in NETWORKS.items():
        models[name] = []
        for start in range(STARTS):
            models[name].append(network(series, cell, epochs=epochs, seed=seed + start))
            advance()
    return models, by_tau


def row(name: str, scores: list[Score], shuffled_name: str, shuffled_scores: list[Score]) -> str:
    """Medians over the starts of a model, in order and shuffled; names differ where tau does."""
    figures = ""
    for part in (scores, shuffled_scores):
        figures += f"{np.median([s.log_likelihood for s in part]):>15.2f}{np.median([s.error for s in part]):>9.1f}"
    return f"  {name if name == shuffled_name else f'{name}; {shuffled_name}':<22}{figures}"


def run(out: Path, *, epochs: int | None = None, seed: int = 0) -> None:
    """Fits all models to the sunspots in order and shuffled, prints one table and draws two pictures."""
    require("statsmodels", "tqdm", "matplotlib")
    from tqdm import tqdm

    epochs = EPOCHS if epochs is None else epochs
    series = load()
    held_out = len(series.values) - series.learned
    print(
        f"series: {series.learned} years of sunspots to learn from, {held_out} held out; "
        f"{STARTS} starts of each network"
    )
    variants = {"in order": series, "shuffled": shuffled(series, seed)}
    fits, by_tau = {}, {}
    with tqdm(total=len(variants) * len(NETWORKS) * STARTS, unit=" fits", leave=False) as bar:
        for name, variant in variants.items():
            fits[name], by_tau[name] = fit_all(variant, epochs=epochs, seed=seed, advance=bar.update)
    scores = {
        name: [(model, [score(fit, variant) for fit in fits[name][model]]) for model in fits[name]]
        for name, variant in variants.items()
    }
    print(f"  {'':<22}{'in order':>24}{'shuffled':>24}")
    print(f"  {'held-out years':<22}{'nats per year':>15}{'RMSE':>9}{'nats per year':>15}{'RMSE':>9}")
    for (name, own), (shuffled_name, others) in zip(scores["in order"], scores["shuffled"], strict=True):
        print(row(name, own, shuffled_name, others))
    print(f"  Of each network the median of {STARTS} starts; tau by likelihood within the years learned from.")
    shown = {name: models[0] for name, models in fits["in order"].items() if name != "independent years"}
    for path in series_pictures.draw(out, series, shown, by_tau, FORECAST_FROM, PATHS, seed):
        print(f"  {path}")
