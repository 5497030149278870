/* A depthwise gather whose pixels lie side by side in x and in y: planes, convolved where they lie
 * (kernels/planes.inc). Backward to data the kernel is turned round, so that sources ascend as in a tile's steps; with a
 * dilation of d every d-th row is a plane of its own. */
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
    int64_t classes, bands;       /* rows that a dilation leaves apart; of each class */
};

/* Rows of less than two fifths of a vector are better copied, if there are channels to fill one: 32 images 5x5 of 256
 * channels take 107 us copied and 148 as planes, 7x7 190 and 196, one of 960 channels 28 and 24. */
int cr_gather_planes_apply(const struct cr_gather *gather)
{
    const struct cr_axis *depth = &gather->axis[0], *height = &gather->axis[1], *width = &gather->axis[2];
    const int64_t lanes = cr_smaller(cr_kernels(gather->dtype)->lanes, gather->groups);

    return 5 * width->targets >= 2 * lanes && gather->in_channels == 1 && gather->out_channels == 1 && gather->x->space[2] == 1 &&
           gather->y->space[2] == 1 && depth->kernel == 1 && depth->stride == 1 && depth->sources == depth->targets &&
           height->kernel == width->kernel && height->kernel % 2 == 1 && height->kernel >= 3 &&
           height->kernel <= CR_PLANE_TAPS && height->stride == 1 && width->stride == 1 &&
           height->mode == CR_PAD_CONSTANT && width->mode == CR_PAD_CONSTANT;
}

/* The least source that target 0 has, in the image or not. */
static int64_t first_source(const struct cr_axis *axis)
{
    return axis->backward ? axis->low - (axis->kernel - 1) * axis->dilation : -axis->low;
}

/* Rows of one class: every d-th row of y from `row` on sees every d-th row of x. */
static struct cr_planes planes_of_class(const struct planes *work, int64_t row)
{
    const struct cr_gather *gather = work->gather;
    const struct cr_axis *height = &gather->axis[1], *width = &gather->axis[2];
    const int64_t d = height->dilation, source = row + first_source(height);
    const int64_t x_first = (source % d + d) % d;
    const int64_t size = work->kernels->size, *x_space = gather->x->space, *y_space = gather->y->space;

    return (struct cr_planes){
        .x = cr_at(gather->x->data, x_first * x_space[1], size),
        .y = cr_at(gather->y->data, row * y_space[1], size),
        .activation = gather->activation,
        .taps = (int)height->kernel,
        .x_plane = gather->x->channel,
        .y_plane = gather->y->channel,
        .x_row = d * x_space[1],
        .y_row = d * y_space[1],
        .rows = cr_ceil_div(height->targets - row, d),
        .x_rows = cr_larger(0, cr_ceil_div(height->sources - x_first, d)),
        .before = (x_first - source) / d,
        .columns = width->targets,
        .x_columns = width->sources,
        .first = first_source(width),
        .step = width->dilation,
    };
}

/* Channels [channel, end) of a slice, a class and a band; of prepared weights those of one panel. */
static void run_channels(const struct planes *work, int64_t slice, int64_t row, int64_t band, int64_t channel,
                         int64_t end)
{
    const struct cr_gather *gather = work->gather;
    const struct cr_tensor *x = gather->x, *w = gather->w, *y = gather->y;
    const int64_t size = work->kernels->size, depth = gather->axis[0].targets;
    struct cr_planes planes = planes_of_class(work, row);
    const int64_t first_row = cr_cut(planes.rows, band, work->bands);

    planes.rows = cr_cut(planes.rows, band + 1, work->bands) - first_row;
    planes.before -= first_row;
    planes.planes = end - channel;
    planes.x = cr_at(planes.x, slice / depth * x->batch + slice % depth * x->space[0] + channel * x->channel, size);
    planes.y = cr_at(planes.y, slice / depth * y->batch + slice % depth * y->space[0] + channel * y->channel +
                                   first_row * planes.y_row, size);
    if (gather->bias) planes.bias = cr_at(gather->bias, channel, size);
    if (work->prepared) {
        const int64_t panel = work->panels.panel_channels;
        planes.w = cr_at(work->prepared, channel / panel * work->panels.panel_next + channel % panel, size);
        planes.w_plane = 1;
        planes.w_tap[1] = work->panels.panel_row;
        planes.w_tap[0] = planes.taps * planes.w_tap[1];
    } else {
        const int sign = gather->axis[1].backward ? -1 : 1;
        const int64_t first_tap = sign < 0 ? (planes.taps - 1) * (w->space[1] + w->space[2]) : 0;
        planes.w = cr_at(w->data, channel * gather->w_group + first_tap, size);
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
        .classes = cr_larger(1, cr_smaller(height->dilation, height->targets)),
    };
    const double pixels = (double)height->targets * (double)width->targets;
    const double planes = (double)work.slices * (double)gather->groups;
    const int parts = cr_parts(4 * planes * pixels * (double)height->kernel * (double)width->kernel);
    const int64_t rows = height->targets / work.classes;
    const int64_t wanted = cr_larger((int64_t)(pixels * (double)work.kernels->size / BAND_BYTES),
                                     planes < 8 * parts ? 8 : 1);

    if (prepared) work.panels = cr_gather_plan_panels(gather);
    work.bands = cr_larger(1, cr_smaller(wanted, rows / BAND_ROWS));
    cr_parallel(parts, run_part, &work);
}
