/* A model's configuration out of a GGUF's metadata. llama.cpp is the referee: what it ignores is ignored, and
 * what it would compute otherwise than kronq does is refused by the name of its key. */
#include "source/gguf_model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/warn.h"
#include "format/dequant.h"
#include "source/gguf_special.h"
#include "source/rope.h"

/* ggml's numbers of the types that are read. */
static const struct {
    uint32_t type;
    kq_dtype dtype;
} types[] = {
    {0, KQ_T_F32},      {1, KQ_T_F16},     {30, KQ_T_BF16},  {2, KQ_T_Q4_0},     {3, KQ_T_Q4_1},
    {6, KQ_T_Q5_0},     {7, KQ_T_Q5_1},    {8, KQ_T_Q8_0},   {10, KQ_T_Q2_K},    {11, KQ_T_Q3_K},
    {12, KQ_T_Q4_K},    {13, KQ_T_Q5_K},   {14, KQ_T_Q6_K},  {20, KQ_T_IQ4_NL},  {23, KQ_T_IQ4_XS},
    {16, KQ_T_IQ2_XXS}, {17, KQ_T_IQ2_XS}, {22, KQ_T_IQ2_S}, {18, KQ_T_IQ3_XXS}, {21, KQ_T_IQ3_S},
    {24, KQ_T_I8},      {25, KQ_T_I16},    {26, KQ_T_I32},   {27, KQ_T_I64},
};

kq_dtype kq_gguf_dtype(uint32_t type)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].type == type)
            return types[i].dtype;
    return KQ_T_OTHER;
}

uint32_t kq_gguf_type_of(kq_dtype dtype)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].dtype == dtype)
            return types[i].type;
    return UINT32_MAX;
}

/* "<arch>.<key>" of the metadata, or NULL. */
static const kq_gguf_kv *find_arch(const kq_gguf *g, const char *arch, const char *key)
{
    char name[128];
    snprintf(name, sizeof name, "%s.%s", arch, key);
    return kq_gguf_find(g, name);
}

/* A non-negative whole number; absent: the fallback, or KQ_E_FORMAT when that is SIZE_MAX. */
static kq_status get_size(const kq_gguf *g, const char *arch, const char *key, size_t fallback, size_t *out,
                          kq_error *err)
{
    const kq_gguf_kv *kv = find_arch(g, arch, key);
    int64_t value;
    *out = fallback;
    if (!kv)
        return fallback == SIZE_MAX
                   ? kq_fail(err, KQ_E_FORMAT, "%s: %s.%s is missing", kq_gguf_path(g), arch, key)
                   : KQ_OK;
    if (!kq_gguf_int(kv, 0, &value) || value < 0)
        return kq_fail(err, KQ_E_FORMAT, "%s: %s.%s is not a whole number of at least 0", kq_gguf_path(g),
                       arch, key);
    for (size_t i = 1; i < kv->n; i++) { /* one value a layer */
        int64_t other;
        if (!kq_gguf_int(kv, i, &other) || other != value)
            return kq_fail(
                err, KQ_E_UNSUPPORTED,
                "%s: %s.%s is a list of different values: layers of different sizes are not supported",
                kq_gguf_path(g), arch, key);
    }
    *out = (size_t)value;
    return KQ_OK;
}

static kq_status get_number(const kq_gguf *g, const char *arch, const char *key, double fallback, double *out,
                            kq_error *err)
{
    const kq_gguf_kv *kv = find_arch(g, arch, key);
    *out = fallback;
    if (!kv)
        return isnan(fallback) ? kq_fail(err, KQ_E_FORMAT, "%s: %s.%s is missing", kq_gguf_path(g), arch, key)
                               : KQ_OK;
    if (kv->is_array || !kq_gguf_f64(kv, 0, out))
        return kq_fail(err, KQ_E_FORMAT, "%s: %s.%s is not a number", kq_gguf_path(g), arch, key);
    return KQ_OK;
}

