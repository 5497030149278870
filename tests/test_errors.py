"""Bad input: every rule of the API, for every array function. Words, not crashes; and what is merely large is legal.

A case is an otherwise valid call with one argument changed, and what the message of the exception has to hold.
"""

import inspect
import math
import mmap
import re
import resource
import time

import numpy as np
import pytest
from interpreters import run

import convrnn as cr
from convrnn import reference

CONVOLUTIONS = [f"{kind}{rank}d" for kind in ("conv", "conv_transpose") for rank in (1, 2, 3)]
POOLS = [f"{kind}_pool{rank}d" for kind in ("max", "avg") for rank in (1, 2)]
FORWARD = CONVOLUTIONS + POOLS
FUNCTIONS = FORWARD + [f"{name}_backward" for name in FORWARD]
SIGNATURES = {name: inspect.signature(getattr(cr, name)).parameters for name in FUNCTIONS}


def rank_of(name):
    return int(re.search(r"(\d)d", name)[1])


def operands(name, dtype=np.float32):
    """Arguments of a valid call: x of 5 pixels along each axis and 4 channels, kernels of 3 taps, windows of 2."""
    rank, transposed, pool = rank_of(name), "transpose" in name, "pool" in name
    x = np.ones((1, *(5,) * rank, 4), dtype)
    arguments = {"size": 2} if pool else {"w": np.ones((*(3,) * rank, *((6, 4) if transposed else (4, 6))), dtype)}
    if name.endswith("backward"):
        out = 2 if pool else 7 if transposed else 3
        arguments["dy"] = np.ones((1, *(out,) * rank, 4 if pool else 6), dtype)
    elif not pool:
        arguments["b"] = np.ones(6, dtype)
    return arguments | ({"x": x} if "x" in SIGNATURES[name] else {"x_shape": x.shape})


def call(name, **changes):
    return getattr(cr, name)(**(operands(name) | changes))


def having(parameter, names=FUNCTIONS):
    """The functions that take a parameter."""
    return [name for name in names if parameter in SIGNATURES[name]]


def arrays_of(name):
    """The names of the array arguments."""
    return [key for key, value in operands(name).items() if isinstance(value, np.ndarray)]


def assert_says(caught, words):
    """A TypeError or ValueError itself, with these words (or numbers) in its message."""
    assert caught.type in (TypeError, ValueError)
    for word in words:
        assert re.search(rf"(?<![\w-]){re.escape(word)}(?!\w)", str(caught.value)), f"no {word!r} in: {caught.value}"


def assert_refused(name, exception, words, **changes):
    """The call raises, in those words, and changes none of its arguments."""
    arguments = operands(name) | changes
    small = {key: (value, value.tobytes()) for key, value in arguments.items()
             if isinstance(value, np.ndarray) and value.nbytes < 2**20}
    with pytest.raises(exception) as caught:
        getattr(cr, name)(**arguments)
    assert_says(caught, words)
    for key, (value, before) in small.items():
        assert value.tobytes() == before, key


@pytest.fixture
def little_memory():
    """A gigabyte of addresses beyond those in use: what does not fit has to say so."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture
def promptly():
    """The test may take five seconds."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < 5


def test_every_function_is_here():
    assert set(FUNCTIONS) == {name for name in cr.__all__ if re.match(r"(conv|conv_transpose|\w+_pool)\dd", name)}
    for name in FUNCTIONS:
        call(name)


# ------------------------------------------------------------------------------------------------- numbers per axis


LEAST = {"stride": 1, "dilation": 1, "groups": 1, "size": 1, "padding": 0, "output_padding": 0}
NUMBERS = [(name, number) for number in LEAST for name in having(number)]
NUMBERS_PER_AXIS = [(name, number) for name, number in NUMBERS if number != "groups"]


@pytest.mark.parametrize(("name", "number", "value"), [
    (name, number, value) for name, number in NUMBERS
    for value in (-1, LEAST[number] - 1, -2**31, -2**63, -10**30, 2**63, 2**64, 10**30)])
def test_numbers_out_of_range(name, number, value):
    assert_refused(name, ValueError, [number, str(value)], **{number: value})
    if number != "groups":
        one_axis = (value,) + (1,) * (rank_of(name) - 1)
        assert_refused(name, ValueError, [number, str(value)], **{number: one_axis})
        assert_refused(name, ValueError, [number, str(value)], **{number: list(one_axis)[::-1]})


@pytest.mark.parametrize("value", [1.0, 1e12, math.nan, True, np.True_, np.float32(1), 1j, b"1", None, object, {},
                                   np.array(1.0), np.array(True), slice(1)], ids=repr)
