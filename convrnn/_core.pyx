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


def is_plain(array):
    """Whether array is what the core takes: float32 or float64 in native order, aligned, strides whole elements."""
    cdef int axis
    cdef cnp.ndarray plain
    if type(array) is not np.ndarray:
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


cdef class Geometry:
    """A convolution's or a pool's sizes and options, and how its arrays are laid out.

    Sizes along the axes (D, H, W) are given for the last `rank` of them; the others are 1. out, if None, is what the
    convolution gives.
    """
    cdef _c.cr_conv conv
    cdef int64_t size[3]
    cdef int rank
    cdef bint channels_first
    cdef bint batched

    def __init__(self, bint channels_first, bint batched, int64_t N, int64_t C, int64_t K, int64_t groups,
                 tuple size, tuple kernel, tuple stride, tuple dilation, tuple padding, int pad_mode,
                 tuple out=None):
        cdef int axis, lacking = 3 - <int>len(size)
        self.rank = 3 - lacking
        self.channels_first = channels_first
        self.batched = batched
        self.conv.N, self.conv.C, self.conv.K, self.conv.groups = N, C, K, groups
        self.conv.pad_mode = <_c.cr_pad_mode>pad_mode
        self.conv.activation = _c.CR_IDENTITY
        for axis in range(lacking):
            self.size[axis] = self.conv.kernel[axis] = self.conv.out[axis] = 1
            self.conv.stride[axis] = self.conv.dilation[axis] = 1
            self.conv.pad_low[axis] = self.conv.pad_high[axis] = 0
        for axis in range(lacking, 3):
            self.size[axis] = size[axis - lacking]
            self.conv.kernel[axis] = kernel[axis - lacking]
            self.conv.stride[axis] = stride[axis - lacking]
            self.conv.dilation[axis] = dilation[axis - lacking]
            self.conv.pad_low[axis], self.conv.pad_high[axis] = padding[axis - lacking]
            if out is not None:
                self.conv.out[axis] = out[axis - lacking]
            else:
                check(_c.cr_conv_output_size(
                    self.size[axis], self.conv.kernel[axis], self.conv.stride[axis], self.conv.dilation[axis],
                    self.conv.pad_low[axis], self.conv.pad_high[axis], &self.conv.out[axis]))

    @property
    def out(self):
        """The output's extents."""
        if self.rank == 1:
            return (self.conv.out[2],)
        if self.rank == 2:
            return (self.conv.out[1], self.conv.out[2])
        return (self.conv.out[0], self.conv.out[1], self.conv.out[2])

    cdef _c.cr_conv conv_of(self, cnp.ndarray array):
        cdef _c.cr_conv conv = self.conv
        conv.dtype = dtype_of(array)
        set_in(&conv, self.size)
        return conv

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


def conv_forward(Geometry geometry, cnp.ndarray x, cnp.ndarray w, cnp.ndarray b, cnp.ndarray y, int activation):
    """y = act(b + w * x). b is contiguous or None."""
    cdef _c.cr_conv conv = geometry.conv_of(x)
    cdef _c.cr_tensor tx = geometry.image(x), tw = geometry.kernel(w), ty = geometry.image(y)
    cdef void *bias = cnp.PyArray_DATA(b) if b is not None else NULL
    cdef _c.cr_status status
    conv.activation = <_c.cr_activation>activation
    with nogil:
        status = _c.cr_conv_forward(&conv, &tx, &tw, bias, &ty)
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
    cdef _c.cr_tensor tdy = geometry.image(dy), tx = geometry.image(x), tdw = geometry.kernel(dw)
    cdef _c.cr_status status
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

CELLS = {"rnn": 0, "lstm": 1, "gru": 2}


