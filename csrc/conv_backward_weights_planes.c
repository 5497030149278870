/* dw of a depthwise convolution of planes (conv_planes.c): by pixels a sum for each lane of a vector, of a band of
 * rows, and the lanes added up at the end; by channels sums of strips, added to dw. Threads share out channels, so
 * their number has no say in the order. */
#include <string.h>

#include "conv_backward_weights.h"

/* Planes that take turns in an image, or channels of a mixed one, whose sums stay in a first-level cache; and rows of a
 * strip, if its cache lines, which have more than one vector of channels, have to stay there. */
enum { CHANNELS = CR_MIXED, STRIP_ROWS = 28, LINE = 64 };

struct work {
    const struct cr_kernels *kernels;
    const struct cr_conv *conv;
    const struct cr_tensor *dy, *x, *dw;
    struct cr_axis axis[3];
    enum cr_planes_by by;
    int64_t planes, block, blocks; /* a part has a block of planes at least; so many take turns in an image */
    char *sums;                    /* [parts] of so many bytes, but for vectors of channels */
    int64_t sums_bytes;
    int64_t band; /* rows that are added up before the next, at most */
};

/* Channels [channel, end) of dw are those at work. */
static void set_channels(const struct work *work, struct cr_planes *planes, int64_t channel, int64_t end, void *sums)
{
    planes->plane = channel;
    planes->plane_end = end;
    planes->sums = sums;
    planes->w = work->dw->data;
    planes->w_plane = work->dw->batch;
    planes->w_tap[0] = work->dw->space[1];
    planes->w_tap[1] = work->dw->space[2];
}

static void set_to_zero(const struct work *work, int64_t channel, int64_t end, void *sums)
{
    const struct cr_tensor *dw = work->dw;
    const int64_t size = work->kernels->size;

    if (work->by != CR_PLANES_BY_CHANNELS) {
        memset(sums, 0, (size_t)work->sums_bytes);
        return;
    }
    for (int64_t h = 0; h < work->conv->kernel[1]; h++)
        for (int64_t k = 0; k < work->conv->kernel[2]; k++)
            memset(cr_at(dw->data, channel + h * dw->space[1] + k * dw->space[2], size), 0,
                   (size_t)((end - channel) * size));
}

/* dw of channels [channel, end). */
static void run_channels(const struct work *work, int64_t channel, int64_t end, void *sums)
{
    const struct cr_kernels *kernels = work->kernels;
    const int by_channels = work->by == CR_PLANES_BY_CHANNELS;
    const int64_t columns = by_channels ? cr_plane_classes(&work->axis[2]) : 1;
    const int64_t classes = cr_plane_classes(&work->axis[1]) * columns;

    set_to_zero(work, channel, end, sums);
    for (int64_t image = 0; image < work->conv->N; image++)
        for (int64_t slice = 0; slice < work->axis[0].targets; slice++)
            for (int64_t class = 0; class < classes; class++) {
                const struct cr_planes rows =
                    cr_planes_of_class(kernels, work->axis, work->by, work->conv->C, work->x, work->dy, image,
                                       slice, class / columns, class % columns);
                const int64_t bands = cr_ceil_div(rows.rows, work->band);
                for (int64_t band = 0; band < bands; band++) {
                    struct cr_planes planes = cr_planes_of_band(kernels, rows, cr_cut(rows.rows, band, bands),
                                                                cr_cut(rows.rows, band + 1, bands));
                    set_channels(work, &planes, channel, end, sums);
                    (by_channels ? kernels->channels_adjoint : kernels->planes_adjoint)(&planes);
                }
            }
    if (!by_channels) {
        const int64_t mixed = cr_planes_mixed(work->by, work->conv->C);
        struct cr_planes weights = {.taps = (int)work->conv->kernel[1], .mixed = (int)mixed};
        set_channels(work, &weights, channel, end, sums);
        kernels->planes_weights(&weights);
    }
}

static void run_part(void *context, int part, int parts)
{
    const struct work *work = context;
    const int64_t blocks = work->planes / work->block;
    const int64_t end = cr_cut(blocks, part + 1, parts);

    for (int64_t block = cr_cut(blocks, part, parts), next; block < end; block = next) {
        next = block + cr_smaller(end - block, work->blocks);
        run_channels(work, block * work->block, next == blocks ? work->planes : next * work->block,
                     work->sums + part * work->sums_bytes);
    }
}

/* By pixels, of rows of half a vector or less the sums of lanes, for each plane, take longer than copies: 960 channels
 * 7x7 33 us and 39, 512 of 14x14 41 and 29. One channel alone is summed by segments, which threads share. */
enum cr_planes_by cr_weights_planes_by(const struct cr_conv *conv, const struct cr_tensor *dy,
                                       const struct cr_tensor *x, const struct cr_tensor *dw)
{
    const struct cr_kernels *kernels = cr_kernels(conv->dtype);
    struct cr_axis axis[3];

    if (conv->groups == 1 || conv->C != conv->groups || conv->K != conv->groups) return CR_NO_PLANES;
    for (int i = 0; i < 3; i++) cr_axis_open(&axis[i], conv, i, 0);
    const enum cr_planes_by by = cr_planes_by(kernels, axis, conv->C, x, dy);
    const int pays = by == CR_PLANES_BY_PIXELS ? 2 * conv->out[2] > cr_smaller(kernels->lanes, conv->groups)
                                               : by == CR_PLANES_MIXED || dw->batch == 1;
    return pays ? by : CR_NO_PLANES;
}

enum cr_status cr_weights_planes(const struct cr_conv *conv, enum cr_planes_by by, const struct cr_tensor *dy,
                                 const struct cr_tensor *x, const struct cr_tensor *dw)
{
    const struct cr_kernels *kernels = cr_kernels(conv->dtype);
    const int by_channels = by == CR_PLANES_BY_CHANNELS;
    struct work work = {.kernels = kernels, .conv = conv, .by = by, .dy = dy, .x = x, .dw = dw};
    struct cr_scratch scratch;

    for (int axis = 0; axis < 3; axis++) cr_axis_open(&work.axis[axis], conv, axis, 0);
    work.planes = conv->C / cr_planes_mixed(by, conv->C);
    work.block = by_channels ? kernels->lanes : 1;
    work.band = by_channels && kernels->lanes * kernels->size < LINE ? STRIP_ROWS : CR_WEIGHTS_PIXELS;
    work.blocks = by_channels ? INT64_MAX : CHANNELS;
    work.sums_bytes = by_channels ? 0 : CHANNELS * conv->kernel[1] * conv->kernel[2] * kernels->lanes * kernels->size;
    const double pixels = (double)work.axis[0].targets * (double)work.axis[1].targets * (double)work.axis[2].targets;
    const double taps = (double)conv->kernel[1] * (double)conv->kernel[2];
    const int parts = (int)cr_smaller(cr_parts(4 * (double)conv->N * pixels * taps * (double)conv->C),
                                      work.planes / work.block);
    work.sums = cr_scratch_open(&scratch, parts * work.sums_bytes);
    if (!work.sums) return CR_OUT_OF_MEMORY;
    cr_parallel(parts, run_part, &work);
    cr_scratch_close(&scratch);
    return CR_OK;
}
