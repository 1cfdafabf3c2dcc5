/* The Viterbi search in plain C: easy to believe, for any small trellis. internal.h is the contract. */
#include "trellis/internal.h"

size_t kq_viterbi_ref_scratch(int L, int R, int n)
{
    size_t G = (size_t)1 << (L - R);
    return 2 * G * sizeof(uint32_t) + G * (size_t)n;
}

void kq_viterbi_ref_pass(int L, int R, int n, int n_steps, int first, long seam, uint32_t cap,
                         kq_cost_fn cost, const void *ctx, uint16_t *states, void *scratch)
{
    const uint32_t G = 1u << (L - R), never = UINT32_MAX;
    /* cheapest walk so far whose last state is g modulo G; then the next step's */
    uint32_t *best = scratch, *next = best + G;
    uint8_t *from = (uint8_t *)(next + G); /* [n, G] top R bits of that last state */

    for (uint32_t g = 0; g < G; g++)
        best[g] = seam < 0 || (uint32_t)seam == g ? 0 : never;
    for (int i = 0; i < n; i++) {
        uint32_t lowest = never;
        for (uint32_t g = 0; g < G; g++) {
            next[g] = never;
            from[(size_t)i * G + g] = 0;
            for (uint32_t j = 0; j < 1u << R; j++) {
                uint32_t s = j << (L - R) | g;
                if (best[s >> R] == never)
                    continue;
                uint32_t c = best[s >> R] + cost(ctx, (first + i) % n_steps, s);
                if (c < next[g]) {
                    next[g] = c;
                    from[(size_t)i * G + g] = (uint8_t)j;
                }
            }
            if (next[g] < lowest)
                lowest = next[g];
        }
        for (uint32_t g = 0; g < G; g++)
            if (next[g] != never) {
                next[g] -= lowest;
                if (next[g] > cap)
                    next[g] = cap;
            }
        uint32_t *swap = best;
        best = next;
        next = swap;
    }

    uint32_t g = 0;
    if (seam >= 0)
        g = (uint32_t)seam;
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

void kq_viterbi_ref(int L, int R, int n_steps, int half_window, uint32_t cap, kq_cost_fn cost,
                    const void *ctx, uint16_t *states, void *scratch)
{
    kq_viterbi_ref_pass(L, R, 2 * half_window, n_steps, n_steps - half_window, -1, cap, cost, ctx, states,
                        scratch);
    long seam = states[half_window] >> R;
    kq_viterbi_ref_pass(L, R, n_steps, n_steps, 0, seam, cap, cost, ctx, states, scratch);
}
