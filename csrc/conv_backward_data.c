/* Convolution, backward to its input: dx = the convolution of dy with the flipped kernel, input and output channels
 * exchanged. With a bias it is the transposed convolution. */
#include "conv.h"

enum cr_status cr_conv_backward_data(const struct cr_conv *conv, const struct cr_tensor *dy,
                                     const struct cr_tensor *w, const void *b, const struct cr_tensor *dx)
{
    enum cr_status status = cr_conv_check(conv);
    if (status != CR_OK || conv->N == 0) return status;

    const struct cr_tensor exchanged = {
        .data = w->data,
        .batch = w->channel,
        .channel = w->batch,
        .space = {w->space[0], w->space[1], w->space[2]},
    };
    struct cr_gather gather = {
        .dtype = conv->dtype,
        .N = conv->N,
        .groups = conv->groups,
        .in_channels = conv->K / conv->groups,
        .out_channels = conv->C / conv->groups,
        .x = dy,
        .w = &exchanged,
        .y = dx,
        .w_group = conv->K / conv->groups * w->batch,
        .bias = b,
    };
    for (int axis = 0; axis < 3 && status == CR_OK; axis++)
        status = cr_axis_open(&gather.axis[axis], conv, axis, 1);
    if (status == CR_OK)
        status = cr_conv_choice(conv) == CR_WINOGRAD ? cr_winograd(&gather, NULL) : cr_gather(&gather, NULL);
    for (int axis = 0; axis < 3; axis++) cr_axis_close(&gather.axis[axis]);
    return status;
}
