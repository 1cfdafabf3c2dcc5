/* The orthogonal transforms of round/hadamard.c for one vector, through the kernels of this room: the same
 * matrices in another order of the same sums. round's own go through BLAS, whose call overhead a pass over a
 * small model would feel. */
#include "decode/rotate.h"

#include <math.h>

#include "base/mem.h"

/* x U = (x as rows of b) B, then Sylvester's butterflies over the rows; U's factors commute. A power of
 * two takes b = 16: S_16 is its own base. */
struct kq_rotation {
    size_t n, b;
    float *B, *Bt; /* owned [b, b], times 1/sqrt(n); B's transpose */
};

void kq_rotation_free(kq_rotation *r)
{
    if (!r)
        return;
    kq_free(r->B);
    kq_free(r->Bt);
    kq_free(r);
}

size_t kq_rotation_order(const kq_rotation *r)
{
    return r->n;
}

kq_status kq_rotation_new(size_t n, kq_rotation **out, kq_error *err)
{
    *out = NULL;
    kq_hadamard *h;
    kq_status st = kq_hadamard_new(n, &h, err);
    if (st)
        return st;
    kq_rotation *r = kq_calloc(1, sizeof *r);
    if (!r) {
        kq_hadamard_free(h);
        return kq_fail(err, KQ_E_MEMORY, "out of memory: rotation");
    }
    const bool power = kq_hadamard_base(h) == 1;
    r->n = n;
    r->b = !power ? kq_hadamard_base(h) : n < 16 ? n : 16;
    const float *base = kq_hadamard_base_matrix(h), scale = (float)(1 / sqrt((double)n));
    if (!(st = kq_alloc_for((void **)&r->B, r->b * r->b, sizeof *r->B, "rotation", err)) &&
        !(st = kq_alloc_for((void **)&r->Bt, r->b * r->b, sizeof *r->Bt, "rotation", err)))
        for (size_t i = 0; i < r->b; i++)
            for (size_t j = 0; j < r->b; j++)
                r->B[i * r->b + j] = r->Bt[j * r->b + i] =
                    scale *
                    (power ? (__builtin_parity((unsigned)(i & j)) ? -1.0f : 1.0f) : base[i * r->b + j]);
    kq_hadamard_free(h);
    if (st)
        kq_rotation_free(r);
    else
        *out = r;
    return st;
}

void kq_rotate(const kq_rotation *r, const kq_decode_kern *k, bool transpose, const float *x, float *y)
{
    k->mix_f32(transpose ? r->Bt : r->B, r->b, r->b, r->b, x, r->b, r->n / r->b, y, r->b);
    k->sylvester(y, r->n, r->b);
}
