/* Opening a model, and reading its tensors as f32. The file stays mapped and a tensor's pages are let go
 * after it is read, so that a model of any size needs memory for one tensor. */
#include "source/source.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "format/dequant.h"
#include "format/gguf.h"
#include "source/gguf_model.h"
#include "source/hf_folder.h"

struct kq_source {
    char *path; /* owned */
    kq_source_kind kind;
    kq_config cfg;
    kq_hf_folder folder; /* owned; HF only */
    kq_gguf *gguf;       /* owned */
    char *names;         /* owned; the GGUF tensors' Hugging Face names, NAME_CAP each */
    kq_tensor *tensor;   /* [n], the folder's, or owned (GGUF) */
    size_t n;
    const kq_tensor **sorted; /* owned [n], by name */
};

/* GGUF names have at most 63 bytes; the longest replacement adds less than 40 */
enum { NAME_CAP = 128 };

/* ---- the table of tensors ---- */

static int compare_name(const void *a, const void *b)
{
    return strcmp((*(const kq_tensor *const *)a)->name, (*(const kq_tensor *const *)b)->name);
}

/* Sort by name; KQ_E_FORMAT when a name appears twice. */
static kq_status sort_tensors(kq_source *src, kq_error *err)
{
    kq_status status =
        kq_alloc_for((void **)&src->sorted, src->n, sizeof *src->sorted, "the tensor table", err);
    if (status)
        return status;
    for (size_t i = 0; i < src->n; i++)
        src->sorted[i] = &src->tensor[i];
    qsort(src->sorted, src->n, sizeof *src->sorted, compare_name);
    for (size_t i = 1; i < src->n; i++)
        if (!strcmp(src->sorted[i - 1]->name, src->sorted[i]->name))
            return kq_fail(err, KQ_E_FORMAT,
                           "%s: tensor %.200s appears twice (in %s and %s), if names with and without "
                           "\"model.\" count as the same; keep one",
                           src->path, src->sorted[i]->name, src->sorted[i - 1]->file, src->sorted[i]->file);
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

/* What says the model's sizes. */
static const char *settings(const kq_source *src)
{
    return src->gguf ? "metadata" : "config.json";
}

/* In a kronq checkpoint, a quantized module holds other tensors than its weight: what their names begin with
 * behind the module's, NULL where no such form exists. */
static const char *packed_form(const kq_model_tensor *t)
{
    switch (t->role) {
    case KQ_ROLE_LINEAR: return "trellis";
    case KQ_ROLE_EMBED:
    case KQ_ROLE_HEAD: return "";
    case KQ_ROLE_FINAL_NORM:
    case KQ_ROLE_NORM: break;
    }
    return NULL;
}

static bool is_integer(kq_dtype type)
{
    return type == KQ_T_I8 || type == KQ_T_I16 || type == KQ_T_I32 || type == KQ_T_I64 || type == KQ_T_U8 ||
           type == KQ_T_BOOL;
}

/* Is this tensor of the model there, with its shape and a type of floating point? */
static kq_status check_tensor(const kq_source *src, const kq_model_tensor *expected, kq_error *err)
{
    const kq_tensor *t = kq_source_find(src, expected->name);
    const char *packed = src->folder.storage.kronq ? packed_form(expected) : NULL;
    if (!t && packed) {
        char other[KQ_TENSOR_NAME + 16];
        snprintf(other, sizeof other, "%s.%s", expected->module, packed);
        if (has_prefix(src, other))
            return KQ_OK;
    }
    if (!t)
        return kq_fail(err, KQ_E_SHAPE, "%s: tensor %s is missing", src->path,
                       expected->name); /* transformers would take random numbers */
    if (is_integer(t->dtype) && packed)
        return KQ_OK; /* packed in its own way; the checkpoint room checks it */
    if (is_integer(t->dtype))
        return kq_fail(err, KQ_E_UNSUPPORTED, "%s: %s has type %s, expected floating point", t->file,
                       expected->name, kq_dtype_name(t->dtype));
    if (expected->rank == 1 && (t->rank != 1 || t->shape[0] != expected->rows))
        return kq_fail(err, KQ_E_SHAPE,
                       "%s: %s has rank %zu and %zu elements, the model's sizes say [%zu] (wrong %s?)",
                       t->file, expected->name, t->rank, t->n_elem, expected->rows, settings(src));
    if (expected->rank == 2 &&
        (t->rank != 2 || t->shape[0] != expected->rows || t->shape[1] != expected->cols))
        return kq_fail(err, KQ_E_SHAPE,
                       "%s: %s is [%zu, %zu] (rank %zu), the model's sizes say [%zu, %zu] (wrong %s?)",
                       t->file, expected->name, t->rank ? t->shape[0] : 1, t->rank > 1 ? t->shape[1] : 1,
                       t->rank, expected->rows, expected->cols, settings(src));
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
        if (ends_with(
                name,
                ".bias")) /* of a GGUF: of a folder's tensors only those that the architecture has are left */
            return kq_fail(err, KQ_E_UNSUPPORTED, "%s: %.200s: layers with a bias are not supported",
                           src->tensor[i].file, name);
        if (!strncmp(name, layers, sizeof layers - 1) &&
            strtoull(name + sizeof layers - 1, NULL, 10) >= cfg->n_layer)
            return kq_fail(err, KQ_E_SHAPE, "%s: %.200s is beyond the model's %zu layers (wrong %s?)",
                           src->tensor[i].file, name, cfg->n_layer, settings(src));
    }
    for (size_t i = 0; i < kq_model_n_tensors(cfg); i++) {
        const kq_model_tensor expected = kq_model_tensor_at(cfg, i);
        if ((status = check_tensor(src, &expected, err)))
            return status;
    }
    return KQ_OK;
}

