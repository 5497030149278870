/* A convolution by Winograd's minimal filtering: F(2x2, 3x3) and F(4x4, 3x3).
 *
 * y is cut into tiles of m x m outputs, m = 2 or 4. A tile reads a patch of (m+2)^2 pixels; evaluated at as many
 * points, the patch and the taps are multiplied point by point, and the tile interpolated from the products
 * (kernels/winograd.inc). At each point the products of many tiles and channels are a matrix product. For a tile and a
 * pair of channels that is a multiplication at each point where the direct sum has nine for each output: 16 instead of
 * 36 for m = 2, 36 instead of 144 for m = 4.
 *
 *     U [panel][chunk][point][c][k]   w evaluated: in every call, or once for many (cr_conv_prepare)
 *     V [point][tile][c]              x evaluated, a block of tiles at a time
 *     M [chunk][point][tile][k]       V U, a panel of out-channels at a time; added up over chunks, then interpolated
 *
 * V, M and what is read of U stay in a second-level cache. In-channels are summed in chunks for accuracy: the transform
 * back magnifies the rounding of long sums. Padding is a patch cell that points at zeros.
 *
 * The terms of an output do not depend on how tiles are cut into blocks: results do not depend on N, nor on threads. */
#include <string.h>

#include "winograd.h"

enum {
    BLOCK_TILES = 32,               /* the most tiles of a block, so that a small image has several, */
    BLOCK_BYTES = 768 * 1024,       /* and of its V, */
    LEAST_TILES = 16,               /* but no fewer tiles than this: each element of U that is loaded serves so many */
    CHUNK_CHANNELS = 128,           /* in-channels of a sum, */
    MOST_CHUNKS = 8,                /* or more, since M grows with the chunks */
    ROUND_BYTES = 12 * 1024 * 1024, /* of U, where it is evaluated before the first product */
    WEIGHT_ROWS = 32                /* in-channels of w that are packed at a time */
};

struct plan {
    const struct cr_gather *gather;
    const struct cr_kernels *kernels;
    int form;                                /* of kernels->winograd_*: m = 2, m = 4 */
    struct cr_patches patches;               /* of x; their strides are those of V */
    int64_t points;                          /* pixels of a patch */
    int64_t first_tap, tap_step[3];          /* of w, that output 0 reads its first pixel with; from tap to tap */
    int64_t tiles;                           /* of all images */
    int64_t blocks, panels_of_group, chunks; /* what tiles, out-channels and in-channels are cut into */
    int64_t m_plane, m_part, u_plane;        /* strides, in elements */
    int64_t panel_elements;                  /* of U */
    const char *u;                           /* NULL: a panel is evaluated when it is needed, by chunks */
    int64_t group, groups, panel, panels;    /* the round: these groups, of each these panels; u is theirs */
    char *workspace;                         /* [parts] of part_bytes */
    int64_t part_bytes, m_offset, u_offset, stage_offset, zeros_offset;
};

/* Where one part of the work stands. */
struct walk {
    const struct plan *plan;
    char *v, *m, *u, *stage;
    int64_t group, tile, tile_end;
};

/* --------------------------------------------------------------------------------------------------- weights ---- */

/* Copies what the taps at source have of n out-channels and some in-channels, the rows, to panels, and points source
 * there. Taps that lie side by side in memory are read together. */
static void pack_taps(const struct plan *plan, int64_t rows, int64_t n, char *stage, const void *source[9])
{
    const struct cr_tensor *tensor = plan->gather->w;
    const int64_t columns = plan->kernels->columns, size = plan->kernels->size, apart = WEIGHT_ROWS * columns;
    const int together = plan->first_tap == 0 && plan->tap_step[2] == 1 && plan->tap_step[1] == 3 &&
                         tensor->channel == 9;
    struct cr_panels panel = {.width = columns, .row = columns, .fold = together ? 9 : 1, .apart = apart};

    for (int64_t tap = 0; tap < 9; tap++) {
        panel.data = cr_at(stage, tap * apart, size);
        if (tap == 0 || !together)
            plan->kernels->pack(&panel, source[tap], rows * panel.fold, n, together ? 1 : tensor->channel,
                                tensor->batch);
        source[tap] = panel.data;
    }
}

