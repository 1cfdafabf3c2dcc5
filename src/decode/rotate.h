/* The orthogonal transforms of round/round.h (eq. 50) for one vector at a time, without a library call: a
 * pass over a small model makes hundreds of them. */
#ifndef KQ_DECODE_ROTATE_H
#define KQ_DECODE_ROTATE_H

#include "decode/kernels.h"
#include "round/round.h"

typedef struct kq_rotation kq_rotation; /* read-only after creation */
/* Order n as kq_hadamard_new; *out is the caller's. KQ_E_ARG, KQ_E_MEMORY. */
kq_status kq_rotation_new(size_t n, kq_rotation **out, kq_error *err);
void kq_rotation_free(kq_rotation *r);
size_t kq_rotation_order(const kq_rotation *r);
/* y = x U (x U^T when transpose), vectors of n; x is left as it is, y may not be x. */
void kq_rotate(const kq_rotation *r, const kq_decode_kern *k, bool transpose, const float *x, float *y);

#endif
