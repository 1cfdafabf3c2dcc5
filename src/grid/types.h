/* Which type each tensor of a GGUF to be written gets: the mixture's rules, the user's exceptions, and
 * what to do where blocks do not fit. */
#ifndef KQ_GRID_TYPES_H
#define KQ_GRID_TYPES_H

#include "grid/grid.h"
#include "grid/mix.h"

typedef struct kq_gguf_types {
    const kq_mix *mix;
    kq_dtype *linear;     /* [n_layer * KQ_N_LINEAR], owned; KQ_T_OTHER: kept as stored (not selected) */
    kq_dtype embed, head; /* head: KQ_T_OTHER when tied */
} kq_gguf_types;

/* The types that opt (gguf_type, pure, tensor_type, fallback) asks for. selected [n_layer]: bit id is set
 * where that linear is to be quantized. KQ_E_ARG: an unknown type, a bad --tensor-type; KQ_E_SHAPE: rows that
 * are no whole number of blocks, named with what to ask for. A type of --tensor-type may be F32, F16 or BF16
 * too. On failure *t holds nothing. */
kq_status kq_gguf_types_choose(const kq_config *cfg, const uint8_t *selected, const kq_quantize_options *opt,
                               kq_gguf_types *t, kq_error *err);
void kq_gguf_types_free(kq_gguf_types *t);

/* Bytes of `rows` rows of n weights. */
size_t kq_gguf_row_bytes(kq_dtype type, size_t rows, size_t n);

#endif
