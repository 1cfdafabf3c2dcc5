/* config.json as transformers reads it: what it ignores is ignored, what it takes for granted is the default
 * here, and what would change the numbers of a model but is not built is refused by the name of its key. */
#include "source/config_json.h"

#include <math.h>
#include <string.h>

#include "base/warn.h"
#include "source/generation_config.h"
#include "format/json.h"
#include "source/rope.h"

/* A model's config.json while it is read. */
typedef struct reader {
    kq_json_node root;
    kq_config *cfg;
    bool llama; /* else Qwen3: their defaults differ */
    kq_error *err;
} reader;

/* The value of a key of the root; NULL when it is absent or null. */
static const json_t *get(const reader *r, const char *key)
{
    const kq_json_node node = kq_json_field(&r->root, key);
    return kq_json_absent(node) ? NULL : node.value;
}

static kq_status required_size(const reader *r, const char *key, size_t *out)
{
    return kq_json_get_size(kq_json_field(&r->root, key), KQ_JSON_REQUIRED, 0, SIZE_MAX, out, r->err);
}

/* Absent: the default of transformers' configuration class. */
static kq_status optional_size(const reader *r, const char *key, size_t otherwise, size_t *out)
{
    *out = otherwise;
    return kq_json_get_size(kq_json_field(&r->root, key), KQ_JSON_OPTIONAL, 0, SIZE_MAX, out, r->err);
}

static kq_status optional_bool(const reader *r, const char *key, bool otherwise, bool *out)
{
    *out = otherwise;
    return kq_json_get_bool(kq_json_field(&r->root, key), KQ_JSON_OPTIONAL, out, r->err);
}

/* Keys that transformers does not look at in this architecture, although they ask for something. */
static void warn_ignored(const reader *r)
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
        if ((r->llama ? ignored[i].in_llama : ignored[i].in_qwen3) &&
            kq_json_truthy(json_object_get(r->root.value, ignored[i].key)))
            kq_warn("%s: %s is set; it is ignored, as in transformers' %s models", r->root.file,
                    ignored[i].key, r->llama ? "llama" : "qwen3");
}

/* layer_types decides where it is given; else Qwen3 slides a window from layer max_window_layers on, if
 * use_sliding_window. LLaMA never slides. */
static kq_status refuse_sliding(const reader *r)
{
    const json_t *types = get(r, "layer_types"), *type;
    const char *path = r->root.file;
    size_t index, first, n_layer;
    bool slides;
    kq_status status;
    json_array_foreach(types, index, type) {
        if (json_is_string(type) && !strcmp(json_string_value(type), "full_attention"))
            continue;
        if (!r->llama)
            return kq_fail(r->err, KQ_E_UNSUPPORTED,
                           "%s: layer_types[%zu] is not \"full_attention\" (sliding window layers?)", path,
                           index);
        kq_warn(
            "%s: layer_types[%zu] is not \"full_attention\"; it is ignored, as in transformers' llama models",
            path, index);
        break;
    }
    if (r->llama)
        return KQ_OK;
    if ((status = optional_bool(r, "use_sliding_window", false, &slides)) ||
        (status = optional_size(r, "max_window_layers", 28, &first)) ||
        (status = optional_size(r, "num_hidden_layers", 0, &n_layer)))
        return status;
    const bool window = !json_object_get(r->root.value, "sliding_window") || get(r, "sliding_window");
    if (!types && slides && window && first < n_layer)
        return kq_fail(r->err, KQ_E_UNSUPPORTED,
                       "%s: use_sliding_window is true, which kronq does not support", path);
    return KQ_OK;
}

/* What changes the forward pass and is not built here. */
static kq_status refuse_features(const reader *r)
{
    static const char *const flags[] = {"attention_bias", "mlp_bias"};
    const char *path = r->root.file;
    kq_status status;
    bool flag;
    for (size_t i = 0; i < (r->llama ? 2 : 1); i++) {
        if ((status = optional_bool(r, flags[i], false, &flag)))
            return status;
        if (flag)
            return kq_fail(r->err, KQ_E_UNSUPPORTED, "%s: %s is true, which kronq does not support", path,
                           flags[i]);
    }
    /* transformers' mask functions look at it, whatever the architecture, and null is as good as false
     * there */
    const json_t *causal = json_object_get(r->root.value, "is_causal");
    if (causal && !kq_json_truthy(causal))
        return kq_fail(
            r->err, KQ_E_UNSUPPORTED,
            "%s: is_causal is not true: kronq reads models whose tokens see only what stands before them",
            path);
    const json_t *act = get(r, "hidden_act");
    const char *name = json_string_value(act);
    if (act && (!name || (strcmp(name, "silu") && strcmp(name, "swish"))))
        return kq_fail(r->err, KQ_E_UNSUPPORTED, "%s: hidden_act is \"%.100s\", kronq supports \"silu\"",
                       path, name ? name : "(no string)");
    warn_ignored(r);
    return refuse_sliding(r);
}

