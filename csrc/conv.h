/* What the passes of a convolution share: validation, and how the output positions of an axis see the input. */
#ifndef CR_CONV_H
#define CR_CONV_H

#include "kernels.h"
#include "runtime.h"

/* CR_OK, or the words for the first thing that is wrong with conv. */
CR_HIDDEN enum cr_status cr_conv_check(const struct cr_conv *conv);

/* ---------------------------------------------------------------------------------------------------- axis ---- */

/* A convolution is, along each axis, a set of pairs (tap, source) for every target position: the target is the sum
 * over them of kernel[tap] * input[source].
 *
 *     forward        target o of the output: source = o*stride + tap*dilation - low in the image, for every tap
 *     backward_data  target i of the image:  source = (i + low - tap*dilation) / stride in the output, where exact
 *
 * Targets i, i + phases, i + 2*phases, ... are a phase: they use the same taps, and their sources are one apart (the
 * sub-pixel phases of a strided backward pass; the forward pass has one phase, and sources stride apart). */

struct cr_border { /* backward_data under a padding mode: a pair that reads a cell beyond the image */
    int64_t target, tap, source;
};

struct cr_axis {
    int64_t targets, sources; /* extents of the axis in the result and in what is read */
    int64_t kernel, stride, dilation, low;
    int64_t phases;
    int backward;
    enum cr_pad_mode mode;
    struct cr_border *border; /* [border_count], ascending; owned */
    int64_t border_count;
};

/* Axis number `axis` of conv, seen forward or backward. Allocates only for the border. */
CR_HIDDEN enum cr_status cr_axis_open(struct cr_axis *axis, const struct cr_conv *conv, int number, int backward);
CR_HIDDEN void cr_axis_close(struct cr_axis *axis);

struct cr_pair {
    int64_t tap, source;
};

/* The most pairs a target can have. */
CR_HIDDEN int64_t cr_axis_pairs(const struct cr_axis *axis);

/* A run of `count` targets of one phase from `target` on, `phases` apart, not past `end`, that have the same taps:
 * writes the pairs of the first target and returns how many; those of the next target have sources source_step
 * further on. *count is at least 1. */
CR_HIDDEN int64_t cr_axis_run(const struct cr_axis *axis, int64_t target, int64_t end, struct cr_pair *pairs,
                              int64_t *count);
CR_HIDDEN int64_t cr_axis_source_step(const struct cr_axis *axis);

/* All sources that targets [target, end) read lie in [*source, *source_end), without padding mode. May be empty. */
CR_HIDDEN void cr_axis_reach(const struct cr_axis *axis, int64_t target, int64_t end, int64_t *source,
                             int64_t *source_end);

/* The most sources from the first to the last one that `targets` neighbouring targets read; and the most targets that
 * read no more than `sources`, at least 0. */
CR_HIDDEN int64_t cr_axis_sources(const struct cr_axis *axis, int64_t targets);
CR_HIDDEN int64_t cr_axis_targets(const struct cr_axis *axis, int64_t sources);

/* About so many targets of a phase see all their taps and no padding. */
CR_HIDDEN int64_t cr_axis_inside(const struct cr_axis *axis);

/* Forward: the source that target reads with tap, or -1 if it is padding that counts as nothing. */
CR_HIDDEN int64_t cr_axis_source(const struct cr_axis *axis, int64_t target, int64_t tap);

/* Forward: the targets of [*target, end) from the first one on that has a source with this tap, as long as sources
 * are source_step apart: moves *target there and returns their number, 0 if there are none. */
CR_HIDDEN int64_t cr_axis_tap_run(const struct cr_axis *axis, int64_t tap, int64_t *target, int64_t end,
                                  int64_t *source);

/* A rectangle of targets that all have the same taps: targets target[a] + i*phases, i < count[a], along axis a. The
 * pairs are those of its first corner. Along depth it is one target thick. */
struct cr_rectangle {
    int64_t target[3], count[3], pair_count[3];
    struct cr_pair *pairs[3]; /* room for cr_axis_pairs each */
};

/* axis [3]. Visits the rectangles that make up columns [column, column_end) of rows [row, row_end), a row being a
 * (depth, height) pair of targets. */
CR_HIDDEN void cr_rectangles(const struct cr_axis *axis, int64_t row, int64_t row_end, int64_t column,
                             int64_t column_end, struct cr_rectangle *rectangle, void (*visit)(void *context),
                             void *context);

/* ------------------------------------------------------------------------------------------- narrow groups ---- */

/* Whole groups of so many output channels side by side in the columns of a tile; 0 if those of one are too many. */
CR_HIDDEN int64_t cr_groups_of_tile(const struct cr_kernels *kernels, int64_t out_channels);

/* Whether vectors across groups pay, of a copy of x that is spread. */
CR_HIDDEN int cr_groups_are_narrow(const struct cr_kernels *kernels, int64_t groups, int64_t out_channels);

/* -------------------------------------------------------------------------------------------------- gather ---- */

/* y = act(bias + the sum over (tap, source) pairs of w[tap] x[source]): what forward and backward_data are.
 * w.batch is the stride along y's channels, w.channel along x's. */
struct cr_gather {
    enum cr_dtype dtype;
    int64_t N, groups, in_channels, out_channels; /* channels of a group */
    struct cr_axis axis[3];
    const struct cr_tensor *x, *w, *y;
    int64_t w_group; /* stride of w from one group to the next */
    const void *bias;
    enum cr_activation activation;
};

