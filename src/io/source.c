#include "io/source.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "io/config_json.h"
#include "io/dequant.h"
#include "io/gguf.h"
#include "io/generation_config.h"
#include "io/gguf_model.h"
#include "io/json.h"
#include "io/safetensors_write.h"

enum { MAX_PATH = 4096, MAX_CONFIG = 16 << 20, MAX_INDEX = 512 << 20, MAX_SHARD = 4096 };

struct kq_source {
    char *path;               /* owned */
    kq_source_kind kind;
    kq_config cfg;
    bool is_kronq;
    char *config_json;        /* owned; HF only */
    kq_st_file **file;        /* owned [n_file] */
    size_t n_file;
    kq_gguf *gguf;            /* owned */
    char *names;              /* owned; the GGUF tensors' Hugging Face names, NAME_CAP each */
    kq_tensor *tensor;        /* owned [n] */
    size_t n;
    const kq_tensor **sorted; /* owned [n], by name */
};

enum { NAME_CAP = 128 }; /* GGUF names have at most 63 bytes; the longest replacement adds less than 40 */

const char *kq_dtype_name(kq_dtype dtype)
{
    static const char *const names[] = {"F32", "F16", "BF16", "I8", "I16", "I32", "I64", "U8", "BOOL", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1",
                                        "Q4_K", "Q5_K", "Q6_K", "Q2_K", "Q3_K", "IQ4_NL", "other"};
    return (size_t)dtype < sizeof names / sizeof *names ? names[dtype] : "?";
}

/* ---- the table of tensors ---- */

static int compare_name(const void *a, const void *b)
{
    return strcmp((*(const kq_tensor *const *)a)->name, (*(const kq_tensor *const *)b)->name);
}

/* Sort by name; KQ_E_FORMAT when a name appears twice. */
static kq_status sort_tensors(kq_source *src, kq_error *err)
{
    kq_status status = kq_alloc_for((void **)&src->sorted, src->n, sizeof *src->sorted, "the tensor table", err);
    if (status)
        return status;
    for (size_t i = 0; i < src->n; i++)
        src->sorted[i] = &src->tensor[i];
    qsort(src->sorted, src->n, sizeof *src->sorted, compare_name);
    for (size_t i = 1; i < src->n; i++)
        if (!strcmp(src->sorted[i - 1]->name, src->sorted[i]->name))
            return kq_fail(err, KQ_E_FORMAT, "%s: tensor %.200s appears twice (in %s and %s)", src->path, src->sorted[i]->name,
                           src->sorted[i - 1]->file, src->sorted[i]->file);
    return KQ_OK;
}

const kq_tensor *kq_source_find(const kq_source *src, const char *name)
{
    kq_tensor key = {.name = name};
    const kq_tensor *want = &key;
    const kq_tensor **found = bsearch(&want, src->sorted, src->n, sizeof *src->sorted, compare_name);
    return found ? *found : NULL;
}