@pytest.mark.parametrize(("name", "number"), NUMBERS)
def test_numbers_of_other_types(name, number, value):
    if number != "groups":
        assert_refused(name, TypeError, [number], **{number: [value] * rank_of(name)})
    if number == "padding":
        assert_refused(name, TypeError, [number], **{number: [(0, value)] * rank_of(name)})
    if "pool" not in name or number != "stride" or value is not None:
        assert_refused(name, TypeError, [number], **{number: value})


@pytest.mark.parametrize("value", ["1", "", "SAME", "same "])
@pytest.mark.parametrize(("name", "number"), NUMBERS)
def test_numbers_in_words(name, number, value):
    assert_refused(name, ValueError if number == "padding" else TypeError, [number, repr(value)], **{number: value})


@pytest.mark.parametrize("kind", [tuple, list, np.array])
@pytest.mark.parametrize(("name", "number"), NUMBERS_PER_AXIS)
def test_numbers_of_wrong_length(name, number, kind):
    rank = rank_of(name)
    for length in {0, rank - 1, rank + 1, rank + 2}:
        assert_refused(name, ValueError, [number, repr(kind([1] * length))], **{number: kind([1] * length)})
    if number == "padding":
        for length in (0, 1, 3):
            assert_refused(name, ValueError, [number], padding=kind([[1] * length] * rank))


@pytest.mark.parametrize(("name", "number"), [pair for pair in NUMBERS_PER_AXIS if pair[1] != "padding"])
def test_numbers_in_pairs(name, number):
    assert_refused(name, TypeError, [number], **{number: [(1, 1)] * rank_of(name)})
    assert_refused(name, TypeError, [number], **{number: np.ones((rank_of(name), 2), int)})
    if rank_of(name) > 1:
        assert_refused(name, TypeError, [number], **{number: [(1, 1)] + [1] * (rank_of(name) - 1)})


@pytest.mark.parametrize("value", [np.int64(1), np.uint8(1), np.array(1), [1], (np.int32(1),), np.array([1])], ids=repr)
@pytest.mark.parametrize(("name", "number"), [pair for pair in NUMBERS_PER_AXIS if pair[0] in FORWARD])
def test_numbers_from_numpy(name, number, value):
    """Whatever can be an index can be a number here."""
    options = {"stride": 2, "dilation": 2} if number == "output_padding" else {}
    if np.ndim(value):
        value = np.repeat(value, rank_of(name)) if isinstance(value, np.ndarray) else value * rank_of(name)
    assert np.array_equal(call(name, **{number: value}, **options), call(name, **{number: 1}, **options))


@pytest.mark.parametrize("padding", ["valid", "same", "same_lower", "full", "causal"])
@pytest.mark.parametrize("name", having("padding"))
def test_named_padding_where_it_has_no_meaning(name, padding):
    rank = rank_of(name)
    if "transpose" in name or "pool" in name or (padding == "causal" and rank > 1):
        assert_refused(name, ValueError, ["padding", repr(padding)], padding=padding)
    elif name in FORWARD:
        call(name, padding=padding)


@pytest.mark.parametrize("name", having("groups"))
def test_groups_have_to_divide(name):
    for groups in (3, 5, 2**31, 2**62):
        assert_refused(name, ValueError, ["groups", str(groups), "4", "x"], groups=groups)
    if "transpose" not in name:
        assert_refused(name, ValueError, ["groups", "4", "6", "w"], groups=4)
        assert_refused(name, ValueError, ["w", "4", "2", "x"], groups=2)


# ------------------------------------------------------------------------------------------------------------ huge


HUGE = (10**12, 2**31, 2**40, 2**62, 2**63 - 1)


def first_outputs(name, **changes):
    """Operands of a call of one output pixel (of one input pixel, if transposed)."""
    arguments = operands(name) | changes
    one = (slice(None), *(slice(1),) * rank_of(name))
    if "transpose" in name:
        arguments["x"] = arguments["x"][one]
        arguments["dy"] = np.ones((1, *arguments["w"].shape[:-2], 6), np.float32)
    elif "dy" in arguments:
        arguments["dy"] = arguments["dy"][one]
    return {key: value for key, value in arguments.items() if key in SIGNATURES[name]}


