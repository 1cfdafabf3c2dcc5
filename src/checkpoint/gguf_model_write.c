/* Everything of a model that is not weights, for a GGUF: names and order of the tensors, metadata, and where
 * the model comes from. The rules are those of llama.cpp's convert_hf_to_gguf.py, because its output is what
 * other programs expect. */
#include "checkpoint/gguf_model_write.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "source/tensors.h"
#include "format/json.h"
#include "source/rope.h"
#include "base/utf8.h"
#include "tokenizer/convert.h"
#include "base/mem.h"
#include "base/text.h"

/* ---- tensors ---- */

size_t kq_gguf_hf_row(size_t r, size_t head_dim)
{
    const size_t head = r / head_dim, within = r % head_dim;
    return head * head_dim + within % 2 * (head_dim / 2) + within / 2;
}

static kq_gguf_slot slot(const kq_config *cfg, const kq_model_tensor *t)
{
    kq_gguf_slot s = {.rank = (uint32_t)t->rank,
                      .ne = {t->rank == 1 ? t->rows : t->cols, t->rank == 1 ? 1 : t->rows},
                      .layer = t->layer,
                      .linear = t->role == KQ_ROLE_LINEAR ? (int)t->linear : -1};
    const bool turned = cfg->arch == KQ_ARCH_LLAMA && (t->linear == KQ_Q || t->linear == KQ_K);
    s.head_dim = turned ? cfg->head_dim : 0;
    snprintf(s.hf_name, sizeof s.hf_name, "%s", t->name);
    kq_gguf_name(t->name, s.name, sizeof s.name);
    return s;
}

kq_status kq_gguf_layout(const kq_config *cfg, kq_gguf_slot **slots, size_t *n, kq_error *err)
{
    const size_t n_tensor = kq_model_n_tensors(cfg);
    kq_gguf_slot *s;
    kq_status status = kq_alloc_for((void **)&s, n_tensor + 1, sizeof *s, "the list of tensors", err);
    *slots = NULL;
    if (status)
        return status;
    size_t filled = 0;
    for (size_t i = 0; i < n_tensor; i++) {
        const kq_model_tensor t = kq_model_tensor_at(cfg, i);
        s[filled++] = slot(cfg, &t);
        if (t.role == KQ_ROLE_FINAL_NORM && kq_rope_gguf_form(cfg) == KQ_ROPE_GGUF_FREQS)
            s[filled++] = (kq_gguf_slot){
                .name = "rope_freqs.weight", .rank = 1, .ne = {cfg->head_dim / 2, 1}, .linear = -1};
    }
    *slots = s;
    *n = filled;
    return KQ_OK;
}

/* ---- about the model ---- */

/* The value of `key:` in the YAML front matter of a README.md. Plain values on one line are read, and of a
 * list the first "- value". */
static void front_matter(const char *text, const char *key, char *out, size_t cap)
{
    const size_t len = strlen(key);
    *out = 0;
    if (strncmp(text, "---\n", 4) && strncmp(text, "---\r\n", 5))
        return;
    for (const char *line = strchr(text, '\n'); line && strncmp(line + 1, "---", 3);
         line = strchr(line + 1, '\n')) {
        if (strncmp(line + 1, key, len) || line[1 + len] != ':')
            continue;
        const char *v = line + 2 + len;
        v += strspn(v, " \t");
        if (*v == '\n' || *v == '\r') { /* a list follows */
            v = strchr(v, '\n');
            v = v ? v + 1 + strspn(v + 1, " ") : "";
            if (strncmp(v, "- ", 2))
                return;
            v += 2 + strspn(v + 2, " ");
        }
        size_t n = strcspn(v, "\r\n");
        while (n && (v[n - 1] == ' ' || v[n - 1] == '\t'))
            n--;
        const bool quoted = n > 1 && (*v == '"' || *v == '\'') && v[n - 1] == *v;
        if (quoted) {
            v++;
            n -= 2;
        }
        if (n && n < cap && kq_utf8_valid(v, n) == n && (quoted || !strchr("[{&*!|>#%@`", *v)))
            snprintf(out, cap, "%.*s", (int)n, v);
        return;
    }
}

static void gguf_text(const kq_gguf *g, const char *key, char *out, size_t cap)
{
    const char *text;
    size_t size;
    const kq_gguf_kv *kv = kq_gguf_find(g, key);
    *out = 0;
    if (kv && !kv->is_array && kq_gguf_str(kv, 0, &text, &size) && size < cap && !memchr(text, 0, size) &&
        kq_utf8_valid(text, size) == size)
        snprintf(out, cap, "%.*s", (int)size, text);
}

bool kq_is_repository(const char *name)
{
    const char *slash = strchr(name, '/');
    return slash && slash != name && slash[1] && !strchr(slash + 1, '/') && !strpbrk(name, " :\\") &&
           *name != '.' && *name != '~';
}

