"""The layers RNN, LSTM and GRU: stacks and directions against the reference, gradients, names, snapshots, states."""

import copy
import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from arrangements import ARRANGEMENTS
from recurrent_problems import GATES, as_state, assert_near, parts_of

import convrnn as cr
from convrnn import reference

CELLS = {"rnn": (cr.RNN, {"activation": "relu"}), "lstm": (cr.LSTM, {}), "lstm p": (cr.LSTM, {"proj_size": 3}),
         "gru": (cr.GRU, {}), "gru before": (cr.GRU, {"reset_after": False})}
STACKS = {"one": {}, "two": {"num_layers": 2}, "both ways": {"bidirectional": True},
          "two both ways": {"num_layers": 2, "bidirectional": True},
          "three without bias": {"num_layers": 3, "bias": False}}
T, B, I, H = 6, 4, 3, 5


class Case:
    """A layer, how it was made, and numbers of the shapes of its operands."""

    def __init__(self, kind, dtype=np.float64, **options):
        make, form = CELLS[kind]
        self.cell, self.form, self.dtype = kind.split()[0], form, np.dtype(dtype)
        self.layers, self.directions = options.get("num_layers", 1), 2 if options.get("bidirectional") else 1
        self.layer = make(I, H, **form, **options, dtype=dtype, rng=7)
        self.width = form.get("proj_size", H)
        states = self.layers * self.directions
        widths = (self.width, H) if self.cell == "lstm" else (self.width,)
        rng = np.random.default_rng(3)
        self.x, self.dy = (rng.standard_normal((T, B, size)).astype(dtype)
                           for size in (I, self.directions * self.width))
        self.state, self.dstate = (as_state([rng.standard_normal((states, B, width)).astype(dtype) for width in widths])
                                   for _ in range(2))

    def suffixes(self, layer):
        return [f"_l{layer}" + direction for direction in ("", "_reverse")[:self.directions]]

    def reference(self, lengths=None, truncate=None):
        """y, the last state, dx, dstate0, grads and the hidden gradients, layer by layer, by the reference."""
        forward, backward = (getattr(reference, f"{self.cell}_{name}") for name in ("forward", "backward"))
        options = {name: value for name, value in self.form.items() if name != "proj_size"}
        x, caches, last = self.x, [], []
        for layer in range(self.layers):
            ways = []
            for suffix in self.suffixes(layer):
                names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
                *weights, w_hr = (self.layer.params.get(name + suffix) for name in names)
                state = as_state([part[len(caches)] for part in parts_of(self.state)])
                more = options | ({} if w_hr is None else {"w_hr": w_hr})
                y, state, cache = forward(x, *weights, state, lengths=lengths, reverse="reverse" in suffix, **more)
                ways.append(y)
                last.append(parts_of(state))
                caches.append(cache)
            x = np.concatenate(ways, axis=-1)
        dy, grads, first, dh = self.dy, {}, [None] * len(caches), [None] * len(caches)
        for layer in reversed(range(self.layers)):
            shares = np.split(dy, self.directions, axis=-1)
            dy = 0
            for way, suffix in enumerate(self.suffixes(layer)):
                index = layer * self.directions + way
                dstate = as_state([part[index] for part in parts_of(self.dstate)])
                of_part = backward(shares[way], caches[index], dstate, truncate=truncate)
                dy = dy + of_part["x"]
                first[index], dh[index] = parts_of(of_part["state"]), of_part["h"]
                grads |= {{"w": "weight", "b": "bias"}[name[0]] + name[1:] + suffix: array
                          for name, array in of_part.items() if name[0] in "wb" and array is not None}
        cache = {name: None if getattr(caches[0], name) is None else np.stack([getattr(part, name) for part in caches])
                 for name in ("h", "c", "gates")}
        last, first = (as_state(list(map(np.stack, zip(*parts)))) for parts in (last, first))
        return named(x, last, dy, first, grads, np.stack(dh), **cache)

    def computed(self, lengths=None, truncate=None):
        y, state, cache = self.layer.forward(self.x, self.state, lengths=lengths)
        dx, first, grads, dh = self.layer.backward(self.dy, cache, self.dstate, truncate=truncate,
                                                   return_hidden_gradients=True)
        return named(y, state, dx, first, grads, dh, h=cache.h, c=cache.c, gates=cache.gates)


