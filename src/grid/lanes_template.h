/* The kernel of kq_grid_lanes_fn, included once per instruction set with FN and TARGET defined. Plain C
 * over sixteen lanes: the compiler makes vectors of it, and since no product is fused and no sum
 * reordered every instruction set gives the same bits. */
static TARGET void FN(const kq_grid *g, size_t n, const float *w, const float *v, const float *L, size_t ld,
                      const float *D, kq_grid_lanes *x)
{
    enum { K = KQ_GRID_LANES };
    float acc[32][K], inv[K], cost[K];
    memset(acc, 0, n * sizeof *acc);
    /* 1.5 2^23: adding it rounds to a whole number */
    const float lo = (float)g->q_min, hi = (float)g->q_max, magic = 12582912.0f;
    for (int l = 0; l < K; l++) {
        inv[l] = x->scale[l] != 0 ? 1.0f / x->scale[l] : 0;
        cost[l] = 0;
    }
    for (size_t j = n; j-- > 0;) {
        float e[K], *q = x->q[j], y[K];
        const float vj = v[j], wj = w[j], dj = D ? D[j] : 1.0f;
        for (int l = 0; l < K; l++) {
            y[l] = (vj + acc[j][l] - x->offset[l]) * inv[l];
            y[l] = y[l] < lo ? lo : y[l] > hi ? hi : y[l];
        }
        if (!g->nonlinear) {
            for (int l = 0; l < K; l++)
                q[l] = (y[l] + magic) - magic;
        } else {
            for (int l = 0; l < K; l++)
                q[l] = (float)kq_iq4nl_values[0];
            for (int k = 1; k < 16; k++) {
                const float a = (float)kq_iq4nl_values[k - 1], b = (float)kq_iq4nl_values[k],
                            middle = 0.5f * (a + b);
                for (int l = 0; l < K; l++)
                    q[l] = y[l] > middle ? b : q[l];
            }
        }
        for (int l = 0; l < K; l++) {
            const float what = x->scale[l] * q[l] + x->offset[l], eta = vj + acc[j][l] - what;
            cost[l] += dj * eta * eta;
            e[l] = wj - what;
        }
        if (L) {
            const float *row = L + j * ld;
            for (size_t i = 0; i < j; i++) {
                const float a = row[i];
                for (int l = 0; l < K; l++)
                    acc[i][l] += a * e[l];
            }
        }
    }
    memcpy(x->cost, cost, sizeof cost);
}
#undef FN
#undef TARGET
