"""The picture of the text model: bits per character while it learns, beside those who count. Needs matplotlib."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .figures import INK, titled_figure

if TYPE_CHECKING:
    from pathlib import Path

    from ..autoregressive import LatentAR

COLOR = "#d1495b"


def draw(out: Path, model: LatentAR, bits: dict[str, float]) -> Path:
    """Draws the loss curve into the folder `out` and returns its path; `bits` ends with the model's own."""
    out.mkdir(parents=True, exist_ok=True)
    losses, validation = (np.array(nats) / math.log(2) for nats in (model.losses, model.validation_losses))
    figure = titled_figure(9, 4.8, "An LSTM learns to write: bits per character")
    axes = figure.subplots()
    epochs = len(validation)
    at = (np.arange(len(losses)) + 1) * epochs / len(losses)
    axes.plot(at, losses, color=COLOR, alpha=0.35, linewidth=0.8, label="training text, every block")
    axes.plot(np.arange(epochs) + 1, validation, color=COLOR, marker="o", markersize=4,
              label="text kept aside to choose the epoch")
    *others, (name, own) = bits.items()
    axes.plot(epochs, own, color=INK, marker="D", linestyle="none", label=f"held-out text, {name}: {own:.2f}")
    for (other, value), style in zip(others, (":", "--", "-."), strict=True):
        axes.axhline(value, color=INK, linewidth=1, linestyle=style, label=f"held-out text, {other}: {value:.2f}")
    axes.set(xlabel="epoch", ylabel="bits per character", xlim=(0, epochs * 1.03),
             ylim=(min(1.0, 0.95 * losses.min()), 5.2))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(out / "text_loss.png")
    return out / "text_loss.png"
