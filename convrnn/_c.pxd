"""The declarations of csrc/convrnn.h that _core uses; for Cython projects too."""
from libc.stdint cimport int64_t


cdef extern from "convrnn.h" nogil:
    enum cr_status:
        CR_OK, CR_INVALID_ARGUMENT, CR_OVERFLOW, CR_OUT_OF_MEMORY

    enum cr_dtype:
        CR_FLOAT32, CR_FLOAT64

    enum cr_pad_mode:
        CR_PAD_CONSTANT, CR_PAD_REFLECT, CR_PAD_SYMMETRIC, CR_PAD_EDGE, CR_PAD_WRAP

    enum cr_activation:
        CR_IDENTITY, CR_RELU, CR_TANH, CR_SIGMOID

    enum cr_function:
        CR_FUNCTION_EXP, CR_FUNCTION_TANH, CR_FUNCTION_SIGMOID, CR_FUNCTION_RELU

    struct cr_tensor:
        void *data
        int64_t batch
        int64_t channel
        int64_t space[3]

    struct cr_conv:
        cr_dtype dtype
        int64_t N
        int64_t C
        int64_t K
        int64_t groups
        int64_t kernel[3]
        int64_t out[3]
        int64_t stride[3]
        int64_t dilation[3]
        int64_t pad_low[3]
        int64_t pad_high[3]
        cr_pad_mode pad_mode
        cr_activation activation

    struct cr_pool:
        cr_dtype dtype
        int64_t N
        int64_t C
        int64_t size[3]
        int64_t out[3]
        int64_t stride[3]
        int64_t pad_low[3]
        int64_t pad_high[3]

    const char *cr_status_name(cr_status status)
    const char *cr_error_message()
    const char *cr_version()
    const char *cr_isa()
    int cr_available_isas(const char *const **names)
    cr_status cr_set_isa(const char *name)
    int cr_get_num_threads()
    cr_status cr_set_num_threads(int64_t n)

    cr_status cr_conv_output_size(int64_t size, int64_t kernel, int64_t stride, int64_t dilation,
                                  int64_t pad_low, int64_t pad_high, int64_t *out_size)
    cr_status cr_conv_forward(const cr_conv *conv, const cr_tensor *x, const cr_tensor *w, const void *b,
                              const cr_tensor *y)
    cr_status cr_conv_backward_data(const cr_conv *conv, const cr_tensor *dy, const cr_tensor *w, const void *b,
                                    const cr_tensor *dx)
    cr_status cr_conv_backward_weights(const cr_conv *conv, const cr_tensor *dy, const cr_tensor *x,
                                       const cr_tensor *dw)
    cr_status cr_conv_backward_bias(const cr_conv *conv, const cr_tensor *dy, void *db)
    cr_status cr_max_pool_forward(const cr_pool *pool, const cr_tensor *x, const cr_tensor *y)
    cr_status cr_max_pool_backward(const cr_pool *pool, const cr_tensor *dy, const cr_tensor *x,
                                   const cr_tensor *dx)
    cr_status cr_map(cr_function function, cr_dtype dtype, int64_t n, const void *x, void *y)
