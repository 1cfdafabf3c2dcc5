/* The search for numbers of bits beside 2, 3 and 4, of codes of one value a step. The integers of the other
 * search (internal.h) are too coarse for 5 bits and more, where errors are a hundredth of a value, so that
 * costs are f32 here: the squared errors themselves. With R new bits a step a state's group is its last
 * 16 - R bits, and next[g] = min over j of best[s >> R] + (c(s) - w)^2 over the states s = (j << (16-R)) | g.
 * No product is fused and no sum is reordered, so that every instruction set finds the same walk; ties go to
 * the lowest j. The kernels are this file's one loop, compiled for each of them. */
#include "trellis/internal.h"

#include <math.h>

enum { STEPS = KQ_TILE_SIZE };

/* One step: best [G] -> next [G]. */
#define KQ_WIDE_STEP(name, target)                                                                           \
    static target void name(const float *value, int R, float w, const float *restrict best,                  \
                            float *restrict next)                                                            \
    {                                                                                                        \
        const size_t J = (size_t)1 << R, G = (size_t)1 << (16 - R), run = J < G ? J : G;                     \
        for (size_t g0 = 0; g0 < G; g0 += run) { /* groups that share their predecessors */                  \
            for (size_t i = 0; i < run; i++)                                                                 \
                next[g0 + i] = INFINITY;                                                                     \
            for (size_t j = 0; j < J; j++) {                                                                 \
                const float *v = value + (j << (16 - R)) + g0, from = best[(j << (16 - 2 * R)) + (g0 >> R)]; \
                _Pragma("omp simd") for (size_t i = 0; i < run; i++)                                         \
                {                                                                                            \
                    const float d = v[i] - w, sum = from + d * d;                                            \
                    next[g0 + i] = sum < next[g0 + i] ? sum : next[g0 + i];                                  \
                }                                                                                            \
            }                                                                                                \
        }                                                                                                    \
    }

KQ_WIDE_STEP(step_ref, )
#ifdef __x86_64__
KQ_WIDE_STEP(step_avx2, __attribute__((target("avx2"))))
KQ_WIDE_STEP(step_avx512,
             __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512"))))
#endif
#undef KQ_WIDE_STEP

typedef void step_fn(const float *value, int R, float w, const float *restrict best, float *restrict next);

static step_fn *step_for(kq_isa isa)
{
#ifdef __x86_64__
    if (isa >= KQ_ISA_AVX512)
        return step_avx512;
    if (isa == KQ_ISA_AVX2)
        return step_avx2;
#endif
    (void)isa;
    return step_ref;
}

size_t kq_viterbi_wide_scratch(int R)
{
    return (STEPS + 1) * ((size_t)1 << (16 - R)) * sizeof(float);
}

/* The state before group g whose sum over row, best[] before the step, is the least. */
static uint32_t back(const kq_trellis *t, const float *row, float w, uint32_t g)
{
    const int R = t->R;
    uint32_t at = 0;
    float least = INFINITY;
    for (uint32_t j = 0; j < 1u << R; j++) {
        const float d = t->value[(j << (16 - R)) + g] - w, sum = row[(j << (16 - 2 * R)) + (g >> R)] + d * d;
        if (sum < least) {
            least = sum;
            at = j;
        }
    }
    return at << (16 - R) | g;
}

void kq_viterbi_wide(const kq_trellis *t, const float *w, uint16_t *states, void *scratch)
{
    const size_t G = (size_t)1 << (16 - t->R);
    const int h = t->half_window;
    step_fn *const step = step_for(t->isa);
    float *history = scratch; /* [STEPS + 1, G]: row i is best[] before step i of a pass */
    /* free over the 2 h steps around step 0, and back to it: the group in which the ends of the walk meet */
    for (size_t g = 0; g < G; g++)
        history[g] = 0;
    for (int i = 0; i < 2 * h; i++)
        step(t->value, t->R, w[(STEPS - h + i) % STEPS], history + (size_t)i * G,
             history + (size_t)(i + 1) * G);
    const float *last = history + (size_t)(2 * h) * G;
    uint32_t group = 0;
    for (uint32_t g = 1; g < G; g++)
        group = last[g] < last[group] ? g : group;
    for (int i = 2 * h; i-- > h;)
        group = back(t, history + (size_t)i * G, w[(STEPS - h + i) % STEPS], group) >> t->R;
    /* closed: it begins and ends there */
    for (size_t g = 0; g < G; g++)
        history[g] = INFINITY;
    history[group] = 0;
    for (int i = 0; i < STEPS - 1; i++)
        step(t->value, t->R, w[i], history + (size_t)i * G, history + (size_t)(i + 1) * G);
    for (int i = STEPS; i-- > 0;) {
        states[i] = (uint16_t)back(t, history + (size_t)i * G, w[i], group);
        group = states[i] >> t->R;
    }
}