static const kq_gguf_tensor *find_tensor(const kq_gguf *g, const char *name)
{
    for (size_t i = 0; i < kq_gguf_n_tensors(g); i++)
        if (!strcmp(kq_gguf_tensor_at(g, i)->name, name))
            return kq_gguf_tensor_at(g, i);
    return NULL;
}

/* ---- the rotary embedding, as llama.cpp reads it for these architectures (llama_model_base::load_hparams,
 * llama_context's constructor)  */

/* A setting of YaRN that other architectures read: what it would have to be to mean nothing. */
static kq_status pass_over(const kq_gguf *g, const char *arch, const char *key, double nothing, kq_error *err)
{
    double value;
    kq_status status = get_number(g, arch, key, nothing, &value, err);
    if (!status && value != nothing)
        kq_warn("%s: %s.%s is %g; llama.cpp does not read it for this architecture, and it is passed over "
                "here too",
                kq_gguf_path(g), arch, key, value);
    return status;
}

/* Without a type the scaling is linear. A factor of 0 counts as 1. YaRN's attention factor is 0.1
 * ln(factor) + 1, times rope.scaling.attn_factor. */
static kq_status parse_rope(const kq_gguf *g, const char *arch, kq_config *cfg, kq_error *err)
{
    static const struct {
        const char *key;
        double nothing;
    } unread[] = {{"rope.scaling.yarn_ext_factor", 1},
                  {"rope.scaling.yarn_attn_factor", 1},
                  {"rope.scaling.yarn_beta_fast", 32},
                  {"rope.scaling.yarn_beta_slow", 1},
                  {"rope.scaling.yarn_log_multiplier", 0}};
    const kq_gguf_kv *type = find_arch(g, arch, "rope.scaling.type");
    const bool yarn = kq_gguf_str_is(type, 0, "yarn"), none = kq_gguf_str_is(type, 0, "none");
    kq_rope_scaling *s = &cfg->rope_scaling;
    kq_status status;
    if (type && (type->is_array || (!yarn && !none && !kq_gguf_str_is(type, 0, "linear")))) {
        const char *text = "(no string)";
        size_t len = strlen(text);
        kq_gguf_str(type, 0, &text, &len);
        return kq_fail(err, KQ_E_UNSUPPORTED,
                       "%s: %s.rope.scaling.type is \"%.*s\", kronq supports none, linear and yarn",
                       kq_gguf_path(g), arch, (int)(len < 60 ? len : 60), text);
    }
    if ((status = get_number(g, arch, "rope.scale_linear", 1, &s->factor, err)) || /* the older name */
        (status = get_number(g, arch, "rope.scaling.factor", s->factor, &s->factor, err)) ||
        (status = get_number(g, arch, "rope.scaling.attn_factor", 1, &s->attention_factor, err)) ||
        (status = get_size(g, arch, "rope.scaling.original_context_length", cfg->max_position,
                           &s->original_max_position, err)))
        return status;
    if (!(s->attention_factor > 0) || !(s->factor >= 0))
        return kq_fail(err, KQ_E_FORMAT,
                       "%s: %s.rope.scaling.factor %g and attn_factor %g must be positive numbers",
                       kq_gguf_path(g), arch, s->factor, s->attention_factor);
    for (size_t i = 0; i < sizeof unread / sizeof *unread && yarn; i++)
        if ((status = pass_over(g, arch, unread[i].key, unread[i].nothing, err)))
            return status;
    if (none || s->factor == 0 || s->factor == 1) {
        *s = (kq_rope_scaling){.attention_factor = s->attention_factor};
    } else if (yarn) {
        s->kind = KQ_ROPE_YARN;
        s->beta_fast = 32;
        s->beta_slow = 1;
        s->truncate = true;
        s->attention_factor *= kq_rope_mscale(s->factor, 1);
        s->original_max_position = s->original_max_position ? s->original_max_position : cfg->max_position;
    } else {
        *s = (kq_rope_scaling){
            .kind = KQ_ROPE_LINEAR, .factor = s->factor, .attention_factor = s->attention_factor};
    }
    if (s->attention_factor == 1 && !yarn)
        s->attention_factor = 0; /* as a folder's configuration leaves it */
    return KQ_OK;
}