/* Some tensor whose name begins with prefix? */
static bool has_prefix(const kq_source *src, const char *prefix)
{
    size_t lo = 0, hi = src->n, len = strlen(prefix);
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (strcmp(src->sorted[mid]->name, prefix) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < src->n && !strncmp(src->sorted[lo]->name, prefix, len);
}

/* ---- what the architecture needs ---- */

/* `<module>.weight` with this shape (cols 0: rank 1). In a kronq checkpoint, packed says what may stand for it: another tensor of the module. */
static kq_status need(const kq_source *src, const char *module, size_t rows, size_t cols, const char *packed, kq_error *err)
{
    char name[160];
    snprintf(name, sizeof name, "%s.weight", module);
    const kq_tensor *t = kq_source_find(src, name);
    if (!t && src->is_kronq && packed) {
        char other[160];
        snprintf(other, sizeof other, "%s.%s", module, packed);
        if (has_prefix(src, other))
            return KQ_OK;
    }
    if (!t)
        return kq_fail(err, KQ_E_SHAPE, "%s: tensor %s is missing", src->path, name);
    bool integer = t->dtype == KQ_T_I8 || t->dtype == KQ_T_I16 || t->dtype == KQ_T_I32 || t->dtype == KQ_T_I64 || t->dtype == KQ_T_U8 ||
                   t->dtype == KQ_T_BOOL;
    if (integer && src->is_kronq && packed)
        return KQ_OK; /* packed in its own way; the checkpoint room checks it */
    if (integer)
        return kq_fail(err, KQ_E_UNSUPPORTED, "%s: %s has type %s, expected floating point", t->file, name, kq_dtype_name(t->dtype));
    if (!cols && (t->rank != 1 || t->shape[0] != rows))
        return kq_fail(err, KQ_E_SHAPE, "%s: %s has rank %zu and %zu elements, the configuration says [%zu] (wrong config.json?)", t->file, name,
                       t->rank, t->n_elem, rows);
    if (cols && (t->rank != 2 || t->shape[0] != rows || t->shape[1] != cols))
        return kq_fail(err, KQ_E_SHAPE, "%s: %s is [%zu, %zu] (rank %zu), the configuration says [%zu, %zu] (wrong config.json?)", t->file, name,
                       t->rank ? t->shape[0] : 1, t->rank > 1 ? t->shape[1] : 1, t->rank, rows, cols);
    return KQ_OK;
}

static kq_status need_layer(const kq_source *src, size_t layer, kq_error *err)
{
    const kq_config *cfg = &src->cfg;
    char module[128];
    kq_status status;
    static const char *const norms[] = {"input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm"};
    for (kq_linear_id id = KQ_Q; id < KQ_N_LINEAR; id++) {
        size_t m, n;
        kq_linear_shape(cfg, id, &m, &n);
        kq_linear_name(module, sizeof module, layer, id);
        if ((status = need(src, module, m, n, "trellis", err)))
            return status;
    }
    for (size_t i = 0; i < (cfg->arch == KQ_ARCH_QWEN3 ? 4 : 2); i++) {
        snprintf(module, sizeof module, "model.layers.%zu.%s", layer, norms[i]);
        if ((status = need(src, module, i < 2 ? cfg->d_model : cfg->head_dim, 0, NULL, err)))
            return status;
    }
    return KQ_OK;
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end);
}

static kq_status check_tensors(const kq_source *src, kq_error *err)
{
    const kq_config *cfg = &src->cfg;
    static const char layers[] = "model.layers.";
    kq_status status;
    for (size_t i = 0; i < src->n; i++) {
        const char *name = src->tensor[i].name;
        if (ends_with(name, ".bias"))
            return kq_fail(err, KQ_E_UNSUPPORTED, "%s: %.200s: layers with a bias are not supported", src->tensor[i].file, name);
        if (!strncmp(name, layers, sizeof layers - 1) && strtoull(name + sizeof layers - 1, NULL, 10) >= cfg->n_layer)
            return kq_fail(err, KQ_E_SHAPE, "%s: %.200s is beyond the %zu layers of the configuration (wrong config.json?)",
                           src->tensor[i].file, name, cfg->n_layer);
    }
    if ((status = need(src, "model.embed_tokens", cfg->vocab_size, cfg->d_model, "", err)) ||
        (status = need(src, "model.norm", cfg->d_model, 0, NULL, err)))
        return status;
    if (!cfg->tie_embeddings && (status = need(src, "lm_head", cfg->vocab_size, cfg->d_model, "", err)))
        return status;
    for (size_t layer = 0; layer < cfg->n_layer; layer++)
        if ((status = need_layer(src, layer, err)))
            return status;
    return KQ_OK;
}

/* ---- a Hugging Face folder ---- */

/* Only a plain name may come from an index: no folder, no way up. (A symbolic link is fine: download caches are made of them, and what it
 * leads to must be a well-formed safetensors file like any other.) */
static bool plain_name(const char *name)
{
    return *name && strlen(name) < 256 && !strpbrk(name, "/\\") && strcmp(name, ".") && strcmp(name, "..");
}

static kq_status open_file(kq_source *src, const char *name, kq_error *err)
{
    char path[MAX_PATH];
    kq_status status = kq_path_join(path, sizeof path, src->path, name, err);
    if (!status && !(status = kq_st_open(path, &src->file[src->n_file], err)))
        src->n_file++;
    return status;
}

