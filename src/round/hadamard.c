/* The orthogonal transforms of eq. 50: U_n = (S (x) B)/sqrt(n), S Sylvester's matrix of order 2^k, B the base
 * of order b, n = 2^k b (eq. 53; Paley 1933, Williamson 1944, Hedayat & Wallis 1978).
 *
 * How b is chosen. Checkpoints depend on it; docs/format.md repeats it. Write n = 2^e q with q odd.
 *   1. q = 1: b = 1.
 *   2. Otherwise b is the first of 4q, 8q, 16q, .. 2^e q that is at most 1024 and has one of these
 *      constructions, tried in this order: Paley I (b - 1 is a prime and 3 mod 4), Paley II (b/2 - 1 is a
 *      prime and 1 mod 4), Williamson (b = 172).
 *   3. If there is none (the fall-back), b = q and B is the discrete Hartley matrix, B(i,j) = cos(t) + sin(t)
 *      with t = 2 pi i j / q. B B^T = q I and no entry exceeds sqrt 2, so that the result is as incoherent as
 *      a Hadamard matrix within that factor.
 * The constructions, with chi the Legendre symbol modulo the prime p and I the identity:
 *   Paley I, p = b - 1:     B(0,0) = B(0,j) = 1, B(i,0) = -1, B(i,j) = chi(i - j) + I(i,j) for i, j >= 1.
 *   Paley II, p = b/2 - 1:  C(0,0) = 0, C(0,j) = C(i,0) = 1, C(i,j) = chi(i - j);
 *                           B = C (x) [1 1; 1 -1] + I (x) [1 -1; -1 -1].
 *   Williamson, b = 172:    B = [A B C D; -B A -D C; -C D A -B; -D -C B A] of circulants
 *                           X(i,j) = x((j - i) mod 43) of the four symmetric sequences below, which
 *                           scripts/find_williamson_43.py finds.
 * Paley I is not symmetric: x U and x U^T differ. */
#include "round/round.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "kern/gemm.h"
#include "round/matrix.h"

enum { BASE_MAX = 1024, INNER_MIN = 16 };

struct kq_hadamard {
    size_t n, b;
    size_t span; /* n, or the order of the blocks on the diagonal */
    bool fallback;
    float *base; /* owned: B [b, b] */
    /* order of what is applied as a dense product: b, or min(n, 16) when b is 1 (S = S' (x) S_16) */
    size_t inner;
    float *dense; /* [inner, inner]; base itself unless b is 1 */
};

/* Entries 0 .. 21 of a, b, c, d; x(43 - i) = x(i). Printed by scripts/find_williamson_43.py. */
static const char williamson_43[4][23] = {
    "+--++----+-+---+--++++",
    "+--+++--+-+--+-+++++-+",
    "++-+--++-+++----+++-++",
    "+-+-+----++++-++++-++-",
};

static bool is_prime(size_t p)
{
    if (p < 2)
        return false;
    for (size_t d = 2; d * d <= p; d++)
        if (p % d == 0)
            return false;
    return true;
}

typedef enum construction { NONE, PALEY_1, PALEY_2, WILLIAMSON } construction;

static construction construction_of(size_t b)
{
    if (b % 4 == 0 && is_prime(b - 1))
        return PALEY_1; /* b - 1 is 3 mod 4 */
    if (b % 4 == 0 && (b / 2 - 1) % 4 == 1 && is_prime(b / 2 - 1))
        return PALEY_2;
    return b == 172 ? WILLIAMSON : NONE;
}

/* chi [p]: the Legendre symbol, chi[0] = 0. */
static void legendre(size_t p, int8_t *chi)
{
    memset(chi, -1, p);
    for (size_t i = 1; i < p; i++)
        chi[i * i % p] = 1;
    chi[0] = 0;
}

static void paley_1(size_t b, float *B)
{
    int8_t chi[BASE_MAX];
    size_t p = b - 1;
    legendre(p, chi);
    for (size_t i = 0; i < b; i++)
        for (size_t j = 0; j < b; j++) {
            if (i == 0 || j == 0)
                B[i * b + j] = i == 0 ? 1 : -1;
            else
                B[i * b + j] = i == j ? 1 : chi[(i + p - j) % p];
        }
}

static void paley_2(size_t b, float *B)
{
    static const int8_t x[2][2] = {{1, 1}, {1, -1}}, y[2][2] = {{1, -1}, {-1, -1}};
    int8_t chi[BASE_MAX];
    size_t h = b / 2, p = h - 1;
    legendre(p, chi);
    for (size_t i = 0; i < b; i++)
        for (size_t j = 0; j < b; j++) {
            size_t r = i / 2, c = j / 2;
            int v;
            if (r == c)
                v = y[i % 2][j % 2];
            else
                v = x[i % 2][j % 2] * (r == 0 || c == 0 ? 1 : chi[(r + p - c) % p]);
            B[i * b + j] = (float)v;
        }
}

static void williamson_172(float *B)
{
    static const int8_t which[4][4] = {{0, 1, 2, 3}, {1, 0, 3, 2}, {2, 3, 0, 1}, {3, 2, 1, 0}};
    static const int8_t sign[4][4] = {{1, 1, 1, 1}, {-1, 1, -1, 1}, {-1, 1, 1, -1}, {-1, -1, 1, 1}};
    const size_t p = 43, b = 172;
    for (size_t i = 0; i < b; i++)
        for (size_t j = 0; j < b; j++) {
            size_t r = i / p, c = j / p, d = (j % p + p - i % p) % p;
            int v = williamson_43[which[r][c]][d <= p / 2 ? d : p - d] == '+' ? 1 : -1;
            B[i * b + j] = (float)(v * sign[r][c]);
        }
}

