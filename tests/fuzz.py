"""Random calls of every array function, many with something odd in them; by test_errors.py in a process of its own.

`python tests/fuzz.py SEED COUNT` prints how many calls were valid and how many were refused. Run it for longer by hand.
"""

import faulthandler
import inspect
import math
import resource
import sys

import numpy as np
import problems

import convrnn as cr
from convrnn import reference

OPERATORS = [("conv", 1), ("conv", 2), ("conv", 3), ("conv_transpose", 1), ("conv_transpose", 2), ("conv_transpose", 3),
             ("max_pool", 1), ("max_pool", 2), ("avg_pool", 1), ("avg_pool", 2)]

ODD_NUMBERS = [-1, 0, 1, 2, 3, 7, 100, 10**6, 2**31, 2**32, 10**12, 2**62, 2**63 - 1, 2**63, 10**30, -2**31, -2**63,
               1.0, 2.5, math.nan, True, None, "1", "same", "valid", "full", "causal", "same_lower", b"", (), [], (1,),
               (2, 1), [1, 2], (1, 2, 1), (2**62, 1), (1, -1), ((1, 2),), [(1, 2), (0, 1)], ((0, 0), 1, (2, 1)),
               ((2**40, 2**40),), [[]], np.int64(2), np.uint8(1), np.array([1, 2]), np.array(1), np.array([[1, 2]]),
               object(), {}, range(2)]
ODD_CHOICES = ["", "wrap", "reflect", "edge", "symmetric", "constant", "channels_first", "channels_last", "relu",
               "tanh", "auto", "direct", "winograd", None, 0, b"edge", (), ("x",), "w", "bx", ["q"]]
NUMBERS = ("stride", "dilation", "padding", "output_padding", "groups", "size")
CHOICES = ("layout", "padding_mode", "activation", "algorithm", "needs", "flip")


def pick(rng, values):
    return values[rng.integers(len(values))]


def integers(rng, shape, dtype):
    return rng.integers(-4, 5, shape).astype(dtype)


