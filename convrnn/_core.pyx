# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""The seam to the C core: arrays in, status out, the GIL released. No arithmetic; the functions above it check.

Arrays are aligned float32 or float64 of one dtype, with strides that are multiples of the element.
"""
cimport numpy as cnp
from libc.stdint cimport int64_t

from convrnn cimport _c

import numpy as np

cnp.import_array()

PAD_MODES = {"constant": _c.CR_PAD_CONSTANT, "reflect": _c.CR_PAD_REFLECT, "symmetric": _c.CR_PAD_SYMMETRIC,
             "edge": _c.CR_PAD_EDGE, "wrap": _c.CR_PAD_WRAP}
ACTIVATIONS = {None: _c.CR_IDENTITY, "relu": _c.CR_RELU, "tanh": _c.CR_TANH, "sigmoid": _c.CR_SIGMOID}
ALGORITHMS = {"auto": _c.CR_AUTO, "direct": _c.CR_DIRECT, "winograd": _c.CR_WINOGRAD}
FUNCTIONS = {"exp": _c.CR_FUNCTION_EXP, "tanh": _c.CR_FUNCTION_TANH, "sigmoid": _c.CR_FUNCTION_SIGMOID,
             "relu": _c.CR_FUNCTION_RELU}


cdef int check(_c.cr_status status) except -1:
    """The one place where a status becomes an exception; it keeps the words."""
    if status == _c.CR_OK:
        return 0
    words = _c.cr_error_message().decode()
    raise (MemoryError if status == _c.CR_OUT_OF_MEMORY else ValueError)(words)


cdef _c.cr_dtype dtype_of(cnp.ndarray array):
    return _c.CR_FLOAT32 if cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT32 else _c.CR_FLOAT64


cdef enum:
    SMALL = 16384   # bytes of a result that stays in a first-level cache, where writing across cache lines is cheap
    LARGE = 131072  # of one whose place in a page matters, and which a page more hardly makes larger
    PAGE = 4096
    APART = PAGE // 2 + 128


cdef cnp.ndarray aligned(int ndim, cnp.npy_intp *shape, int dtype, cnp.npy_intp size, void *read=NULL):
    """An array of so many bytes, not filled in, that begins on a cache line; if it is large, half a page and two lines
    further in a page than what is read to fill it. Rows of both that are a number of pages apart would take each
    other's place in a first-level cache: depthwise 3x3, 64 channels 112x112, 95 us at the same place and 78 there."""
    cdef bint placed = read != NULL and size >= LARGE
    cdef cnp.npy_intp room_size = size + 63 + (PAGE if placed else 0)
    cdef cnp.ndarray room = cnp.PyArray_EMPTY(1, &room_size, cnp.NPY_UINT8, 0)
    cdef size_t begin = (<size_t>cnp.PyArray_DATA(room) + 63) & ~<size_t>63
    if placed:
        begin += (((<size_t>read + 63) & ~<size_t>63) + APART - begin) & (PAGE - 1)
    cdef cnp.ndarray array = cnp.PyArray_SimpleNewFromData(ndim, shape, dtype, <void *>begin)
    cnp.set_array_base(array, room)
    return array


cdef cnp.ndarray empty(int ndim, cnp.npy_intp *shape, int dtype, void *read):
    """numpy.empty, but, unless it is small, on a cache line, and if large, apart from what is read: NumPy's arrays
    begin 16 bytes past a line, so that a row of two vectors would be written to three of them rather than two."""
    cdef cnp.npy_intp size = 8 if dtype == cnp.NPY_FLOAT64 else 4
    cdef int axis
    for axis in range(ndim):
        if shape[axis] and size > (<cnp.npy_intp>1 << 62) // shape[axis]:
            size = 0  # NumPy refuses it
        size *= shape[axis]
    return cnp.PyArray_EMPTY(ndim, shape, dtype, 0) if size < SMALL else aligned(ndim, shape, dtype, size, read)


def empty_like(cnp.ndarray array, cnp.ndarray read):
    """A new C-contiguous array of the shape and dtype of array, which read is read to fill."""
    return empty(cnp.PyArray_NDIM(array), cnp.PyArray_DIMS(array), cnp.PyArray_TYPE(array), cnp.PyArray_DATA(read))


cpdef bint is_plain(object array):
    """Whether array is what the core takes: float32 or float64 in native order, aligned, strides whole elements."""
    cdef int axis
    cdef cnp.ndarray plain
    if type(array) is not cnp.ndarray:
        return False
    plain = array
    if cnp.PyArray_TYPE(plain) != cnp.NPY_FLOAT32 and cnp.PyArray_TYPE(plain) != cnp.NPY_FLOAT64:
        return False
    if not cnp.PyArray_ISBEHAVED_RO(plain):
        return False
    for axis in range(cnp.PyArray_NDIM(plain)):
        if cnp.PyArray_STRIDE(plain, axis) % cnp.PyArray_ITEMSIZE(plain):
            return False
    return True


cdef int64_t extent(str name, object value, int64_t low) except -1:
    """value as an int64 of at least low."""
    cdef int64_t number = -1
    try:
        number = value
    except OverflowError:
        pass
    if number < low:
        raise ValueError(f"{name} must be at least {low} and less than 2**63, got {value}")
    return number