/* Open every file of the weight map once; file_of[i] belongs to entry i. */
static kq_status open_shards(kq_source *src, const json_t *map, const char *path, kq_error *err)
{
    const char *tensor, *last = "";
    json_t *value;
    kq_status status = KQ_OK;
    json_t *seen = json_object();
    if (!seen)
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    json_object_foreach((json_t *)map, tensor, value) {
        const char *name = json_string_value(value);
        if (!name || !plain_name(name)) {
            status = kq_fail(err, KQ_E_FORMAT, "%s: weight_map sends %.200s to \"%.200s\", expected a file of the same folder", path, tensor,
                             name ? name : "(no string)");
            break;
        }
        if (!strcmp(name, last) || json_object_get(seen, name))
            continue;
        last = name;
        if (src->n_file == MAX_SHARD) {
            status = kq_fail(err, KQ_E_UNSUPPORTED, "%s: names more than %d files", path, MAX_SHARD);
            break;
        }
        if ((status = open_file(src, name, err)))
            break;
        if (json_object_set_new(seen, name, json_integer((json_int_t)src->n_file - 1))) {
            status = kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
            break;
        }
    }
    json_object_foreach((json_t *)map, tensor, value) {
        if (status)
            break;
        size_t at = (size_t)json_integer_value(json_object_get(seen, json_string_value(value)));
        if (!kq_st_find(src->file[at], tensor))
            status = kq_fail(err, KQ_E_FORMAT, "%s: weight_map says that %.200s is in %s, but it is not (stale index?)", path, tensor,
                             json_string_value(value));
    }
    json_decref(seen);
    return status;
}

/* Every tensor of every shard must be in the map, under that shard's name. */
static kq_status check_shards(const kq_source *src, const json_t *map, const char *path, kq_error *err)
{
    for (size_t f = 0; f < src->n_file; f++)
        for (size_t i = 0; i < kq_st_n_tensors(src->file[f]); i++) {
            const kq_tensor *t = kq_st_tensor(src->file[f], i);
            const char *name = json_string_value(json_object_get(map, t->name)), *base = strrchr(t->file, '/');
            if (!name)
                return kq_fail(err, KQ_E_FORMAT, "%s: %.200s is in %s but not in the weight_map (stale index?)", path, t->name, t->file);
            if (strcmp(name, base ? base + 1 : t->file))
                return kq_fail(err, KQ_E_FORMAT, "%s: %.200s appears twice: the weight_map says %s, but it is in %s too", path, t->name, name, t->file);
        }
    return KQ_OK;
}

static kq_status open_index(kq_source *src, const char *path, kq_error *err)
{
    json_t *root;
    kq_status status = kq_json_read(path, MAX_INDEX, &root, err);
    if (status)
        return status;
    const json_t *map = json_object_get(root, "weight_map");
    if (!json_is_object(map) || !json_object_size(map))
        status = kq_fail(err, KQ_E_FORMAT, "%s: weight_map is missing or empty", path);
    else if (!(status = open_shards(src, map, path, err)))
        status = check_shards(src, map, path, err);
    json_decref(root);
    return status;
}

static kq_status open_weights(kq_source *src, kq_error *err)
{
    char single[MAX_PATH], index[MAX_PATH];
    kq_status status;
    if ((status = kq_path_join(single, sizeof single, src->path, "model.safetensors", err)) ||
        (status = kq_path_join(index, sizeof index, src->path, "model.safetensors.index.json", err)) ||
        (status = kq_alloc_for((void **)&src->file, MAX_SHARD, sizeof *src->file, "the file table", err)))
        return status;
    if (!kq_path_exists(single) && !kq_path_exists(index))
        return kq_fail(err, KQ_E_IO, "%s: holds neither model.safetensors nor model.safetensors.index.json (kronq reads no other weight files)",
                       src->path);
    if (!kq_path_exists(index))
        return open_file(src, "model.safetensors", err);
    if ((status = open_index(src, index, err)))
        return status;
    /* Both: the index may describe just that one file. Otherwise one of the two is left from another export. */
    if (kq_path_exists(single)) {
        bool named = false;
        for (size_t f = 0; f < src->n_file; f++)
            named |= ends_with(kq_st_n_tensors(src->file[f]) ? kq_st_tensor(src->file[f], 0)->file : "", "/model.safetensors");
        if (!named)
            return kq_fail(err, KQ_E_FORMAT, "%s: model.safetensors lies beside an index that names other files; remove the one that is stale",
                           src->path);
    }
    return KQ_OK;
}

