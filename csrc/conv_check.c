/* Validation of a convolution's geometry: all of it, once, before anything is allocated or written. */
#include "conv.h"

static const char axis_name[] = "DHW";

enum cr_status cr_conv_output_size(int64_t in, int64_t kernel, int64_t stride, int64_t dilation, int64_t pad_low,
                                   int64_t pad_high, int64_t *out_size)
{
    int64_t extent, padded;

    if (in < 1) return cr_fail(CR_INVALID_ARGUMENT, "extent of x must be at least 1, got %lld", (long long)in);
    if (kernel < 1)
        return cr_fail(CR_INVALID_ARGUMENT, "extent of w must be at least 1, got %lld", (long long)kernel);
    if (stride < 1) return cr_fail(CR_INVALID_ARGUMENT, "stride must be at least 1, got %lld", (long long)stride);
    if (dilation < 1)
        return cr_fail(CR_INVALID_ARGUMENT, "dilation must be at least 1, got %lld", (long long)dilation);
    if (pad_low < 0 || pad_high < 0)
        return cr_fail(CR_INVALID_ARGUMENT, "padding must be at least 0, got (%lld, %lld)", (long long)pad_low,
                       (long long)pad_high);
    /* Twice the padded image is what the padding modes compute with. */
    if (cr_multiply_add(dilation, kernel - 1, 1, &extent) || cr_multiply_add(1, in, pad_low, &padded) ||
        cr_multiply_add(1, padded, pad_high, &padded) || padded > INT64_MAX / 4)
        return cr_fail(CR_OVERFLOW,
                       "x of %lld cells with padding (%lld, %lld), or w of %lld taps with dilation %lld, does not fit "
                       "63 bits",
                       (long long)in, (long long)pad_low, (long long)pad_high, (long long)kernel, (long long)dilation);
    if (extent > padded)
        return cr_fail(CR_INVALID_ARGUMENT,
                       "w has an extent of %lld (%lld taps, dilation %lld) but x with its padding only %lld "
                       "(%lld cells, padding (%lld, %lld))",
                       (long long)extent, (long long)kernel, (long long)dilation, (long long)padded, (long long)in,
                       (long long)pad_low, (long long)pad_high);
    *out_size = (padded - extent) / stride + 1;
    return CR_OK;
}

enum cr_status cr_conv_check(const struct cr_conv *conv)
{
    int64_t inputs = conv->N, outputs = conv->N, weights = 1;
    int overflow = 0;

    if (conv->dtype != CR_FLOAT32 && conv->dtype != CR_FLOAT64)
        return cr_fail(CR_INVALID_ARGUMENT, "dtype must be CR_FLOAT32 or CR_FLOAT64, got %d", (int)conv->dtype);
    if ((int)conv->pad_mode < CR_PAD_CONSTANT || conv->pad_mode > CR_PAD_WRAP)
        return cr_fail(CR_INVALID_ARGUMENT, "pad_mode has no meaning: %d", (int)conv->pad_mode);
    if ((int)conv->activation < CR_IDENTITY || conv->activation > CR_SIGMOID)
        return cr_fail(CR_INVALID_ARGUMENT, "activation has no meaning: %d", (int)conv->activation);
    if ((int)conv->algorithm < CR_AUTO || conv->algorithm > CR_WINOGRAD)
        return cr_fail(CR_INVALID_ARGUMENT, "algorithm has no meaning: %d", (int)conv->algorithm);
    if (conv->N < 0) return cr_fail(CR_INVALID_ARGUMENT, "N must be at least 0, got %lld", (long long)conv->N);
    if (conv->C < 1 || conv->K < 1)
        return cr_fail(CR_INVALID_ARGUMENT, "channels must be at least 1, got C = %lld, K = %lld", (long long)conv->C,
                       (long long)conv->K);
    if (conv->groups < 1 || conv->C % conv->groups || conv->K % conv->groups)
        return cr_fail(CR_INVALID_ARGUMENT, "groups must divide C = %lld and K = %lld, got %lld", (long long)conv->C,
                       (long long)conv->K, (long long)conv->groups);

    for (int axis = 0; axis < 3; axis++) {
        int64_t expected;
        const enum cr_status status =
            cr_conv_output_size(conv->in[axis], conv->kernel[axis], conv->stride[axis], conv->dilation[axis],
                                conv->pad_low[axis], conv->pad_high[axis], &expected);
        if (status != CR_OK) return status;
        if (conv->out[axis] < 1 || conv->out[axis] > expected)
            return cr_fail(CR_INVALID_ARGUMENT, "the output's extent along %c must be in 1..%lld, got %lld",
                           axis_name[axis], (long long)expected, (long long)conv->out[axis]);
        overflow |= cr_multiply_add(inputs, conv->in[axis], 0, &inputs);
        overflow |= cr_multiply_add(outputs, conv->out[axis], 0, &outputs);
        overflow |= cr_multiply_add(weights, conv->kernel[axis], 0, &weights);
    }
    overflow |= cr_multiply_add(inputs, conv->C, 0, &inputs) || cr_multiply_add(outputs, conv->K, 0, &outputs) ||
                cr_multiply_add(weights, conv->C / conv->groups, 0, &weights) ||
                cr_multiply_add(weights, conv->K, 0, &weights);
    if (conv->algorithm == CR_WINOGRAD && !cr_winograd_applies(conv))
        return cr_fail(CR_INVALID_ARGUMENT, "algorithm winograd does not apply to this convolution: it is for 3x3 "
                                            "kernels in two axes, stride 1, dilation 1 and padding with zeros");
    /* Room for a byte count and for sums of offsets. */
    if (overflow || inputs > INT64_MAX / 16 || outputs > INT64_MAX / 16 || weights > INT64_MAX / 16)
        return cr_fail(CR_OVERFLOW, "the number of elements of x, w or y does not fit 63 bits");
    return CR_OK;
}