/* U of the chunk of a panel: in-channels [c, c_end). stage has room for 9 x WEIGHT_ROWS x columns. */
static void evaluate_weights(const struct plan *plan, int64_t group, int64_t panel, int64_t c, int64_t c_end, char *u,
                             char *stage)
{
    const struct cr_gather *gather = plan->gather;
    const struct cr_kernels *kernels = plan->kernels;
    const struct cr_tensor *w = gather->w;
    const int64_t columns = kernels->columns, size = kernels->size, channel = panel * columns;
    const int packs = w->batch != 1;
    const void *source[9];
    struct cr_evaluation evaluation = {
        .source = source,
        .n = cr_smaller(columns, gather->out_channels - channel),
        .source_row = packs ? columns : w->channel,
        .target_row = columns,
        .plane = plan->u_plane,
    };

    for (int64_t row = c; row < c_end; row += WEIGHT_ROWS) {
        const int64_t first = group * gather->w_group + channel * w->batch + row * w->channel + plan->first_tap;
        evaluation.rows = cr_smaller(WEIGHT_ROWS, c_end - row);
        evaluation.target = cr_at(u, (row - c) * columns, size);
        for (int64_t tap = 0; tap < 9; tap++)
            source[tap] = cr_at(w->data, first + tap / 3 * plan->tap_step[1] + tap % 3 * plan->tap_step[2], size);
        if (packs) pack_taps(plan, evaluation.rows, evaluation.n, stage, source);
        kernels->winograd_weights[plan->form](&evaluation);
    }
}

/* -------------------------------------------------------------------------------------------------- products ---- */

/* M of the block for a chunk, in-channels [c, c_end), of a panel of n out-channels. */
static void multiply(const struct walk *walk, int64_t c, int64_t c_end, int64_t n, const char *u, char *m)
{
    const struct plan *plan = walk->plan;
    const struct cr_kernels *kernels = plan->kernels;
    const int64_t columns = kernels->columns, size = kernels->size, tiles = walk->tile_end - walk->tile;
    const int64_t strips = cr_ceil_div(tiles, kernels->rows);
    const struct cr_step step = {0, 0};
    struct cr_tile tile = {
        .steps = &step,
        .batch = 1,
        .k = c_end - c,
        .a_row = plan->patches.row,
        .a_k = 1,
        .b_k = columns,
        .c_row = columns,
        .c_column = 1,
        .n = (int)n,
    };

    for (int64_t point = 0; point < plan->points; point++) {
        tile.b = cr_at(u, point * plan->u_plane, size);
        for (int64_t strip = 0; strip < strips; strip++) {
            const int64_t start = cr_cut(tiles, strip, strips);
            tile.m = (int)(cr_cut(tiles, strip + 1, strips) - start);
            tile.a = cr_at(walk->v, point * plan->patches.plane + start * plan->patches.row + c, size);
            tile.c = cr_at(m, point * plan->m_plane + start * columns, size);
            kernels->product(&tile);
        }
    }
}

/* The tiles of y, out-channels [channel, channel + n) of the group. */
static void interpolate(const struct walk *walk, int64_t channel, int64_t n)
{
    const struct plan *plan = walk->plan;
    const struct cr_gather *gather = plan->gather;
    const struct cr_tensor *y = gather->y;
    const struct cr_patches *patches = &plan->patches;
    const int64_t size = plan->kernels->size, out_channel = walk->group * gather->out_channels + channel;
    struct cr_interpolation interpolation = {
        .bias = gather->bias ? cr_at(gather->bias, out_channel, size) : NULL,
        .activation = gather->activation,
        .n = n,
        .parts = plan->chunks,
        .plane = plan->m_plane,
        .part_stride = plan->m_part,
        .row = y->space[1],
        .column = y->space[2],
        .channel = y->channel,
    };

    for (int64_t tile = walk->tile; tile < walk->tile_end; tile++) {
        const int64_t image = tile / (patches->across * patches->down);
        const int64_t row = tile / patches->across % patches->down * patches->m;
        const int64_t column = tile % patches->across * patches->m;
        interpolation.source = cr_at(walk->m, (tile - walk->tile) * plan->kernels->columns, size);
        interpolation.target = cr_at(y->data, image * y->batch + out_channel * y->channel + row * y->space[1] +
                                                  column * y->space[2], size);
        interpolation.rows = (int)cr_smaller(patches->m, gather->axis[1].targets - row);
        interpolation.columns = (int)cr_smaller(patches->m, gather->axis[2].targets - column);
        plan->kernels->winograd_output[plan->form](&interpolation);
    }
}