def named(y, state, dx, first, grads, dh, **cache):
    results = {"y": y, "dx": dx, "dh": dh, **grads, **{f"cache.{name}": array for name, array in cache.items()}}
    for name, parts in (("state", state), ("dstate0", first)):
        results |= {f"{name} {i}": part for i, part in enumerate(parts_of(parts))}
    return results


@pytest.fixture(params=CELLS)
def kind(request):
    return request.param


@pytest.fixture(params=STACKS)
def stack(request):
    return STACKS[request.param]


@pytest.fixture
def case(kind, stack):
    return Case(kind, **stack)


# --------------------------------------------------------------------------------------------------------- results


@pytest.mark.parametrize("options", [{}, {"lengths": (6, 0, 3, 1)}, {"truncate": 2},
                                     {"lengths": (2, 6, 0, 5), "truncate": 3}], ids=str)
def test_results(kind, stack, options, isa, dtype):
    """y, states, every gradient and what the cache shows, of every stack."""
    case = Case(kind, dtype, **stack)
    wanted = case.reference(**options)
    assert_near(case.computed(**options), wanted, dtype)
    states, width = case.layers * case.directions, case.width
    assert wanted["y"].shape == (T, B, case.directions * width)
    assert wanted["dh"].shape == wanted["cache.h"].shape == (states, T, B, width)
    assert wanted["cache.gates"].shape == (states, T, B, GATES[case.cell] * H)
    assert (wanted["cache.c"] is None) == (case.cell != "lstm")


@pytest.mark.parametrize("lengths", [None, (2, 6, 0, 5)])
def test_gradients_by_differences(case, lengths, isa):
    """Of x, every parameter and every state, one at a time: <gradient, v> is the central difference along v."""
    results = case.computed(lengths)
    operands = {"x": [case.x], "state": parts_of(case.state)} | {name: [p] for name, p in case.layer.params.items()}

    def loss():
        y, state = case.layer(case.x, case.state, lengths=lengths)
        return np.vdot(case.dy, y) + sum(map(np.vdot, parts_of(case.dstate), parts_of(state)))

    rng, step = np.random.default_rng(5), 1e-6
    for name, arrays in operands.items():
        for i, array in enumerate(arrays):
            gradient = results[{"x": "dx", "state": f"dstate0 {i}"}.get(name, name)]
            direction, kept = rng.standard_normal(array.shape), array.copy()
            array += step * direction
            above = loss()
            array[...] = kept - step * direction
            change = (above - loss()) / (2 * step)
            array[...] = kept
            np.testing.assert_allclose(np.vdot(gradient, direction), change, rtol=1e-6,
                                       atol=1e-6 * np.linalg.norm(gradient), err_msg=name)


def test_state_of_none_is_zero(case, isa):
    zeros = as_state([np.zeros_like(part) for part in parts_of(case.state)])
    for lengths in (None, (6, 0, 3, 1)):
        for one, other in zip(case.layer(case.x, lengths=lengths), case.layer(case.x, zeros, lengths=lengths)):
            assert all(map(np.array_equal, parts_of(one), parts_of(other)))
    y, state, cache = case.layer.forward(case.x)
    for one, other in zip(case.layer.backward(case.dy, cache), case.layer.backward(case.dy, cache, zeros)):
        if isinstance(one, dict):
            one, other = tuple(one.values()), tuple(other.values())
        assert all(map(np.array_equal, parts_of(one), parts_of(other)))


