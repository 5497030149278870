"""Losses: values by hand, gradients by finite differences, masks, extremes, errors."""

import math

import numpy as np
import pytest

from convrnn.losses import gaussian_nll, mean_squared_error, softmax_cross_entropy


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def cross_entropy_of(x):
    targets = np.random.default_rng(1).integers(0, x.shape[-1], x.shape[:-1])
    return lambda x, mask=None: softmax_cross_entropy(x, targets, mask=mask)


def squared_error_of(x):
    targets = draw(*x.shape, seed=1)
    return lambda x, mask=None: mean_squared_error(x, targets, mask=mask)


def nll_of_mean(x):
    log_variance, targets = draw(*x.shape, seed=1), draw(*x.shape, seed=2)

    def loss(x, mask=None):
        value, gradients = gaussian_nll(x, log_variance, targets, mask=mask)
        return value, gradients[0]

    return loss


def nll_of_log_variance(x):
    mean, targets = draw(*x.shape, seed=1), draw(*x.shape, seed=2)

    def loss(x, mask=None):
        value, gradients = gaussian_nll(mean, x, targets, mask=mask)
        return value, gradients[1]

    return loss


LOSSES = [cross_entropy_of, squared_error_of, nll_of_mean, nll_of_log_variance]


@pytest.mark.parametrize("make", LOSSES)
@pytest.mark.parametrize("shape", [(4,), (5, 4), (3, 2, 4)])
def test_gradients_by_finite_differences(make, shape):
    x = draw(*shape)
    loss = make(x)
    mask = None if len(shape) < 3 else np.array([[True, False], [True, True], [False, True]])
    _, gradient = loss(x, mask)
    assert gradient.shape == x.shape and gradient.dtype == x.dtype
    along = draw(*shape, seed=9)
    step = 1e-5
    measured = (loss(x + step * along, mask)[0] - loss(x - step * along, mask)[0]) / (2 * step)
    assert measured == pytest.approx((gradient * along).sum(), rel=1e-7, abs=1e-10)


@pytest.mark.parametrize("make", LOSSES)
def test_mask_is_the_loss_of_what_it_keeps(make):
    x = draw(6, 4)
    mask = np.array([True, False, True, True, False, False])
    expected, _ = softmax_cross_entropy(x[mask], np.arange(6)[mask] % 4)
    value, gradient = softmax_cross_entropy(x, np.arange(6) % 4, mask=mask)
    assert value == pytest.approx(expected, rel=1e-15)
    value, gradient = make(x)(x, mask)
    assert not gradient[~mask].any() and gradient[mask].all()
    poisoned = np.where(mask[:, np.newaxis], x, np.nan)
    assert make(x)(poisoned, mask)[0] == value
    np.testing.assert_array_equal(make(x)(poisoned, mask)[1], gradient)