cdef class Geometry:
    """The sizes and options of a convolution or a pooling, compared with each other, and how its arrays are laid out.

    rank is 1, 2 or 3, and shapes are tuples. stride, dilation and padding are an int, or a tuple of one int (of
    padding: a pair) for each of rank axes. The axes are the last `rank` of (D, H, W); the others have extent 1.
    """
    cdef _c.cr_conv conv
    cdef int64_t size[3]
    cdef readonly int rank
    cdef bint channels_first
    cdef bint batched

    def __init__(self, int rank, bint channels_first, tuple x_shape, tuple w_shape, stride, padding, dilation, groups,
                 int pad_mode, int algorithm):
        self._set(rank, channels_first, x_shape, w_shape, stride, padding, dilation, groups, pad_mode, algorithm)

    cdef int _set(self, int rank, bint channels_first, tuple x_shape, tuple w_shape, stride, padding, dilation, groups,
                  int pad_mode, int algorithm) except -1:
        cdef int64_t group_channels
        self._open(rank, channels_first, pad_mode)
        self.conv.algorithm = <_c.cr_algorithm>algorithm
        self.conv.C = self._set_image(x_shape, self.size)
        group_channels = self._set_kernel(w_shape)
        self.conv.groups = extent("groups", groups, 1)
        if self.conv.C % self.conv.groups or self.conv.K % self.conv.groups:
            raise ValueError(f"groups must divide the {self.conv.C} channels of x and the {self.conv.K} out-channels "
                             f"of w, got {groups}")
        if group_channels != self.conv.C // self.conv.groups:
            of_groups = f" in each of {groups} groups" if groups > 1 else ""
            raise ValueError(f"w has {group_channels} input channels{of_groups} but x has {self.conv.C}")
        self._set_axes(stride, padding, dilation)
        self._set_out()
        return 0

    @staticmethod
    def of_transposed(int rank, bint channels_first, tuple x_shape, tuple w_shape, stride, padding,
                      tuple output_padding, dilation, groups):
        """The convolution whose input gradient a transposed one is: its output is our x, its input our y."""
        cdef Geometry self = Geometry.__new__(Geometry)
        cdef int axis
        cdef int64_t group_channels, filters
        self._open(rank, channels_first, _c.CR_PAD_CONSTANT)
        filters = self._set_image(x_shape, self.conv.out)
        group_channels = self._set_kernel(w_shape)
        self.conv.groups = extent("groups", groups, 1)
        if self.conv.K != filters:
            raise ValueError(f"w has {self.conv.K} input channels but x has {filters}")
        if filters % self.conv.groups:
            raise ValueError(f"groups must divide the {filters} channels of x, got {groups}")
        self.conv.C = extent("the number of output channels", group_channels * <object>self.conv.groups, 1)
        self._set_axes(stride, padding, dilation)
        for axis in range(3 - rank, 3):
            self._set_transposed(axis, output_padding[axis - 3 + rank])
        self._check_size("the output", self.conv.C, self.size)
        return self

    @staticmethod
    def of_pool(int rank, bint channels_first, tuple x_shape, size, stride, padding):
        """A pooling, which is a depthwise convolution's; stride None is size."""
        cdef Geometry self = Geometry.__new__(Geometry)
        cdef int axis
        self._open(rank, channels_first, _c.CR_PAD_CONSTANT)
        self.conv.C = self.conv.K = self.conv.groups = self._set_image(x_shape, self.size)
        self._set_axis("size", size, 1, self.conv.kernel)
        self._set_axes(size if stride is None else stride, padding, 1)
        for axis in range(3 - rank, 3):
            if max(self.conv.pad_low[axis], self.conv.pad_high[axis]) >= self.conv.kernel[axis]:
                raise ValueError(f"padding must be less than size, {self.conv.kernel[axis]}, "
                                 f"got ({self.conv.pad_low[axis]}, {self.conv.pad_high[axis]})")
            padded = <object>self.size[axis] + self.conv.pad_low[axis] + self.conv.pad_high[axis]
            if self.conv.kernel[axis] > padded:
                raise ValueError(f"size must be at most {padded}, the extent of x with its padding, "
                                 f"got {self.conv.kernel[axis]}")
        self._check_size("a window for each image", self.conv.C, self.conv.kernel)
        self._set_out()
        return self

    def of_bias(self):
        """The input as the output of a convolution: what the gradient of a transposed one's bias is summed over."""
        cdef Geometry other = Geometry.__new__(Geometry)
        cdef int axis
        other._open(self.rank, self.channels_first, _c.CR_PAD_CONSTANT)
        other.batched = self.batched
        other.conv.N, other.conv.C, other.conv.K, other.conv.groups = self.conv.N, 1, self.conv.C, 1
        for axis in range(3):
            other.size[axis] = other.conv.out[axis] = self.size[axis]
            other.conv.kernel[axis] = other.conv.stride[axis] = other.conv.dilation[axis] = 1
        return other

    cdef _open(self, int rank, bint channels_first, int pad_mode):
        cdef int axis
        self.rank = rank
        self.channels_first = channels_first
        self.conv.pad_mode = <_c.cr_pad_mode>pad_mode
        self.conv.activation = _c.CR_IDENTITY
        self.conv.algorithm = _c.CR_DIRECT
        for axis in range(3):
            self.size[axis] = self.conv.kernel[axis] = self.conv.out[axis] = 1
            self.conv.stride[axis] = self.conv.dilation[axis] = 1
            self.conv.pad_low[axis] = self.conv.pad_high[axis] = 0

    cdef int64_t _set_image(self, tuple shape, int64_t *size) except -1:
        """Reads the shape of x: the batch, and the extents into size. Returns its channels."""
        cdef int axis, extra = <int>len(shape) - self.rank, first
        if extra != 1 and extra != 2:
            channels = "(N, C, ...)" if self.channels_first else "(N, ..., C)"
            raise ValueError(f"x must have {self.rank + 2} dimensions, {channels} with {self.rank} in space, "
                             f"or {self.rank + 1} without a batch; got shape {shape}")
        self.batched = extra == 2
        self.conv.N = shape[0] if self.batched else 1
        for axis in range(self.batched, <int>len(shape)):
            if shape[axis] == 0:
                raise ValueError(f"x must have no empty axis but the batch, got shape {shape}")
        first = self.batched + self.channels_first
        for axis in range(self.rank):
            size[3 - self.rank + axis] = shape[first + axis]
        return shape[first - 1 if self.channels_first else first + self.rank]

    cdef int64_t _set_kernel(self, tuple shape) except -1:
        """Reads the shape of w. Returns its in-channels of a group."""
        cdef int axis, first = 2 if self.channels_first else 0
        if len(shape) != self.rank + 2:
            axes = "(K, C/groups, ...)" if self.channels_first else "(..., C/groups, K)"
            raise ValueError(f"w must have {self.rank + 2} dimensions, {axes}, got shape {shape}")
        for axis in range(self.rank + 2):
            if shape[axis] == 0:
                raise ValueError(f"w must have no empty axis, got shape {shape}")
        for axis in range(self.rank):
            self.conv.kernel[3 - self.rank + axis] = shape[first + axis]
        self.conv.K = shape[0 if self.channels_first else self.rank + 1]
        return shape[1 if self.channels_first else self.rank]

    cdef int _set_axis(self, str name, value, int64_t low, int64_t *target) except -1:
        """An int for all axes, read once, or one for each."""
        cdef int axis
        cdef int64_t number
        if type(value) is int:
            number = extent(name, value, low)
            for axis in range(3 - self.rank, 3):
                target[axis] = number
        else:
            for axis in range(self.rank):
                target[3 - self.rank + axis] = extent(name, value[axis], low)
        return 0

    cdef int _set_axes(self, stride, padding, dilation) except -1:
        cdef bint one = type(padding) is int
        self._set_axis("stride", stride, 1, self.conv.stride)
        self._set_axis("dilation", dilation, 1, self.conv.dilation)
        self._set_axis("padding", padding if one else [low for low, _ in padding], 0, self.conv.pad_low)
        self._set_axis("padding", padding if one else [high for _, high in padding], 0, self.conv.pad_high)
        return 0

    cdef _set_out(self):
        cdef int axis
        for axis in range(3 - self.rank, 3):
            check(_c.cr_conv_output_size(
                self.size[axis], self.conv.kernel[axis], self.conv.stride[axis], self.conv.dilation[axis],
                self.conv.pad_low[axis], self.conv.pad_high[axis], &self.conv.out[axis]))
        self._check_size("the output", self.conv.K, self.conv.out)

    cdef int _check_size(self, str what, int64_t channels, const int64_t *size) except -1:
        """Offsets in an array that is still to be made fit 63 bits."""
        if <double>self.conv.N * channels * size[0] * size[1] * size[2] > 2.0**60:
            raise ValueError(f"{what}, of shape {self._shape(channels, size)}, would have more than 2**60 elements")
        return 0

    cdef _set_transposed(self, int axis, extra):
        """size = (out - 1)*stride - low - high + dilation*(kernel - 1) + extra + 1, in Python's unlimited integers."""
        out, stride, dilation = self.conv.out[axis], self.conv.stride[axis], self.conv.dilation[axis]
        pair = self.conv.pad_low[axis], self.conv.pad_high[axis]
        if extra and extra >= max(stride, dilation):
            raise ValueError(f"output_padding must be less than the larger of stride {stride} and dilation {dilation}, "
                             f"got {extra}")
        size = (out - 1) * stride - pair[0] - pair[1] + dilation * (self.conv.kernel[axis] - 1) + extra + 1
        self.size[axis] = extent(
            f"the output's extent, of {out} pixels with kernel {self.conv.kernel[axis]}, stride {stride}, dilation "
            f"{dilation}, padding {pair} and output_padding {extra},", size, 1)

    cdef tuple _shape(self, int64_t channels, const int64_t *size):
        cdef list shape = [self.conv.N] if self.batched else []
        cdef int axis
        if self.channels_first:
            shape.append(channels)
        for axis in range(3 - self.rank, 3):
            shape.append(size[axis])
        if not self.channels_first:
            shape.append(channels)
        return tuple(shape)

    @property
    def x_shape(self):
        """The shape of the convolution's input."""
        return self._shape(self.conv.C, self.size)

    @property
    def y_shape(self):
        """The shape of its output."""
        return self._shape(self.conv.K, self.conv.out)

    cpdef cnp.ndarray new_output(self, cnp.ndarray x):
        """An array for the output, not filled in, of x's dtype: numpy.empty without its arguments."""
        cdef cnp.npy_intp shape[5]
        cdef int axis, n = 0
        if self.batched:
            shape[n] = self.conv.N
            n += 1
        if self.channels_first:
            shape[n] = self.conv.K
            n += 1
        for axis in range(3 - self.rank, 3):
            shape[n] = self.conv.out[axis]
            n += 1
        if not self.channels_first:
            shape[n] = self.conv.K
            n += 1
        return empty(n, shape, cnp.PyArray_TYPE(x), cnp.PyArray_DATA(x))

    @property
    def channels(self):
        """C."""
        return self.conv.C

    @property
    def filters(self):
        """K."""
        return self.conv.K

    @property
    def window(self):
        """The extents of the kernel."""
        return tuple([self.conv.kernel[axis] for axis in range(3 - self.rank, 3)])

    cdef _c.cr_conv conv_of(self, cnp.ndarray array):
        cdef _c.cr_conv conv = self.conv
        conv.dtype = dtype_of(array)
        set_in(&conv, self.size)
        return conv

    def algorithm(self, bint double):
        """The name of the algorithm that runs, in float32 or in double precision."""
        cdef _c.cr_conv conv = self.conv
        cdef _c.cr_algorithm algorithm
        conv.dtype = _c.CR_FLOAT64 if double else _c.CR_FLOAT32
        set_in(&conv, self.size)
        check(_c.cr_conv_algorithm(&conv, &algorithm))
        return "winograd" if algorithm == _c.CR_WINOGRAD else "direct"

    cdef _c.cr_pool pool_of(self, cnp.ndarray array):
        cdef _c.cr_pool pool
        cdef int axis
        pool.dtype = dtype_of(array)
        pool.N, pool.C = self.conv.N, self.conv.C
        for axis in range(3):
            pool.size[axis] = self.conv.kernel[axis]
            pool.out[axis] = self.conv.out[axis]
            pool.stride[axis] = self.conv.stride[axis]
            pool.pad_low[axis] = self.conv.pad_low[axis]
            pool.pad_high[axis] = self.conv.pad_high[axis]
        set_pool_in(&pool, self.size)
        return pool

    cdef _c.cr_tensor image(self, cnp.ndarray array):
        """x or y: (N,) + space + (C,), or (N, C) + space."""
        cdef int first = self.batched
        cdef _c.cr_tensor tensor = self.strided(array, first + self.channels_first)
        cdef int64_t item = cnp.PyArray_ITEMSIZE(array)
        tensor.batch = array.strides[0] // item if self.batched else 0
        tensor.channel = array.strides[first if self.channels_first else first + self.rank] // item
        return tensor

    cdef _c.cr_tensor kernel(self, cnp.ndarray array):
        """w: kernel + (C, K), or (K, C) + kernel."""
        cdef _c.cr_tensor tensor = self.strided(array, 2 if self.channels_first else 0)
        cdef int64_t item = cnp.PyArray_ITEMSIZE(array)
        tensor.batch = array.strides[0 if self.channels_first else self.rank + 1] // item
        tensor.channel = array.strides[1 if self.channels_first else self.rank] // item
        return tensor

    cdef _c.cr_tensor strided(self, cnp.ndarray array, int first):
        cdef _c.cr_tensor tensor
        cdef int axis
        tensor.data = cnp.PyArray_DATA(array)
        tensor.batch = tensor.channel = tensor.space[0] = tensor.space[1] = 0
        for axis in range(self.rank):
            tensor.space[3 - self.rank + axis] = array.strides[first + axis] // <int64_t>cnp.PyArray_ITEMSIZE(array)
        return tensor