def test_call_and_forward_agree(case, isa):
    y, state = case.layer(case.x, case.state, lengths=[6, 0, 3, 1])
    other, other_state, _ = case.layer.forward(case.x, case.state, lengths=[6, 0, 3, 1])
    assert np.array_equal(y, other)
    assert all(map(np.array_equal, parts_of(state), parts_of(other_state)))


def test_needs_dx_false_changes_nothing_else(case):
    _, _, cache = case.layer.forward(case.x)
    _, dstate, grads = case.layer.backward(case.dy, cache)
    dx, other, other_grads = case.layer.backward(case.dy, cache, needs_dx=False)
    assert dx is None and list(other_grads) == list(grads)
    assert all(map(np.array_equal, parts_of(other), parts_of(dstate)))
    assert all(np.array_equal(other_grads[name], grads[name]) for name in grads)


@pytest.mark.parametrize("steps, batch", [(0, 4), (6, 0), (0, 0)])
def test_empty(case, steps, batch, isa):
    """No steps keep the state; no rows have none; gradients of the parameters are zero."""
    x, dy = case.x[:steps, :batch], case.dy[:steps, :batch]
    state, dstate = (as_state([part[:, :batch] for part in parts_of(given)]) for given in (case.state, case.dstate))
    y, last, cache = case.layer.forward(x, state)
    dx, dstate0, grads = case.layer.backward(dy, cache, dstate)
    assert y.shape == dy.shape and dx.shape == x.shape and list(grads) == list(case.layer.params)
    assert not any(gradient.any() for gradient in grads.values())
    for results, given in ((last, state), (dstate0, dstate)):
        assert all(map(np.array_equal, parts_of(results), parts_of(given)))


# ---------------------------------------------------------------------------------------------------- arrangements


@pytest.mark.parametrize("lengths", [None, (6, 0, 3, 1)])
def test_batch_first(kind, stack, lengths, isa):
    """x, y, dy and dx have their axes swapped; states, the cache and hidden gradients have not."""
    plain, swapped = Case(kind, **stack), Case(kind, **stack, batch_first=True)
    wanted = plain.computed(lengths)
    swapped.x, swapped.dy = (np.ascontiguousarray(array.swapaxes(0, 1)) for array in (plain.x, plain.dy))
    results = swapped.computed(lengths)
    for name in wanted:
        result = results[name].swapaxes(0, 1) if name in ("y", "dx") else results[name]
        assert np.array_equal(result, wanted[name]) or wanted[name] is None, name


@pytest.mark.parametrize("batch_first", [False, True])
def test_without_a_batch(kind, stack, batch_first, isa):
    """(T, I) and states (L*D, H) are a batch of one without its axis."""
    case, single = Case(kind, **stack), Case(kind, **stack, batch_first=batch_first)
    single.x, single.dy = case.x[:, 1], case.dy[:, 1]
    single.state, single.dstate = (as_state([part[:, 1] for part in parts_of(given)])
                                   for given in (case.state, case.dstate))
    case.x, case.dy = case.x[:, 1:2], case.dy[:, 1:2]
    case.state, case.dstate = (as_state([part[:, 1:2] for part in parts_of(given)])
                               for given in (case.state, case.dstate))
    wanted, results = case.computed(), single.computed()
    for name, array in wanted.items():
        if array is not None:
            batched = {"y": 1, "dx": 1}.get(name, 2 if name.startswith(("dh", "cache")) else 1)
            shared = name in case.layer.params
            np.testing.assert_array_equal(results[name], array if shared else array.squeeze(batched), name, strict=True)


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_arrays_of_any_strides(arrangement, case, isa):
    wanted = case.computed((6, 0, 3, 1))
    case.x, case.dy = (ARRANGEMENTS[arrangement](array) for array in (case.x, case.dy))
    case.state, case.dstate = (as_state(list(map(ARRANGEMENTS[arrangement], parts_of(given))))
                               for given in (case.state, case.dstate))
    results = case.computed((6, 0, 3, 1))
    assert all(np.array_equal(results[name], wanted[name]) or wanted[name] is None for name in wanted)


