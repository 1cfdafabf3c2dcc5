/* The Viterbi search in plain C (Viterbi 1967; eq. 73): what the kernels must agree with, and easy to
 * believe. It works on any small trellis, so that tests compare it with brute force; internal.h has the
 * contract. */
#include "trellis/internal.h"

size_t kq_viterbi_ref_scratch(int L, int R, int n)
{
    size_t G = (size_t)1 << (L - R);
    return 2 * G * sizeof(uint32_t) + G * (size_t)n;
}

void kq_viterbi_ref_pass(const kq_walk_problem *w, int first, int n, long group, uint16_t *states,
                         void *scratch)
{
    const int L = w->L, R = w->R;
    const uint32_t G = 1u << (L - R), never = UINT32_MAX;
    /* best[g]: the cheapest walk so far whose last state is g modulo G; next: the same one step on */
    uint32_t *best = scratch, *next = best + G, before = 0;
    uint8_t *from = (uint8_t *)(next + G); /* [n, G]: the top R bits of that last state */

    for (uint32_t g = 0; g < G; g++)
        best[g] = group < 0 || (uint32_t)group == g ? 0 : never;
    for (int i = 0; i < n; i++) {
        uint32_t lowest = never;
        for (uint32_t g = 0; g < G; g++) {
            next[g] = never;
            from[(size_t)i * G + g] = 0;
            for (uint32_t j = 0; j < 1u << R; j++) {
                uint32_t s = j << (L - R) | g;
                if (best[s >> R] == never)
                    continue;
                uint32_t c = best[s >> R] + w->cost(w->ctx, (first + i) % w->n_steps, s);
                if (c < next[g]) {
                    next[g] = c;
                    from[(size_t)i * G + g] = (uint8_t)j;
                }
            }
            if (next[g] < lowest)
                lowest = next[g];
        }
        const uint32_t floor = w->before ? before : lowest;
        for (uint32_t g = 0; g < G; g++)
            if (next[g] != never) {
                next[g] -= floor;
                if (next[g] > w->cap)
                    next[g] = w->cap;
            }
        before = lowest - floor;
        uint32_t *swap = best;
        best = next;
        next = swap;
    }

    uint32_t g = 0;
    if (group >= 0)
        g = (uint32_t)group;
    else
        for (uint32_t i = 1; i < G; i++)
            if (best[i] < best[g])
                g = i;
    for (int i = n; i-- > 0;) {
        uint32_t s = (uint32_t)from[(size_t)i * G + g] << (L - R) | g;
        states[i] = (uint16_t)s;
        g = s >> R;
    }
}

void kq_viterbi_ref(const kq_walk_problem *w, int seam, int half_window, uint16_t *states, void *scratch)
{
    const int n = w->n_steps;
    uint16_t found[KQ_VITERBI_MAX_STEPS];
    kq_viterbi_ref_pass(w, seam + n - half_window, 2 * half_window, -1, found, scratch);
    kq_viterbi_ref_pass(w, seam, n, found[half_window] >> w->R, found, scratch);
    for (int i = 0; i < n; i++)
        states[(seam + i) % n] = found[i];
}
