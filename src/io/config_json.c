#include "io/config_json.h"

#include <math.h>
#include <string.h>

#include "base/warn.h"
#include "io/generation_config.h"
#include "io/json.h"
#include "io/rope.h"

/* The value of a key; NULL when it is absent or null. */
static const json_t *get(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

/* A non-negative whole number. Absent (or null): the default, or KQ_E_FORMAT when fallback is SIZE_MAX. */
static kq_status get_size(const json_t *object, const char *key, size_t fallback, const char *path, size_t *out, kq_error *err)
{
    const json_t *value = get(object, key);
    *out = fallback;
    if (!value)
        return fallback == SIZE_MAX ? kq_fail(err, KQ_E_FORMAT, "%s: %s is missing", path, key) : KQ_OK;
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return kq_fail(err, KQ_E_FORMAT, "%s: %s is not a whole number of at least 0", path, key);
    *out = (size_t)json_integer_value(value);
    return KQ_OK;
}

static kq_status get_number(const json_t *object, const char *key, double fallback, const char *path, double *out, kq_error *err)
{
    const json_t *value = get(object, key);
    *out = fallback;
    if (!value)
        return KQ_OK;
    if (!json_is_number(value))
        return kq_fail(err, KQ_E_FORMAT, "%s: %s is not a number", path, key);
    *out = json_number_value(value);
    return KQ_OK;
}

static kq_status get_bool(const json_t *object, const char *key, bool fallback, const char *path, bool *out, kq_error *err)
{
    const json_t *value = get(object, key);
    *out = fallback;
    if (!value)
        return KQ_OK;
    if (!json_is_boolean(value))
        return kq_fail(err, KQ_E_FORMAT, "%s: %s is neither true nor false", path, key);
    *out = json_is_true(value);
    return KQ_OK;
}

/* What changes the forward pass and is not built here. */
static kq_status refuse_features(const json_t *root, const char *path, kq_error *err)
{
    static const char *const flags[] = {"attention_bias", "mlp_bias", "use_sliding_window", "rope_interleaved"};
    static const char *const counts[] = {"num_experts", "num_local_experts", "n_routed_experts"};
    kq_status status;
    bool flag;
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        if ((status = get_bool(root, flags[i], false, path, &flag, err)))
            return status;
        if (flag)
            return kq_fail(err, KQ_E_UNSUPPORTED, "%s: %s is true, which kronq does not support", path, flags[i]);
    }
    /* sliding_window means nothing while use_sliding_window is false; where that key is absent, a window may be in use. */
    if (get(root, "sliding_window") && !get(root, "use_sliding_window"))
        return kq_fail(err, KQ_E_UNSUPPORTED, "%s: sliding_window is set, which kronq does not support", path);
    const json_t *types = get(root, "layer_types"), *type;
    size_t index;
    json_array_foreach(types, index, type)
        if (!json_is_string(type) || strcmp(json_string_value(type), "full_attention"))
            return kq_fail(err, KQ_E_UNSUPPORTED, "%s: layer_types[%zu] is not \"full_attention\" (sliding window layers?)", path, index);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        size_t n;
        if ((status = get_size(root, counts[i], 0, path, &n, err)))
            return status;
        if (n)
            return kq_fail(err, KQ_E_UNSUPPORTED, "%s: %s is %zu: mixtures of experts are not supported", path, counts[i], n);
    }
    size_t tp;
    if ((status = get_size(root, "pretraining_tp", 1, path, &tp, err)))
        return status;
    if (tp != 1)
        return kq_fail(err, KQ_E_UNSUPPORTED, "%s: pretraining_tp is %zu, kronq supports 1", path, tp);
    const json_t *act = get(root, "hidden_act");
    if (act && (!json_is_string(act) || strcmp(json_string_value(act), "silu")))
        return kq_fail(err, KQ_E_UNSUPPORTED, "%s: hidden_act is \"%.100s\", kronq supports \"silu\"", path,
                       json_is_string(act) ? json_string_value(act) : "(no string)");
    double partial;
    if ((status = get_number(root, "partial_rotary_factor", 1, path, &partial, err)))
        return status;
    if (partial != 1)
        return kq_fail(err, KQ_E_UNSUPPORTED, "%s: partial_rotary_factor is %g, kronq supports 1", path, partial);
    return KQ_OK;
}

/* A token id, or a list of which the first counts. Absent: LLaMA's default of transformers (1), none for Qwen3. null, or outside the vocabulary: none. */
static kq_status parse_bos(const json_t *root, const char *path, kq_config *cfg, kq_error *err)
{
    const json_t *bos = json_object_get(root, "bos_token_id");
    cfg->bos_id = !bos && cfg->arch == KQ_ARCH_LLAMA && cfg->vocab_size > 1 ? 1 : -1;
    if (json_is_array(bos))
        bos = json_array_get(bos, 0);
    if (!bos || json_is_null(bos))
        return KQ_OK;
    double id = json_number_value(bos);
    if (!json_is_number(bos) || id != floor(id))
        return kq_fail(err, KQ_E_FORMAT, "%s: bos_token_id is neither a token id nor a list of token ids", path);
    if (id >= 0 && id < (double)cfg->vocab_size)
        cfg->bos_id = (int32_t)id;
    else
        kq_warn("%s: bos_token_id %.0f is outside the vocabulary of %zu tokens: no text begins with it", path, id, cfg->vocab_size);
    return KQ_OK;
}