/* rope_freqs.weight holds one divisor for each pair. */
static kq_status parse_rope_freqs(const kq_gguf *g, kq_config *cfg, kq_error *err)
{
    const kq_gguf_tensor *t = find_tensor(g, "rope_freqs.weight");
    const size_t half = cfg->head_dim / 2;
    float *divisor;
    if (!t)
        return KQ_OK;
    if (t->type != 0 || t->rank != 1 || t->n_elem != half)
        return kq_fail(err, KQ_E_SHAPE,
                       "%s: rope_freqs.weight is not F32 of %zu elements, half of the head's size",
                       kq_gguf_path(g), half);
    kq_status status = kq_alloc_for((void **)&divisor, half, sizeof *divisor, "rope_freqs.weight", err);
    if (status)
        return status;
    kq_dequantize(KQ_T_F32, t->data, half, divisor);
    status = kq_rope_set_divisors(cfg, divisor, kq_gguf_path(g), err);
    kq_free(divisor);
    return status;
}

static kq_status refuse_features(const kq_gguf *g, const char *arch, kq_error *err)
{
    static const char *const zero[] = {"expert_count", "attention.sliding_window"};
    kq_status status;
    for (size_t i = 0; i < sizeof zero / sizeof *zero; i++) {
        size_t n;
        if ((status = get_size(g, arch, zero[i], 0, &n, err)))
            return status;
        if (n)
            return kq_fail(err, KQ_E_UNSUPPORTED, "%s: %s.%s is %zu, which kronq does not support",
                           kq_gguf_path(g), arch, zero[i], n);
    }
    return KQ_OK;
}

/* llama.cpp counts the tokens and does not look at vocab_size; where the embedding has other rows, the
 * key may explain them. */
static kq_status parse_vocab(const kq_gguf *g, const char *arch, kq_config *cfg, kq_error *err)
{
    const kq_gguf_kv *tokens = kq_gguf_find(g, "tokenizer.ggml.tokens");
    const kq_gguf_tensor *embed = find_tensor(g, "token_embd.weight");
    size_t n_token = tokens && tokens->is_array ? tokens->n : SIZE_MAX;
    kq_gguf_special special;
    kq_status status;
    cfg->vocab_size = n_token;
    if ((!embed || embed->rank != 2 || embed->ne[1] != n_token) &&
        (status = get_size(g, arch, "vocab_size", n_token, &cfg->vocab_size, err)))
        return status;
    if (tokens && n_token > cfg->vocab_size)
        return kq_fail(err, KQ_E_FORMAT, "%s: tokenizer.ggml.tokens has %zu tokens, %s.vocab_size is %zu",
                       kq_gguf_path(g), tokens->n, arch, cfg->vocab_size);
    if ((status = kq_gguf_special_read(g, &special, err)))
        return status;
    cfg->bos_id = special.bos;
    cfg->n_eos = special.n_end;
    memcpy(cfg->eos_id, special.end, sizeof cfg->eos_id);
    return KQ_OK;
}

/* llama.cpp opens no file that holds a tensor which the architecture has no place for: it would compute
 * something else. */
static kq_status check_names(const kq_gguf *g, const kq_config *cfg, kq_error *err)
{
    for (size_t i = 0; i < kq_gguf_n_tensors(g); i++) {
        const char *name = kq_gguf_tensor_at(g, i)->name;
        char hf[128];
        kq_gguf_hf_name(name, hf, sizeof hf);
        const bool known = strcmp(hf, name) || !strcmp(name, "rope_freqs.weight");
        const bool head_norm = strstr(hf, ".self_attn.q_norm.") || strstr(hf, ".self_attn.k_norm.");
        if (!strcmp(name, "cls.output.weight") && cfg->arch == KQ_ARCH_QWEN3)
            kq_warn("%s: %s, which ranks texts, is passed over", kq_gguf_path(g), name);
        else if (!known || (head_norm && cfg->arch == KQ_ARCH_LLAMA))
            return kq_fail(
                err, KQ_E_UNSUPPORTED,
                "%s: tensor %s has no place in the %s architecture, which kronq would compute without it",
                kq_gguf_path(g), name, cfg->arch == KQ_ARCH_LLAMA ? "llama" : "qwen3");
    }
    return KQ_OK;
}