void kq_source_about(const kq_source *src, kq_about *about)
{
    *about = (kq_about){0};
    if (kq_source_kind_of(src) == KQ_SOURCE_GGUF) {
        const kq_gguf *g = kq_source_gguf(src);
        gguf_text(g, "general.name", about->name, sizeof about->name);
        static const char hub[] = "https://huggingface.co/";
        char url[256];
        gguf_text(g, "general.repo_url", url, sizeof url);
        if (!strncmp(url, hub, sizeof hub - 1) && kq_is_repository(url + sizeof hub - 1))
            snprintf(about->repository, sizeof about->repository, "%s", url + sizeof hub - 1);
        gguf_text(g, "general.license", about->license, sizeof about->license);
        gguf_text(g, "general.base_model.0.repo_url", about->base_model, sizeof about->base_model);
        if (!*about->base_model)
            gguf_text(g, "general.base_model.0.name", about->base_model, sizeof about->base_model);
    } else {
        char *path = NULL, *text = NULL;
        size_t size;
        if (!kq_path_in(&path, NULL, kq_source_path(src), "README.md") && kq_path_exists(path) &&
            !kq_file_read(path, 1 << 20, &text, &size, NULL)) {
            front_matter(text, "model_name", about->name, sizeof about->name);
            front_matter(text, "license", about->license, sizeof about->license);
            front_matter(text, "base_model", about->base_model, sizeof about->base_model);
        }
        kq_free(text);
        kq_free(path);
        json_t *config = kq_json_again(kq_source_config_json(src));
        const char *origin = json_string_value(json_object_get(config, "_name_or_path"));
        if (origin && strlen(origin) < sizeof about->repository && kq_is_repository(origin))
            snprintf(about->repository, sizeof about->repository, "%s", origin);
        json_decref(config);
    }
    if (!*about->name) { /* the path's last part */
        const char *path = kq_source_path(src), *end = path + strlen(path);
        while (end > path + 1 && end[-1] == '/')
            end--;
        const char *start = end;
        while (start > path && start[-1] != '/')
            start--;
        const size_t n = (size_t)(end - start);
        if (n && n < sizeof about->name && kq_utf8_valid(start, n) == n)
            snprintf(about->name, sizeof about->name, "%.*s", (int)n, start);
        else
            snprintf(about->name, sizeof about->name, "model");
    }
}

/* ---- metadata ---- */

/* Does this key describe the old file and not the model? */
static bool describes_old_file(const char *key)
{
    static const char *const prefixes[] = {"split.", "quantize.imatrix.", "general.file_type",
                                           "general.quantization_version", "general.quantized_by"};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
        if (!strncmp(key, prefixes[i], strlen(prefixes[i])))
            return true;
    return false;
}

static kq_status write_u32(kq_gguf_writer *w, const char *arch, const char *key, size_t value, kq_error *err)
{
    char name[128];
    snprintf(name, sizeof name, "%s.%s", arch, key);
    return kq_gguf_writer_has(w, name) ? KQ_OK : kq_gguf_writer_u32(w, name, (uint32_t)value, err);
}

static kq_status write_f32(kq_gguf_writer *w, const char *arch, const char *key, double value, kq_error *err)
{
    char name[128];
    snprintf(name, sizeof name, "%s.%s", arch, key);
    return kq_gguf_writer_has(w, name) ? KQ_OK : kq_gguf_writer_f32(w, name, (float)value, err);
}

static kq_status write_str(kq_gguf_writer *w, const char *key, const char *text, kq_error *err)
{
    return !*text || kq_gguf_writer_has(w, key) ? KQ_OK : kq_gguf_writer_str(w, key, text, err);
}

/* The number of parameters as "135M" or "8.0B", rounded as gguf's size_label is. */
static void size_label(const kq_config *cfg, char out[32])
{
    double n = (double)cfg->vocab_size * (double)cfg->d_model * (cfg->tie_embeddings ? 1 : 2) +
               (double)cfg->d_model * (2.0 * (double)cfg->n_layer + 1);
    for (kq_linear_id id = KQ_Q; id < KQ_N_LINEAR; id++) {
        size_t rows, cols;
        kq_linear_shape(cfg, id, &rows, &cols);
        n += (double)cfg->n_layer * (double)rows * (double)cols;
    }
    const char *unit = n >= 1e12 ? "T" : n >= 1e9 ? "B" : n >= 1e6 ? "M" : "K";
    const double x = n / (n >= 1e12 ? 1e12 : n >= 1e9 ? 1e9 : n >= 1e6 ? 1e6 : 1e3);
    snprintf(out, 32, "%.*f%s", x < 10 ? 1 : 0, x, unit);
}

/* Write what rope_freqs.weight does not hold of the rotary embedding's scaling. llama.cpp multiplies
 * attn_factor by YaRN's own attention factor. */
