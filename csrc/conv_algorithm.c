/* Which algorithm a pass takes: by dtype, channels and sizes alone, never by N, so that a row of a batch is what it
 * would be alone. */
#include "conv.h"

int cr_winograd_applies(const struct cr_conv *conv)
{
    return conv->kernel[0] == 1 && conv->kernel[1] == 3 && conv->kernel[2] == 3 && conv->in[0] == 1 &&
           conv->out[0] == 1 && conv->pad_low[0] == 0 && conv->stride[1] == 1 && conv->stride[2] == 1 &&
           conv->dilation[1] == 1 && conv->dilation[2] == 1 && conv->pad_mode == CR_PAD_CONSTANT;
}

/* The form with less to do for one image: multiplications at 36 or 16 points of every tile, and evaluating the weights
 * there, which takes as long as the multiplications of 15 tiles, of 26 (measured at 256 channels, 14x14). That is
 * m = 4 from 11x11 on: below, too little of the tiles is image. */
int64_t cr_winograd_outputs(int64_t height, int64_t width)
{
    const int64_t tiles_2 = cr_ceil_div(height, 2) * cr_ceil_div(width, 2);
    const int64_t tiles_4 = cr_ceil_div(height, 4) * cr_ceil_div(width, 4);
    return 36 * (tiles_4 + 15) <= 16 * (tiles_2 + 26) ? 4 : 2;
}

/* Measured with one image, weights evaluated in the call, in both layouts: m = 4 is 1.1 to 1.5 times as fast as the
 * direct sum at 12x12 and 14x14 from 32 channels on, 1.2 to 1.4 times at 20x20 with 16, and with fewer channels the
 * transforms take what the multiplications save. m = 2 is 1.03 to 1.47 times as fast at 6x6 to 10x10 with 256 and 512
 * channels, as fast at 7x7 with 128, and slower at 10x10 with 1,024, whose U is 67 MB; with prepared weights it is 1.9
 * times as fast. docs/performance.md has the tables. */
static int winograd_pays(const struct cr_conv *conv)
{
    const int64_t height = conv->out[1], width = conv->out[2], C = conv->C / conv->groups, K = conv->K / conv->groups;
    const int64_t channels = cr_smaller(C, K);

    if (cr_winograd_outputs(height, width) == 4)
        return channels >= 32 || (channels >= 16 && height * width >= 400);
    return channels >= 256 && cr_larger(C, K) <= 512 && cr_smaller(height, width) >= 6;
}

/* The gradient of weights has none to evaluate: from 16 channels on, of 16 images, it is 1.2 to 3.1 times as fast as
 * the direct sum from 4x4 on, of one image from 8x8 on, and 0.84 to 0.92 times at 7x7 in channels_last. */
static int winograd_weights_pay(const struct cr_conv *conv)
{
    return cr_smaller(conv->C, conv->K) / conv->groups >= 16 && cr_smaller(conv->out[1], conv->out[2]) >= 7;
}

/* Whoever computes in double precision asks for accuracy. */
static enum cr_algorithm choice(const struct cr_conv *conv, int (*pays)(const struct cr_conv *))
{
    if (conv->algorithm != CR_AUTO) return conv->algorithm;
    return conv->dtype == CR_FLOAT32 && cr_winograd_applies(conv) && pays(conv) ? CR_WINOGRAD : CR_DIRECT;
}

enum cr_algorithm cr_conv_choice(const struct cr_conv *conv) { return choice(conv, winograd_pays); }

enum cr_algorithm cr_conv_weights_choice(const struct cr_conv *conv) { return choice(conv, winograd_weights_pay); }

enum cr_status cr_conv_algorithm(const struct cr_conv *conv, enum cr_algorithm *algorithm)
{
    const enum cr_status status = cr_conv_check(conv);
    if (status == CR_OK) *algorithm = cr_conv_choice(conv);
    return status;
}