cdef extern from *:
    """
    /* `in` is a keyword in Cython. */
    static inline void set_in(struct cr_conv *conv, const int64_t *size)
    {
        for (int axis = 0; axis < 3; axis++) conv->in[axis] = size[axis];
    }
    static inline void set_pool_in(struct cr_pool *pool, const int64_t *size)
    {
        for (int axis = 0; axis < 3; axis++) pool->in[axis] = size[axis];
    }
    """
    void set_in(_c.cr_conv *conv, const int64_t *size) nogil
    void set_pool_in(_c.cr_pool *pool, const int64_t *size) nogil


cpdef conv_forward(Geometry geometry, cnp.ndarray x, cnp.ndarray w, cnp.ndarray b, cnp.ndarray y, int activation):
    """y = act(b + w * x). b is contiguous or None."""
    cdef _c.cr_conv conv = geometry.conv_of(x)
    cdef _c.cr_tensor tx = geometry.image(x), tw = geometry.kernel(w), ty = geometry.image(y)
    cdef void *bias = cnp.PyArray_DATA(b) if b is not None else NULL
    cdef _c.cr_status status
    conv.activation = <_c.cr_activation>activation
    with nogil:
        status = _c.cr_conv_forward(&conv, &tx, &tw, bias, &ty)
    check(status)


