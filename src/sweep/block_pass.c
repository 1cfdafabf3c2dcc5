/* One block and one record. On the way down a block is run again from its stored input: its inner values of
 * all sequences would not fit in memory, and would be far larger on disk than its input. */
#include "sweep/block_pass.h"

#include "base/f16.h"

typedef struct forward_loop {
    kq_sweeper *w;
    kq_block_pass pass;
} forward_loop;

static kq_status forward_item(void *ctx, kq_sweep_worker *k, size_t seq, kq_error *err)
{
    const forward_loop *l = ctx;
    kq_status status = kq_records_read_input(l->w, k, l->pass.in, seq, err);
    if (!status)
        status = kq_block_forward(l->w->mc, &l->pass.block, k->x, l->w->s->T, k->x, k->scratch, 1, err);
    return status ? status : kq_records_write_input(l->w, k, l->pass.out, seq, err);
}

kq_status kq_sweep_forward_block(kq_sweeper *w, size_t layer, kq_error *err)
{
    forward_loop loop = {.w = w};
    kq_block_pass *p = &loop.pass;
    const double L = (double)w->cfg->n_layer;
    kq_status status = kq_records_open(w, KQ_REC_INPUT, layer, &p->in, err);
    if (!status)
        status = kq_records_create(w, KQ_REC_INPUT, layer + 1, &p->out, err);
    if (!status)
        status = kq_block_load(w->mc, w->s->weights, layer, &p->block, err);
    if (!status)
        status = kq_sweep_for_each(w, w->s->n_seq, forward_item, &loop, "forward", (double)layer / L,
                                   (double)(layer + 1) / L, err);
    kq_block_free(&p->block);
    kq_spill_close(p->in);
    return kq_records_finish(p->out, status, err);
}

kq_status kq_sweep_weight_gradient(kq_sweeper *w, kq_sweep_worker *k, kq_linear_id id, const float *X,
                                   const float *G, size_t T, bool accumulate, kq_error *err)
{
    size_t m, n;
    kq_linear_shape(w->cfg, id, &m, &n);
    if (w->s->compute == KQ_F32) {
        kq_gemm_f32(true, false, m, n, T, 1, G, m, X, n, accumulate ? 1 : 0, k->G[id], n);
        return KQ_OK;
    }
    kq_f32_to_bf16_n(X, k->half_x, T * n);
    kq_f32_to_bf16_n(G, k->half_g, T * m);
    return kq_gemm_bf16(true, false, m, n, T, k->half_g, m, k->half_x, n, accumulate, k->G[id], n, err);
}

kq_status kq_sweep_backward_record(kq_sweeper *w, kq_sweep_worker *k, const kq_block_pass *p, size_t r,
                                   const kq_linear_sink *sink, kq_error *err)
{
    kq_status status = kq_records_read_input(w, k, p->in, r % w->s->n_seq, err);
    if (!status)
        status = kq_spill_read(p->dy, r, k->dy, err);
    if (!status)
        status = kq_block_backward(w->mc, &p->block, k->x, k->dy, (kq_rows){1, w->s->T, 1},
                                   p->out ? k->dy : NULL, sink, k->scratch, err);
    return status || !p->out ? status : kq_spill_write(p->out, r, k->dy, err);
}