def test_padding_is_never_read(case, isa):
    """Past a row's end x and dy may hold anything, between layers too."""
    lengths = (6, 0, 3, 1)
    wanted = case.computed(lengths)
    for row, length in enumerate(lengths):
        case.x[length:, row] = math.nan
        case.dy[length:, row] = math.nan
    results = case.computed(lengths)
    assert all(np.array_equal(results[name], wanted[name]) or wanted[name] is None for name in wanted)


# -------------------------------------------------------------------------------------------------------- streaming


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("frozen", [False, True])
def test_chunks(kind, layers, frozen, isa, dtype):
    """A sequence cut anywhere, down to single steps, with the state carried on, has the same bits."""
    case = Case(kind, dtype, num_layers=layers)
    layer = case.layer.frozen() if frozen else case.layer
    y, state = case.layer(case.x, case.state)
    for cuts in (range(1, T), [1], [2, 3], [5]):
        carried, pieces = case.state, []
        for x in np.split(case.x, list(cuts)):
            piece, carried = layer(x, carried)
            pieces.append(piece)
        assert np.array_equal(np.concatenate(pieces), y)
        assert all(map(np.array_equal, parts_of(carried), parts_of(state)))


@pytest.mark.parametrize("truncate", [1, 2, 4])
def test_truncation_is_a_detached_state(kind, truncate, isa):
    """Blocks called one by one, the state carried on and its gradient dropped, give the numbers of truncate."""
    case = Case(kind, num_layers=2)
    carried, parts = case.state, []
    for start in range(0, T, truncate):
        block = slice(start, start + truncate)
        y, carried, cache = case.layer.forward(case.x[block], carried)
        last = case.dstate if start + truncate >= T else None
        parts.append(case.layer.backward(case.dy[block], cache, last))
    _, _, cache = case.layer.forward(case.x, case.state)
    dx, dstate0, grads = case.layer.backward(case.dy, cache, case.dstate, truncate=truncate)
    np.testing.assert_allclose(dx, np.concatenate([part[0] for part in parts]), rtol=1e-12, atol=1e-14)
    for one, other in zip(parts_of(dstate0), parts_of(parts[0][1]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)
    for name in grads:
        np.testing.assert_allclose(grads[name], sum(part[2][name] for part in parts), rtol=1e-12, atol=1e-13)


def test_backward_keeps_its_cache_and_its_inputs(case, isa):
    y, state, cache = case.layer.forward(case.x, case.state, lengths=[6, 0, 3, 1])
    before = pickle.dumps((case.x, case.dy, case.state, case.dstate, cache.h, cache.c, cache.gates))
    first = case.layer.backward(case.dy, cache, case.dstate)
    again = case.layer.backward(case.dy, cache, case.dstate)
    assert pickle.dumps((case.x, case.dy, case.state, case.dstate, cache.h, cache.c, cache.gates)) == before
    for one, other in zip((first[0], *parts_of(first[1]), *first[2].values()),
                          (again[0], *parts_of(again[1]), *again[2].values()), strict=True):
        assert np.array_equal(one, other)


# ------------------------------------------------------------------------------------------- the short way of a call


def assert_same(one, other):
    """y and the last state of two calls, bit for bit."""
    for first, second in zip((one[0], *parts_of(one[1])), (other[0], *parts_of(other[1])), strict=True):
        np.testing.assert_array_equal(first, second, strict=True)
        assert first.flags.c_contiguous == second.flags.c_contiguous and first.flags.writeable


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_plain_call_is_any_other(kind, stack, batch_first, frozen, isa, dtype):
    """Arrays that are taken as they are give what converted ones and those with lengths give."""
    case = Case(kind, dtype, **stack, batch_first=batch_first)
    call = case.layer.frozen() if frozen else case.layer
    for x in (case.x, case.x[:1], case.x[:, :1], case.x[:1, :1], case.x[::-1, ::2], case.x[:0], case.x[:, :0]):
        batch, steps = x.shape[:2] if batch_first else x.shape[1::-1]
        states = as_state([np.resize(part, (len(part), batch, part.shape[2])) for part in parts_of(case.state)])
        for state in (None, states):
            wanted = case.layer(x, state, lengths=np.full(batch, steps))
            assert_same(call(x, state), wanted)
            assert_same(call(ARRANGEMENTS["unaligned"](x), state), wanted)
        assert_same(call(x, as_state(list(map(np.asfortranarray, parts_of(states))))), wanted)


@pytest.mark.parametrize("frozen", [False, True])
def test_parameters_of_any_layout(case, frozen, isa):
    """What is put into params in place of a layer's own arrays, as it lies in memory."""
    wanted = case.layer(case.x[:1, :1])
    for arrangement in ARRANGEMENTS.values():
        for name, array in case.layer.params.items():
            case.layer.params[name] = arrangement(array)
        assert_same((case.layer.frozen() if frozen else case.layer)(case.x[:1, :1]), wanted)


def test_parameters_begin_on_a_cache_line(case, dtype):
    """Each column, in copies too; and columns are not a multiple of half a page apart."""
    wide = cr.LSTM(2, 256, dtype=dtype)
    for layer in (case.layer, wide):
        for copied in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), layer.frozen()._layer):
            for array in copied.params.values():
                assert array.ctypes.data % 64 == 0 and array.strides[0] == array.itemsize
                assert array.ndim == 1 or array.strides[1] % 64 == 0 < array.strides[1] % 2048


