"""Embedding: the table looked up, its gradient against one-hot rows, errors, what it shares with all layers."""

import pickle

import numpy as np
import pytest

import convrnn as cr


@pytest.fixture(params=[np.float32, np.float64])
def layer(request):
    return cr.Embedding(7, 5, dtype=request.param, rng=3)


def tokens(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 7, shape)


@pytest.mark.parametrize("shape", [(), (4,), (6, 3), (2, 3, 4), (0,), (3, 0)])
@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.int64, np.uint64, ">i4"])
def test_looks_up(layer, shape, kind):
    x = tokens(*shape).astype(kind)
    y = layer(x)
    assert y.shape == (*shape, 5) and y.dtype == layer.params["weight"].dtype
    for index in np.ndindex(shape):
        np.testing.assert_array_equal(y[index], layer.params["weight"][int(x[index])])


def test_gradient_is_that_of_a_product_with_one_hot_rows(layer):
    x = tokens(6, 9)
    y, cache = layer.forward(x)
    dy = np.random.default_rng(1).standard_normal(y.shape).astype(y.dtype)
    before = cache.copy()
    dx, grads = layer.backward(dy, cache)
    assert dx is None and list(grads) == ["weight"]
    expected = np.zeros((7, 5))
    for index in np.ndindex(x.shape):
        expected[x[index]] += dy[index]
    assert grads["weight"].dtype == y.dtype
    np.testing.assert_allclose(grads["weight"], expected, rtol=0, atol=20 * np.finfo(y.dtype).eps)
    np.testing.assert_array_equal(cache, before)
    np.testing.assert_array_equal(layer.backward(dy, cache)[1]["weight"], grads["weight"])


def test_gradient_by_finite_differences():
    layer = cr.Embedding(7, 5, dtype=np.float64, rng=3)
    x = tokens(20)
    y, cache = layer.forward(x)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    _, grads = layer.backward(dy, cache)
    along = np.random.default_rng(2).standard_normal((7, 5))
    losses = []
    for sign in (1, -2):  # one step forward, two back
        layer.params["weight"] += sign * 1e-3 * along
        losses.append((dy * layer(x)).sum())
    assert (losses[0] - losses[1]) / 2e-3 == pytest.approx((grads["weight"] * along).sum(), rel=1e-9)


def test_what_does_not_occur_has_no_gradient(layer):
    y, cache = layer.forward([2, 5, 2])
    gradient = layer.backward(np.ones_like(y), cache)[1]["weight"]
    np.testing.assert_array_equal(gradient[:, 0], [0, 0, 2, 0, 0, 1, 0])


@pytest.mark.parametrize("shape", [(0,), (4, 0)])
def test_gradient_of_nothing_is_zero(layer, shape):
    y, cache = layer.forward(np.zeros(shape, np.int64))
    assert not layer.backward(y, cache)[1]["weight"].any()


def test_start_values():
    weight = cr.Embedding(200, 300, rng=0).params["weight"]
    assert weight.shape == (200, 300) and weight.dtype == np.float32
    assert abs(weight.mean()) < 0.01 and abs(weight.std() - 1) < 0.01
    np.testing.assert_array_equal(weight, cr.Embedding(200, 300, rng=np.random.default_rng(0)).params["weight"])
    np.testing.assert_array_equal(weight, cr.Embedding(200, 300, dtype=np.float64, rng=0).params["weight"].astype("f"))


def test_begins_a_network_that_learns():
    net = cr.Sequential(cr.Embedding(7, 8, rng=0), cr.Tanh(), cr.Linear(8, 7, rng=1))
    optimizer = cr.optimizers.Adam(net.params, 0.05)
    x = tokens(64)
    for _ in range(60):
        logits, cache = net.forward(x)
        loss, dlogits = cr.losses.softmax_cross_entropy(logits, (x + 3) % 7)
        optimizer.step(net.backward(dlogits, cache, needs_dx=False)[1])
    assert loss < 0.1
    np.testing.assert_array_equal(net.frozen()(np.arange(7)).argmax(axis=1), (np.arange(7) + 3) % 7)


def test_snapshot_state_and_pickle(layer):
    fast, copy, state = layer.frozen(), pickle.loads(pickle.dumps(layer)), layer.state_dict()
    before = layer([1, 6])
    layer.params["weight"][...] = 0
    np.testing.assert_array_equal(fast([1, 6]), before)
    np.testing.assert_array_equal(copy([1, 6]), before)
    assert list(state) == ["weight"] and not layer([1, 6]).any()
    layer.load_state_dict(state)
    np.testing.assert_array_equal(layer([1, 6]), before)


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda layer: layer([7]), ValueError, "x must be 0 to 6, got 7"),
        (lambda layer: layer([[0, -1]]), ValueError, "x must be 0 to 6, got -1"),
        (lambda layer: layer(np.array([2**63], np.uint64)), ValueError, "got 9223372036854775808"),
        (lambda layer: layer([1.0]), TypeError, "x must be integers, got float64"),
        (lambda layer: layer([True]), TypeError, "x must be integers, got bool"),
        (lambda layer: layer.backward(layer([0, 1])[:, :4], np.arange(2)), ValueError, r"dy must have .* \(2, 5\)"),
        (lambda layer: layer.backward(layer([0, 1]).astype(">f4"), np.arange(2)), TypeError, "dy must be .*>f4"),
        (lambda layer: cr.Embedding(0, 3), ValueError, "num_embeddings must be at least 1"),
        (lambda layer: cr.Embedding(3, 0), ValueError, "embedding_dim must be at least 1"),
        (lambda layer: cr.Embedding(3, 2.0), TypeError, "embedding_dim must be an int"),
        (lambda layer: cr.Embedding(3, 2, dtype=np.float16), TypeError, "float16"),
        (lambda layer: layer([[0], [0, 1]]), ValueError, "x cannot be read as an array"),
    ],
)
def test_errors(layer, make, error, words):
    with pytest.raises(error, match=words):
        make(layer)


def test_no_tokens(layer):
    """An empty list, too, which is of floats to NumPy."""
    y, cache = layer.forward([])
    assert y.shape == (0, 5) and not layer.backward(y, cache)[1]["weight"].any()
