"""Layers put together by hand: an LSTM says after every bit whether an odd number of ones has come so far.

    python examples/parity.py

Sequences are of any length, none of them packed or sorted; what lies past a sequence's end counts nowhere. What a layer
that carries a state returns does not fit a `Sequential`, so forward and backward are called in order.
"""
import numpy as np

import convrnn as cr

STEPS, BATCH, HIDDEN = 12, 64, 16


def draw(rng):
    """Bits (T, B, 1), whether each prefix has an odd number of ones (T, B), and the length of each sequence (B,)."""
    bits = rng.integers(0, 2, (STEPS, BATCH))
    return bits[..., np.newaxis].astype(np.float32), bits.cumsum(axis=0) % 2, rng.integers(1, STEPS + 1, BATCH)


def main():
    rng = np.random.default_rng(0)
    lstm, head = cr.LSTM(1, HIDDEN, rng=rng), cr.Linear(HIDDEN, 2, rng=rng)
    optimizer = cr.optimizers.Adam(
        {f"{part}.{name}": array for part, layer in (("lstm", lstm), ("head", head))
         for name, array in layer.params.items()}, lr=0.01)

    for step in range(1, 401):
        x, odd, lengths = draw(rng)
        inside = np.arange(STEPS)[:, np.newaxis] < lengths
        y, _, lstm_cache = lstm.forward(x, lengths=lengths)
        logits, head_cache = head.forward(y)
        loss, dlogits = cr.losses.softmax_cross_entropy(logits, odd, mask=inside)
        dy, head_grads = head.backward(dlogits, head_cache)
        _, _, lstm_grads = lstm.backward(dy, lstm_cache, needs_dx=False)
        grads = {f"lstm.{name}": array for name, array in lstm_grads.items()}
        grads |= {f"head.{name}": array for name, array in head_grads.items()}
        cr.optimizers.clip_norm(grads, 1.0)
        optimizer.step(grads)
        if step % 100 == 0:
            right = (logits.argmax(axis=-1) == odd)[inside].mean()
            print(f"step {step:4}: {loss:.4f} nats, {right:.1%} right")

    # A stream of bits, one at a time, eight times as long as what it learned from.
    fast_lstm, fast_head, state, right = lstm.frozen(), head.frozen(), None, 0
    stream = rng.integers(0, 2, 8 * STEPS)
    for s, bit in enumerate(stream, 1):
        y, state = fast_lstm(np.full((1, 1), bit, np.float32), state)
        right += fast_head(y)[0].argmax() == stream[:s].sum() % 2
    print(f"stream: {right} of {len(stream)} right")


if __name__ == "__main__":
    main()
