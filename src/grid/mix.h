/* Which block type each tensor gets: llama-quantize's file types and their mixtures (llama.cpp,
 * src/llama-quant.cpp, MIT: the rules restated for dense models of the llama and qwen3 architectures, as
 * of its build with an importance matrix at hand). */
#ifndef KQ_GRID_MIX_H
#define KQ_GRID_MIX_H

#include "format/dequant.h"
#include "source/tensors.h"

typedef struct kq_mix {
    const char *name;
    /* what every tensor gets unless a rule says otherwise; of IQ2_S it is IQ2_XS, of IQ2_M IQ2_S */
    kq_dtype base;
    uint32_t file_type; /* general.file_type */
} kq_mix;
/* "Q4_0", "Q4_K_M", ...; llama-quantize's short names too ("Q4_K" is Q4_K_M). NULL: unknown. */
const kq_mix *kq_mix_find(const char *name);
/* All of their names, separated by spaces. */
const char *kq_mix_names(void);

/* The type of one linear; with pure, the base type. */
kq_dtype kq_mix_linear(const kq_mix *mix, const kq_config *cfg, size_t layer, kq_linear_id id, bool pure);
/* The type of the embedding (head false) or an untied head. A tied embedding is treated as a head, as
 * llama-quantize does. */
kq_dtype kq_mix_rows(const kq_mix *mix, const kq_config *cfg, bool head, bool pure);
/* What llama-quantize takes where rows are no whole number of blocks; F16 where 32 does not divide them
 * either. KQ_T_OTHER: it has nothing. */
kq_dtype kq_mix_fallback(kq_dtype type, size_t columns);

#endif
