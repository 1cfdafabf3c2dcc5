/* One linear, forward (eq. 12) and backward (eq. 22). The products are in f32 or in bf16, as the context
 * says. */
#include "model/internal.h"

void kq_to_compute(const kq_model_ctx *mc, const float *X, size_t count, uint16_t *xb, int threads)
{
    if (mc->compute != KQ_BF16)
        return;
    const size_t piece = 1 << 16;
    size_t n = (count + piece - 1) / piece;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (size_t i = 0; i < n; i++)
        mc->kern->to_bf16(X + i * piece, xb + i * piece,
                          count - i * piece < piece ? count - i * piece : piece);
}

kq_status kq_linear_forward(const kq_model_ctx *mc, const kq_linear *lin, const float *X, const uint16_t *xb,
                            size_t T, bool accumulate, float *Y, int threads, kq_error *err)
{
    if (mc->compute == KQ_BF16)
        return kq_gemm_bf16_tiled(false, true, T, lin->m, lin->n, xb, lin->n, lin->bf16, lin->n, accumulate,
                                  Y, lin->m, threads, err);
    kq_gemm_f32_tiled(false, true, T, lin->m, lin->n, 1.0f, X, lin->n, lin->f32, lin->n,
                      accumulate ? 1.0f : 0.0f, Y, lin->m, threads);
    return KQ_OK;
}

kq_status kq_linear_backward(const kq_model_ctx *mc, const kq_linear *lin, const float *G, const uint16_t *gb,
                             size_t T, bool accumulate, float *dX, int threads, kq_error *err)
{
    if (mc->compute == KQ_BF16)
        return kq_gemm_bf16_tiled(false, false, T, lin->n, lin->m, gb, lin->m, lin->bf16, lin->n, accumulate,
                                  dX, lin->n, threads, err);
    kq_gemm_f32_tiled(false, false, T, lin->n, lin->m, 1.0f, G, lin->m, lin->f32, lin->n,
                      accumulate ? 1.0f : 0.0f, dX, lin->n, threads);
    return KQ_OK;
}
