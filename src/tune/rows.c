/* Embedding and head as trained matrices. They are too large for a gradient of all their weights: that of the
 * head is made for some rows at a time from every tile of the loss, and that of the embedding row by row of
 * its input's gradient. Both are summed over the weights of blocks at once. */
#include <omp.h>
#include <string.h>

#include "base/mem.h"
#include "tune/internal.h"

/* Some rows of a matrix whose numbers stand row by row. */
static kq_trained_linear some_rows(const kq_trained_linear *l, size_t row0, size_t rows)
{
    kq_trained_linear part = *l;
    part.What.m = rows;
    if (part.What.f32)
        part.What.f32 += row0 * part.What.n;
    if (part.What.bf16)
        part.What.bf16 += row0 * part.What.n;
    if (part.offsets)
        part.offsets += row0 * (part.What.n / part.scales.group);
    return part;
}

size_t kq_tuned_rows_bytes(const kq_config *cfg, const kq_tuner_options *o, bool embedding)
{
    const kq_trained_linear l = kq_trained_rows_shape(o->student, embedding);
    const size_t n = cfg->vocab_size * cfg->d_model;
    return n * (o->compute == KQ_BF16 ? 2 : 4) + (l.scales.n == 2 ? n / l.scales.group * sizeof(float) : 0);
}

kq_status kq_tuned_rows_new(const kq_tuner_options *o, const kq_head *head, bool embedding, kq_tuned_rows *r,
                            kq_error *err)
{
    const kq_linear W = kq_head_matrix(head, embedding);
    kq_linear *What = &r->l.What;
    const size_t n = W.m * W.n;
    r->o = o;
    r->l = kq_trained_rows_shape(o->student, embedding);
    const kq_trained_linear one = some_rows(&r->l, 0, 1);
    r->per_row = o->trained->count(&one);
    kq_status st = W.bf16 ? kq_alloc_for((void **)&What->bf16, n, sizeof *What->bf16, "embedding", err)
                          : kq_alloc_for((void **)&What->f32, n, sizeof *What->f32, "embedding", err);
    if (st)
        return st;
    if (W.bf16)
        memcpy(What->bf16, W.bf16, n * sizeof *W.bf16);
    else
        memcpy(What->f32, W.f32, n * sizeof *W.f32);
    return kq_trained_offsets(&r->l, err);
}

void kq_tuned_rows_free(kq_tuned_rows *r)
{
    kq_free(r->l.What.f32);
    kq_free(r->l.What.bf16);
    kq_free(r->l.offsets);
    *r = (kq_tuned_rows){0};
}

kq_status kq_tuned_rows_apply(const kq_tuned_rows *r, const kq_kern *kern, const float *theta, kq_linear W,
                              kq_error *err)
{
    enum { PIECE = 256 };
    const size_t n_piece = (W.m + PIECE - 1) / PIECE, threads = (size_t)r->o->threads;
    float *rows;
    kq_status st = kq_alloc_for((void **)&rows, threads * W.n, sizeof *rows, "a row of the embedding", err);
    if (st)
        return st;
#pragma omp parallel for num_threads(r->o->threads)
    for (size_t i = 0; i < n_piece; i++)
        r->o->trained->apply(kern, &r->l, theta, i * PIECE, W.m - i * PIECE < PIECE ? W.m - i * PIECE : PIECE,
                             &W, rows + (size_t)omp_get_thread_num() * W.n);
    kq_free(rows);
    kq_trained_release(&r->l);
    return KQ_OK;
}

kq_status kq_tuned_rows_head_gradient(const kq_tuned_rows *r, const kq_kern *kern, const float *theta,
                                      const kq_head_tile *t, float *Gw, size_t room, float *grad,
                                      kq_error *err)
{
    const size_t vocab = r->l.What.m, d = r->l.What.n, step = room / d;
    for (size_t v = 0; v < vocab; v += step) {
        const size_t rows = vocab - v < step ? vocab - v : step;
        const kq_trained_linear part = some_rows(&r->l, v, rows);
        if (t->Gb) {
            kq_status st =
                kq_gemm_bf16(true, false, rows, d, t->n, t->Gb + v, vocab, t->Xb, d, false, Gw, d, err);
            if (st)
                return st;
        } else {
            kq_gemm_f32(true, false, rows, d, t->n, 1.0f, t->G + v, vocab, t->X, d, 0.0f, Gw, d);
        }
        r->o->trained->gradient(kern, &part, theta + v * r->per_row, Gw, 0, rows, grad + v * r->per_row,
                                NULL);
    }
    return KQ_OK;
}

void kq_tuned_rows_embed_gradient(const kq_tuned_rows *r, const kq_kern *kern, const float *theta,
                                  const int32_t *ids, size_t T, const float *dx, float *grad)
{
    for (size_t t = 0; t < T; t++) {
        const size_t id = (size_t)ids[t];
        const kq_trained_linear part = some_rows(&r->l, id, 1);
        r->o->trained->gradient(kern, &part, theta + id * r->per_row, dx + t * r->l.What.n, 0, 1,
                                grad + id * r->per_row, NULL);
    }
}
