/* Inside the room: the integer costs of the search (eq. 73), and what its kernels share. The costs are
 * integers, so that every instruction set finds the same walk bit for bit, and 16 bits wide, so that a vector
 * holds as many as possible.
 *
 * Costs of a code of one value a step. A step with target w meets state s with
 *     cost(s) = mulhrs(D, D)   ~   U (w - c(s))^2,
 *     D = C - A cut off at 16 bits,  C = round(c S),  A = round(w S),  U = S^2 / 2^15,
 *     mulhrs(x, y) = (x y + 2^14) >> 15, which is what the vector instruction computes.
 * A cost is an integer from 0 to 2^15. Where D is cut off, the state is so far from the target that no good
 * walk meets it there.
 *
 * Costs of hyb, whose steps have two values and share products (below):
 *     cost(s) = n - r -+ q + base   ~   U |w - c(s)|^2,
 *     n = round(U |c|^2),  base = round(U |w|^2) + 8,
 *     q = mulhrs(C0, A0),  r = mulhrs(C1, A1),
 *     C = round(c S),  A = round(w U 65536 / S).
 * A cost is an integer from 0 to below 2^16 - KQ_VITERBI_CAP. The 8 is more than all roundings together, so
 * that no cost is negative.
 *
 * A target longer than W (its length over the V values) is first shortened to W, which keeps every number in
 * range. U, S and W are set when the trellis is made (choose_units in trellis.c).
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
    /* Path costs are cut off this far above the best (8 to 64 units of squared error, see U), which no winner
     * ever reaches: hyb's above the best after the step, the other codes' above the best before it. */
    KQ_VITERBI_CAP = 8191,
    KQ_VITERBI_CAP_1 = 32767,
    KQ_VITERBI_MAX_STEPS = 256 /* 256 / V */
};

/* The target of one step. */
typedef struct kq_step {
    int16_t a[2];  /* A0, A1 */
    uint16_t base; /* hyb: round(U |w|^2) + 8; else 0 */
} kq_step;

struct kq_trellis {
    kq_code code;
    kq_isa isa;
    int k, V;        /* bits a weight, weights a step */
    int R, n_steps;  /* k V new bits a step; 256 / V steps a tile */
    int half_window; /* half the steps of the first pass */
    int planes;      /* 16-bit numbers a state in entry, trace and lanes: hyb n, C0, C1; else C */
    int batch;       /* tiles that a search takes at a time */
    double rms;      /* of all states' values */
    double U, S, W;  /* the units of the costs, above */
    float *value;    /* owned [65536, V] */
    int16_t *entry;  /* owned: hyb [512, 4]: n, C0, C1 of the table, 0; else [65536]: C */
    /* owned [G, planes, 2^R]: n, C0, C1 or C of the states (j << (16-R)) | g, for the walk back */
    int16_t *trace;
    /* owned: the kernels' order, [vector of targets, j, planes, W lanes] (viterbi_template.h); NULL for
     * ref */
    int16_t *lanes;
};

/* Eq. 71, 72: the values v [V] of one state; table [512][2] is the hyb table. */
void kq_code_value(kq_code code, const float (*table)[2], uint32_t state, float *v);

static inline int kq_mulhrs(int x, int y)
{
    return (x * y + (1 << 14)) >> 15;
}

/* hyb's n, C0 and C1 of a state, or the C of another code; *flip is 1 where hyb's q is added instead of
 * subtracted. tmp: room for a result that is not in the table as it is. */
