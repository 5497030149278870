/* The products of a recurrent layer: matrices as the B of tiles, packed or where they lie, and rows or columns shared
 * out between threads. */
#include "recurrent.h"

/* Terms of a sum that are added into one accumulator, as in a convolution: longer sums are added up in blocks, so that
 * their rounding error does not grow with k, and a block of a panel stays in a second-level cache. */
enum { DEPTH = 1024 };

int64_t cr_operand_bytes(const struct cr_kernels *kernels, int64_t k, int64_t n)
{
    return cr_ceil_div(n, kernels->columns) * kernels->columns * k * kernels->size; /* fits: cr_recurrent_open */
}

void cr_operand_pack(struct cr_operand *operand, const struct cr_kernels *kernels, const struct cr_matrix *matrix,
                     int64_t k, int64_t n, void *panels)
{
    const int64_t width = kernels->columns;
    *operand = (struct cr_operand){.kernels = kernels, .k = k, .n = n};
    operand->panels = (struct cr_panels){.data = panels, .width = width, .row = width, .next = k * width, .fold = 1};
    if (matrix) kernels->pack(&operand->panels, matrix->data, k, n, matrix->row, matrix->column);
}

enum cr_status cr_operand_open(struct cr_operand *operand, const struct cr_kernels *kernels,
                               const struct cr_matrix *matrix, int64_t k, int64_t n, int64_t rows, int64_t products)
{
    /* A packed matrix is read several times as fast by tiles of many rows: rows of the original that lie a power of two
     * apart share a few cache sets. One row streams the original just as well. Packing costs about four products. */
    const int packs = matrix->column != 1 || (rows > 1 && products * cr_ceil_div(rows, kernels->rows) > 4);
    /* What one row needs once takes turns in the room of one panel, which stays in the first-level cache: LSTM
     * 1,1,256,256 from row-major matrices takes 98 us, not 242; with panels as wide as a tile of one row, 108. */
    const int in_turn = packs && rows == 1 && products == 1;
    const int64_t width = kernels->columns;

    if (!packs) {
        *operand = (struct cr_operand){.kernels = kernels, .k = k, .n = n};
        operand->panels = (struct cr_panels){.data = matrix->data, .width = width, .row = matrix->row, .next = width};
        return CR_OK;
    }
    void *const packed = cr_allocate(in_turn ? k * width * kernels->size : cr_operand_bytes(kernels, k, n));
    if (!packed) return CR_OUT_OF_MEMORY;
    cr_operand_pack(operand, kernels, in_turn ? NULL : matrix, k, n, packed);
    operand->packed = packed;
    if (in_turn) {
        operand->panels.next = 0;
        operand->unpacked = *matrix;
    }
    return CR_OK;
}

void cr_operand_close(struct cr_operand *operand) { cr_release(operand->packed); }

/* Columns [j, j + tile->n) of all rows. */
static void run_columns(const struct cr_product *product, struct cr_tile *tile, int64_t j)
{
    const struct cr_operand *b = product->b;
    const struct cr_kernels *kernels = b->kernels;
    const struct cr_rows *rows = &product->rows;
    const int64_t size = kernels->size, blocks = cr_ceil_div(rows->inner, kernels->rows);
    const int64_t panel = j / b->panels.width * b->panels.next;

    for (int64_t k = 0; k < b->k; k += DEPTH) {
        tile->k = cr_smaller(DEPTH, b->k - k);
        tile->b = cr_at(b->panels.data, panel + k * b->panels.row, size);
        tile->bias_column = product->bias && k + tile->k == b->k ? cr_at(product->bias, j, size) : NULL;
        tile->accumulate = product->accumulate || k > 0;
        for (int64_t i = 0; i < rows->outer; i++)
            for (int64_t block = 0; block < blocks; block++) {
                const int64_t row = cr_cut(rows->inner, block, blocks);
                tile->m = (int)(cr_cut(rows->inner, block + 1, blocks) - row);
                tile->a = cr_at(product->a, i * rows->a_outer + row * rows->a_inner + k * rows->a_k, size);
                tile->c = cr_at(product->c, i * rows->c_outer + row * rows->c_inner + j, size);
                kernels->product(tile);
            }
    }
}

/* Columns of a tile, or of those next to each other that one row goes through at once. */
static int64_t columns_at_once(const struct cr_product *product)
{
    const struct cr_operand *b = product->b;
    return product->rows.inner == 1 && !b->unpacked.data ? b->kernels->row_columns : b->kernels->columns;
}

static void run_part_of_columns(void *context, int part, int parts)
{
    static const struct cr_step step = {0, 0};
    const struct cr_product *product = context;
    const struct cr_operand *b = product->b;
    const struct cr_matrix *unpacked = &b->unpacked;
    const int64_t width = columns_at_once(product), pieces = cr_ceil_div(b->n, width);
    struct cr_tile tile = {
        .steps = &step,
        .batch = 1,
        .a_row = product->rows.a_inner,
        .a_k = product->rows.a_k,
        .b_k = b->panels.row,
        .b_gap = b->panels.next - b->panels.width,
        .c_row = product->rows.c_inner,
        .c_column = 1,
    };
    for (int64_t piece = cr_cut(pieces, part, parts); piece < cr_cut(pieces, part + 1, parts); piece++) {
        const int64_t j = piece * width;
        tile.n = (int)cr_smaller(width, b->n - j);
        if (unpacked->data)
            b->kernels->pack(&b->panels, cr_at(unpacked->data, j * unpacked->column, b->kernels->size), b->k, tile.n,
                             unpacked->row, unpacked->column);
        run_columns(product, &tile, j);
    }
}

static void run_part_of_rows(void *context, int part, int parts)
{
    struct cr_product product = *(const struct cr_product *)context;
    struct cr_rows *rows = &product.rows;
    int64_t *const count = rows->outer > 1 ? &rows->outer : &rows->inner;
    const int64_t start = cr_cut(*count, part, parts), size = product.b->kernels->size;

    product.a = cr_at(product.a, start * (rows->outer > 1 ? rows->a_outer : rows->a_inner), size);
    product.c = cr_at(product.c, start * (rows->outer > 1 ? rows->c_outer : rows->c_inner), size);
    *count = cr_cut(*count, part + 1, parts) - start;
    run_part_of_columns(&product, 0, 1);
}

void cr_product(const struct cr_product *product, int parts)
{
    const int64_t outer = product->rows.outer, inner = product->rows.inner;
    const int64_t most = outer > 1 ? outer : inner;
    cr_parallel((int)cr_smaller(parts, most), run_part_of_rows, (void *)(uintptr_t)product);
}
