/* Writes the small files beside the weights: config.json, the tokenizer's files, the chat template,
 * generation_config.json. Those of a folder are copied byte for byte. For a GGUF they are made from its
 * metadata, and kronq reads them itself before they are written, so that no file is written that cannot be
 * read. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/side_files.h"

#include "base/buffer.h"
#include "base/file.h"
#include "format/json.h"
#include "source/rope.h"
#include "tokenizer/convert.h"
#include "tokenizer_files/tokenizer_files.h"
#include "base/mem.h"
#include "base/text.h"

/* The files that are copied byte for byte from a folder, where they exist. */
static const char *const copied[] = {"tokenizer.json",
                                     "tokenizer_config.json",
                                     "special_tokens_map.json",
                                     "generation_config.json",
                                     "chat_template.jinja",
                                     "chat_template.json",
                                     "merges.txt",
                                     "vocab.json",
                                     "tokenizer.model",
                                     "added_tokens.json"};

/* Copy the file `name` of the folder `from` to the folder `dir`; do nothing where it does not exist. */
static kq_status copy_file(const char *from, const char *dir, const char *name, kq_error *err)
{
    char *a = NULL, *b = NULL, *text = NULL;
    size_t size;
    kq_status status;
    if (!(status = kq_path_in(&a, err, from, "%s", name)) &&
        !(status = kq_path_in(&b, err, dir, "%s", name)) && kq_path_exists(a) &&
        !(status = kq_file_read(a, KQ_TOK_MAX_FILE, &text, &size, err)))
        status = kq_file_write(b, text, size, err);
    kq_free(text);
    kq_free(a);
    kq_free(b);
    return status;
}

/* Copy the files of additional_chat_templates. */
static kq_status copy_templates(const char *from, const char *dir, kq_error *err)
{
    static const char folder[] = "additional_chat_templates";
    char *a = NULL, *b = NULL, **names = NULL;
    size_t n = 0;
    kq_status status;
    if (!(status = kq_path_in(&a, err, from, "%s", folder)) &&
        !(status = kq_path_in(&b, err, dir, "%s", folder)) &&
        !(status = kq_chat_template_files(from, &names, &n, err))) {
        if (n)
            status = kq_mkdirs(b, err);
        for (size_t i = 0; i < n && !status; i++)
            status = copy_file(a, b, names[i], err);
        kq_chat_template_files_free(names, n);
    }
    kq_free(a);
    kq_free(b);
    return status;
}

static kq_status copy_all(const char *from, const char *dir, kq_error *err)
{
    for (size_t i = 0; i < sizeof copied / sizeof *copied; i++) {
        kq_status status = copy_file(from, dir, copied[i], err);
        if (status)
            return status;
    }
    return copy_templates(from, dir, err);
}

