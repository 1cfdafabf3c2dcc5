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
       F_IQ2_XXS = 19,
       F_IQ2_XS = 20,
       F_Q2_K_S = 21,
       F_IQ3_XS = 22,
       F_IQ3_XXS = 23,
       F_IQ4_NL = 25,
       F_IQ3_S = 26,
       F_IQ3_M = 27,
       F_IQ2_S = 28,
       F_IQ2_M = 29,
       F_IQ4_XS = 30
};

static const kq_mix mixes[] = {
    {"Q4_0", KQ_T_Q4_0, F_Q4_0},       {"Q4_1", KQ_T_Q4_1, F_Q4_1},
    {"Q5_0", KQ_T_Q5_0, F_Q5_0},       {"Q5_1", KQ_T_Q5_1, F_Q5_1},
    {"Q8_0", KQ_T_Q8_0, F_Q8_0},       {"IQ4_NL", KQ_T_IQ4_NL, F_IQ4_NL},
    {"Q2_K", KQ_T_Q2_K, F_Q2_K},       {"Q2_K_S", KQ_T_Q2_K, F_Q2_K_S},
    {"Q3_K_S", KQ_T_Q3_K, F_Q3_K_S},   {"Q3_K_M", KQ_T_Q3_K, F_Q3_K_M},
    {"Q3_K_L", KQ_T_Q3_K, F_Q3_K_L},   {"Q4_K_S", KQ_T_Q4_K, F_Q4_K_S},
    {"Q4_K_M", KQ_T_Q4_K, F_Q4_K_M},   {"Q5_K_S", KQ_T_Q5_K, F_Q5_K_S},
    {"Q5_K_M", KQ_T_Q5_K, F_Q5_K_M},   {"Q6_K", KQ_T_Q6_K, F_Q6_K},
    {"Q3_K", KQ_T_Q3_K, F_Q3_K_M},     {"Q4_K", KQ_T_Q4_K, F_Q4_K_M},
    {"Q5_K", KQ_T_Q5_K, F_Q5_K_M},     {"IQ2_XXS", KQ_T_IQ2_XXS, F_IQ2_XXS},
    {"IQ2_XS", KQ_T_IQ2_XS, F_IQ2_XS}, {"IQ2_S", KQ_T_IQ2_XS, F_IQ2_S},
    {"IQ2_M", KQ_T_IQ2_S, F_IQ2_M},    {"IQ3_XXS", KQ_T_IQ3_XXS, F_IQ3_XXS},
    {"IQ3_XS", KQ_T_IQ3_S, F_IQ3_XS},  {"IQ3_S", KQ_T_IQ3_S, F_IQ3_S},
    {"IQ3_M", KQ_T_IQ3_S, F_IQ3_M},    {"IQ4_XS", KQ_T_IQ4_XS, F_IQ4_XS},
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
           "Q6_K IQ2_XXS IQ2_XS IQ2_S IQ2_M IQ3_XXS IQ3_XS IQ3_S IQ3_M IQ4_XS";
}

/* The file types of about two bits, whose sensitive tensors get types of three bits and more. */
static bool is_iq2(const kq_mix *mix)
{
    return mix->file_type == F_IQ2_XXS || mix->file_type == F_IQ2_XS || mix->file_type == F_IQ2_S ||
           mix->file_type == F_IQ2_M;
}

/* What they raise a tensor to: the two larger ones a step more. */
static kq_dtype raised_iq2(const kq_mix *mix)
{
    return mix->file_type == F_IQ2_S || mix->file_type == F_IQ2_M ? KQ_T_IQ3_S : KQ_T_Q2_K;
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
    if (is_iq2(mix))
        return shared ? KQ_T_Q4_K : raised_iq2(mix);
    switch (mix->file_type) {
    case F_Q2_K: type = shared ? KQ_T_Q4_K : KQ_T_Q3_K; break;
    case F_Q2_K_S: type = shared ? KQ_T_Q4_K : type; break;
    case F_Q3_K_M: type = layer < 2 ? KQ_T_Q5_K : KQ_T_Q4_K; break;
    case F_Q3_K_L: type = KQ_T_Q5_K; break;
    case F_IQ4_NL:
    case F_IQ4_XS: type = shared ? KQ_T_Q5_K : type; break;
    case F_IQ3_XXS:
    case F_IQ3_XS:
    case F_IQ3_S: type = shared ? KQ_T_Q4_K : type; break;
    case F_IQ3_M: type = KQ_T_Q4_K; break;
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
    if (is_iq2(mix))
        return layer < n / 8 ? raised_iq2(mix) : mix->base;
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
    case F_IQ3_M: return layer < n / 8 ? KQ_T_Q4_K : mix->base;
    default: return mix->base;
    }
}

