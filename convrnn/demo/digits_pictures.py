"""Pictures of the digits network: its kernels, what they see, where it errs, how it learned. Needs matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .figures import INK, titled_figure

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from ..layers import Sequential
    from .digits import Digits, History

COLORS = {"CNN": "#d1495b", "MLP": "#30638e"}


def _image(axes: Axes, image: np.ndarray, title: str = "", **style: Any) -> AxesImage:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=8, color=INK, pad=3)
    return axes.imshow(image, interpolation="nearest", **style)


def kernels(net: Sequential) -> Figure:
    """The 3x3 kernels of the first layer: red adds, blue subtracts."""
    w = net.params["0.weight"]  # (KH, KW, 1, K)
    limit = float(np.abs(w).max())
    K = w.shape[-1]
    figure = titled_figure(9, 3, f"The {K} kernels that the first layer learned")
    grid = figure.subplots(2, K // 2)
    for k, axes in enumerate(grid.flat):
        shown = _image(axes, w[:, :, 0, k], f"{k}", cmap="RdBu_r", vmin=-limit, vmax=limit)
    figure.colorbar(shown, ax=grid, label="weight", fraction=0.02, pad=0.01)
    return figure


def feature_maps(net: Sequential, image: np.ndarray) -> Figure:
    """One digit and what two of the convolutions make of it, after their ReLU."""
    x, maps = image[np.newaxis], []
    for i, layer in enumerate(net.layers[:7]):
        x = layer(x)
        if i in (1, 6):
            maps.append(x[0])
    figure = titled_figure(12, 4.6, "A digit on its way through the network")
    parts = figure.subfigures(1, 3, width_ratios=(1, 1.15, 2.3), wspace=0.02)
    parts[0].suptitle("input: 28 x 28", fontsize=10, color=INK)
    _image(parts[0].subplots(), image[..., 0], cmap="gray_r")
    for part, name, features in zip(parts[1:], ("first", "third"), maps, strict=True):
        OH, OW, K = features.shape
        part.suptitle(f"{name} convolution, ReLU: {K} maps of {OH} x {OW}", fontsize=10, color=INK)
        for k, axes in enumerate(part.subplots(4, K // 4).flat):
            shown = _image(axes, features[..., k], cmap="magma", vmin=0, vmax=float(features.max()))
        part.colorbar(shown, ax=part.axes, label="activation", orientation="horizontal", fraction=0.04, pad=0.02)
    return figure


def confusion(truth: np.ndarray, predicted: np.ndarray, images: np.ndarray) -> Figure:
    """Which digit is taken for which, and the images that are mistaken."""
    from matplotlib.colors import PowerNorm

    counts = np.zeros((10, 10), np.int64)
    np.add.at(counts, (truth, predicted), 1)
    wrong = np.flatnonzero(truth != predicted)
    figure = titled_figure(11, 5.4, f"{len(truth):,} held-out digits, {len(wrong)} mistaken")
    left, right = figure.subfigures(1, 2, width_ratios=(1.15, 1))
    axes = left.subplots()
    norm = PowerNorm(0.35, vmin=0, vmax=counts.max())  # a single error can be seen beside 100 hits
    axes.imshow(counts, cmap="BuPu", norm=norm)
    for (i, j), count in np.ndenumerate(counts):
        if count:
            axes.text(j, i, str(count), ha="center", va="center", fontsize=8, color="white" if count > 12 else INK)
    axes.set(xlabel="the network says", ylabel="it is", xticks=range(10), yticks=range(10))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    left.suptitle("all: how many images", fontsize=10, color=INK)
    right.suptitle("mistaken: what it is \N{RIGHTWARDS ARROW} what the network says", fontsize=10, color=INK)
    grid = right.subplots(5, 6)
    for axes in grid.flat:
        axes.axis("off")
    for axes, i in zip(grid.flat, wrong, strict=False):
        _image(axes, images[i, ..., 0], f"{truth[i]} \N{RIGHTWARDS ARROW} {predicted[i]}", cmap="gray_r")
    return figure


def curves(histories: dict[str, History]) -> Figure:
    """Loss while learning, and accuracy on the held-out images after each epoch."""
    figure = titled_figure(10, 4, "How the networks learned")
    left, right = figure.subplots(1, 2)
    for name, history in histories.items():
        epochs = len(history.accuracies)
        per_epoch = len(history.losses) // epochs
        at = (np.arange(len(history.losses)) + 1) / per_epoch
        left.plot(at, history.losses, color=COLORS[name], alpha=0.2, linewidth=0.8)
        means = np.reshape(history.losses, (epochs, per_epoch)).mean(axis=1)
        left.plot(np.arange(epochs) + 0.5, means, color=COLORS[name], label=name, marker="o", markersize=3)
        percent = 100 * np.array(history.accuracies)
        right.plot(np.arange(epochs) + 1, percent, color=COLORS[name], marker="o", markersize=3,
                   label=f"{name}: {percent[-1]:.1f}%")
    left.set(xlabel="epoch", ylabel="cross-entropy of a batch (nats)", yscale="log", title="Training loss")
    right.set(xlabel="epoch", ylabel="held-out accuracy (%)", title="Held-out accuracy")
    right.axhline(97, color=INK, linewidth=0.8, linestyle=":", label="97%")
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    return figure


def draw(out: Path, net: Sequential, digits: Digits, histories: dict[str, History], seed: int) -> list[Path]:
    """Draws all pictures into the folder `out` and returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    predicted = net(digits.held_out_images).argmax(axis=1)
    shown = np.random.default_rng(seed).choice(np.flatnonzero(digits.held_out_labels == 5))
    figures = {
        "digits_kernels.png": kernels(net),
        "digits_feature_maps.png": feature_maps(net, digits.held_out_images[shown]),
        "digits_confusion.png": confusion(digits.held_out_labels, predicted, digits.held_out_images),
        "digits_curves.png": curves(histories),
    }
    for name, figure in figures.items():
        figure.savefig(out / name)
    return [out / name for name in figures]
