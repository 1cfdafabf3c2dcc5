/* The kernels of decoding, written once over a vector of VF_N floats and included once per instruction set.
 * The including file defines TARGET, FN(name), VF_N, vf (the vector), KERN_NAME, KERN_TABLE, ROWS and VECS
 * (the register block), MIX_VECS and MIX_STRIP (that of the transposed product); vf_set1, vf_load, vf_store,
 * vf_part(p, k) and vf_part_store(p, k, v) for the first k < VF_N lanes (the others are 0), vf_add, vf_sub,
 * vf_fma (a b + c), vf_sum; vf_load_bf16(p), vf_part_bf16(p, k), vf_load_f16, vf_part_f16, vf_store_f16(p,
 * v), vf_load_i8(p), vf_load_u4(p) (VF_N nibbles less 8, low half first). Every dot product has one
 * accumulator of VF_N lanes, whatever the block, so that its bits do not depend on the block. */
#define INLINE static inline __attribute__((always_inline)) TARGET
#define PART_F32(p, k) vf_part(p, k)

#define DOTS(name, type, load, part)                                                                        \
    INLINE void FN(name##_block)(const type *W, size_t ldw, size_t n, const float *x, size_t ldx, float *y, \
                                 size_t ldy, const int R, const int V)                                      \
    {                                                                                                       \
        vf acc[8][4];                                                                                       \
        size_t i = 0;                                                                                       \
        _Pragma("GCC unroll 8") for (int r = 0; r < R; r++)                                                 \
            _Pragma("GCC unroll 4") for (int t = 0; t < V; t++) acc[r][t] = vf_set1(0);                     \
        for (; n - i >= VF_N; i += VF_N) {                                                                  \
            vf v[4];                                                                                        \
            _Pragma("GCC unroll 4") for (int t = 0; t < V; t++) v[t] = vf_load(x + (size_t)t * ldx + i);    \
            _Pragma("GCC unroll 8") for (int r = 0; r < R; r++)                                             \
            {                                                                                               \
                vf w = load(W + (size_t)r * ldw + i);                                                       \
                _Pragma("GCC unroll 4") for (int t = 0; t < V; t++) acc[r][t] = vf_fma(w, v[t], acc[r][t]); \
            }                                                                                               \
        }                                                                                                   \
        if (i < n)                                                                                          \
            _Pragma("GCC unroll 8") for (int r = 0; r < R; r++)                                             \
                _Pragma("GCC unroll 4") for (int t = 0; t < V; t++) acc[r][t] =                             \
                    vf_fma(part(W + (size_t)r * ldw + i, n - i), vf_part(x + (size_t)t * ldx + i, n - i),   \
                           acc[r][t]);                                                                      \
        _Pragma("GCC unroll 4") for (int t = 0; t < V; t++)                                                 \
            _Pragma("GCC unroll 8") for (int r = 0; r < R; r++) y[(size_t)t * ldy + (size_t)r] =            \
                vf_sum(acc[r][t]);                                                                          \
    }                                                                                                       \
    static TARGET void FN(name)(const type *W, size_t ldw, size_t rows, size_t n, const float *x,           \
                                size_t ldx, size_t T, float *y, size_t ldy)                                 \
    {                                                                                                       \
        size_t r = 0;                                                                                       \
        if (T == 1)                                                                                         \
            for (; rows - r >= 8; r += 8)                                                                   \
                FN(name##_block)(W + r * ldw, ldw, n, x, ldx, y + r, ldy, 8, 1);                            \
        for (; rows - r >= ROWS; r += ROWS) {                                                               \
            size_t t = 0;                                                                                   \
            for (; T - t >= VECS; t += VECS)                                                                \
                FN(name##_block)(W + r * ldw, ldw, n, x + t * ldx, ldx, y + t * ldy + r, ldy, ROWS, VECS);  \
            for (; t < T; t++)                                                                              \
                FN(name##_block)(W + r * ldw, ldw, n, x + t * ldx, ldx, y + t * ldy + r, ldy, ROWS, 1);     \
        }                                                                                                   \
        for (; r < rows; r++) {                                                                             \
            size_t t = 0;                                                                                   \
            for (; T - t >= VECS; t += VECS)                                                                \
                FN(name##_block)(W + r * ldw, ldw, n, x + t * ldx, ldx, y + t * ldy + r, ldy, 1, VECS);     \
            for (; t < T; t++)                                                                              \
                FN(name##_block)(W + r * ldw, ldw, n, x + t * ldx, ldx, y + t * ldy + r, ldy, 1, 1);        \
        }                                                                                                   \
    }
DOTS(dots_f32, float, vf_load, PART_F32)
DOTS(dots_bf16, uint16_t, vf_load_bf16, vf_part_bf16)
DOTS(dots_f16, uint16_t, vf_load_f16, vf_part_f16)
#undef DOTS

/* Columns in strips of C vectors, for V vectors x at a time, that stay in registers over all rows: a row is
 * loaded and widened once for all V. */
#define MIX(name, type, load, part)                                                                         \
    INLINE void FN(name##_strip)(const type *W, size_t ldw, size_t rows, const float *x, size_t ldx,        \
                                 float *y, size_t ldy, const int V, const int C)                            \
    {                                                                                                       \
        vf acc[4][4];                                                                                       \
        _Pragma("GCC unroll 4") for (int t = 0; t < V; t++)                                                 \
            _Pragma("GCC unroll 4") for (int c = 0; c < C; c++) acc[t][c] = vf_set1(0);                     \
        for (size_t r = 0; r < rows; r++, W += ldw) {                                                       \
            vf w[4];                                                                                        \
            _Pragma("GCC unroll 4") for (int c = 0; c < C; c++) w[c] = load(W + c * VF_N);                  \
            _Pragma("GCC unroll 4") for (int t = 0; t < V; t++)                                             \
            {                                                                                               \
                vf v = vf_set1(x[(size_t)t * ldx + r]);                                                     \
                _Pragma("GCC unroll 4") for (int c = 0; c < C; c++) acc[t][c] = vf_fma(v, w[c], acc[t][c]); \
            }                                                                                               \
        }                                                                                                   \
        _Pragma("GCC unroll 4") for (int t = 0; t < V; t++)                                                 \
            _Pragma("GCC unroll 4") for (int c = 0; c < C; c++)                                             \
                vf_store(y + (size_t)t * ldy + c * VF_N, acc[t][c]);                                        \
    }                                                                                                       \
    INLINE void FN(name##_some)(const type *W, size_t ldw, size_t rows, size_t n, const float *x,           \
                                size_t ldx, float *y, size_t ldy, const int V)                              \
    {                                                                                                       \
        size_t i = 0;                                                                                       \
        for (; n - i >= MIX_STRIP * VF_N; i += MIX_STRIP * VF_N)                                            \
            FN(name##_strip)(W + i, ldw, rows, x, ldx, y + i, ldy, V, MIX_STRIP);                           \
        for (; n - i >= VF_N; i += VF_N)                                                                    \
            FN(name##_strip)(W + i, ldw, rows, x, ldx, y + i, ldy, V, 1);                                   \
        for (int t = 0; t < V && i < n; t++, x += ldx) {                                                    \
            vf a = vf_set1(0);                                                                              \
            for (size_t r = 0; r < rows; r++)                                                               \
                a = vf_fma(vf_set1(x[r]), part(W + r * ldw + i, n - i), a);                                 \
            vf_part_store(y + (size_t)t * ldy + i, n - i, a);                                               \
        }                                                                                                   \
    }                                                                                                       \
    static TARGET void FN(name)(const type *W, size_t ldw, size_t rows, size_t n, const float *x,           \
                                size_t ldx, size_t T, float *y, size_t ldy)                                 \
    {                                                                                                       \
        size_t t = 0;                                                                                       \
        for (; T - t >= MIX_VECS; t += MIX_VECS)                                                            \
            FN(name##_some)(W, ldw, rows, n, x + t * ldx, ldx, y + t * ldy, ldy, MIX_VECS);                 \
        if (T - t == 3)                                                                                     \
            FN(name##_some)(W, ldw, rows, n, x + t * ldx, ldx, y + t * ldy, ldy, 3);                        \
        else if (T - t == 2)                                                                                \
            FN(name##_some)(W, ldw, rows, n, x + t * ldx, ldx, y + t * ldy, ldy, 2);                        \
        else if (T - t == 1)                                                                                \
            FN(name##_some)(W, ldw, rows, n, x + t * ldx, ldx, y + t * ldy, ldy, 1);                        \
    }
MIX(mix_f32, float, vf_load, PART_F32)
MIX(mix_bf16, uint16_t, vf_load_bf16, vf_part_bf16)
MIX(mix_f16, uint16_t, vf_load_f16, vf_part_f16)
#undef MIX
#undef PART_F32

static TARGET void FN(sylvester)(float *x, size_t n, size_t step)
{
    /* two stages at a time: each value is read and written half as often */
    for (; step * 4 <= n; step *= 4)
        for (float *p = x; p < x + n; p += 4 * step) {
            float *q = p + step, *r = q + step, *s = r + step;
            size_t i = 0;
            for (; step - i >= VF_N; i += VF_N) {
                vf a = vf_load(p + i), b = vf_load(q + i), c = vf_load(r + i), d = vf_load(s + i);
                vf ab = vf_add(a, b), a_b = vf_sub(a, b), cd = vf_add(c, d), c_d = vf_sub(c, d);
                vf_store(p + i, vf_add(ab, cd)), vf_store(q + i, vf_add(a_b, c_d));
                vf_store(r + i, vf_sub(ab, cd)), vf_store(s + i, vf_sub(a_b, c_d));
            }
            if (i < step) {
                size_t k = step - i;
                vf a = vf_part(p + i, k), b = vf_part(q + i, k), c = vf_part(r + i, k), d = vf_part(s + i, k);
                vf ab = vf_add(a, b), a_b = vf_sub(a, b), cd = vf_add(c, d), c_d = vf_sub(c, d);
                vf_part_store(p + i, k, vf_add(ab, cd)), vf_part_store(q + i, k, vf_add(a_b, c_d));
                vf_part_store(r + i, k, vf_sub(ab, cd)), vf_part_store(s + i, k, vf_sub(a_b, c_d));
            }
        }
    if (step < n)
        for (size_t i = 0; i < step; i++) {
            float a = x[i], b = x[i + step];
            x[i] = a + b, x[i + step] = a - b;
        }
}

static TARGET void FN(to_f16)(const float *x, uint16_t *y, size_t n)
{
    size_t i = 0;
    for (; n - i >= VF_N; i += VF_N)
        vf_store_f16(y + i, vf_load(x + i));
    for (; i < n; i++)
        y[i] = kq_f32_to_f16(x[i]);
}

/* rows asked for ahead: four rows read side by side are no stream to the hardware's own prefetcher */
enum { FN(rows_ahead) = 16 };

/* acc = sum over groups of scale * (sum over the group, per lane): one accumulator of VF_N lanes a dot
 * product here too. */
#define DOTS_Q(name, type, bits, load)                                                                     \
    INLINE void FN(name##_block)(const type *q, size_t row_bytes, const float *scales, size_t n,           \
                                 size_t group, const float *x, size_t ldx, float *y, size_t ldy,           \
                                 const int R, const int V)                                                 \
    {                                                                                                      \
        vf acc[4][4];                                                                                      \
        const size_t n_groups = n / group;                                                                 \
        _Pragma("GCC unroll 4") for (int r = 0; r < R; r++)                                                \
            _Pragma("GCC unroll 4") for (int t = 0; t < V; t++) acc[r][t] = vf_set1(0);                    \
        for (size_t g = 0; g < n_groups; g++)                                                              \
            _Pragma("GCC unroll 4") for (int r = 0; r < R; r++)                                            \
            {                                                                                              \
                vf part[4];                                                                                \
                __builtin_prefetch((const char *)q + ((size_t)r + FN(rows_ahead)) * row_bytes +            \
                                   g * group * bits / 8);                                                  \
                _Pragma("GCC unroll 4") for (int t = 0; t < V; t++) part[t] = vf_set1(0);                  \
                for (size_t i = g * group; i < (g + 1) * group; i += VF_N) {                               \
                    vf w = load(q + (size_t)r * row_bytes + i * bits / 8);                                 \
                    _Pragma("GCC unroll 4") for (int t = 0; t < V; t++) part[t] =                          \
                        vf_fma(w, vf_load(x + (size_t)t * ldx + i), part[t]);                              \
                }                                                                                          \
                vf s = vf_set1(scales[(size_t)r * n_groups + g]);                                          \
                _Pragma("GCC unroll 4") for (int t = 0; t < V; t++) acc[r][t] =                            \
                    vf_fma(s, part[t], acc[r][t]);                                                         \
            }                                                                                              \
        _Pragma("GCC unroll 4") for (int t = 0; t < V; t++)                                                \
            _Pragma("GCC unroll 4") for (int r = 0; r < R; r++) y[(size_t)t * ldy + (size_t)r] =           \
                vf_sum(acc[r][t]);                                                                         \
    }                                                                                                      \
    static TARGET void FN(name)(const type *q, const float *scales, size_t rows, size_t n, size_t group,   \
                                const float *x, size_t ldx, size_t T, float *y, size_t ldy)                \
    {                                                                                                      \
        const size_t row_bytes = (n * bits + 7) / 8, n_groups = n / group;                                 \
        if (group % VF_N) {                                                                                \
            kq_decode_kern_ref.name(q, scales, rows, n, group, x, ldx, T, y, ldy);                         \
            return;                                                                                        \
        }                                                                                                  \
        size_t r = 0;                                                                                      \
        for (; rows - r >= 4; r += 4) {                                                                    \
            size_t t = 0;                                                                                  \
            for (; T - t >= 4; t += 4)                                                                     \
                FN(name##_block)                                                                           \
            (q + r * row_bytes, row_bytes, scales + r * n_groups, n, group, x + t * ldx, ldx,              \
             y + t * ldy + r, ldy, 4, 4);                                                                  \
            for (; t < T; t++)                                                                             \
                FN(name##_block)                                                                           \
            (q + r * row_bytes, row_bytes, scales + r * n_groups, n, group, x + t * ldx, ldx,              \
             y + t * ldy + r, ldy, 4, 1);                                                                  \
        }                                                                                                  \
        for (; r < rows; r++)                                                                              \
            for (size_t t = 0; t < T; t++)                                                                 \
                FN(name##_block)                                                                           \
        (q + r * row_bytes, row_bytes, scales + r * n_groups, n, group, x + t * ldx, ldx, y + t * ldy + r, \
         ldy, 1, 1);                                                                                       \
    }
DOTS_Q(dots_q8, int8_t, 8, vf_load_i8)
DOTS_Q(dots_q4, uint8_t, 4, vf_load_u4)
#undef DOTS_Q

const kq_decode_kern KERN_TABLE = {
    .name = KERN_NAME,
    .dots_f32 = FN(dots_f32),
    .dots_bf16 = FN(dots_bf16),
    .dots_f16 = FN(dots_f16),
    .mix_f32 = FN(mix_f32),
    .mix_bf16 = FN(mix_bf16),
    .mix_f16 = FN(mix_f16),
    .to_f16 = FN(to_f16),
    .sylvester = FN(sylvester),
    .dots_q8 = FN(dots_q8),
    .dots_q4 = FN(dots_q4),
};