static kq_status dump(const json_t *v, const char *what, char **out, kq_error *err)
{
    kq_buffer copy = {0};
    char *text = json_dumps(v, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    if (!text)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: writing %s", what);
    kq_status status = kq_buffer_add(&copy, text, strlen(text), err);
    free(text);
    if (!status)
        status = kq_buffer_add(&copy, "\n", 2, err);
    if (status)
        kq_free(copy.data);
    else
        *out = copy.data;
    return status;
}

static kq_status write_json(const char *dir, const char *name, const json_t *v, kq_error *err)
{
    char *path = NULL, *text = NULL;
    kq_status status = kq_path_in(&path, err, dir, "%s", name);
    if (!status && !(status = dump(v, name, &text, err)))
        status = kq_file_write(path, text, strlen(text), err);
    kq_free(text);
    kq_free(path);
    return status;
}

/* The end tokens as JSON: one id, or a list of several. */
static json_t *eos_json(const kq_config *cfg)
{
    if (cfg->n_eos == 1)
        return json_integer(cfg->eos_id[0]);
    json_t *list = json_array();
    for (size_t i = 0; list && i < cfg->n_eos && i < KQ_MAX_EOS; i++)
        json_array_append_new(list, json_integer(cfg->eos_id[i]));
    return list;
}

kq_status kq_write_hf_side_files(const kq_source *src, const char *dir, kq_error *err)
{
    json_t *tokenizer = NULL, *config = NULL, *map = NULL, *gen = NULL;
    kq_tokenizer *tok = NULL;
    const kq_config *cfg = kq_source_config(src);
    kq_status status;
    if (kq_source_kind_of(src) == KQ_SOURCE_HF)
        return copy_all(kq_source_path(src), dir, err);
    /* nothing is written that cannot be read */
    if ((status = kq_tokenizer_gguf_json(kq_source_gguf(src), cfg->max_position, &tokenizer, &config, err)) ||
        (status = kq_tokenizer_from_json(tokenizer, kq_source_path(src), &tok, err)))
        goto out;
    map = json_object();
    gen = json_pack("{s:b}", "_from_model_config", 1);
    if (!map || !gen) {
        status = kq_fail(err, KQ_E_MEMORY, "out of memory: the side files");
        goto out;
    }
    static const char *const roles[] = {"bos_token", "eos_token", "unk_token", "pad_token"};
    for (size_t i = 0; i < 4; i++) {
        json_t *name = json_object_get(config, roles[i]);
        if (!name)
            continue;
        json_object_set(map, roles[i], name);
        if (!strcmp(roles[i], "pad_token"))
            json_object_set_new(gen, "pad_token_id",
                                json_integer(kq_tokenizer_id(tok, json_string_value(name))));
    }
    if (cfg->bos_id >= 0)
        json_object_set_new(gen, "bos_token_id", json_integer(cfg->bos_id));
    if (cfg->n_eos)
        json_object_set_new(gen, "eos_token_id", eos_json(cfg));
    if ((status = write_json(dir, "tokenizer.json", tokenizer, err)) ||
        (status = write_json(dir, "tokenizer_config.json", config, err)) ||
        (status = write_json(dir, "special_tokens_map.json", map, err)))
        goto out;
    status = write_json(dir, "generation_config.json", gen, err);
out:
    json_decref(tokenizer);
    json_decref(config);
    json_decref(map);
    json_decref(gen);
    kq_tokenizer_close(tok);
    return status;
}

/* The double nearest to the shortest decimal that is the same f32: 1e-05, not 9.999999747378752e-06. */
static double shortest(float x)
{
    char text[32];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)x);
        if (strtof(text, NULL) == x)
            return strtod(text, NULL);
    }
    return x;
}

static json_t *real_number(double x)
{
    return json_real((double)(float)x == x ? shortest((float)x) : x);
}

static kq_status folder_config(const kq_source *src, char **json, kq_error *err)
{
    const char *text = kq_source_config_json(src);
    kq_buffer copy = {0};
    if (!text)
        return kq_fail(err, KQ_E_FORMAT, "%s: no config.json", kq_source_path(src));
    json_t *root = kq_json_again(text);
    if (!json_is_object(root)) {
        json_decref(root);
        return kq_fail(err, KQ_E_FORMAT, "%s/config.json is not a JSON object", kq_source_path(src));
    }
    kq_status status;
    /* auto_map names files of code, and transformers_weights a file of weights; neither is copied. Where a
     * head is stored although the configuration ties it, the head is not tied. */
    static const char *const dropped[] = {"quantization_config", "auto_map", "transformers_weights"};
    const bool tied = kq_source_config(src)->tie_embeddings,
               untied = !tied && json_is_true(json_object_get(root, "tie_word_embeddings"));
    /* newer versions of transformers refuse a list there */
    const bool bos_list = json_is_array(json_object_get(root, "bos_token_id"));
    bool changed = untied || bos_list;
    for (size_t i = 0; i < sizeof dropped / sizeof *dropped; i++)
        changed |= !json_object_del(root, dropped[i]);
    if (changed) {
        if (untied)
            json_object_set_new(root, "tie_word_embeddings", json_false());
        if (bos_list)
            json_object_set_new(root, "bos_token_id",
                                kq_source_config(src)->bos_id >= 0
                                    ? json_integer(kq_source_config(src)->bos_id)
                                    : json_null());
        status = dump(root, "config.json", json, err);
    } else if (!(status = kq_buffer_add(&copy, text, strlen(text) + 1, err))) {
        *json = copy.data;
    }
    json_decref(root);
    return status;
}

