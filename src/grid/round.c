/* A whole matrix onto a grid: both factors are put into the order of rounding and conditioned, the first pass
 * rounds every block, block descent improves them. docs/math.md, "Grids". */
#include "grid/work.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "format/encode.h"
#include "kern/gemm.h"
#include "round/matrix.h"

kq_grid_options kq_grid_defaults(void)
{
    return (kq_grid_options){.sigma_in = 1e-2, .sigma_out = 1e-2, .threads = 1};
}

size_t kq_grid_bytes(size_t m, size_t n)
{
    const double mm = (double)m * (double)m, nn = (double)n * (double)n, big = mm > nn ? mm : nn;
    const double bytes = 8 * (mm + nn) + 8 * big + 20.0 * (double)m * (double)n;
    return bytes < (double)SIZE_MAX / 2 ? (size_t)bytes : SIZE_MAX;
}

/* ---- one side ------------------------------------------------------------------------------------------ */

/* What makes a kq_grid_side. */
typedef struct side_input {
    const char *module, *factor; /* for messages: the linear's name; "H_in" or "H_out" */
    const float *H;              /* [n, n]; NULL: the identity */
    size_t n;
    kq_grid_whole whole;
    double sigma, shrink; /* eq. 54, 63 */
    int threads;
} side_input;

static kq_status make_side(kq_grid_side *s, const side_input *in, int *extra, kq_error *err)
{
    const float *H = in->H;
    const size_t n = in->n;
    kq_status st;
    *extra = 0;
    s->n = n;
    if (H) {
        const size_t bad = kq_first_nonfinite(H, n * n);
        if (bad < n * n)
            return kq_fail(err, KQ_E_NUMERIC, "%s: %s holds NaN or Inf at [%zu, %zu]", in->module, in->factor,
                           bad / n, bad % n);
    }
    if ((st = kq_grid_order(H, n, in->whole, &s->order, err)) || !H)
        return st;
    if ((st = kq_alloc_for((void **)&s->H, n * n, sizeof *s->H, "ordered factor", err)) ||
        (st = kq_alloc_for((void **)&s->L, n * n, sizeof *s->L, "factor's L", err)) ||
        (st = kq_alloc_for((void **)&s->D, n, sizeof *s->D, "factor's D", err)))
        return st;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            s->H[i * n + j] = H[(size_t)s->order[i] * n + s->order[j]];
    kq_factor_shrink(s->H, n, in->shrink);
    kq_error why = {0};
    if ((st = kq_factor_condition_ldl_scalar(s->H, n, in->sigma, extra, s->L, s->D, in->threads, &why)))
        return kq_fail(err, st, "%s: %s: %s", in->module, in->factor, why.message);
    return KQ_OK;
}

static void free_side(kq_grid_side *s)
{
    kq_free(s->order);
    kq_free(s->H);
    kq_free(s->L);
    kq_free(s->D);
}

/* ---- the whole ----------------------------------------------------------------------------------------- */

static kq_status check(kq_dtype type, const kq_round_input *in, kq_error *err)
{
    const size_t m = in->m, n = in->n;
    size_t elems, bytes, mn, at;
    if (!kq_grid_known(type) || !kq_dtype_block(type, &elems, &bytes))
        return kq_fail(err, KQ_E_ARG, "%s: %s is no type to round onto", in->name, kq_dtype_name(type));
    if (m == 0 || n == 0 || m > 1u << 20 || n > 1u << 20 || !kq_mul_size(m, n, &mn))
        return kq_fail(err, KQ_E_ARG, "%s: a weight matrix of %zu x %zu", in->name, m, n);
    if (n % elems)
        return kq_fail(err, KQ_E_SHAPE, "%s: rows of %zu weights are no whole number of %s blocks of %zu",
                       in->name, n, kq_dtype_name(type), elems);
    const size_t bad = kq_first_nonfinite(in->W, mn);
    if (bad < mn)
        return kq_fail(err, KQ_E_NUMERIC, "%s: the weight holds NaN or Inf at [%zu, %zu]", in->name, bad / n,
                       bad % n);
    if (!kq_type_holds(type, in->W, mn, &at))
        return kq_fail(
            err, KQ_E_NUMERIC,
            "%s: [%zu, %zu] is %g, beyond what the scales of %s can hold (half floats, which end at 65504)",
            in->name, at / n, at % n, (double)in->W[at], kq_dtype_name(type));
    return KQ_OK;
}

