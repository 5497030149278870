/* Depthwise convolutions that need no tiles, since what their vectors are of lies side by side in x and in y: pixels of
 * a row, or a few channels of each of them (kernels/planes.inc), or channels (kernels/channels.inc). They are convolved
 * where they lie.
 *
 * With a dilation of d every d-th row is a plane of its own, a class of rows; and every d-th column of channels. */
#include "conv.h"

static int is_plane(const struct cr_axis *depth, const struct cr_axis *height, const struct cr_axis *width)
{
    return depth->kernel == 1 && depth->stride == 1 && depth->sources == depth->targets &&
           height->mode == CR_PAD_CONSTANT && width->mode == CR_PAD_CONSTANT && height->kernel == width->kernel &&
           height->stride == width->stride && height->kernel % 2 == 1 && height->kernel >= 3;
}

/* Backward to data with a stride: rows and columns of x lie apart in y, not the other way round. */
static int is_transposed(const struct cr_axis *axis) { return axis->backward && axis->stride > 1; }

/* Whether pixels of a row, so many, lie a distance apart. */
static int are_apart(const struct cr_tensor *tensor, int64_t pixels, int64_t distance)
{
    return tensor->space[2] == distance || pixels == 1;
}

enum cr_planes_by cr_planes_by(const struct cr_kernels *kernels, const struct cr_axis *axis, int64_t channels,
                               const struct cr_tensor *x, const struct cr_tensor *y)
{
    const struct cr_axis *width = &axis[2];
    const int by_channel = x->channel == 1 && y->channel == 1;
    const int few = channels > 1 && channels <= CR_MIXED && channels < kernels->lanes;

    if (!is_plane(&axis[0], &axis[1], width)) return CR_NO_PLANES;
    if (width->stride == 1 && width->kernel <= kernels->plane_taps) {
        if (are_apart(x, width->sources, 1) && are_apart(y, width->targets, 1)) return CR_PLANES_BY_PIXELS;
        if (by_channel && few && are_apart(x, width->sources, channels) && are_apart(y, width->targets, channels))
            return CR_PLANES_MIXED;
    }
    const int dilated = axis[1].dilation > 1 || width->dilation > 1;
    return by_channel && channels >= kernels->lanes && width->stride <= 2 && width->kernel <= 7 &&
                   !(dilated && is_transposed(width))
               ? CR_PLANES_BY_CHANNELS
               : CR_NO_PLANES;
}

int64_t cr_planes_mixed(enum cr_planes_by by, int64_t channels) { return by == CR_PLANES_MIXED ? channels : 1; }

int64_t cr_plane_classes(const struct cr_axis *axis) { return cr_smaller(axis->dilation, axis->targets); }

/* The class of an axis that begins at a target: how many targets it has, its first source of the image and their
 * number, and where among them the source of the first target and tap would be. */
struct axis_class {
    int64_t targets, source, sources, first;
};

static struct axis_class class_of(const struct cr_axis *axis, int64_t target)
{
    const int64_t d = axis->dilation, low = axis->backward ? (axis->kernel - 1) * d - axis->low : axis->low;
    const int64_t first = axis->stride * target - low, source = (first % d + d) % d;

    return (struct axis_class){
        .targets = cr_ceil_div(axis->targets - target, d),
        .source = source,
        .sources = cr_larger(0, cr_ceil_div(axis->sources - source, d)),
        .first = (first - source) / d,
    };
}

struct cr_planes cr_planes_of_class(const struct cr_kernels *kernels, const struct cr_axis *axis, enum cr_planes_by by,
                                    int64_t channels, const struct cr_tensor *x, const struct cr_tensor *y,
                                    int64_t image, int64_t slice, int64_t row, int64_t column)
{
    const struct axis_class rows = class_of(&axis[1], row), columns = class_of(&axis[2], column);
    const int64_t d = axis[1].dilation, mixed = cr_planes_mixed(by, channels);
    struct cr_planes planes = {
        .x = cr_at(x->data, image * x->batch + slice * x->space[0] + rows.source * x->space[1], kernels->size),
        .y = cr_at(y->data, image * y->batch + slice * y->space[0] + row * y->space[1] + column * y->space[2],
                   kernels->size),
        .taps = (int)axis[1].kernel,
        .stride = (int)axis[1].stride,
        .mixed = (int)mixed,
        .x_plane = x->channel,
        .y_plane = y->channel,
        .x_row = d * x->space[1],
        .y_row = d * y->space[1],
        .rows = rows.targets,
        .x_rows = rows.sources,
        .before = -rows.first,
    };

    if (by != CR_PLANES_BY_CHANNELS) {
        planes.columns = mixed * axis[2].targets;
        planes.x_columns = mixed * axis[2].sources;
        planes.first = mixed * (columns.first * axis[2].dilation + columns.source);
        planes.step = mixed * axis[2].dilation;
    } else {
        planes.x = cr_at(planes.x, columns.source * x->space[2], kernels->size);
        planes.x_column = axis[2].dilation * x->space[2];
        planes.y_column = axis[2].dilation * y->space[2];
        planes.columns = columns.targets;
        planes.x_columns = columns.sources;
        planes.first = columns.first;
    }
    if (is_transposed(&axis[1])) {
        planes.transposed = 1;
        planes.x = cr_at(x->data, image * x->batch + slice * x->space[0], kernels->size);
        planes.x_rows = axis[1].sources;
        planes.x_columns = axis[2].sources;
        planes.before = axis[1].low;
        planes.first = axis[2].low;
    }
    return planes;
}

struct cr_planes cr_planes_of_band(const struct cr_kernels *kernels, struct cr_planes planes, int64_t row, int64_t end)
{
    planes.y = cr_at(planes.y, row * planes.y_row, kernels->size);
    planes.rows = end - row;
    planes.before -= planes.transposed ? -row : planes.stride * row;
    return planes;
}
