"""RNN, LSTM and GRU, forward and backward, against the reference: every shape, option, dtype, instruction set."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recurrent_problems import (ACTIVATIONS, KINDS, Recurrence, as_dtype, assert_equal, assert_gradients_of_differences,
                                assert_near, assert_results, computed, forward, of_kind, operands, parse, parts_of,
                                shapes_of)

import convrnn as cr

SHAPES = [text for kind in KINDS for text in shapes_of(kind)]
SHAPES += [f"rnn_t5b3i4h{size}_{name}" for name in ACTIVATIONS[1:] for size in (5, 16, 33)]
SHAPES += [f"rnn_t6b3i4h5_{name}_l6,0,4_reverse_k4" for name in ACTIVATIONS[1:]]
SHAPES += [f"lstm_t3b2i3h9_p{width}" for width in (1, 2, 7, 8, 9, 15, 16, 17, 33)]  # wider than h, too
# Backward, more steps than are gone through at a time in either dtype, cut where a truncation, a row's end or neither is;
# and more rows than the gradients of weights add up at once.
for kind in KINDS:
    steps = 3200 if kind == "rnn" else 800
    ends = ",".join(str(row * steps // 16) for row in (16, 3, 0, 9, 14, 1, 16, 5, 12, 2, 7, 15, 4, 10, 6, 13, 8, 11))
    SHAPES += [of_kind(kind, f"t{steps}b18i2h5", f"l{ends}", "k9", "reverse"), of_kind(kind, f"t{steps // 20}b370i2h5")]
SHAPES += ["gru_t15000i2h5_reverse"]


@pytest.mark.parametrize("text", SHAPES)
def test_results(text, isa, dtype):
    """y, the last state, all gradients, those at every h, and what the cache shows."""
    assert_results(parse(text), dtype)


@pytest.mark.parametrize("text", [of_kind(kind, head, *words) for kind in KINDS for head, *words in (
    ("t5b3i4h7",), ("t5i4h7", "reverse"), ("t6b4i3h17", "l6,0,3,1"), ("t6b4i3h5", "l2,6,0,5", "reverse"))]
    + [f"rnn_t5b3i4h7_{name}" for name in ACTIVATIONS[1:]])
def test_gradients_by_differences(text, isa):
    assert_gradients_of_differences(parse(text))


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_at_length(kind, isa):
    """T = H = 64: outputs within 1e-6 of float64, gradients of the weights within 2e-6, relative in the L2 norm."""
    problem = parse(of_kind(kind, "t64b4i32h64"))
    arrays = operands(problem)
    double, single = (computed(problem, as_dtype(arrays, dtype)) for dtype in ("float64", "float32"))
    for name in ("y", "state 0"):
        assert np.abs(single[name] - double[name]).max() <= 1e-6, name
    for name in double:
        if name.startswith("d "):
            assert np.linalg.norm(single[name] - double[name]) <= 2e-6 * np.linalg.norm(double[name]), name


@pytest.mark.parametrize("text", [of_kind(kind, head, *words) for kind in KINDS for head, *words in (
    ("t8b3i4h5",), ("t8b3i4h17", "reverse"), ("t8b4i3h5", "l8,3,0,5"), ("t8i4h5", "nobhh"))])
def test_truncation_of_the_whole_is_none(text, isa, dtype):
    """truncate >= T cuts nothing, bit for bit; less does."""
    problem = parse(text)
    arrays = as_dtype(operands(problem), dtype)
    backward = problem.function(cr, "_backward")
    _, _, cache = forward(cr, problem, arrays, return_cache=True)
    full = backward(arrays["dy"], cache, arrays["dstate"])
    for truncate in (8, 9, 2**40, np.int64(8)):
        grads = backward(arrays["dy"], cache, arrays["dstate"], truncate=truncate)
        for name in full:
            for one, other in zip(parts_of(grads[name]), parts_of(full[name]), strict=True):
                assert np.array_equal(one, other)
    cut = backward(arrays["dy"], cache, arrays["dstate"], truncate=4)
    assert not np.array_equal(cut["x"], full["x"]) and not np.array_equal(cut["w_hh"], full["w_hh"])


@pytest.mark.parametrize("truncate", [1, 2, 3, 5, 7, 8])
@pytest.mark.parametrize("text", [of_kind(kind, head, *words) for kind in KINDS for head, *words in (
    ("t8b3i4h5",), ("t8b4i3h9", "l8,3,0,5"))])
def test_truncation_is_a_detached_state(text, truncate, isa, dtype):
    """Blocks of k steps, each called by itself, the state carried on and its gradient dropped, give the same numbers.

    A gradient at the last state goes to the block in which its row ends.
    """
    problem = parse(text)
    arrays = as_dtype(operands(problem), dtype)
    lengths = np.array(problem.lengths or [problem.T] * problem.B)
    carried, blocks = arrays["state"], []
    for start in range(0, problem.T, truncate):
        block = Recurrence(problem.cell, min(truncate, problem.T - start), problem.B, problem.I, problem.H, problem.P,
                           reset_after=problem.reset_after,
                           lengths=tuple(np.clip(lengths - start, 0, min(truncate, problem.T - start)).tolist()))
        part = arrays | {"x": arrays["x"][start:start + truncate], "dy": arrays["dy"][start:start + truncate],
                         "state": carried}
        ends = ((lengths > start) & (lengths <= start + truncate) | (lengths == 0) & (start == 0))[:, None]
        dstate = tuple(np.where(ends, end, 0).astype(dtype) for end in parts_of(arrays["dstate"]))
        _, carried, cache = forward(cr, block, part, return_cache=True)
        blocks.append(problem.function(cr, "_backward")(part["dy"], cache, dstate if len(dstate) > 1 else dstate[0]))
    _, state, cache = forward(cr, problem, arrays, return_cache=True)
    grads = problem.function(cr, "_backward")(arrays["dy"], cache, arrays["dstate"], truncate=truncate)
    chained = {name: sum(block[name].astype(np.float64) for block in blocks)
               for name in grads if name not in ("x", "state")}
    chained["x"] = np.concatenate([block["x"] for block in blocks])
    chained |= {f"state {i}": part for i, part in enumerate(parts_of(carried))}
    chained |= {f"d state {i}": part for i, part in enumerate(parts_of(blocks[0]["state"]))}
    whole = {name: array for name, array in grads.items() if name != "state"}
    whole |= {f"state {i}": part for i, part in enumerate(parts_of(state))}
    whole |= {f"d state {i}": part for i, part in enumerate(parts_of(grads["state"]))}
    assert_near(whole, chained, dtype, units=16)


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_gradients(kind, isa, dtype):
    """They are appended, change nothing else, and at the last step are what comes in from outside."""
    problem = parse(of_kind(kind, "t6b3i4h5"))
    arrays = as_dtype(operands(problem), dtype)
    _, _, cache = forward(cr, problem, arrays, return_cache=True)
    backward = problem.function(cr, "_backward")
    grads = backward(arrays["dy"], cache, arrays["dstate"])
    with_dh, dh = backward(arrays["dy"], cache, arrays["dstate"], return_hidden_gradients=True)
    assert list(grads) == list(with_dh)
    assert all(np.array_equal(one, other) for name in grads
               for one, other in zip(parts_of(grads[name]), parts_of(with_dh[name]), strict=True))
    assert dh.shape == (6, 3, problem.width)
    assert np.array_equal(dh[-1], arrays["dy"][-1] + parts_of(arrays["dstate"])[0])
    _, dh = backward(arrays["dy"], cache, arrays["dstate"], truncate=2, return_hidden_gradients=True)
    assert np.array_equal(dh[[1, 3]], arrays["dy"][[1, 3]])
    assert not (dh[[0, 2, 4]] == arrays["dy"][[0, 2, 4]]).any()


def test_gradient_names(isa):
    for kind in KINDS:
        problem = parse(of_kind(kind, "t2b1i2h3", "nobih"))
        arrays = operands(problem)
        _, _, cache = forward(cr, problem, arrays, return_cache=True)
        grads = problem.function(cr, "_backward")(arrays["dy"], cache)
        assert set(grads) == {"x", "w_ih", "w_hh", "b_ih", "b_hh", "state"} | ({"w_hr"} if problem.P else set())
        assert grads["b_ih"] is None
        assert isinstance(grads["state"], tuple) == (problem.cell == "lstm")


# ------------------------------------------------------------------------------------------------- random problems


@st.composite
def recurrences(draw):
    """Problems over the whole space of shapes and options."""
    cell, *form = draw(st.sampled_from(KINDS)).split()
    steps, batch = draw(st.integers(0, 9)), draw(st.one_of(st.none(), st.integers(0, 9)))
    sizes = st.one_of(st.integers(1, 9), st.integers(1, 40))
    lengths = None
    if batch is not None and draw(st.booleans()):
        lengths = tuple(draw(st.lists(st.integers(0, steps), min_size=batch, max_size=batch)))
    return Recurrence(cell, steps, batch, draw(sizes), draw(sizes), draw(sizes) if "p" in form else 0,
                      draw(st.sampled_from(ACTIVATIONS)) if cell == "rnn" else "tanh", "before" not in form, lengths,
                      draw(st.booleans()), frozenset(draw(st.sets(st.sampled_from(["b_ih", "b_hh", "state"])))),
                      draw(st.one_of(st.none(), st.integers(1, 11))))


@given(problem=recurrences())
@settings(max_examples=100, derandomize=True, deadline=None, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_problems(isa, dtype, problem):
    """A failure prints the line that reproduces it."""
    assert parse(str(problem)) == problem
    assert_results(problem, dtype)


def test_one_array_twice(isa, dtype):
    """Operands may share memory, as long as none is written to."""
    square, vector = np.random.default_rng(2).standard_normal((5, 5)).astype(dtype), np.ones(5, dtype)
    problem = parse("rnn_t5i5h5")
    shared = {"x": square, "w_ih": square, "w_hh": square, "b_ih": vector, "b_hh": vector, "w_hr": None,
              "state": vector, "dy": square, "dstate": vector}
    copies = {name: None if array is None else array.copy() for name, array in shared.items()}
    assert_equal(computed(problem, shared), computed(problem, copies),
                 ["y", "d x", "d w_ih", "d w_hh", "d b_ih", "d state 0"])
