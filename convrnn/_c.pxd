"""The declarations of csrc/convrnn.h that _core uses; for Cython projects too."""
from libc.stdint cimport int64_t


cdef extern from "convrnn.h" nogil:
    enum cr_status:
        CR_OK, CR_INVALID_ARGUMENT, CR_OVERFLOW, CR_OUT_OF_MEMORY

    enum cr_dtype:
        CR_FLOAT32, CR_FLOAT64

    enum cr_pad_mode:
        CR_PAD_CONSTANT, CR_PAD_REFLECT, CR_PAD_SYMMETRIC, CR_PAD_EDGE, CR_PAD_WRAP

    enum cr_algorithm:
        CR_AUTO, CR_DIRECT, CR_WINOGRAD

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
        cr_algorithm algorithm

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
    cr_status cr_conv_algorithm(const cr_conv *conv, cr_algorithm *algorithm)
    cr_status cr_conv_prepared_size(const cr_conv *conv, int64_t *bytes)
    cr_status cr_conv_prepare(const cr_conv *conv, const cr_tensor *w, void *prepared)
    cr_status cr_conv_forward_prepared(const cr_conv *conv, const cr_tensor *x, const void *prepared, const void *b,
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

    struct cr_sequence:
        cr_dtype dtype
        int64_t T
        int64_t B
        int64_t inputs
        int64_t H
        int64_t P
        const int64_t *lengths
        cr_activation activation
        int reset_after

    struct cr_series:
        void *data
        int64_t time
        int64_t row
        int64_t column

    struct cr_matrix:
        void *data
        int64_t row
        int64_t column

    struct cr_weights:
        cr_matrix w_ih
        cr_matrix w_hh
        cr_matrix w_hr
        void *b_ih
        void *b_hh
        const void *prepared

    struct cr_state:
        void *h
        void *c

    struct cr_cache:
        void *h
        void *c
        void *gates
        void *extra

    cr_status cr_rnn_forward(const cr_sequence *sequence, const cr_series *x, const cr_weights *weights,
                             const cr_state *state, const cr_series *y, const cr_state *last, const cr_cache *cache)
    cr_status cr_lstm_forward(const cr_sequence *sequence, const cr_series *x, const cr_weights *weights,
                              const cr_state *state, const cr_series *y, const cr_state *last, const cr_cache *cache)
    cr_status cr_gru_forward(const cr_sequence *sequence, const cr_series *x, const cr_weights *weights,
                             const cr_state *state, const cr_series *y, const cr_state *last, const cr_cache *cache)
    enum cr_cell:
        CR_RNN
        CR_LSTM
        CR_GRU

    cr_status cr_recurrent_prepared_size(cr_cell cell, const cr_sequence *sequence, int64_t *bytes)
    cr_status cr_recurrent_prepare(cr_cell cell, const cr_sequence *sequence, const cr_weights *weights, void *prepared)

    cr_status cr_rnn_backward(const cr_sequence *sequence, const cr_series *x, const cr_weights *weights,
                              const cr_cache *cache, const cr_series *dy, const cr_state *dlast, int64_t truncate,
                              const cr_series *dx, const cr_weights *dweights, const cr_state *dstate, void *dh)
    cr_status cr_lstm_backward(const cr_sequence *sequence, const cr_series *x, const cr_weights *weights,
                               const cr_cache *cache, const cr_series *dy, const cr_state *dlast, int64_t truncate,
                               const cr_series *dx, const cr_weights *dweights, const cr_state *dstate, void *dh)
    cr_status cr_gru_backward(const cr_sequence *sequence, const cr_series *x, const cr_weights *weights,
                              const cr_cache *cache, const cr_series *dy, const cr_state *dlast, int64_t truncate,
                              const cr_series *dx, const cr_weights *dweights, const cr_state *dstate, void *dh)