def convolve(int rank, x, w, b, stride, padding, dilation, groups, layout, padding_mode, activation, algorithm):
    """A new y of a convolution of arrays and options as users give them; None if one of them is not what the core
    takes: the short way of a call, as `infer` is. What it does not know goes the long way, which converts or refuses.
    """
    cdef Geometry geometry
    cdef cnp.ndarray y
    cdef bint first
    if not (type(stride) is int and type(padding) is int and type(dilation) is int and type(groups) is int):
        return None
    if not (is_plain(x) and is_plain(w)) or cnp.PyArray_TYPE(<cnp.ndarray>x) != cnp.PyArray_TYPE(<cnp.ndarray>w):
        return None
    if not (type(layout) is str and type(padding_mode) is str and type(algorithm) is str):
        return None
    if not (activation is None or type(activation) is str):
        return None
    first = layout == "channels_first"
    mode, which, fused = PAD_MODES.get(padding_mode), ALGORITHMS.get(algorithm), ACTIVATIONS.get(activation)
    if mode is None or which is None or fused is None or not (first or layout == "channels_last"):
        return None
    geometry = Geometry.__new__(Geometry)
    geometry._set(rank, first, x.shape, w.shape, stride, padding, dilation, groups, mode, which)
    if b is not None and not (fits(b, cnp.PyArray_TYPE(<cnp.ndarray>x), 1, geometry.conv.K, 0)
                              and cnp.PyArray_ISCONTIGUOUS(<cnp.ndarray>b)):
        return None
    y = geometry.new_output(x)
    conv_forward(geometry, x, w, b, y, fused)
    return y


def conv_prepared_size(Geometry geometry, cnp.ndarray w):
    """The bytes of w for conv_forward_prepared."""
    cdef _c.cr_conv conv = geometry.conv_of(w)
    cdef int64_t size
    check(_c.cr_conv_prepared_size(&conv, &size))
    return size


def conv_prepare(Geometry geometry, cnp.ndarray w):
    """w for conv_forward_prepared, aligned to 64 bytes."""
    cdef _c.cr_conv conv = geometry.conv_of(w)
    cdef _c.cr_tensor tw = geometry.kernel(w)
    cdef cnp.ndarray prepared
    cdef void *data
    cdef _c.cr_status status
    cdef cnp.npy_intp size = conv_prepared_size(geometry, w)
    prepared = aligned(1, &size, cnp.NPY_UINT8, size)
    data = cnp.PyArray_DATA(prepared)
    with nogil:
        status = _c.cr_conv_prepare(&conv, &tw, data)
    check(status)
    return prepared


def conv_forward_prepared(Geometry geometry, cnp.ndarray x, cnp.ndarray prepared, cnp.ndarray b, cnp.ndarray y,
                          int activation):
    """conv_forward with the w that conv_prepare was given. b is contiguous or None."""
    cdef _c.cr_conv conv = geometry.conv_of(x)
    cdef _c.cr_tensor tx = geometry.image(x), ty = geometry.image(y)
    cdef void *weights = cnp.PyArray_DATA(prepared)
    cdef void *bias = cnp.PyArray_DATA(b) if b is not None else NULL
    cdef _c.cr_status status
    conv.activation = <_c.cr_activation>activation
    with nogil:
        status = _c.cr_conv_forward_prepared(&conv, &tx, weights, bias, &ty)
    check(status)


