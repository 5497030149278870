"""Arrays of every kind: any strides, unaligned, read-only, objects of other libraries; and no read past their ends.

What they hold is all that counts: results are those of contiguous copies, bit for bit, and inputs stay as they are.
"""

import array as array_module
import signal

import numpy as np
import pytest
from interpreters import run, start

import convrnn as cr

RNG = np.random.default_rng(11)


def numbers(*shape):
    return RNG.standard_normal(shape)


#: A function, its operands in channels_last and float64, its other arguments
CALLS = {
    "conv1d": (cr.conv1d, {"x": numbers(2, 9, 3), "w": numbers(3, 3, 5), "b": numbers(5)}, {"padding": 1}),
    "conv2d": (cr.conv2d, {"x": numbers(2, 6, 9, 3), "w": numbers(3, 2, 3, 17), "b": numbers(17)},
               {"stride": (2, 1), "activation": "tanh"}),
    "conv2d few channels": (cr.conv2d, {"x": numbers(2, 6, 37, 1), "w": numbers(3, 2, 1, 2), "b": numbers(2)}, {}),
    "conv2d flipped": (cr.conv2d, {"x": numbers(2, 6, 9, 4), "w": numbers(3, 2, 2, 6), "b": numbers(6)},
                       {"flip": True, "groups": 2, "padding": "same", "padding_mode": "reflect"}),
    "conv2d depthwise": (cr.conv2d, {"x": numbers(2, 6, 9, 19), "w": numbers(3, 3, 1, 19), "b": numbers(19)},
                         {"groups": 19, "padding": 1}),
    "conv3d": (cr.conv3d, {"x": numbers(1, 4, 5, 6, 2), "w": numbers(2, 2, 3, 2, 4), "b": numbers(4)}, {"dilation": 2}),
    "conv_transpose2d": (cr.conv_transpose2d, {"x": numbers(2, 4, 5, 6), "w": numbers(3, 3, 4, 6), "b": numbers(4)},
                         {"stride": 2, "padding": 1}),
    "max_pool2d": (cr.max_pool2d, {"x": numbers(2, 6, 9, 5)}, {"size": (2, 3), "padding": 1}),
    "avg_pool2d": (cr.avg_pool2d, {"x": numbers(2, 6, 9, 5)}, {"size": (2, 3), "stride": 2}),
    "conv2d_backward": (cr.conv2d_backward, {"dy": numbers(2, 2, 8, 17), "x": numbers(2, 6, 9, 3),
                                             "w": numbers(3, 2, 3, 17)}, {"stride": (2, 1)}),
    "conv2d_backward one channel": (cr.conv2d_backward, {"dy": numbers(2, 6, 37, 1), "x": numbers(2, 6, 37, 1),
                                                         "w": numbers(3, 3, 1, 1)}, {"padding": 1}),
    "conv2d_backward depthwise": (cr.conv2d_backward, {"dy": numbers(2, 6, 9, 19), "x": numbers(2, 6, 9, 19),
                                                       "w": numbers(3, 3, 1, 19)}, {"groups": 19, "padding": 1}),
    "conv2d_backward flipped": (cr.conv2d_backward, {"dy": numbers(2, 4, 8, 6), "x": numbers(2, 6, 9, 4),
                                                     "w": numbers(3, 2, 2, 6)}, {"groups": 2, "flip": True}),
    "conv1d_backward": (cr.conv1d_backward, {"dy": numbers(2, 9, 5), "x": numbers(2, 9, 3), "w": numbers(3, 3, 5)},
                        {"padding": 1, "padding_mode": "wrap"}),
    "conv_transpose2d_backward": (
        cr.conv_transpose2d_backward, {"dy": numbers(2, 7, 9, 4), "x": numbers(2, 4, 5, 6), "w": numbers(3, 3, 4, 6)},
        {"stride": 2, "padding": 1}),
    "max_pool2d_backward": (cr.max_pool2d_backward, {"dy": numbers(2, 3, 3, 5), "x": numbers(2, 6, 9, 5)},
                            {"size": (2, 3)}),
    "avg_pool2d_backward": (cr.avg_pool2d_backward, {"dy": numbers(2, 3, 3, 5)},
                            {"size": (2, 3), "x_shape": (2, 6, 9, 5)}),
}
ARGUMENTS = [(name, argument) for name, (_, operands, _) in CALLS.items() for argument in operands]


