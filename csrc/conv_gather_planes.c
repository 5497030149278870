/* A depthwise gather of planes (conv_planes.c). Backward to data the kernel is turned round, so that sources ascend, as
 * in a tile's steps; with a stride of 2 that is left to the transposed convolution. */
#include "conv_gather.h"

/* What planes are cut into: bands of rows that stay in a second-level cache, not so few that those at their ends, which
 * two bands read, matter. */
enum { BAND_BYTES = 1 << 18, BAND_ROWS = 32 };

/* Of a transposed convolution that writes rows a number of pages apart, two at a time: they share sets of a first-level
 * cache. dx of 64 channels 112x112 with a stride of 2 takes 73 us in bands of so many and 104 in one. */
enum { PAGE = 4096, ROWS_PAGES_APART = 16 };

struct planes {
    const struct cr_gather *gather;
    const struct cr_kernels *kernels;
    enum cr_planes_by by;
    const void *prepared;
    struct cr_gather_plan panels; /* where prepared weights lie */
    int64_t slices;               /* of all images */
    int64_t classes[2], bands;    /* of rows, of columns; bands of each class */
    int64_t planes, block;        /* of a slice; channels that a thread has at least; the last ones may be more */
};

/* By pixels, rows of less than two fifths of a vector are better copied, if there are channels to fill one: 32 images
 * 5x5 of 256 channels take 107 us copied and 148 as planes, 7x7 190 and 196, one of 960 channels 28 and 24. */
enum cr_planes_by cr_gather_planes_by(const struct cr_gather *gather)
{
    const struct cr_kernels *kernels = cr_kernels(gather->dtype);
    const int64_t lanes = cr_smaller(kernels->lanes, gather->groups);
    const int depthwise = gather->N > 0 && gather->in_channels == 1 && gather->out_channels == 1;
    const enum cr_planes_by by =
        depthwise ? cr_planes_by(kernels, gather->axis, gather->groups, gather->x, gather->y) : CR_NO_PLANES;

    return by == CR_PLANES_BY_PIXELS && 5 * gather->axis[2].targets < 2 * lanes ? CR_NO_PLANES : by;
}

/* Channels [channel, end) of a slice, a class of rows and columns, and a band. */
static void run_channels(const struct planes *work, int64_t slice, int64_t row, int64_t column, int64_t band,
                         int64_t channel, int64_t end)
{
    const struct cr_gather *gather = work->gather;
    const int64_t size = work->kernels->size, depth = gather->axis[0].targets;
    struct cr_planes planes = cr_planes_of_class(work->kernels, gather->axis, work->by, gather->groups,
                                                 gather->x, gather->y, slice / depth, slice % depth, row, column);

    planes = cr_planes_of_band(work->kernels, planes, cr_cut(planes.rows, band, work->bands),
                               cr_cut(planes.rows, band + 1, work->bands));
    planes.plane = channel;
    planes.plane_end = end;
    planes.bias = gather->bias;
    planes.activation = gather->activation;
    if (work->prepared) {
        planes.w = cr_at(work->prepared, 0, size);
        planes.w_plane = 1;
        planes.w_tap[1] = work->panels.panel_row;
        planes.w_tap[0] = planes.taps * planes.w_tap[1];
        planes.w_panel = work->panels.panel_channels;
        planes.w_next = work->panels.panel_next;
    } else {
        const struct cr_tensor *w = gather->w;
        const int sign = gather->axis[1].backward && !planes.transposed ? -1 : 1;
        const int64_t first = sign < 0 ? (planes.taps - 1) * (w->space[1] + w->space[2]) : 0;
        planes.w = cr_at(w->data, first, size);
        planes.w_plane = gather->w_group;
        planes.w_tap[0] = sign * w->space[1];
        planes.w_tap[1] = sign * w->space[2];
        planes.w_panel = INT64_MAX;
    }
    if (planes.transposed)
        work->kernels->channels_transposed(&planes);
    else
        (work->by == CR_PLANES_BY_CHANNELS ? work->kernels->channels : work->kernels->planes)(&planes);
}

static void run_part(void *context, int part, int parts)
{
    const struct planes *work = context;
    const int64_t blocks = work->planes / work->block, bands = work->bands;
    const int64_t classes = work->classes[0] * work->classes[1], units = work->slices * classes * bands * blocks;
    const int64_t end = cr_cut(units, part + 1, parts);

    for (int64_t unit = cr_cut(units, part, parts), next; unit < end; unit = next) {
        const int64_t block = unit % blocks, rows = unit / blocks, class = rows / bands % classes;
        next = cr_smaller(end, unit + blocks - block);
        const int64_t last = block + next - unit;
        run_channels(work, rows / bands / classes, class / work->classes[1], class % work->classes[1], rows % bands,
                     block * work->block, last == blocks ? work->planes : last * work->block);
    }
}

void cr_gather_planes(const struct cr_gather *gather, enum cr_planes_by by, const void *prepared)
{
    const struct cr_axis *height = &gather->axis[1], *width = &gather->axis[2];
    const int by_channels = by == CR_PLANES_BY_CHANNELS;
    struct planes work = {
        .gather = gather,
        .kernels = cr_kernels(gather->dtype),
        .by = by,
        .prepared = prepared,
        .slices = gather->N * gather->axis[0].targets,
        .classes = {cr_plane_classes(height), by_channels ? cr_plane_classes(width) : 1},
    };
    const double pixels = (double)height->targets * (double)width->targets;
    const int64_t mixed = cr_planes_mixed(by, gather->groups);
    const double planes = (double)work.slices * (double)(gather->groups / mixed);
    /* Of one channel they take four times as long as in a tile: there is a load for each. */
    const int parts = cr_parts(4 * planes * (double)mixed * pixels * (double)height->kernel * (double)width->kernel);
    const int64_t block = by_channels ? work.kernels->lanes : 1;
    const int64_t for_caches = by_channels ? 1 : (int64_t)(pixels * (double)(mixed * work.kernels->size) / BAND_BYTES);
    const int64_t for_threads = parts > 1 && planes < 8 * (double)(parts * block) ? 8 : 1;
    const int64_t row_bytes = gather->y->space[1] * work.kernels->size;

    if (prepared) work.panels = cr_gather_plan_panels(gather);
    work.planes = gather->groups / mixed;
    work.block = block;
    work.bands = cr_larger(1, cr_smaller(cr_larger(for_caches, for_threads),
                                         height->targets / cr_larger(1, work.classes[0]) / BAND_ROWS));
    if (by_channels && height->backward && height->stride > 1 && row_bytes % PAGE == 0)
        work.bands = cr_larger(work.bands, height->targets / ROWS_PAGES_APART);
    cr_parallel(parts, run_part, &work);
}
