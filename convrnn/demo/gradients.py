"""The part "gradients": how far back a loss reaches through each kind of cell, with and without truncated BPTT.

The loss looks at the last step alone. What arrives at the state t steps before it is a product of t Jacobians: it falls
or grows like a power of t, unless the cell is built, and started, to keep its state. Nothing is trained here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..recurrent_layers import GRU, LSTM, RNN
from . import gradients_pictures
from .extras import require

T, B, INPUT, HIDDEN = 200, 16, 8, 64
TRUNCATE = 25
OPEN = 4.0  # bias of a gate that keeps 98 % of the state at every step: the sigmoid of it is 0.982
SHOWN = (10, 50, 150)  # lags in the table


def cells(seed: int) -> dict[str, RNN | LSTM | GRU]:
    """Each kind of cell from its usual start values, and again made to keep its state."""
    made = {name: cls(INPUT, HIDDEN, dtype=np.float64, rng=seed)
            for cls in (RNN, LSTM, GRU) for name in (cls.__name__, _kept_name(cls))}
    made[_kept_name(RNN)].params["weight_hh_l0"][...] = np.linalg.qr(
        np.random.default_rng(seed).standard_normal((HIDDEN, HIDDEN))
    )[0]
    for cls in (LSTM, GRU):
        # Second of the gates, forget of i f g o and update of r z n, is the one that keeps.
        made[_kept_name(cls)].params["bias_ih_l0"][HIDDEN : 2 * HIDDEN] += OPEN
    return made


def _kept_name(cls: type) -> str:
    return {RNN: "RNN, orthogonal matrix", LSTM: "LSTM, forget gate open", GRU: "GRU, update gate open"}[cls]


def reach(layer: RNN | LSTM | GRU, seed: int, *, truncate: int | None = None) -> np.ndarray:
    """The norm of dL/dh at each lag 0, 1, .., T - 1 before the last step, as a share of the norm at lag 0."""
    rng = np.random.default_rng(seed)
    y, _, cache = layer.forward(rng.standard_normal((T, B, INPUT)))
    dy = np.zeros_like(y)
    dy[-1] = rng.standard_normal(dy[-1].shape)
    *_, dh = layer.backward(dy, cache, truncate=truncate, return_hidden_gradients=True)
    norms = np.linalg.norm(dh[0], axis=(1, 2))[::-1]  # dh is (1, T, B, H)
    return norms / norms[0]


def table(reaches: dict[str, np.ndarray]) -> str:
    """What is left of the gradient at a few lags."""
    lines = [f"  {'':<26}" + "".join(f"{f'{lag} steps back':>16}" for lag in SHOWN)]
    lines += [f"  {name:<26}" + "".join(f"{norms[lag]:>16.1e}" for lag in SHOWN) for name, norms in reaches.items()]
    return "\n".join(lines)


def run(out: Path, *, epochs: int | None = None, seed: int = 0) -> None:
    """Prints how the gradients fall and draws them into the folder `out`. `epochs` has no meaning here."""
    require("matplotlib")
    print(f"gradients: |dL/dh| of a loss at the last of {T} steps, as a share of that at the last step")
    whole, truncated = (
        {name: reach(layer, seed, truncate=truncate) for name, layer in cells(seed).items()}
        for truncate in (None, TRUNCATE)
    )
    print(table(whole))
    print(f"  With truncate={TRUNCATE} all are 0 from {TRUNCATE} steps back on.")
    print(f"  {gradients_pictures.draw(out, whole, truncated, TRUNCATE)}")