class Subclass(np.ndarray):
    """An array type of somebody else's."""


class WithArray:
    """Nothing but __array__."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


class WithDLPack:
    """Nothing but DLPack."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class WithBuffer:
    """What a C extension of somebody else's exports."""

    def __init__(self, array):
        self.__array_interface__ = array.__array_interface__
        self.array = array


def reversed_axes(a):
    every = (slice(None, None, -1),) * a.ndim
    return np.ascontiguousarray(a[every])[every]


def every_second(a):
    wide = np.full(tuple(2 * n for n in a.shape), np.nan, a.dtype)
    wide[(slice(1, None, 2),) * a.ndim] = a
    return wide[(slice(1, None, 2),) * a.ndim]


def inside(a):
    """A window of a larger array: rows are contiguous, and NaN lies around them."""
    frame = np.pad(a, 1, constant_values=np.nan)
    return frame[(slice(1, -1),) * a.ndim]


def unaligned(a):
    return np.frombuffer(b"\x7f" + a.tobytes() + b"\x7f", a.dtype, a.size, offset=1).reshape(a.shape)


def field(a):
    """A field of records of 1 + 4 or 8 + 2 bytes, which makes strides that are not whole numbers."""
    records = np.zeros(a.shape, np.dtype([("before", "u1"), ("value", a.dtype), ("after", "u2")]))
    records["value"] = a
    return records["value"]


def real_part(a):
    """Of complex numbers: the stride is two numbers."""
    complex_numbers = np.empty(a.shape, np.result_type(a.dtype, np.complex64))
    complex_numbers.real, complex_numbers.imag = a, np.nan
    return complex_numbers.real


def read_only(a):
    copy = a.copy()
    copy.setflags(write=False)
    return copy


def axes_reversed_in_memory(a):
    return np.ascontiguousarray(a.transpose()).transpose()


FORMS = {
    "Fortran order": np.asfortranarray, "negative strides": reversed_axes, "every second": every_second,
    "a window": inside, "transposed": axes_reversed_in_memory, "unaligned": unaligned, "a field": field,
    "real part": real_part, "read-only": read_only, "subclass": lambda a: a.view(Subclass),
    "matrix of records": lambda a: a.view(np.recarray), "masked": np.ma.array, "memoryview": memoryview,
    "memoryview of a view": lambda a: memoryview(every_second(a)),
    "__array__": WithArray, "__array__ of a view": lambda a: WithArray(reversed_axes(a)), "DLPack": WithDLPack,
    "DLPack of a view": lambda a: WithDLPack(reversed_axes(a)), "array interface": WithBuffer,
    "swapped twice": lambda a: a.astype(a.dtype.newbyteorder()).view(a.dtype).byteswap(),
    "bytes": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
}


def memory_of(value):
    """The bytes that a value's numbers are read from."""
    value = getattr(value, "array", value)
    base = np.asarray(value)
    while isinstance(base.base, np.ndarray):
        base = base.base
    return base.tobytes()


def results_of(name, dtype, layout, changed=None, form=None):
    """The arrays that a call gives, with one operand in another form."""
    function, operands, options = CALLS[name]
    operands = {key: laid_out(key, value, layout).astype(dtype) for key, value in operands.items()}
    if changed is None:
        given = operands
    else:
        given = operands | {changed: form(operands[changed])}
        before = memory_of(given[changed])
    if "x_shape" in options:
        options = options | {"x_shape": laid_out("x", np.empty(options["x_shape"]), layout).shape}
    results = function(**given, **options, layout=layout)
    if changed is not None:
        assert memory_of(given[changed]) == before
    return results if isinstance(results, tuple) else (results,)


def laid_out(key, array, layout):
    """From channels_last, contiguous."""
    if layout == "channels_first" and key != "b":
        array = np.moveaxis(array, (-1, -2), (0, 1)) if key == "w" else np.moveaxis(array, -1, 1)
    return np.ascontiguousarray(array)


