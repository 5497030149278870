"""Layers: gradients by finite differences, PyTorch's names and shapes, snapshots, pickling, errors."""

import copy
import math
import pickle

import numpy as np
import pytest

import convrnn as cr

LAYOUTS = ("channels_last", "channels_first")


def images(layout, *shape, seed=0):
    """Random float64 images; shape is (N, ..., C) in either layout."""
    x = np.random.default_rng(seed).standard_normal(shape)
    return x if layout == "channels_last" else np.ascontiguousarray(np.moveaxis(x, -1, 1))


def seeded(cls, *args, **options):
    """A float64 layer of either layout, always of the same function."""
    return lambda layout: cls(*args, **options, layout=layout, dtype=np.float64, rng=5)


def small_network(layout):
    rng = np.random.default_rng(3)
    options = {"layout": layout, "dtype": np.float64, "rng": rng}
    return cr.Sequential(
        cr.Conv2d(2, 6, 3, padding=1, **options),
        cr.ReLU(),
        cr.MaxPool2d(2, layout=layout),
        cr.Conv2d(6, 4, (2, 3), groups=2, bias=False, **options),
        cr.Tanh(),
        cr.Flatten(layout=layout),
        cr.Linear(4 * 2 * 2, 5, dtype=np.float64, rng=rng),
        cr.Sigmoid(),
    )


