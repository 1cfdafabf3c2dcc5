/* The kernels, written once over a vector of VF_N floats and included once per instruction set. The including
 * file defines TARGET, FN(name), VF_N, vf (the vector), KERN_NAME, KERN_TABLE; vf_set1, vf_load(p),
 * vf_store(p, v); vf_part(p, k, fill) and vf_part_store(p, k, v) for the first k < VF_N lanes, the other
 * lanes being `fill`; vf_keep(v, k), the other lanes to 0; vf_add, vf_sub, vf_mul, vf_div, vf_fma (a b + c),
 * vf_fnma (c - a b), vf_max and vf_min (the second operand where one is NaN), vf_round, vf_pow2(v, n) = v
 * 2^n, vf_sum and vf_hmax over the lanes; vf_load_bf16(p), vf_part_bf16(p, k), vf_store_bf16(p, v). */

/* exp: x = n ln 2 + r, |r| <= ln(2)/2, a polynomial of degree 6 in r (the coefficients of Cephes' expf,
 * Moshier 1989), then the exponent. Below -86.99 (n < -125) the result is 0; above 88.37 the argument
 * counts as 88.37. NaN stays (see vf_max, vf_min). */
static inline TARGET vf FN(exp)(vf x)
{
    x = vf_min(vf_set1(88.37f), vf_max(vf_set1(-126.0f), x));
    vf n = vf_round(vf_mul(x, vf_set1(1.44269504088896341f)));
    vf r = vf_fnma(n, vf_set1(0.693359375f), x);
    r = vf_fnma(n, vf_set1(-2.12194440e-4f), r);
    vf p = vf_set1(1.9875691500e-4f);
    p = vf_fma(p, r, vf_set1(1.3981999507e-3f));
    p = vf_fma(p, r, vf_set1(8.3334519073e-3f));
    p = vf_fma(p, r, vf_set1(4.1665795894e-2f));
    p = vf_fma(p, r, vf_set1(1.6666665459e-1f));
    p = vf_fma(p, r, vf_set1(5.0000001201e-1f));
    p = vf_add(vf_fma(vf_mul(r, r), p, r), vf_set1(1.0f));
    return vf_pow2(p, n);
}

static TARGET float FN(exp_sum)(float *x, size_t n, float shift)
{
    vf s = vf_set1(0), m = vf_set1(shift);
    size_t i = 0;
    for (; n - i >= VF_N; i += VF_N) {
        vf e = FN(exp)(vf_sub(vf_load(x + i), m));
        vf_store(x + i, e);
        s = vf_add(s, e);
    }
    if (i < n) {
        vf e = vf_keep(FN(exp)(vf_sub(vf_part(x + i, n - i, 0), m)), n - i);
        vf_part_store(x + i, n - i, e);
        s = vf_add(s, e);
    }
    return vf_sum(s);
}

static TARGET double FN(sum_exp)(const float *x, size_t n, float shift)
{
    double total = 0;
    vf m = vf_set1(shift);
    while (n > 0) {
        size_t len = n < 1024 ? n : 1024, i = 0;
        vf s = vf_set1(0);
        for (; len - i >= VF_N; i += VF_N)
            s = vf_add(s, FN(exp)(vf_sub(vf_load(x + i), m)));
        if (i < len)
            s = vf_add(s, vf_keep(FN(exp)(vf_sub(vf_part(x + i, len - i, 0), m)), len - i));
        total += vf_sum(s);
        x += len;
        n -= len;
    }
    return total;
}

static TARGET float FN(max)(const float *x, size_t n)
{
    /* A maximum instruction loses NaNs depending on their place; adding 0 * x keeps them (Inf gives NaN
     * too: no row of finite logits holds one, and the caller looks for either). */
    vf m = vf_set1(x[0]), bad = vf_set1(0), zero = vf_set1(0);
    size_t i = 0;
    for (; n - i >= VF_N; i += VF_N) {
        vf v = vf_load(x + i);
        m = vf_max(m, v);
        bad = vf_fma(v, zero, bad);
    }
    if (i < n) {
        vf v = vf_part(x + i, n - i, x[0]);
        m = vf_max(m, v);
        bad = vf_fma(v, zero, bad);
    }
    float b = vf_sum(bad);
    if (b == 0)
        return vf_hmax(m);
    float r = x[0];
    for (i = 1; i < n; i++)
        if (x[i] > r || x[i] != x[i])
            r = x[i];
    return r;
}

