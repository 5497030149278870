"""What must hold for recurrence without knowing a single result: rows, chunks, threads and memory, bit for bit."""

import ctypes
import math
import platform
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from arrangements import ARRANGEMENTS, repeated
from recurrent_problems import (KINDS, Recurrence, as_dtype, as_state, assert_equal, assert_near, computed, forward,
                                of_kind, operands, parse, parts_of)

import convrnn as cr

PER_ROW = ("x", "state", "dy", "dstate")  # operands with a batch axis; the weights have none


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def random_arrays(text, dtype="float64"):
    problem = parse(text)
    return problem, as_dtype(operands(problem), dtype)


def mapped(arrays, names, function):
    """The operands with a function applied to some of them, states part by part."""
    return arrays | {name: as_state([function(name, part) for part in parts_of(arrays[name])])
                     for name in names if arrays[name] is not None}


# ----------------------------------------------------------------------------------------------------------- rows


def of_rows(results, rows):
    """Those results that have a batch axis, at some rows of it, or at one, without the axis; series and states."""
    shared = ("d w_ih", "d w_hh", "d b_ih", "d b_hh", "d w_hr")
    return {name: array if array is None else array[rows] if "state" in name else array[:, rows]
            for name, array in results.items() if name not in shared}


@pytest.mark.parametrize("head, words", [("t6b7i3h5", ()), ("t5b9i4h17", ("reverse",)), ("t3b33i2h33", ()),
                                         ("t6b7i3h9", ("k2",)), ("t2b18i2h64", ())])
def test_batch_composition(kind, head, words, isa, dtype):
    """A row of a batch is what it would be alone, in any place, and without a batch axis; forward and backward."""
    problem, arrays = random_arrays(of_kind(kind, head, *words), dtype)
    whole = computed(problem, arrays)
    order = np.random.default_rng(1).permutation(problem.B)
    for rows in ([0], [problem.B - 1], [2, 3], order.tolist()):
        part = mapped(arrays, PER_ROW, lambda name, array: array.take(rows, axis=array.ndim - 2))
        results, wanted = of_rows(computed(problem, part), slice(None)), of_rows(whole, rows)
        for name in ("y", "dh", "cache.h", "cache.gates", "d x", "d state 0"):
            assert np.array_equal(results[name], wanted[name]), name
    alone = mapped(arrays, PER_ROW, lambda name, array: array.take(1, axis=array.ndim - 2))
    assert_equal(computed(problem, alone), of_rows(whole, 1), list(of_rows(whole, 1)))


@pytest.mark.parametrize("head, words", [("t7b5i3h5", ("l7,0,3,1,5",)), ("t7b5i3h17", ("l2,7,0,6,1", "reverse")),
                                         ("t7b5i3h9", ("l7,0,3,1,5", "k2")), ("t7b3i3h9", ("l4,7,5", "reverse", "k3"))])
def test_lengths_are_rows_alone(kind, head, words, isa, dtype):
    """Each row of a batch with lengths, by itself and cut to its length, has the same bits; past its end is nothing."""
    problem, arrays = random_arrays(of_kind(kind, head, *words), dtype)
    whole = computed(problem, arrays)
    sums = {}
    for row, length in enumerate(problem.lengths):
        cut = mapped(arrays, PER_ROW, lambda name, array: array[:length, row] if name in ("x", "dy") else
                     array[row])
        single = Recurrence(problem.cell, length, None, problem.I, problem.H, problem.P, problem.activation,
                            problem.reset_after, None, problem.reverse, truncate=problem.truncate)
        results = computed(single, cut)
        for name, array in of_rows(whole, row).items():
            if array is not None and "state" not in name:
                assert not array[length:].any(), name
                array = array[:length]
            assert np.array_equal(results[name], array) or array is None, name
        for name in ("w_ih", "w_hh", "b_ih", "b_hh"):
            sums[name] = sums.get(name, 0) + results[f"d {name}"].astype(np.float64)
    assert_near({name: whole[f"d {name}"] for name in sums}, sums, dtype, units=16)


@pytest.mark.parametrize("words", [("l5,0,3,1",), ("l5,0,3,1", "reverse")])
def test_what_lies_past_the_end_is_never_read(kind, words, isa, dtype):
    """NaN, infinities or numbers there, in x and in dy: the same bits."""
    problem, arrays = random_arrays(of_kind(kind, "t5b4i3h9", *words), dtype)
    wanted = computed(problem, arrays)
    for value in (0.0, math.inf, 3.0):
        filled = mapped(arrays, ("x", "dy"), lambda name, array: np.where(np.isnan(array), array.dtype.type(value),
                                                                          array))
        assert_equal(computed(problem, filled), wanted)
    assert all(array is None or np.isfinite(array).all() for array in wanted.values())


