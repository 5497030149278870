"""AR and LatentAR: the product rule, known processes found again, samples against conditionals, errors."""

import importlib.util
import itertools
import math
import pickle
import sys

import numpy as np
import pytest

import convrnn as cr

CELLS = ("rnn", "gru", "lstm")


def normal_log_density(x, mean, covariance):
    """Of one value x (d,), as written in textbooks."""
    difference = x - mean
    quadratic = difference @ np.linalg.inv(covariance) @ difference
    return -(quadratic + np.log(np.linalg.det(covariance)) + len(x) * math.log(2 * math.pi)) / 2


def vector_process(T, seed=0):
    """A stable AR(2) of two components with correlated noise, and its parameters."""
    intercept = np.array([1.0, -2.0])
    coefficients = np.array([[[0.5, 0.2], [-0.1, 0.3]], [[-0.3, 0.1], [0.0, 0.2]]])
    root = np.array([[0.8, 0.0], [0.5, 0.4]])
    rng = np.random.default_rng(seed)
    x = np.zeros((T, 2))
    for s in range(2, T):
        noise = root @ rng.standard_normal(2)
        x[s] = intercept + coefficients[0] @ x[s - 1] + coefficients[1] @ x[s - 2] + noise
    return x, intercept, coefficients, root @ root.T


def wave(T, seed=0):
    """A noisy sine, (T,)."""
    return 5 + 2 * np.sin(0.7 * np.arange(T)) + 0.2 * np.random.default_rng(seed).standard_normal(T)