static TARGET double FN(kl_back)(const float *t, float *s, size_t n, float lse_t, float lse_s)
{
    double total = 0;
    const vf a = vf_set1(lse_t), b = vf_set1(lse_s);
    while (n > 0) {
        size_t len = n < 1024 ? n : 1024, i = 0;
        vf sum = vf_set1(0);
        for (; len - i >= VF_N; i += VF_N) {
            const vf lp = vf_sub(vf_load(t + i), a), lq = vf_sub(vf_load(s + i), b), p = FN(exp)(lp);
            sum = vf_fma(p, vf_sub(lp, lq), sum);
            vf_store(s + i, vf_sub(FN(exp)(lq), p));
        }
        if (i < len) {
            const size_t k = len - i;
            const vf lp = vf_sub(vf_part(t + i, k, 0), a), lq = vf_sub(vf_part(s + i, k, 0), b),
                     p = FN(exp)(lp);
            sum = vf_add(sum, vf_keep(vf_mul(p, vf_sub(lp, lq)), k));
            vf_part_store(s + i, k, vf_sub(FN(exp)(lq), p));
        }
        total += vf_sum(sum);
        t += len;
        s += len;
        n -= len;
    }
    return total;
}

static TARGET void FN(softmax_again)(float *x, size_t n, float scale, float shift)
{
    vf a = vf_set1(scale), m = vf_set1(-shift);
    size_t i = 0;
    for (; n - i >= VF_N; i += VF_N)
        vf_store(x + i, FN(exp)(vf_fma(vf_load(x + i), a, m)));
    if (i < n)
        vf_part_store(x + i, n - i, FN(exp)(vf_fma(vf_part(x + i, n - i, 0), a, m)));
}

static TARGET void FN(scale)(float *x, size_t n, float s)
{
    vf a = vf_set1(s);
    size_t i = 0;
    for (; n - i >= VF_N; i += VF_N)
        vf_store(x + i, vf_mul(vf_load(x + i), a));
    if (i < n)
        vf_part_store(x + i, n - i, vf_mul(vf_part(x + i, n - i, 0), a));
}

static TARGET float FN(softmax)(float *x, size_t n, float scale)
{
    float top = FN(max)(x, n) * scale;
    vf a = vf_set1(scale), m = vf_set1(-top), s = vf_set1(0);
    size_t i = 0;
    for (; n - i >= VF_N; i += VF_N) {
        vf e = FN(exp)(vf_fma(vf_load(x + i), a, m));
        vf_store(x + i, e);
        s = vf_add(s, e);
    }
    if (i < n) {
        vf e = vf_keep(FN(exp)(vf_fma(vf_part(x + i, n - i, 0), a, m)), n - i);
        vf_part_store(x + i, n - i, e);
        s = vf_add(s, e);
    }
    float sum = vf_sum(s);
    FN(scale)(x, n, 1.0f / sum);
    return top + logf(sum);
}

static TARGET void FN(softmax_back)(const float *p, float *ds, size_t n, float delta, float scale)
{
    vf d = vf_set1(delta), a = vf_set1(scale);
    size_t i = 0;
    for (; n - i >= VF_N; i += VF_N)
        vf_store(ds + i, vf_mul(vf_mul(vf_load(p + i), vf_sub(vf_load(ds + i), d)), a));
    if (i < n)
        vf_part_store(ds + i, n - i,
                      vf_mul(vf_mul(vf_part(p + i, n - i, 0), vf_sub(vf_part(ds + i, n - i, 0), d)), a));
}

static inline TARGET vf FN(sigmoid)(vf g)
{
    vf one = vf_set1(1.0f);
    return vf_div(one, vf_add(one, FN(exp)(vf_sub(vf_set1(0), g))));
}

static TARGET void FN(swiglu)(const float *g, const float *u, float *h, size_t n)
{
    size_t i = 0;
    for (; n - i >= VF_N; i += VF_N) {
        vf a = vf_load(g + i);
        vf_store(h + i, vf_mul(vf_mul(a, FN(sigmoid)(a)), vf_load(u + i)));
    }
    if (i < n) {
        vf a = vf_part(g + i, n - i, 0);
        vf_part_store(h + i, n - i, vf_mul(vf_mul(a, FN(sigmoid)(a)), vf_part(u + i, n - i, 0)));
    }
}