/* The block, as far as it goes, for one panel. */
static void run_panel(const struct walk *walk, int64_t panel)
{
    const struct plan *plan = walk->plan;
    const struct cr_gather *gather = plan->gather;
    const int64_t columns = plan->kernels->columns, size = plan->kernels->size, channel = panel * columns;
    const int64_t n = cr_smaller(columns, gather->out_channels - channel);
    const int64_t at = ((walk->group - plan->group) * plan->panels + panel - plan->panel) * plan->panel_elements;

    for (int64_t chunk = 0; chunk < plan->chunks; chunk++) {
        const int64_t c = cr_cut(gather->in_channels, chunk, plan->chunks);
        const int64_t c_end = cr_cut(gather->in_channels, chunk + 1, plan->chunks);
        const char *u = walk->u;
        if (plan->u)
            u = cr_at(plan->u, at + chunk * plan->points * plan->u_plane, size);
        else
            evaluate_weights(plan, walk->group, panel, c, c_end, walk->u, walk->stage);
        multiply(walk, c, c_end, n, u, cr_at(walk->m, chunk * plan->m_part, size));
    }
    interpolate(walk, channel, n);
}

/* -------------------------------------------------------------------------------------------------- the work ---- */

/* The round. A unit is a panel of a block of a group, in this order, so that a part evaluates few blocks twice. */
static void run_part(void *context, int part, int parts)
{
    const struct plan *plan = context;
    const int64_t units = plan->groups * plan->blocks * plan->panels;
    const int64_t end = cr_cut(units, part + 1, parts);
    char *workspace = plan->workspace + part * plan->part_bytes;
    struct walk walk = {
        .plan = plan,
        .v = workspace,
        .m = workspace + plan->m_offset,
        .u = workspace + plan->u_offset,
        .stage = workspace + plan->stage_offset,
    };
    const struct cr_stage stage = {walk.stage, workspace + plan->zeros_offset};
    int64_t evaluated = -1;

    memset(workspace + plan->zeros_offset, 0, (size_t)(plan->part_bytes - plan->zeros_offset));
    for (int64_t unit = cr_cut(units, part, parts); unit < end; unit++) {
        const int64_t block = unit / plan->panels;
        if (block != evaluated) {
            walk.group = plan->group + block / plan->blocks;
            walk.tile = cr_cut(plan->tiles, block % plan->blocks, plan->blocks);
            walk.tile_end = cr_cut(plan->tiles, block % plan->blocks + 1, plan->blocks);
            cr_patches_evaluate(&plan->patches, walk.tile, walk.tile_end, walk.group * plan->gather->in_channels,
                                plan->gather->in_channels, &stage, walk.v);
            evaluated = block;
        }
        run_panel(&walk, plan->panel + unit % plan->panels);
    }
}

struct preparation {
    const struct plan *plan;
    char *u;
    char *workspace;
    int64_t part_bytes;
};

/* U of the round. A unit is a chunk of a panel of a group. */
static void prepare_part(void *context, int part, int parts)
{
    const struct preparation *preparation = context;
    const struct plan *plan = preparation->plan;
    const int64_t in_channels = plan->gather->in_channels;
    const int64_t units = plan->groups * plan->panels * plan->chunks, end = cr_cut(units, part + 1, parts);

    for (int64_t unit = cr_cut(units, part, parts); unit < end; unit++) {
        const int64_t panel = unit / plan->chunks, chunk = unit % plan->chunks;
        const int64_t c = cr_cut(in_channels, chunk, plan->chunks);
        const int64_t at = panel * plan->panel_elements + chunk * plan->points * plan->u_plane;
        evaluate_weights(plan, plan->group + panel / plan->panels, plan->panel + panel % plan->panels, c,
                         cr_cut(in_channels, chunk + 1, plan->chunks), cr_at(preparation->u, at, plan->kernels->size),
                         preparation->workspace + part * preparation->part_bytes);
    }
}