def random_call(rng):
    """(operator, rank), whether backward, and arguments, valid more often than not, of that function and some more."""
    operator, rank = kind = pick(rng, OPERATORS)
    backward = bool(rng.integers(2))
    layout, dtype = pick(rng, problems.LAYOUTS), pick(rng, problems.DTYPES)
    kernel = tuple(map(int, rng.integers(1, 4, rank)))
    image = tuple(int(size) for size in rng.integers(1, 8 - rank, rank) + np.array(kernel) - 1)
    groups = pick(rng, [1, 1, 1, 2, 3]) if "conv" in operator else 1
    C, K = (groups * int(n) for n in rng.integers(1, 4, 2))
    batch = pick(rng, [(), (0,), (1,), (2,)])
    options = {"stride": random_numbers(rng, rank, 1, 4), "layout": layout}
    if "pool" in operator:
        options["size"] = kernel
        options["padding"] = min(int(rng.integers(0, 3)), min(kernel) - 1)
    else:
        options |= {"dilation": random_numbers(rng, rank, 1, 3), "padding": random_numbers(rng, rank, 0, 3),
                    "groups": groups}
        if operator == "conv_transpose":
            options["output_padding"] = int(rng.integers(0, 2))
        else:
            options |= {"flip": bool(rng.integers(2)), "padding_mode": pick(rng, ["constant", *problems.PADDING_MODES]),
                        "padding": pick(rng, [options["padding"], "valid", "same", "same_lower", "full"])}
    x = integers(rng, (*batch, C, *image), dtype)
    arguments = {"x": problems.laid_out(x, layout, rank, dtype)}
    if "conv" in operator:
        shape = (C, K // groups) if operator == "conv_transpose" else (K, C // groups)
        arguments["w"] = problems.kernel_laid_out(integers(rng, (*shape, *kernel), dtype), layout, dtype)
        arguments["b"] = integers(rng, K, dtype) if rng.integers(2) else None
        options["activation"] = pick(rng, [None, "relu"])
        options["needs"] = pick(rng, ["xwb", ("x", "b"), ["w"], ()])
    arguments |= options
    if backward:
        arguments["dy"] = random_gradient(rng, kind, arguments)
    arguments["x_shape"] = arguments["x"].shape
    return kind, backward, arguments


def random_numbers(rng, rank, low, high):
    """One for all axes or one for each."""
    numbers = [int(n) for n in rng.integers(low, high, rank)]
    return pick(rng, [numbers[0], tuple(numbers), numbers])


def function_of(kind, backward):
    return getattr(cr, f"{kind[0]}{kind[1]}d{'_backward' if backward else ''}")


def random_gradient(rng, kind, arguments):
    """Of the output's shape, if there is an output."""
    forward = function_of(kind, False)
    try:
        shape = forward(**accepted(forward, arguments)).shape
    except ValueError:
        shape = arguments["x"].shape
    return integers(rng, shape, arguments["x"].dtype)


def accepted(function, arguments):
    """Those that the function takes."""
    return {key: value for key, value in arguments.items() if key in inspect.signature(function).parameters}


def odd_array(rng, array):
    """Another array than a call wants, or the same in another form."""
    number, axes = array.dtype.type(2), rng.permutation(array.ndim)
    dtype = pick(rng, ["f4", "f8", ">f4", ">f8", "f2", "i4", "?", "O"])
    return pick(rng, [
        lambda: array.transpose(axes), lambda: array[..., ::-1], lambda: np.repeat(array, 2, -1)[..., ::2],
        lambda: np.asfortranarray(array), lambda: memoryview(np.ascontiguousarray(array)), lambda: array.tolist(),
        lambda: array[None], lambda: array[0] if array.size else array, lambda: array[..., :0],
        lambda: array.astype(dtype), lambda: np.zeros((2,) * 7, array.dtype), lambda: number, lambda: None,
        lambda: "array", lambda: np.broadcast_to(number, array.shape), lambda: np.broadcast_to(number, (2**19,) * 3),
        lambda: np.broadcast_to(number, (*array.shape[:-1], 2**40))])()


def make_odd(rng, arguments):
    """Replaces one argument."""
    key = pick(rng, sorted(arguments))
    if isinstance(arguments[key], np.ndarray) and arguments[key].strides[-1:] not in ((), (0,)):
        arguments[key] = odd_array(rng, arguments[key])
    elif key in NUMBERS:
        arguments[key] = pick(rng, ODD_NUMBERS)
    elif key in CHOICES:
        arguments[key] = pick(rng, ODD_CHOICES)
    elif key == "x_shape":
        arguments[key] = pick(rng, [None, 3, (), (1, -2, 3), (2**62,) * 4, (1, 2.0, 3, 1), (2**63, 3, 1), (3, 1)])


def wanted_of(kind, backward, arguments):
    """What the reference gives for a valid call."""
    arguments = {key: plain(value) for key, value in arguments.items() if key not in ("algorithm", "needs")}
    if "size" in arguments:
        arguments["size"] = reference.per_axis(arguments["size"], kind[1])
    return getattr(reference, f"{kind[0]}_{'backward' if backward else 'forward'}")(**arguments)


def plain(value):
    """Numbers as int, in tuples; arrays as they are."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu":
        value = value.tolist()
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, (list, tuple)) and not any(isinstance(item, float) for item in value):
        return tuple(plain(item) for item in value)
    return np.asarray(value) if isinstance(value, memoryview) else value


def compare(kind, backward, arguments, results):
    """With the reference, where it is quick."""
    results = results if isinstance(results, tuple) else (results,)
    arrays = [arguments.get(key) for key in ("x", "w", "dy")] + list(results)
    if sum(math.prod(size or 1 for size in np.shape(array)) for array in arrays if array is not None) > 5000:
        return
    wanted = wanted_of(kind, backward, arguments)
    for actual, value in zip(results, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
        if actual is not None:
            assert actual.shape == value.shape
            if kind[0] == "avg_pool":  # divides before it sums
                np.testing.assert_allclose(actual, value, rtol=1e-5, atol=1e-5)
            elif arguments.get("activation") in ("tanh", "sigmoid"):
                np.testing.assert_allclose(actual, value, rtol=1e-6)
            else:
                np.testing.assert_array_equal(actual, value)


def contents(arguments):
    """The bytes of arrays of ordinary size."""
    return {key: value.tobytes() for key, value in arguments.items()
            if isinstance(value, np.ndarray) and value.size < 10**5}


def main(seed, count):
    """Prints the numbers of valid and of refused calls; raises at the first that is neither."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**29,) * 2)
    valid = 0
    for case in range(count):
        rng = np.random.default_rng((seed, case))
        kind, backward, arguments = random_call(rng)
        for _ in range(pick(rng, [0, 0, 1, 1, 2])):
            make_odd(rng, arguments)
        function = function_of(kind, backward)
        arguments = accepted(function, arguments)
        before = contents(arguments)
        faulthandler.dump_traceback_later(20, exit=True)  # a call that takes as long hangs
        try:
            results = function(**arguments)
        except (TypeError, ValueError, MemoryError) as error:
            assert str(error), (seed, case)
        except BaseException as error:
            raise AssertionError(f"case {seed} {case}: {function.__name__} {arguments}") from error
        else:
            valid += 1
            try:
                compare(kind, backward, arguments, results)
            except BaseException as error:
                raise AssertionError(f"case {seed} {case}: {function.__name__} {arguments}") from error
        assert contents(arguments) == before, f"case {seed} {case} writes to: {function.__name__} {arguments}"
    print(valid, count - valid)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
