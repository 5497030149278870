/* Depthwise convolutions whose pixels of a row lie side by side in x and in y: planes, which are convolved where they
 * lie (kernels/planes.inc). With a dilation of d every d-th row is a plane of its own: a class of rows. */
#include "conv.h"

int cr_planes_apply(const struct cr_kernels *kernels, const struct cr_axis *axis, const struct cr_tensor *x,
                    const struct cr_tensor *y)
{
    const struct cr_axis *depth = &axis[0], *height = &axis[1], *width = &axis[2];

    return (x->space[2] == 1 || width->sources == 1) && y->space[2] == 1 && depth->kernel == 1 && depth->stride == 1 &&
           depth->sources == depth->targets && height->stride == 1 && width->stride == 1 &&
           height->mode == CR_PAD_CONSTANT && width->mode == CR_PAD_CONSTANT && height->kernel == width->kernel &&
           height->kernel % 2 == 1 && height->kernel >= 3 && height->kernel <= kernels->plane_taps;
}

int64_t cr_plane_classes(const struct cr_axis *axis)
{
    return cr_smaller(axis[1].dilation, axis[1].targets);
}

/* The least source of target 0, in the image or not. */
static int64_t first_source(const struct cr_axis *axis)
{
    return axis->backward ? axis->low - (axis->kernel - 1) * axis->dilation : -axis->low;
}

struct cr_planes cr_planes_of_class(const struct cr_kernels *kernels, const struct cr_axis *axis,
                                    const struct cr_tensor *x, const struct cr_tensor *y, int64_t image, int64_t slice,
                                    int64_t row)
{
    const struct cr_axis *height = &axis[1], *width = &axis[2];
    const int64_t d = height->dilation, source = row + first_source(height), x_row = (source % d + d) % d;

    return (struct cr_planes){
        .x = cr_at(x->data, image * x->batch + slice * x->space[0] + x_row * x->space[1], kernels->size),
        .y = cr_at(y->data, image * y->batch + slice * y->space[0] + row * y->space[1], kernels->size),
        .taps = (int)height->kernel,
        .x_plane = x->channel,
        .y_plane = y->channel,
        .x_row = d * x->space[1],
        .y_row = d * y->space[1],
        .rows = cr_ceil_div(height->targets - row, d),
        .x_rows = cr_larger(0, cr_ceil_div(height->sources - x_row, d)),
        .before = (x_row - source) / d,
        .columns = width->targets,
        .x_columns = width->sources,
        .first = first_source(width),
        .step = width->dilation,
    };
}

struct cr_planes cr_planes_of_band(const struct cr_kernels *kernels, struct cr_planes planes, int64_t row, int64_t end)
{
    planes.y = cr_at(planes.y, row * planes.y_row, kernels->size);
    planes.rows = end - row;
    planes.before -= row;
    return planes;
}
