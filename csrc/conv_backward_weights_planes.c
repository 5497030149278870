/* dw of a depthwise convolution of planes (conv_planes.c): a sum for each lane of a vector, of a band of rows, and the
 * lanes added up at the end. Threads share out channels, so their number has no say in the order. */
#include <string.h>

#include "conv_backward_weights.h"

/* Channels that take turns in an image, whose sums stay in a first-level cache. */
enum { CHANNELS = 8 };

struct work {
    const struct cr_kernels *kernels;
    const struct cr_conv *conv;
    const struct cr_tensor *dy, *x, *dw;
    struct cr_axis axis[3];
    char *sums; /* [parts] of so many bytes */
    int64_t sums_bytes;
};

/* dw of channels [channel, end). */
static void run_channels(const struct work *work, int64_t channel, int64_t end, void *sums)
{
    const struct cr_kernels *kernels = work->kernels;
    const struct cr_tensor *dw = work->dw;
    struct cr_planes weights = {
        .planes = end - channel,
        .taps = (int)work->axis[1].kernel,
        .sums = sums,
        .w = cr_at(dw->data, channel * dw->batch, kernels->size),
        .w_plane = dw->batch,
        .w_tap = {dw->space[1], dw->space[2]},
    };

    memset(sums, 0, (size_t)work->sums_bytes);
    for (int64_t image = 0; image < work->conv->N; image++)
        for (int64_t slice = 0; slice < work->axis[0].targets; slice++)
            for (int64_t row = 0; row < cr_plane_classes(work->axis); row++) {
                const struct cr_planes rows =
                    cr_planes_of_class(kernels, work->axis, work->x, work->dy, image, slice, row);
                const int64_t bands = cr_ceil_div(rows.rows, CR_WEIGHTS_PIXELS);
                for (int64_t band = 0; band < bands; band++) {
                    struct cr_planes planes = cr_planes_of_band(kernels, rows, cr_cut(rows.rows, band, bands),
                                                                cr_cut(rows.rows, band + 1, bands));
                    planes.planes = weights.planes;
                    planes.sums = sums;
                    planes.x = cr_at(planes.x, channel * planes.x_plane, kernels->size);
                    planes.y = cr_at(planes.y, channel * planes.y_plane, kernels->size);
                    kernels->planes_adjoint(&planes);
                }
            }
    kernels->planes_weights(&weights);
}

static void run_part(void *context, int part, int parts)
{
    const struct work *work = context;
    const int64_t channels = work->conv->C, end = cr_cut(channels, part + 1, parts);

    for (int64_t channel = cr_cut(channels, part, parts), next; channel < end; channel = next) {
        next = cr_smaller(end, channel + CHANNELS);
        run_channels(work, channel, next, work->sums + part * work->sums_bytes);
    }
}

/* Of rows of half a vector or less the sums of lanes, for each plane, take longer than copies: 960 channels 7x7 33 us
 * and 39, 512 of 14x14 41 and 29. One channel alone is summed by segments, which threads share. */
int cr_weights_planes_apply(const struct cr_conv *conv, const struct cr_tensor *dy, const struct cr_tensor *x)
{
    const struct cr_kernels *kernels = cr_kernels(conv->dtype);
    struct cr_axis axis[3];

    if (conv->groups == 1 || conv->C != conv->groups || conv->K != conv->groups) return 0;
    for (int i = 0; i < 3; i++) cr_axis_open(&axis[i], conv, i, 0);
    return 2 * conv->out[2] > cr_smaller(kernels->lanes, conv->groups) && cr_planes_apply(kernels, axis, x, dy);
}

enum cr_status cr_weights_planes(const struct cr_conv *conv, const struct cr_tensor *dy, const struct cr_tensor *x,
                                 const struct cr_tensor *dw)
{
    struct work work = {.kernels = cr_kernels(conv->dtype), .conv = conv, .dy = dy, .x = x, .dw = dw};
    const int64_t vector = work.kernels->lanes * work.kernels->size;
    struct cr_scratch scratch;

    for (int axis = 0; axis < 3; axis++) cr_axis_open(&work.axis[axis], conv, axis, 0);
    const double pixels = (double)work.axis[0].targets * (double)work.axis[1].targets * (double)work.axis[2].targets;
    const double taps = (double)conv->kernel[1] * (double)conv->kernel[2];
    const int parts = (int)cr_smaller(cr_parts(4 * (double)conv->N * pixels * taps * (double)conv->C), conv->C);
    work.sums_bytes = CHANNELS * conv->kernel[1] * conv->kernel[2] * vector;
    work.sums = cr_scratch_open(&scratch, parts * work.sums_bytes);
    if (!work.sums) return CR_OUT_OF_MEMORY;
    cr_parallel(parts, run_part, &work);
    cr_scratch_close(&scratch);
    return CR_OK;
}