def conv_backward_data(Geometry geometry, cnp.ndarray dy, cnp.ndarray w, cnp.ndarray b, cnp.ndarray dx):
    """dx = b + the gradient of <dy, w * x>. b is contiguous or None."""
    cdef _c.cr_conv conv = geometry.conv_of(dy)
    cdef _c.cr_tensor tdy = geometry.image(dy), tw = geometry.kernel(w), tdx = geometry.image(dx)
    cdef void *bias = cnp.PyArray_DATA(b) if b is not None else NULL
    cdef _c.cr_status status
    with nogil:
        status = _c.cr_conv_backward_data(&conv, &tdy, &tw, bias, &tdx)
    check(status)


def conv_backward_weights(Geometry geometry, cnp.ndarray dy, cnp.ndarray x, cnp.ndarray dw):
    """dw = the gradient of <dy, w * x>."""
    cdef _c.cr_conv conv = geometry.conv_of(dy)
    cdef _c.cr_tensor tdy, tx, tdw = geometry.kernel(dw)
    cdef _c.cr_status status
    if 1 < conv.groups == conv.C == conv.K:
        # The order of the sums depends on what lies side by side, and must not on the strides of an array.
        dy, x = cnp.PyArray_GETCONTIGUOUS(dy), cnp.PyArray_GETCONTIGUOUS(x)
    tdy, tx = geometry.image(dy), geometry.image(x)
    with nogil:
        status = _c.cr_conv_backward_weights(&conv, &tdy, &tx, &tdw)
    check(status)


def conv_backward_bias(Geometry geometry, cnp.ndarray dy, cnp.ndarray db):
    """db = dy summed over images and pixels."""
    cdef _c.cr_conv conv = geometry.conv_of(dy)
    cdef _c.cr_tensor tdy = geometry.image(dy)
    cdef void *data = cnp.PyArray_DATA(db)
    cdef _c.cr_status status
    with nogil:
        status = _c.cr_conv_backward_bias(&conv, &tdy, data)
    check(status)


def max_pool_forward(Geometry geometry, cnp.ndarray x, cnp.ndarray y):
    """y = the maxima of windows of x."""
    cdef _c.cr_pool pool = geometry.pool_of(x)
    cdef _c.cr_tensor tx = geometry.image(x), ty = geometry.image(y)
    cdef _c.cr_status status
    with nogil:
        status = _c.cr_max_pool_forward(&pool, &tx, &ty)
    check(status)


def max_pool_backward(Geometry geometry, cnp.ndarray dy, cnp.ndarray x, cnp.ndarray dx):
    """dx = dy at the first maximum of each window."""
    cdef _c.cr_pool pool = geometry.pool_of(x)
    cdef _c.cr_tensor tdy = geometry.image(dy), tx = geometry.image(x), tdx = geometry.image(dx)
    cdef _c.cr_status status
    with nogil:
        status = _c.cr_max_pool_backward(&pool, &tdy, &tx, &tdx)
    check(status)


# ---- recurrence ----

CELLS = {"rnn": _c.CR_RNN, "lstm": _c.CR_LSTM, "gru": _c.CR_GRU}
cdef int[3] GATES = [1, 4, 3]