static inline const int16_t *kq_state_entry(const kq_trellis *t, uint32_t s, int *flip, int16_t tmp[3])
{
    if (t->code != KQ_HYB) {
        *flip = 0;
        return t->entry + s;
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

/* The cost of meeting the target w in state s. */
static inline uint32_t kq_state_cost(const kq_trellis *t, const kq_step *w, uint32_t s)
{
    int16_t tmp[3];
    int flip;
    const int16_t *e = kq_state_entry(t, s, &flip, tmp);
    if (t->V == 1) {
        int d = e[0] - w->a[0];
        d = d > 32767 ? 32767 : d < -32768 ? -32768 : d;
        return (uint32_t)kq_mulhrs(d, d);
    }
    int n = (uint16_t)e[0] + w->base, q = kq_mulhrs(e[1], w->a[0]);
    return (uint32_t)(n - kq_mulhrs(e[2], w->a[1]) + (flip ? q : -q));
}

/* ---- the search in plain C: viterbi_ref.c ------------------------------------------------------------ */

/* The cost of step `step` (0 to n_steps - 1) in state `state`. */
typedef uint32_t (*kq_cost_fn)(const void *ctx, int step, uint32_t state);

/* What is searched: a circle of n_steps steps over 2^L states, R new bits a step. For any L <= 16 and R < L,
 * so that tests can compare it with brute force on a small trellis. */
typedef struct kq_walk_problem {
    int L, R, n_steps;
    uint32_t cap; /* path costs are cut off this far above the best at each step; UINT32_MAX: never */
    bool before;  /* that is the best before the step, not the one after it */
    kq_cost_fn cost;
    const void *ctx;
} kq_walk_problem;

/* Bytes of scratch for a pass over n steps. */
size_t kq_viterbi_ref_scratch(int L, int R, int n);
/* One pass of eq. 73: the cheapest walk through n steps, of which step i is step (first + i) mod n_steps of
 * the circle. group < 0: both ends are free; otherwise the walk begins with s_0 >> R == group and ends with
 * s_{n-1} mod 2^(L-R) == group. Ties go to the lowest state. states [n] is the result. */
void kq_viterbi_ref_pass(const kq_walk_problem *w, int first, int n, long group, uint16_t *states,
                         void *scratch);
/* The tail-biting walk in two passes (Tseng et al. 2024b) whose ends meet before step `seam`: a free pass
 * over the 2 half_window steps around the seam (half_window <= n_steps / 2) fixes the group there, then the
 * closed one. states [n_steps]. */
void kq_viterbi_ref(const kq_walk_problem *w, int seam, int half_window, uint16_t *states, void *scratch);
/* The step before which the ends of the walk of a tile meet: steps [t->n_steps]. For hyb step 0. For the
 * other codes the place where the weights are longest: few states have such values, so that the first pass
 * finds the right one from fewer steps around it. The lowest step among equals. */
int kq_seam_of(const kq_trellis *t, const kq_step *steps);

/* ---- the search for other numbers of bits: viterbi_wide.c -------------------------------------------- */

/* Does a code of k bits take it? */
static inline bool kq_is_wide(int k)
{
    return k < 2 || k > 4;
}
size_t kq_viterbi_wide_scratch(int R);
/* The tail-biting walk of a tile's targets w [256], finite: states [256]. Of t: value, R, half_window, isa.
 */
void kq_viterbi_wide(const kq_trellis *t, const float *w, uint16_t *states, void *scratch);

/* ---- the search on vectors: viterbi_template.h ------------------------------------------------------- */

/* One instruction set's search. search finds the states that kq_viterbi_ref finds, for at most t->batch
 * tiles: steps [n_tiles, t->n_steps], states [n_tiles, t->n_steps]. */
typedef struct kq_viterbi {
    int batch;                                  /* tiles a call */
    size_t (*lanes_count)(const kq_trellis *t); /* int16 values in t->lanes */
    void (*lanes_fill)(const kq_trellis *t, int16_t *lanes);
    size_t (*scratch_bytes)(const kq_trellis *t);
    void (*search)(const kq_trellis *t, const kq_step *steps, int n_tiles, uint16_t *states, void *scratch);
} kq_viterbi;
const kq_viterbi *kq_viterbi_for(kq_isa isa); /* NULL: the search in plain C */
extern const kq_viterbi kq_viterbi_avx2, kq_viterbi_avx512;

#endif
