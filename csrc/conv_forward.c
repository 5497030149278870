/* Convolution, forward: y = act(b + w * x). */
#include "conv.h"

enum cr_status cr_conv_forward(const struct cr_conv *conv, const struct cr_tensor *x, const struct cr_tensor *w,
                               const void *b, const struct cr_tensor *y)
{
    enum cr_status status = cr_conv_check(conv);
    if (status != CR_OK) return status;

    struct cr_gather gather = {
        .dtype = conv->dtype,
        .N = conv->N,
        .groups = conv->groups,
        .in_channels = conv->C / conv->groups,
        .out_channels = conv->K / conv->groups,
        .x = x,
        .w = w,
        .y = y,
        .w_group = conv->K / conv->groups * w->batch,
        .bias = b,
        .activation = conv->activation,
    };
    for (int axis = 0; axis < 3; axis++) cr_axis_open(&gather.axis[axis], conv, axis, 0);
    return cr_gather(&gather);
}
