/* Convolution, forward: y = act(b + w * x); and with weights prepared for Winograd's algorithm. */
#include "conv.h"

static struct cr_gather gather_of(const struct cr_conv *conv, const struct cr_tensor *x, const struct cr_tensor *w,
                                  const void *b, const struct cr_tensor *y)
{
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
    return gather;
}

enum cr_status cr_conv_forward(const struct cr_conv *conv, const struct cr_tensor *x, const struct cr_tensor *w,
                               const void *b, const struct cr_tensor *y)
{
    const enum cr_status status = cr_conv_check(conv);
    if (status != CR_OK) return status;

    const struct cr_gather gather = gather_of(conv, x, w, b, y);
    return cr_conv_choice(conv) == CR_WINOGRAD ? cr_winograd(&gather, NULL) : cr_gather(&gather);
}

/* In place of the weights where they are not looked at. */
static const struct cr_tensor absent;

static enum cr_status check_prepared(const struct cr_conv *conv)
{
    const enum cr_status status = cr_conv_check(conv);
    if (status == CR_OK && cr_conv_choice(conv) != CR_WINOGRAD)
        return cr_fail(CR_INVALID_ARGUMENT, "weights are prepared for algorithm winograd, but this convolution takes "
                                            "direct");
    return status;
}

enum cr_status cr_conv_prepared_size(const struct cr_conv *conv, int64_t *bytes)
{
    const enum cr_status status = cr_conv_check(conv);
    if (status != CR_OK) return status;

    const struct cr_gather gather = gather_of(conv, NULL, &absent, NULL, NULL);
    const int64_t size = cr_conv_choice(conv) == CR_WINOGRAD ? cr_winograd_prepared_bytes(&gather) : 0;
    if (size < 0) return cr_fail(CR_OVERFLOW, "the size of the prepared weights does not fit 63 bits");
    *bytes = size;
    return CR_OK;
}

enum cr_status cr_conv_prepare(const struct cr_conv *conv, const struct cr_tensor *w, void *prepared)
{
    const enum cr_status status = check_prepared(conv);
    if (status != CR_OK) return status;

    const struct cr_gather gather = gather_of(conv, NULL, w, NULL, NULL);
    return cr_winograd_prepare(&gather, prepared);
}

enum cr_status cr_conv_forward_prepared(const struct cr_conv *conv, const struct cr_tensor *x, const void *prepared,
                                        const void *b, const struct cr_tensor *y)
{
    const enum cr_status status = check_prepared(conv);
    if (status != CR_OK) return status;
    if (!prepared) return cr_fail(CR_INVALID_ARGUMENT, "prepared must not be NULL");

    const struct cr_gather gather = gather_of(conv, x, &absent, b, y);
    return cr_winograd(&gather, prepared);
}