static TARGET void FN(swiglu_back)(float *g, float *u, const float *dh, size_t n)
{
    vf one = vf_set1(1.0f);
    for (size_t i = 0; i < n; i += VF_N) {
        size_t k = n - i;
        bool whole = k >= VF_N;
        vf a = whole ? vf_load(g + i) : vf_part(g + i, k, 0),
           b = whole ? vf_load(u + i) : vf_part(u + i, k, 0);
        vf d = whole ? vf_load(dh + i) : vf_part(dh + i, k, 0), s = FN(sigmoid)(a), ds = vf_mul(d, s);
        vf du = vf_mul(ds, a), dg = vf_mul(vf_mul(ds, b), vf_fma(a, vf_sub(one, s), one));
        if (whole) {
            vf_store(g + i, dg);
            vf_store(u + i, du);
        } else {
            vf_part_store(g + i, k, dg);
            vf_part_store(u + i, k, du);
        }
    }
}

static TARGET float FN(dot)(const float *a, const float *b, size_t n)
{
    vf s = vf_set1(0), t = vf_set1(0);
    size_t i = 0;
    for (; n - i >= 2 * VF_N; i += 2 * VF_N) {
        s = vf_fma(vf_load(a + i), vf_load(b + i), s);
        t = vf_fma(vf_load(a + i + VF_N), vf_load(b + i + VF_N), t);
    }
    for (; n - i >= VF_N; i += VF_N)
        s = vf_fma(vf_load(a + i), vf_load(b + i), s);
    if (i < n)
        t = vf_fma(vf_part(a + i, n - i, 0), vf_part(b + i, n - i, 0), t);
    return vf_sum(vf_add(s, t));
}

static TARGET float FN(rms_norm)(const float *x, const float *w, float *y, size_t n, float eps)
{
    float r = 1.0f / sqrtf(FN(dot)(x, x, n) / (float)n + eps);
    vf a = vf_set1(r);
    size_t i = 0;
    for (; n - i >= VF_N; i += VF_N)
        vf_store(y + i, vf_mul(vf_mul(vf_load(x + i), a), vf_load(w + i)));
    if (i < n)
        vf_part_store(y + i, n - i, vf_mul(vf_mul(vf_part(x + i, n - i, 0), a), vf_part(w + i, n - i, 0)));
    return r;
}

static TARGET void FN(rms_norm_back)(const float *x, const float *w, const float *dy, float r,
                                     const float *add, float *dx, size_t n)
{
    vf s = vf_set1(0);
    size_t i = 0;
    for (; n - i >= VF_N; i += VF_N)
        s = vf_fma(vf_mul(vf_load(x + i), vf_load(w + i)), vf_load(dy + i), s);
    if (i < n)
        s = vf_fma(vf_mul(vf_part(x + i, n - i, 0), vf_part(w + i, n - i, 0)), vf_part(dy + i, n - i, 0), s);
    vf a = vf_set1(r), c = vf_set1(vf_sum(s) * (r * r / (float)n)), zero = vf_set1(0);
    for (i = 0; n - i >= VF_N; i += VF_N) {
        vf t = vf_fnma(vf_load(x + i), c, vf_mul(vf_load(w + i), vf_load(dy + i)));
        vf_store(dx + i, vf_fma(a, t, add ? vf_load(add + i) : zero));
    }
    if (i < n) {
        vf t =
            vf_fnma(vf_part(x + i, n - i, 0), c, vf_mul(vf_part(w + i, n - i, 0), vf_part(dy + i, n - i, 0)));
        vf_part_store(dx + i, n - i, vf_fma(a, t, add ? vf_part(add + i, n - i, 0) : zero));
    }
}

static TARGET void FN(rope)(const float *x, const float *cos, const float *sin, float *y, size_t half,
                            float sign)
{
    vf g = vf_set1(sign);
    size_t i = 0;
    for (; half - i >= VF_N; i += VF_N) {
        vf a = vf_load(x + i), b = vf_load(x + i + half), c = vf_load(cos + i),
           s = vf_mul(g, vf_load(sin + i));
        vf_store(y + i, vf_fnma(b, s, vf_mul(a, c)));
        vf_store(y + i + half, vf_fma(a, s, vf_mul(b, c)));
    }
    if (i < half) {
        size_t k = half - i;
        vf a = vf_part(x + i, k, 0), b = vf_part(x + i + half, k, 0), c = vf_part(cos + i, k, 0),
           s = vf_mul(g, vf_part(sin + i, k, 0));
        vf_part_store(y + i, k, vf_fnma(b, s, vf_mul(a, c)));
        vf_part_store(y + i + half, k, vf_fma(a, s, vf_mul(b, c)));
    }
}