cdef class Recurrence:
    """A recurrent layer in one direction: its options and its parameters, kept alive.

    Weights are (G*H, I), (G*H, R) and (P, H) or None, in any strides; biases (G*H,), contiguous, or None.
    """
    cdef _c.cr_sequence sequence
    cdef _c.cr_weights weights
    cdef int cell
    cdef readonly bint reverse  # x, y and their gradients come to forward and backward in the order of processing
    cdef readonly tuple parameters  # w_ih, w_hh, w_hr, b_ih, b_hh
    cdef object prepared

    def __init__(self, int cell, cnp.ndarray w_ih, cnp.ndarray w_hh, cnp.ndarray w_hr, cnp.ndarray b_ih,
                 cnp.ndarray b_hh, int64_t H, int activation, bint reset_after, bint reverse):
        self._open(cell, w_ih, w_hh, w_hr, b_ih, b_hh, H, activation, reset_after, reverse)

    cdef _open(self, int cell, cnp.ndarray w_ih, cnp.ndarray w_hh, cnp.ndarray w_hr, cnp.ndarray b_ih,
               cnp.ndarray b_hh, int64_t H, int activation, bint reset_after, bint reverse):
        self.cell = cell
        self.parameters = (w_ih, w_hh, w_hr, b_ih, b_hh)
        self.weights = weights_of(w_ih, w_hh, w_hr, b_ih, b_hh)
        self.sequence.dtype = dtype_of(w_ih)
        self.sequence.inputs = w_ih.shape[1]
        self.sequence.H = H
        self.sequence.P = w_hr.shape[0] if w_hr is not None else 0
        self.sequence.activation = <_c.cr_activation>activation
        self.sequence.reset_after = reset_after
        self.reverse = reverse

    def prepare(self):
        """Keeps the matrices as forward reads them; what is written to the parameters does not reach it any more."""
        cdef cnp.ndarray prepared
        cdef void *data
        cdef int64_t bytes
        cdef cnp.npy_intp size
        cdef _c.cr_status status
        check(_c.cr_recurrent_prepared_size(<_c.cr_cell>self.cell, &self.sequence, &bytes))
        size = bytes
        prepared = aligned(1, &size, cnp.NPY_UINT8, size)
        data = cnp.PyArray_DATA(prepared)
        with nogil:
            status = _c.cr_recurrent_prepare(<_c.cr_cell>self.cell, &self.sequence, &self.weights, data)
        check(status)
        self.prepared, self.weights.prepared = prepared, data

    cdef int64_t width(self):
        """R."""
        return self.sequence.P or self.sequence.H

    @property
    def H(self):
        """The hidden size."""
        return self.sequence.H

    @property
    def R(self):
        """The width of h."""
        return self.width()

    cdef bint has_extra(self):
        return self.cell == _c.CR_GRU or self.sequence.P > 0

    cdef cnp.ndarray new_room(self, int64_t T, int64_t B, bint zeros):
        """What forward keeps for backward, [T + 1, B, ..]: h, c, gates and extra of all steps, one after the other."""
        cdef int64_t H = self.sequence.H
        cdef bint has_c = self.cell == _c.CR_LSTM
        cdef int dtype = cnp.NPY_FLOAT32 if self.sequence.dtype == _c.CR_FLOAT32 else cnp.NPY_FLOAT64
        cdef cnp.npy_intp[3] shape = [T + 1, B, self.width() + (GATES[self.cell] + has_c + self.has_extra()) * H]
        return cnp.PyArray_ZEROS(3, shape, dtype, 0) if zeros else empty(3, shape, dtype, NULL)

    cdef _c.cr_cache cache_of(self, cnp.ndarray room):
        cdef int64_t H = self.sequence.H
        cdef int64_t rows = room.shape[0] * room.shape[1] * cnp.PyArray_ITEMSIZE(room)
        cdef char *at = <char *>cnp.PyArray_DATA(room)
        cdef _c.cr_cache cache = _c.cr_cache(at, NULL, NULL, NULL)
        at += rows * self.width()
        if self.cell == _c.CR_LSTM:
            cache.c = at
            at += rows * H
        cache.gates = at
        if self.has_extra():
            cache.extra = at + rows * GATES[self.cell] * H
        return cache

    def series_in(self, cnp.ndarray room):
        """h [T + 1, B, R], c [T + 1, B, H] or None and gates [T, B, G*H] in what forward has kept."""
        cdef int64_t T = room.shape[0] - 1, B = room.shape[1], H = self.sequence.H, R = self.width()
        cdef int64_t G = GATES[self.cell], states = (T + 1) * B * R, cells = (T + 1) * B * H
        cdef bint has_c = self.cell == _c.CR_LSTM
        numbers = room.reshape(room.size)
        start = states + cells if has_c else states
        return (numbers[:states].reshape(T + 1, B, R), numbers[states:start].reshape(T + 1, B, H) if has_c else None,
                numbers[start:start + T * B * G * H].reshape(T, B, G * H))

    cdef _c.cr_sequence sequence_of(self, cnp.ndarray x, cnp.ndarray lengths):
        cdef _c.cr_sequence sequence = self.sequence
        sequence.T, sequence.B = x.shape[0], x.shape[1]
        sequence.lengths = <const int64_t *>data_of(lengths)
        return sequence

    def forward(self, cnp.ndarray x, cnp.ndarray lengths, cnp.ndarray h, cnp.ndarray c, cnp.ndarray y,
                cnp.ndarray h_last, cnp.ndarray c_last, bint keep):
        """Fills y and the last state; returns what backward needs, if it is to be kept. All but x, y contiguous."""
        cdef _c.cr_sequence sequence = self.sequence_of(x, lengths)
        cdef _c.cr_series tx = series_of(x), ty = series_of(y)
        cdef _c.cr_state state = _c.cr_state(data_of(h), data_of(c))
        cdef _c.cr_state last = _c.cr_state(data_of(h_last), data_of(c_last))
        cdef cnp.ndarray room = None
        cdef _c.cr_cache cache
        cdef _c.cr_status status
        if keep:
            room = self.new_room(sequence.T, sequence.B, lengths is not None)  # steps past a row's end are zero
            cache = self.cache_of(room)
        with nogil:
            status = self.run(&sequence, &tx, &state, &ty, &last, &cache if keep else NULL)
        check(status)
        return room

    cdef _c.cr_status run(self, const _c.cr_sequence *sequence, const _c.cr_series *x, const _c.cr_state *state,
                          const _c.cr_series *y, const _c.cr_state *last, const _c.cr_cache *cache) noexcept nogil:
        if self.cell == _c.CR_RNN:
            return _c.cr_rnn_forward(sequence, x, &self.weights, state, y, last, cache)
        if self.cell == _c.CR_LSTM:
            return _c.cr_lstm_forward(sequence, x, &self.weights, state, y, last, cache)
        return _c.cr_gru_forward(sequence, x, &self.weights, state, y, last, cache)

    def backward(self, cnp.ndarray x, cnp.ndarray lengths, cnp.ndarray room, cnp.ndarray dy, cnp.ndarray dh_last,
                 cnp.ndarray dc_last, int64_t truncate, bint needs_dx, cnp.ndarray dh, cnp.ndarray dc,
                 cnp.ndarray dh_all):
        """dx or None, and the gradients of parameters; fills the first state's and, if not None, dh_all."""
        cdef _c.cr_sequence sequence = self.sequence_of(x, lengths)
        cdef _c.cr_series tx = series_of(x), tdy = series_of(dy), tdx
        cdef _c.cr_cache cache = self.cache_of(room)
        cdef _c.cr_state dlast = _c.cr_state(data_of(dh_last), data_of(dc_last))
        cdef _c.cr_state dstate = _c.cr_state(data_of(dh), data_of(dc))
        cdef tuple grads = tuple([None if array is None else new_like(array) for array in self.parameters])
        cdef _c.cr_weights into = weights_of(grads[0], grads[1], grads[2], grads[3], grads[4])
        cdef void *every = data_of(dh_all)
        cdef cnp.ndarray dx = None
        cdef _c.cr_status status
        if needs_dx:
            dx = empty(3, cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x), NULL)
            tdx = series_of(dx)
        else:
            tdx = _c.cr_series(NULL, 0, 0, 0)
        with nogil:
            if self.cell == _c.CR_RNN:
                status = _c.cr_rnn_backward(&sequence, &tx, &self.weights, &cache, &tdy, &dlast, truncate, &tdx, &into,
                                            &dstate, every)
            elif self.cell == _c.CR_LSTM:
                status = _c.cr_lstm_backward(&sequence, &tx, &self.weights, &cache, &tdy, &dlast, truncate, &tdx,
                                             &into, &dstate, every)
            else:
                status = _c.cr_gru_backward(&sequence, &tx, &self.weights, &cache, &tdy, &dlast, truncate, &tdx, &into,
                                            &dstate, every)
        check(status)
        return dx, grads