def test_length_zero_keeps_the_state(kind, isa, dtype):
    """The first state comes out, and the gradient at the last goes through, bit for bit; so with T = 0."""
    for text in (of_kind(kind, "t4b2i3h5", "l0,0", "k2"), of_kind(kind, "t0b2i3h5"), of_kind(kind, "t0i3h5")):
        problem, arrays = random_arrays(text, dtype)
        results = computed(problem, arrays)
        for i, (part, gradient) in enumerate(zip(parts_of(arrays["state"]), parts_of(arrays["dstate"]), strict=True)):
            assert np.array_equal(results[f"state {i}"], part)
            assert np.array_equal(results[f"d state {i}"], gradient)
        assert not any(results[name].any() for name in ("y", "d w_ih", "d w_hh", "d b_ih", "d b_hh", "d x"))


def test_reverse_is_time_turned_round(kind, isa, dtype):
    problem, arrays = random_arrays(of_kind(kind, "t7b3i4h9", "reverse"), dtype)
    onward = parse(of_kind(kind, "t7b3i4h9"))
    turned = mapped(arrays, ("x", "dy"), lambda name, array: array[::-1])
    results, wanted = computed(problem, arrays), computed(onward, turned)
    for name in ("y", "d x", "dh", "cache.h", "cache.gates"):
        assert np.array_equal(results[name][::-1], wanted[name]), name
    for name in ("state 0", "d state 0"):
        assert np.array_equal(results[name], wanted[name]), name


# ------------------------------------------------------------------------------------------------ chunks of time


@pytest.mark.parametrize("head", ["t12b1i3h5", "t12b5i3h16", "t12b4i17h33", "t12b2i5h64", "t12b1i64h64", "t12i3h9",
                                  "t12b33i2h7", "t12b1i40h200", "t12b1i37h21", "t12b1i1040h19"])
def test_chunks(kind, head, isa, dtype):
    """A sequence cut anywhere, down to single steps, with the state carried on, has the same bits."""
    problem, arrays = random_arrays(of_kind(kind, head), dtype)
    y, state = forward(cr, problem, arrays)
    for cuts in (range(1, 12), [1], [11], [5, 6], [3, 4, 9], [6]):
        carried, pieces = arrays["state"], []
        for x in np.split(arrays["x"], list(cuts)):
            piece, carried = forward(cr, problem, arrays | {"x": x, "state": carried})
            pieces.append(piece)
        assert np.array_equal(np.concatenate(pieces), y)
        for one, other in zip(parts_of(carried), parts_of(state), strict=True):
            assert np.array_equal(one, other)


@pytest.mark.parametrize("head, words", [("t40b64i8h64", ()), ("t40b64i8h64", ("reverse",)), ("t3b600i3h64", ()),
                                         ("t700b3i2h96", ()), ("t40b64i8h64", ("l" + ",".join(map(str, range(-24, 40)))
                                                                               .replace("-", ""), "reverse"))])
def test_inference_is_training(kind, head, words, isa, dtype):
    """Without a cache, gates are kept for some steps at a time: the same bits, over many such chunks."""
    problem, arrays = random_arrays(of_kind(kind, head, *words), dtype)
    y, state = forward(cr, problem, arrays)
    wanted, last, cache = forward(cr, problem, arrays, return_cache=True)
    assert np.array_equal(y, wanted) and np.array_equal(cache.h, y)
    assert all(map(np.array_equal, parts_of(state), parts_of(last)))


# --------------------------------------------------------------------------------------------------------- threads


@pytest.mark.parametrize("head, words", [("t20b64i32h64", ()), ("t40b3i20h96", ()), ("t200b1i64h48", ()),
                                         ("t4b3i20h400", ("l4,0,3",)), ("t2b96i70h65", ()), ("t1b130i64h96", ()),
                                         ("t9b70i5h33", ("l" + ",".join(str(row * 7 % 10) for row in range(70)),))])
def test_thread_counts(kind, head, words, isa):
    problem, arrays = random_arrays(of_kind(kind, head, *words), "float32")
    results = []
    for threads in (1, 2, 3, 4):
        with cr.num_threads(threads):
            results.append(computed(problem, arrays))
    for other in results[1:]:
        assert_equal(other, results[0])


