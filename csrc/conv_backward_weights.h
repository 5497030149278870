/* What the files of cr_conv_backward_weights share: the plan of a call (conv_backward_weights_plan.c), what is read and
 * copied of x and dy (conv_backward_weights_operands.c), and the walk of each part through its pixels and the elements
 * of dw (conv_backward_weights.c); or depthwise planes (conv_backward_weights_planes.c). */
#ifndef CR_CONV_BACKWARD_WEIGHTS_H
#define CR_CONV_BACKWARD_WEIGHTS_H

#include "conv.h"

/* Of a dw whose sums are those of segments of the lines, at most. */
enum { CR_WEIGHTS_SEGMENT = 1024 }; /* elements */

struct cr_weights_plan {
    const struct cr_kernels *kernels;
    const struct cr_tensor *dy, *x, *dw, *caller_dw; /* dw: the caller's, or segment_dw */
    struct cr_axis axis[3];
    int accumulate;                   /* dw +=, not = */
    int diagonal, packs_dy, packs_x;
    int stages_x;                     /* x is read from a copy of the rows at work, [row][column][channel], */
    int stages_group;                 /* of all channels of a group, which are rows, or of the panel's, */
    int spreads;                      /* or with each channel below every channel of dy of its group, */
    int64_t stage_rows, stage_columns; /* of so many rows and columns, */
    int64_t stage_pixel;              /* a pixel of so many elements */
    int64_t spread_pixel;             /* before it is spread, if channels do not lie side by side; or 0 */
    int64_t in_channels, out_channels; /* of a group */
    int64_t vector_channels;           /* what panels cut up: of a group, the other channels; if diagonal, all of dy */
    int along_pixels;                 /* vectors run along pixels */
    int exchanged;                    /* rows of the product are channels of dy, its columns those of x */
    int64_t row_channels;             /* of a group, the channels that are rows */
    int64_t w_group;                   /* stride of dw from one group to the next */
    int64_t panel_channels, panels_of_group, panels; /* panels: disjoint ranges of those */
    int64_t batch, panel_elements;    /* panels that are packed together, and how far apart */
    int64_t joined;                   /* taps of a kernel row that are rows of one product: all or one */
    int64_t rows, row_block, blocks;  /* rows of the product, joined * row_channels; of a tile; tiles */
    int even_rows;                    /* the rows of a tile are evenly apart, in A and in dw, past the end of a tap */
    int64_t a_row, dw_row, dw_column; /* how far; and columns, in dw */
    int64_t units, chunk;             /* of a panel, tiles of a group of taps; those walked at a time */
    int64_t tiles;                    /* of all panels, if none were wider than a tile of any number of rows */
    int64_t lines, line_block, width, width_block; /* (image, depth, height) and columns of dy; of a block */
    int64_t line_blocks;              /* of all lines; of them, segments take an equal share each */
    int segments;
    int copies_dw;                    /* if they are more than one, or rows of dw are not evenly apart: */
    struct cr_tensor segment_dw;      /* the sums of the first, and */
    int64_t segment_elements;         /* how far apart they are */
    int parts;                        /* threads */
    char *workspace;                  /* [parts] of part_bytes, and the segments */
    int64_t part_bytes, steps_offset, x_offset, sums_offset, sums_bytes, staged_offset, stage_offset, spread_offset;
    const void *one; /* the number, of the dtype */
};

/* Where one part of the work stands. */
struct cr_weights_walk {
    const struct cr_weights_plan *plan;
    struct cr_step *steps;                      /* of the group of taps at work, [step_count], */
    int64_t step_count, tw, dw_offset;          /* whose first tap of the kernel row is tw, in dw there */
    void *packed_dy, *panel, *packed_x;         /* the batch of panels, the one of them at work, tiles of x */
    void *sums;                                 /* along pixels: [row][columns of a tile], of a tile */
    char *stage, *staged, *spread_row;          /* the copy; which of its rows have been written, a row to be spread; */
    int64_t stage_number;                       /* of the slice and panel or group that it is of, or -1; */
    int64_t stage_row, stage_column;            /* it begins at this row of x, as row_of_x counts, and column */
    int64_t group, channel, channels;          /* the panel: channels [channel, channel + channels) of a group */
    int64_t segment, line, line_end, column, column_end; /* the block of pixels */
    int64_t chunk;                              /* the first unit of the chunk */
    struct cr_step apart;                       /* from each step to the next, if that is even */
    int even;
    int64_t run_column, run_pixels, run_source; /* the first columns of it that tap tw sees, as cr_axis_tap_run says */
};

/* Rows of the product, [row, row_end), and columns of dy, from `column` on; tap `tap` of the row of the kernel sees
 * the first of them at source. */
struct cr_weights_piece {
    int64_t row, row_end, tap, column, pixels, source;
};

/* The panel's first channel of dy. */
static inline int64_t cr_weights_panel_of_dy(const struct cr_weights_walk *walk)
{
    return walk->group * walk->plan->out_channels + walk->channel;
}

/* The panel's first channel of x. */
static inline int64_t cr_weights_panel_of_x(const struct cr_weights_walk *walk)
{
    const struct cr_weights_plan *plan = walk->plan;
    return plan->diagonal ? walk->channel / plan->out_channels * plan->in_channels
                          : walk->group * plan->in_channels + (plan->stages_group ? 0 : walk->channel);
}

/* The plan of a call, without its workspace. dw may point into it: it is not to be copied. */
CR_HIDDEN void cr_weights_plan(struct cr_weights_plan *plan, const struct cr_conv *conv, const struct cr_tensor *dy,
                               const struct cr_tensor *x, const struct cr_tensor *dw, int accumulate);

/* `channels` channels of dy from the panel's first on: the panels of a batch. */
CR_HIDDEN void cr_weights_pack_dy(const struct cr_weights_walk *walk, int64_t channels);

/* The tiles of x in the chunk, each as [pixel][row]: for a kernel of one tap, so that every element has one place. */
CR_HIDDEN void cr_weights_pack_x(const struct cr_weights_walk *walk, int64_t chunk_end);

/* No row of the block of pixels is in the copy, unless it is of what another panel has seen. */
CR_HIDDEN void cr_weights_open_stage(struct cr_weights_walk *walk, int64_t slice);

/* A step for each line of the block in which tap (td, th) meets the image. */
CR_HIDDEN void cr_weights_list_lines(struct cr_weights_walk *walk, int64_t td, int64_t th);

/* conv_backward_weights_planes.c: how dw of a call is one of planes; it, if it is. */
CR_HIDDEN enum cr_planes_by cr_weights_planes_by(const struct cr_conv *conv, const struct cr_tensor *dy,
                                                 const struct cr_tensor *x, const struct cr_tensor *dw);
CR_HIDDEN enum cr_status cr_weights_planes(const struct cr_conv *conv, enum cr_planes_by by,
                                           const struct cr_tensor *dy, const struct cr_tensor *x,
                                           const struct cr_tensor *dw);

#endif
