"""The GRU as it stands in books, in both forms: gates r, z, n; the reset after or before the product."""

import numpy as np
import pytest
from recurrent_problems import FUNCTIONS

import convrnn as cr
from convrnn import reference

sigmoid = FUNCTIONS["sigmoid"]


@pytest.mark.parametrize("reset_after", [True, False])
def test_formulas(reset_after, isa):
    """Every gate by itself, in the order r, z, n, with two biases; of the compiled function and the reference."""
    rng = np.random.default_rng(1)
    X, h = rng.standard_normal((5, 3, 2)), rng.standard_normal((3, 7))
    W, U, b, b_h = ({gate: rng.standard_normal(shape) for gate in "rzn"} for shape in ((2, 7), (7, 7), (7,), (7,)))
    stacked = [np.concatenate([table[gate].T for gate in "rzn"]) for table in (W, U, b, b_h)]
    y, last = cr.gru(X, *stacked, state=h, reset_after=reset_after)
    twin, _, cache = reference.gru_forward(X, *stacked, state=h, reset_after=reset_after)
    for t in range(5):
        r, z = (sigmoid(X[t] @ W[gate] + b[gate] + h @ U[gate] + b_h[gate]) for gate in "rz")
        past = r * (h @ U["n"] + b_h["n"]) if reset_after else (r * h) @ U["n"] + b_h["n"]
        n = np.tanh(X[t] @ W["n"] + b["n"] + past)
        h = (1 - z) * n + z * h
        for states in (y, twin):
            np.testing.assert_allclose(states[t], h, rtol=1e-13, atol=1e-14)
        np.testing.assert_allclose(cache.gates[t], np.concatenate([r, z, n], axis=1), rtol=1e-13)
    assert np.array_equal(last, y[-1])


def test_reset_after_is_the_default(isa):
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal(shape) for shape in ((6, 2, 3), (15, 3), (15, 5), (15,), (15,))]
    default, after, before = (cr.gru(*arrays, **options)[0] for options in (
        {}, {"reset_after": True}, {"reset_after": False}))
    assert np.array_equal(default, after) and not np.allclose(after, before)


@pytest.mark.parametrize("reset_after", [True, False])
def test_shut_update_gate(reset_after, isa, dtype):
    """z = 1: the state, and the gradient at it, pass a thousand steps without a change, bit for bit."""
    bias = np.zeros(3 * 17, dtype)
    bias[17:34] = 1000
    h = np.random.default_rng(0).standard_normal((2, 17)).astype(dtype)
    x, zeros = np.ones((1000, 2, 3), dtype), [np.zeros((51, size), dtype) for size in (3, 17)]
    y, last, cache = cr.gru(x, *zeros, bias, state=h, reset_after=reset_after, return_cache=True)
    assert (y == h).all() and np.array_equal(last, h)
    grads = cr.gru_backward(np.zeros_like(y), cache, 3 * h)
    assert np.array_equal(grads["state"], 3 * h) and not grads["x"].any()
