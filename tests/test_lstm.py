"""The LSTM as it stands in books: gates i, f, g, o, the cell that carries the error, the projection."""

import numpy as np
import pytest
from recurrent_problems import FUNCTIONS

import convrnn as cr
from convrnn import reference

sigmoid = FUNCTIONS["sigmoid"]


@pytest.mark.parametrize("projection", [0, 4])
def test_formulas(projection, isa):
    """Every gate by itself, in the order i, f, g, o; of the compiled function and the reference."""
    rng = np.random.default_rng(1)
    X, c = rng.standard_normal((5, 3, 2)), rng.standard_normal((3, 7))
    h = rng.standard_normal((3, projection or 7))
    W, U, b = ({gate: rng.standard_normal(shape) for gate in "ifgo"} for shape in ((2, 7), (projection or 7, 7), (7,)))
    V = rng.standard_normal((7, projection)) if projection else np.eye(7)
    stacked = [np.concatenate([table[gate].T for gate in "ifgo"]) for table in (W, U, b)]
    options = {"state": (h, c)} | ({"w_hr": V.T} if projection else {})
    y, last = cr.lstm(X, *stacked, **options)
    twin, twin_last, cache = reference.lstm_forward(X, *stacked, **options)
    for t in range(5):
        i, f, g, o = ((np.tanh if gate == "g" else sigmoid)(X[t] @ W[gate] + h @ U[gate] + b[gate]) for gate in "ifgo")
        c = f * c + i * g
        h = (o * np.tanh(c)) @ V
        for states in (y, twin):
            np.testing.assert_allclose(states[t], h, rtol=1e-13, atol=1e-14)
        np.testing.assert_allclose(cache.gates[t], np.concatenate([i, f, g, o], axis=1), rtol=1e-13)
    for state in (last, twin_last):
        np.testing.assert_allclose(state[0], h, rtol=1e-13, atol=1e-14)
        np.testing.assert_allclose(state[1], c, rtol=1e-13, atol=1e-14)


def test_open_and_shut_gates(isa, dtype):
    """i shut, f open: the cell, and the gradient at it, pass a thousand steps without a change, bit for bit."""
    bias = np.zeros(4 * 17, dtype)
    bias[:17], bias[17:34] = -1000, 1000
    c = np.random.default_rng(0).standard_normal((2, 17)).astype(dtype)
    x, zeros = np.ones((1000, 2, 3), dtype), [np.zeros((68, size), dtype) for size in (3, 17)]
    y, (_, last), cache = cr.lstm(x, *zeros, bias, state=(np.zeros_like(c), c), return_cache=True)
    assert np.array_equal(last, c)
    grads = cr.lstm_backward(np.zeros_like(y), cache, (np.zeros_like(c), 3 * c))
    assert np.array_equal(grads["state"][1], 3 * c)
    assert not grads["x"].any() and not grads["state"][0].any()


def test_saturated_gates_have_no_gradient(isa, dtype):
    """All gates far out: exact zeros and ones, c counts the steps, and the gradients of the weights vanish."""
    bias = np.full(4 * 17, 1000, dtype)
    x, zeros = np.ones((9, 3), dtype), [np.zeros((68, size), dtype) for size in (3, 17)]
    y, (_, c), cache = cr.lstm(x, *zeros, bias, return_cache=True)
    assert (cache.gates == 1).all() and (c == 9).all()
    grads = cr.lstm_backward(np.ones_like(y), cache)
    assert not grads["w_ih"].any() and not grads["b_ih"].any()


def test_keywords_of_the_projection(isa):
    """w_hr, the identity: the same numbers as without."""
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal(shape) for shape in ((6, 2, 3), (20, 3), (20, 5), (20,), (20,))]
    plain, (h, c) = cr.lstm(*arrays)
    projected, (ph, pc) = cr.lstm(*arrays, w_hr=np.eye(5))
    for one, other in ((plain, projected), (h, ph), (c, pc)):
        np.testing.assert_allclose(one, other, rtol=1e-14, atol=1e-15)
