/* The kernels between the matrix products (kern/kern.h), each against kq_kern_ref: short and long rows,
 * odd tails, unaligned starts. */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kern/kern.h"
#include "selfcheck/selfcheck.h"

enum { MAX = 1040, ROWS = 5 };
static const size_t sizes[] = {1, 7, 8, 16, 17, 33, 64, 259, 1025};
/* Sums of a thousand values in another order: 64 roundings, relative to the largest value of the row. */
static const double bound = 64 * 0x1p-24;

typedef struct inputs {
    float x[MAX], w[MAX], u[MAX], dy[MAX], W[ROWS * MAX];
    uint16_t B[ROWS * MAX];
} inputs;
typedef struct outputs {
    float y[2 * MAX];
    size_t n;
} outputs;

static void keep(outputs *o, const float *y, size_t n)
{
    memcpy(o->y, y, n * sizeof *y);
    o->n = n;
}

/* One kernel on one input; the results go to o. Rows of n values; rope takes halves. */
typedef void run_fn(const kq_kern *k, const inputs *in, size_t n, outputs *o);

static void run_max(const kq_kern *k, const inputs *in, size_t n, outputs *o)
{
    o->y[0] = k->max(in->x + 1, n), o->n = 1;
}
static void run_dot(const kq_kern *k, const inputs *in, size_t n, outputs *o)
{
    /* relative to the sum of the products' sizes: the sum itself may be near zero */
    float size = 0;
    for (size_t i = 0; i < n; i++)
        size += fabsf(in->x[1 + i] * in->u[i]);
    o->y[0] = k->dot(in->x + 1, in->u, n), o->y[1] = size, o->n = 2;
}
static void run_sum_exp(const kq_kern *k, const inputs *in, size_t n, outputs *o)
{
    o->y[0] = (float)k->sum_exp(in->x + 1, n, 1.5f), o->n = 1;
}
static void run_exp_sum(const kq_kern *k, const inputs *in, size_t n, outputs *o)
{
    keep(o, in->x + 1, n);
    o->y[n] = k->exp_sum(o->y, n, 2), o->n = n + 1;
}
static void run_softmax(const kq_kern *k, const inputs *in, size_t n, outputs *o)
{
    keep(o, in->x + 1, n);
    o->y[n] = k->softmax(o->y, n, 0.7f), o->n = n + 1;
}
static void run_softmax_again(const kq_kern *k, const inputs *in, size_t n, outputs *o)
{
    keep(o, in->x + 1, n);
    k->softmax_again(o->y, n, 0.7f, 3.5f);
}
static void run_softmax_back(const kq_kern *k, const inputs *in, size_t n, outputs *o)
{
    keep(o, in->dy, n);
    k->softmax_back(in->u, o->y, n, 0.3f, 0.7f);
}
static void run_swiglu(const kq_kern *k, const inputs *in, size_t n, outputs *o)
{
    k->swiglu(in->x + 1, in->u, o->y, n), o->n = n;
}
static void run_swiglu_back(const kq_kern *k, const inputs *in, size_t n, outputs *o)
{
    memcpy(o->y, in->x, n * sizeof *o->y), memcpy(o->y + n, in->u, n * sizeof *o->y);
    k->swiglu_back(o->y, o->y + n, in->dy, n), o->n = 2 * n;
}
static void run_rms_norm(const kq_kern *k, const inputs *in, size_t n, outputs *o)
{
    o->y[n] = k->rms_norm(in->x + 1, in->w, o->y, n, 1e-5f), o->n = n + 1;
}
static void run_rms_norm_back(const kq_kern *k, const inputs *in, size_t n, outputs *o)
{
    /* the added row keeps short rows from cancelling */
    k->rms_norm_back(in->x + 1, in->w, in->dy, 0.3f, in->u, o->y, n), o->n = n;
}
static void run_rope(const kq_kern *k, const inputs *in, size_t n, outputs *o)
{
    const size_t half = n / 2;
    k->rope(in->x + 1, in->u, in->w, o->y, half, -1), o->n = 2 * half;
}
static void run_add(const kq_kern *k, const inputs *in, size_t n, outputs *o)
{
    k->add(in->x + 1, in->u, o->y, n), o->n = n;
}
static void run_scale(const kq_kern *k, const inputs *in, size_t n, outputs *o)
{
    keep(o, in->x + 1, n);
    k->scale(o->y, n, 0.37f);
}
static void run_kl_back(const kq_kern *k, const inputs *in, size_t n, outputs *o)
{
    keep(o, in->u, n);
    o->y[n] = (float)k->kl_back(in->x + 1, o->y, n, 5, 4), o->n = n + 1;
}
static void run_factor_back(const kq_kern *k, const inputs *in, size_t n, outputs *o)
{
    /* the sum is taken relative to the largest product's size times their number, as the sum may be near 0 */
    keep(o, in->dy, n);
    o->y[n] = k->factor_back(in->x + 1, in->w, 0.7f, in->u, o->y, n) / (float)n, o->n = n + 1;
}
static void run_factor_back_bf16(const kq_kern *k, const inputs *in, size_t n, outputs *o)
{
    keep(o, in->dy, n);
    o->y[n] = k->factor_back_bf16(in->x + 1, in->B + 1, 0.7f, in->u, o->y, n) / (float)n, o->n = n + 1;
}
static void run_matvec(const kq_kern *k, const inputs *in, size_t n, outputs *o)
{
    k->matvec(in->W, n, ROWS, n, in->x + 1, o->y), o->n = ROWS;
}
static void run_matvec_bf16(const kq_kern *k, const inputs *in, size_t n, outputs *o)
{
    k->matvec_bf16(in->B, n, ROWS, n, in->x + 1, o->y), o->n = ROWS;
}
static void run_matvec_t(const kq_kern *k, const inputs *in, size_t n, outputs *o)
{
    k->matvec_t(in->W, n, ROWS, n, in->x + 1, o->y), o->n = n;
}
static void run_matvec_t_bf16(const kq_kern *k, const inputs *in, size_t n, outputs *o)
{
    k->matvec_t_bf16(in->B, n, ROWS, n, in->x + 1, o->y), o->n = n;
}
static void run_to_bf16(const kq_kern *k, const inputs *in, size_t n, outputs *o)
{
    uint16_t b[MAX];
    k->to_bf16(in->x + 1, b, n);
    for (size_t i = 0; i < n; i++)
        o->y[i] = b[i]; /* the bits as numbers */
    o->n = n;
}
static void run_all_finite(const kq_kern *k, const inputs *in, size_t n, outputs *o)
{
    keep(o, in->x, n);
    const bool clean = k->all_finite(o->y, n);
    o->y[n / 2] = NAN;
    o->y[0] = clean, o->y[1] = k->all_finite(o->y + n / 2, n - n / 2), o->n = 2;
}