static TARGET void FN(add)(const float *a, const float *b, float *y, size_t n)
{
    size_t i = 0;
    for (; n - i >= VF_N; i += VF_N)
        vf_store(y + i, vf_add(vf_load(a + i), vf_load(b + i)));
    if (i < n)
        vf_part_store(y + i, n - i, vf_add(vf_part(a + i, n - i, 0), vf_part(b + i, n - i, 0)));
}

#define FACTOR_BACK(name, type, load, part)                                                         \
    static TARGET float FN(name)(const float *g, const type *w, float a, const float *b, float *db, \
                                 size_t n)                                                          \
    {                                                                                               \
        vf s = vf_set1(0), va = vf_set1(a);                                                         \
        size_t i = 0;                                                                               \
        for (; n - i >= VF_N; i += VF_N) {                                                          \
            const vf gw = vf_mul(vf_load(g + i), load(w + i));                                      \
            s = vf_fma(gw, vf_load(b + i), s);                                                      \
            vf_store(db + i, vf_fma(va, gw, vf_load(db + i)));                                      \
        }                                                                                           \
        if (i < n) {                                                                                \
            const size_t k = n - i;                                                                 \
            const vf gw = vf_mul(vf_part(g + i, k, 0), part(w + i, k));                             \
            s = vf_fma(gw, vf_part(b + i, k, 0), s);                                                \
            vf_part_store(db + i, k, vf_fma(va, gw, vf_part(db + i, k, 0)));                        \
        }                                                                                           \
        return vf_sum(s);                                                                           \
    }
#define PART_F32(p, k) vf_part(p, k, 0)
FACTOR_BACK(factor_back, float, vf_load, PART_F32)
FACTOR_BACK(factor_back_bf16, uint16_t, vf_load_bf16, vf_part_bf16)
#undef FACTOR_BACK
#undef PART_F32

/* Four rows at a time share the loads of x; each row's sum has two chains, so that the order does not
 * depend on which rows go together. */
#define MATVEC(name, type, load, part)                                                                     \
    static TARGET void FN(name)(const type *W, size_t ld, size_t rows, size_t n, const float *x, float *y) \
    {                                                                                                      \
        size_t r = 0;                                                                                      \
        for (; r < rows; r += 4) {                                                                         \
            size_t left = rows - r - 1;                                                                    \
            const type *w0 = W + r * ld, *w1 = w0 + (left >= 1 ? ld : 0), *w2 = w1 + (left >= 2 ? ld : 0), \
                       *w3 = w2 + (left >= 3 ? ld : 0);                                                    \
            vf a0 = vf_set1(0), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;             \
            size_t i = 0;                                                                                  \
            for (; n - i >= 2 * VF_N; i += 2 * VF_N) {                                                     \
                vf u = vf_load(x + i), v = vf_load(x + i + VF_N);                                          \
                a0 = vf_fma(load(w0 + i), u, a0), b0 = vf_fma(load(w0 + i + VF_N), v, b0);                 \
                a1 = vf_fma(load(w1 + i), u, a1), b1 = vf_fma(load(w1 + i + VF_N), v, b1);                 \
                a2 = vf_fma(load(w2 + i), u, a2), b2 = vf_fma(load(w2 + i + VF_N), v, b2);                 \
                a3 = vf_fma(load(w3 + i), u, a3), b3 = vf_fma(load(w3 + i + VF_N), v, b3);                 \
            }                                                                                              \
            for (; i < n; i += VF_N) {                                                                     \
                size_t k = n - i;                                                                          \
                bool all = k >= VF_N;                                                                      \
                vf u = all ? vf_load(x + i) : vf_part(x + i, k, 0);                                        \
                a0 = vf_fma(all ? load(w0 + i) : part(w0 + i, k), u, a0);                                  \
                a1 = vf_fma(all ? load(w1 + i) : part(w1 + i, k), u, a1);                                  \
                a2 = vf_fma(all ? load(w2 + i) : part(w2 + i, k), u, a2);                                  \
                a3 = vf_fma(all ? load(w3 + i) : part(w3 + i, k), u, a3);                                  \
            }                                                                                              \
            y[r] = vf_sum(vf_add(a0, b0));                                                                 \
            if (left >= 1)                                                                                 \
                y[r + 1] = vf_sum(vf_add(a1, b1));                                                         \
            if (left >= 2)                                                                                 \
                y[r + 2] = vf_sum(vf_add(a2, b2));                                                         \
            if (left >= 3)                                                                                 \
                y[r + 3] = vf_sum(vf_add(a3, b3));                                                         \
        }                                                                                                  \
    }