def test_calls_at_once(kind, isa):
    """From eight threads, with one set of operands and one cache between them."""
    problem, arrays = random_arrays(of_kind(kind, "t30b5i8h24", "l30,0,7,29,1"), "float32")
    wanted = computed(problem, arrays)
    _, _, cache = forward(cr, problem, arrays, return_cache=True)
    backward = problem.function(cr, "_backward")
    with ThreadPoolExecutor(8) as pool:
        forwards = [pool.submit(computed, problem, arrays) for _ in range(16)]
        backwards = [pool.submit(backward, arrays["dy"], cache, arrays["dstate"]) for _ in range(16)]
        for call in forwards:
            assert_equal(call.result(), wanted)
        for call in backwards:
            assert np.array_equal(call.result()["x"], wanted["d x"])
            assert np.array_equal(call.result()["w_hh"], wanted["d w_hh"])


# ---------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("words", [(), ("reverse",), ("l5,0,3",)])
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_arrays_of_any_strides(arrangement, kind, words, isa, dtype):
    """However an array lies in memory, the result is that of its contiguous copy, bit for bit, and it is unchanged."""
    problem, arrays = random_arrays(of_kind(kind, "t5b3i4h9", *words), dtype)
    laid = mapped(arrays, arrays, lambda name, array: ARRANGEMENTS[arrangement](array))
    assert_equal(computed(problem, laid), computed(problem, arrays))
    for name, array in arrays.items():
        for one, other in zip(parts_of(laid[name]), parts_of(array), strict=True):
            np.testing.assert_array_equal(one, other, err_msg=name)


def test_broadcast_arrays(kind, isa, dtype):
    """Strides of zero along every axis in turn, and along all of them."""
    problem, arrays = random_arrays(of_kind(kind, "t5b3i4h9"), dtype)
    for axis in (0, 1, 2, None):
        flat = mapped(arrays, arrays, lambda name, array: repeated(array, axis))
        assert_equal(computed(problem, flat), computed(problem, mapped(flat, flat, lambda name, array: array.copy())))


def test_lengths_of_any_integers(kind, isa):
    problem, arrays = random_arrays(of_kind(kind, "t5b3i4h9", "l5,0,3"))
    wanted, _ = forward(cr, problem, arrays)
    for dtype in ("int8", "uint8", "int32", "uint64", ">i4"):
        lengths = np.array([5, 0, 3], dtype)
        assert np.array_equal(forward(cr, problem, arrays, lengths=lengths)[0], wanted)
    strided = np.array([3, 9, 0, 9, 5])[::-2]
    assert np.array_equal(forward(cr, problem, arrays, lengths=strided)[0], wanted)
    assert np.array_equal(forward(cr, problem, arrays, lengths=[5, 0, 3])[0], wanted)


@pytest.mark.parametrize("words", [(), ("reverse",), ("l5,0,3",), ("l5,0,3", "reverse")])
def test_backward_again(kind, words, isa, dtype):
    """It leaves the cache as it was, whatever it was asked before, and the results to their owner."""
    problem, arrays = random_arrays(of_kind(kind, "t5b3i4h9", *words), dtype)
    _, _, cache = forward(cr, problem, arrays, return_cache=True)
    shown = {name: np.array(getattr(cache, name)) for name in ("h", "c", "gates")}
    backward = problem.function(cr, "_backward")
    first = backward(arrays["dy"], cache, arrays["dstate"])
    kept = {name: [part.copy() for part in parts_of(array)] for name, array in first.items()}
    backward(2 * arrays["dy"], cache, truncate=2, return_hidden_gradients=True)
    again = backward(arrays["dy"], cache, arrays["dstate"])
    for name, parts in kept.items():
        for results in (first, again):
            assert all(map(np.array_equal, parts, parts_of(results[name]))), name
    for name, array in shown.items():
        assert np.array_equal(array, np.array(getattr(cache, name)))


def test_lengths_are_the_callers(kind, isa):
    """Written to before the backward pass, they change nothing."""
    problem, arrays = random_arrays(of_kind(kind, "t5b3i4h9", "l5,0,3"))
    wanted = computed(problem, arrays)
    lengths = np.array(problem.lengths)
    _, _, cache = forward(cr, problem, arrays, lengths=lengths, return_cache=True)
    lengths[...] = [1, 4, 99]
    grads = problem.function(cr, "_backward")(arrays["dy"], cache, arrays["dstate"])
    assert np.array_equal(grads["w_hh"], wanted["d w_hh"]) and np.array_equal(grads["x"], wanted["d x"])


def test_results_are_the_callers(kind, isa):
    """y and the last state may be written to before the backward pass; they are not the cache's."""
    problem, arrays = random_arrays(of_kind(kind, "t5b3i4h9"))
    wanted = computed(problem, arrays)
    y, state, cache = forward(cr, problem, arrays, return_cache=True)
    for array in (y, *parts_of(state)):
        array[...] = math.nan
    grads = problem.function(cr, "_backward")(arrays["dy"], cache, arrays["dstate"])
    assert np.array_equal(grads["w_hh"], wanted["d w_hh"]) and np.array_equal(grads["x"], wanted["d x"])