/* Absent: LLaMA's default of transformers (2), none for Qwen3. null: none. */
static kq_status parse_eos(const json_t *root, const char *path, kq_config *cfg, kq_error *err)
{
    const json_t *eos = json_object_get(root, "eos_token_id");
    if (eos && !json_is_null(eos))
        return kq_parse_eos(eos, "eos_token_id", cfg->vocab_size, path, cfg->eos_id, &cfg->n_eos, err);
    if (!eos && cfg->arch == KQ_ARCH_LLAMA && cfg->vocab_size > 2)
        cfg->eos_id[cfg->n_eos++] = 2;
    return KQ_OK;
}

static kq_status parse_sizes(const json_t *root, const char *path, kq_config *cfg, kq_error *err)
{
    bool llama = cfg->arch == KQ_ARCH_LLAMA;
    kq_status status;
    double eps;
    if ((status = get_size(root, "num_hidden_layers", SIZE_MAX, path, &cfg->n_layer, err)) ||
        (status = get_size(root, "hidden_size", SIZE_MAX, path, &cfg->d_model, err)) ||
        (status = get_size(root, "num_attention_heads", SIZE_MAX, path, &cfg->n_head, err)) ||
        (status = get_size(root, "intermediate_size", SIZE_MAX, path, &cfg->d_ff, err)) ||
        (status = get_size(root, "vocab_size", SIZE_MAX, path, &cfg->vocab_size, err)) ||
        (status = get_size(root, "max_position_embeddings", llama ? 2048 : 32768, path, &cfg->max_position, err)) ||
        (status = get_number(root, "rms_norm_eps", 1e-6, path, &eps, err)) ||
        (status = get_bool(root, "tie_word_embeddings", false, path, &cfg->tie_embeddings, err)))
        return status;
    cfg->rms_eps = (float)eps;
    if (!cfg->n_head)
        return kq_fail(err, KQ_E_FORMAT, "%s: num_attention_heads is 0", path);
    /* Qwen3Config counts 32 key heads and head_dim 128 when the keys are absent; null means "as many as query heads" in both. */
    bool kv_absent = !json_object_get(root, "num_key_value_heads");
    size_t head_dim = llama || json_object_get(root, "head_dim") ? cfg->d_model / cfg->n_head : 128;
    if ((status = get_size(root, "num_key_value_heads", !llama && kv_absent ? 32 : cfg->n_head, path, &cfg->n_kv_head, err)) ||
        (status = get_size(root, "head_dim", head_dim, path, &cfg->head_dim, err)))
        return status;
    if (!get(root, "head_dim") && llama && cfg->d_model % cfg->n_head)
        return kq_fail(err, KQ_E_FORMAT, "%s: hidden_size %zu is no multiple of num_attention_heads %zu", path, cfg->d_model, cfg->n_head);
    return KQ_OK;
}

static kq_status parse_quantization(const json_t *root, const char *path, bool *is_kronq, kq_error *err)
{
    const json_t *quant = get(root, "quantization_config");
    *is_kronq = false;
    if (!quant)
        return KQ_OK;
    const json_t *method = get(quant, "quant_method");
    if (!json_is_string(method) || strcmp(json_string_value(method), "kronq"))
        return kq_fail(err, KQ_E_UNSUPPORTED, "%s: quantization_config has quant_method \"%.100s\"; kronq reads unquantized models and its own",
                       path, json_is_string(method) ? json_string_value(method) : "(none)");
    *is_kronq = true;
    return KQ_OK;
}

kq_status kq_config_from_json(const char *text, size_t size, const char *path, kq_config *cfg, bool *is_kronq, kq_error *err)
{
    *cfg = (kq_config){.bos_id = -1};
    json_t *root;
    kq_status status = kq_json_parse(text, size, path, &root, err);
    if (status)
        return status;
    const json_t *type = get(root, "model_type");
    if (!json_is_string(type)) {
        status = kq_fail(err, KQ_E_FORMAT, "%s: model_type is missing", path);
    } else if (strcmp(json_string_value(type), "llama") && strcmp(json_string_value(type), "qwen3")) {
        status = kq_fail(err, KQ_E_UNSUPPORTED, "%s: model_type is \"%.100s\", kronq supports \"llama\" and \"qwen3\"", path, json_string_value(type));
    } else {
        cfg->arch = strcmp(json_string_value(type), "llama") ? KQ_ARCH_QWEN3 : KQ_ARCH_LLAMA;
        (void)((status = refuse_features(root, path, err)) || (status = parse_quantization(root, path, is_kronq, err)) ||
               (status = parse_sizes(root, path, cfg, err)) || (status = kq_rope_from_json(root, path, cfg, err)) ||
               (status = parse_bos(root, path, cfg, err)) ||
               (status = parse_eos(root, path, cfg, err)) || (status = kq_config_check(cfg, path, err)));
    }
    json_decref(root);
    return status;
}