@pytest.mark.parametrize("make", LOSSES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nothing_counts(make, dtype):
    for x, mask in [(draw(0, 4), None), (draw(3, 4), np.zeros(3, bool)), (draw(2, 3, 4), np.zeros((2, 3), bool))]:
        x = x.astype(dtype)
        if make is cross_entropy_of:
            value, gradient = softmax_cross_entropy(x, np.full(x.shape[:-1], -1), mask=mask)
        else:
            value, gradient = mean_squared_error(x, x, mask=mask)
            _, gradients = gaussian_nll(x, x, x, mask=mask)
            assert all(g.shape == x.shape and g.dtype == dtype and not g.any() for g in gradients)
        assert value == 0.0 and gradient.shape == x.shape and gradient.dtype == dtype and not gradient.any()


def test_cross_entropy_by_hand():
    loss, gradient = softmax_cross_entropy(np.log([[1.0, 2.0, 5.0], [1.0, 1.0, 2.0]]), [2, 0])
    assert loss == pytest.approx(-(math.log(5 / 8) + math.log(1 / 4)) / 2, rel=1e-14)
    np.testing.assert_allclose(gradient, [[1 / 16, 2 / 16, -3 / 16], [-3 / 8, 1 / 8, 2 / 8]], rtol=1e-14)


def test_cross_entropy_of_huge_logits():
    loss, gradient = softmax_cross_entropy(np.array([[1e4, 0, -1e4], [0, 3e38, 0]], np.float32), np.array([1, 1]))
    assert loss == pytest.approx(5000)
    np.testing.assert_array_equal(gradient, np.array([[0.5, -0.5, 0], [0, 0, 0]], np.float32))
    assert gradient.dtype == np.float32


def test_cross_entropy_of_an_impossible_class():
    loss, gradient = softmax_cross_entropy(np.array([[0.0, -np.inf]]), [0])
    assert loss == 0.0
    np.testing.assert_array_equal(gradient, [[0.0, 0.0]])


def test_masked_targets_are_not_read():
    logits = draw(3, 4)
    loss, _ = softmax_cross_entropy(logits, [1, -100, 2**40], mask=np.array([True, False, False]))
    assert loss == softmax_cross_entropy(logits[:1], [1])[0]


def test_squared_error_by_hand():
    loss, gradient = mean_squared_error(np.array([[1.0, 2.0], [3.0, 5.0]]), np.array([[1.0, 0.0], [3.0, 4.0]]))
    assert loss == 5 / 4
    np.testing.assert_array_equal(gradient, [[0.0, 1.0], [0.0, 0.5]])
    loss, gradient = mean_squared_error(
        np.array([1.0, 9.0]), np.array([3.0, 0.0]), mask=np.array([True, False])
    )
    assert loss == 4 and list(gradient) == [-4, 0]


def test_gaussian_by_hand():
    """Standard deviation 3, two of them away from the mean."""
    loss, (dmean, dlog_variance) = gaussian_nll(np.array([1.0]), np.array([math.log(9)]), np.array([7.0]))
    assert loss == pytest.approx(-math.log(math.exp(-2) / (3 * math.sqrt(2 * math.pi))), rel=1e-14)
    assert dmean[0] == pytest.approx(-6 / 9) and dlog_variance[0] == pytest.approx((1 - 4) / 2)


def test_float32_loss_is_summed_in_float64():
    y = np.full(10_000_001, 1e-4, np.float32)
    y[0] = 1e3
    loss, gradient = mean_squared_error(y, np.zeros_like(y))
    assert loss == pytest.approx((1e6 + 1e7 * float(np.float32(1e-4)) ** 2) / 10_000_001, rel=1e-12)
    assert gradient.dtype == np.float32


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: softmax_cross_entropy(np.ones((2, 3), int), [0, 0]), TypeError, "logits.*int64"),
        (lambda: softmax_cross_entropy(np.ones((2, 3)), [0.0, 0.0]), TypeError, "targets.*integers.*float64"),
        (lambda: softmax_cross_entropy(np.ones((2, 3)), [True, False]), TypeError, "targets.*bool"),
        (lambda: softmax_cross_entropy(np.ones((2, 3)), [0, 0, 0]), ValueError, r"targets.*\(2,\).*\(3,\)"),
        (lambda: softmax_cross_entropy(np.ones((2, 3)), [0, 3]), ValueError, "targets.*0 to 2.*got 3"),
        (lambda: softmax_cross_entropy(np.ones((2, 3)), [0, -1]), ValueError, "targets.*got -1"),
        (lambda: softmax_cross_entropy(np.float64(1), 0), ValueError, "logits"),
        (lambda: softmax_cross_entropy(np.ones((2, 0)), [0, 0]), ValueError, "logits.*class"),
        (lambda: softmax_cross_entropy(np.ones((2, 3)), [0, 0], mask=[1, 0]), TypeError, "mask.*boolean.*int64"),
        (lambda: softmax_cross_entropy(np.ones((2, 3)), [0, 0], mask=[True] * 3), ValueError, r"mask.*\(2,\).*\(3,\)"),
        (
            lambda: softmax_cross_entropy(np.ones((2, 3)), [0, 0], mask=np.ones((2, 3), bool)),
            ValueError,
            r"mask.*\(2,\).*\(2, 3\)",
        ),
        (lambda: mean_squared_error(np.ones(2), np.ones(3)), ValueError, r"targets.*\(2,\).*\(3,\)"),
        (lambda: mean_squared_error(np.ones(2), np.ones(2, "f4")), TypeError, "targets.*float64.*float32"),
        (lambda: mean_squared_error([1, 2], np.ones(2)), TypeError, "y must.*int64"),
        (lambda: mean_squared_error(np.ones(2), np.ones(2), mask=[True]), ValueError, r"mask.*\(2,\).*\(1,\)"),
        (lambda: gaussian_nll(np.ones(2), np.ones(1), np.ones(2)), ValueError, r"log_variance.*\(2,\).*\(1,\)"),
        (lambda: gaussian_nll(np.ones(2), np.ones(2), np.ones(2, "f4")), TypeError, "targets.*float32"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_no_rows():
    loss, dlogits = softmax_cross_entropy(np.ones((0, 3)), [])
    assert loss == 0.0 and dlogits.shape == (0, 3)


def test_inputs_are_not_written_to():
    logits, targets, mask = draw(3, 4), np.array([0, 1, 2]), np.array([True, True, False])
    for array in (logits, targets, mask):
        array.flags.writeable = False
    softmax_cross_entropy(logits, targets)
    softmax_cross_entropy(logits, targets, mask=mask)
    mean_squared_error(logits, logits)
    gaussian_nll(logits, logits, logits, mask=mask)