def test_calls_at_once(kind):
    """One layer, whose parameters are replaced meanwhile, and its snapshot, called by several threads."""
    case = Case(kind, num_layers=2)
    fast, wanted = case.layer.frozen(), case.layer(case.x, case.state)
    copies = [{name: array.copy(order) for name, array in case.layer.params.items()} for order in "CF"]

    def work(number):
        for _ in range(200):
            case.layer.params.update(copies[number % 2])
            assert_same(case.layer(case.x, case.state), wanted)
            assert_same(fast(case.x, case.state), wanted)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


def test_no_rows_have_no_lengths(case, isa):
    """[] is an array of float64 to NumPy."""
    x, state = case.x[:, :0], as_state([part[:, :0] for part in parts_of(case.state)])
    for lengths in ([], (), np.zeros(0, int)):
        assert_same(case.layer(x, state, lengths=lengths), case.layer(x, state))
    with pytest.raises(TypeError, match=r"lengths.*float64"):
        case.layer(x, state, lengths=np.zeros(0))


# ------------------------------------------------------------------------------------------ parameters and exchange


def test_names_and_shapes_are_torchs(kind, stack, dtype):
    case = Case(kind, dtype, **stack)
    rows, bias = GATES[case.cell] * H, stack.get("bias", True)
    wanted = {}
    for layer in range(case.layers):
        for suffix in case.suffixes(layer):
            inputs = case.directions * case.width if layer else I
            wanted |= {"weight_ih" + suffix: (rows, inputs), "weight_hh" + suffix: (rows, case.width)}
            wanted |= {"bias_ih" + suffix: (rows,), "bias_hh" + suffix: (rows,)} if bias else {}
            wanted |= {"weight_hr" + suffix: (case.width, H)} if case.width != H else {}
    state = case.layer.state_dict()
    assert {name: array.shape for name, array in case.layer.params.items()} == wanted
    assert {name: array.shape for name, array in state.items()} == wanted
    assert {array.dtype for array in case.layer.params.values()} == {np.dtype(dtype)}
    assert all(array.flags.c_contiguous and array.flags.owndata for array in state.values())