def assert_same_results(actual, wanted):
    for a, b in zip(np.atleast_1d(actual) if isinstance(actual, np.ndarray) else actual,
                    np.atleast_1d(wanted) if isinstance(wanted, np.ndarray) else wanted, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize("name", having("stride"))
def test_huge_stride(name, value, promptly):
    """One output, as with any stride past the image."""
    arguments = first_outputs(name)
    function = getattr(cr, name)
    wanted = function(**arguments, stride=5)
    assert_same_results(function(**arguments, stride=value), wanted)
    assert_same_results(function(**arguments, stride=(value,) + (5,) * (rank_of(name) - 1)), wanted)


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize("name", having("dilation"))
def test_huge_dilation_of_one_tap(name, value, promptly):
    arguments = operands(name)
    arguments["w"] = arguments["w"][(slice(1),) * rank_of(name)]
    if "dy" in arguments:
        arguments["dy"] = np.ones((1, *(5,) * rank_of(name), 6), np.float32)
    function = getattr(cr, name)
    assert_same_results(function(**arguments, dilation=value), function(**arguments))


@pytest.mark.parametrize("mode", ["constant", "reflect", "symmetric", "edge", "wrap"])
@pytest.mark.parametrize(("low", "high", "stride"), [
    (2**40 + 1, 2**40, 2**40), (2**59, 2**59, 2**59 - 3), (0, 2**50, 2**48 + 5), (2**50, 0, 2**48 + 5),
    (7, 10**12, 10**11), (2**31 + 2, 2**31 + 3, 2**31 + 1), (2**33, 2**33, 2**32 + 1)])
def test_huge_padding_and_stride(mode, low, high, stride, layout, dtype, promptly):
    """Output o is pixel o*stride - low of the padded line, and so is its gradient."""
    x, w = np.arange(1, 5, dtype=dtype).reshape(1, 4, 1), np.full((1, 1, 1), 3, dtype)
    options = {"stride": stride, "padding": [(low, high)], "padding_mode": mode, "layout": layout}
    x = x if layout == "channels_last" else x.reshape(1, 1, 4)
    sources = [reference.pad_source(o * stride - low, 4, mode) for o in range((4 + low + high - 1) // stride + 1)]
    y = cr.conv1d(x, w, **options)
    np.testing.assert_array_equal(y.ravel(), [0 if i is None else 3 * (i + 1) for i in sources])
    dx, dw, db = cr.conv1d_backward(np.ones_like(y), x, w, **options)
    np.testing.assert_array_equal(dx.ravel(), [3 * sources.count(i) for i in range(4)])
    assert dw.item() == sum(i + 1 for i in sources if i is not None) and db.item() == len(sources)


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize(("name", "number"), [
    (name, number) for name, number in NUMBERS if number != "stride" or "transpose" in name])
def test_huge_numbers_that_do_not_fit(name, number, value, little_memory, promptly):
    """Too large for the image, for 63 bits or for the memory there is, and said at once."""
    for given in (value,) if number == "groups" else (value, (value,) + (1,) * (rank_of(name) - 1)):
        with pytest.raises((ValueError, MemoryError)) as caught:
            call(name, **{number: given})
        if caught.type is ValueError:
            assert re.search(rf"{number}|\b(output|dy|w)\b", str(caught.value)) and re.search(r"\d", str(caught.value))
        else:
            assert issubclass(caught.type, MemoryError)


def line(length, value=2.0, dtype=np.float32):
    """One number seen `length` times: one image of one channel."""
    return np.broadcast_to(dtype(value), (1, length, 1))


def taps(*values):
    return np.array(values, np.float32).reshape(-1, 1, 1)


@pytest.mark.parametrize("refused", [
    lambda: cr.conv1d(line(2**60), taps(1), stride=2**60),
    lambda: cr.conv1d(np.ones((1, 4, 1), np.float32), np.broadcast_to(np.float32(1), (2**60, 1, 1)), padding=2**60),
    lambda: cr.conv1d_backward(np.ones((1, 1, 1), np.float32), line(2**60), taps(1), stride=2**60, needs="w"),
    lambda: cr.conv2d(np.ones((1, 4, 4, 1)), np.ones((1, 1, 1, 1)), padding=2**40),
    lambda: cr.conv_transpose2d(np.ones((1, 4, 4, 1)), np.ones((1, 1, 1, 1)), stride=2**40),
    lambda: cr.conv_output_shape((1, 2**40, 2**40, 1), (1, 1, 1, 1)),
    lambda: cr.conv_output_shape((2**40, 2**40, 1), (1, 1, 2**40)),
    lambda: cr.conv_output_shape((1, 4, 4, 1), (1, 1, 1, 1), padding=2**40),
    lambda: cr.max_pool1d(line(2**60), 2**59, stride=2**60),
    lambda: cr.max_pool2d(np.ones((1, 4, 4, 1)), 2**40, padding=2**40 - 1),
    lambda: cr.avg_pool2d(np.ones((1, 4, 4, 1)), 2**40, padding=2**40 - 1, stride=2**40),
])
def test_products_past_63_bits(refused, little_memory, promptly):
    with pytest.raises(ValueError, match=r"\d|bits|too big"):
        refused()


@pytest.mark.parametrize("refused", [
    lambda: cr.conv1d(line(2**45), taps(1)),
    lambda: cr.conv1d(np.broadcast_to(np.float32(1), (2**45, 1, 1)), taps(1)),
    lambda: cr.conv1d(line(1), np.broadcast_to(np.float32(1), (1, 1, 2**45))),
    lambda: cr.conv1d(line(2**45), np.broadcast_to(np.float32(1), (2**45, 1, 1))),
    lambda: cr.conv1d_backward(line(2**45), line(2**45), taps(1), needs="x"),
    lambda: cr.conv1d_backward(line(1), line(2**45), np.broadcast_to(np.float32(1), (2**45, 1, 1)), needs="w"),
    lambda: cr.conv_transpose1d(line(2**45), taps(1)),
    lambda: cr.max_pool1d(line(2**45), 2),
    lambda: cr.avg_pool1d(line(2**45), 2),
    lambda: cr.max_pool1d_backward(line(1), line(2**45), 2, stride=2**45),
    lambda: cr.avg_pool1d_backward(line(1), (1, 2**45, 1), 2, stride=2**45),
    lambda: cr.max_pool1d(line(4), 2**45 + 1, padding=2**45, stride=2**46),
    lambda: cr.avg_pool1d(line(4), 2**45 + 1, padding=2**45, stride=2**46),
])
def test_more_memory_than_there_is(refused, little_memory, promptly):
    with pytest.raises(MemoryError, match=r"\d"):
        refused()


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_workspace_of_many_threads_past_63_bits(kind):
    """Four parts of 2**62 bytes."""
    run(f"""
import numpy as np, convrnn as cr
cr.set_num_threads(4)
try:
    cr.{kind}_pool1d(np.zeros((4, 1, 1), np.float32), 2**58 + 1, padding=2**58, stride=2**58)
except MemoryError as error:
    assert "bytes" in str(error)
else:
    raise AssertionError
""", timeout=20)


@pytest.mark.parametrize(("legal", "wanted"), [
    (lambda: cr.conv1d(line(2**33), taps(1), stride=2**31), [2, 2, 2, 2]),
    (lambda: cr.conv1d(line(2**33), taps(1, 2, 3), dilation=2**31, stride=2**32), [12]),
    (lambda: cr.conv1d(line(2**40 + 3), taps(1, 5), padding=1, stride=2**40 + 3), [10, 2]),
    (lambda: cr.conv1d(line(2**33), taps(1), stride=2**32, activation="tanh"), [math.tanh(2)] * 2),
    (lambda: cr.conv1d(line(2**33).transpose(0, 2, 1), taps(1), stride=2**31, layout="channels_first"), [2, 2, 2, 2]),
    (lambda: cr.conv1d_backward(line(2), line(2**33), taps(1, 1), stride=2**32, needs="wb"), [8, 8, 4]),
    (lambda: cr.conv1d_backward(line(4), line(2**33), taps(1), stride=2**31, needs=["w"]), [16]),
    (lambda: cr.conv1d_backward(np.broadcast_to(np.float32(0.5), (1, 2**25 + 1, 64)), line(2**25 + 1),
                                np.ones((1, 1, 64), np.float32), needs="b"), [2**24] * 64),
    (lambda: cr.conv2d(np.broadcast_to(np.float32(2), (1, 2**17, 2**17, 3)), np.ones((2, 2, 3, 2), np.float32),
                       stride=2**16), [24] * 8),
    (lambda: cr.conv2d_backward(np.ones((1, 2, 2, 1)), np.broadcast_to(2.0, (1, 2**17, 2**17, 1)),
                                np.ones((1, 1, 1, 1)), stride=2**16, needs="w"), [8]),
    (lambda: cr.max_pool1d(line(2**33), 2, stride=2**32), [2, 2]),
    (lambda: cr.avg_pool1d(line(2**33), 2, stride=2**32), [2, 2]),
    (lambda: cr.max_pool2d(np.broadcast_to(2.0, (2**17, 2**17, 1)), 3, stride=2**16), [2] * 4),
])
def test_views_of_more_than_2_to_the_31(legal, wanted, promptly):
    results = legal()
    results = results if isinstance(results, tuple) else (results,)
    np.testing.assert_allclose(np.concatenate([a.ravel() for a in results if a is not None]), wanted, rtol=1e-6)


def sparse(shape):
    """Zeros of which only the pages that are touched take memory."""
    size = math.prod(shape) * 4
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000))
    return np.frombuffer(pages, np.float32).reshape(shape)


@pytest.mark.parametrize("offset", [1, 2**31 - 1, 2**31, 2**32 + 3])
def test_offsets_past_2_to_the_31(offset, isa, layout, promptly):
    """Far pixels, channels and images are read from where they are, not from where a 32-bit offset wraps to."""
    x = sparse((1, offset + 1, 1))
    x[0, 0], x[0, -1] = 3, 5
    channels_first = layout == "channels_first"
    pixels = x.transpose(0, 2, 1) if channels_first else x
    y = cr.conv1d(pixels, taps(2).transpose(2, 1, 0), stride=offset, layout=layout)
    assert y.ravel().tolist() == [6, 10]
    assert cr.conv1d(pixels, taps(1, 1).transpose(2, 1, 0) if channels_first else taps(1, 1), dilation=offset,
                     layout=layout).ravel().tolist() == [8]
    assert cr.max_pool1d(pixels, 1, stride=offset, layout=layout).ravel().tolist() == [3, 5]
    dy = np.array([7, 11], np.float32).reshape((1, 1, 2) if channels_first else (1, 2, 1))
    _, dw, _ = cr.conv1d_backward(dy, pixels, taps(2).transpose(2, 1, 0), stride=offset, layout=layout, needs="w")
    assert dw.item() == 3 * 7 + 5 * 11
    ends = np.lib.stride_tricks.as_strided(x, (1, 1, 2), (0, 0, 4 * offset))  # two channels
    images = np.lib.stride_tricks.as_strided(x, (2, 1, 1), (4 * offset, 0, 0))
    if channels_first:
        ends = ends.transpose(0, 2, 1)
    w = np.array([1, 10], np.float32).reshape((1, 2, 1) if channels_first else (1, 2, 1))
    assert cr.conv1d(ends, w, layout=layout).item() == 53
    assert cr.conv1d(images, taps(2), layout=layout).ravel().tolist() == [6, 10]


def check_no_images_of_any_size():
    x, y, w = np.ones((0, 2**40, 3)), np.ones((0, 2**40, 2)), np.ones((1, 3, 2))
    assert cr.conv1d(x, w).shape == y.shape
    for mode in ("constant", "wrap"):
        dx, dw, db = cr.conv1d_backward(np.ones((0, 2**40 + 2**41, 2)), x, w, padding=2**40, padding_mode=mode)
        assert dx.shape == x.shape and not dw.any() and not db.any() and dw.shape == w.shape and db.shape == (2,)
    assert cr.conv_transpose1d(y, w).shape == x.shape
    dx, dw, db = cr.conv_transpose1d_backward(x, y, w)
    assert dx.shape == y.shape and not dw.any() and not db.any() and dw.shape == w.shape and db.shape == (3,)
    for kind in ("max", "avg"):
        pooled = getattr(cr, f"{kind}_pool1d")(x, 2)
        assert pooled.shape == (0, 2**39, 3)
        dx = getattr(cr, f"{kind}_pool1d_backward")(pooled, x if kind == "max" else x.shape, 2)
        assert dx.shape == x.shape


def test_no_images_of_any_size():
    """An empty batch has empty results and zero gradients, however large its images are."""
    run("import test_errors; test_errors.check_no_images_of_any_size()", timeout=20)


@pytest.mark.parametrize("size", [2**12, 2**15])
def test_long_kernels_and_strides(size, promptly):
    """Time grows with the size of operands and results, not with its square."""
    w, x = np.ones((size, 1, 1), np.float32), np.ones((1, 2, 1), np.float32)
    y = cr.conv_transpose1d(x, w, stride=size)
    assert y.shape == (1, 2 * size, 1) and (y == 1).all()
    dx = cr.conv1d_backward(x, y, w, stride=size, needs="x")[0]
    assert (dx == 1).all()


# ------------------------------------------------------------------------------------------------------- operands


WRONG_DTYPES = ["bool", "int8", "int32", "int64", "uint64", "float16", "longdouble", "complex64", "complex128",
                "object", ">f4", ">f8", "S3", "U3", "M8[s]", [("re", "f4"), ("im", "f4")]]


@pytest.mark.parametrize("dtype", WRONG_DTYPES, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_wrong_dtypes(name, dtype):
    """None is cast in silence: not integers, not bytes in the other order."""
    dtype = np.dtype(dtype)
    everything = {argument: np.zeros(operands(name)[argument].shape, dtype) for argument in arrays_of(name)}
    shown = dtype.str if dtype.str.startswith(">") else dtype.name
    for argument, array in everything.items():
        assert_refused(name, TypeError, [argument], **{argument: array})
    with pytest.raises(TypeError) as caught:
        call(name, **everything)
    assert shown in str(caught.value)


@pytest.mark.parametrize("dtypes", [("float32", "float64"), ("float64", "float32")])
@pytest.mark.parametrize("name", [name for name in FUNCTIONS if len(arrays_of(name)) > 1])
def test_mixed_dtypes(name, dtypes):
    one, other = dtypes
    arguments = operands(name, one)
    for argument in set(arrays_of(name)) - {"x"}:
        with pytest.raises(TypeError) as caught:
            getattr(cr, name)(**(arguments | {argument: arguments[argument].astype(other)}))
        assert_says(caught, [argument, one, other])


class Unreadable:
    """Something that fails to become an array."""

    def __init__(self, error):
        self.error = error

    def __array__(self, dtype=None, copy=None):
        raise self.error


class OnDevice:
    """Memory of a device that is not the processor."""

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, **options):
        raise BufferError("the data is on a device")


@pytest.mark.parametrize("value", [
    None, "image", b"image", {}, set(), object(), 3, 3.0, [[1.0, 2.0], [3.0]], [], [None], ["1.0"], OnDevice(),
    Unreadable(TypeError("no")), Unreadable(ValueError("no")), Unreadable(RuntimeError("requires grad"))], ids=repr)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_arrays(name, value):
    doubles = operands(name, np.float64)
    for argument in arrays_of(name):
        if value is not None or argument != "b":
            assert_refused(name, (TypeError, ValueError), [argument], **(doubles | {argument: value}))


def test_failures_of_others_are_passed_on():
    """Only what says that it cannot be an array is reworded."""
    with pytest.raises(KeyboardInterrupt):
        call("conv2d", x=Unreadable(KeyboardInterrupt()))
    with pytest.raises(MemoryError):
        call("conv2d", w=Unreadable(MemoryError()))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_wrong_ranks(name):
    for argument in arrays_of(name):
        shape = operands(name)[argument].shape
        shapes = [(), (3,), shape[2:], (1, *shape), (1, 1, *shape)]
        for wrong in shapes if argument != "b" else [(), (0,), (1,), (5,), (7,), (6, 1), (1, 6)]:
            if len(wrong) not in (len(shape), len(shape) - 1) or argument == "b":
                assert_refused(name, ValueError, [argument], **{argument: np.ones(wrong, np.float32)})
    if "x_shape" in SIGNATURES[name]:
        for wrong in ((), (3,), (1, 1) * 3):
            assert_refused(name, ValueError, ["x"], x_shape=wrong)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_empty_axes(name):
    """Only a batch may be empty."""
    for argument in [argument for argument in ("x", "w", "x_shape") if argument in SIGNATURES[name]]:
        shape = operands(name)[argument] if argument == "x_shape" else operands(name)[argument].shape
        for axis in range(0 if argument == "w" else 1, len(shape)):
            empty = (*shape[:axis], 0, *shape[axis + 1:])
            assert_refused(name, ValueError, [argument[0], str(empty)],
                           **{argument: empty if argument == "x_shape" else np.ones(empty, np.float32)})


@pytest.mark.parametrize("name", having("dy"))
def test_wrong_dy(name):
    """Each extent, the batch axis, the layout."""
    shape = operands(name)["dy"].shape
    for axis, extent in enumerate(shape):
        for other in {0, 1, extent - 1, extent + 1, 2 * extent} - {extent}:
            wrong = (*shape[:axis], other, *shape[axis + 1:])
            assert_refused(name, ValueError, ["dy", str(shape), str(wrong)], dy=np.ones(wrong, np.float32))
    assert_refused(name, ValueError, ["dy", str(shape), str(shape[1:])], dy=np.ones(shape[1:], np.float32))


@pytest.mark.parametrize("name", having("w"))
def test_wrong_channels(name):
    shape = operands(name)["w"].shape
    axis = -1 if "transpose" in name else -2
    for channels in (1, 2, 3, 5, 8):
        wrong = list(shape)
        wrong[axis] = channels
        assert_refused(name, ValueError, ["w", str(channels), "x", "4"], w=np.ones(wrong, np.float32))
    assert_refused(name, ValueError, ["w", "x"], layout="channels_first")


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if "transpose" not in name])
def test_window_past_the_image(name):
    rank = rank_of(name)
    for extent, padding in ((6, 0), (8, 1), (6, ((0, 0),) * rank), (2**40, 7)):
        limit = 5 + 2 * padding if padding in (1, 7) else 5
        if "pool" in name:
            assert_refused(name, ValueError, ["size", str(extent), str(limit)], size=extent, padding=padding)
        else:
            assert_refused(name, ValueError, ["w", str(2 * extent + 1), str(limit)], dilation=extent, padding=padding)
    if "pool" not in name:
        wide = np.ones((*(1,) * (rank - 1), 8, 4, 6), np.float32)
        assert_refused(name, ValueError, ["w", "8", "7"], w=wide, padding=1)


