"""The elementwise functions under every instruction set, through convrnn._core.map."""

import decimal
import math

import numpy as np
import pytest

from convrnn import _core

NAMES = ("exp", "tanh", "sigmoid", "relu")


def exact(name, value):
    """The value of a function at a float to 40 digits or more, as a Decimal."""
    with decimal.localcontext(prec=60, Emin=-10**6, Emax=10**6):
        x = decimal.Decimal(value)
        if name == "relu":
            return max(x, decimal.Decimal(0))
        if name == "exp":
            return x.exp()
        if name == "sigmoid":
            return 1 / (1 + (-x).exp())
        if abs(x) < 1e-8:  # the difference below would lose its digits
            return x - x**3 / 3 + 2 * x**5 / 15
        square = (2 * abs(x)).exp()
        return ((square - 1) / (square + 1)).copy_sign(x)


def sample(dtype, limit):
    """Numbers of all magnitudes and both signs up to `limit`, dense where the functions bend."""
    rng = np.random.default_rng(11)
    smallest = np.log2(np.finfo(dtype).smallest_subnormal)
    values = np.concatenate([np.linspace(-limit, limit, 501), rng.uniform(-1, 1, 400), rng.uniform(-10, 10, 400),
                             rng.uniform(-limit, limit, 400), 2 ** rng.uniform(smallest, 0, 300),
                             -(2 ** rng.uniform(smallest, 0, 300)),
                             [0.0, -0.0, np.finfo(dtype).tiny, -np.finfo(dtype).tiny]])
    return values.astype(dtype)


@pytest.mark.parametrize("name", NAMES)
def test_error(name, isa, dtype):
    """At most 2 units in the last place, into the subnormals and up to overflow."""
    limits = {"float32": {"exp": 110, "sigmoid": 110, "tanh": 12, "relu": 1e4},
              "float64": {"exp": 760, "sigmoid": 760, "tanh": 25, "relu": 1e4}}
    x = sample(dtype, limits[dtype][name])
    y = _core.map(name, x)
    assert y.dtype == x.dtype and y.shape == x.shape
    largest = decimal.Decimal(float(np.finfo(dtype).max))
    for value, result in zip(x, y, strict=True):
        wanted = exact(name, float(value))
        if wanted > largest * (1 + decimal.Decimal(2) ** -np.finfo(dtype).nmant):
            assert result == math.inf
        elif math.isfinite(result):
            unit = decimal.Decimal(float(np.spacing(np.abs(np.array(float(wanted), dtype)))))
            assert abs(decimal.Decimal(float(result)) - wanted) <= 2 * unit, (value, result)
        else:
            assert wanted > largest * (1 - decimal.Decimal(2) ** -np.finfo(dtype).nmant)


@pytest.mark.parametrize("name", NAMES)
def test_values_outside_arithmetic(name, isa, dtype):
    """NaN is kept, saturation is exact, and only where it is due."""
    info = np.finfo(dtype)
    x = np.array([np.nan, np.inf, -np.inf, info.max, info.min, 1000, -1000, 0.0], dtype)
    wanted = {"exp": [np.nan, np.inf, 0, np.inf, 0, np.inf, 0, 1], "tanh": [np.nan, 1, -1, 1, -1, 1, -1, 0],
              "sigmoid": [np.nan, 1, 0, 1, 0, 1, 0, 0.5], "relu": [np.nan, np.inf, 0, info.max, 0, 1000, 0, 0]}[name]
    for length in (8, 70):
        for place in range(8):  # in any lane
            line, image = (np.resize(np.roll(values, place), length) for values in (x, np.array(wanted, dtype)))
            np.testing.assert_array_equal(_core.map(name, line), image)


@pytest.mark.parametrize("name", NAMES)
def test_position_does_not_matter(name, isa, dtype):
    """An element's result depends on the element alone: not on the length, nor on its place, nor on its neighbours."""
    x = np.random.default_rng(3).standard_normal(70).astype(dtype) * 4
    alone = np.concatenate([_core.map(name, x[i:i + 1]) for i in range(70)])
    for length in range(71):
        assert np.array_equal(_core.map(name, x[:length]), alone[:length])
        assert np.array_equal(_core.map(name, x[70 - length:]), alone[70 - length:])
    x[::3], kept = np.nan, x[1::3].copy()
    assert np.array_equal(_core.map(name, x)[1::3], _core.map(name, kept))


def test_symmetry_and_order(isa, dtype):
    """tanh is odd bit for bit; exp, tanh and sigmoid never leave their range."""
    x = sample(dtype, 30)
    assert np.array_equal(_core.map("tanh", -x), -_core.map("tanh", x))
    assert (np.abs(_core.map("tanh", x)) <= 1).all()
    y = _core.map("sigmoid", x)
    assert ((y >= 0) & (y <= 1)).all()
    assert (_core.map("exp", x) >= 0).all()
    assert np.signbit(_core.map("tanh", np.array([-0.0], dtype))).all()


def test_input_is_not_changed(isa, dtype):
    x = np.linspace(-5, 5, 67, dtype=dtype)
    kept = x.copy()
    for name in NAMES:
        assert not np.shares_memory(_core.map(name, x), x)
        assert np.array_equal(x, kept)
