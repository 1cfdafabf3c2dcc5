/* Inside the room: the linears of an EXL3 folder as tensors NAME.weight of type KQ_T_EXL3. */
#ifndef KQ_SOURCE_EXL3_H
#define KQ_SOURCE_EXL3_H

#include "format/exl3.h"
#include "format/tensor.h"
#include "source/config.h"

/* What the linears of a folder share. Zeroed: none. */
typedef struct kq_exl3_set {
    kq_exl3 *linear;          /* owned [n]; tensors point to them */
    size_t n, cap;            /* room for all of them is made at once, because tensors point to them */
    float *values[KQ_N_CODE]; /* owned; NULL: no linear has this code */
} kq_exl3_set;

kq_status kq_exl3_set_open(kq_exl3_set *set, size_t n_tensors, kq_error *err);
void kq_exl3_set_close(kq_exl3_set *set); /* zeroed is fine */

/* Does a name end like one of the tensors of an EXL3 linear? The length of the module's name in front of it;
 * 0: no. */
size_t kq_exl3_module(const char *name);
/* The stored tensors of one linear, borrowed; NULL: it is not there. */
typedef struct kq_exl3_parts {
    const kq_tensor *trellis, *suh, *svh, *mcg, *mul1;
    const kq_tensor *other; /* su, sv or bias, of which none is read */
} kq_exl3_parts;
/* Put a tensor of the linear to its place. False: it is none of these. */
bool kq_exl3_take(kq_exl3_parts *parts, const kq_tensor *t);
/* *out = the linear [rows, cols] of the architecture that the parts make; name is its own, borrowed. Types,
 * shapes and scales are checked. KQ_E_FORMAT: a part is missing, or there are two codes; KQ_E_SHAPE,
 * KQ_E_UNSUPPORTED and KQ_E_NUMERIC name the file, the tensor, what was found and what was expected. */
kq_status kq_exl3_linear(kq_exl3_set *set, const kq_exl3_parts *parts, const char *name, size_t rows,
                         size_t cols, kq_tensor *out, kq_error *err);

#endif