@pytest.mark.parametrize("name", POOLS + [f"{name}_backward" for name in POOLS])
def test_pool_padding_is_less_than_the_window(name):
    for padding in (2, 3, [(2, 0)] * rank_of(name), [(0, 2)] * rank_of(name)):
        assert_refused(name, ValueError, ["padding", "size", "2"], padding=padding)


@pytest.mark.parametrize("name", having("output_padding"))
def test_output_padding_is_less_than_a_step(name):
    assert_refused(name, ValueError, ["output_padding", "stride", "dilation", "1"], output_padding=1)
    assert_refused(name, ValueError, ["output_padding", "4", "3"], output_padding=4, stride=4, dilation=3)
    assert_refused(name, ValueError, ["output", "-1"], padding=4)


# --------------------------------------------------------------------------------------------------------- choices


CHOICES = {"layout": ["channels_last", "channels_first"], "padding_mode": ["constant", "reflect", "symmetric", "edge",
           "wrap"], "activation": ["relu", "tanh", "sigmoid"], "algorithm": ["auto", "direct", "winograd"]}


@pytest.mark.parametrize("value", ["", "Wrap", "NHWC", b"wrap", 0, 1.5, True, (), [], {}, object,
                                   np.array(["edge", "wrap"])], ids=repr)
@pytest.mark.parametrize(("name", "choice"), [(name, choice) for choice in CHOICES for name in having(choice)])
def test_unknown_choices(name, choice, value):
    assert_refused(name, ValueError, [choice, *map(repr, CHOICES[choice])], **{choice: value})
    if choice != "activation":
        assert_refused(name, ValueError, [choice], **{choice: None})