def assert_same_bits(actual, wanted):
    for a, b in zip(actual, wanted, strict=True):
        assert type(a) is np.ndarray and a.flags.c_contiguous and a.flags.writeable
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_forms(name, argument, form, isa, layout, dtype):
    assert_same_bits(results_of(name, dtype, layout, argument, FORMS[form]), results_of(name, dtype, layout))


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_broadcast(name, argument, isa, layout, dtype):
    """Strides of zero: along each axis by itself, and along all."""
    axes = CALLS[name][1][argument].ndim
    for axis in [*((axis,) for axis in range(axes)), tuple(range(axes))]:
        def repeated(a, axis=axis):
            first = a[tuple(slice(1) if i in axis else slice(None) for i in range(a.ndim))]
            return np.broadcast_to(first, a.shape)

        actual = results_of(name, dtype, layout, argument, repeated)
        assert_same_bits(actual, results_of(name, dtype, layout, argument, lambda a, r=repeated: r(a).copy()))


@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 0, 3, 2), (2, 3, 0, 1), (0, 3, 1, 2), (0, 2, 3, 1)])
@pytest.mark.parametrize("name", ["conv2d", "conv2d few channels", "conv2d depthwise", "conv2d_backward",
                                  "conv2d_backward depthwise", "conv_transpose2d", "max_pool2d", "max_pool2d_backward"])
def test_axes_in_any_order(name, axes, isa, layout, dtype):
    """All operands at once, in another order of axes in memory."""
    function, operands, options = CALLS[name]
    operands = {key: laid_out(key, value, layout).astype(dtype) for key, value in operands.items()}
    ordered = {key: value if value.ndim == 1 else value.transpose(axes).copy().transpose(np.argsort(axes))
               for key, value in operands.items()}
    actual, wanted = (function(**arrays, **options, layout=layout) for arrays in (ordered, operands))
    assert_same_bits(*(results if isinstance(results, tuple) else (results,) for results in (actual, wanted)))


@pytest.mark.parametrize("name", CALLS)
def test_no_images(name, isa, layout, dtype):
    """An empty batch has an empty result, no gradient, and gives gradients of the weights that are zero."""
    function, operands, options = CALLS[name]
    operands = {key: laid_out(key, value if key in "wb" else value[:0], layout).astype(dtype)
                for key, value in operands.items()}
    if "x_shape" in options:
        options = options | {"x_shape": laid_out("x", np.empty((0, *options["x_shape"][1:])), layout).shape}
    results = function(**operands, **options, layout=layout)
    for result in results if isinstance(results, tuple) else (results,):
        assert result.dtype == dtype and (result.shape[0] == 0 or not result.any())


@pytest.mark.parametrize("name", CALLS)
def test_without_a_batch_axis(name, isa, layout, dtype):
    """One image by itself gives what it gives in a batch of one."""
    function, operands, options = CALLS[name]
    operands = {key: laid_out(key, value if key in "wb" else value[:1], layout).astype(dtype)
                for key, value in operands.items()}
    shape = laid_out("x", np.empty(options["x_shape"]), layout).shape if "x_shape" in options else None
    batch = options | ({"x_shape": (1, *shape[1:])} if shape else {})
    single = options | ({"x_shape": shape[1:]} if shape else {})
    whole = function(**operands, **batch, layout=layout)
    alone = function(**{key: value if key in "wb" else value[0] for key, value in operands.items()}, **single,
                     layout=layout)
    if not isinstance(whole, tuple):
        whole, alone = (whole,), (alone,)
    for index, (a, b) in enumerate(zip(alone, whole, strict=True)):
        assert a.tobytes() == b.tobytes() and a.shape == (b.shape[1:] if index == 0 else b.shape)


def test_array_module():
    """An array.array has one axis: it can be a bias."""
    x, w, b = np.ones((4, 2)), np.ones((1, 2, 3)), np.array([1.0, 2.0, 3.0])
    for code, dtype in ("d", np.float64), ("f", np.float32):
        y = cr.conv1d(x.astype(dtype), w.astype(dtype), array_module.array(code, b))
        assert np.array_equal(y, cr.conv1d(x, w, b))
    with pytest.raises(TypeError, match="b must"):
        cr.conv1d(x, w, array_module.array("l", [1, 2, 3]))


def test_lists():
    """Of Python floats, which are float64."""
    assert cr.conv1d([[1.0], [2.0], [4.0]], [[[1.0]], [[10.0]]], [0.5]).tolist() == [[21.5], [42.5]]


