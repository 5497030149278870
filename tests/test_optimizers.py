"""Optimizers: the formulas in scalar Python, in-place updates, errors; clipping."""

import math

import numpy as np
import pytest

import convrnn as cr
from convrnn.optimizers import SGD, Adam, clip_norm


def parameters(dtype=np.float64):
    rng = np.random.default_rng(0)
    weight = np.asfortranarray(rng.standard_normal((3, 4)).astype(dtype))
    return {"weight": weight, "bias": rng.standard_normal(3).astype(dtype)}


def gradients(seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return {"bias": rng.standard_normal(3).astype(dtype), "weight": rng.standard_normal((3, 4)).astype(dtype)}


def sgd_in_scalars(start, history, lr, momentum):
    p, v = start, 0.0
    for g in history:
        v = momentum * v + g
        p -= lr * v
    return p


def adam_in_scalars(start, history, lr, b1, b2, eps):
    p, m, v = start, 0.0, 0.0
    for t, g in enumerate(history, 1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        p -= lr * (m / (1 - b1**t)) / (math.sqrt(v / (1 - b2**t)) + eps)
    return p


@pytest.mark.parametrize(
    "make, scalar",
    [
        (lambda params: SGD(params, 0.1), lambda p, g: sgd_in_scalars(p, g, 0.1, 0.0)),
        (lambda params: SGD(params, 0.1, momentum=0.9), lambda p, g: sgd_in_scalars(p, g, 0.1, 0.9)),
        (lambda params: Adam(params, 0.1), lambda p, g: adam_in_scalars(p, g, 0.1, 0.9, 0.999, 1e-8)),
        (
            lambda params: Adam(params, 0.1, betas=(0.5, 0.75), eps=0.1),
            lambda p, g: adam_in_scalars(p, g, 0.1, 0.5, 0.75, 0.1),
        ),
    ],
)
def test_steps_follow_the_formula(make, scalar):
    params = parameters()
    start = {name: array.copy() for name, array in params.items()}
    optimizer = make(params)
    history = [gradients(seed) for seed in range(5)]
    for grads in history:
        optimizer.step(grads)
    for name, array in params.items():
        for index in np.ndindex(array.shape):
            expected = scalar(start[name][index], [grads[name][index] for grads in history])
            assert array[index] == pytest.approx(expected, rel=1e-12)


OPTIMIZERS = [SGD, lambda params, lr: SGD(params, lr, momentum=0.9), Adam]


@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_steps_are_in_place_and_keep_the_dtype(make, dtype):
    params = parameters(dtype)
    given = dict(params)
    before = {name: array.copy() for name, array in params.items()}
    grads = gradients(1, dtype)
    for array in grads.values():
        array.flags.writeable = False  # a step only reads them
    make(params, 0.1).step(grads)
    for name in params:
        assert params[name] is given[name] and params[name].dtype == dtype
        assert (params[name] != before[name]).all()


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_learning_rate_may_change(make):
    params = parameters()
    optimizer = make(params, 0.1)
    optimizer.lr = 0.0
    before = params["weight"].copy()
    optimizer.step(gradients(1))
    np.testing.assert_array_equal(params["weight"], before)


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_none_leaves_a_parameter_as_it_is(make):
    params = parameters()
    before = {name: array.copy() for name, array in params.items()}
    make(params, 0.1).step(gradients(1) | {"bias": None})
    np.testing.assert_array_equal(params["bias"], before["bias"])
    assert (params["weight"] != before["weight"]).all()


@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize(
    "change, error, words",
    [
        (lambda grads: grads.pop("bias"), ValueError, r"missing keys \['bias'\]"),
        (lambda grads: grads.update(b=np.zeros(3)), ValueError, r"unexpected keys \['b'\]"),
        (lambda grads: grads.update(bias=np.zeros(1)), ValueError, r"bias.*\(3,\).*\(1,\)"),
        (lambda grads: grads.update(bias=np.zeros(3, "f4")), TypeError, r"bias.*float64.*float32"),
        (lambda grads: grads.update(bias=[1, 2, 3]), TypeError, r"bias.*float64.*int64"),
        (lambda grads: grads.update(bias="abc"), TypeError, r"grads\['bias'\] must"),
    ],
)
def test_bad_gradients_change_nothing(make, change, error, words):
    params, twin = parameters(), parameters()
    optimizer, untouched = make(params, 0.1), make(twin, 0.1)
    grads = gradients(1)
    change(grads)
    with pytest.raises(error, match=words):
        optimizer.step(grads)
    for one in (optimizer, untouched):
        one.step(gradients(2))
    for name in params:
        np.testing.assert_array_equal(params[name], twin[name])


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: SGD(parameters(), -1.0), ValueError, "lr.*-1"),
        (lambda: SGD(parameters(), math.nan), ValueError, "lr.*nan"),
        (lambda: SGD(parameters(), 0.1, momentum=1.0), ValueError, "momentum.*1"),
        (lambda: Adam(parameters(), 0.1, betas=(0.9, 1.0)), ValueError, "betas.*1"),
        (lambda: Adam(parameters(), 0.1, eps=-1e-8), ValueError, "eps"),
        (lambda: SGD({"w": [1.0]}, 0.1), TypeError, "params.*w"),
        (lambda: SGD({"w": np.ones(1, int)}, 0.1), TypeError, "params.*w.*int64"),
        (lambda: SGD({"w": np.ones(1, ">f8")}, 0.1), TypeError, "params.*w.*>f8"),
        (lambda: SGD({"w": np.broadcast_to(1.0, 3)}, 0.1), ValueError, "params.*w.*writable"),
        (lambda: SGD([np.ones(1)], 0.1), TypeError, "params must be a mapping.*list"),
        (lambda: SGD(parameters(), "0.1"), TypeError, "lr must be a number, got '0.1'"),
        (lambda: Adam(parameters(), 0.1, betas=(0.9,)), ValueError, r"betas must be two numbers, got \(0.9,\)"),
        (lambda: Adam(parameters(), 0.1, betas=0.9), TypeError, "betas must be two numbers, got 0.9"),
    ],
)
def test_bad_options(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_a_network_learns():
    """A parity no linear function has: the layers, the loss and the optimizer together."""
    x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
    targets = np.array([0, 1, 1, 0])
    net = cr.Sequential(cr.Linear(2, 8, rng=0), cr.Tanh(), cr.Linear(8, 2, rng=1))
    optimizer = Adam(net.params, 0.05)
    for _ in range(200):
        logits, cache = net.forward(x)
        loss, dlogits = cr.losses.softmax_cross_entropy(logits, targets)
        optimizer.step(net.backward(dlogits, cache)[1])
    assert loss < 0.01
    assert (net(x).argmax(axis=1) == targets).all()


# ---------------------------------------------------------------------------------------------------------- clip_norm


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clip_scales_all_in_place(dtype):
    a, b = np.array([3.0, 0.0], dtype), np.array([[4.0]], dtype)
    assert clip_norm({"a": a, "none": None, "b": b}, 0.5) == 5.0
    np.testing.assert_allclose(a, [0.3, 0.0], rtol=1e-6)
    np.testing.assert_allclose(b, [[0.4]], rtol=1e-6)
    assert a.dtype == dtype


def test_clip_leaves_small_gradients():
    a = np.array([3.0, 4.0])
    assert clip_norm({"a": a}, 5.0) == 5.0
    assert list(a) == [3.0, 4.0]
    assert clip_norm({}, 1.0) == 0.0


def test_clip_of_large_float32_does_not_overflow():
    a = np.full(4, 1e30, np.float32)
    assert clip_norm({"a": a}, 1.0) == pytest.approx(2e30)
    np.testing.assert_allclose(a, 0.5, rtol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_clip_leaves_what_is_not_finite(bad):
    a, b = np.array([bad]), np.array([7.0])
    assert not math.isfinite(clip_norm({"a": a, "b": b}, 1.0))
    assert b[0] == 7.0


@pytest.mark.parametrize("max_norm", [0.0, -1.0, math.nan, "1"])
def test_clip_refuses(max_norm):
    with pytest.raises(TypeError if max_norm == "1" else ValueError, match="max_norm"):
        clip_norm({"a": np.ones(1)}, max_norm)


def test_gradients_by_name():
    with pytest.raises(TypeError, match="grads must be a mapping.*list"):
        SGD({"w": np.ones(1)}, 0.1).step([np.ones(1)])