@pytest.mark.parametrize("value", ["no", "", 0, 1, None, 2.0, np.array([True, False])], ids=repr)
@pytest.mark.parametrize("name", having("flip"))
def test_flip_is_true_or_false(name, value):
    assert_refused(name, TypeError, ["flip"], flip=value)
    call(name, flip=np.True_)


@pytest.mark.parametrize("name", having("algorithm"))
def test_winograd_where_it_does_not_apply(name):
    """Strided, in float64."""
    arguments = operands(name, np.float64)
    if "dy" in arguments:
        arguments["dy"] = arguments["dy"][(slice(None), *(slice(2),) * rank_of(name))]
    with pytest.raises(ValueError, match="winograd"):
        getattr(cr, name)(**arguments, stride=2, algorithm="winograd")


@pytest.mark.parametrize("needs", [("y",), ("x", "dw"), "xyz", [None], [1], [np.array(["x", "w"])], None, 1], ids=repr)
@pytest.mark.parametrize("name", having("needs"))
def test_unknown_needs(name, needs):
    assert_refused(name, TypeError if needs in (None, 1) else ValueError, ["needs", "'x'", "'w'", "'b'"], needs=needs)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_unknown_keywords(name):
    with pytest.raises(TypeError, match="strides"):
        call(name, strides=1)


