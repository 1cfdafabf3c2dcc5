/* Sums over the tokens for the rows of embedding and head. A row stands alone, so that one factor of the
 * columns is all there is: of the head's inputs, and of the gradients that reach the embedding.
 *
 * The sums go through the records in their order, each product cut into fixed tiles, so that the number of
 * threads changes no bit. */
#include "sweep/rows.h"

#include <math.h>

#include "base/mem.h"
#include "kern/gemm.h"
#include "sweep/records.h"

size_t kq_sweep_rows_bytes(const kq_sweeper *w)
{
    return 4 * w->cfg->d_model * w->cfg->d_model + 4 * w->s->n_seq * w->s->T;
}

/* H <- H + X^T X for one record X [T, d]; the first one sets H. */
static void add_record(const kq_sweeper *w, const float *X, bool first, float *H)
{
    const size_t d = w->cfg->d_model;
    kq_gemm_f32_tiled(true, false, d, d, w->s->T, 1, X, d, X, d, first ? 0 : 1, H, d, w->threads);
}

static kq_status interrupted(const kq_sweeper *w, kq_error *err)
{
    return kq_sweep_progress(w->s, NULL, 0)
               ? kq_fail(err, KQ_E_INTERRUPTED,
                         "stopped while summing over the tokens of the vocabulary's rows")
               : KQ_OK;
}

/* H of `count` records is complete: divide by their number and hand it out. */
static kq_status give(kq_sweeper *w, const kq_sweep_estimate *e, bool head, float *H, size_t count,
                      kq_error *err)
{
    const size_t d = w->cfg->d_model;
    for (size_t i = 0; i < d * d; i++)
        H[i] /= (float)count;
    for (size_t i = 0; i < d * d; i++)
        if (!isfinite(H[i]))
            return kq_fail(err, KQ_E_NUMERIC, "the factor of the %s's rows is not finite",
                           head ? "head" : "embedding");
    return w->s->rows(e->ctx ? e->ctx : w->s->ctx, head, H, err);
}

kq_status kq_sweep_head_factor(kq_sweeper *w, kq_spill *in, const float *spread, kq_error *err)
{
    const kq_sweep *s = w->s;
    const size_t d = w->cfg->d_model;
    float *H, *X = w->w->x;
    kq_status status = kq_alloc_for((void **)&H, d * d, sizeof *H, "the head's factor", err);
    for (size_t i = 0; i < s->n_estimates && !status; i++) {
        const kq_sweep_estimate *e = &s->estimates[i];
        for (size_t j = 0; j < e->n_seq && !status; j++) {
            const size_t seq = e->seq ? e->seq[j] : j;
            if ((status = interrupted(w, err)) || (status = kq_records_read_input(w, w->w, in, seq, err)))
                break;
            kq_head_norm(w->head, X, s->T, X);
            for (size_t t = 0; t < s->T; t++) {
                const float root = sqrtf(spread[seq * s->T + t]);
                for (size_t c = 0; c < d; c++)
                    X[t * d + c] *= root;
            }
            add_record(w, X, j == 0, H);
        }
        if (!status)
            status = give(w, e, true, H, e->n_seq, err);
    }
    kq_free(H);
    return status;
}

kq_status kq_sweep_embedding_factor(kq_sweeper *w, kq_error *err)
{
    const kq_sweep *s = w->s;
    const size_t d = w->cfg->d_model;
    kq_spill *in = NULL;
    float *H = NULL;
    kq_status status = kq_records_open(w, KQ_REC_GRAD, 0, &in, err);
    if (!status)
        status = kq_alloc_for((void **)&H, d * d, sizeof *H, "the embedding's factor", err);
    for (size_t i = 0; i < s->n_estimates && !status; i++) {
        const kq_sweep_estimate *e = &s->estimates[i];
        const size_t n = kq_sweep_n_records(w, e);
        for (size_t j = 0; j < n && !status; j++) {
            if ((status = interrupted(w, err)) ||
                (status = kq_spill_read(in, kq_sweep_record(w, e, j), w->w->dy, err)))
                break;
            add_record(w, w->w->dy, j == 0, H);
        }
        if (!status)
            status = give(w, e, false, H, n, err);
    }
    kq_spill_close(in);
    kq_free(H);
    return status;
}