@pytest.mark.parametrize("words", [("l5,0,3",), ("l1,5,2", "reverse", "k2")])
def test_nothing_is_left_of_another_call(kind, words, isa, dtype):
    """Memory in which a call left NaN, of the same sizes and so handed out again, does not reach the next."""
    problem, arrays = random_arrays(of_kind(kind, "t5b3i4h9", *words), dtype)
    full = parse(of_kind(kind, "t5b3i4h9"))
    spoilt = mapped(arrays, arrays, lambda name, array: np.full_like(array, math.nan))
    wanted = computed(problem, arrays)
    for _ in range(3):
        assert np.isnan(computed(full, spoilt)["d w_ih"]).all()
        assert_equal(computed(problem, arrays), wanted)


# ---------------------------------------------------------------------------------------------------------- values


def test_subnormals_are_flushed(isa, dtype):
    """h halves with every step until it would be subnormal; from there on it is zero, in any chunks."""
    steps = 40 - np.finfo(dtype).minexp
    x, w, h = np.zeros((steps, 2, 1), dtype), np.zeros((17, 1), dtype), np.ones((2, 17), dtype)
    half = np.eye(17, dtype=dtype) / 2
    y, state = cr.rnn(x, w, half, state=h, activation="identity")
    exact = np.ldexp(np.ones((), dtype), -1 - np.arange(steps))[:, None, None]
    assert np.array_equal(y, np.broadcast_to(np.where(exact < np.finfo(dtype).tiny, 0, exact), y.shape))
    assert not state.any()
    pieces = []
    for start in range(steps):
        piece, h = cr.rnn(x[start:start + 1], w, half, state=h, activation="identity")
        pieces.append(piece)
    assert np.array_equal(np.concatenate(pieces), y)


def test_a_decayed_state_is_a_zero_state(kind, isa, dtype):
    """A state of subnormal numbers gives what a state of zeros gives; a decayed gradient likewise."""
    problem, arrays = random_arrays(of_kind(kind, "t4b2i3h9"), dtype)
    tiny = np.finfo(dtype).smallest_subnormal
    names = ("state", "dstate", "dy")
    small, none = (mapped(arrays, names, lambda name, array: np.full_like(array, value))
                   for value in (tiny, 0))
    small, none = computed(problem, small), computed(problem, none)
    assert_equal(small, none, ["y", "state 0", "cache.h", "cache.gates", "d w_ih", "d w_hh", "d b_ih"])
    assert none["y"].any() and not none["d w_hh"].any()


UPWARD = {"x86_64": 0x800, "aarch64": 0x400000}  #: C's FE_UPWARD


@pytest.mark.skipif(platform.machine() not in UPWARD, reason="FE_UPWARD of this processor is not known")
@pytest.mark.parametrize("threads", [1, 4])
def test_floating_point_mode_is_restored(kind, threads, isa):
    """Subnormals are kept before and after, in the caller and in the workers, and the rounding mode is the caller's."""
    problem, arrays = random_arrays(of_kind(kind, "t20b64i32h64"), "float32")
    tiny = np.finfo(np.float32).smallest_subnormal
    image, taps = np.full((8, 64, 64, 8), tiny, np.float32), np.ones((3, 3, 8, 16), np.float32)
    libm, upward = ctypes.CDLL("libm.so.6"), UPWARD[platform.machine()]
    nearest = libm.fegetround()
    with cr.num_threads(threads):
        libm.fesetround(upward)
        try:
            computed(problem, arrays)
            after = libm.fegetround()
        finally:
            libm.fesetround(nearest)
        assert after == upward
        computed(problem, arrays)
        # as integers: where subnormals are flushed, they also compare equal to zero
        assert (np.full(9, tiny) * np.float32(1)).view(np.int32).tolist() == [1] * 9
        assert (cr.conv2d(image, taps, algorithm="direct").view(np.int32) == 72).all()


def test_nan_stays_in_its_row(kind, isa, dtype):
    """From the step it enters onward, and backward from there to the first; other rows keep their bits."""
    problem, arrays = random_arrays(of_kind(kind, "t6b5i3h9"), dtype)
    clean = computed(problem, arrays)
    arrays["x"][3, 2, 1] = math.nan
    results = computed(problem, arrays)
    assert np.isnan(results["y"][3:, 2]).all() and np.array_equal(results["y"][:3], clean["y"][:3])
    assert np.isnan(results["d x"][:4, 2]).all()
    others = [0, 1, 3, 4]
    for name in ("y", "d x"):
        assert np.array_equal(results[name][:, others], clean[name][:, others])
    assert np.isnan(results["d w_ih"]).any()