/* A token id, or a list of which the first counts. Absent: LLaMA's default of transformers (1), none for
 * Qwen3. null, or outside the vocabulary: none. */
static kq_status parse_bos(const reader *r)
{
    const kq_json_node given = kq_json_field(&r->root, "bos_token_id");
    const json_t *bos = json_is_array(given.value) ? json_array_get(given.value, 0) : given.value;
    kq_config *cfg = r->cfg;
    cfg->bos_id = !bos && !json_is_array(given.value) && r->llama && cfg->vocab_size > 1 ? 1 : -1;
    if (!bos || json_is_null(bos))
        return KQ_OK;
    const double id = json_number_value(bos);
    if (!json_is_number(bos) || id != floor(id))
        return kq_json_unexpected(given, "a token id or a list of token ids", r->err);
    if (id >= 0 && id < (double)cfg->vocab_size)
        cfg->bos_id = (int32_t)id;
    else
        kq_warn("%s: bos_token_id %.0f is outside the vocabulary of %zu tokens: no text begins with it",
                r->root.file, id, cfg->vocab_size);
    return KQ_OK;
}

/* Absent: LLaMA's default of transformers (2), none for Qwen3. null: none. */
static kq_status parse_eos(const reader *r)
{
    const kq_json_node eos = kq_json_field(&r->root, "eos_token_id");
    kq_config *cfg = r->cfg;
    if (!kq_json_absent(eos))
        return kq_parse_eos(eos, cfg->vocab_size, cfg->eos_id, &cfg->n_eos, r->err);
    if (!eos.value && r->llama && cfg->vocab_size > 2)
        cfg->eos_id[cfg->n_eos++] = 2;
    return KQ_OK;
}

/* max_position_embeddings; a number beyond 2^31 (some write what Python takes for infinity) means that
 * there is no limit. */
static kq_status parse_max_position(const reader *r)
{
    static const char key[] = "max_position_embeddings";
    const size_t most = (size_t)1 << 31;
    if (json_number_value(get(r, key)) > (double)most) {
        kq_warn("%s: %s is beyond %zu: taken as %zu", r->root.file, key, most, most);
        r->cfg->max_position = most;
        return KQ_OK;
    }
    return optional_size(r, key, r->llama ? 2048 : 32768, &r->cfg->max_position);
}

static kq_status parse_sizes(const reader *r)
{
    kq_config *cfg = r->cfg;
    kq_status status;
    double eps = 1e-6;
    if ((status = required_size(r, "num_hidden_layers", &cfg->n_layer)) ||
        (status = required_size(r, "hidden_size", &cfg->d_model)) ||
        (status = required_size(r, "num_attention_heads", &cfg->n_head)) ||
        (status = required_size(r, "intermediate_size", &cfg->d_ff)) ||
        (status = required_size(r, "vocab_size", &cfg->vocab_size)) || (status = parse_max_position(r)) ||
        (status = kq_json_get_number(kq_json_field(&r->root, "rms_norm_eps"), KQ_JSON_OPTIONAL, -INFINITY,
                                     INFINITY, &eps, r->err)) ||
        (status = optional_bool(r, "tie_word_embeddings", false, &cfg->tie_embeddings)))
        return status;
    cfg->rms_eps = (float)eps;
    if (!cfg->n_head)
        return kq_fail(r->err, KQ_E_FORMAT, "%s: num_attention_heads is 0", r->root.file);
    /* Qwen3Config counts 32 key heads and head_dim 128 when the keys are absent; null means "as many as
     * query heads" in both. */
    const bool kv_absent = !json_object_get(r->root.value, "num_key_value_heads"),
               dim_absent = !json_object_get(r->root.value, "head_dim");
    const size_t head_dim = r->llama || !dim_absent ? cfg->d_model / cfg->n_head : 128;
    if ((status = optional_size(r, "num_key_value_heads", !r->llama && kv_absent ? 32 : cfg->n_head,
                                &cfg->n_kv_head)) ||
        (status = optional_size(r, "head_dim", head_dim, &cfg->head_dim)))
        return status;
    if (!get(r, "head_dim") && r->llama && cfg->d_model % cfg->n_head)
        return kq_fail(r->err, KQ_E_FORMAT, "%s: hidden_size %zu is no multiple of num_attention_heads %zu",
                       r->root.file, cfg->d_model, cfg->n_head);
    return KQ_OK;
}