/* generation_config.json's end tokens take the place of config.json's, where it names any. */
static kq_status read_generation_config(kq_source *src, kq_error *err)
{
    kq_generation_config gen;
    kq_status status = kq_generation_config_read(src->path, src->cfg.vocab_size, &gen, err);
    if (!status && gen.has_eos) {
        memcpy(src->cfg.eos_id, gen.eos_id, sizeof gen.eos_id);
        src->cfg.n_eos = gen.n_eos;
    }
    return status;
}

static kq_status open_folder(kq_source *src, kq_error *err)
{
    char path[MAX_PATH];
    size_t size;
    kq_status status;
    src->kind = KQ_SOURCE_HF;
    if ((status = kq_path_join(path, sizeof path, src->path, "config.json", err)))
        return status;
    if (!kq_path_exists(path))
        return kq_fail(err, KQ_E_IO, "%s: has no config.json (a Hugging Face model folder, or a finished kronq checkpoint, has one)", src->path);
    if ((status = kq_file_read(path, MAX_CONFIG, &src->config_json, &size, err)) ||
        (status = kq_config_from_json(src->config_json, size, path, &src->cfg, &src->is_kronq, err)) || (status = read_generation_config(src, err)) ||
        (status = open_weights(src, err)))
        return status;
    size_t n = 0;
    for (size_t f = 0; f < src->n_file; f++)
        n += kq_st_n_tensors(src->file[f]);
    if ((status = kq_alloc_for((void **)&src->tensor, n, sizeof *src->tensor, "the tensor table", err)))
        return status;
    for (size_t f = 0; f < src->n_file; f++)
        for (size_t i = 0; i < kq_st_n_tensors(src->file[f]); i++)
            src->tensor[src->n++] = *kq_st_tensor(src->file[f], i);
    return KQ_OK;
}

/* ---- a GGUF file ---- */

static kq_status open_gguf(kq_source *src, kq_error *err)
{
    src->kind = KQ_SOURCE_GGUF;
    kq_status status;
    if (ends_with(src->path, ".safetensors"))
        return kq_fail(err, KQ_E_ARG, "%s: give the folder of the model (with its config.json) instead of this file", src->path);
    if ((status = kq_gguf_open(src->path, &src->gguf, err)) || (status = kq_gguf_config(src->gguf, &src->cfg, err)))
        return status;
    size_t n = kq_gguf_n_tensors(src->gguf);
    if ((status = kq_alloc_for((void **)&src->tensor, n, sizeof *src->tensor, "the tensor table", err)) ||
        (status = kq_alloc_for((void **)&src->names, n, NAME_CAP, "the tensor names", err)))
        return status;
    for (size_t i = 0; i < n; i++) {
        const kq_gguf_tensor *g = kq_gguf_tensor_at(src->gguf, i);
        kq_tensor *t = &src->tensor[src->n++];
        char *name = src->names + i * NAME_CAP;
        kq_gguf_hf_name(g->name, name, NAME_CAP);
        *t = (kq_tensor){.name = name, .file = g->file, .dtype = kq_gguf_dtype(g->type), .rank = g->rank, .n_elem = (size_t)g->n_elem,
                         .data = g->data, .size_bytes = g->size_bytes};
        for (size_t d = 0; d < t->rank; d++)
            t->shape[d] = (size_t)g->ne[t->rank - 1 - d];
        /* Whole heads only: the row order of a stray tensor with such a name must stay inside it. */
        t->permuted_qk = src->cfg.arch == KQ_ARCH_LLAMA && t->rank == 2 && t->shape[0] % src->cfg.head_dim == 0 &&
                         (ends_with(name, ".self_attn.q_proj.weight") || ends_with(name, ".self_attn.k_proj.weight"));
    }
    return KQ_OK;
}

/* ---- the interface ---- */