cdef cnp.ndarray new_like(cnp.ndarray array):
    """numpy.empty_like of a vector or a matrix, with its shape and the order of its axes."""
    cdef cnp.npy_intp[2] shape
    cdef int dtype = cnp.PyArray_TYPE(array)
    if cnp.PyArray_NDIM(array) == 1 or abs(array.strides[0]) >= abs(array.strides[1]):
        return empty(cnp.PyArray_NDIM(array), cnp.PyArray_DIMS(array), dtype, NULL)
    shape[0], shape[1] = array.shape[1], array.shape[0]
    return cnp.PyArray_Transpose(empty(2, shape, dtype, NULL), NULL)


cdef bint fits(object array, int dtype, int ndim, int64_t rows, int64_t columns):
    """Whether array is plain and of this type and shape; -1 is any size but 0."""
    cdef cnp.ndarray plain
    if not is_plain(array):
        return False
    plain = array
    if cnp.PyArray_TYPE(plain) != dtype or cnp.PyArray_NDIM(plain) != ndim:
        return False
    if plain.shape[0] != rows and (rows != -1 or plain.shape[0] == 0):
        return False
    return ndim == 1 or plain.shape[1] == columns or (columns == -1 and plain.shape[1] > 0)


cdef Recurrence recurrence_of(int cell, w_ih, w_hh, w_hr, b_ih, b_hh, int activation, bint reset_after, bint reverse):
    """A Recurrence of parameters that fit each other and need no conversion; None if they are not such."""
    cdef int dtype
    cdef int64_t rows, hidden, width
    cdef Recurrence part
    if not is_plain(w_ih):
        return None
    dtype = cnp.PyArray_TYPE(<cnp.ndarray>w_ih)
    if not fits(w_hh, dtype, 2, -1, -1):
        return None
    rows, width = (<cnp.ndarray>w_hh).shape[0], (<cnp.ndarray>w_hh).shape[1]
    hidden = rows // GATES[cell]
    if hidden * GATES[cell] != rows or not fits(w_ih, dtype, 2, rows, -1):
        return None
    if width != hidden if w_hr is None else not fits(w_hr, dtype, 2, width, hidden):
        return None
    for bias in (b_ih, b_hh):
        if bias is not None and not (fits(bias, dtype, 1, rows, 0) and cnp.PyArray_ISCONTIGUOUS(<cnp.ndarray>bias)):
            return None
    part = Recurrence.__new__(Recurrence)
    part._open(cell, w_ih, w_hh, w_hr, b_ih, b_hh, hidden, activation, reset_after, reverse)
    return part


def recurrences(int cell, params, tuple names, int directions, int64_t inputs, int64_t H, int64_t R,
                int activation, bint reset_after):
    """What `walk` takes, of a layer's params; None if they need a conversion or a refusal.

    names has a tuple of keys (w_ih, w_hh, w_hr, b_ih, b_hh) for every layer and direction.
    """
    cdef list parts = []
    cdef Recurrence part, first = None
    cdef dict arrays
    cdef tuple keys
    cdef int i
    if type(params) is not dict:
        return None
    arrays = params
    for i, keys in enumerate(names):
        part = recurrence_of(cell, arrays.get(keys[0]), arrays.get(keys[1]), arrays.get(keys[2]), arrays.get(keys[3]),
                             arrays.get(keys[4]), activation, reset_after, i % directions == 1)
        if part is None or part.sequence.H != H or part.width() != R:
            return None
        if part.sequence.inputs != (inputs if i < directions else directions * R):
            return None
        first = part if first is None else first
        if part.sequence.dtype != first.sequence.dtype:
            return None
        parts.append(part)
    return tuple(parts)


def walk_arrays(int cell, x, w_ih, w_hh, w_hr, b_ih, b_hh, state, int activation, bint reset_after, bint reverse,
                bint keep):
    """`walk` through one layer in one direction, whose states have no axis of layers."""
    cdef Recurrence part = recurrence_of(cell, w_ih, w_hh, w_hr, b_ih, b_hh, activation, reset_after, reverse)
    return None if part is None else walk((part,), x, state, 1, False, False, keep)


