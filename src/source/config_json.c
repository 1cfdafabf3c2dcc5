#include "source/config_json.h"

#include <math.h>
#include <string.h>

#include "base/warn.h"
#include "source/generation_config.h"
#include "format/json.h"
#include "source/rope.h"

/* The value of a key; NULL when it is absent or null. */
static const json_t *get(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

/* A non-negative whole number. Absent (or null): the default, or KQ_E_FORMAT when fallback is SIZE_MAX. */
static kq_status get_size(const json_t *object, const char *key, size_t fallback, const char *path,
                          size_t *out, kq_error *err)
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

static kq_status get_number(const json_t *object, const char *key, double fallback, const char *path,
                            double *out, kq_error *err)
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

static kq_status get_bool(const json_t *object, const char *key, bool fallback, const char *path, bool *out,
                          kq_error *err)
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

/* Python's "if value". */
static bool asks(const json_t *v)
{
    return json_is_number(v)   ? json_number_value(v) != 0
           : json_is_string(v) ? json_string_length(v) > 0
                               : json_is_true(v);
}

/* Keys that transformers does not look at in this architecture, although they ask for something. */
static void warn_ignored(const json_t *root, const char *path, bool llama)
{
    static const struct {
        const char *key;
        bool in_llama, in_qwen3;
    } ignored[] = {
        {"use_sliding_window", true, false}, {"sliding_window", true, false},
        {"rope_interleaved", true, true},    {"mlp_bias", false, true},
        {"num_experts", true, true},         {"num_local_experts", true, true},
        {"n_routed_experts", true, true},
    };
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
        if ((llama ? ignored[i].in_llama : ignored[i].in_qwen3) && asks(get(root, ignored[i].key)))
            kq_warn("%s: %s is set; it is ignored, as in transformers' %s models", path, ignored[i].key,
                    llama ? "llama" : "qwen3");
}

/* layer_types decides where it is given; else Qwen3 slides a window from layer max_window_layers on, if
 * use_sliding_window. LLaMA never slides. */
static kq_status refuse_sliding(const json_t *root, const char *path, bool llama, kq_error *err)
{
    const json_t *types = get(root, "layer_types"), *type;
    size_t index, first, n_layer;
    bool slides;
    kq_status status;
    json_array_foreach(types, index, type)
    {
        if (json_is_string(type) && !strcmp(json_string_value(type), "full_attention"))
            continue;
        if (!llama)
            return kq_fail(err, KQ_E_UNSUPPORTED,
                           "%s: layer_types[%zu] is not \"full_attention\" (sliding window layers?)", path,
                           index);
        kq_warn(
            "%s: layer_types[%zu] is not \"full_attention\"; it is ignored, as in transformers' llama models",
            path, index);
        break;
    }
    if (llama)
        return KQ_OK;
    if ((status = get_bool(root, "use_sliding_window", false, path, &slides, err)) ||
        (status = get_size(root, "max_window_layers", 28, path, &first, err)) ||
        (status = get_size(root, "num_hidden_layers", 0, path, &n_layer, err)))
        return status;
    bool window = !json_object_get(root, "sliding_window") || get(root, "sliding_window");
    if (!types && slides && window && first < n_layer)
        return kq_fail(err, KQ_E_UNSUPPORTED, "%s: use_sliding_window is true, which kronq does not support",
                       path);
    return KQ_OK;
}

/* What changes the forward pass and is not built here. */
static kq_status refuse_features(const json_t *root, const char *path, bool llama, kq_error *err)
{
    static const char *const flags[] = {"attention_bias", "mlp_bias"};
    kq_status status;
    bool flag;
    for (size_t i = 0; i < (llama ? 2 : 1); i++) {
        if ((status = get_bool(root, flags[i], false, path, &flag, err)))
            return status;
        if (flag)
            return kq_fail(err, KQ_E_UNSUPPORTED, "%s: %s is true, which kronq does not support", path,
                           flags[i]);
    }
    /* transformers' mask functions look at it, whatever the architecture, and null is as good as false
     * there */
    const json_t *causal = json_object_get(root, "is_causal");
    if (causal && !asks(causal))
        return kq_fail(
            err, KQ_E_UNSUPPORTED,
            "%s: is_causal is not true: kronq reads models whose tokens see only what stands before them",
            path);
    const json_t *act = get(root, "hidden_act");
    const char *name = json_string_value(act);
    if (act && (!name || (strcmp(name, "silu") && strcmp(name, "swish"))))
        return kq_fail(err, KQ_E_UNSUPPORTED, "%s: hidden_act is \"%.100s\", kronq supports \"silu\"", path,
                       name ? name : "(no string)");
    warn_ignored(root, path, llama);
    return refuse_sliding(root, path, llama, err);
}

/* A token id, or a list of which the first counts. Absent: LLaMA's default of transformers (1), none for
 * Qwen3. null, or outside the vocabulary: none. */
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
        return kq_fail(err, KQ_E_FORMAT, "%s: bos_token_id is neither a token id nor a list of token ids",
                       path);
    if (id >= 0 && id < (double)cfg->vocab_size)
        cfg->bos_id = (int32_t)id;
    else
        kq_warn("%s: bos_token_id %.0f is outside the vocabulary of %zu tokens: no text begins with it", path,
                id, cfg->vocab_size);
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

/* max_position_embeddings; a number beyond 2^31 (some write what Python takes for infinity) means that
 * there is no limit. */
static kq_status parse_max_position(const json_t *root, const char *path, kq_config *cfg, kq_error *err)
{
    static const char key[] = "max_position_embeddings";
    const size_t most = (size_t)1 << 31;
    if (json_number_value(get(root, key)) > (double)most) {
        kq_warn("%s: %s is beyond %zu: taken as %zu", path, key, most, most);
        cfg->max_position = most;
        return KQ_OK;
    }
    return get_size(root, key, cfg->arch == KQ_ARCH_LLAMA ? 2048 : 32768, path, &cfg->max_position, err);
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
        (status = parse_max_position(root, path, cfg, err)) ||
        (status = get_number(root, "rms_norm_eps", 1e-6, path, &eps, err)) ||
        (status = get_bool(root, "tie_word_embeddings", false, path, &cfg->tie_embeddings, err)))
        return status;
    cfg->rms_eps = (float)eps;
    if (!cfg->n_head)
        return kq_fail(err, KQ_E_FORMAT, "%s: num_attention_heads is 0", path);
    /* Qwen3Config counts 32 key heads and head_dim 128 when the keys are absent; null means "as many as
     * query heads" in both. */
    bool kv_absent = !json_object_get(root, "num_key_value_heads");
    size_t head_dim = llama || json_object_get(root, "head_dim") ? cfg->d_model / cfg->n_head : 128;
    if ((status = get_size(root, "num_key_value_heads", !llama && kv_absent ? 32 : cfg->n_head, path,
                           &cfg->n_kv_head, err)) ||
        (status = get_size(root, "head_dim", head_dim, path, &cfg->head_dim, err)))
        return status;
    if (!get(root, "head_dim") && llama && cfg->d_model % cfg->n_head)
        return kq_fail(err, KQ_E_FORMAT, "%s: hidden_size %zu is no multiple of num_attention_heads %zu",
                       path, cfg->d_model, cfg->n_head);
    return KQ_OK;
}

