/* Weights prepared for the forward pass: behind a label, the panels of every operand. */
#include <string.h>

#include "recurrent.h"

enum { LINE = 64 };

/* What stands before the panels and says what they were made for; a cache line, as they are best aligned to one. */
struct label {
    int64_t words[LINE / 8];
};

static struct label label_of(const struct cr_recurrence *r)
{
    const struct cr_sequence *s = r->sequence;
    return (struct label){{0x63725f7265637572, s->dtype, r->kernels->columns, r->gates, s->inputs, s->H, s->P}};
}

/* Opens the operands over panels that follow each other from `at` on, packing them if `pack`; without panels, counts
 * their bytes. */
static int64_t lay_out(struct cr_recurrence *r, const char *at, int pack)
{
    int64_t bytes = 0;
    for (int i = 0; i < CR_OPERANDS; i++) {
        const struct cr_block block = cr_recurrent_block(r, i);
        const int64_t first = block.first * block.matrix->row, size = r->kernels->size;
        if (at) {
            const struct cr_matrix matrix = {pack ? cr_at(block.matrix->data, first, size) : NULL,
                                             block.matrix->column, block.matrix->row};
            cr_operand_pack(&r->operand[i], r->kernels, pack ? &matrix : NULL, block.columns, block.rows,
                            cr_at(at, bytes, 1));
        }
        bytes += cr_ceil_div(cr_operand_bytes(r->kernels, block.columns, block.rows), LINE) * LINE;
    }
    return bytes;
}

/* r with what operands depend on. */
static enum cr_status open_cell(struct cr_recurrence *r, enum cr_cell cell, const struct cr_sequence *sequence,
                                const struct cr_weights *weights)
{
    if ((int)cell < CR_RNN || cell > CR_GRU) return cr_fail(CR_INVALID_ARGUMENT, "cell has no meaning: %d", (int)cell);
    *r = cell == CR_RNN    ? cr_rnn_cell(sequence, weights)
         : cell == CR_LSTM ? cr_lstm_cell(sequence, weights)
                           : cr_gru_cell(sequence, weights);
    return cr_recurrent_open(r);
}

enum cr_status cr_recurrent_prepared_size(enum cr_cell cell, const struct cr_sequence *sequence, int64_t *bytes)
{
    const struct cr_weights weights = {0};
    struct cr_recurrence r;
    const enum cr_status status = open_cell(&r, cell, sequence, &weights);
    if (status == CR_OK) *bytes = LINE + lay_out(&r, NULL, 0);
    return status;
}

enum cr_status cr_recurrent_prepare(enum cr_cell cell, const struct cr_sequence *sequence,
                                    const struct cr_weights *weights, void *prepared)
{
    struct cr_recurrence r;
    const enum cr_status status = open_cell(&r, cell, sequence, weights);
    if (status != CR_OK) return status;
    const struct label label = label_of(&r);
    lay_out(&r, (char *)prepared + sizeof label, 1);
    memcpy(prepared, &label, sizeof label);
    return CR_OK;
}

enum cr_status cr_recurrent_open_prepared(struct cr_recurrence *r)
{
    const struct label label = label_of(r);
    if (memcmp(r->weights->prepared, &label, sizeof label) != 0)
        return cr_fail(CR_INVALID_ARGUMENT, "the prepared weights are of another cell, dtype, size or instruction set");
    lay_out(r, (const char *)r->weights->prepared + sizeof label, 0);
    return CR_OK;
}