def test_torch_tensors():
    torch = pytest.importorskip("torch")
    x, w, b = torch.randn(2, 3, 9, 7), torch.randn(5, 3, 3, 3), torch.randn(5)
    wanted = cr.conv2d(x.numpy(), w.numpy(), b.numpy(), layout="channels_first")
    assert_same_bits([cr.conv2d(x, w, b, layout="channels_first")], [wanted])
    assert_same_bits([cr.conv2d(x.permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1), w, b, layout="channels_first")],
                     [wanted])
    for value in (w.requires_grad_(), w.detach().bfloat16(), w.detach().to("meta")):
        with pytest.raises(TypeError, match="w cannot be read"):
            cr.conv2d(x, value, layout="channels_first")


@pytest.mark.parametrize("name", ["conv1d", "conv2d", "conv3d", "conv_transpose2d", "max_pool2d", "avg_pool2d"])
def test_out_forms(name, isa, layout, dtype):
    """Any C-contiguous, aligned array can be out: part of a larger one, a subclass, one over foreign memory."""
    function, operands, options = CALLS[name]
    operands = {key: laid_out(key, value, layout).astype(dtype) for key, value in operands.items()}
    wanted = function(**operands, **options, layout=layout)
    part = np.full((3, *wanted.shape), np.nan, dtype)
    foreign = np.frombuffer(bytearray(wanted.nbytes + 64), dtype, wanted.size, offset=8).reshape(wanted.shape)
    for out in (part[1], wanted.copy().view(Subclass), foreign, np.full_like(wanted, np.nan)):
        assert function(**operands, **options, layout=layout, out=out) is out
        assert out.tobytes() == wanted.tobytes()
    assert np.isnan(part[0]).all() and np.isnan(part[2]).all()


def test_changes_while_a_call_runs():
    """Another thread writing to an input makes the result meaningless, and nothing worse."""
    run("""
import threading, numpy as np, convrnn as cr
x, w = np.ones((8, 64, 64, 16), np.float32), np.ones((3, 3, 16, 16), np.float32)
done = threading.Event()
def write():
    while not done.is_set():
        x[:] = np.nan
        w[:] = 2
        x[:] = 1
writer = threading.Thread(target=write)
writer.start()
for _ in range(30):
    assert cr.conv2d(x, w).shape == (8, 62, 62, 16)
    cr.conv2d_backward(np.ones((8, 62, 62, 16), np.float32), x, w)
done.set()
writer.join()
x[:], w[:] = 1, 2
assert (cr.conv2d(x, w, algorithm="direct") == 288).all()
""")


def test_results_on_cache_lines(layout, dtype):
    """All results of a convolution but small ones begin on a cache line."""
    x, w = numbers(1, 40, 40, 40).astype(dtype), numbers(40, 40, 3, 3).astype(dtype)
    w = w if layout == "channels_first" else np.moveaxis(w, (0, 1), (-1, -2)).copy()
    y = cr.conv2d(x, w, padding=1, layout=layout)
    dx, dw, _ = cr.conv2d_backward(y, x, w, padding=1, layout=layout)
    for result, like in ((y, x), (dx, x), (dw, w)):
        assert result.ctypes.data % 64 == 0 and result.flags.c_contiguous and result.flags.writeable
        assert (result.shape, result.dtype) == (like.shape, like.dtype)


# ------------------------------------------------------------------------------------------------------ guard pages


GUARDED = "import sys, guard_pages; guard_pages.main(*sys.argv[1:])"


@pytest.mark.parametrize("side", ["low", "high"])
def test_guard_pages(side, isa, layout, dtype):
    """No operand is read past its ends and no result written past them, whatever tail the vectors leave.

    Workspace comes filled with a pattern, so that a result which depends on what malloc returned would show, too.
    """
    variables = {"CONVRNN_ISA": isa, "CONVRNN_NUM_THREADS": "1", "MALLOC_PERTURB_": "165"}
    assert run(GUARDED, layout, dtype, side, **variables) == "done\n"


@pytest.mark.parametrize(("side", "index"), [("low", -1), ("high", 3)])
def test_guard_pages_guard(side, index):
    """Reading the element beside an array ends such a process."""
    read = f"""
import ctypes, guard_pages, numpy
array = guard_pages.Arena("float32", {side!r}).place(numpy.ones(3, "float32"))
print("reading", flush=True)
ctypes.c_float.from_address(array.ctypes.data + 4 * {index}).value
"""
    process = start("-c", read)
    assert (process.returncode, process.stdout) == (-signal.SIGSEGV, "reading\n")