static kq_status write_rope(kq_gguf_writer *w, const kq_config *cfg, const char *arch, kq_error *err)
{
    const kq_rope_scaling *s = &cfg->rope_scaling;
    const bool keys = kq_rope_gguf_form(cfg) == KQ_ROPE_GGUF_KEYS, yarn = keys && s->kind == KQ_ROPE_YARN,
               linear = keys && s->kind == KQ_ROPE_LINEAR;
    const double attention = kq_rope_attention(cfg) / (yarn ? kq_rope_mscale(s->factor, 1) : 1);
    char type[64];
    kq_status status = kq_rope_check_gguf(cfg, err);
    snprintf(type, sizeof type, "%s.rope.scaling.type", arch);
    if (!status && (yarn || linear) && !(status = write_str(w, type, yarn ? "yarn" : "linear", err)))
        status = write_f32(w, arch, "rope.scaling.factor", s->factor, err);
    if (!status && yarn)
        status = write_u32(w, arch, "rope.scaling.original_context_length", s->original_max_position, err);
    if (!status && fabs(attention - 1) > 1e-7)
        status = write_f32(w, arch, "rope.scaling.attn_factor", attention, err);
    return status;
}

/* Copy the metadata of a GGUF source. Its rope keys are not copied but written anew, because
 * rope_freqs.weight may hold the same scaling already. */
static kq_status carry_over(kq_gguf_writer *w, const kq_source *src, kq_error *err)
{
    const kq_gguf *g = kq_source_gguf(src);
    const kq_config *cfg = kq_source_config(src);
    const bool anew = kq_rope_gguf_form(cfg) != KQ_ROPE_GGUF_KEYS;
    kq_status status = KQ_OK;
    for (size_t i = 0; i < kq_gguf_n_kv(g) && !status; i++) {
        const kq_gguf_kv *kv = kq_gguf_kv_at(g, i);
        if (!describes_old_file(kv->key) && !(anew && strstr(kv->key, ".rope.scal")) &&
            !kq_gguf_writer_has(w, kv->key))
            status = kq_gguf_writer_copy(w, kv, err);
    }
    return status || !anew ? status : write_rope(w, cfg, cfg->arch == KQ_ARCH_QWEN3 ? "qwen3" : "llama", err);
}

static kq_status from_folder(kq_gguf_writer *w, const kq_source *src, kq_error *err)
{
    const kq_config *cfg = kq_source_config(src);
    const char *arch = cfg->arch == KQ_ARCH_QWEN3 ? "qwen3" : "llama";
    kq_about about;
    char label[32];
    kq_status status;
    kq_source_about(src, &about);
    size_label(cfg, label);
    if ((status = write_str(w, "general.architecture", arch, err)) ||
        (status = write_str(w, "general.type", "model", err)) ||
        (status = write_str(w, "general.name", about.name, err)) ||
        (status = write_str(w, "general.size_label", label, err)) ||
        (status = write_str(w, "general.license", about.license, err)))
        return status;
    if (*about.base_model && !kq_gguf_writer_has(w, "general.base_model.count")) {
        const bool url = strstr(about.base_model, "://"), repo = kq_is_repository(about.base_model);
        char text[300];
        snprintf(text, sizeof text, "%s%s", repo ? "https://huggingface.co/" : "", about.base_model);
        const char *last = strrchr(about.base_model, '/');
        if ((status = write_u32(w, "general", "base_model.count", 1, err)) ||
            (status = write_str(w, "general.base_model.0.name", last && last[1] ? last + 1 : about.base_model,
                                err)) ||
            ((url || repo) && (status = write_str(w, "general.base_model.0.repo_url", text, err))))
            return status;
    }
    if ((status = write_u32(w, arch, "block_count", cfg->n_layer, err)) ||
        (status = write_u32(w, arch, "context_length", cfg->max_position, err)) ||
        (status = write_u32(w, arch, "embedding_length", cfg->d_model, err)) ||
        (status = write_u32(w, arch, "feed_forward_length", cfg->d_ff, err)) ||
        (status = write_u32(w, arch, "attention.head_count", cfg->n_head, err)) ||
        (status = write_u32(w, arch, "attention.head_count_kv", cfg->n_kv_head, err)) ||
        (status = write_u32(w, arch, "attention.key_length", cfg->head_dim, err)) ||
        (status = write_u32(w, arch, "attention.value_length", cfg->head_dim, err)) ||
        (status = write_f32(w, arch, "attention.layer_norm_rms_epsilon", (double)cfg->rms_eps, err)) ||
        (status = write_f32(w, arch, "rope.freq_base", cfg->rope_theta, err)) ||
        (status = write_u32(w, arch, "rope.dimension_count", cfg->head_dim, err)) ||
        (status = write_rope(w, cfg, arch, err)) ||
        (status = write_u32(w, arch, "vocab_size", cfg->vocab_size, err)))
        return status;
    return kq_tokenizer_write_gguf(w, src, err);
}

kq_status kq_gguf_write_model(kq_gguf_writer *w, const kq_source *src, uint32_t file_type, kq_error *err)
{
    char by[64];
    snprintf(by, sizeof by, "kronq %s", kq_version());
    kq_status status =
        kq_source_kind_of(src) == KQ_SOURCE_GGUF ? carry_over(w, src, err) : from_folder(w, src, err);
    if (status)
        return status;
    /* 2 is ggml's version of its quantized blocks; it has been 2 since May 2023 */
    (void)((status = write_str(w, "general.quantized_by", by, err)) ||
           (status = write_u32(w, "general", "quantization_version", 2, err)) ||
           (status = write_u32(w, "general", "file_type", file_type, err)));
    return status;
}