def walk(tuple parts not None, x, state, int directions, bint stacked, bint batch_first, bint keep):
    """y, the last state of every row at its full length and what backward needs; None if an argument is not, as it is,
    what the core takes.

    This is the short way of a call: arrays are looked at and made here, with no Python object in between. What it does
    not know goes the long way, which converts or refuses.

    parts : a Recurrence for every layer and direction
    stacked : states have an axis for those in front
    keep : whether what backward needs is returned: a Recurrence, its input and what its backward takes, of every part
    """
    cdef Recurrence part = parts[0]
    cdef bint has_c = part.cell == _c.CR_LSTM, batched
    cdef int dtype = cnp.NPY_FLOAT32 if part.sequence.dtype == _c.CR_FLOAT32 else cnp.NPY_FLOAT64
    cdef int i, count = <int>len(parts)
    cdef int64_t R = part.width(), H = part.sequence.H, item = 4 if dtype == cnp.NPY_FLOAT32 else 8
    cdef object h_first = state, c_first = None
    cdef cnp.ndarray series, before, y = None, h, c = None, room
    cdef list kept = [] if keep else None
    cdef _c.cr_cache cache
    cdef _c.cr_sequence sequence
    cdef _c.cr_series source, target, tx, ty
    cdef _c.cr_state first, last
    cdef _c.cr_status status
    if not is_plain(x):
        return None
    series = x
    batched = cnp.PyArray_NDIM(series) == 3
    if cnp.PyArray_TYPE(series) != dtype or not 2 <= cnp.PyArray_NDIM(series) <= 3:
        return None
    if series.shape[1 + batched] != part.sequence.inputs:
        return None
    cdef int64_t T = series.shape[batched and batch_first], B = series.shape[not batch_first] if batched else 1

    h = new_array(stacked, count, batched, B, R, dtype)
    if has_c:
        if state is not None:
            if type(state) is not tuple or len(<tuple>state) != 2:
                return None
            h_first, c_first = (<tuple>state)[0], (<tuple>state)[1]
        c = new_array(stacked, count, batched, B, H, dtype)
    if state is not None and not (is_like(h_first, h) and (not has_c or is_like(c_first, c))):
        return None

    target = walked(series, batched, batched and batch_first)
    for i in range(count):
        part = parts[i]
        if i % directions == 0:
            source, before = target, series if y is None else y  # kept alive while it is read
            y = new_array(True, T, batched, B, directions * R, dtype)
            target = walked(y, batched, False)
        sequence = part.sequence
        sequence.T, sequence.B = T, B
        tx, ty = source, target
        ty.data = <char *>ty.data + i % directions * R * item
        if part.reverse and T:
            tx.data, tx.time = <char *>tx.data + (T - 1) * tx.time * item, -tx.time
            ty.data, ty.time = <char *>ty.data + (T - 1) * ty.time * item, -ty.time
        first = _c.cr_state(part_of(h_first, i * B * R * item), part_of(c_first, i * B * H * item))
        last = _c.cr_state(part_of(h, i * B * R * item), part_of(c, i * B * H * item))
        if keep:
            room = part.new_room(T, B, False)
            cache = part.cache_of(room)
            kept.append((part, before, room))
        with nogil:
            status = part.run(&sequence, &tx, &first, &ty, &last, &cache if keep else NULL)
        check(status)
    if batched and batch_first:
        y = cnp.PyArray_SwapAxes(y, 0, 1)
    last_state = (h, c) if has_c else h
    return (y, last_state, kept) if keep else (y, last_state)


cdef cnp.ndarray new_array(bint has_first, int64_t first, bint has_second, int64_t second, int64_t third, int dtype):
    """An array (first, second, third), not filled in, without the axes that it has not."""
    cdef cnp.npy_intp shape[3]
    cdef int n = 0
    if has_first:
        shape[n] = first
        n += 1
    if has_second:
        shape[n] = second
        n += 1
    shape[n] = third
    return cnp.PyArray_EMPTY(n + 1, shape, dtype, 0)


cdef bint is_like(object array, cnp.ndarray wanted):
    """Whether array has the type and the shape of wanted, and is plain and contiguous."""
    cdef int axis
    if type(array) is not cnp.ndarray or not cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>array):
        return False
    if cnp.PyArray_TYPE(<cnp.ndarray>array) != cnp.PyArray_TYPE(wanted):
        return False
    if cnp.PyArray_NDIM(<cnp.ndarray>array) != cnp.PyArray_NDIM(wanted):
        return False
    for axis in range(cnp.PyArray_NDIM(wanted)):
        if (<cnp.ndarray>array).shape[axis] != wanted.shape[axis]:
            return False
    return True


cdef _c.cr_series walked(cnp.ndarray array, bint batched, bint batch_first):
    """(T, B, width), (B, T, width) or (T, width)."""
    cdef int64_t item = cnp.PyArray_ITEMSIZE(array)
    return _c.cr_series(cnp.PyArray_DATA(array), cnp.PyArray_STRIDE(array, batch_first) // item,
                        cnp.PyArray_STRIDE(array, not batch_first) // item if batched else 0,
                        cnp.PyArray_STRIDE(array, 1 + batched) // item)


cdef void *part_of(object array, int64_t offset):
    return <char *>cnp.PyArray_DATA(<cnp.ndarray>array) + offset if array is not None else NULL


cdef void *data_of(cnp.ndarray array):
    return cnp.PyArray_DATA(array) if array is not None else NULL


cdef _c.cr_series series_of(cnp.ndarray array):
    cdef int64_t item = cnp.PyArray_ITEMSIZE(array)
    return _c.cr_series(cnp.PyArray_DATA(array), array.strides[0] // item, array.strides[1] // item,
                        array.strides[2] // item)


cdef _c.cr_matrix matrix_of(cnp.ndarray array):
    if array is None:
        return _c.cr_matrix(NULL, 0, 0)
    cdef int64_t item = cnp.PyArray_ITEMSIZE(array)
    return _c.cr_matrix(cnp.PyArray_DATA(array), array.strides[0] // item, array.strides[1] // item)


cdef _c.cr_weights weights_of(cnp.ndarray w_ih, cnp.ndarray w_hh, cnp.ndarray w_hr, cnp.ndarray b_ih,
                              cnp.ndarray b_hh):
    return _c.cr_weights(matrix_of(w_ih), matrix_of(w_hh), matrix_of(w_hr), data_of(b_ih), data_of(b_hh), NULL)


def map(str function, cnp.ndarray x not None):
    """y = function(x), element by element; x is C-contiguous, y new."""
    cdef cnp.ndarray y = np.empty_like(x)
    cdef _c.cr_function which = FUNCTIONS[function]
    cdef _c.cr_dtype dtype = dtype_of(x)
    cdef int64_t n = x.size
    cdef void *source = cnp.PyArray_DATA(x)
    cdef void *target = cnp.PyArray_DATA(y)
    cdef _c.cr_status status
    with nogil:
        status = _c.cr_map(which, dtype, n, source, target)
    check(status)
    return y


def version():
    """The version of the C core."""
    return _c.cr_version().decode()


def isa():
    """The instruction set in use."""
    return _c.cr_isa().decode()


def available_isas():
    """The instruction sets this processor can run, best last."""
    cdef const char *const *names
    cdef int i, n = _c.cr_available_isas(&names)
    return [names[i].decode() for i in range(n)]


def set_isa(str name):
    """Switches the instruction set; for tests."""
    check(_c.cr_set_isa(name.encode()))


def get_num_threads():
    """The number of threads a call may use."""
    return _c.cr_get_num_threads()


def set_num_threads(int64_t n):
    """Sets it."""
    check(_c.cr_set_num_threads(n))
