/* The C core alone: one image, one kernel, forward and backward.
 *
 *     make -C csrc && cc -Icsrc examples/convolve.c build/c/libconvrnn.a -pthread -o build/convolve && build/convolve
 */
#include <stdio.h>

#include "convrnn.h"

enum { SIDE = 6, TAPS = 3, OUT = SIDE - TAPS + 1 };

static int failed(enum cr_status status)
{
    if (status != CR_OK) fprintf(stderr, "%s: %s\n", cr_status_name(status), cr_error_message());
    return status != CR_OK;
}

int main(void)
{
    float image[SIDE][SIDE], gradient[SIDE][SIDE], y[OUT][OUT], dw[TAPS][TAPS], db[1];
    float sobel[TAPS][TAPS] = {{-1, 0, 1}, {-2, 0, 2}, {-1, 0, 1}};
    for (int h = 0; h < SIDE; h++)
        for (int w = 0; w < SIDE; w++) image[h][w] = w < SIDE / 2 ? 0 : 1; /* an edge down the middle */

    const struct cr_tensor tx = {image, SIDE * SIDE, 1, {0, SIDE, 1}};
    const struct cr_tensor tdx = {gradient, SIDE * SIDE, 1, {0, SIDE, 1}};
    const struct cr_tensor tw = {sobel, TAPS * TAPS, 1, {0, TAPS, 1}};
    const struct cr_tensor tdw = {dw, TAPS * TAPS, 1, {0, TAPS, 1}};
    const struct cr_tensor ty = {y, OUT * OUT, 1, {0, OUT, 1}};
    struct cr_conv conv = {
        .dtype = CR_FLOAT32, .N = 1, .C = 1, .K = 1, .groups = 1,
        .in = {1, SIDE, SIDE}, .kernel = {1, TAPS, TAPS}, .out = {1, OUT, OUT},
        .stride = {1, 1, 1}, .dilation = {1, 1, 1},
    };

    if (failed(cr_conv_forward(&conv, &tx, &tw, NULL, &ty))) return 1;
    for (int h = 0; h < OUT; h++)
        for (int w = 0; w < OUT; w++) printf("%g%c", y[h][w], w + 1 < OUT ? ' ' : '\n');

    /* The gradients of sum(y*y)/2 are those of <y, w * x>. */
    if (failed(cr_conv_backward_data(&conv, &ty, &tw, NULL, &tdx)) ||
        failed(cr_conv_backward_weights(&conv, &ty, &tx, &tdw)) || failed(cr_conv_backward_bias(&conv, &ty, db)))
        return 1;
    printf("dx[2][2] = %g, dw[1][2] = %g, db = %g (%s)\n", gradient[2][2], dw[1][2], db[0], cr_isa());

    conv.groups = 2; /* wrong on purpose */
    if (cr_conv_forward(&conv, &tx, &tw, NULL, &ty) != CR_INVALID_ARGUMENT) return 1;
    printf("%s\n", cr_error_message());
    return 0;
}