/* Is this some FP8 format? By its name, or by compressed-tensors' groups of 8-bit floats. */
static bool is_other_fp8(const json_t *quant, const char *method)
{
    const char *key, *texts[] = {method, json_string_value(json_object_get(quant, "format")),
                                 json_string_value(json_object_get(quant, "quant_algo")),
                                 json_string_value(json_object_get(quant, "fmt"))};
    json_t *group;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (texts[i] && (strcasestr(texts[i], "fp8") || strcasestr(texts[i], "float-quantized") ||
                         strcasestr(texts[i], "e4m3") || strcasestr(texts[i], "e5m2")))
            return true;
    json_object_foreach(json_object_get(quant, "config_groups"), key, group) {
        const json_t *weights = json_object_get(group, "weights");
        const char *type = json_string_value(json_object_get(weights, "type"));
        if (type && !strcmp(type, "float") && json_number_value(json_object_get(weights, "num_bits")) == 8)
            return true;
    }
    return false;
}

/* Qwen's and DeepSeek's FP8: transformers' FineGrainedFP8Config. */
static kq_status parse_fp8(const json_t *quant, const char *path, kq_storage *storage, kq_error *err)
{
    const json_t *block = json_object_get(quant, "weight_block_size");
    const char *fmt = json_string_value(json_object_get(quant, "fmt"));
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

static kq_status parse_storage(const reader *r, kq_storage *storage)
{
    const char *path = r->root.file, *name = NULL;
    const json_t *quant = get(r, "quantization_config");
    const char *method = json_string_value(json_object_get(quant, "quant_method"));
    kq_error *err = r->err;
    kq_status status =
        kq_json_get_text(kq_json_field(&r->root, "transformers_weights"), KQ_JSON_OPTIONAL, &name, err);
    if (status)
        return status;
    if (name && strlen(name) >= sizeof storage->weights_file)
        return kq_json_unexpected(kq_json_field(&r->root, "transformers_weights"), "the name of a file", err);
    if (name)
        strcpy(storage->weights_file, name);
    if (!quant)
        return KQ_OK;
    storage->kronq = method && !strcmp(method, "kronq");
    storage->exl3 = method && !strcmp(method, "exl3");
    if (storage->kronq || storage->exl3)
        return KQ_OK;
    if (method && !strcmp(method, "fp8"))
        return parse_fp8(quant, path, storage, err);
    return kq_fail(err, KQ_E_UNSUPPORTED,
                   "%s: quantization_config has quant_method \"%.100s\"%s; kronq reads unquantized models, "
                   "FP8 with quant_method \"fp8\", EXL3 with \"exl3\", and its own",
                   path, method ? method : "(none)",
                   is_other_fp8(quant, method) ? ", an FP8 format that it does not read" : "");
}

static kq_status parse(reader *r, kq_storage *storage)
{
    const char *type = NULL, *path = r->root.file;
    kq_status status =
        kq_json_get_text(kq_json_field(&r->root, "model_type"), KQ_JSON_REQUIRED, &type, r->err);
    if (status)
        return status;
    if (strcmp(type, "llama") && strcmp(type, "qwen3"))
        return kq_fail(r->err, KQ_E_UNSUPPORTED,
                       "%s: model_type is \"%.100s\", kronq supports \"llama\" and \"qwen3\"", path, type);
    r->llama = !strcmp(type, "llama");
    r->cfg->arch = r->llama ? KQ_ARCH_LLAMA : KQ_ARCH_QWEN3;
    (void)((status = refuse_features(r)) || (status = parse_storage(r, storage)) ||
           (status = parse_sizes(r)) || (status = kq_rope_from_json(&r->root, r->cfg, r->err)) ||
           (status = parse_bos(r)) || (status = parse_eos(r)) ||
           (status = kq_config_check(r->cfg, path, r->err)));
    return status;
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
    reader r = {.root = kq_json_root(root, path), .cfg = cfg, .err = err};
    status = parse(&r, storage);
    json_decref(root);
    return status;
}
