/* The products of a recurrent layer: matrices as the B of tiles, packed or where they lie, and rows or columns shared
 * out between threads. */
#include "recurrent.h"

/* Terms of a sum that are added into one accumulator, as in a convolution: longer sums are added up in blocks, so that
 * their rounding error does not grow with k, and a block of a panel stays in a second-level cache. */
enum { DEPTH = 1024 };

/* So many products, or fewer, pack each panel anew: it is written to a cache and read from there, not from memory that
 * is fresh in each call. */
enum { FEW_PRODUCTS = 2 };

/* More products of one row than these pack what a second-level cache holds most of. */
enum { MANY_PRODUCTS = 64, CACHE_BYTES = 2 * 1024 * 1024 };

enum { PAGE = 4096 }; /* bytes */

int64_t cr_operand_bytes(const struct cr_kernels *kernels, int64_t k, int64_t n)
{
    return cr_ceil_div(n, kernels->columns) * kernels->columns * k * kernels->size; /* fits: cr_recurrent_open */
}

struct packing {
    const struct cr_operand *operand;
    const struct cr_matrix *matrix;
};

/* Columns [j, end) of the matrix into panels that begin at data. */
static void pack_columns(const struct cr_operand *operand, const struct cr_matrix *matrix, int64_t j, int64_t end,
                         void *data)
{
    struct cr_panels panels = operand->panels;
    const void *const source = cr_at(matrix->data, j * matrix->column, operand->kernels->size);
    panels.data = data;
    operand->kernels->pack(&panels, source, operand->k, end - j, matrix->row, matrix->column);
}

static void pack_part(void *context, int part, int parts)
{
    const struct packing *packing = context;
    const struct cr_operand *operand = packing->operand;
    const int64_t width = operand->panels.width, panels = cr_ceil_div(operand->n, width);
    const int64_t first = cr_cut(panels, part, parts);

    pack_columns(operand, packing->matrix, first * width,
                 cr_smaller(operand->n, cr_cut(panels, part + 1, parts) * width),
                 cr_at(operand->panels.data, first * operand->panels.next, operand->kernels->size));
}

void cr_operand_pack(struct cr_operand *operand, const struct cr_kernels *kernels, const struct cr_matrix *matrix,
                     int64_t k, int64_t n, void *panels)
{
    const int64_t width = kernels->columns;
    struct packing packing = {operand, matrix};

    *operand = (struct cr_operand){.kernels = kernels, .k = k, .n = n, .column = 1};
    operand->panels = (struct cr_panels){.data = panels, .width = width, .row = width, .next = k * width, .fold = 1};
    if (matrix) cr_parallel(cr_parts((double)k * (double)n), pack_part, &packing);
}

enum cr_status cr_operand_open(struct cr_operand *operand, const struct cr_kernels *kernels,
                               const struct cr_matrix *matrix, int64_t k, int64_t n, int64_t rows, int64_t products,
                               int parts)
{
    /* What one row needs once is read where it lies, along k, too: LSTM 1,1,256,256 from row-major matrices takes
     * 39 us, and 72 with panels that take turns. */
    const int along_k = matrix->column != 1 && matrix->row == 1 && rows == 1 && products == 1;
    /* A packed matrix is read several times as fast by tiles of many rows: rows of the original that lie a power of two
     * apart share a few cache sets. So is it by one row if its rows lie pages apart: LSTM 100,1,256,1024 back through
     * row-major matrices 53 ms, packed 27. Packing costs about four products. Else one row gains a little from panels,
     * in which it skips nothing, if they stay in a cache: RNN 100,1,256,512 0.86 and 0.75 ms, GRU 100,1,256,1024 11.4
     * and 12.1. */
    const int scattered = rows > 1 || matrix->row * kernels->size % PAGE == 0;
    const int many = scattered ? products * cr_ceil_div(rows, kernels->rows) > 4
                               : products > MANY_PRODUCTS && k * n * kernels->size <= CACHE_BYTES;
    const int packs = !along_k && (matrix->column != 1 || many);
    /* What few products need takes turns in the room of one panel, which stays in a cache. */
    const int in_turn = packs && products <= FEW_PRODUCTS;
    const int64_t width = kernels->columns;

    if (!packs) {
        *operand = (struct cr_operand){.kernels = kernels, .k = k, .n = n, .column = matrix->column};
        operand->panels = (struct cr_panels){.data = matrix->data, .width = width, .row = matrix->row,
                                             .next = width * matrix->column};
        return CR_OK;
    }
    void *const packed = cr_allocate(in_turn ? parts * k * width * kernels->size : cr_operand_bytes(kernels, k, n));
    if (!packed) return CR_OUT_OF_MEMORY;
    cr_operand_pack(operand, kernels, in_turn ? NULL : matrix, k, n, packed);
    operand->packed = packed;
    if (in_turn) operand->unpacked = *matrix;
    return CR_OK;
}

