/* The target of a linear (docs/math.md, eq. 160 to 163): sums over the tokens of both streams, and one
 * solution of a linear system. All sums are taken in the order of the sequences. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/first_error.h"
#include "base/mem.h"
#include "kern/kern.h"
#include "kern/lapack.h"
#include "sequential/internal.h"

/* lambda of eq. 161 over the mean diagonal of the sum of z z^T. Measured: docs/evidence/sequential.md. */
static const double ridge_of_inputs = 0.3, ridge_of_residuals = 1;

/* Rows of a matrix that are solved at once. */
enum { SOLVE_ROWS = 64 };

static int step_of(kq_linear_id id)
{
    return id <= KQ_V ? KQ_STEP_QKV : id == KQ_O ? KQ_STEP_O : id <= KQ_UP ? KQ_STEP_GATE_UP : KQ_STEP_DOWN;
}

static bool adds_to_residual(int step)
{
    return step == KQ_STEP_O || step == KQ_STEP_DOWN;
}

/* Input and residual stream of one sequence at the step, from one of the streams. */
static kq_status read_record(kq_sequential *s, int step, size_t sequence, int stream, size_t at, int thread,
                             kq_error *err)
{
    static const kq_linear_id first[] = {KQ_Q, KQ_O, KQ_GATE, KQ_DOWN};
    float *h = s->hidden[thread];
    kq_status st = kq_spill_read(s->in, KQ_N_STREAM * sequence + (size_t)stream, h, err);
    return st ? st
              : kq_block_forward_to(s->mc, &s->block[stream], first[step], h, s->o.T,
                                    s->x[stream] + at * s->o.T * s->moments.n,
                                    s->residual[stream] + at * s->record, s->scratch[thread], err);
}

static kq_status read_group(kq_sequential *s, int step, size_t first, size_t count, kq_error *err)
{
    kq_first_error failed = KQ_FIRST_ERROR;
#pragma omp parallel for schedule(dynamic, 1) num_threads(s->o.threads)
    for (size_t i = 0; i < KQ_N_STREAM * count; i++) {
        kq_error e;
        const size_t at = i / KQ_N_STREAM;
        if (!kq_first_error_skip(&failed, i))
            kq_first_error_note(
                &failed, i,
                read_record(s, step, first + at, (int)(i % KQ_N_STREAM), at, omp_get_thread_num(), &e), &e);
    }
    return kq_first_error_get(&failed, err);
}

/* One token: x becomes sqrt(w) (x - z), z sqrt(w) z, h sqrt(w) (h - k). */
static void weigh(float *x, float *z, size_t n, float *h, const float *k, size_t d, bool by_residual)
{
    double square = 0;
    for (size_t j = 0; j < d && by_residual; j++)
        square += (double)h[j] * h[j];
    const float root = square > 0 ? (float)sqrt((double)d / square) : 1;
    for (size_t j = 0; j < n; j++) {
        x[j] = root * (x[j] - z[j]);
        z[j] *= root;
    }
    for (size_t j = 0; j < d && by_residual; j++)
        h[j] = root * (h[j] - k[j]);
}

static kq_status add_group(kq_sequential *s, int step, size_t count, kq_error *err)
{
    const kq_moments *mo = &s->moments;
    const size_t n = mo->n, d = s->cfg->d_model, tokens = count * s->o.T;
    const bool residual = adds_to_residual(step), half = s->o.compute == KQ_BF16;
    const kq_kern *kern = kq_kern_pick(s->o.isa);
    float *x = s->x[KQ_ORIGINAL], *z = s->x[KQ_ROUNDED], *h = s->residual[KQ_ORIGINAL];
    const float *k = s->residual[KQ_ROUNDED];
    uint16_t *xb = s->half[KQ_ORIGINAL], *zb = s->half[KQ_ROUNDED], *hb = s->half_residual;
#pragma omp parallel for num_threads(s->o.threads)
    for (size_t t = 0; t < tokens; t++) {
        weigh(x + t * n, z + t * n, n, h + t * d, k + t * d, d, residual);
        if (half) {
            kern->to_bf16(x + t * n, xb + t * n, n);
            kern->to_bf16(z + t * n, zb + t * n, n);
            kern->to_bf16(h + t * d, hb + t * d, d);
        }
    }
    const struct {
        const float *a;
        const uint16_t *half;
        size_t m;
        float *sum;
    } sums[] = {{z, zb, n, mo->C}, {x, xb, n, mo->D}, {h, hb, d, mo->R}};
    kq_status st = KQ_OK;
    for (int i = 0; i < (residual ? 3 : 2) && !st; i++) {
        const size_t m = sums[i].m;
        if (half)
            st = kq_gemm_bf16_tiled(true, false, m, n, tokens, sums[i].half, m, zb, n, true, sums[i].sum, n,
                                    s->o.threads, err);
        else
            kq_gemm_f32_tiled(true, false, m, n, tokens, 1, sums[i].a, m, z, n, 1, sums[i].sum, n,
                              s->o.threads);
    }
    return st;
}