CASES = {  # name: (layer of a layout, shape of channels_last images)
    "conv1d": (seeded(cr.Conv1d, 3, 4, 3, stride=2, padding="same"), (2, 7, 3)),
    "conv1d-causal": (seeded(cr.Conv1d, 2, 3, 2, dilation=3, padding="causal"), (2, 9, 2)),
    "conv2d": (seeded(cr.Conv2d, 3, 4, (3, 2), stride=(1, 2), padding=((1, 0), (0, 2))), (2, 5, 6, 3)),
    "conv2d-groups": (seeded(cr.Conv2d, 4, 6, 3, groups=2, dilation=2, bias=False), (2, 7, 6, 4)),
    "conv2d-depthwise": (seeded(cr.Conv2d, 3, 3, 3, groups=3, padding=1), (2, 5, 4, 3)),
    "conv3d": (seeded(cr.Conv3d, 2, 3, (2, 1, 3), padding=1), (2, 3, 4, 3, 2)),
    "conv_transpose1d": (seeded(cr.ConvTranspose1d, 3, 4, 3, stride=2, padding=1, output_padding=1), (2, 5, 3)),
    "conv_transpose2d": (seeded(cr.ConvTranspose2d, 4, 6, (3, 2), stride=(2, 3), groups=2), (2, 3, 4, 4)),
    "max_pool2d": (lambda layout: cr.MaxPool2d(3, stride=2, padding=1, layout=layout), (2, 5, 6, 3)),
    "avg_pool2d": (lambda layout: cr.AvgPool2d((2, 3), layout=layout), (2, 5, 6, 3)),
    "linear": (lambda layout: cr.Linear(4, 5, dtype=np.float64, rng=5), (3, 4)),
    "relu": (lambda layout: cr.ReLU(), (3, 4)),
    "tanh": (lambda layout: cr.Tanh(), (3, 4)),
    "sigmoid": (lambda layout: cr.Sigmoid(), (3, 4)),
    "flatten": (lambda layout: cr.Flatten(layout=layout), (2, 3, 4, 5)),
    "sequential": (small_network, (2, 6, 8, 2)),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def loss_along(layer, x, weights, dx, dparams, step):
    """<weights, y> after moving x and the parameters by `step` along a direction."""
    moved = copy.deepcopy(layer)
    for name, array in moved.params.items():
        array += step * dparams[name]
    return float((weights * moved(x + step * dx)).sum())


# ------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_by_finite_differences(case, layout):
    make, shape = case
    layer, x = make(layout), images(layout, *shape)
    y, cache = layer.forward(x)
    rng = np.random.default_rng(1)
    dy = rng.standard_normal(y.shape)
    dx, grads = layer.backward(dy, cache)

    assert dx.shape == x.shape and dx.dtype == x.dtype
    assert list(grads) == list(layer.params)
    for moved in ("x", *layer.params):  # one operand at a time, so that a wrong one cannot hide behind the others
        along_x = rng.standard_normal(x.shape) if moved == "x" else np.zeros_like(x)
        along = {
            name: rng.standard_normal(array.shape) if name == moved else np.zeros_like(array)
            for name, array in layer.params.items()
        }
        step = 1e-6
        measured = loss_along(layer, x, dy, along_x, along, step) - loss_along(layer, x, dy, along_x, along, -step)
        predicted = (dx * along_x).sum() + sum((grads[name] * along[name]).sum() for name in grads)
        assert measured / (2 * step) == pytest.approx(predicted, rel=1e-6, abs=1e-7), moved


@pytest.mark.parametrize("layout", LAYOUTS)
def test_backward_keeps_its_cache_and_its_inputs(case, layout):
    make, shape = case
    layer, x = make(layout), images(layout, *shape)
    y, cache = layer.forward(x)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    before = pickle.dumps((x, dy, cache))
    dx, grads = layer.backward(dy, cache)
    assert pickle.dumps((x, dy, cache)) == before
    again_dx, again_grads = layer.backward(dy, cache)
    np.testing.assert_array_equal(dx, again_dx)
    for name in grads:
        np.testing.assert_array_equal(grads[name], again_grads[name])


def test_needs_dx_false_changes_nothing_else(case):
    make, shape = case
    layer = make("channels_last")
    y, cache = layer.forward(images("channels_last", *shape))
    _, expected = layer.backward(y, cache)
    dx, grads = layer.backward(y, cache, needs_dx=False)
    assert dx is None
    assert list(grads) == list(expected)
    for name in grads:
        np.testing.assert_array_equal(grads[name], expected[name])


@pytest.mark.parametrize("needs_dx", [True, False])
def test_sequential_asks_for_no_gradient_in_vain(needs_dx):
    asked = []

    class Spy(cr.Linear):
        def backward(self, dy, cache, *, needs_dx=True):
            asked.append(needs_dx)
            return super().backward(dy, cache, needs_dx=needs_dx)

    net = cr.Sequential(cr.Flatten(), Spy(4, 3), cr.Tanh(), Spy(3, 2))
    y, cache = net.forward(np.ones((2, 2, 2), np.float32))
    net.backward(y, cache, needs_dx=needs_dx)
    assert asked == [True, needs_dx]  # from the last layer to the first


def test_call_and_forward_agree(case):
    make, shape = case
    layer, x = make("channels_last"), images("channels_last", *shape)
    np.testing.assert_array_equal(layer(x), layer.forward(x)[0])


def test_empty_batch(case):
    make, shape = case
    layer = make("channels_last")
    x = np.zeros((0, *shape[1:]))
    y, cache = layer.forward(x)
    dx, grads = layer.backward(y, cache)
    assert y.shape[0] == 0 and dx.shape == x.shape
    assert all(not gradient.any() for gradient in grads.values())


@pytest.mark.parametrize("value, gradient", [(-1.0, 0.0), (0.0, 0.0), (2.0, 3.0)])
def test_relu_gradient(value, gradient):
    layer = cr.ReLU()
    _, cache = layer.forward(np.array([value]))
    np.testing.assert_array_equal(layer.backward(np.array([3.0]), cache)[0], [gradient])


# --------------------------------------------------------------------------------------------- exchange with PyTorch


def test_layouts_are_one_function_through_state_dict(case):
    make, shape = case
    last, first = make("channels_last"), make("channels_first")
    for array in last.params.values():
        array += np.random.default_rng(8).standard_normal(array.shape)  # no longer what the seed gave both
    first.load_state_dict(last.state_dict())
    x = images("channels_last", *shape)
    y_first = np.moveaxis(first(images("channels_first", *shape)), 1, -1)
    np.testing.assert_allclose(last(x), y_first, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_state_dict_has_torch_shapes(layout):
    shapes = {
        "conv1d": {"weight": (4, 3, 3), "bias": (4,)},
        "conv2d": {"weight": (4, 3, 3, 2), "bias": (4,)},
        "conv2d-groups": {"weight": (6, 2, 3, 3)},
        "conv3d": {"weight": (3, 2, 2, 1, 3), "bias": (3,)},
        "conv_transpose1d": {"weight": (3, 4, 3), "bias": (4,)},
        "conv_transpose2d": {"weight": (4, 3, 3, 2), "bias": (6,)},
        "linear": {"weight": (5, 4), "bias": (5,)},
        "max_pool2d": {},
        "sequential": {
            "0.weight": (6, 2, 3, 3),
            "0.bias": (6,),
            "3.weight": (4, 3, 2, 3),
            "6.weight": (5, 16),
            "6.bias": (5,),
        },
    }
    for name, expected in shapes.items():
        state = CASES[name][0](layout).state_dict()
        assert {key: array.shape for key, array in state.items()} == expected
        assert all(array.flags.c_contiguous and array.flags.owndata for array in state.values())


def test_state_dict_axes_are_torch_axes():
    """Every axis by value: the shape alone could not tell KH from KW."""
    conv = cr.Conv2d(2, 3, (4, 4))
    assert conv.params["weight"].shape == (4, 4, 2, 3)
    assert conv.state_dict()["weight"][2, 1, 0, 3] == conv.params["weight"][0, 3, 1, 2]
    transposed = cr.ConvTranspose2d(3, 2, (4, 4))
    assert transposed.params["weight"].shape == (4, 4, 2, 3)
    assert transposed.state_dict()["weight"][2, 1, 0, 3] == transposed.params["weight"][0, 3, 1, 2]


def test_state_dict_is_a_copy():
    layer = cr.Linear(2, 2)
    state = layer.state_dict()
    state["weight"][...] = 7
    assert not (layer.params["weight"] == 7).any()
    layer.load_state_dict(state)
    state["weight"][...] = 8
    assert (layer.params["weight"] == 7).all()


@pytest.mark.parametrize(
    "change, error, words",
    [
        (lambda state: state.pop("0.bias"), ValueError, r"missing keys \['0.bias'\]"),
        (lambda state: state.update(extra=np.zeros(1)), ValueError, r"unexpected keys \['extra'\]"),
        (lambda state: state.update({"1.weight": np.zeros((2, 3))}), ValueError, r"1\.weight.*\(3, 2\).*\(2, 3\)"),
        (lambda state: state.update({"1.weight": np.zeros((3, 2), "f4")}), TypeError, r"1\.weight.*float64.*float32"),
        (lambda state: state.update({"1.weight": np.zeros((3, 2), int)}), TypeError, r"1\.weight.*int64"),
    ],
)
def test_load_state_dict_refuses_and_writes_nothing(change, error, words):
    net = cr.Sequential(cr.Conv1d(1, 2, 3, dtype=np.float64), cr.Linear(2, 3, dtype=np.float64))
    before = net.state_dict()
    state = {name: array + 1 for name, array in before.items()}
    change(state)
    with pytest.raises(error, match=words):
        net.load_state_dict(state)
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_load_state_dict_takes_names():
    with pytest.raises(TypeError, match="state must be a mapping.*list"):
        cr.Linear(2, 3).load_state_dict([np.ones((3, 2), np.float32)])


# ------------------------------------------------------------------------------------------- parameters and their start


def test_sequential_params_are_the_layers_own():
    conv, linear = cr.Conv2d(1, 2, 3, rng=0), cr.Linear(2, 3, rng=0)
    net = cr.Sequential(cr.Sequential(conv, cr.ReLU()), linear)
    assert list(net.params) == ["0.0.weight", "0.0.bias", "1.weight", "1.bias"]
    assert net.params["0.0.weight"] is conv.params["weight"]
    before = linear(np.ones(2, np.float32))
    net.params["1.bias"][...] += 1
    np.testing.assert_allclose(linear(np.ones(2, np.float32)), before + 1, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_start_is_uniform_within_the_root_of_fan_in(dtype):
    for layer, fan_in in [
        (cr.Conv2d(16, 64, 5, groups=2, dtype=dtype, rng=0), 8 * 25),
        (cr.ConvTranspose2d(64, 16, 5, groups=2, dtype=dtype, rng=0), 8 * 25),
        (cr.Linear(100, 200, dtype=dtype, rng=0), 100),
    ]:
        weight = layer.params["weight"] * math.sqrt(fan_in)
        assert weight.dtype == dtype and layer.params["bias"].dtype == dtype
        assert np.abs(weight).max() <= 1 + 1e-6 and np.abs(weight).max() > 0.99
        assert np.var(weight) == pytest.approx(1 / 3, rel=0.05) and abs(weight.mean()) < 0.03
        assert np.abs(layer.params["bias"]).max() <= 1 / np.sqrt(fan_in)


def test_seed_decides_the_start_whatever_the_layout_and_dtype():
    first = cr.Conv2d(3, 4, 3, rng=1, layout="channels_first").state_dict()
    last = cr.Conv2d(3, 4, 3, rng=np.random.default_rng(1)).state_dict()
    double = cr.Conv2d(3, 4, 3, rng=1, dtype=np.float64).state_dict()
    other = cr.Conv2d(3, 4, 3, rng=2).state_dict()
    for name in first:
        np.testing.assert_array_equal(first[name], last[name])
        np.testing.assert_array_equal(first[name], double[name].astype(np.float32))
        assert not np.array_equal(first[name], other[name])
    unseeded = [cr.Linear(3, 4).params["weight"] for _ in range(2)]
    assert not np.array_equal(*unseeded)


def test_a_generator_moves_on():
    rng = np.random.default_rng(0)
    assert not np.array_equal(cr.Linear(3, 4, rng=rng).params["weight"], cr.Linear(3, 4, rng=rng).params["weight"])


# ---------------------------------------------------------------------------------------- snapshots, copies, pickling


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_are_equal_and_independent(case, clone):
    make, shape = case
    layer, x = make("channels_last"), images("channels_last", *shape)
    cloned = clone(layer)
    expected = layer(x)
    np.testing.assert_array_equal(cloned(x), expected)
    for array in layer.params.values():
        array[...] = 0
    np.testing.assert_array_equal(cloned(x), expected)


def test_frozen_is_equal_and_independent(case):
    make, shape = case
    layer, x = make("channels_last"), images("channels_last", *shape)
    fast = layer.frozen()
    expected = layer(x)
    np.testing.assert_allclose(fast(x), expected, rtol=1e-14, atol=1e-14)
    for array in layer.params.values():
        array += 1
    np.testing.assert_allclose(fast(x), expected, rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(pickle.loads(pickle.dumps(fast))(x), expected, rtol=1e-14, atol=1e-14)
    if layer.params:
        assert not np.allclose(layer(x), expected)


@pytest.mark.parametrize("activation", [cr.ReLU, cr.Tanh, cr.Sigmoid])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_frozen_fuses_activations(activation, dtype):
    net = cr.Sequential(
        cr.Conv2d(2, 5, 3, dtype=dtype, rng=0),
        activation(),
        activation(),  # the second is nobody's to fuse
        cr.Flatten(),
        cr.Linear(5 * 4 * 4, 7, dtype=dtype, rng=1),
        activation(),
    )
    x = images("channels_last", 3, 6, 6, 2).astype(dtype)
    fast = net.frozen()
    assert repr(fast).count(activation.__name__) == 1
    assert repr(net).count(activation.__name__) == 3
    np.testing.assert_allclose(fast(x), net(x), rtol=8 * np.finfo(dtype).eps)
    assert (net.layers[0](x) < 0).any()  # the layers themselves stay as they were


def test_frozen_respects_derived_layers():
    class Negated(cr.Conv2d):
        def __call__(self, x):
            return -super().__call__(x)

    class Leaky(cr.ReLU):
        def __call__(self, x):
            return np.where(x > 0, x, x / 4)

    x = images("channels_last", 2, 5, 5, 1).astype(np.float32)
    for net in (
        cr.Sequential(Negated(1, 4, 3, rng=0), cr.ReLU()),
        cr.Sequential(cr.Conv2d(1, 4, 3, rng=0), Leaky()),
    ):
        np.testing.assert_array_equal(net.frozen()(x), net(x))


# ----------------------------------------------------------------------------------------------------- single layers


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (2, 3, 5, 4), (3, 0, 4)])
def test_linear_acts_on_the_last_axis(shape):
    layer = cr.Linear(4, 6, dtype=np.float64, rng=0)
    x = np.random.default_rng(0).standard_normal(shape)
    y, cache = layer.forward(x)
    np.testing.assert_allclose(y, x @ layer.params["weight"].T + layer.params["bias"], rtol=1e-13, atol=1e-14)
    dx, grads = layer.backward(y, cache)
    np.testing.assert_allclose(dx, y @ layer.params["weight"], rtol=1e-13, atol=1e-14)
    rows_x, rows_y = x.reshape(-1, 4), y.reshape(-1, 6)
    np.testing.assert_allclose(grads["weight"], rows_y.T @ rows_x, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(grads["bias"], rows_y.sum(axis=0), rtol=1e-13, atol=1e-14)


def test_linear_of_strided_input():
    view = np.random.default_rng(0).standard_normal((8, 5, 3))[::-2].T[:, :, 1:]
    layer = cr.Linear(3, 6, bias=False, dtype=np.float64, rng=0)
    np.testing.assert_array_equal(layer(view), layer(view.copy()))
    assert list(layer.params) == ["weight"]


@pytest.mark.parametrize("space", [(4,), (3, 4), (2, 3, 4)])
def test_flatten_emits_channels_first(space):
    first = np.arange(2 * 5 * np.prod(space), dtype=np.float32).reshape(2, 5, *space)
    expected = first.reshape(2, -1)
    np.testing.assert_array_equal(cr.Flatten(layout="channels_first")(first), expected)
    last = np.ascontiguousarray(np.moveaxis(first, 1, -1))
    layer = cr.Flatten()
    y, cache = layer.forward(last)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(layer.backward(y, cache)[0], last)


def test_sequential_of_none_is_the_identity():
    net = cr.Sequential()
    x = np.ones(3)
    y, cache = net.forward(x)
    assert y is x and net(x) is x and net.frozen()(x) is x
    assert net.backward(x, cache)[1] == {} and net.params == {}


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: cr.Conv2d(0, 1, 3), ValueError, "in_channels must be at least 1.*got 0"),
        (lambda: cr.Conv2d(1, -1, 3), ValueError, "out_channels.*got -1"),
        (lambda: cr.Conv2d(1, 1.5, 3), TypeError, "out_channels.*float"),
        (lambda: cr.Conv2d(1, 1, 0), ValueError, "kernel_size.*got 0"),
        (lambda: cr.Conv2d(1, 1, (3, 3, 3)), ValueError, "kernel_size"),
        (lambda: cr.Conv2d(4, 6, 3, groups=3), ValueError, "groups must divide in_channels, 4, got 3"),
        (lambda: cr.Conv2d(6, 4, 3, groups=3), ValueError, "groups must divide out_channels, 4, got 3"),
        (lambda: cr.ConvTranspose2d(4, 6, 3, groups=3), ValueError, "groups must divide in_channels, 4, got 3"),
        (lambda: cr.Conv2d(1, 1, 3, groups=0), ValueError, "groups.*got 0"),
        (lambda: cr.Conv2d(1, 1, 3, layout="NHWC"), ValueError, "layout.*'NHWC'"),
        (lambda: cr.MaxPool2d(2, layout="NHWC"), ValueError, "layout.*'NHWC'"),
        (lambda: cr.Flatten(layout=None), ValueError, "layout.*None"),
        (lambda: cr.Conv2d(1, 1, 3, dtype=np.float16), TypeError, "dtype.*float16"),
        (lambda: cr.Linear(1, 1, dtype=int), TypeError, "dtype.*int64"),
        (lambda: cr.Linear(1, 1, dtype="single-ish"), TypeError, "dtype.*float32.*'single-ish'"),
        (lambda: cr.Linear(1, 1, dtype=">f4"), TypeError, "dtype.*>f4"),
        (lambda: cr.Linear(1, 1, bias="no"), TypeError, "bias must be True or False, got 'no'"),
        (lambda: cr.Conv2d(1, 1, 3, bias=None), TypeError, "bias must be True or False, got None"),
        (lambda: cr.Linear(1, 1, rng="a"), TypeError, "rng must be.*seed.*'a'"),
        (lambda: cr.Conv2d(1, 1, 3, rng=-1), ValueError, "rng must be.*seed.*-1"),
        (lambda: cr.Embedding(1, 1, rng=1.5), TypeError, "rng must be.*1.5"),
        (lambda: cr.Conv2d(1, 1, 3, stride=0), ValueError, "stride.*got 0"),
        (lambda: cr.Conv1d(1, 1, 3, dilation=(1, 1)), ValueError, r"dilation.*\(1, 1\)"),
        (lambda: cr.Conv2d(1, 1, 3, padding="sane"), ValueError, "padding.*'same'.*'sane'"),
        (lambda: cr.Conv2d(1, 1, 3, padding="causal"), ValueError, "padding 'causal' is for one axis, got 2"),
        (lambda: cr.Conv3d(1, 1, 3, padding=(1, -1, 0)), ValueError, "padding.*got -1"),
        (lambda: cr.Conv2d(1, 1, 3, padding_mode="zeros"), ValueError, "padding_mode.*'constant'.*'zeros'"),
        (lambda: cr.ConvTranspose2d(1, 1, 3, padding="same"), ValueError, "padding.*'same'"),
        (lambda: cr.ConvTranspose2d(1, 1, 3, stride=0), ValueError, "stride.*got 0"),
        (lambda: cr.ConvTranspose2d(1, 1, 3, output_padding=-1), ValueError, "output_padding.*got -1"),
        (lambda: cr.MaxPool2d(0), ValueError, "size.*got 0"),
        (lambda: cr.MaxPool2d(2, stride=0), ValueError, "stride.*got 0"),
        (lambda: cr.AvgPool2d(2, padding="same"), ValueError, "padding.*'same'"),
        (lambda: cr.Linear(0, 1), ValueError, "in_features.*got 0"),
        (lambda: cr.Sequential([cr.ReLU()]), TypeError, "layer 0.*list"),
        (lambda: cr.Sequential(cr.Linear(3, 4), cr.LSTM(4, 4)), TypeError, "layer 1 .*LSTM, which returns a state too"),
    ],
)
def test_bad_construction(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    "layer, x, error, words",
    [
        (cr.Conv2d(3, 4, 3), np.ones((2, 5, 5, 2), "f4"), ValueError, "channels"),
        (cr.Conv2d(3, 4, 3), np.ones((2, 5, 5, 3)), TypeError, "x must.*float32, got float64"),
        (cr.Conv2d(3, 4, 3), np.ones((2, 2, 2, 3), "f4"), ValueError, "x"),
        (cr.Linear(3, 4), np.ones((2, 2), "f4"), ValueError, r"3 features.*\(2, 2\)"),
        (cr.Linear(3, 4), np.float32(1), ValueError, r"3 features.*\(\)"),
        (cr.Linear(3, 4), np.ones((2, 3)), TypeError, "x must.*float32, got float64"),
        (cr.ReLU(), np.ones(3, int), TypeError, "x.*int64"),
        (cr.Tanh(), np.ones(3, ">f4"), TypeError, "x"),
        (cr.Flatten(), np.ones(3), ValueError, r"batch.*\(3,\)"),
    ],
)
def test_bad_input(layer, x, error, words):
    for use in (layer, layer.forward):
        with pytest.raises(error, match=words):
            use(x)


def test_bad_output_gradient(case):
    make, shape = case
    layer = make("channels_last")
    y, cache = layer.forward(images("channels_last", *shape))
    with pytest.raises(ValueError, match="dy"):
        layer.backward(y[..., :-1], cache)
    with pytest.raises(TypeError, match="dy"):
        layer.backward(y.astype(np.float32), cache)