kq_status kq_gguf_config(const kq_gguf *g, kq_config *cfg, kq_error *err)
{
    const char *path = kq_gguf_path(g);
    *cfg = (kq_config){.bos_id = -1};
    const kq_gguf_kv *name = kq_gguf_find(g, "general.architecture");
    const char *text;
    size_t len;
    if (!name || name->is_array || !kq_gguf_str(name, 0, &text, &len))
        return kq_fail(err, KQ_E_FORMAT, "%s: general.architecture is missing", path);
    if (!kq_gguf_str_is(name, 0, "llama") && !kq_gguf_str_is(name, 0, "qwen3"))
        return kq_fail(err, KQ_E_UNSUPPORTED,
                       "%s: general.architecture is \"%.*s\", kronq supports \"llama\" and \"qwen3\"", path,
                       (int)(len < 100 ? len : 100), text);
    cfg->arch = *text == 'l' ? KQ_ARCH_LLAMA : KQ_ARCH_QWEN3;
    const char *arch = *text == 'l' ? "llama" : "qwen3";
    kq_status status;
    double eps;
    if ((status = refuse_features(g, arch, err)) ||
        (status = get_size(g, arch, "block_count", SIZE_MAX, &cfg->n_layer, err)) ||
        (status = get_size(g, arch, "embedding_length", SIZE_MAX, &cfg->d_model, err)) ||
        (status = get_size(g, arch, "feed_forward_length", SIZE_MAX, &cfg->d_ff, err)) ||
        (status = get_size(g, arch, "attention.head_count", SIZE_MAX, &cfg->n_head, err)) ||
        (status = get_size(g, arch, "attention.head_count_kv", cfg->n_head, &cfg->n_kv_head, err)) ||
        (status = get_size(g, arch, "context_length", SIZE_MAX, &cfg->max_position, err)) ||
        (status = get_number(g, arch, "attention.layer_norm_rms_epsilon", NAN, &eps, err)) ||
        (status = get_number(g, arch, "rope.freq_base", 10000, &cfg->rope_theta, err)) ||
        (status = parse_vocab(g, arch, cfg, err)))
        return status;
    cfg->rms_eps = (float)eps;
    if (!cfg->n_head)
        return kq_fail(err, KQ_E_FORMAT, "%s: %s.attention.head_count is 0", path, arch);
    size_t value_dim, rope_dim;
    if (!find_arch(g, arch, "attention.key_length") && cfg->d_model % cfg->n_head)
        return kq_fail(err, KQ_E_FORMAT,
                       "%s: %s.embedding_length %zu is no multiple of attention.head_count %zu", path, arch,
                       cfg->d_model, cfg->n_head);
    if ((status =
             get_size(g, arch, "attention.key_length", cfg->d_model / cfg->n_head, &cfg->head_dim, err)) ||
        (status = get_size(g, arch, "attention.value_length", cfg->head_dim, &value_dim, err)) ||
        (status = get_size(g, arch, "rope.dimension_count", cfg->head_dim, &rope_dim, err)))
        return status;
    if (value_dim != cfg->head_dim || rope_dim != cfg->head_dim)
        return kq_fail(
            err, KQ_E_UNSUPPORTED,
            "%s: %s.attention.value_length %zu and rope.dimension_count %zu must both be the head's size %zu",
            path, arch, value_dim, rope_dim, cfg->head_dim);
    cfg->tie_embeddings = !find_tensor(g, "output.weight");
    if ((status = check_names(g, cfg, err)) || (status = parse_rope(g, arch, cfg, err)) ||
        (status = kq_config_check(cfg, path, err)))
        return status;
    return parse_rope_freqs(g, cfg, err);
}
