/* Max pooling, forward and backward. Images and channels are shared out between threads: windows overlap along the
 * other axes. */
#include <string.h>

#include "conv.h"

struct plan {
    const struct cr_pool *pool;
    const struct cr_kernels *kernels;
    const struct cr_tensor *x, *y, *dx; /* y is dy, and dx not NULL, in the backward pass */
    struct cr_axis axis[3];
    char *workspace;
    int64_t part_bytes;
};

struct walk {
    const struct plan *plan;
    int64_t image, channel, channel_end;
    struct cr_rectangle rectangle;
};

/* The windows of a rectangle. Vectors run along channels where those lie side by side, else along a row. */
static void run_rectangle(void *context)
{
    const struct walk *walk = context;
    const struct plan *plan = walk->plan;
    const struct cr_rectangle *r = &walk->rectangle;
    const struct cr_tensor *x = plan->x, *y = plan->y, *dx = plan->dx ? plan->dx : plan->x;
    const int64_t size = plan->kernels->size, channels = walk->channel_end - walk->channel;
    const int64_t step_h = plan->axis[1].stride, step_w = plan->axis[2].stride;
    const int by_channel = x->channel == 1;
    struct cr_windows windows = {
        .m = r->count[1],
        .n = by_channel ? channels : r->count[2],
        .x_row = step_h * x->space[1],
        .y_row = y->space[1],
        .dx_row = step_h * dx->space[1],
        .x_column = by_channel ? x->channel : step_w * x->space[2],
        .y_column = by_channel ? y->channel : y->space[2],
        .dx_column = by_channel ? dx->channel : step_w * dx->space[2],
    };
    int64_t from = walk->image * x->batch + walk->channel * x->channel;
    int64_t grad = walk->image * dx->batch + walk->channel * dx->channel;
    int64_t to = walk->image * y->batch + walk->channel * y->channel;
    for (int axis = 0; axis < 3; axis++) {
        windows.box[axis] = r->pair_count[axis];
        windows.x_box[axis] = x->space[axis];
        windows.dx_box[axis] = dx->space[axis];
        from += r->pairs[axis][0].source * x->space[axis];
        grad += r->pairs[axis][0].source * dx->space[axis];
        to += r->target[axis] * y->space[axis];
    }
    for (int64_t i = 0; i < (by_channel ? r->count[2] : channels); i++) {
        windows.x = cr_at(x->data, from + i * (by_channel ? step_w * x->space[2] : x->channel), size);
        windows.y = cr_at(y->data, to + i * (by_channel ? y->space[2] : y->channel), size);
        if (plan->dx) {
            windows.dx = cr_at(dx->data, grad + i * (by_channel ? step_w * dx->space[2] : dx->channel), size);
            plan->kernels->maximum_adjoint(&windows);
        } else
            plan->kernels->maximum(&windows);
    }
}

/* Zeros in channels [channel, channel_end) of an image of dx. */
static void clear(const struct walk *walk)
{
    const struct plan *plan = walk->plan;
    const struct cr_tensor *dx = plan->dx;
    const int64_t *in = plan->pool->in, size = plan->kernels->size;

    for (int64_t d = 0; d < in[0]; d++)
        for (int64_t h = 0; h < in[1]; h++)
            for (int64_t w = 0; w < in[2]; w++) {
                char *pixel = cr_at(dx->data, walk->image * dx->batch + d * dx->space[0] + h * dx->space[1] +
                                                  w * dx->space[2], size);
                for (int64_t c = walk->channel; c < walk->channel_end; c++)
                    memset(cr_at(pixel, c * dx->channel, size), 0, (size_t)size);
            }
}

static void run_part(void *context, int part, int parts)
{
    const struct plan *plan = context;
    const int64_t C = plan->pool->C, units = plan->pool->N * C;
    char *workspace = plan->workspace + part * plan->part_bytes;
    struct walk walk = {.plan = plan};

    for (int axis = 0; axis < 3; axis++) {
        walk.rectangle.pairs[axis] = (struct cr_pair *)(void *)workspace;
        workspace += cr_axis_pairs(&plan->axis[axis]) * (int64_t)sizeof(struct cr_pair);
    }
    for (int64_t unit = cr_cut(units, part, parts), end = cr_cut(units, part + 1, parts); unit < end;) {
        walk.image = unit / C;
        walk.channel = unit % C;
        walk.channel_end = cr_smaller(C, walk.channel + end - unit);
        if (plan->dx) clear(&walk);
        cr_rectangles(plan->axis, 0, plan->axis[0].targets * plan->axis[1].targets, 0, plan->axis[2].targets,
                      &walk.rectangle, run_rectangle, &walk);
        unit += walk.channel_end - walk.channel;
    }
}

static enum cr_status run(const struct cr_pool *pool, const struct cr_tensor *x, const struct cr_tensor *y,
                          const struct cr_tensor *dx)
{
    struct cr_conv conv = {.dtype = pool->dtype, .N = pool->N, .C = pool->C, .K = pool->C, .groups = pool->C};
    struct plan plan = {.pool = pool, .x = x, .y = y, .dx = dx};
    double operations = (double)pool->N * (double)pool->C;
    enum cr_status status;

    for (int axis = 0; axis < 3; axis++) {
        conv.in[axis] = pool->in[axis];
        conv.kernel[axis] = pool->size[axis];
        conv.out[axis] = pool->out[axis];
        conv.stride[axis] = pool->stride[axis];
        conv.dilation[axis] = 1;
        conv.pad_low[axis] = pool->pad_low[axis];
        conv.pad_high[axis] = pool->pad_high[axis];
        if (pool->pad_low[axis] >= pool->size[axis] || pool->pad_high[axis] >= pool->size[axis])
            return cr_fail(CR_INVALID_ARGUMENT, "padding must be smaller than the window, got (%lld, %lld) and %lld",
                           (long long)pool->pad_low[axis], (long long)pool->pad_high[axis],
                           (long long)pool->size[axis]);
        operations *= (double)pool->out[axis] * (double)pool->size[axis];
    }
    if ((status = cr_conv_check(&conv)) != CR_OK) return status;

    plan.kernels = cr_kernels(pool->dtype);
    for (int axis = 0; axis < 3; axis++) {
        cr_axis_open(&plan.axis[axis], &conv, axis, 0);
        if (cr_multiply_add(cr_axis_pairs(&plan.axis[axis]), sizeof(struct cr_pair), plan.part_bytes,
                            &plan.part_bytes))
            return cr_fail(CR_OVERFLOW, "the list of taps does not fit 63 bits");
    }
    const int parts = (int)cr_smaller(cr_parts(operations), cr_larger(1, pool->N * pool->C));
    int64_t bytes;
    if (cr_multiply_add(plan.part_bytes, parts, 0, &bytes)) bytes = INT64_MAX;
    plan.workspace = cr_allocate(bytes);
    if (!plan.workspace) return CR_OUT_OF_MEMORY;
    cr_parallel(parts, run_part, &plan);
    cr_release(plan.workspace);
    return CR_OK;
}

enum cr_status cr_max_pool_forward(const struct cr_pool *pool, const struct cr_tensor *x, const struct cr_tensor *y)
{
    return run(pool, x, y, NULL);
}

enum cr_status cr_max_pool_backward(const struct cr_pool *pool, const struct cr_tensor *dy,
                                    const struct cr_tensor *x, const struct cr_tensor *dx)
{
    return run(pool, x, dy, dx);
}