/* -------------------------------------------------------------------------------------------------- the plan ---- */

static struct plan plan_of(const struct cr_gather *gather)
{
    const struct cr_axis *axis = gather->axis;
    const struct cr_kernels *kernels = cr_kernels(gather->dtype);
    const int64_t m = cr_winograd_outputs(axis[1].targets, axis[2].targets);
    struct plan plan = {
        .gather = gather,
        .kernels = kernels,
        .form = m == 4,
        .patches = {.kernels = kernels,
                    .evaluate = kernels->winograd_input[m == 4],
                    .image = gather->x,
                    .side = m + 2,
                    .extent = {1, axis[1].sources, axis[2].sources}},
        .points = (m + 2) * (m + 2),
        .panels_of_group = cr_ceil_div(gather->out_channels, kernels->columns),
        .groups = gather->groups,
        .chunks = cr_smaller(cr_ceil_div(gather->in_channels, CHUNK_CHANNELS), MOST_CHUNKS),
    };

    /* Backward, target i sees source i + low - tap: from tap 2 on, the first is i - (2 - low). */
    for (int number = 1; number < 3; number++) {
        const int backward = axis[number].backward;
        plan.patches.low[number] = backward ? 2 - axis[number].low : axis[number].low;
        plan.tap_step[number] = backward ? -gather->w->space[number] : gather->w->space[number];
        plan.first_tap += backward ? 2 * gather->w->space[number] : 0;
    }
    plan.panels = plan.panels_of_group;
    /* Here and below a plane is a vector longer than it need be, as it is in V. */
    const int64_t longest_chunk = cr_ceil_div(gather->in_channels, plan.chunks);
    if (cr_multiply_add(longest_chunk, kernels->columns, kernels->lanes, &plan.u_plane) ||
        cr_multiply_add(plan.u_plane, plan.points * plan.chunks, 0, &plan.panel_elements))
        plan.u_plane = plan.panel_elements = INT64_MAX; /* the workspace will be refused */
    cr_patches_cut(&plan.patches, m, axis[1].targets, axis[2].targets);
    plan.tiles = gather->N * plan.patches.down * plan.patches.across;

    const int64_t fitting = BLOCK_BYTES / kernels->size / plan.points / gather->in_channels;
    plan.blocks = cr_ceil_div(plan.tiles, cr_larger(LEAST_TILES, cr_smaller(fitting, BLOCK_TILES)));
    return plan;
}

/* What evaluate_weights needs. */
static int64_t stage_bytes(const struct plan *plan)
{
    return 9 * WEIGHT_ROWS * plan->kernels->columns * plan->kernels->size;
}

/* The workspace of the parts, with room for U of a chunk in each if by_chunks, and then round_bytes: one block, since
 * what is asked for in pieces the C library may hand back to the system, piece by piece, in every call. */
static enum cr_status allocate_workspace(struct plan *plan, int parts, int by_chunks, int64_t round_bytes)
{
    const struct cr_kernels *kernels = plan->kernels;
    const int64_t columns = kernels->columns, block_tiles = cr_ceil_div(plan->tiles, plan->blocks);
    const int64_t pixels = cr_patches_pixels(&plan->patches);
    int64_t bytes = 0;

    if (cr_patches_stride(&plan->patches, block_tiles, plan->gather->in_channels)) bytes = -1;
    plan->m_plane = block_tiles * columns + kernels->lanes;
    plan->m_part = plan->points * plan->m_plane;

