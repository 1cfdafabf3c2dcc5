#include "decode/matrix.h"

#include "base/mem.h"

void kq_matrix_free(kq_matrix *M)
{
    kq_free(M->f32);
    kq_free(M->bf16);
    kq_free(M->scales);
    *M = (kq_matrix){0};
}

size_t kq_matrix_bytes(const kq_matrix *M)
{
    const size_t mn = M->m * M->n;
    switch (M->kind) {
    case KQ_MATRIX_F32: return 4 * mn;
    case KQ_MATRIX_BF16: return 2 * mn;
    case KQ_MATRIX_Q8: return mn + 4 * (mn / M->group);
    case KQ_MATRIX_Q4: return M->m * ((M->n + 1) / 2) + 4 * (mn / M->group);
    }
    return 0;
}

void kq_matrix_rows(const kq_matrix *M, const kq_decode_kern *k, size_t r0, size_t r1, const float *x, size_t ldx, size_t T, float *y, size_t ldy)
{
    const size_t n = M->n, rows = r1 - r0;
    switch (M->kind) {
    case KQ_MATRIX_F32: k->dots_f32(M->f32 + r0 * n, n, rows, n, x, ldx, T, y, ldy); break;
    case KQ_MATRIX_BF16: k->dots_bf16(M->bf16 + r0 * n, n, rows, n, x, ldx, T, y, ldy); break;
    case KQ_MATRIX_Q8:
        k->dots_q8((const int8_t *)M->q + r0 * n, M->scales + r0 * (n / M->group), rows, n, M->group, x, ldx, T, y, ldy);
        break;
    case KQ_MATRIX_Q4:
        k->dots_q4(M->q + r0 * ((n + 1) / 2), M->scales + r0 * (n / M->group), rows, n, M->group, x, ldx, T, y, ldy);
        break;
    }
}