@pytest.mark.parametrize("question", [cr.conv_output_shape, cr.conv_algorithm])
def test_questions(question):
    x_shape, w_shape = (1, 5, 5, 4), (3, 3, 4, 6)
    for shapes, exception, words in [
            ((5, w_shape), TypeError, "x_shape"), ((None, w_shape), TypeError, "x_shape"),
            ((x_shape, 5), TypeError, "w_shape"), ((x_shape, (3, 3, 4, True)), TypeError, "w_shape"),
            (((1, 5.0, 5, 4), w_shape), TypeError, "x_shape"), (((1, -5, 5, 4), w_shape), ValueError, "x_shape.*-5"),
            ((x_shape, (3, 2**63, 4, 6)), ValueError, "w_shape.*9223"), ((x_shape, (3, 3)), ValueError, "w_shape"),
            ((x_shape, (3,) * 6), ValueError, "w_shape"), ((x_shape, (3, 3, 3, 6)), ValueError, "w has 3"),
            (((5, 4), w_shape), ValueError, "x must have"), (((1, 0, 5, 4), w_shape), ValueError, "x must .* empty")]:
        with pytest.raises(exception, match=words):
            question(*shapes)
    for options in ({"stride": 0}, {"dilation": 3}, {"groups": 3}, {"padding": "causal"}, {"layout": "NCHW"}):
        with pytest.raises(ValueError, match=r"stride|w has|groups|causal|layout"):
            question(x_shape, w_shape, **options)
    for dtype in (np.float16, ">f4", int, object):
        with pytest.raises(TypeError, match="dtype"):
            cr.conv_algorithm(x_shape, w_shape, dtype=dtype)