/* ---- a GGUF file ---- */

static kq_status open_gguf(kq_source *src, kq_error *err)
{
    src->kind = KQ_SOURCE_GGUF;
    kq_status status;
    if (ends_with(src->path, ".safetensors") || ends_with(src->path, ".json") || ends_with(src->path, ".bin"))
        return kq_fail(err, KQ_E_ARG,
                       "%s: give the folder of the model (with its config.json) instead of this file",
                       src->path);
    if ((status = kq_gguf_open(src->path, &src->gguf, err)) ||
        (status = kq_gguf_config(src->gguf, &src->cfg, err)))
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
        *t = (kq_tensor){.name = name,
                         .file = g->file,
                         .dtype = kq_gguf_dtype(g->type),
                         .rank = g->rank,
                         .n_elem = (size_t)g->n_elem,
                         .data = g->data,
                         .size_bytes = g->size_bytes};
        for (size_t d = 0; d < t->rank; d++)
            t->shape[d] = (size_t)g->ne[t->rank - 1 - d];
        /* Whole heads only: the row order of a stray tensor with such a name must stay inside it. */
        t->permuted_qk =
            src->cfg.arch == KQ_ARCH_LLAMA && t->rank == 2 && t->shape[0] % src->cfg.head_dim == 0 &&
            (ends_with(name, ".self_attn.q_proj.weight") || ends_with(name, ".self_attn.k_proj.weight"));
    }
    return KQ_OK;
}

/* ---- the interface ---- */

static kq_status open_folder(kq_source *src, kq_error *err)
{
    src->kind = KQ_SOURCE_HF;
    kq_status status = kq_hf_folder_open(src->path, &src->folder, err);
    src->cfg = src->folder.cfg;
    src->tensor = src->folder.tensor;
    src->n = src->folder.n;
    return status;
}

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
    if (src->gguf)
        kq_free(src->tensor);
    kq_hf_folder_close(&src->folder);
    kq_gguf_close(src->gguf);
    kq_free(src->names);
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
    return src->folder.storage.kronq;
}

bool kq_source_is_exl3(const kq_source *src)
{
    return src->folder.storage.exl3;
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
    return src->folder.config_json;
}

const struct kq_gguf *kq_source_gguf(const kq_source *src)
{
    return src->gguf;
}

/* Where row r of Hugging Face's order lies in a llama GGUF: llama.cpp's converter interleaves the two
 * halves of each head, row h*d + s*d/2 + j -> h*d + 2j + s for head size d, half s, j < d/2. */
