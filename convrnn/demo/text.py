"""The part "text": an LSTM learns to write English character by character, beside counts of n-grams and bz2.

The text is Python's own reference manual as `pydoc_data.topics` carries it in every installation. A third of its
paragraphs repeat; each is kept once, so that what is held out has not been read before.
"""

from __future__ import annotations

import bz2
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..autoregressive import LatentAR
from . import text_pictures
from .extras import require

EPOCHS = 8
HIDDEN = 256
EMBEDDING = 64
STRANDS = 32
BLOCK = 64
LEARNING_RATE = 1e-2
PARAGRAPHS = 20  # of a block: these stay together, in the text to learn from or in the held-out one
SAMPLE = 600
PROMPT = "The "


@dataclass
class Corpus:
    """The characters that occur, and the two texts as indices into them: to learn from, and held out."""

    alphabet: str
    train: np.ndarray
    held_out: np.ndarray

    def encode(self, text: str) -> np.ndarray:
        """A text as indices."""
        return np.array([self.alphabet.index(character) for character in text], np.int64)

    def decode(self, indices: np.ndarray) -> str:
        """Indices as a text."""
        return "".join(self.alphabet[i] for i in indices)


def paragraphs() -> list[str]:
    """The paragraphs of the manual, each once: the first of those that are the same but for line breaks and indents."""
    from pydoc_data.topics import topics

    unique: dict[str, str] = {}
    for topic in topics.values():
        for paragraph in topic.split("\n\n"):
            unique.setdefault(" ".join(paragraph.split()), paragraph.strip("\n"))
    unique.pop("", None)
    return list(unique.values())


def load(seed: int) -> Corpus:
    """The manual, a tenth of its blocks of paragraphs, drawn at random, held out."""
    kept = paragraphs()
    blocks = ["\n\n".join(kept[first : first + PARAGRAPHS]) + "\n\n" for first in range(0, len(kept), PARAGRAPHS)]
    drawn = set(np.random.default_rng(seed).choice(len(blocks), len(blocks) // 10, replace=False).tolist())
    train = "".join(block for i, block in enumerate(blocks) if i not in drawn)
    held_out = "".join(block for i, block in enumerate(blocks) if i in drawn)
    corpus = Corpus("".join(sorted(set(train + held_out))), np.empty(0), np.empty(0))
    corpus.train, corpus.held_out = corpus.encode(train), corpus.encode(held_out)
    return corpus


def ngram_bits(corpus: Corpus, order: int) -> float:
    """Bits per held-out character by counting n-grams of every length up to `order`, interpolated (Witten and Bell).

    ``P_n(c | context) = (count(context c) + kinds(context) P_{n-1}(c | context but its first)) / (count(context) +
    kinds(context))``, where kinds are the different characters seen after the context, and P_0 is uniform.
    """
    V = len(corpus.alphabet)
    text = np.concatenate((corpus.train[len(corpus.train) - (order - 1) :], corpus.held_out))
    p = np.full(len(corpus.held_out), 1 / V)
    for n in range(1, order + 1):
        grams, counts = np.unique(_ngrams(corpus.train, n, V), return_counts=True)
        contexts, starts = np.unique(grams // V, return_index=True)
        asked = _ngrams(text, n, V)[order - n :]
        count = _looked_up(asked, grams, counts)
        total = _looked_up(asked // V, contexts, np.add.reduceat(counts, starts))
        kinds = _looked_up(asked // V, contexts, np.diff(starts, append=len(grams)))
        p = np.where(total, (count + kinds * p) / np.maximum(total + kinds, 1), p)
    return float(-np.log2(p).mean())


def _ngrams(text: np.ndarray, n: int, V: int) -> np.ndarray:
    """Every n characters in a row as one number; without the last digit in base V it is the context's."""
    return np.lib.stride_tricks.sliding_window_view(text, n) @ V ** np.arange(n - 1, -1, -1)


def _looked_up(keys: np.ndarray, known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The value of each key, 0 where it is not among the sorted known ones."""
    at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[at] == keys, values[at], 0)


def bz2_bits(corpus: Corpus) -> float:
    """Bits per held-out character by which the compressed text to learn from grows when the held-out one follows it."""
    train, held_out = corpus.decode(corpus.train), corpus.decode(corpus.held_out)
    grown, alone = (len(bz2.compress(text.encode())) for text in (train + held_out, train))
    return 8 * (grown - alone) / len(held_out)


def lstm_bits(model: LatentAR, corpus: Corpus) -> float:
    """Bits per held-out character."""
    return -model.log_prob(corpus.held_out, given=0) / math.log(2) / len(corpus.held_out)


def train(corpus: Corpus, *, epochs: int, seed: int) -> LatentAR:
    """An LSTM trained on the text, the last twentieth of which picks the best epoch."""
    model = LatentAR(
        HIDDEN, cell="lstm", output="categorical", num_categories=len(corpus.alphabet), embedding_dim=EMBEDDING,
        rng=seed,
    )
    return model.fit(
        corpus.train, epochs=epochs, block=BLOCK, strands=STRANDS, lr=LEARNING_RATE,
        validation=len(corpus.train) // 20, progress=True,
    )


def table(bits: dict[str, float]) -> str:
    """Models and their bits, the fewest last."""
    lines = [f"  {'':<26}{'bits per held-out character':>29}"]
    lines += [f"  {name:<26}{bits[name]:>29.3f}" for name in sorted(bits, key=lambda name: bits[name], reverse=True)]
    return "\n".join(lines)


def run(out: Path, *, epochs: int | None = None, seed: int = 0) -> None:
    """Trains the LSTM, prints one table and a sample, and draws the loss curve into the folder `out`."""
    require("tqdm", "matplotlib")
    epochs = EPOCHS if epochs is None else epochs
    corpus = load(seed)
    print(
        f"text: {len(corpus.train):,} characters of English to learn from, {len(corpus.held_out):,} held out, "
        f"{len(corpus.alphabet)} different ones; {epochs} epochs"
    )
    start = time.perf_counter()
    model = train(corpus, epochs=epochs, seed=seed)
    seconds = time.perf_counter() - start
    bits = {
        "unigram": ngram_bits(corpus, 1),
        "5-gram, interpolated": ngram_bits(corpus, 5),
        "bz2, by growth": bz2_bits(corpus),
        f"LSTM, {HIDDEN} units (convrnn)": lstm_bits(model, corpus),
    }
    print(table(bits))
    print(f"  The LSTM learned for {seconds:.0f} s, {epochs * len(corpus.train) / seconds:,.0f} characters a second.")
    written = model.sample(SAMPLE, start=corpus.encode(PROMPT), rng=seed)
    print(f"  It writes after {PROMPT!r}:\n")
    print("\n".join(f"    {line}" for line in (PROMPT + corpus.decode(written)).splitlines()) + "\n")
    print(f"  {text_pictures.draw(out, model, bits)}")