@pytest.mark.parametrize("n", [0, -1, 2**63, -10**30, 1.0, True, None, "2"])
def test_thread_counts(n):
    before = cr.get_num_threads()
    for function in (cr.set_num_threads, lambda n: cr.num_threads(n).__enter__()):
        with pytest.raises((TypeError, ValueError)) as caught:
            function(n)
        assert_says(caught, ["n", str(n)])
    assert cr.get_num_threads() == before


# ------------------------------------------------------------------------------------------------------------- out


def misaligned(shape):
    size = math.prod(shape) * 4
    return np.frombuffer(bytearray(size + 1), np.float32, offset=1).reshape(shape)


def locked(shape):
    array = np.zeros(shape, np.float32)
    array.setflags(write=False)
    return array


WRONG_OUT = {
    "transposed": lambda s: np.zeros((*s[:-2], s[-1], s[-2]), np.float32),
    "longer": lambda s: np.zeros((s[0] + 1, *s[1:]), np.float32),
    "shorter": lambda s: np.zeros((s[0], s[1] - 1, *s[2:]), np.float32),
    "no batch": lambda s: np.zeros(s[1:], np.float32),
    "flat": lambda s: np.zeros(math.prod(s), np.float32),
    "another dtype": lambda s: np.zeros(s, np.float64),
    "another byte order": lambda s: np.zeros(s, ">f4"),
    "integers": lambda s: np.zeros(s, np.int32),
    "Fortran order": lambda s: np.zeros(s, np.float32, order="F"),
    "every second": lambda s: np.zeros((*s[:-1], 2 * s[-1]), np.float32)[..., ::2],
    "backwards": lambda s: np.zeros(s, np.float32)[:, ::-1],
    "one number": lambda s: np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), s, (0,) * len(s)),
    "read-only": locked,
    "misaligned": misaligned,
}