size_t kq_tensor_stored_row(const kq_tensor *t, size_t r, size_t head_dim)
{
    if (!t->permuted_qk)
        return r;
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

/* Rows of an FP8 matrix times the scale of their blocks: y = w s, rounded once to f32 (both factors have
 * few digits). */
static void apply_scale(const kq_tensor *t, size_t row0, size_t n_rows, float *dst)
{
    const size_t cols = t->shape[1], per_row = cols / t->block_cols + (cols % t->block_cols != 0);
    size_t elems, bytes;
    float s = 1;
    kq_dtype_block(t->scale->dtype, &elems, &bytes);
    for (size_t r = row0; r < row0 + n_rows; r++, dst += cols)
        for (size_t b = 0; b < per_row; b++) {
            const size_t end = (b + 1) * t->block_cols < cols ? (b + 1) * t->block_cols : cols;
            kq_dequantize(t->scale->dtype, t->scale->data + (r / t->block_rows * per_row + b) * bytes, 1, &s);
            for (size_t c = b * t->block_cols; c < end; c++)
                dst[c] *= s;
        }
}

/* KQ_E_NUMERIC names the first of the values that is NaN or Inf. */
static kq_status check_finite(const kq_tensor *t, const float *x, size_t row0, size_t n_rows, size_t cols,
                              kq_error *err)
{
    const size_t bad = first_not_finite(x, n_rows * cols);
    if (bad < n_rows * cols)
        return kq_fail(err, KQ_E_NUMERIC, "%s: %.200s holds %s at index %zu (row %zu, column %zu)", t->file,
                       t->name, x[bad] != x[bad] ? "NaN" : "Inf", row0 * cols + bad, row0 + bad / cols,
                       bad % cols);
    return KQ_OK;
}

static kq_status read_exl3(const kq_tensor *t, size_t row0, size_t n_rows, float *dst, kq_error *err)
{
    const kq_status status = kq_exl3_read_rows(t->exl3, t->shape[1], row0, n_rows, dst, err);
    if (n_rows == t->shape[0]) /* a band of rows lies all over the trellis */
        kq_map_release(t->data, t->size_bytes);
    return status ? status : check_finite(t, dst, row0, n_rows, t->shape[1], err);
}

kq_status kq_source_read_f32(const kq_source *src, const kq_tensor *t, size_t row0, size_t n_rows, float *dst,
                             kq_error *err)
{
    size_t rows = t->rank ? t->shape[0] : 1, cols = t->rank == 2 ? t->shape[1] : 1, elems, bytes;
    if (t->rank > 2)
        return kq_fail(err, KQ_E_ARG, "%s: %.200s has %zu dimensions, expected a vector or a matrix", t->file,
                       t->name, t->rank);
    if (row0 > rows || n_rows > rows - row0)
        return kq_fail(err, KQ_E_ARG, "%s: %.200s has %zu rows, rows %zu to %zu were asked for", t->file,
                       t->name, rows, row0, row0 + n_rows);
    if (t->exl3)
        return read_exl3(t, row0, n_rows, dst, err);
    if (!kq_dtype_block(t->dtype, &elems, &bytes)) {
        const char *name = NULL;
        for (size_t i = 0; src->gguf && i < src->n && !name; i++)
            if (!strcmp(src->tensor[i].name, t->name))
                name = kq_ggml_type_name(kq_gguf_tensor_at(src->gguf, i)->type);
        return kq_fail(
            err, KQ_E_UNSUPPORTED,
            "%s: %.200s has type %s, which kronq does not read as numbers (F32, F16, BF16, Q8_0, Q4_0, Q4_1, "
            "Q5_0, Q5_1, Q2_K to Q6_K, IQ4_NL, IQ4_XS and the types IQ2_* and IQ3_* are read)",
            t->file, t->name, name ? name : "other");
    }
    if (!t->permuted_qk || t->rank != 2)
        read_range(t, row0 * cols, n_rows * cols, dst);
    else
        for (size_t r = 0; r < n_rows; r++)
            read_range(t, kq_tensor_stored_row(t, row0 + r, src->cfg.head_dim) * cols, cols, dst + r * cols);
    if (t->scale)
        apply_scale(t, row0, n_rows, dst);
    if (!t->permuted_qk || n_rows == rows)
        kq_map_release(t->data + row0 * cols / elems * bytes, n_rows * cols / elems * bytes);
    return check_finite(t, dst, row0, n_rows, cols, err);
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
    snprintf(line, sizeof line,
             "kronq source 2: arch %d, %zu layers, %zu, %zu/%zu heads of %zu, %zu, vocab %zu, max %zu, theta "
             "%.17g, "
             "rope %d %.17g %.17g %.17g %zu, eps %.9g, tie %d",
             (int)cfg->arch, cfg->n_layer, cfg->d_model, cfg->n_head, cfg->n_kv_head, cfg->head_dim,
             cfg->d_ff, cfg->vocab_size, cfg->max_position, cfg->rope_theta, rope->kind == KQ_ROPE_LLAMA3,
             rope->factor, rope->low_freq_factor, rope->high_freq_factor, rope->original_max_position,
             (double)cfg->rms_eps, cfg->tie_embeddings);
    hash_text(hash, line);
    if (rope->kind != KQ_ROPE_PLAIN &&
        rope->kind != KQ_ROPE_LLAMA3) { /* as bytes: the same in every locale */
        const double numbers[] = {rope->kind, rope->beta_fast, rope->beta_slow, rope->truncate,
                                  rope->attention_factor};
        kq_hash_add(hash, numbers, sizeof numbers);
        kq_hash_add(hash, rope->divisor, sizeof rope->divisor);
    }
    for (size_t i = 0; i < src->n; i++) {
        const kq_tensor *t = src->sorted[i];
        hash_text(hash, t->name);
        snprintf(line, sizeof line, "%s %d rank %zu: %zu %zu %zu %zu, %zu bytes", kq_dtype_name(t->dtype),
                 t->permuted_qk, t->rank, t->shape[0], t->shape[1], t->shape[2], t->shape[3], t->size_bytes);
        hash_text(hash, line);
        kq_hash_add(hash, t->data, t->size_bytes);
        kq_map_release(t->data, t->size_bytes);
        if (t->exl3) {
            snprintf(line, sizeof line, "code %s", kq_code_name(t->exl3->code));
            hash_text(hash, line);
            kq_hash_add(hash, t->exl3->suh, 2 * t->exl3->n_in);
            kq_hash_add(hash, t->exl3->svh, 2 * t->exl3->n_out);
        }
        if (t->scale) {
            snprintf(line, sizeof line, "scales %s of [%zu, %zu]", kq_dtype_name(t->scale->dtype),
                     t->block_rows, t->block_cols);
            hash_text(hash, line);
            kq_hash_add(hash, t->scale->data, t->scale->size_bytes);
        }
    }
    kq_hash_finish(hash, hex);
    return KQ_OK;
}