kq_status kq_source_open(const char *path, kq_source **out, kq_error *err)
{
    *out = NULL;
    kq_source *src = kq_calloc(1, sizeof *src);
    kq_status status;
    if (!src || !(src->path = strdup(path)))
        status = kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    else if (!kq_path_exists(path))
        status = kq_fail(err, KQ_E_IO, "%s: does not exist (expected a model folder or a .gguf file)", path);
    else
        status = kq_path_is_dir(path) ? open_folder(src, err) : open_gguf(src, err);
    if (status || (status = sort_tensors(src, err)) || (status = check_tensors(src, err)))
        kq_source_close(src);
    else
        *out = src;
    return status;
}

void kq_source_close(kq_source *src)
{
    if (!src)
        return;
    for (size_t f = 0; f < src->n_file; f++)
        kq_st_close(src->file[f]);
    kq_free(src->file);
    kq_gguf_close(src->gguf);
    kq_free(src->config_json);
    kq_free(src->names);
    kq_free(src->tensor);
    kq_free(src->sorted);
    free(src->path);
    kq_free(src);
}

const char *kq_source_path(const kq_source *src)
{
    return src->path;
}

kq_source_kind kq_source_kind_of(const kq_source *src)
{
    return src->kind;
}

const kq_config *kq_source_config(const kq_source *src)
{
    return &src->cfg;
}

bool kq_source_is_kronq(const kq_source *src)
{
    return src->is_kronq;
}

size_t kq_source_n_tensors(const kq_source *src)
{
    return src->n;
}

const kq_tensor *kq_source_tensor(const kq_source *src, size_t i)
{
    return i < src->n ? &src->tensor[i] : NULL;
}

const char *kq_source_config_json(const kq_source *src)
{
    return src->config_json;
}

const struct kq_gguf *kq_source_gguf(const kq_source *src)
{
    return src->gguf;
}

/* Where row r of Hugging Face's order lies in a llama GGUF: llama.cpp's converter interleaves the two halves of each head,
 * row h*d + s*d/2 + j -> h*d + 2j + s for head size d, half s, j < d/2. */
static size_t stored_row(size_t r, size_t head_dim)
{
    size_t head = r / head_dim, within = r % head_dim, half = head_dim / 2;
    return head * head_dim + 2 * (within % half) + within / half;
}

/* Index of the first value that is NaN or Inf, n when there is none. */
static size_t first_not_finite(const float *x, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t end = n - i < 1024 ? n : i + 1024;
        uint32_t bad = 0;
        for (size_t j = i; j < end; j++) { /* no early exit: this loop becomes vector code */
            uint32_t u;
            memcpy(&u, &x[j], 4);
            bad |= (u & 0x7f800000u) == 0x7f800000u;
        }
        for (; bad && i < end; i++) {
            uint32_t u;
            memcpy(&u, &x[i], 4);
            if ((u & 0x7f800000u) == 0x7f800000u)
                return i;
        }
        i = end;
    }
    return n;
}

/* Elements [begin, begin + n) of a tensor that may start inside a block. */
static void read_range(const kq_tensor *t, size_t begin, size_t n, float *dst)
{
    size_t elems = 1, bytes = 1;
    float block[256];
    kq_dtype_block(t->dtype, &elems, &bytes);
    while (n) {
        const uint8_t *src = t->data + begin / elems * bytes;
        size_t skip = begin % elems, take = n / elems * elems;
        if (!skip && take) {
            kq_dequantize(t->dtype, src, take, dst);
        } else {
            take = elems - skip < n ? elems - skip : n;
            kq_dequantize(t->dtype, src, elems, block);
            memcpy(dst, block + skip, take * sizeof *dst);
        }
        begin += take;
        dst += take;
        n -= take;
    }
}