static kq_dtype output_type(const kq_mix *mix)
{
    switch (mix->file_type) {
    case F_Q2_K: return KQ_T_Q3_K;
    case F_Q3_K_M:
    case F_IQ3_M: return KQ_T_Q4_K;
    case F_Q3_K_L: return KQ_T_Q5_K;
    case F_IQ2_S:
    case F_IQ2_M:
    case F_IQ3_XXS: return KQ_T_IQ3_S;
    default: return mix->base;
    }
}

kq_dtype kq_mix_linear(const kq_mix *mix, const kq_config *cfg, size_t layer, kq_linear_id id, bool pure)
{
    const size_t n = cfg->n_layer;
    if (pure)
        return mix->base;
    switch (id) {
    case KQ_V: return value_type(mix, cfg, layer);
    case KQ_DOWN: return down_type(mix, layer, n);
    case KQ_O: return output_type(mix);
    case KQ_Q:
    case KQ_K:
        return mix->file_type == F_IQ3_XS    ? KQ_T_IQ3_XXS
               : mix->file_type == F_IQ3_XXS ? KQ_T_IQ2_S
                                             : mix->base;
    case KQ_GATE:
    case KQ_UP:
        return mix->file_type == F_IQ3_XS && layer >= n / 8 && layer < 7 * n / 8 ? KQ_T_IQ3_XXS : mix->base;
    default: return mix->base;
    }
}

/* An embedding that is not the head too. */
static kq_dtype embedding_type(const kq_mix *mix)
{
    switch (mix->file_type) {
    case F_IQ2_XXS:
    case F_IQ2_XS: return KQ_T_Q2_K;
    case F_IQ2_S:
    case F_IQ2_M:
    case F_IQ3_XXS: return KQ_T_IQ3_S;
    default: return mix->base;
    }
}

kq_dtype kq_mix_rows(const kq_mix *mix, const kq_config *cfg, bool head, bool pure)
{
    size_t elems, bytes;
    if (pure)
        return mix->base;
    if (!head && !cfg->tie_embeddings)
        return embedding_type(mix);
    if (!kq_dtype_block(mix->base, &elems, &bytes) || cfg->d_model % elems)
        return KQ_T_Q8_0;
    if (is_iq2(mix) || mix->file_type == F_IQ3_XXS)
        return KQ_T_Q5_K;
    /* Q8_0 is its fall-back for Q6_K */
    return mix->base == KQ_T_Q8_0 || cfg->d_model % 256 ? KQ_T_Q8_0 : KQ_T_Q6_K;
}

kq_dtype kq_mix_fallback(kq_dtype type, size_t columns)
{
    kq_dtype other = KQ_T_OTHER;
    switch (type) {
    case KQ_T_IQ2_XXS:
    case KQ_T_IQ2_XS:
    case KQ_T_IQ2_S:
    case KQ_T_IQ3_XXS:
    case KQ_T_IQ3_S:
    case KQ_T_IQ4_XS: other = KQ_T_IQ4_NL; break;
    case KQ_T_Q2_K:
    case KQ_T_Q3_K: other = KQ_T_Q4_0; break;
    case KQ_T_Q4_K: other = KQ_T_Q5_0; break;
    case KQ_T_Q5_K: other = KQ_T_Q5_1; break;
    case KQ_T_Q6_K: other = KQ_T_Q8_0; break;
    default: return KQ_T_OTHER;
    }
    return columns % 32 ? KQ_T_F16 : other;
}