static void hartley(size_t q, float *B)
{
    const double two_pi = 6.283185307179586477;
    for (size_t i = 0; i < q; i++)
        for (size_t j = 0; j < q; j++) {
            double t = two_pi * (double)(i * j % q) / (double)q;
            B[i * q + j] = (float)(cos(t) + sin(t));
        }
}

kq_status kq_hadamard_new(size_t n, kq_hadamard **out, kq_error *err)
{
    *out = NULL;
    if (n == 0 || n > (size_t)1 << 31)
        return kq_fail(err, KQ_E_ARG, "orthogonal transform of order %zu (1 to 2^31)", n);
    size_t q = n;
    while (q % 2 == 0)
        q /= 2;
    construction how = NONE;
    size_t b = q;
    if (q > 1)
        for (size_t c = 4 * q; c <= BASE_MAX && n % c == 0; c *= 2)
            if ((how = construction_of(c)) != NONE) {
                b = c;
                break;
            }

    kq_status st = KQ_OK;
    kq_hadamard *h = kq_calloc(1, sizeof *h);
    if (!h)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: orthogonal transform of order %zu", n);
    h->n = h->span = n;
    h->b = h->inner = b;
    h->fallback = q > 1 && how == NONE;
    if ((st = kq_alloc_for((void **)&h->base, b * b, sizeof *h->base, "base of an orthogonal transform",
                           err)) != KQ_OK)
        goto out;
    if (how == PALEY_1)
        paley_1(b, h->base);
    else if (how == PALEY_2)
        paley_2(b, h->base);
    else if (how == WILLIAMSON)
        williamson_172(h->base);
    else
        hartley(b, h->base); /* [1] for b = 1 */
    h->dense = h->base;
    if (b == 1 && n > 1) {
        /* The innermost butterflies work within a vector register; a product with the dense S_16 is
         * faster and the same matrix. */
        size_t m = h->inner = n < INNER_MIN ? n : INNER_MIN;
        if ((st = kq_alloc_for((void **)&h->dense, m * m, sizeof *h->dense, "base of an orthogonal transform",
                               err)) != KQ_OK)
            goto out;
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < m; j++)
                h->dense[i * m + j] = __builtin_parity((unsigned)(i & j)) ? -1 : 1;
    }
out:
    if (st != KQ_OK) {
        kq_hadamard_free(h);
        return st;
    }
    *out = h;
    return KQ_OK;
}

kq_status kq_hadamard_new_blocks(size_t n, size_t block, kq_hadamard **out, kq_error *err)
{
    *out = NULL;
    if (block == 0 || (block & (block - 1)) || n == 0 || n % block || n > (size_t)1 << 31)
        return kq_fail(err, KQ_E_ARG, "orthogonal transform of order %zu in blocks of %zu", n, block);
    kq_status st = kq_hadamard_new(block, out, err);
    if (st == KQ_OK)
        (*out)->n = n;
    return st;
}

void kq_hadamard_free(kq_hadamard *h)
{
    if (!h)
        return;
    if (h->dense != h->base)
        kq_free(h->dense);
    kq_free(h->base);
    kq_free(h);
}

size_t kq_hadamard_order(const kq_hadamard *h)
{
    return h->n;
}

size_t kq_hadamard_base(const kq_hadamard *h)
{
    return h->b;
}

const float *kq_hadamard_base_matrix(const kq_hadamard *h)
{
    return h->base;
}

bool kq_hadamard_is_fallback(const kq_hadamard *h)
{
    return h->fallback;
}

/* One or two stages of the Sylvester transform over x [n]: entries h (and 2h) apart, h contiguous. */
static void stage_2(float *x, size_t n, size_t h)
{
    for (float *p = x; p < x + n; p += 2 * h) {
        float *q = p + h;
#pragma omp simd
        for (size_t j = 0; j < h; j++) {
            float a = p[j], b = q[j];
            p[j] = a + b;
            q[j] = a - b;
        }
    }
}

static void stage_4(float *x, size_t n, size_t h)
{
    for (float *p = x; p < x + n; p += 4 * h) {
        float *q = p + h, *r = q + h, *s = r + h;
#pragma omp simd
        for (size_t j = 0; j < h; j++) {
            float a = p[j] + q[j], b = p[j] - q[j], c = r[j] + s[j], d = r[j] - s[j];
            p[j] = a + c;
            q[j] = b + d;
            r[j] = a - c;
            s[j] = b - d;
        }
    }
}

void kq_hadamard_rows(const kq_hadamard *h, bool transpose, float *x, size_t rows, size_t ld, float *scratch)
{
    const size_t n = h->n, b = h->inner;
    const size_t span = h->span;
    const float scale = (float)(1 / sqrt((double)span));
    for (size_t i = 0; i < rows; i++, x += ld) {
        kq_gemm_f32(false, transpose, n / b, b, b, scale, x, b, h->dense, b, 0, scratch, b);
        size_t step = b;
        for (; step * 4 <= span; step *= 4)
            stage_4(scratch, n, step);
        if (step < span)
            stage_2(scratch, n, step);
        memcpy(x, scratch, n * sizeof *x);
    }
}