kq_status kq_source_read_f32(const kq_source *src, const kq_tensor *t, size_t row0, size_t n_rows, float *dst, kq_error *err)
{
    size_t rows = t->rank ? t->shape[0] : 1, cols = t->rank == 2 ? t->shape[1] : 1, elems, bytes;
    if (t->rank > 2)
        return kq_fail(err, KQ_E_ARG, "%s: %.200s has %zu dimensions, expected a vector or a matrix", t->file, t->name, t->rank);
    if (row0 > rows || n_rows > rows - row0)
        return kq_fail(err, KQ_E_ARG, "%s: %.200s has %zu rows, rows %zu to %zu were asked for", t->file, t->name, rows, row0, row0 + n_rows);
    if (!kq_dtype_block(t->dtype, &elems, &bytes)) {
        const char *name = NULL;
        for (size_t i = 0; src->gguf && i < src->n && !name; i++)
            if (!strcmp(src->tensor[i].name, t->name))
                name = kq_ggml_type_name(kq_gguf_tensor_at(src->gguf, i)->type);
        return kq_fail(err, KQ_E_UNSUPPORTED, "%s: %.200s has type %s, which kronq does not read as numbers (F32, F16, BF16, Q8_0, Q4_0, Q4_1, "
                       "Q5_0, Q5_1, IQ4_NL and Q2_K to Q6_K are read)", t->file, t->name, name ? name : "other");
    }
    if (!t->permuted_qk || t->rank != 2)
        read_range(t, row0 * cols, n_rows * cols, dst);
    else
        for (size_t r = 0; r < n_rows; r++)
            read_range(t, stored_row(row0 + r, src->cfg.head_dim) * cols, cols, dst + r * cols);
    if (!t->permuted_qk || n_rows == rows)
        kq_map_release(t->data + row0 * cols / elems * bytes, n_rows * cols / elems * bytes);
    size_t bad = first_not_finite(dst, n_rows * cols);
    if (bad < n_rows * cols)
        return kq_fail(err, KQ_E_NUMERIC, "%s: %.200s holds %s at index %zu (row %zu, column %zu)", t->file, t->name,
                       dst[bad] != dst[bad] ? "NaN" : "Inf", row0 * cols + bad, row0 + bad / cols, bad % cols);
    return KQ_OK;
}

static void hash_text(kq_hash *hash, const char *text)
{
    kq_hash_add(hash, text, strlen(text) + 1);
}

kq_status kq_source_fingerprint(const kq_source *src, char hex[33], kq_error *err)
{
    const kq_config *cfg = &src->cfg;
    const kq_rope_scaling *rope = &cfg->rope_scaling;
    char line[512];
    kq_hash *hash = kq_hash_new();
    if (!hash)
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", src->path);
    snprintf(line, sizeof line, "kronq source 1: arch %d, %zu layers, %zu, %zu/%zu heads of %zu, %zu, vocab %zu, max %zu, theta %.17g, "
             "rope %d %.17g %.17g %.17g %zu, eps %.9g, tie %d, bos %d", (int)cfg->arch, cfg->n_layer, cfg->d_model, cfg->n_head, cfg->n_kv_head,
             cfg->head_dim, cfg->d_ff, cfg->vocab_size, cfg->max_position, cfg->rope_theta, rope->kind == KQ_ROPE_LLAMA3, rope->factor,
             rope->low_freq_factor, rope->high_freq_factor, rope->original_max_position,
             (double)cfg->rms_eps, cfg->tie_embeddings, cfg->bos_id);
    hash_text(hash, line);
    if (rope->kind != KQ_ROPE_PLAIN && rope->kind != KQ_ROPE_LLAMA3) { /* as bytes: the same in every locale */
        const double numbers[] = {rope->kind, rope->beta_fast, rope->beta_slow, rope->truncate, rope->attention_factor};
        kq_hash_add(hash, numbers, sizeof numbers);
        kq_hash_add(hash, rope->divisor, sizeof rope->divisor);
    }
    for (size_t i = 0; i < cfg->n_eos; i++) {
        snprintf(line, sizeof line, "eos %d", cfg->eos_id[i]);
        hash_text(hash, line);
    }
    for (size_t i = 0; i < src->n; i++) {
        const kq_tensor *t = src->sorted[i];
        hash_text(hash, t->name);
        snprintf(line, sizeof line, "%s %d rank %zu: %zu %zu %zu %zu, %zu bytes", kq_dtype_name(t->dtype), t->permuted_qk, t->rank, t->shape[0],
                 t->shape[1], t->shape[2], t->shape[3], t->size_bytes);
        hash_text(hash, line);
        kq_hash_add(hash, t->data, t->size_bytes);
        kq_map_release(t->data, t->size_bytes);
    }
    kq_hash_finish(hash, hex);
    return KQ_OK;
}