/* C = Cholesky factor of C + lambda I. */
static kq_status factorize(const kq_sequential *s, int step, kq_error *err)
{
    const kq_moments *mo = &s->moments;
    const double ridge = adds_to_residual(step) ? ridge_of_residuals : ridge_of_inputs;
    const int n = (int)mo->n;
    double trace = 0;
    for (size_t j = 0; j < mo->n; j++)
        trace += mo->C[j * mo->n + j];
    /* inputs that are all zero want no correction */
    const float lambda = trace > 0 ? (float)(ridge * trace / (double)mo->n) : 1;
    for (size_t j = 0; j < mo->n; j++)
        mo->C[j * mo->n + j] += lambda;
    int info = 0, before = kq_one_thread_begin();
    spotrf_("U", &n, mo->C, &n, &info, 1);
    kq_one_thread_end(before);
    return info || !isfinite(mo->C[mo->n * mo->n - 1])
               ? kq_fail(err, KQ_E_NUMERIC, "block %zu: the inputs of its linears hold NaN or Inf", s->layer)
               : KQ_OK;
}

kq_status kq_moments_of_step(kq_sequential *s, int step, kq_error *err)
{
    static const kq_linear_id of[] = {KQ_Q, KQ_O, KQ_GATE, KQ_DOWN};
    kq_moments *mo = &s->moments;
    if (mo->step == step)
        return KQ_OK;
    size_t m;
    kq_linear_shape(s->cfg, of[step], &m, &mo->n);
    mo->step = KQ_NO_STEP;
    memset(mo->C, 0, mo->n * mo->n * sizeof(float));
    memset(mo->D, 0, mo->n * mo->n * sizeof(float));
    memset(mo->R, 0, s->cfg->d_model * mo->n * sizeof(float));
    kq_status st = KQ_OK;
    for (size_t first = 0; first < s->o.n_seq && !st; first += s->group) {
        const size_t count = s->o.n_seq - first < s->group ? s->o.n_seq - first : s->group;
        if (!(st = read_group(s, step, first, count, err)))
            st = add_group(s, step, count, err);
    }
    if (!st)
        st = factorize(s, step, err);
    if (!st)
        mo->step = step;
    return st;
}

/* S <- S C^-1 C^-T for S [m, n], a few rows at a time: row-major rows are LAPACK's columns. */
static void solve(const kq_sequential *s, float *S, size_t m)
{
    const kq_moments *mo = &s->moments;
    const int n = (int)mo->n;
    const float one = 1;
#pragma omp parallel for schedule(dynamic, 1) num_threads(s->o.threads)
    for (size_t i = 0; i < m; i += SOLVE_ROWS) {
        const int rows = (int)(m - i < SOLVE_ROWS ? m - i : SOLVE_ROWS), before = kq_one_thread_begin();
        strsm_("L", "U", "T", "N", &n, &rows, &one, mo->C, &n, S + i * mo->n, &n, 1, 1, 1, 1);
        strsm_("L", "U", "N", "N", &n, &rows, &one, mo->C, &n, S + i * mo->n, &n, 1, 1, 1, 1);
        kq_one_thread_end(before);
    }
}

kq_status kq_sequential_target(kq_sequential *s, size_t layer, kq_linear_id id, const float *W, float *target,
                               kq_error *err)
{
    const int step = step_of(id);
    size_t m, n;
    kq_linear_shape(s->cfg, id, &m, &n);
    kq_status st = kq_streams_go_to(s, layer, err);
    if (!st)
        st = kq_moments_of_step(s, step, err);
    if (st)
        return st;
    const float beta = adds_to_residual(step) ? 1 : 0;
    if (beta)
        memcpy(target, s->moments.R, m * n * sizeof *target);
    kq_gemm_f32_tiled(false, false, m, n, n, 1, W, n, s->moments.D, n, beta, target, n, s->o.threads);
    solve(s, target, m);
    for (size_t i = 0; i < m * n; i++)
        target[i] += W[i];
    return KQ_OK;
}
