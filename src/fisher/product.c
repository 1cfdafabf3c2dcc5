/* Products of eq. 2 with samples that arrive in any pieces: begun, fed, ended. Samples are collected to
 * chunks of a fixed size, and a chunk goes through the stages (stages.h) when it is complete, so that the
 * bits of a sum do not depend on how the samples arrived. */
#include "fisher/stages.h"

#include <string.h>

#include "base/f16.h"

/* out [dim, dim] = the sum of the partial sums [splits][ld, ld] over the number of samples, mirrored. */
static void write_mean(const kq_product *p, size_t splits, size_t ld, size_t dim, float *out)
{
    double inverse = 1.0 / (double)p->samples;
#pragma omp parallel for schedule(dynamic, 16) num_threads(p->plan.threads) if (p->plan.threads > 1)
    for (size_t i = 0; i < dim; i++)
        for (size_t j = 0; j <= i; j++) {
            double sum = 0;
            for (size_t s = 0; s < splits; s++)
                sum += p->acc[(s * ld + i) * ld + j];
            out[i * dim + j] = out[j * dim + i] = (float)(sum * inverse);
        }
}

kq_status kq_product_begin(kq_product *p, bool adjoint, kq_middle kind, const float *mid, size_t samples,
                           kq_error *err)
{
    const kq_product_plan *plan = &p->plan;
    const size_t dim = adjoint ? plan->n : plan->m, other = adjoint ? plan->m : plan->n;
    if (plan->panels && kind == KQ_MID_SYMMETRIC)
        return kq_fail(err, KQ_E_ARG, "symmetric middles have no integer products");
    p->adjoint = adjoint;
    p->kind = kind;
    p->mid = mid;
    p->done = p->held = 0;
    p->samples = samples;
    p->flop += kq_product_flop(plan, adjoint, kind, samples);
    if (plan->panels) {
        kq_panels_begin(p);
        return KQ_OK;
    }
    memset(p->acc, 0, kq_split_count(dim, plan->chunk, plan->compute) * dim * dim * sizeof *p->acc);
    if (plan->compute == KQ_BF16 && kind != KQ_MID_IDENTITY)
        kq_f32_to_bf16_n(mid, p->mid16, other * other);
    return KQ_OK;
}

kq_status kq_product_add(kq_product *p, const uint16_t *g, size_t count, kq_error *err)
{
    const size_t sample = p->plan.sample;
    if (count > p->samples - p->done - p->held)
        return kq_fail(err, KQ_E_ARG, "a product of %zu samples is given %zu after %zu", p->samples, count,
                       p->done + p->held);
    while (count) {
        const size_t all = kq_chunk_count(p), taken = kq_min_size(count, all - p->held);
        const uint16_t *chunk = g; /* bf16: where the whole chunk lies once it is complete */
        if (p->plan.panels)
            kq_panels_stage1(p, g, taken);
        else if (p->plan.compute == KQ_F32)
            kq_stage_widen(p, g, taken);
        else if (taken < all) {
            if (!p->plan.pieces)
                return kq_fail(err, KQ_E_ARG, "a product that takes chunks of %zu samples is given %zu", all,
                               taken);
            memcpy((uint16_t *)p->gf + p->held * sample, g, taken * sample * sizeof *g);
            chunk = (const uint16_t *)p->gf;
        }
        p->held += taken;
        g += taken * sample;
        count -= taken;
        if (p->held < all)
            continue;
        kq_status status = KQ_OK;
        if (p->plan.panels)
            kq_panels_stage2(p, all);
        else
            status = kq_stage_chunk(p, chunk, all, err);
        if (status)
            return status;
        p->done += all;
        p->held = 0;
    }
    return KQ_OK;
}

kq_status kq_product_end(kq_product *p, float *out, kq_error *err)
{
    const size_t dim = p->adjoint ? p->plan.n : p->plan.m;
    if (p->done != p->samples)
        return kq_fail(err, KQ_E_ARG, "a product of %zu samples ends after %zu", p->samples,
                       p->done + p->held);
    if (p->plan.panels)
        write_mean(p, kq_panel_splits(dim, p->plan.chunk), kq_panel_count(dim) * KQ_PANEL, dim, out);
    else
        write_mean(p, kq_split_count(dim, p->plan.chunk, p->plan.compute), dim, dim, out);
    return KQ_OK;
}