static const struct {
    const char *name;
    run_fn *run;
    bool exact;
    size_t least;
} kernels[] = {
    {"max", run_max, true, 1},
    {"dot", run_dot, false, 1},
    {"sum_exp", run_sum_exp, false, 1},
    {"exp_sum", run_exp_sum, false, 1},
    {"kl_back", run_kl_back, false, 1},
    {"factor_back", run_factor_back, false, 1},
    {"factor_back_bf16", run_factor_back_bf16, false, 1},
    {"softmax", run_softmax, false, 1},
    {"softmax_again", run_softmax_again, false, 1},
    {"swiglu", run_swiglu, false, 1},
    {"rms_norm", run_rms_norm, false, 1},
    {"softmax_back", run_softmax_back, false, 1},
    {"rope", run_rope, false, 2},
    {"add", run_add, true, 1},
    {"swiglu_back", run_swiglu_back, false, 1},
    {"scale", run_scale, true, 1},
    {"matvec", run_matvec, false, 1},
    {"rms_norm_back", run_rms_norm_back, false, 1},
    {"to_bf16", run_to_bf16, true, 1},
    {"matvec_t", run_matvec_t, false, 1},
    {"matvec_bf16", run_matvec_bf16, false, 1},
    {"all_finite", run_all_finite, true, 2},
    {"matvec_t_bf16", run_matvec_t_bf16, false, 1},
};

static void fill(inputs *in)
{
    kq_rng rng = kq_rng_stream(1, "selfcheck/vector");
    for (size_t i = 0; i < MAX; i++) {
        in->x[i] = (float)(3 * kq_rng_normal(&rng));
        in->w[i] = (float)kq_rng_normal(&rng), in->u[i] = (float)kq_rng_normal(&rng),
        in->dy[i] = (float)kq_rng_normal(&rng);
    }
    for (size_t i = 0; i < ROWS * MAX; i++)
        in->W[i] = (float)kq_rng_normal(&rng);
    kq_kern_ref.to_bf16(in->W, in->B, ROWS * MAX);
}

kq_status kq_check_vector_kernels(kq_checker *c, kq_isa best, kq_error *err)
{
    inputs *in = kq_alloc(1, sizeof *in);
    outputs got, want;
    kq_status status = in ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: the inputs of the self-check");
    const kq_kern *last = &kq_kern_ref;
    if (in)
        fill(in);
    for (int isa = KQ_ISA_AVX2; isa <= (int)best && !status; isa++) {
        const kq_kern *k = kq_kern_pick((kq_isa)isa);
        if (k == last)
            continue;
        last = k;
        for (size_t i = 0; i < sizeof kernels / sizeof *kernels && !status; i++) {
            double error = 0;
            for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
                if (sizes[s] < kernels[i].least)
                    continue;
                memset(&got, 0, sizeof got);
                memset(&want, 0, sizeof want);
                kernels[i].run(k, in, sizes[s], &got);
                kernels[i].run(&kq_kern_ref, in, sizes[s], &want);
                error = fmax(error, kq_check_distance(got.y, want.y, want.n));
            }
            status = kq_checker_note(c, "kern", kernels[i].name, k->name, error, kernels[i].exact ? 0 : bound,
                                     err);
        }
    }
    kq_free(in);
    return status;
}
