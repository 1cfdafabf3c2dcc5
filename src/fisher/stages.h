/* Inside the room: the two stages of a product through BLAS and oneDNN (f32 or bf16), and the stages of a
 * product in block integers. product.c feeds them chunks of samples. */
#ifndef KQ_FISHER_STAGES_H
#define KQ_FISHER_STAGES_H

#include "fisher/tiling.h"

/* ---- through BLAS and oneDNN: stages.c ---- */

/* Stage 0, f32 only: the chunk's next `count` samples g (bf16) into p->gf as f32, after the p->held ones that
 * are there. Whole gradients lie side by side ([m, all n]) when the sums will run along n, one after the
 * other otherwise; factored samples lie with every g_i of the chunk first, then every x_i. */
void kq_stage_widen(kq_product *p, const uint16_t *g, size_t count);
/* Stages 1 and 2 of a whole chunk of count samples, at g (bf16) or in p->gf (f32): its sum is added to
 * p->acc. */
kq_status kq_stage_chunk(kq_product *p, const uint16_t *g, size_t count, kq_error *err);

/* ---- in block integers (panel.h), which cannot fail: panels.c ---- */

/* Clear the sums, pack the triangular middle. */
void kq_panels_begin(kq_product *p);
/* Stage 1 of the chunk's next `count` samples g: quantized and, with a triangular middle, multiplied by it.
 */
void kq_panels_stage1(kq_product *p, const uint16_t *g, size_t count);
/* Stage 2 of the chunk's count samples: their sum is added to p->acc. */
void kq_panels_stage2(kq_product *p, size_t count);

/* Samples of the chunk that the next sample belongs to. */
static inline size_t kq_chunk_count(const kq_product *p)
{
    return kq_min_size(p->plan.chunk, p->samples - p->done);
}

#endif