/* prepared: the panels that cr_gather_prepare has written; gather's w is not read then. NULL: w is read in the call. */
CR_HIDDEN enum cr_status cr_gather(const struct cr_gather *gather, const void *prepared);

/* Bytes of prepared weights, -1 where they do not fit 63 bits; the weights. They depend on gather's dtype, groups,
 * channels and kernel, and on the instruction set, alone. */
CR_HIDDEN int64_t cr_gather_prepared_bytes(const struct cr_gather *gather);
CR_HIDDEN void cr_gather_prepare(const struct cr_gather *gather, void *prepared);

/* -------------------------------------------------------------------------------------------------- planes ---- */

/* What lies side by side of a depthwise convolution of planes: pixels of a row, pixels with their few channels, or
 * channels. */
enum cr_planes_by { CR_NO_PLANES, CR_PLANES_BY_PIXELS, CR_PLANES_MIXED, CR_PLANES_BY_CHANNELS };

/* axis [3]. How a depthwise convolution with these axes is one of planes, if it is. */
CR_HIDDEN enum cr_planes_by cr_planes_by(const struct cr_kernels *kernels, const struct cr_axis *axis,
                                         int64_t channels, const struct cr_tensor *x, const struct cr_tensor *y);

/* Channels that are one plane: all, or 1. */
CR_HIDDEN int64_t cr_planes_mixed(enum cr_planes_by by, int64_t channels);

/* Classes of an axis, which a dilation leaves apart. Those of a slice that begin at a row of y, and by channels at a
 * column: the planes of all channels from the first on, without their number, weights, bias and activation. And rows
 * [row, end) of them. */
CR_HIDDEN int64_t cr_plane_classes(const struct cr_axis *axis);
CR_HIDDEN struct cr_planes cr_planes_of_class(const struct cr_kernels *kernels, const struct cr_axis *axis,
                                              enum cr_planes_by by, int64_t channels,
                                              const struct cr_tensor *x, const struct cr_tensor *y, int64_t image,
                                              int64_t slice, int64_t row, int64_t column);
CR_HIDDEN struct cr_planes cr_planes_of_band(const struct cr_kernels *kernels, struct cr_planes planes, int64_t row,
                                             int64_t end);

/* --------------------------------------------------------------------------------- gradients of weights ---- */

/* Pixels of a block, which the gradient of weights adds into one accumulator. */
enum { CR_WEIGHTS_PIXELS = 512 };

/* As cr_conv_backward_weights, by the direct sum, and cr_conv_backward_bias, of a convolution that has passed
 * cr_conv_check. accumulate, for kernels of one tap and one group: added to what is in dw and db. */
CR_HIDDEN enum cr_status cr_conv_sum_weights(const struct cr_conv *conv, const struct cr_tensor *dy,
                                             const struct cr_tensor *x, const struct cr_tensor *dw, int accumulate);
CR_HIDDEN enum cr_status cr_conv_sum_bias(const struct cr_conv *conv, const struct cr_tensor *dy, void *db,
                                          int accumulate);

/* ------------------------------------------------------------------------------------------------ winograd ---- */

/* Whether it can be taken: a 3x3 kernel, and what else convrnn.h says. */
CR_HIDDEN int cr_winograd_applies(const struct cr_conv *conv);

/* CR_DIRECT or CR_WINOGRAD: what conv, which has passed cr_conv_check, asks for, or what CR_AUTO takes, forward and
 * backward to data, and backward to weights. */
CR_HIDDEN enum cr_algorithm cr_conv_choice(const struct cr_conv *conv);
CR_HIDDEN enum cr_algorithm cr_conv_weights_choice(const struct cr_conv *conv);

/* m of F(m x m, 3 x 3), 2 or 4, for a result of that height and width. */
CR_HIDDEN int64_t cr_winograd_outputs(int64_t height, int64_t width);

/* As cr_gather, for a convolution of which cr_conv_choice says CR_WINOGRAD. prepared: what cr_winograd_prepare has
 * written; gather's w is not read then. NULL: w is evaluated in the call. */
CR_HIDDEN enum cr_status cr_winograd(const struct cr_gather *gather, const void *prepared);

/* As cr_conv_backward_weights, for a convolution of which cr_conv_weights_choice says CR_WINOGRAD. */
CR_HIDDEN enum cr_status cr_winograd_weights(const struct cr_conv *conv, const struct cr_tensor *dy,
                                             const struct cr_tensor *x, const struct cr_tensor *dw);

/* Bytes of prepared weights; -1 where they do not fit 63 bits. */
CR_HIDDEN int64_t cr_winograd_prepared_bytes(const struct cr_gather *gather);
CR_HIDDEN enum cr_status cr_winograd_prepare(const struct cr_gather *gather, void *prepared);

/* data + offset elements of size bytes. */
static inline void *cr_at(const void *data, int64_t offset, int64_t size)
{
    return (char *)(uintptr_t)data + offset * size;
}

static inline int64_t cr_smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static inline int64_t cr_larger(int64_t a, int64_t b) { return a > b ? a : b; }

/* Ceiling of a / b for b > 0 and any a. */
static inline int64_t cr_ceil_div(int64_t a, int64_t b) { return a / b + (a % b > 0); }

/* Part `part` of `parts` nearly equal ones of [0, total) goes from cr_cut(total, part, parts) to that of part + 1. */
static inline int64_t cr_cut(int64_t total, int64_t part, int64_t parts)
{
    return total / parts * part + cr_smaller(total % parts, part);
}

#endif