cdef class Recurrence:
    """A recurrent layer in one direction: its options and its parameters, kept alive.

    Weights are (G*H, I), (G*H, R) and (P, H) or None, in any strides; biases (G*H,), contiguous, or None.
    """
    cdef _c.cr_sequence sequence
    cdef _c.cr_weights weights
    cdef int cell
    cdef object parameters

    def __init__(self, int cell, cnp.ndarray w_ih, cnp.ndarray w_hh, cnp.ndarray w_hr, cnp.ndarray b_ih,
                 cnp.ndarray b_hh, int64_t H, int activation, bint reset_after):
        self.cell = cell
        self.parameters = (w_ih, w_hh, w_hr, b_ih, b_hh)
        self.weights = weights_of(w_ih, w_hh, w_hr, b_ih, b_hh)
        self.sequence.dtype = dtype_of(w_ih)
        self.sequence.inputs = w_ih.shape[1]
        self.sequence.H = H
        self.sequence.P = w_hr.shape[0] if w_hr is not None else 0
        self.sequence.activation = <_c.cr_activation>activation
        self.sequence.reset_after = reset_after

    cdef _c.cr_sequence sequence_of(self, cnp.ndarray x, cnp.ndarray lengths):
        cdef _c.cr_sequence sequence = self.sequence
        sequence.T, sequence.B = x.shape[0], x.shape[1]
        sequence.lengths = <const int64_t *>data_of(lengths)
        return sequence

    def forward(self, cnp.ndarray x, cnp.ndarray lengths, cnp.ndarray h, cnp.ndarray c, cnp.ndarray y,
                cnp.ndarray h_last, cnp.ndarray c_last, tuple cache):
        """Fills y and the last state, and cache = (h, c, gates, extra) if it is not None. All but x, y contiguous."""
        cdef _c.cr_sequence sequence = self.sequence_of(x, lengths)
        cdef _c.cr_series tx = series_of(x), ty = series_of(y)
        cdef _c.cr_state state = _c.cr_state(data_of(h), data_of(c)), last = _c.cr_state(data_of(h_last), data_of(c_last))
        cdef _c.cr_cache kept
        cdef _c.cr_cache *keep = NULL
        cdef _c.cr_status status
        if cache is not None:
            kept = _c.cr_cache(data_of(cache[0]), data_of(cache[1]), data_of(cache[2]), data_of(cache[3]))
            keep = &kept
        with nogil:
            if self.cell == 0:
                status = _c.cr_rnn_forward(&sequence, &tx, &self.weights, &state, &ty, &last, keep)
            elif self.cell == 1:
                status = _c.cr_lstm_forward(&sequence, &tx, &self.weights, &state, &ty, &last, keep)
            else:
                status = _c.cr_gru_forward(&sequence, &tx, &self.weights, &state, &ty, &last, keep)
        check(status)

    def backward(self, cnp.ndarray x, cnp.ndarray lengths, tuple cache, cnp.ndarray dy, cnp.ndarray dh_last,
                 cnp.ndarray dc_last, int64_t truncate, cnp.ndarray dx, tuple dweights, cnp.ndarray dh, cnp.ndarray dc,
                 cnp.ndarray dh_all):
        """Fills dx, dweights = (w_ih, w_hh, w_hr, b_ih, b_hh), the state's gradient and, if not None, dh_all."""
        cdef _c.cr_sequence sequence = self.sequence_of(x, lengths)
        cdef _c.cr_series tx = series_of(x), tdy = series_of(dy), tdx = series_of(dx)
        cdef _c.cr_cache kept = _c.cr_cache(data_of(cache[0]), data_of(cache[1]), data_of(cache[2]), data_of(cache[3]))
        cdef _c.cr_state dlast = _c.cr_state(data_of(dh_last), data_of(dc_last))
        cdef _c.cr_state dstate = _c.cr_state(data_of(dh), data_of(dc))
        cdef _c.cr_weights into = weights_of(dweights[0], dweights[1], dweights[2], dweights[3], dweights[4])
        cdef void *every = data_of(dh_all)
        cdef _c.cr_status status
        with nogil:
            if self.cell == 0:
                status = _c.cr_rnn_backward(&sequence, &tx, &self.weights, &kept, &tdy, &dlast, truncate, &tdx, &into,
                                            &dstate, every)
            elif self.cell == 1:
                status = _c.cr_lstm_backward(&sequence, &tx, &self.weights, &kept, &tdy, &dlast, truncate, &tdx, &into,
                                             &dstate, every)
            else:
                status = _c.cr_gru_backward(&sequence, &tx, &self.weights, &kept, &tdy, &dlast, truncate, &tdx, &into,
                                            &dstate, every)
        check(status)


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
    return _c.cr_weights(matrix_of(w_ih), matrix_of(w_hh), matrix_of(w_hr), data_of(b_ih), data_of(b_hh))


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
