"""The vanilla RNN as it stands in books: H_t = s(X_t W_X + H_{t-1} W_H + b) and O_t = H_t W_2 + b_2."""

import math

import numpy as np
import pytest
from recurrent_problems import ACTIVATIONS, FUNCTIONS

import convrnn as cr
from convrnn import reference


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_formulas(name, isa):
    """The states and the outputs, in matrices with a row per sequence; of the compiled functions and the reference."""
    rng = np.random.default_rng(1)
    X, H = rng.standard_normal((4, 3, 2)), rng.standard_normal((3, 5))
    W_X, W_H, W_2 = (rng.standard_normal(shape) / 2 for shape in ((2, 5), (5, 5), (5, 6)))
    b, b_2 = rng.standard_normal(5), rng.standard_normal(6)
    y, state = cr.rnn(X, W_X.T, W_H.T, b, state=H, activation=name)
    twin, twin_state, _ = reference.rnn_forward(X, W_X.T, W_H.T, b, state=H, activation=name)
    head = cr.Linear(5, 6, dtype=np.float64)
    head.load_state_dict({"weight": W_2.T, "bias": b_2})
    for t in range(4):
        H = FUNCTIONS[name](X[t] @ W_X + H @ W_H + b)
        for states in (y, twin):
            np.testing.assert_allclose(states[t], H, rtol=1e-13, atol=1e-14)
        for O in (head(y[t]), reference.linear_forward(y[t], W_2.T, b_2)):
            np.testing.assert_allclose(O, H @ W_2 + b_2, rtol=1e-13, atol=1e-14)
    assert np.array_equal(state, y[-1]) and np.array_equal(twin_state, twin[-1])


def test_gradients_of_the_head():
    """dL/dH_t = dO_t W_2^T, dL/dW_2 = sum_t H_t^T dO_t, dL/db_2 = sum_t dO_t, by the layer and by the reference."""
    rng = np.random.default_rng(1)
    H, dO = rng.standard_normal((4, 3, 5)), rng.standard_normal((4, 3, 6))
    head = cr.Linear(5, 6, dtype=np.float64, rng=0)
    w = head.params["weight"]
    dH, dw, db = reference.linear_backward(dO, H, w)
    np.testing.assert_allclose(dH, dO @ w, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(dw.T, np.einsum("tbh,tbo->ho", H, dO), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(db, dO.sum((0, 1)), rtol=1e-13, atol=1e-14)
    _, cache = head.forward(H)
    dx, grads = head.backward(dO, cache)
    for one, other in ((dx, dH), (grads["weight"], dw), (grads["bias"], db)):
        np.testing.assert_allclose(one, other, rtol=1e-13, atol=1e-14)


def test_a_linear_recurrence_is_exact(isa, dtype):
    """Small integers: h_t = x_t + 2 h_{t-1} with the identity, and powers of two as its gradients."""
    x = np.array([[1.0], [0.0], [3.0], [-2.0]], dtype)
    one, two = np.array([[1]], dtype), np.array([[2]], dtype)
    y, state, cache = cr.rnn(x, one, two, state=np.array([5], dtype), activation="identity", return_cache=True)
    assert y.ravel().tolist() == [11, 22, 47, 92] and state == [92]
    grads = cr.rnn_backward(np.array([[0], [0], [0], [1]], dtype), cache)
    assert grads["x"].ravel().tolist() == [8, 4, 2, 1] and grads["state"] == [16]
    assert grads["w_ih"] == 8 + 0 + 6 - 2 and grads["w_hh"] == 8 * 5 + 4 * 11 + 2 * 22 + 47


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_outside_arithmetic(name, isa, dtype):
    """NaN goes on through time; infinities saturate or stay; a NaN reaches no other row."""
    x = np.zeros((3, 4, 2), dtype)
    x[0, 0, 0], x[1, 1, 1], x[0, 2, 0] = math.nan, math.nan, math.inf
    y, state = cr.rnn(x, np.ones((17, 2), dtype), np.full((17, 17), 0.25, dtype), activation=name)
    assert np.isnan(y[:, 0]).all() and np.isnan(state[0]).all()
    assert np.isnan(y[1:, 1]).all() and np.isfinite(y[0, 1]).all()
    assert np.isfinite(y[:, 3]).all()
    limit = 1 if name in ("tanh", "sigmoid") else math.inf
    assert (y[0, 2] == limit).all()


def test_relu_gradient_at_zero(isa, dtype):
    """It is zero, as of the layer ReLU."""
    _, _, cache = cr.rnn(np.zeros((2, 1), dtype), np.ones((3, 1), dtype), np.ones((3, 3), dtype), activation="relu",
                         return_cache=True)
    grads = cr.rnn_backward(np.ones((2, 3), dtype), cache)
    assert not any(grads[name].any() for name in ("x", "w_ih", "w_hh", "state"))