#define PART_F32(p, k) vf_part(p, k, 0)
MATVEC(matvec, float, vf_load, PART_F32)
MATVEC(matvec_bf16, uint16_t, vf_load_bf16, vf_part_bf16)
#undef MATVEC

/* Columns in strips of four vectors that stay in registers over all rows. */
#define MATVEC_T(name, type, load, part)                                                                   \
    static TARGET void FN(name)(const type *W, size_t ld, size_t rows, size_t n, const float *x, float *y) \
    {                                                                                                      \
        size_t i = 0;                                                                                      \
        for (; n - i >= 4 * VF_N; i += 4 * VF_N) {                                                         \
            vf a = vf_set1(0), b = a, c = a, d = a;                                                        \
            const type *w = W + i;                                                                         \
            for (size_t r = 0; r < rows; r++, w += ld) {                                                   \
                vf v = vf_set1(x[r]);                                                                      \
                a = vf_fma(v, load(w), a), b = vf_fma(v, load(w + VF_N), b);                               \
                c = vf_fma(v, load(w + 2 * VF_N), c), d = vf_fma(v, load(w + 3 * VF_N), d);                \
            }                                                                                              \
            vf_store(y + i, a), vf_store(y + i + VF_N, b), vf_store(y + i + 2 * VF_N, c),                  \
                vf_store(y + i + 3 * VF_N, d);                                                             \
        }                                                                                                  \
        for (; i < n; i += VF_N) {                                                                         \
            size_t k = n - i;                                                                              \
            vf a = vf_set1(0);                                                                             \
            for (size_t r = 0; r < rows; r++)                                                              \
                a = vf_fma(vf_set1(x[r]), k >= VF_N ? load(W + r * ld + i) : part(W + r * ld + i, k), a);  \
            if (k >= VF_N)                                                                                 \
                vf_store(y + i, a);                                                                        \
            else                                                                                           \
                vf_part_store(y + i, k, a);                                                                \
        }                                                                                                  \
    }
MATVEC_T(matvec_t, float, vf_load, PART_F32)
MATVEC_T(matvec_t_bf16, uint16_t, vf_load_bf16, vf_part_bf16)
#undef MATVEC_T
#undef PART_F32

static TARGET void FN(to_bf16)(const float *x, uint16_t *y, size_t n)
{
    size_t i = 0;
    for (; n - i >= VF_N; i += VF_N)
        vf_store_bf16(y + i, vf_load(x + i));
    for (; i < n; i++)
        y[i] = kq_f32_to_bf16(x[i]);
}

static TARGET bool FN(all_finite)(const float *x, size_t n)
{
    vf bad = vf_set1(0), zero = bad; /* 0 * v is 0 for a finite v, NaN for the others */
    size_t i = 0;
    for (; n - i >= VF_N; i += VF_N)
        bad = vf_fma(vf_load(x + i), zero, bad);
    if (i < n)
        bad = vf_fma(vf_part(x + i, n - i, 0), zero, bad);
    return vf_sum(bad) == 0;
}

const kq_kern KERN_TABLE = {
    .name = KERN_NAME,
    .exp_sum = FN(exp_sum),
    .sum_exp = FN(sum_exp),
    .max = FN(max),
    .kl_back = FN(kl_back),
    .softmax = FN(softmax),
    .softmax_again = FN(softmax_again),
    .softmax_back = FN(softmax_back),
    .swiglu = FN(swiglu),
    .swiglu_back = FN(swiglu_back),
    .rms_norm = FN(rms_norm),
    .rms_norm_back = FN(rms_norm_back),
    .rope = FN(rope),
    .dot = FN(dot),
    .add = FN(add),
    .scale = FN(scale),
    .factor_back = FN(factor_back),
    .factor_back_bf16 = FN(factor_back_bf16),
    .matvec = FN(matvec),
    .matvec_bf16 = FN(matvec_bf16),
    .matvec_t = FN(matvec_t),
    .matvec_t_bf16 = FN(matvec_t_bf16),
    .to_bf16 = FN(to_bf16),
    .all_finite = FN(all_finite),
};