/* Both sides, and W, E and F in the order of rounding. */
static kq_status begin(kq_grid_work *z, const kq_round_input *in, const kq_grid_options *opt,
                       kq_round_report *report, kq_error *err)
{
    const size_t m = z->m, n = z->n;
    side_input inputs = {.module = in->name,
                         .factor = "H_in",
                         .H = in->H_in,
                         .n = n,
                         .whole = {z->B, (size_t)z->search.g->group, kq_grid_unit(z->search.g)},
                         .sigma = opt->sigma_in,
                         .shrink = opt->shrink,
                         .threads = z->threads};
    side_input outputs = inputs;
    outputs.factor = "H_out", outputs.H = in->H_out, outputs.n = m, outputs.sigma = opt->sigma_out;
    outputs.whole = (kq_grid_whole){1, 1, 1};
    kq_status st;
    if ((st = make_side(&z->in, &inputs, &report->extra_in, err)) ||
        (st = make_side(&z->out, &outputs, &report->extra_out, err)) ||
        (st = kq_alloc_for((void **)&z->slot, n, sizeof *z->slot, "order of rounding", err)) ||
        (st = kq_alloc_for((void **)&z->W, m * n, sizeof *z->W, "ordered weights", err)) ||
        (st = kq_alloc_for((void **)&z->E, m * n, sizeof *z->E, "rounding error", err)) ||
        (z->out.H && (st = kq_alloc_for((void **)&z->F, m * n, sizeof *z->F, "rounding sums", err))))
        return st;
    if (!z->F)
        z->F = z->E;
    for (size_t j = 0; j < n; j++)
        z->slot[j] = (uint16_t)(z->in.order[j] % z->B);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++)
            z->W[i * n + j] = in->W[(size_t)z->out.order[i] * n + z->in.order[j]];
    return KQ_OK;
}

/* Eq. 91, with the conditioned factors. */
static kq_status objective(const kq_grid_work *z, double *out, kq_error *err)
{
    kq_status st = kq_predicted_loss(z->E, z->m, z->n, z->in.H, z->out.H, z->threads, out, err);
    *out *= 2;
    return st;
}

static kq_status round_blocks(kq_grid_work *z, const kq_grid_options *opt, kq_error *err)
{
    kq_status st = kq_grid_first_pass(z, err);
    kq_grid_objective *o = opt->objective;
    if (st || (o && (st = objective(z, &o->first, err))))
        return st;
    if (o)
        o->end = o->first;
    if (opt->sweeps > 0 && (z->in.H || z->out.H) && !(st = kq_grid_descend(z, opt->sweeps, err)) && o)
        st = objective(z, &o->end, err);
    return st;
}

/* The report's relative error and, where the factors predict it, the loss (eq. 1 with the factors as given;
 * z->W is overwritten by the error in the original order). */
static kq_status measure(kq_grid_work *z, const kq_round_input *in, kq_round_report *report, kq_error *err)
{
    const size_t m = z->m, n = z->n;
    double energy = 0, error = 0;
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            const float w = z->W[i * n + j], e = z->E[i * n + j];
            energy += (double)w * w;
            error += (double)e * e;
        }
    report->relative_mse = energy > 0 ? error / energy : 0;
    if (!isfinite(error))
        return kq_fail(err, KQ_E_NUMERIC,
                       "%s: rounding diverged (values beyond the type's F16 scales, or factors that feed "
                       "errors back without bound)",
                       in->name);
    if (!in->predicts)
        return KQ_OK;
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++)
            z->W[(size_t)z->out.order[i] * n + z->in.order[j]] = z->E[i * n + j];
    return kq_predicted_loss(z->W, m, n, in->H_in, in->H_out, z->threads, &report->predicted_loss, err);
}

kq_status kq_grid_round(kq_dtype type, const kq_round_input *in, const kq_grid_options *opt, uint8_t *blocks,
                        kq_round_report *report, kq_error *err)
{
    kq_status st = check(type, in, err);
    if (st)
        return st;
    kq_round_report rep = {.predicted_loss = NAN};
    kq_grid_work z = {
        .m = in->m, .n = in->n, .blocks = blocks, .threads = opt->threads < 1 ? 1 : opt->threads};
    kq_grid_search_begin(&z.search, type);
    kq_dtype_block(type, &z.B, &z.block_bytes);
    z.n_block = z.n / z.B;
    if (!(st = begin(&z, in, opt, &rep, err)) && !(st = round_blocks(&z, opt, err)))
        st = measure(&z, in, &rep, err);
    if (!st && report)
        *report = rep;
    free_side(&z.in);
    free_side(&z.out);
    kq_free(z.slot);
    kq_free(z.W);
    if (z.F != z.E)
        kq_free(z.F);
    kq_free(z.E);
    return st;
}

kq_status kq_grid_nearest(kq_dtype type, const char *name, const float *W, size_t m, size_t n, int threads,
                          uint8_t *blocks, kq_error *err)
{
    const kq_grid_options opt = {.threads = threads};
    const kq_round_input in = {.name = name, .W = W, .m = m, .n = n};
    return kq_grid_round(type, &in, &opt, blocks, NULL, err);
}