/* Is this some FP8 format? By its name, or by compressed-tensors' groups of 8-bit floats. */
static bool is_other_fp8(const json_t *quant, const char *method)
{
    const char *key,
        *texts[] = {method, json_string_value(get(quant, "format")),
                    json_string_value(get(quant, "quant_algo")), json_string_value(get(quant, "fmt"))};
    json_t *group;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (texts[i] && (strcasestr(texts[i], "fp8") || strcasestr(texts[i], "float-quantized") ||
                         strcasestr(texts[i], "e4m3") || strcasestr(texts[i], "e5m2")))
            return true;
    json_object_foreach((json_t *)get(quant, "config_groups"), key, group)
    {
        const json_t *weights = get(group, "weights");
        const char *type = json_string_value(get(weights, "type"));
        if (type && !strcmp(type, "float") && json_number_value(get(weights, "num_bits")) == 8)
            return true;
    }
    return false;
}

/* Qwen's and DeepSeek's FP8: transformers' FineGrainedFP8Config. */
static kq_status parse_fp8(const json_t *quant, const char *path, kq_storage *storage, kq_error *err)
{
    const json_t *block = json_object_get(quant, "weight_block_size");
    const char *fmt = json_string_value(get(quant, "fmt"));
    if (fmt && strcmp(fmt, "e4m3"))
        return kq_fail(err, KQ_E_UNSUPPORTED,
                       "%s: quantization_config is FP8 with fmt \"%.100s\", kronq reads \"e4m3\"", path, fmt);
    storage->fp8 = true;
    storage->block_rows = storage->block_cols = block ? 0 : 128;
    if (!block || json_is_null(block))
        return KQ_OK;
    const json_int_t rows = json_integer_value(json_array_get(block, 0)),
                     cols = json_integer_value(json_array_get(block, 1));
    if (json_array_size(block) != 2 || rows < 1 || cols < 1 || rows > 1 << 22 || cols > 1 << 22)
        return kq_fail(
            err, KQ_E_FORMAT,
            "%s: the FP8 quantization_config's weight_block_size is not two whole numbers of at least 1",
            path);
    storage->block_rows = (size_t)rows;
    storage->block_cols = (size_t)cols;
    return KQ_OK;
}

