/* What the files of cr_gather share: the plan of a call (conv_gather_plan.c), the walk of each of its parts through the
 * images (conv_gather.c), and the tiles of what the walk has reached (conv_gather_tiles.c); or depthwise planes, which
 * have no tiles (conv_gather_planes.c). */
#ifndef CR_CONV_GATHER_H
#define CR_CONV_GATHER_H

#include "conv.h"

/* Three ways to hold a part of y in a tile:
 *
 *     CR_CHANNELS   m pixels x n channels of y, pixels of a row, of a column or of as many images; of few pixels,
 *                   channels of several panels
 *     CR_PIXELS     m channels of y x n pixels of a row, for few channels; a border column, narrower than a vector,
 *                   goes by CR_CHANNELS
 *     CR_DIAGONAL   m pixels x n channels of narrow groups, one of x per channel of y: of a depthwise convolution, or
 *                   of a copy of x that has each channel below all channels of y that read it */
enum cr_orientation { CR_CHANNELS, CR_PIXELS, CR_DIAGONAL };

enum { CR_GATHER_STEPS = 2048 }; /* of a tile, at most */

struct cr_gather_plan {
    const struct cr_gather *gather;
    const struct cr_kernels *kernels;
    void (*tile)(const struct cr_tile *tile);
    enum cr_orientation orientation;
    int packs;                       /* panels of w are packed, */
    int from_panels;                 /* and read; otherwise w is read where it lies */
    const void *prepared;            /* where they lie, */
    int whole;                       /* all of them with all chunks; or else a batch at a time in the workspace */
    int64_t vector_channels;         /* what panels cut up: the channels of a group of y, or all if CR_DIAGONAL */
    int64_t panels_of_group, panels; /* panels: disjoint ranges of the channels of y */
    int64_t panel_channels;
    int64_t taps, tap_chunk, channel_chunk; /* what of a panel is packed at a time */
    int64_t chunks, chunks_together;        /* of all; those packed together, which take turns in each band of rows */
    int64_t panel_row, panel_next;          /* strides of panels, in elements: along (tap, c), and to the next panel */
    int64_t panel_share;                    /* so many lie side by side in one: those of narrow groups */
    int64_t panels_walked;                  /* panels that take turns in each rectangle of y */
    int64_t batch;                          /* panels that are packed together, */
    int across_groups;                      /* of several groups, whose pixels share cache lines */
    int64_t segments;                       /* ranges of columns that an image of y is cut into */
    int64_t rows;                           /* of a segment: depth x height */
    int64_t band;                           /* rows that all panels of a batch go over before the next rows */
    int shares_rows;                        /* parts share out rows, not panels */
    int parts;                              /* threads */
    char *workspace;                        /* [parts] of part_bytes */
    int64_t part_bytes, pairs_offset, panel_offset, stage_offset, result_offset;
    int stages;           /* x is read from a copy */
    int64_t stage_slices; /* the most slices of x, */
    int64_t stage_rows;   /* rows of one, */
    int64_t stage_row;    /* and pixels of one, that a band reads; */
    int64_t stage_images; /* whole images, if it is more than one */
    int spreads;          /* the copy has each channel below every channel of y that reads it */
    int64_t result_rows;  /* y is written to where channels lie side by side, and copied from there, so many rows of a
                           * segment at a time; 0: where it lies */
};

/* Where one part of the work stands. */
struct cr_gather_walk {
    const struct cr_gather_plan *plan;
    struct cr_step *steps;
    char *panels;                     /* where they lie, */
    int64_t first_panel;              /* this one first */
    int64_t walked, walked_end;       /* those that take turns in the rectangle */
    void *panel;                      /* the chunk of the one at work */
    int64_t group, channel, channels; /* it: y's channels [channel, channel + channels) of a group, */
    int64_t batch_channel, batch_end; /* of which the batch has these */
    int64_t tap, tap_end;             /* the chunk: taps [tap, tap_end), */
    int64_t c, c_end;                 /* in-channels [c, c_end) of the group */
    int64_t first_row;                /* of the panels that are packed: so many rows of them all come before it */
    int first_chunk, last_chunk;
    struct cr_tensor x;               /* gather's, or the copy of a part of an image, which begins at */
    int64_t first_image, first[3], first_channel; /* this image, slice, row, column and channel of it */
    int64_t staged_row, staged_end, staged_channels; /* the copy has what these rows read of so many channels */
    char *stage;
    struct cr_tensor y; /* gather's, or a part of it in result, which begins at */
    char *result;
    int64_t out_channel, out_image, out_row, out_column; /* this channel, image, row of it and column */
    int64_t image, image_end;
    struct cr_rectangle rectangle;
    enum cr_orientation orientation; /* of its tiles */
};

/* The plan of a call; parts is 0 if it has nothing to do. prepared: as cr_gather has it. */
CR_HIDDEN struct cr_gather_plan cr_gather_plan(const struct cr_gather *gather, const void *prepared);

/* Of the packing of all panels, as any later call reads them. */
CR_HIDDEN struct cr_gather_plan cr_gather_plan_panels(const struct cr_gather *gather);

/* Opens the plan's workspace, in scratch. */
CR_HIDDEN enum cr_status cr_gather_open_workspace(struct cr_gather_plan *plan, struct cr_scratch *scratch);

/* Rows of a panel, of a tap and an in-channel each, before those of the chunk at work. */
CR_HIDDEN int64_t cr_gather_rows_before(const struct cr_gather_walk *walk);

/* Puts a panel to work, its channels and where its chunk lies. */
CR_HIDDEN void cr_gather_select_panel(struct cr_gather_walk *walk, int64_t panel);

/* conv_gather_planes.c: how the gather of a call is one of planes; it, if it is. */
CR_HIDDEN enum cr_planes_by cr_gather_planes_by(const struct cr_gather *gather);
CR_HIDDEN void cr_gather_planes(const struct cr_gather *gather, enum cr_planes_by by, const void *prepared);

/* All tiles of walk->rectangle, for the chunk of the panels that are walked together. context: the walk. */
CR_HIDDEN void cr_gather_rectangle(void *context);

#endif
