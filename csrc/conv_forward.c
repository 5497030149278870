/* Convolution, forward: y = act(b + w * x); and with prepared weights. */
#include <string.h>

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
    return cr_conv_choice(conv) == CR_WINOGRAD ? cr_winograd(&gather, NULL) : cr_gather(&gather, NULL);
}

/* In place of the weights where they are not looked at. */
static const struct cr_tensor absent;

/* What stands before prepared weights and says what they were made for; cache lines, as they are aligned to one. */
struct label {
    int64_t words[16];
};

static struct label label_of(const struct cr_conv *conv)
{
    const struct cr_kernels *kernels = cr_kernels(conv->dtype);
    const int64_t m = cr_conv_choice(conv) == CR_WINOGRAD ? cr_winograd_outputs(conv->out[1], conv->out[2]) : 1;
    return (struct label){{0x6372636f6e767731, conv->dtype, kernels->columns, kernels->lanes, m, conv->groups, conv->C,
                           conv->K, conv->kernel[0], conv->kernel[1], conv->kernel[2]}};
}

enum cr_status cr_conv_prepared_size(const struct cr_conv *conv, int64_t *bytes)
{
    const enum cr_status status = cr_conv_check(conv);
    if (status != CR_OK) return status;

    const struct cr_gather gather = gather_of(conv, NULL, &absent, NULL, NULL);
    const int64_t size = cr_conv_choice(conv) == CR_WINOGRAD ? cr_winograd_prepared_bytes(&gather)
                                                             : cr_gather_prepared_bytes(&gather);
    if (size < 0 || cr_multiply_add(size, 1, sizeof(struct label), bytes))
        return cr_fail(CR_OVERFLOW, "the size of the prepared weights does not fit 63 bits");
    return CR_OK;
}

enum cr_status cr_conv_prepare(const struct cr_conv *conv, const struct cr_tensor *w, void *prepared)
{
    enum cr_status status = cr_conv_check(conv);
    if (status != CR_OK) return status;

    const struct cr_gather gather = gather_of(conv, NULL, w, NULL, NULL);
    const struct label label = label_of(conv);
    void *const weights = (char *)prepared + sizeof label;
    if (cr_conv_choice(conv) == CR_WINOGRAD)
        status = cr_winograd_prepare(&gather, weights);
    else
        cr_gather_prepare(&gather, weights);
    if (status == CR_OK) memcpy(prepared, &label, sizeof label);
    return status;
}

enum cr_status cr_conv_forward_prepared(const struct cr_conv *conv, const struct cr_tensor *x, const void *prepared,
                                        const void *b, const struct cr_tensor *y)
{
    const enum cr_status status = cr_conv_check(conv);
    if (status != CR_OK) return status;
    if (!prepared) return cr_fail(CR_INVALID_ARGUMENT, "prepared must not be NULL");

    const struct cr_gather gather = gather_of(conv, x, &absent, b, y);
    const struct label label = label_of(conv);
    const void *const weights = (const char *)prepared + sizeof label;
    if (memcmp(prepared, &label, sizeof label) != 0)
        return cr_fail(CR_INVALID_ARGUMENT,
                       "the prepared weights are of another convolution, dtype, algorithm, size of image or "
                       "instruction set");
    return cr_conv_choice(conv) == CR_WINOGRAD ? cr_winograd(&gather, weights) : cr_gather(&gather, weights);
}