def test_params_are_writable_at_any_time(case, isa):
    """Written in place, each is what the next call uses."""
    y, _ = case.layer(case.x)
    for name, array in case.layer.params.items():
        array += 0.25
        changed, _ = case.layer(case.x)
        assert not np.array_equal(changed, y), name
        array[...] -= 0.25
    np.testing.assert_allclose(case.layer(case.x)[0], y, rtol=1e-12, atol=1e-13)


def test_state_dict_moves_a_layer(kind, stack, isa):
    case, other = Case(kind, **stack), Case(kind, **stack)
    for array in other.layer.params.values():
        array[...] = 0
    state = case.layer.state_dict()
    other.layer.load_state_dict(state)
    for array in state.values():
        array[...] = 9
    assert np.array_equal(other.layer(case.x, case.state)[0], case.layer(case.x, case.state)[0])
    with pytest.raises(ValueError, match="weight_hh_l0"):
        other.layer.load_state_dict({name: array for name, array in state.items() if name != "weight_hh_l0"})
    with pytest.raises(ValueError, match=r"weight_ih_l0.*\(.*\).*\(1, 1\)"):
        other.layer.load_state_dict(state | {"weight_ih_l0": np.zeros((1, 1))})


def test_seed_decides_the_start(kind, stack):
    make, form = CELLS[kind]
    first, same, double, other = (make(I, H, **form, **stack, rng=rng, dtype=dtype).params for rng, dtype in (
        (1, np.float32), (np.random.default_rng(1), np.float32), (1, np.float64), (2, np.float32)))
    for name, array in first.items():
        assert np.array_equal(array, same[name]) and not np.array_equal(array, other[name])
        assert np.array_equal(array, double[name].astype(np.float32))
        assert 0 < np.abs(array).max() <= H**-0.5


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer)),
                                   lambda layer: layer.frozen(),
                                   lambda layer: pickle.loads(pickle.dumps(layer.frozen()))],
                         ids=["deepcopy", "pickle", "frozen", "pickled frozen"])
def test_copies_are_equal_and_independent(case, clone, isa):
    cloned = clone(case.layer)
    for options in ({}, {"lengths": [6, 0, 3, 1]}):
        for operands in ((case.x,), (case.x, case.state), (case.x[:1], case.state)):
            if len(operands[0]) == T or not options:
                one, other = (layer(*operands, **options) for layer in (cloned, case.layer))
                assert np.array_equal(one[0], other[0])
                assert all(map(np.array_equal, parts_of(one[1]), parts_of(other[1])))
    kept, _ = case.layer(case.x)
    for array in case.layer.params.values():
        array[...] = 1
    assert not np.array_equal(case.layer(case.x)[0], kept)
    assert np.array_equal(cloned(case.x)[0], kept)


@pytest.mark.parametrize("hidden", [5, 67])
def test_prepared_matrices_give_the_same_bits(kind, hidden, isa, dtype):
    """Rows from one to more than a tile has, panels from a part of one to several next to each other."""
    make, form = CELLS[kind]
    layer = make(I, hidden, rng=0, dtype=dtype, **form)
    fast, rng = layer.frozen(), np.random.default_rng(1)
    for steps, batch in ((1, 1), (3, 1), (1, 2), (4, 3), (2, 17)):
        x = rng.standard_normal((steps, batch, I)).astype(dtype)
        lengths = rng.integers(0, steps + 1, batch)
        assert_same(fast(x), layer(x))
        assert_same(fast(x, lengths=lengths), layer(x, lengths=lengths))


def test_frozen_takes_what_the_layer_takes(kind, isa):
    """batch_first, no batch, any strides."""
    case = Case(kind, num_layers=2, bidirectional=True, batch_first=True)
    fast = case.layer.frozen()
    for x in (case.x, case.x[:, 0], case.x[::-1, ::2], case.x[:0]):
        one, other = fast(x), case.layer(x)
        assert np.array_equal(one[0], other[0])
        assert all(map(np.array_equal, parts_of(one[1]), parts_of(other[1])))
