/* The search of a block's scales (grid/lanes.h): one template compiled for each instruction set, without a
 * fused product or a reordered sum, so that all must give the bits of plain C. */
#include <stdio.h>
#include <string.h>

#include "base/rng.h"
#include "grid/lanes.h"
#include "selfcheck/selfcheck.h"

enum { N = 32 };

/* One group of 32 weights with feedback, and sixteen scales around those that fit. */
static void fill(const kq_grid *g, float w[N], float v[N], float L[N * N], float D[N], kq_grid_lanes *x)
{
    kq_rng rng = kq_rng_stream(4, "selfcheck/grid");
    for (size_t i = 0; i < N; i++) {
        w[i] = (float)kq_rng_normal(&rng);
        v[i] = w[i] + 0.1f * (float)kq_rng_normal(&rng);
        D[i] = (float)(0.1 + kq_rng_uniform(&rng));
        for (size_t j = 0; j < N; j++)
            L[i * N + j] = j < i ? 0.2f * (float)kq_rng_normal(&rng) : 0;
    }
    for (int l = 0; l < KQ_GRID_LANES; l++) {
        x->scale[l] = l == 7 ? 0 : (0.5f + 0.1f * (float)l) * 6 / (float)(g->q_max - g->q_min);
        x->offset[l] = g->offset ? -2.5f - 0.05f * (float)l : 0;
    }
}

kq_status kq_check_grid(kq_checker *c, kq_isa best, kq_error *err)
{
    static const kq_dtype types[] = {KQ_T_Q4_0, KQ_T_Q4_1, KQ_T_IQ4_NL};
    kq_status status = KQ_OK;
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        const kq_grid *g = kq_grid_of(types[t]);
        float w[N], v[N], L[N * N], D[N];
        kq_grid_lanes start, want, got;
        char name[48];
        memset(&start, 0, sizeof start);
        fill(g, w, v, L, D, &start);
        want = start;
        kq_grid_lanes_for(KQ_ISA_REF)(g, N, w, v, L, N, D, &want);
        snprintf(name, sizeof name, "scales_%s", kq_dtype_name(types[t]));
        for (int isa = KQ_ISA_AVX2; isa <= (int)best && isa <= KQ_ISA_AVX512 && !status; isa++) {
            got = start;
            kq_grid_lanes_for((kq_isa)isa)(g, N, w, v, L, N, D, &got);
            status = kq_checker_note(c, "grid", name, kq_isa_name((kq_isa)isa),
                                     memcmp(&got, &want, sizeof want) ? 1 : 0, 0, err);
        }
    }
    return status;
}