    cr_reserve(kernels, plan->patches.plane, plan->points, &bytes);
    plan->m_offset = cr_reserve(kernels, plan->m_part, plan->chunks, &bytes);
    plan->u_offset = cr_reserve(kernels, by_chunks ? plan->u_plane : 0, plan->points, &bytes);
    plan->stage_offset = cr_reserve(kernels, cr_larger(pixels, 9 * WEIGHT_ROWS * columns), 1, &bytes);
    plan->zeros_offset = cr_reserve(kernels, plan->patches.row, 1, &bytes);
    plan->part_bytes = bytes;
    if (bytes < 0 || round_bytes < 0 || cr_multiply_add(bytes, parts, round_bytes, &bytes)) bytes = -1;
    plan->workspace = cr_allocate(bytes);
    return plan->workspace ? CR_OK : CR_OUT_OF_MEMORY;
}

static double elements_of_round(const struct plan *plan)
{
    return (double)plan->groups * (double)plan->panels * (double)plan->panel_elements;
}

/* Bytes of U of the round, or -1. */
static int64_t bytes_of_round(const struct plan *plan)
{
    int64_t bytes;
    if (cr_multiply_add(plan->groups, plan->panels, 0, &bytes) ||
        cr_multiply_add(bytes, plan->panel_elements, 0, &bytes) ||
        cr_multiply_add(bytes, plan->kernels->size, 0, &bytes))
        return -1;
    return bytes;
}

/* U of the round. workspace: as evaluate_weights needs, for as many parts. */
static void prepare(const struct plan *plan, char *u, char *workspace, int parts)
{
    struct preparation preparation = {plan, u, workspace, stage_bytes(plan)};
    cr_parallel(parts, prepare_part, &preparation);
}

int64_t cr_winograd_prepared_bytes(const struct cr_gather *gather)
{
    const struct plan plan = plan_of(gather);
    return bytes_of_round(&plan);
}

enum cr_status cr_winograd_prepare(const struct cr_gather *gather, void *prepared)
{
    const struct plan plan = plan_of(gather);
    const int parts = cr_parts(elements_of_round(&plan));
    char *workspace = cr_allocate(parts * stage_bytes(&plan));

    if (!workspace) return CR_OUT_OF_MEMORY;
    prepare(&plan, prepared, workspace, parts);
    cr_release(workspace);
    return CR_OK;
}

/* Without prepared weights, where panels serve several blocks: the most of groups and panels whose U has room. */
static void cut_rounds(struct plan *plan)
{
    const int64_t room = cr_larger(1, ROUND_BYTES / plan->kernels->size / plan->panel_elements);

    plan->groups = cr_smaller(plan->groups, cr_larger(1, room / plan->panels));
    plan->panels = cr_smaller(plan->panels, room);
}

static void run_rounds(struct plan *plan, char *u, int parts)
{
    const int64_t groups = plan->groups, panels = plan->panels;

    plan->u = u;
    for (; plan->group < plan->gather->groups; plan->group += plan->groups) {
        plan->groups = cr_smaller(groups, plan->gather->groups - plan->group);
        for (plan->panel = 0; plan->panel < plan->panels_of_group; plan->panel += plan->panels) {
            plan->panels = cr_smaller(panels, plan->panels_of_group - plan->panel);
            prepare(plan, u, plan->workspace, parts);
            cr_parallel(parts, run_part, plan);
        }
    }
}

enum cr_status cr_winograd(const struct cr_gather *gather, const void *prepared)
{
    struct plan plan = plan_of(gather);
    const double units = (double)plan.groups * (double)plan.blocks * (double)plan.panels;
    const int wanted = cr_parts((double)plan.tiles * elements_of_round(&plan));
    const int parts = units < wanted ? (int)units : wanted;
    const int in_rounds = !prepared && plan.blocks > 1;

    if (gather->N == 0) return CR_OK;
    plan.u = prepared;
    if (in_rounds) cut_rounds(&plan);

    const enum cr_status status =
        allocate_workspace(&plan, parts, !prepared && !in_rounds, in_rounds ? bytes_of_round(&plan) : 0);
    if (status != CR_OK) return status;
    if (in_rounds)
        run_rounds(&plan, plan.workspace + parts * plan.part_bytes, parts);
    else
        cr_parallel(parts, run_part, &plan);
    cr_release(plan.workspace);
    return CR_OK;
}