kq_status kq_config_json(const kq_source *src, char **json, kq_error *err)
{
    const kq_config *cfg = kq_source_config(src);
    *json = NULL;
    if (kq_source_kind_of(src) == KQ_SOURCE_HF)
        return folder_config(src, json, err);
    const bool llama = cfg->arch == KQ_ARCH_LLAMA;
    json_t *v = json_pack(
        "{s:[s],s:s,s:b,s:s,s:I,s:f,s:I,s:I,s:I,s:I,s:I,s:I,s:o,s:n,s:o,s:b,s:s,s:b,s:I}", "architectures",
        llama ? "LlamaForCausalLM" : "Qwen3ForCausalLM", "model_type", llama ? "llama" : "qwen3",
        "attention_bias", 0, "hidden_act", "silu", "hidden_size", (json_int_t)cfg->d_model,
        "initializer_range", 0.02, "intermediate_size", (json_int_t)cfg->d_ff, "max_position_embeddings",
        (json_int_t)cfg->max_position, "num_attention_heads", (json_int_t)cfg->n_head, "num_hidden_layers",
        (json_int_t)cfg->n_layer, "num_key_value_heads", (json_int_t)cfg->n_kv_head, "head_dim",
        (json_int_t)cfg->head_dim, "rms_norm_eps", real_number(cfg->rms_eps), "rope_scaling", "rope_theta",
        real_number(cfg->rope_theta), "tie_word_embeddings", cfg->tie_embeddings, "torch_dtype", "bfloat16",
        "use_cache", 1, "vocab_size", (json_int_t)cfg->vocab_size);
    bool ok = v != NULL;
    if (ok && llama)
        ok = !json_object_set_new(v, "mlp_bias", json_false());
    if (ok)
        ok = !json_object_set_new(v, "rope_scaling", kq_rope_to_json(cfg));
    if (ok)
        ok = !json_object_set_new(v, "bos_token_id",
                                  cfg->bos_id >= 0 ? json_integer(cfg->bos_id) : json_null()) &&
             !json_object_set_new(v, "eos_token_id", cfg->n_eos ? eos_json(cfg) : json_null());
    kq_status status =
        ok ? dump(v, "config.json", json, err) : kq_fail(err, KQ_E_MEMORY, "out of memory: config.json");
    json_decref(v);
    return status;
}

/* python/kronq/modeling_kronq.py, put into the library by the build (cmake/KronqEmbed.cmake). */
extern const unsigned char kq_modeling_py[];
extern const size_t kq_modeling_py_size;

kq_status kq_write_modeling(const char *dir, kq_error *err)
{
    char *path = NULL;
    kq_status status = kq_path_in(&path, err, dir, "modeling_kronq.py");
    if (!status)
        status = kq_file_write(path, kq_modeling_py, kq_modeling_py_size, err);
    kq_free(path);
    return status;
}

kq_status kq_write_config(const char *dir, const json_t *config, kq_error *err)
{
    char *path = NULL;
    kq_status status = kq_path_in(&path, err, dir, "config.json");
    char *text = config ? json_dumps(config, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) : NULL;
    if (!status && !text)
        status = kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    if (!status)
        status = kq_file_write(path, text, strlen(text), err);
    free(text);
    kq_free(path);
    return status;
}
