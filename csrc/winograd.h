/* What the passes of Winograd's algorithm share: images cut into tiles, evaluated, and where in the workspace. */
#ifndef CR_WINOGRAD_H
#define CR_WINOGRAD_H

#include "conv.h"

/* An image in overlapping patches, one for each tile of m x m outputs, or in the tiles themselves. */
struct cr_patches {
    const struct cr_kernels *kernels;
    void (*evaluate)(const struct cr_evaluation *evaluation); /* of kernels->winograd_* */
    const struct cr_tensor *image;
    int64_t m, side;              /* along an axis, pixels from patch to patch and of a patch */
    int64_t low[3], extent[3];    /* along H, W: patch 0 begins at pixel -low; pixels of the image, all others are 0 */
    int64_t down, across;         /* patches of an image */
    int64_t row, plane;           /* strides of V, in elements */
};

/* Room that evaluating takes. */
struct cr_stage {
    void *pixels;      /* cr_patches_pixels elements */
    const void *zeros; /* as many elements as there are channels */
};

/* The patches of m x m outputs in a result of that height and width. */
CR_HIDDEN void cr_patches_cut(struct cr_patches *patches, int64_t m, int64_t height, int64_t width);

/* The strides of V for as many tiles and channels; nonzero if they do not fit 63 bits. */
CR_HIDDEN int cr_patches_stride(struct cr_patches *patches, int64_t tiles, int64_t channels);

CR_HIDDEN int64_t cr_patches_pixels(const struct cr_patches *patches);

/* V[point*plane + (t - tile)*row + c]: patch t of [tile, tile_end), counted through all images, channel `channel` + c,
 * c < channels, evaluated at the point. c to the next multiple of lanes is written too. */
CR_HIDDEN void cr_patches_evaluate(const struct cr_patches *patches, int64_t tile, int64_t tile_end, int64_t channel,
                                   int64_t channels, const struct cr_stage *stage, void *v);

/* Room in a workspace for `elements`, `count` times, from *bytes on, whole cache lines. Returns where; *bytes becomes
 * -1 where sizes do not fit 63 bits. */
CR_HIDDEN int64_t cr_reserve(const struct cr_kernels *kernels, int64_t elements, int64_t count, int64_t *bytes);

#endif
