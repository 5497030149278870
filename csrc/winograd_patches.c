/* What Winograd's algorithm multiplies of an image: its patches, evaluated. */
#include "winograd.h"

enum {
    RUN_TILES = 8,     /* tiles */
    RUN_CHANNELS = 64, /* and channels that are transposed at a time */
    LINE = 64          /* bytes of a cache line */
};

void cr_patches_cut(struct cr_patches *patches, int64_t m, int64_t height, int64_t width)
{
    patches->m = m;
    patches->down = cr_ceil_div(height, m);
    patches->across = cr_ceil_div(width, m);
}

/* A plane is a vector longer than it need be: a power of two apart, the points of a vector of channels would share few
 * cache sets. */
int cr_patches_stride(struct cr_patches *patches, int64_t tiles, int64_t channels)
{
    const int64_t lanes = patches->kernels->lanes;
    patches->row = cr_ceil_div(channels, lanes) * lanes;
    return cr_multiply_add(tiles, patches->row, lanes, &patches->plane);
}

/* Pixels of a row of a run of patches. */
static int64_t run_pixels(const struct cr_patches *patches, int64_t run)
{
    return (run - 1) * patches->m + patches->side;
}

int64_t cr_patches_pixels(const struct cr_patches *patches)
{
    return patches->image->channel == 1 ? 0 : patches->side * run_pixels(patches, RUN_TILES) * RUN_CHANNELS;
}

int64_t cr_reserve(const struct cr_kernels *kernels, int64_t elements, int64_t count, int64_t *bytes)
{
    const int64_t start = *bytes;
    if (start < 0 || cr_multiply_add(elements, count * kernels->size, start + LINE - 1, bytes))
        *bytes = -1;
    else
        *bytes -= *bytes % LINE;
    return start;
}

/* Where a patch begins in its image. */
struct corner {
    int64_t image, top, left;
};

static struct corner corner_of(const struct cr_patches *patches, int64_t tile)
{
    return (struct corner){
        .image = tile / (patches->across * patches->down),
        .top = tile / patches->across % patches->down * patches->m - patches->low[1],
        .left = tile % patches->across * patches->m - patches->low[2],
    };
}

/* A part of the image, at hand pixel by pixel: rows from `row` on, columns from `column` on. */
struct view {
    const char *data;
    int64_t row, column, row_step, column_step; /* steps in elements */
};

/* V of one patch: n channels. */
static void evaluate(const struct cr_patches *patches, const struct corner *at, const struct view *view, int64_t n,
                     const void *zeros, void *v)
{
    const int64_t size = patches->kernels->size, side = patches->side;
    const void *source[36];
    const struct cr_evaluation evaluation = {
        .source = source,
        .target = v,
        .rows = 1,
        .n = n,
        .plane = patches->plane,
    };

    for (int64_t i = 0; i < side; i++)
        for (int64_t j = 0; j < side; j++) {
            const int64_t row = at->top + i, column = at->left + j;
            const int inside = row >= 0 && row < patches->extent[1] && column >= 0 && column < patches->extent[2];
            source[i * side + j] = inside ? cr_at(view->data, (row - view->row) * view->row_step +
                                                                  (column - view->column) * view->column_step, size)
                                          : zeros;
        }
    patches->evaluate(&evaluation);
}

/* The pixels that a run of patches of one row reads, with n channels side by side. */
static struct view transposed(const struct cr_patches *patches, const struct corner *at, int64_t run, int64_t channel,
                              int64_t n, void *pixels)
{
    const struct cr_tensor *image = patches->image;
    const int64_t size = patches->kernels->size;
    const int64_t row_end = cr_smaller(at->top + patches->side, patches->extent[1]);
    const int64_t columns = cr_smaller(at->left + run_pixels(patches, run), patches->extent[2]) -
                            cr_larger(at->left, 0);
    const struct view view = {
        .data = pixels,
        .row = cr_larger(at->top, 0),
        .column = cr_larger(at->left, 0),
        .row_step = run_pixels(patches, RUN_TILES) * RUN_CHANNELS,
        .column_step = RUN_CHANNELS,
    };
    const int64_t first = at->image * image->batch + channel * image->channel + view.column * image->space[2];

    for (int64_t row = view.row; row < row_end && columns > 0; row++) {
        const struct cr_panels panel = {
            .data = cr_at(pixels, (row - view.row) * view.row_step, size),
            .width = RUN_CHANNELS,
            .row = RUN_CHANNELS,
            .fold = 1,
        };
        patches->kernels->pack(&panel, cr_at(image->data, first + row * image->space[1], size), columns, n,
                               image->space[2], image->channel);
    }
    return view;
}

/* V of a run of patches of one row. Channels that do not lie side by side are made to. */
static void evaluate_run(const struct cr_patches *patches, int64_t tile, int64_t run, int64_t channel,
                         int64_t channels, const struct cr_stage *stage, void *v)
{
    const struct cr_tensor *image = patches->image;
    const int64_t size = patches->kernels->size, together = image->channel == 1 ? channels : RUN_CHANNELS;
    struct corner at = corner_of(patches, tile);
    const int64_t left = at.left;

    for (int64_t c = 0; c < channels; c += together) {
        const int64_t n = cr_smaller(together, channels - c);
        struct view view = {cr_at(image->data, at.image * image->batch + channel, size), 0, 0, image->space[1],
                            image->space[2]};
        at.left = left;
        if (image->channel != 1) view = transposed(patches, &at, run, channel + c, n, stage->pixels);
        for (int64_t t = 0; t < run; t++, at.left += patches->m)
            evaluate(patches, &at, &view, n, stage->zeros, cr_at(v, t * patches->row + c, size));
    }
}

void cr_patches_evaluate(const struct cr_patches *patches, int64_t tile, int64_t tile_end, int64_t channel,
                         int64_t channels, const struct cr_stage *stage, void *v)
{
    int64_t run;
    for (int64_t t = tile; t < tile_end; t += run) {
        run = cr_smaller(RUN_TILES, cr_smaller(tile_end - t, patches->across - t % patches->across));
        evaluate_run(patches, t, run, channel, channels, stage,
                     cr_at(v, (t - tile) * patches->row, patches->kernels->size));
    }
}
