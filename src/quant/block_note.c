/* The sums and the words of a block's line of progress: block_note.h. */
#include "quant/block_note.h"

#include <math.h>
#include <stdio.h>

#include "base/progress.h"

void kq_block_note_factors(kq_block_note *b, const kq_factor_report *factor, bool iterates)
{
    b->linears++;
    if (factor->lack)
        b->lacking++;
    else if (iterates) {
        b->residual = fmax(b->residual, factor->residual);
        b->unconverged += !factor->converged;
    }
}

void kq_block_note_rounded(kq_block_note *b, size_t m, size_t n, double relative_mse, double predicted_loss)
{
    b->weights += (double)m * (double)n;
    b->error += relative_mse * (double)m * (double)n;
    b->predicted_loss += predicted_loss;
}

kq_status kq_block_note_give(kq_block_note *b, size_t layer, const kq_common *common, kq_error *err)
{
    char line[256]; /* %g takes at most 12 characters, seconds some more */
    size_t len = 0;
#define ADD(...) len += (size_t)snprintf(line + len, sizeof line - len, __VA_ARGS__)
    ADD("block %zu: %zu linear%s", layer, b->linears, b->linears == 1 ? "" : "s");
    if (b->weights > 0)
        ADD(", relative error %.3g", b->error / b->weights);
    if (b->weights > 0 && isfinite(b->predicted_loss))
        ADD(", predicted loss %.3g nats/token", b->predicted_loss);
    if (b->residual > 0)
        ADD(", residual at most %.1e", b->residual);
    if (b->unconverged > 0)
        ADD(" (%zu NOT converged)", b->unconverged);
    if (b->lacking > 0)
        ADD(", %zu with identity factors", b->lacking);
    ADD(" [%.1f s]", b->seconds);
#undef ADD
    const bool empty = b->linears == 0;
    *b = (kq_block_note){0};
    return empty ? KQ_OK : kq_progress_note(common, line, err);
}
