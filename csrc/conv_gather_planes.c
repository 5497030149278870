/* A depthwise gather of planes (conv_planes.c). Backward to data the kernel is turned round, so that sources ascend, as
 * in a tile's steps. */
#include "conv_gather.h"

/* What planes are cut into: bands of rows that stay in a second-level cache, not so few that those at their ends, which
 * two bands read, matter. */
enum { BAND_BYTES = 1 << 18, BAND_ROWS = 32 };

struct planes {
    const struct cr_gather *gather;
    const struct cr_kernels *kernels;
    const void *prepared;
    struct cr_gather_plan panels; /* where prepared weights lie */
    int64_t slices;               /* of all images */
    int64_t classes, bands;       /* of rows; of each class */
};

/* Rows of less than two fifths of a vector are better copied, if there are channels to fill one: 32 images 5x5 of 256
 * channels take 107 us copied and 148 as planes, 7x7 190 and 196, one of 960 channels 28 and 24. */
int cr_gather_planes_apply(const struct cr_gather *gather)
{
    const struct cr_kernels *kernels = cr_kernels(gather->dtype);
    const int64_t lanes = cr_smaller(kernels->lanes, gather->groups);

    return gather->N > 0 && gather->in_channels == 1 && gather->out_channels == 1 &&
           5 * gather->axis[2].targets >= 2 * lanes && cr_planes_apply(kernels, gather->axis, gather->x, gather->y);
}

/* Channels [channel, end) of a slice, a class and a band; of prepared weights those of one panel. */
static void run_channels(const struct planes *work, int64_t slice, int64_t row, int64_t band, int64_t channel,
                         int64_t end)
{
    const struct cr_gather *gather = work->gather;
    const struct cr_tensor *w = gather->w;
    const int64_t size = work->kernels->size, depth = gather->axis[0].targets;
    struct cr_planes planes = cr_planes_of_class(work->kernels, gather->axis, gather->x, gather->y, slice / depth,
                                                 slice % depth, row);

    planes = cr_planes_of_band(work->kernels, planes, cr_cut(planes.rows, band, work->bands),
                               cr_cut(planes.rows, band + 1, work->bands));
    planes.planes = end - channel;
    planes.x = cr_at(planes.x, channel * planes.x_plane, size);
    planes.y = cr_at(planes.y, channel * planes.y_plane, size);
    planes.activation = gather->activation;
    if (gather->bias) planes.bias = cr_at(gather->bias, channel, size);
    if (work->prepared) {
        const int64_t panel = work->panels.panel_channels;
        planes.w = cr_at(work->prepared, channel / panel * work->panels.panel_next + channel % panel, size);
        planes.w_plane = 1;
        planes.w_tap[1] = work->panels.panel_row;
        planes.w_tap[0] = planes.taps * planes.w_tap[1];
    } else {
        const int sign = gather->axis[1].backward ? -1 : 1;
        const int64_t first = sign < 0 ? (planes.taps - 1) * (w->space[1] + w->space[2]) : 0;
        planes.w = cr_at(w->data, channel * gather->w_group + first, size);
        planes.w_plane = gather->w_group;
        planes.w_tap[0] = sign * w->space[1];
        planes.w_tap[1] = sign * w->space[2];
    }
    work->kernels->planes(&planes);
}

static void run_part(void *context, int part, int parts)
{
    const struct planes *work = context;
    const int64_t groups = work->gather->groups, bands = work->bands, classes = work->classes;
    const int64_t panel = work->prepared ? work->panels.panel_channels : groups;
    const int64_t units = work->slices * classes * bands * groups, end = cr_cut(units, part + 1, parts);

    for (int64_t unit = cr_cut(units, part, parts), next; unit < end; unit = next) {
        const int64_t channel = unit % groups, rows = unit / groups;
        const int64_t last = cr_smaller(groups, (channel / panel + 1) * panel);
        next = cr_smaller(end, unit + last - channel);
        run_channels(work, rows / bands / classes, rows / bands % classes, rows % bands, channel,
                     channel + next - unit);
    }
}

void cr_gather_planes(const struct cr_gather *gather, const void *prepared)
{
    const struct cr_axis *height = &gather->axis[1], *width = &gather->axis[2];
    struct planes work = {
        .gather = gather,
        .kernels = cr_kernels(gather->dtype),
        .prepared = prepared,
        .slices = gather->N * gather->axis[0].targets,
        .classes = cr_plane_classes(gather->axis),
    };
    const double pixels = (double)height->targets * (double)width->targets;
    const double planes = (double)work.slices * (double)gather->groups;
    /* Of one channel they take four times as long as in a tile: there is a load for each. */
    const int parts = cr_parts(4 * planes * pixels * (double)height->kernel * (double)width->kernel);
    const int64_t wanted = cr_larger((int64_t)(pixels * (double)work.kernels->size / BAND_BYTES),
                                     planes < 8 * parts ? 8 : 1);

    if (prepared) work.panels = cr_gather_plan_panels(gather);
    work.bands = cr_larger(1, cr_smaller(wanted, height->targets / cr_larger(1, work.classes) / BAND_ROWS));
    cr_parallel(parts, run_part, &work);
}