@pytest.mark.parametrize("wrong", WRONG_OUT)
@pytest.mark.parametrize("name", having("out"))
def test_wrong_out(name, wrong):
    out = WRONG_OUT[wrong](call(name).shape)
    before = out.tobytes()
    assert_refused(name, ValueError, ["out"], out=out)
    assert out.tobytes() == before


@pytest.mark.parametrize("out", [[], 1.0, "out", (), memoryview(b""), np.float32], ids=repr)
@pytest.mark.parametrize("name", having("out"))
def test_out_that_is_no_array(name, out):
    assert_refused(name, TypeError, ["out"], out=out)


@pytest.mark.parametrize(("name", "argument"), [(name, key) for name in having("out") for key in arrays_of(name)])
@pytest.mark.parametrize("view", ["whole", "every second", "misaligned", "reversed", "memoryview"])
def test_out_over_an_input(name, argument, view):
    """Also where the input is read through a copy: what the caller passed would be overwritten."""
    shape, out_shape = operands(name)[argument].shape, call(name).shape
    size = math.prod(shape)
    memory = np.zeros(4 * (2 * size + math.prod(out_shape)) + 16, np.uint8)
    numbers = memory[:memory.size // 4 * 4].view(np.float32)
    given = {"whole": lambda: numbers[:size], "every second": lambda: numbers[:2 * size:2],
             "reversed": lambda: numbers[size - 1::-1], "misaligned": lambda: memory[1:4 * size + 1].view(np.float32),
             "memoryview": lambda: numbers[:size]}[view]().reshape(shape)
    given = memoryview(given) if view == "memoryview" else given
    for start in (0, size - 1):  # from the first element on, or of the last one
        out = numbers[start:start + math.prod(out_shape)].reshape(out_shape)
        assert_refused(name, ValueError, ["out", "overlap"], **{argument: given}, out=out)
        assert not memory.any()
    beside = numbers[-math.prod(out_shape):].reshape(out_shape)
    assert call(name, **{argument: given}, out=beside) is beside


@pytest.mark.parametrize("name", having("out"))
def test_out_stays_as_it_is(name):
    """Where anything else is wrong."""
    out = np.full_like(call(name), 7)
    x = operands(name)["x"]
    for wrong in ({"x": x[0, 0, 0]}, {"x": x.astype(int)}, {"layout": "NCHW"}, {"stride": 0}):
        with pytest.raises((TypeError, ValueError)):
            call(name, out=out, **wrong)
    assert (out == 7).all()


# ------------------------------------------------------------------------------------------------------------ fuzz


@pytest.mark.parametrize("seed", range(2))
def test_random_calls(seed, isa):
    """Valid and invalid ones: an error in words or what the reference gives; no crash, no hang, no change of inputs."""
    seen = run("import sys, fuzz; fuzz.main(int(sys.argv[1]), int(sys.argv[2]))", str(seed), "3000", CONVRNN_ISA=isa)
    valid, refused = map(int, seen.split())
    assert valid > 1000 and refused > 1000