void cr_operand_close(struct cr_operand *operand) { cr_release(operand->packed); }

/* Columns [j, j + tile->n) of all rows, from panels at b. Here and in cr_product one row is not cut with divisions: a
 * step of 32 units takes 0.1 us, and six of them a third of that. */
static void run_rows(const struct cr_product *product, struct cr_tile *tile, int64_t j, const void *b)
{
    const struct cr_rows *rows = &product->rows;
    const int64_t depth = product->b->k, size = product->b->kernels->size;
    const int64_t most = cr_rows_of_tile(product->b->kernels, rows->inner, rows->a_inner);
    const int64_t blocks = rows->inner > most ? cr_ceil_div(rows->inner, most) : rows->inner > 0;

    for (int64_t k = 0; k < depth; k += DEPTH) {
        tile->k = cr_smaller(DEPTH, depth - k);
        tile->b = cr_at(b, k * tile->b_k, size);
        tile->bias_column = product->bias && k + tile->k == depth ? cr_at(product->bias, j, size) : NULL;
        tile->accumulate = product->accumulate || k > 0;
        for (int64_t i = 0; i < rows->outer; i++)
            for (int64_t row = 0, left = blocks; left > 0; row += tile->m, left--) {
                tile->m = (int)(left > 1 ? cr_ceil_div(rows->inner - row, left) : rows->inner - row);
                tile->a = cr_at(product->a, i * rows->a_outer + row * rows->a_inner + k * rows->a_k, size);
                tile->c = cr_at(product->c, i * rows->c_outer + row * rows->c_inner + j * rows->c_column, size);
                (product->b->column == 1 ? product->b->kernels->product : product->b->kernels->dots)(tile);
            }
    }
}

void cr_product(const struct cr_product *product, int64_t first, int64_t end, int room)
{
    static const struct cr_step step = {0, 0};
    const struct cr_operand *b = product->b;
    const struct cr_panels *panels = &b->panels;
    const int64_t width = panels->width, size = b->kernels->size;
    const int in_turn = b->unpacked.data != NULL;
    const int64_t most =
        b->column == 1 && !in_turn ? cr_columns(b->kernels, product->rows.inner) : width;
    /* Every member: those that are not named gcc clears with an instruction that takes 30 cycles. */
    struct cr_tile tile = {
        .a = NULL,
        .b = NULL,
        .c = NULL,
        .steps = &step,
        .batch = 1,
        .k = 0,
        .a_row = product->rows.a_inner,
        .a_k = product->rows.a_k,
        .b_k = panels->row,
        .b_n = b->column,
        .b_gap = panels->next - width,
        .c_row = product->rows.c_inner,
        .c_column = product->rows.c_column,
        .m = 0,
        .n = 0,
        .accumulate = 0,
        .activation = CR_IDENTITY,
        .bias_row = NULL,
        .bias_column = NULL,
    };
    int64_t inside = first ? first % width : 0, panel = first ? first / width * panels->next : 0;
    for (int64_t j = first; j < end; j += tile.n, inside += tile.n) {
        for (; inside >= width; inside -= width) panel += panels->next;
        const int64_t at = in_turn ? room * panels->next : panel + inside * b->column;
        void *const columns = cr_at(panels->data, at, size);
        tile.n = (int)cr_smaller(inside ? width - inside : most, end - j);
        if (in_turn) pack_columns(b, &b->unpacked, j, j + tile.n, columns);
        run_rows(product, &tile, j, columns);
    }
}