def markov(T, seed=0):
    """Integers 0..2, each drawn by the row of a table that the last one names; and the table."""
    rows = np.array([[0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [0.7, 0.1, 0.2]])
    rng = np.random.default_rng(seed)
    x = [0]
    for _ in range(T - 1):
        x.append(int(rng.choice(3, p=rows[x[-1]])))
    return np.array(x), rows


@pytest.fixture(scope="module")
def categorical():
    """A fitted model of each cell."""
    x, _ = markov(300)
    return {
        cell: cr.LatentAR(6, cell=cell, output="categorical", dtype=np.float64, rng=0).fit(x, epochs=2)
        for cell in CELLS
    }


@pytest.fixture(scope="module")
def gaussian():
    """A fitted model of each cell, of a series of two components."""
    x, *_ = vector_process(200)
    return {cell: cr.LatentAR(6, cell=cell, dtype=np.float64, rng=0).fit(x, epochs=3) for cell in CELLS}


# ------------------------------------------------------------------------------------------------------------ AR(tau)


def test_finds_a_vector_process_again():
    x, intercept, coefficients, covariance = vector_process(20_000)
    model = cr.AR(2).fit(x)
    np.testing.assert_allclose(model.intercept, intercept, atol=0.05)
    np.testing.assert_allclose(model.coefficients, coefficients, atol=0.02)
    np.testing.assert_allclose(model.covariance, covariance, atol=0.02)


def test_log_prob_is_the_product_of_conditionals():
    x, *_ = vector_process(40)
    model = cr.AR(2).fit(x)
    conditionals = [
        normal_log_density(
            x[s],
            model.intercept + model.coefficients[0] @ x[s - 1] + model.coefficients[1] @ x[s - 2],
            model.covariance,
        )
        for s in range(2, 40)
    ]
    assert model.log_prob(x) == pytest.approx(sum(conditionals), rel=1e-12)
    assert model.log_prob(x, given=30) == pytest.approx(sum(conditionals[28:]), rel=1e-12)
    assert model.log_prob(x[:2]) == model.log_prob(x, given=40) == 0.0


def test_density_integrates_to_one():
    x = wave(60)
    model = cr.AR(3).fit(x)
    grid = np.linspace(-5, 15, 4001)
    densities = [math.exp(model.log_prob(np.append(x[-3:], value))) for value in grid]
    assert np.trapezoid(densities, grid) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("tau", [0, 1, 3])
def test_fit_is_the_maximum_of_the_likelihood(tau):
    x, *_ = vector_process(80)
    model = cr.AR(tau).fit(x)
    best = model.log_prob(x)
    rng = np.random.default_rng(0)
    for name in ("intercept", "coefficients", "covariance"):
        fitted = getattr(model, name)
        for _ in range(5):
            step = 1e-3 * rng.standard_normal(fitted.shape)
            for sign in (1, -1):
                setattr(model, name, fitted + sign * (step + step.T if name == "covariance" else step))
                assert model.log_prob(x) < best or fitted.size == 0
        setattr(model, name, fitted)


def test_likelihood_prefers_the_true_tau():
    x, *_ = vector_process(600)
    nats = [cr.AR(tau).fit(x[:400]).log_prob(x, given=400) for tau in range(6)]
    assert int(np.argmax(nats)) == 2


def test_independent_noise():
    x = wave(50)
    model = cr.AR(0).fit(x)
    assert model.intercept[0] == pytest.approx(x.mean()) and model.covariance[0, 0] == pytest.approx(x.var())
    np.testing.assert_allclose(model.predict(x, 3), x.mean())


def test_series_far_from_zero_lose_no_digits():
    x = wave(300)
    near, far = cr.AR(4).fit(x), cr.AR(4).fit(x + 1e6)
    np.testing.assert_allclose(far.coefficients, near.coefficients, atol=1e-7)
    assert far.log_prob(x + 1e6) == pytest.approx(near.log_prob(x), abs=1e-4)


def test_unit_of_the_series_enters_by_its_jacobian():
    x = wave(100)
    assert cr.AR(2).fit(10 * x).log_prob(10 * x) == pytest.approx(cr.AR(2).fit(x).log_prob(x) - 98 * math.log(10))


def test_predictions_feed_back():
    x, *_ = vector_process(60)
    model = cr.AR(2).fit(x)
    series = list(x)
    for _ in range(4):
        series.append(model.intercept + model.coefficients[0] @ series[-1] + model.coefficients[1] @ series[-2])
    np.testing.assert_allclose(model.predict(x, 4), series[60:], rtol=1e-12)
    np.testing.assert_array_equal(model.predict(x[-2:], 4), model.predict(x, 4))


def test_samples_scatter_as_the_model_says():
    x, *_ = vector_process(300)
    model = cr.AR(2).fit(x)
    drawn = model.sample(3, start=x, rng=0, paths=40_000)
    np.testing.assert_allclose(drawn.mean(axis=0), model.predict(x, 3), atol=0.03)
    np.testing.assert_allclose(np.cov(drawn[:, 0].T), model.covariance, atol=0.02)
    first = model.coefficients[0]
    np.testing.assert_allclose(
        np.cov(drawn[:, 1].T), model.covariance + first @ model.covariance @ first.T, atol=0.02
    )


def test_a_long_sample_has_the_parameters_it_was_drawn_from():
    model = cr.AR(3).fit(wave(400))
    again = cr.AR(3).fit(model.sample(20_000, rng=1))
    np.testing.assert_allclose(again.coefficients, model.coefficients, atol=0.03)
    np.testing.assert_allclose(again.covariance, model.covariance, rtol=0.05)


def test_a_series_without_noise():
    x = np.sin(np.arange(30.0))
    model = cr.AR(2).fit(x)
    np.testing.assert_allclose(model.sample(10, start=x, rng=0), np.sin(np.arange(30, 40)), atol=1e-6)
    still = cr.AR(1).fit(np.full(20, 3.0))
    np.testing.assert_array_equal(still.predict(np.full(1, 3.0), 2), [3, 3])
    with pytest.raises(ValueError, match="covariance is singular"):
        still.log_prob(np.full(4, 3.0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ar_keeps_dtype_and_shape(dtype):
    x = wave(50).astype(dtype)
    for series, shape in ((x, ()), (x[:, None], (1,)), (np.stack((x, x[::-1]), axis=1), (2,))):
        model = cr.AR(2).fit(series)
        for result, steps in ((model.predict(series, 4), 4), (model.sample(3, start=series, rng=0), 3),
                              (model.predict(series, 0), 0)):
            assert result.shape == (steps, *shape) and result.dtype == dtype
        assert model.sample(3, rng=0, paths=5).shape == (5, 3, *shape)
        assert isinstance(model.log_prob(series), float)


# ------------------------------------------------------------------------------------------- LatentAR: the product rule


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("given", [0, 1, 2])
def test_probabilities_of_all_sequences_sum_to_one(categorical, cell, given):
    model, start = categorical[cell], (2, 0)[:given]
    total = sum(
        math.exp(model.log_prob(np.array(start + rest), given=given))
        for rest in itertools.product(range(3), repeat=5 - given)
    )
    assert total == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_latent_log_prob_is_the_product_of_conditionals(categorical, gaussian, cell):
    for model, x in ((categorical[cell], markov(30, seed=5)[0]), (gaussian[cell], vector_process(30, seed=5)[0])):
        conditionals = [model.log_prob(x[: s + 1], given=s) for s in range(30)]
        assert model.log_prob(x) == pytest.approx(sum(conditionals[1:]), rel=1e-12)
        assert model.log_prob(x, given=0) == pytest.approx(sum(conditionals), rel=1e-12)
        assert model.log_prob(x, given=17) == pytest.approx(sum(conditionals[17:]), rel=1e-12)
        assert model.log_prob(x[:1]) == model.log_prob(x, given=30) == model.log_prob(x[:0], given=0) == 0.0


@pytest.mark.parametrize("given", [0, 1, 3])
def test_gaussian_density_integrates_to_one(given):
    x = wave(100)
    model = cr.LatentAR(5, cell="gru", dtype=np.float64, rng=0).fit(x, epochs=3)
    grid = np.linspace(-10, 20, 2001)
    densities = [math.exp(model.log_prob(np.append(x[:given], value), given=given)) for value in grid]
    assert np.trapezoid(densities, grid) == pytest.approx(1, abs=1e-9)


def test_what_is_chunked_inside_does_not_matter(categorical, gaussian, monkeypatch):
    cases = [(categorical["lstm"], markov(50)[0]), (gaussian["gru"], vector_process(50)[0])]
    whole = [(model.log_prob(x, given=9), model.predict(x, 3)) for model, x in cases]
    monkeypatch.setattr(sys.modules[cr.LatentAR.__module__], "_CHUNK", 7)
    for (model, x), (log_prob, forecast) in zip(cases, whole, strict=True):
        assert model.log_prob(x, given=9) == pytest.approx(log_prob, rel=1e-13)
        np.testing.assert_array_equal(model.predict(x, 3), forecast)


def test_latent_log_prob_is_that_of_its_networks():
    """Against the layers called by hand, with the parameters that the model shows."""
    x, _ = markov(60)
    model = cr.LatentAR(6, cell="gru", output="categorical", num_layers=2, embedding_dim=4, dtype=np.float64, rng=0)
    params = model.fit(x, epochs=1).params
    parts = {
        "embedding": cr.Embedding(3, 4, dtype=np.float64),
        "cell": cr.GRU(4, 6, num_layers=2, dtype=np.float64),
        "head": cr.Linear(6, 3, dtype=np.float64),
    }
    for part, layer in parts.items():
        layer.load_state_dict({name.removeprefix(f"{part}."): array for name, array in params.items()
                               if name.startswith(f"{part}.")})
    logits = parts["head"](parts["cell"](parts["embedding"](x[:-1, None]))[0])
    loss, _ = cr.losses.softmax_cross_entropy(logits[:, 0], x[1:])
    assert model.log_prob(x) == pytest.approx(-59 * loss, rel=1e-12)


# ------------------------------------------------------------------------------------------------- LatentAR: drawing


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("start", [None, [1], [2, 0]])
def test_samples_agree_with_the_conditionals(categorical, cell, start):
    model, given = categorical[cell], () if start is None else tuple(start)
    paths = 20_000
    drawn = model.sample(2, start=start, rng=0, paths=paths)
    assert drawn.shape == (paths, 2) and drawn.dtype == np.int64
    for pair in itertools.product(range(3), repeat=2):
        p = math.exp(model.log_prob(np.array(given + pair), given=len(given)))
        share = (drawn == pair).all(axis=1).mean()
        assert abs(share - p) < 4.5 * math.sqrt(p * (1 - p) / paths)


@pytest.mark.parametrize("cell", CELLS)
def test_gaussian_samples_agree_with_the_density(gaussian, cell):
    model, x = gaussian[cell], vector_process(20)[0]
    drawn = model.sample(1, start=x, rng=0, paths=20_000)[:, 0]
    mean = model.predict(x, 1)[0]
    np.testing.assert_allclose(drawn.mean(axis=0), mean, atol=0.05)
    # The density at the mean of a normal distribution with independent components tells the product of its deviations.
    at_mean = model.log_prob(np.concatenate((x, [mean])), given=len(x))
    assert at_mean == pytest.approx(-np.log(drawn.std(axis=0)).sum() - math.log(2 * math.pi), abs=0.03)


def test_paths_are_each_what_one_draw_is(gaussian, categorical):
    for model, x in ((gaussian["lstm"], vector_process(9)[0]), (categorical["lstm"], markov(9)[0])):
        one, many = model.sample(6, start=x, rng=3), model.sample(6, start=x, rng=3, paths=1)
        np.testing.assert_array_equal(one, many[0])
        assert not np.array_equal(one, model.sample(6, start=x, rng=4))


def test_predictions_are_the_likeliest_fed_back(categorical, gaussian):
    model, x = categorical["gru"], markov(8)[0]
    series = x
    for value in model.predict(x, 4):
        nats = [model.log_prob(np.append(series, v), given=len(series)) for v in range(3)]
        assert int(np.argmax(nats)) == value
        series = np.append(series, value)
    model, x = gaussian["gru"], vector_process(8)[0]
    forecast = model.predict(x, 3)
    for s in range(3):
        np.testing.assert_allclose(model.predict(np.concatenate((x, forecast[:s])), 1)[0], forecast[s], rtol=1e-12)


# ------------------------------------------------------------------------------------------------- LatentAR: learning


@pytest.mark.parametrize("cell", CELLS)
def test_learns_a_markov_chain(cell):
    x, rows = markov(2000)
    model = cr.LatentAR(8, cell=cell, output="categorical", rng=0).fit(x, epochs=8, strands=4, lr=0.02)
    fresh, _ = markov(1000, seed=1)
    truth = np.log(rows[fresh[:-1], fresh[1:]]).mean()
    assert truth - 0.03 < model.log_prob(fresh) / 999 <= truth + 0.005
    learned = [[math.exp(model.log_prob([0, 1, last, v], given=3)) for v in range(3)] for last in range(3)]
    np.testing.assert_allclose(learned, rows, atol=0.12)


def test_remembers_more_than_the_last_value():
    """Whether a 1 or a 2 follows two zeros depends on what stood before them: past the reach of a Markov chain."""
    x = np.array([0, 0, 1, 0, 0, 2] * 60)
    model = cr.LatentAR(10, cell="gru", output="categorical", rng=0).fit(x, epochs=15, block=24, lr=0.02)
    assert model.log_prob(x[-60:], given=6) / 54 > -0.05
    np.testing.assert_array_equal(model.predict(x, 6), x[:6])


def test_gaussian_beats_independent_values_and_knows_its_noise():
    x = wave(500)
    model = cr.LatentAR(12, cell="gru", rng=0).fit(x[:400], epochs=60, lr=0.01)
    noise_alone = -(math.log(2 * math.pi * 0.2**2) + 1) / 2
    nats = model.log_prob(x, given=400) / 100
    assert cr.AR(0).fit(x[:400]).log_prob(x, given=400) / 100 < -1.5
    assert noise_alone - 0.35 < nats < noise_alone + 0.2


@pytest.mark.parametrize("block, strands", [(10, 1), (25, 3)])
@pytest.mark.parametrize("x", [100 * wave(61), 100 * vector_process(61)[0]], ids=["one", "two"])
def test_losses_are_the_negative_log_prob(x, block, strands):
    """With a learning rate of 0 an epoch is one walk: in series' units, whatever it is standardised to inside."""
    model = cr.LatentAR(5, cell="lstm", dtype=np.float64, rng=0).fit(x, epochs=1, block=block, strands=strands, lr=0.0)
    assert len(model.losses) == math.ceil(60 // strands / block)
    steps = 60 // strands
    sizes = [min(block, steps - t) for t in range(0, steps, block)]
    walks = [x[i * steps : (i + 1) * steps + 1] for i in range(strands)]
    expected = -sum(model.log_prob(walk) for walk in walks) / 60
    assert np.average(model.losses, weights=sizes) == pytest.approx(expected, rel=1e-12)


def test_what_strands_leave_out_changes_with_the_epoch():
    """62 steps in 3 strands leave out 2, so that a walk can begin at 3 places."""
    model = cr.LatentAR(4, dtype=np.float64, rng=0).fit(wave(63), epochs=30, block=20, strands=3, lr=0.0)
    assert len(model.losses) == 30 and len({round(loss, 9) for loss in model.losses}) == 3


@pytest.mark.parametrize("cell, layer", [("rnn", cr.RNN), ("gru", cr.GRU), ("lstm", cr.LSTM)])
def test_fit_is_truncated_bptt_with_adam(cell, layer):
    """Against the same training by hand: state carried over blocks, its gradient dropped, the rate along a cosine."""
    x, *_ = vector_process(41)
    options = {"cell": cell, "dtype": np.float64, "rng": 0}
    model = cr.LatentAR(5, **options).fit(x, epochs=2, block=15, lr=0.01, clip_norm=0.65)
    params = cr.LatentAR(5, **options).fit(x, epochs=1, lr=0.0).params  # the start values

    recurrent, head = layer(2, 5, dtype=np.float64), cr.Linear(5, 4, dtype=np.float64)
    recurrent.params.update({name.removeprefix("cell."): params[name] for name in params if name.startswith("cell.")})
    head.params.update({name.removeprefix("head."): params[name] for name in params if name.startswith("head.")})
    optimizer = cr.optimizers.Adam(params, 0.01)
    values = ((x - x.mean(axis=0)) / x.std(axis=0))[:, np.newaxis]
    norms = []
    for step in range(6):
        block = slice(step % 3 * 15, min(step % 3 * 15 + 15, 40))
        state = None if step % 3 == 0 else state
        y, state, cache = recurrent.forward(values[:-1][block], state)
        outputs, head_cache = head.forward(y)
        _, gradients = cr.losses.gaussian_nll(outputs[..., :2], outputs[..., 2:], values[1:][block])
        dy, head_grads = head.backward(2 * np.concatenate(gradients, axis=-1), head_cache)  # per value, not component
        _, _, cell_grads = recurrent.backward(dy, cache)
        grads = {f"cell.{name}": array for name, array in cell_grads.items()}
        grads |= {f"head.{name}": array for name, array in head_grads.items()}
        norms.append(cr.optimizers.clip_norm(grads, 0.65))
        optimizer.lr = 0.01 * (1 + math.cos(math.pi * step / 6)) / 2
        optimizer.step(grads)
    if cell == "lstm":  # some clipped and some not: else Adam would hide a wrong scale of them all
        assert min(norms) < 0.65 < max(norms)
    for name, array in model.params.items():
        np.testing.assert_allclose(array, params[name], rtol=1e-9, atol=1e-12)


def test_validation_keeps_the_best_epoch():
    x = np.random.default_rng(0).standard_normal(120)  # nothing to learn but by heart
    model = cr.LatentAR(20, cell="gru", rng=0).fit(x, epochs=60, lr=0.02, validation=40)
    losses = model.validation_losses
    assert len(losses) == 60 and min(losses) < losses[-1] - 0.1
    assert -model.log_prob(x[40:], given=40) / 40 == pytest.approx(min(losses), rel=1e-6)


def test_validation_is_not_learned_from():
    x = wave(100)
    y = x.copy()
    y[80:] = 1e3
    fits = [cr.LatentAR(4, rng=0).fit(series, epochs=1, validation=20).params for series in (x, y)]
    for name in fits[0]:
        np.testing.assert_array_equal(fits[0][name], fits[1][name])


@pytest.mark.parametrize("rng", [7, np.random.SeedSequence(7)])
def test_seed_decides_all(rng):
    x = wave(90)
    fits = [cr.LatentAR(4, cell="gru", rng=rng).fit(x, epochs=2, strands=4).params for _ in range(2)]
    other = cr.LatentAR(4, cell="gru", rng=8).fit(x, epochs=2, strands=4).params
    for name in other:
        np.testing.assert_array_equal(fits[0][name], fits[1][name])
    assert any(not np.array_equal(fits[0][name], other[name]) for name in other)
    model = cr.LatentAR(4, cell="gru", rng=rng).fit(x, epochs=1)
    again = model.fit(x, epochs=2, strands=4).params  # from new start values, the same ones
    np.testing.assert_array_equal(again["head.weight"], fits[0]["head.weight"])
    assert len(model.losses) == 2 * math.ceil(89 // 4 / 32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("series_dtype", [np.float32, np.float64])
def test_latent_dtypes_and_shapes(dtype, series_dtype):
    x = wave(40).astype(series_dtype)
    for series, shape in ((x, ()), (x[:, None], (1,)), (np.stack((x, x[::-1], x), axis=1), (3,))):
        model = cr.LatentAR(4, cell="lstm", num_layers=2, dtype=dtype, rng=0).fit(series, epochs=1)
        assert {array.dtype for array in model.params.values()} == {np.dtype(dtype)}
        for result in (model.predict(series, 3), model.sample(3, start=series)):
            assert result.shape == (3, *shape) and result.dtype == series_dtype
        assert model.sample(3, paths=2).shape == (2, 3, *shape) and model.sample(3).dtype == dtype
        assert model.predict(series[:0], 2).shape == (2, *shape) and model.sample(0).shape == (0, *shape)
    assert math.isfinite(cr.LatentAR(3).fit(np.full(20, 2.0), epochs=2).log_prob(np.full(5, 2.0)))


def test_pickle(categorical):
    model, x = categorical["lstm"], markov(20)[0]
    assert pickle.loads(pickle.dumps(model)).log_prob(x) == model.log_prob(x)


def test_progress_bar_only_if_asked_for_and_there(capsys, monkeypatch):
    cr.LatentAR(3, rng=0).fit(wave(30), epochs=1)
    assert capsys.readouterr().err == ""
    if importlib.util.find_spec("tqdm"):
        cr.LatentAR(3, rng=0).fit(wave(30), epochs=1, progress=True)
        assert "steps/s" in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    cr.LatentAR(3, rng=0).fit(wave(30), epochs=1, progress=True)
    assert capsys.readouterr().err == ""


# ------------------------------------------------------------------------------------------------------------- errors


def fitted_ar():
    return cr.AR(2).fit(wave(30))


def fitted_gaussian():
    return cr.LatentAR(3, rng=0).fit(wave(30), epochs=1)


def fitted_categorical():
    return cr.LatentAR(3, output="categorical", rng=0).fit(np.arange(30) % 3, epochs=1)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: cr.AR(-1), ValueError, "tau must be at least 0"),
        (lambda: cr.AR(1.5), TypeError, "tau must be an int"),
        (lambda: cr.AR(1).predict(wave(9), 1), RuntimeError, "call fit first"),
        (lambda: cr.AR(1).sample(2), RuntimeError, "call fit first"),
        (lambda: cr.AR(1).fit(np.arange(9)), TypeError, "x must be float32 or float64.*int64"),
        (lambda: cr.AR(1).fit(np.zeros((3, 3, 3))), ValueError, r"x must have shape .*\(3, 3, 3\)"),
        (lambda: cr.AR(1).fit(np.zeros((9, 0))), ValueError, r"d at least 1, got \(9, 0\)"),
        (lambda: cr.AR(3).fit(wave(7)), ValueError, "x must have at least 8 values for tau = 3 and d = 1, got 7"),
        (lambda: cr.AR(1).fit([1.0, np.nan, 2, 3, 4]), ValueError, "x must be finite, got nan"),
        (lambda: fitted_ar().log_prob(np.zeros((9, 2))), ValueError, r"shape \(T,\) like the series of fit"),
        (lambda: fitted_ar().log_prob(wave(9), given=1), ValueError, "given must be at least 2"),
        (lambda: fitted_ar().log_prob(wave(1)), ValueError, "at least the 2 values that are given, got 1"),
        (lambda: fitted_ar().predict(wave(1), 3), ValueError, "x must have at least tau = 2 values, got 1"),
        (lambda: fitted_ar().predict(wave(9), -1), ValueError, "steps must be at least 0"),
        (lambda: fitted_ar().sample(3, start=wave(1)), ValueError, "start must have at least tau = 2 values, got 1"),
        (lambda: fitted_ar().sample(3, paths=0), ValueError, "paths must be at least 1"),
        (lambda: cr.LatentAR(0), ValueError, "hidden_size must be at least 1"),
        (lambda: cr.LatentAR(3, cell="elman"), ValueError, "cell must be one of 'rnn', 'gru', 'lstm', got 'elman'"),
        (lambda: cr.LatentAR(3, output="poisson"), ValueError, "output must be one of 'gaussian', 'categorical'"),
        (lambda: cr.LatentAR(3, num_categories=4), ValueError, "num_categories .* are for output='categorical'"),
        (lambda: cr.LatentAR(3, dtype=np.int32), TypeError, "dtype must be float32 or float64, got int32"),
        (lambda: cr.LatentAR(3).params, RuntimeError, "call fit first"),
        (lambda: cr.LatentAR(3).log_prob(wave(9)), RuntimeError, "call fit first"),
        (lambda: cr.LatentAR(3).sample(2), RuntimeError, "call fit first"),
        (lambda: cr.LatentAR(3).fit(np.arange(9)), TypeError, "x must be float32 or float64"),
        (lambda: cr.LatentAR(3).fit([1.0, np.inf, 2.0]), ValueError, "x must be finite, got inf"),
        (lambda: cr.LatentAR(3).fit(wave(9), epochs=0), ValueError, "epochs must be at least 1"),
        (lambda: cr.LatentAR(3).fit(wave(9), block=0), ValueError, "block must be at least 1"),
        (lambda: cr.LatentAR(3).fit(wave(9), strands=9), ValueError, "more values .* than strands, 9, got 9"),
        (lambda: cr.LatentAR(3).fit(wave(9), validation=8), ValueError, "got 9 with 8 for validation"),
        (lambda: cr.LatentAR(3).fit(wave(9), clip_norm=0), ValueError, "clip_norm must be positive, got 0"),
        (lambda: cr.LatentAR(3).fit(wave(9), clip_norm="1"), TypeError, "clip_norm must be a number, got '1'"),
        (lambda: cr.LatentAR(3).fit(wave(9), lr=-1), ValueError, "lr must be at least 0"),
        (lambda: cr.LatentAR(3, rng="a").fit(wave(9)), TypeError, "rng must be.*'a'"),
        (lambda: fitted_ar().sample(3, rng=-1), ValueError, "rng must be.*-1"),
        (lambda: fitted_gaussian().log_prob(np.zeros((9, 2))), ValueError, r"shape \(T,\) like the series of fit"),
        (lambda: fitted_gaussian().log_prob(wave(9), given=10), ValueError, "at least the 10 values .*, got 9"),
        (lambda: fitted_gaussian().predict(wave(9), 1.0), TypeError, "steps must be an int"),
        (lambda: cr.LatentAR(3, output="categorical").fit(wave(9)), TypeError, "x must be integers, got float64"),
        (lambda: cr.LatentAR(3, output="categorical").fit([0, 1, -2]), ValueError, "got -2"),
        (lambda: cr.LatentAR(3, output="categorical").fit([[0, 1]]), ValueError, r"x must have shape \(T,\)"),
        (lambda: cr.LatentAR(3, output="categorical", num_categories=2).fit([0, 1, 2]), ValueError, "0 to 1, got 2"),
        (lambda: fitted_categorical().log_prob([0, 3]), ValueError, "x must be 0 to 2, got 3"),
        (lambda: fitted_categorical().sample(2, start=[3]), ValueError, "start must be 0 to 2, got 3"),
        (lambda: fitted_categorical().sample(2, start=[[0]]), ValueError, r"start must have shape \(T,\)"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()