static kq_status parse_storage(const json_t *root, const char *path, kq_storage *storage, kq_error *err)
{
    const json_t *quant = get(root, "quantization_config"), *file = get(root, "transformers_weights");
    const char *method = json_string_value(get(quant, "quant_method")), *name = json_string_value(file);
    *storage = (kq_storage){0};
    if (file && (!name || strlen(name) >= sizeof storage->weights_file))
        return kq_fail(err, KQ_E_FORMAT, "%s: transformers_weights is not the name of a file", path);
    if (file)
        strcpy(storage->weights_file, name);
    if (!quant)
        return KQ_OK;
    storage->kronq = method && !strcmp(method, "kronq");
    if (storage->kronq)
        return KQ_OK;
    if (method && !strcmp(method, "fp8"))
        return parse_fp8(quant, path, storage, err);
    return kq_fail(err, KQ_E_UNSUPPORTED,
                   "%s: quantization_config has quant_method \"%.100s\"%s; kronq reads unquantized models, "
                   "FP8 with quant_method "
                   "\"fp8\", and its own",
                   path, method ? method : "(none)",
                   is_other_fp8(quant, method) ? ", an FP8 format that it does not read" : "");
}

kq_status kq_config_from_json(const char *text, size_t size, const char *path, kq_config *cfg,
                              kq_storage *storage, kq_error *err)
{
    *storage = (kq_storage){0};
    *cfg = (kq_config){.bos_id = -1};
    json_t *root;
    kq_status status = kq_json_parse(text, size, path, &root, err);
    if (status)
        return status;
    const json_t *type = get(root, "model_type");
    if (!json_is_string(type)) {
        status = kq_fail(err, KQ_E_FORMAT, "%s: model_type is missing", path);
    } else if (strcmp(json_string_value(type), "llama") && strcmp(json_string_value(type), "qwen3")) {
        status = kq_fail(err, KQ_E_UNSUPPORTED,
                         "%s: model_type is \"%.100s\", kronq supports \"llama\" and \"qwen3\"", path,
                         json_string_value(type));
    } else {
        cfg->arch = strcmp(json_string_value(type), "llama") ? KQ_ARCH_QWEN3 : KQ_ARCH_LLAMA;
        (void)((status = refuse_features(root, path, cfg->arch == KQ_ARCH_LLAMA, err)) ||
               (status = parse_storage(root, path, storage, err)) ||
               (status = parse_sizes(root, path, cfg, err)) ||
               (status = kq_rope_from_json(root, path, cfg, err)) ||
               (status = parse_bos(root, path, cfg, err)) || (status = parse_eos(root, path, cfg, err)) ||
               (status = kq_config_check(cfg, path, err)));
    }
    json_decref(root);
    return status;
}
