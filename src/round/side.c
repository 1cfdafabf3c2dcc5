/* One side of a linear on its way into the rotated basis. kq_round_linear needs both sides' L, the forecast
 * needs the rotated factors twice (shrunk and as measured); both go through these functions, so that they
 * see the same signs and the same padding. */
#include "round/side.h"

#include "base/mem.h"
#include "base/rng.h"
#include "base/text.h"
#include "round/matrix.h"

kq_side kq_side_in(const kq_round_input *in, size_t block)
{
    return (kq_side){
        .module = in->name, .factor = "H_in", .suffix = ".su", .H = in->H_in, .n = in->n, .block = block};
}

kq_side kq_side_out(const kq_round_input *in, size_t block)
{
    return (kq_side){
        .module = in->name, .factor = "H_out", .suffix = ".sv", .H = in->H_out, .n = in->m, .block = block};
}

kq_status kq_side_begin(kq_side *side, uint64_t seed, kq_error *err)
{
    char *stream = NULL;
    int8_t *signs = NULL;
    const size_t order = kq_padded_to(side->n, side->block);
    kq_status st = side->block ? kq_hadamard_new_blocks(order, side->block, &side->u, err)
                               : kq_hadamard_new(order, &side->u, err);
    if (st == KQ_OK && (st = kq_format(&stream, err, "%s%s", side->module, side->suffix)) == KQ_OK &&
        (st = kq_alloc_for((void **)&signs, side->n, 1, "signs", err)) == KQ_OK &&
        (st = kq_alloc_for((void **)&side->scales, side->n, sizeof *side->scales, "scales", err)) == KQ_OK) {
        kq_rng rng = kq_rng_stream(seed, stream);
        kq_rng_signs(&rng, signs, side->n);
        for (size_t i = 0; i < side->n; i++)
            side->scales[i] = signs[i];
    }
    kq_free(signs);
    kq_free(stream);
    return st;
}

void kq_side_free(kq_side *side)
{
    kq_hadamard_free(side->u);
    kq_free(side->scales);
    side->u = NULL;
    side->scales = NULL;
}

kq_status kq_side_rotated_factor(const kq_side *side, double shrink, int threads, float **out, kq_error *err)
{
    *out = NULL;
    const float *H = side->H;
    const float *s = side->scales;
    const size_t n = side->n, np = kq_padded_to(n, side->block), bad = kq_first_nonfinite(H, n * n);
    if (bad < n * n)
        return kq_fail(err, KQ_E_NUMERIC, "%s: %s holds NaN or Inf at [%zu, %zu]", side->module, side->factor,
                       bad / n, bad % n);
    float *A;
    kq_status st = kq_alloc_for((void **)&A, np * np, sizeof *A, "rotated factor", err);
    if (st != KQ_OK)
        return st;
    for (size_t i = 0; i < np; i++)
        for (size_t j = 0; j < np; j++)
            A[i * np + j] = i < n && j < n ? H[i * n + j] * (s[i] * s[j]) : 0;
    kq_factor_shrink(A, np, shrink);
    kq_error why = {0};
    if ((st = kq_factor_rotate(side->u, NULL, A, np, threads, &why)) != KQ_OK) {
        kq_free(A);
        return kq_fail(err, st, "%s: %s: %s", side->module, side->factor, why.message);
    }
    *out = A;
    return KQ_OK;
}

kq_status kq_round_check_weight(const kq_round_input *in, kq_error *err)
{
    const size_t m = in->m, n = in->n;
    size_t mn, bytes;
    if (m == 0 || n == 0 || m > 1u << 20 || n > 1u << 20 || !kq_mul_size(kq_padded(m), kq_padded(n), &mn) ||
        !kq_mul_size(mn, sizeof(float), &bytes))
        return kq_fail(err, KQ_E_ARG, "%s: a weight matrix of %zu x %zu", in->name, m, n);
    const size_t bad = kq_first_nonfinite(in->W, m * n);
    if (bad < m * n)
        return kq_fail(err, KQ_E_NUMERIC, "%s: the weight holds NaN or Inf at [%zu, %zu]", in->name, bad / n,
                       bad % n);
    return KQ_OK;
}

kq_status kq_rotate_both(const kq_hadamard *u_rows, const kq_hadamard *u_cols, bool back, float *X,
                         int threads, kq_error *err)
{
    size_t m = kq_hadamard_order(u_rows), n = kq_hadamard_order(u_cols);
    float *Y;
    kq_status st = kq_alloc_for((void **)&Y, m * n, sizeof *Y, "rotation", err);
    if (st != KQ_OK)
        return st;
    if ((st = kq_hadamard_rows_mt(u_cols, back, X, m, n, threads, err)) == KQ_OK) {
        kq_transpose(X, m, n, Y, threads);
        if ((st = kq_hadamard_rows_mt(u_rows, back, Y, n, m, threads, err)) == KQ_OK)
            kq_transpose(Y, n, m, X, threads);
    }
    kq_free(Y);
    return st;
}
