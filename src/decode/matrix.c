/* Products with a matrix of any kind. What the kernels do is the same for one vector and for many: each
 * value's sum has one order. */
#include "decode/matrix.h"

#include <string.h>

#include "base/file.h"
#include "base/mem.h"

void kq_matrix_free(kq_matrix *M)
{
    kq_free(M->f32);
    if (M->half && !M->owned_half)
        kq_map_release(M->half, M->m * M->n * sizeof *M->half);
    kq_free(M->owned_half);
    kq_free(M->scales);
    kq_free(M->owned_words);
    kq_free(M->su);
    kq_free(M->sv);
    *M = (kq_matrix){0};
}

static size_t row_at(const kq_matrix *M, size_t tile, int *bits)
{
    const kq_packed p = {
        .m_pad = M->m_pad, .n_pad = M->n_pad, .fine_first = M->fine_first, .fine_last = M->fine_last};
    return kq_packed_row_at(&p, kq_trellis_k(M->trellis), tile, bits);
}

size_t kq_matrix_bytes(const kq_matrix *M)
{
    const size_t mn = M->m * M->n;
    switch (M->kind) {
    case KQ_MATRIX_F32: return 4 * mn;
    case KQ_MATRIX_BF16:
    case KQ_MATRIX_F16: return 2 * mn;
    case KQ_MATRIX_Q8: return mn + 4 * (mn / M->group);
    case KQ_MATRIX_Q4: return M->m * ((M->n + 1) / 2) + 4 * (mn / M->group);
    case KQ_MATRIX_PACKED: return 2 * row_at(M, M->m_pad / 16, &(int){0}) + 4 * (M->m + M->n);
    }
    return 0;
}

void kq_matrix_rows(const kq_matrix *M, const kq_decode_kern *k, size_t r0, size_t r1, const float *x,
                    size_t ldx, size_t T, float *y, size_t ldy)
{
    const size_t n = M->n, rows = r1 - r0;
    switch (M->kind) {
    case KQ_MATRIX_F32: k->dots_f32(M->f32 + r0 * n, n, rows, n, x, ldx, T, y, ldy); break;
    case KQ_MATRIX_BF16: k->dots_bf16(M->half + r0 * n, n, rows, n, x, ldx, T, y, ldy); break;
    case KQ_MATRIX_F16: k->dots_f16(M->half + r0 * n, n, rows, n, x, ldx, T, y, ldy); break;
    case KQ_MATRIX_Q8:
        k->dots_q8((const int8_t *)M->q + r0 * n, M->scales + r0 * (n / M->group), rows, n, M->group, x, ldx,
                   T, y, ldy);
        break;
    case KQ_MATRIX_Q4:
        k->dots_q4(M->q + r0 * ((n + 1) / 2), M->scales + r0 * (n / M->group), rows, n, M->group, x, ldx, T,
                   y, ldy);
        break;
    case KQ_MATRIX_PACKED: break; /* kq_matrix_tile */
    }
}

void kq_matrix_rows_packed(const kq_matrix *M, const kq_bf16_kern *k, size_t r0, size_t r1,
                           const uint32_t *packed, size_t T, float *y, size_t ldy)
{
    k->dots(M->half + r0 * M->n, r1 - r0, M->n, packed, T, y, ldy);
}

void kq_matrix_rotate_in(const kq_matrix *M, const kq_matrix_kern *k, const float *x, void *z, float *step,
                         float *scratch)
{
    float *signed_x = scratch, *rotated = M->code ? scratch + M->n_pad : z;
    for (size_t i = 0; i < M->n; i++)
        signed_x[i] = x[i] * M->su[i];
    memset(signed_x + M->n, 0, (M->n_pad - M->n) * sizeof *signed_x);
    kq_rotate(M->u_n, k->dense, false, signed_x, rotated);
    *step = M->code ? k->packed->quantize(rotated, M->n_pad, M->code->x_max, z) : 1;
}

void kq_matrix_tile(const kq_matrix *M, const kq_matrix_kern *k, size_t tile, const void *z, size_t ldz,
                    size_t T, float *y, size_t ldy, void *panel)
{
    const size_t nt = M->n_pad / 16;
    int bits;
    const uint16_t *w = M->words + row_at(M, tile, &bits);
    const bool fine = bits != kq_trellis_k(M->trellis);
    const kq_trellis *t = fine ? M->fine : M->trellis;
    const kq_packed_code *code = fine ? M->fine_code : M->code;
    const size_t words = kq_trellis_words(t);
    if (code && T == 1) {
        k->packed->dot(code, w, nt, z, y);
    } else if (code) {
        k->packed->decode(code, w, nt, panel);
        k->packed->dots(panel, nt, z, ldz, T, y, ldy);
    } else {
        float *dense = panel, value[KQ_TILE_SIZE];
        for (size_t c = 0; c < nt; c++) {
            kq_trellis_decode(t, w + c * words, 1, value);
            for (size_t r = 0; r < 16; r++)
                memcpy(dense + r * M->n_pad + c * 16, value + r * 16, 16 * sizeof *dense);
        }
        k->dense->dots_f32(dense, M->n_pad, 16, M->n_pad, z, ldz, T, y, ldy);
    }
}

void kq_matrix_head_rows(const kq_matrix *M, const kq_matrix_kern *k, size_t r0, size_t r1,
                         const kq_rotated *x, float *y, size_t ldy, void *panel)
{
    for (size_t r = r0; r < r1; r += 16)
        kq_matrix_tile(M, k, r / 16, x->z, x->ldz, x->T, y + (r - r0), ldy, panel);
    for (size_t t = 0; t < x->T; t++)
        for (size_t r = r0; r < r1; r++)
            y[t * ldy + r - r0] *= M->sv[r] * x->steps[t];
}

void kq_matrix_rotate_out(const kq_matrix *M, const kq_decode_kern *k, float *w, float step, float *y,
                          float *scratch)
{
    kq_rotate(M->u_m, k, true, w, scratch);
    for (size_t r = 0; r < M->m; r++)
        y[r] = scratch[r] * (M->sv[r] * step);
}
