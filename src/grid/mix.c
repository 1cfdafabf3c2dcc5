/* The mixtures of llama-quantize, rule by rule (mix.h). A mixture is a file type; its rules raise single
 * tensors above the base type, by the tensor's kind and its layer. */
#include "grid/mix.h"

#include <string.h>

enum { /* llama.h's LLAMA_FTYPE_MOSTLY_* */
       F_Q4_0 = 2,
       F_Q4_1 = 3,
       F_Q8_0 = 7,
       F_Q5_0 = 8,
       F_Q5_1 = 9,
       F_Q2_K = 10,
       F_Q3_K_S = 11,
       F_Q3_K_M = 12,
       F_Q3_K_L = 13,
       F_Q4_K_S = 14,
       F_Q4_K_M = 15,
       F_Q5_K_S = 16,
       F_Q5_K_M = 17,
       F_Q6_K = 18,
       F_Q2_K_S = 21,
       F_IQ4_NL = 25
};

static const kq_mix mixes[] = {
    {"Q4_0", KQ_T_Q4_0, F_Q4_0},     {"Q4_1", KQ_T_Q4_1, F_Q4_1},     {"Q5_0", KQ_T_Q5_0, F_Q5_0},
    {"Q5_1", KQ_T_Q5_1, F_Q5_1},     {"Q8_0", KQ_T_Q8_0, F_Q8_0},     {"IQ4_NL", KQ_T_IQ4_NL, F_IQ4_NL},
    {"Q2_K", KQ_T_Q2_K, F_Q2_K},     {"Q2_K_S", KQ_T_Q2_K, F_Q2_K_S}, {"Q3_K_S", KQ_T_Q3_K, F_Q3_K_S},
    {"Q3_K_M", KQ_T_Q3_K, F_Q3_K_M}, {"Q3_K_L", KQ_T_Q3_K, F_Q3_K_L}, {"Q4_K_S", KQ_T_Q4_K, F_Q4_K_S},
    {"Q4_K_M", KQ_T_Q4_K, F_Q4_K_M}, {"Q5_K_S", KQ_T_Q5_K, F_Q5_K_S}, {"Q5_K_M", KQ_T_Q5_K, F_Q5_K_M},
    {"Q6_K", KQ_T_Q6_K, F_Q6_K},     {"Q3_K", KQ_T_Q3_K, F_Q3_K_M},   {"Q4_K", KQ_T_Q4_K, F_Q4_K_M},
    {"Q5_K", KQ_T_Q5_K, F_Q5_K_M},
};

const kq_mix *kq_mix_find(const char *name)
{
    for (size_t i = 0; i < sizeof mixes / sizeof *mixes; i++)
        if (!strcmp(mixes[i].name, name))
            return &mixes[i];
    return NULL;
}

const char *kq_mix_names(void)
{
    return "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 IQ4_NL Q2_K Q2_K_S Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M "
           "Q6_K";
}

/* The first and last eighth of the layers, and every third between. */
static bool is_sensitive_layer(size_t layer, size_t n)
{
    return layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2;
}

static kq_dtype value_type(const kq_mix *mix, const kq_config *cfg, size_t layer)
{
    const size_t n = cfg->n_layer;
    const bool shared = cfg->n_head / cfg->n_kv_head >= 4;
    kq_dtype type = mix->base;
    switch (mix->file_type) {
    case F_Q2_K: type = shared ? KQ_T_Q4_K : KQ_T_Q3_K; break;
    case F_Q2_K_S: type = shared ? KQ_T_Q4_K : type; break;
    case F_Q3_K_M: type = layer < 2 ? KQ_T_Q5_K : KQ_T_Q4_K; break;
    case F_Q3_K_L: type = KQ_T_Q5_K; break;
    case F_IQ4_NL: type = shared ? KQ_T_Q5_K : type; break;
    case F_Q4_K_M:
    case F_Q5_K_M: type = is_sensitive_layer(layer, n) ? KQ_T_Q6_K : type; break;
    case F_Q4_K_S: type = layer < 4 ? KQ_T_Q5_K : type; break;
    }
    /* LLaMA-2-70B and models of its shape: eight heads share each v */
    if (cfg->arch == KQ_ARCH_LLAMA && n == 80 && cfg->n_head != cfg->n_kv_head &&
        (type == KQ_T_Q3_K || type == KQ_T_Q4_K))
        type = KQ_T_Q5_K;
    return type;
}

static kq_dtype down_type(const kq_mix *mix, size_t layer, size_t n)
{
    switch (mix->file_type) {
    case F_Q2_K: return KQ_T_Q3_K;
    case F_Q2_K_S: return layer < n / 8 ? KQ_T_Q4_K : mix->base;
    case F_Q3_K_M: return layer < n / 16 ? KQ_T_Q5_K : KQ_T_Q4_K;
    case F_Q3_K_L: return KQ_T_Q5_K;
    case F_Q4_K_M:
    case F_Q5_K_M: return is_sensitive_layer(layer, n) ? KQ_T_Q6_K : mix->base;
    case F_Q4_K_S: return layer < n / 8 ? KQ_T_Q5_K : mix->base;
    /* its rule when an importance matrix is at hand */
    case F_Q4_0: return layer < n / 8 ? KQ_T_Q4_1 : mix->base;
    case F_Q5_0: return layer < n / 8 ? KQ_T_Q5_1 : mix->base;
    default: return mix->base;
    }
}

kq_dtype kq_mix_linear(const kq_mix *mix, const kq_config *cfg, size_t layer, kq_linear_id id, bool pure)
{
    if (pure)
        return mix->base;
    switch (id) {
    case KQ_V: return value_type(mix, cfg, layer);
    case KQ_DOWN: return down_type(mix, layer, cfg->n_layer);
    case KQ_O:
        return mix->file_type == F_Q2_K     ? KQ_T_Q3_K
               : mix->file_type == F_Q3_K_M ? KQ_T_Q4_K
               : mix->file_type == F_Q3_K_L ? KQ_T_Q5_K
                                            : mix->base;
    default: return mix->base;
    }
}

kq_dtype kq_mix_rows(const kq_mix *mix, const kq_config *cfg, bool head, bool pure)
{
    size_t elems, bytes;
    if (pure || !(head || cfg->tie_embeddings))
        return mix->base;
    if (!kq_dtype_block(mix->base, &elems, &bytes) || cfg->d_model % elems)
        return KQ_T_Q8_0;
    /* Q8_0 is its fall-back for Q6_K */
    return mix->base == KQ_T_Q8_0 || cfg->d_model % 256 ? KQ_T_Q8_0 : KQ_T_Q6_K;
}

kq_dtype kq_mix_fallback(kq_dtype type, size_t columns)
{
    kq_dtype other = KQ_T_OTHER;
    switch (type) {
    case KQ_T_Q2_K:
    case KQ_T_Q3_K: other = KQ_T_Q4_0; break;
    case KQ_T_Q4_K: other = KQ_T_Q5_0; break;
    case KQ_T_Q5_K: other = KQ_T_Q5_1; break;
    case KQ_T_Q6_K: other = KQ_T_Q8_0; break;
    default: return KQ_T_OTHER;
    }
    return columns % 32 ? KQ_T_F16 : other;
}
