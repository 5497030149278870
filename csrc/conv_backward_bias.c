/* The gradient of the bias: that of the weights of a 1x1 convolution whose image is one everywhere. */
#include "conv.h"

static const float one_f32 = 1;
static const double one_f64 = 1;

static struct cr_conv of_ones(const struct cr_conv *conv)
{
    struct cr_conv ones = {.dtype = conv->dtype, .N = conv->N, .C = 1, .K = conv->K, .groups = 1};
    for (int axis = 0; axis < 3; axis++) {
        ones.in[axis] = ones.out[axis] = conv->out[axis];
        ones.kernel[axis] = ones.stride[axis] = ones.dilation[axis] = 1;
    }
    return ones;
}

enum cr_status cr_conv_sum_bias(const struct cr_conv *conv, const struct cr_tensor *dy, void *db, int accumulate)
{
    const struct cr_conv ones = of_ones(conv);
    const struct cr_tensor x = {
        .data = (void *)(uintptr_t)(conv->dtype == CR_FLOAT32 ? (const void *)&one_f32 : (const void *)&one_f64)};
    const struct cr_tensor dw = {.data = db, .batch = 1};
    return cr_conv_sum_weights(&ones, dy, &x, &dw, accumulate);
}

enum cr_status cr_conv_backward_bias(const struct cr_conv *conv, const struct cr_tensor *dy, void *db)
{
    const struct cr_conv ones = of_ones(conv);
    const enum cr_status status = cr_conv_check(&ones);
    return status == CR_OK ? cr_conv_sum_bias(conv, dy, db, 0) : status;
}
