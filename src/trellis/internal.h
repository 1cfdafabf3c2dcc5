/* Inside the room: the integer costs of the search, and what the kernels share.
 *
 * Costs. A step with target w (V values) meets state s with
 *     cost(s) = n - r -+ q + base   ~   U |w - c(s)|^2     (a non-negative integer below 2^16 -
 *       KQ_VITERBI_CAP)
 *     n = round(U |c|^2),  base = round(U |w|^2) + 8,  q = mulhrs(C0, A0),  r = mulhrs(C1, A1)  (V = 1:
 *       no q; r from C0, A0)
 *     C = round(c S), A = round(w U 65536 / S),  mulhrs(x, y) = (x y + 2^14) >> 15, as the vector
 *       instruction does.
 * The 8 pays for all roundings, so that no cost is negative. A target longer than W (its length over the
 * V values) is shortened to W before, which keeps every cost in range; U, S and W are set when the
 * trellis is made (choose_units in trellis.c).
 *
 * hyb has two symmetries: c(~s) = c(s), and c(s ^ 2^15) is c(s) with the first value negated (s(s+1) is
 * unchanged by the first in 16 bits, and changes by 2^15 under the second). So four states share n, q
 * and r. With G = 2^(16-R) and g = s mod G, the one that stands for the four has both bit 15 of s and
 * the top bit of g clear; q is rounded for that one and added, not subtracted, where bit 15 differs. */
#ifndef KQ_TRELLIS_INTERNAL_H
#define KQ_TRELLIS_INTERNAL_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/error.h"
#include "trellis/trellis.h"

enum {
    /* path costs are cut off this far above the best (8 to 19 units of squared error, see U): never
     * reached by a winner */
    KQ_VITERBI_CAP = 8191,
    KQ_VITERBI_MAX_STEPS = 256 /* 256 / V */
};

typedef struct kq_step {
    int16_t a[2];
    uint16_t base;
} kq_step;

struct kq_trellis {
    kq_code code;
    kq_isa isa;
    int k, V, R, n_steps, half_window, batch;
    double rms;
    double U, S, W;
    float *value;   /* owned [65536, V] */
    int16_t *entry; /* owned: hyb [512, 4]: n, C0, C1 of the table, 0; else [65536, 2]: n, C */
    /* owned [G, V + 1, 2^R]: n, C.. of the states (j << (16-R)) | g, for the walk back */
    int16_t *trace;
    /* owned: the kernels' order, [vector of targets, j, V + 1, W lanes] (viterbi_template.h); NULL for
     * ref */
    int16_t *lanes;
};

/* Values of one state. */
void kq_code_value(kq_code code, const float (*table)[2], uint32_t state, float *v);

static inline int kq_mulhrs(int x, int y)
{
    return (x * y + (1 << 14)) >> 15;
}

/* n, C0 (, C1) of a state, and for hyb whether q is added (flip = 1). */
static inline const int16_t *kq_state_entry(const kq_trellis *t, uint32_t s, int *flip, int16_t tmp[3])
{
    if (t->code != KQ_HYB) {
        *flip = 0;
        return t->entry + 2 * s;
    }
    uint32_t m = s >> (15 - t->R) & 1 ? ~s & 0xFFFF : s;
    *flip = (int)(m >> 15);
    m &= 0x7FFF;
    uint32_t h = m * (m + 1);
    const int16_t *e = t->entry + 4 * (h >> 6 & 511);
    tmp[0] = e[0];
    tmp[1] = h >> 15 & 1 ? (int16_t)-e[1] : e[1];
    tmp[2] = e[2];
    return tmp;
}

static inline uint32_t kq_state_cost(const kq_trellis *t, const kq_step *w, uint32_t s)
{
    int16_t tmp[3];
    int flip;
    const int16_t *e = kq_state_entry(t, s, &flip, tmp);
    int n = (uint16_t)e[0] + w->base;
    if (t->V == 1)
        return (uint32_t)(n - kq_mulhrs(e[1], w->a[0]));
    int q = kq_mulhrs(e[1], w->a[0]);
    return (uint32_t)(n - kq_mulhrs(e[2], w->a[1]) + (flip ? q : -q));
}

/* The search in plain C, for any L <= 16 and R < L; the truth for the kernels. cost(ctx, t, s) of step t
 * in state s.
 *
 * kq_viterbi_ref_pass: cheapest walk through n steps, step i being step (first + i) mod n_steps of the
 * costs. seam < 0: free at both ends; else the walk starts with s_0 >> R == seam and ends with s_{n-1}
 * mod 2^(L-R) == seam. Path costs are cut off at cap above the best after each step (UINT32_MAX: never).
 * Ties go to the lowest state. states [n] out. scratch: kq_viterbi_ref_scratch(L, R, n) bytes. */
typedef uint32_t (*kq_cost_fn)(const void *ctx, int step, uint32_t state);
size_t kq_viterbi_ref_scratch(int L, int R, int n);
void kq_viterbi_ref_pass(int L, int R, int n, int n_steps, int first, long seam, uint32_t cap,
                         kq_cost_fn cost, const void *ctx, uint16_t *states, void *scratch);
/* Both passes: a free one over the 2 half_window steps around the seam (half_window <= n_steps / 2)
 * fixes it, then the closed one. */
void kq_viterbi_ref(int L, int R, int n_steps, int half_window, uint32_t cap, kq_cost_fn cost,
                    const void *ctx, uint16_t *states, void *scratch);

/* The same for t->batch tiles at most: steps [n_tiles, t->n_steps], states [n_tiles, t->n_steps].
 * Identical states to ref. */
typedef struct kq_viterbi {
    int batch;                                  /* tiles a call */
    size_t (*lanes_count)(const kq_trellis *t); /* int16 values in t->lanes */
    void (*lanes_fill)(const kq_trellis *t, int16_t *lanes);
    size_t (*scratch_bytes)(const kq_trellis *t);
    void (*search)(const kq_trellis *t, const kq_step *steps, int n_tiles, uint16_t *states, void *scratch);
} kq_viterbi;
const kq_viterbi *kq_viterbi_for(kq_isa isa); /* NULL: ref */
extern const kq_viterbi kq_viterbi_avx2, kq_viterbi_avx512;

#endif
