/* Writes tokenizer.json and tokenizer_config.json as the tokenizer.ggml.* metadata of a GGUF: the other
 * direction of tokenizer_files/gguf.c. The result is what llama.cpp's convert_hf_to_gguf.py writes for the
 * same folder, except for LLaMA-2's scores. Those are computed from the merges, so that tokenizer.model is
 * not needed. */
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "base/warn.h"
#include "source/gguf_special.h"
#include "format/gguf_write.h"
#include "tokenizer/convert.h"
#include "tokenizer/internal.h"
#include "tokenizer_files/gguf_pre.h"
#include "tokenizer_files/tokenizer_files.h"

typedef struct vocabulary {
    const char *path;
    size_t n;          /* rows of the embedding; tokens beyond the tokenizer's are padding */
    const char **text; /* owned [n], the strings borrowed from the JSON or from pad */
    int32_t *type;     /* owned [n] */
    float *score;      /* owned [n]; LLaMA-2 only */
    char (*pad)[32];   /* owned [n] */
} vocabulary;

static bool is_byte_token(const char *s)
{
    return !strncmp(s, "<0x", 3) && strlen(s) == 6 && s[5] == '>' &&
           strspn(s + 3, "0123456789ABCDEFabcdef") == 2;
}

/* Does the text look like a special token? Some models do not mark all tokens as special that every program
 * treats so. */
static bool looks_special(const char *s)
{
    const size_t n = strlen(s);
    return n >= 4 && !strncmp(s, "<|", 2) && !strcmp(s + n - 2, "|>");
}

static kq_status fill_tokens(vocabulary *v, const json_t *root, bool spm, const char *unk, kq_error *err)
{
    const json_t *model = json_object_get(root, "model");
    const char *text;
    json_t *value;
    size_t i;
    for (i = 0; i < v->n; i++) {
        snprintf(v->pad[i], sizeof v->pad[i], "[PAD%zu]", i);
        v->text[i] = v->pad[i];
        v->type[i] = KQ_TOKEN_UNUSED;
    }
    json_object_foreach(json_object_get(model, "vocab"), text, value) {
        const json_int_t id = json_integer_value(value);
        if (id < 0 || (size_t)id >= v->n)
            return kq_fail(err, KQ_E_MISMATCH, "%s: token \"%.60s\" has id %lld, the embedding has %zu rows",
                           v->path, text, (long long)id, v->n);
        v->text[id] = text;
        v->type[id] = spm && is_byte_token(text) ? KQ_TOKEN_BYTE : KQ_TOKEN_NORMAL;
    }
    json_array_foreach(json_object_get(root, "added_tokens"), i, value) {
        const json_int_t id = json_integer_value(json_object_get(value, "id"));
        const char *content = json_string_value(json_object_get(value, "content"));
        if ((size_t)id >= v->n) /* no text can give this id; kq_tokenizer_open has warned */
            continue;
        v->text[id] = content;
        v->type[id] = spm && unk && !strcmp(content, unk) ? KQ_TOKEN_UNKNOWN
                      : json_is_true(json_object_get(value, "special")) || looks_special(content)
                          ? KQ_TOKEN_CONTROL
                          : KQ_TOKEN_USER;
    }
    return KQ_OK;
}

/* Clear buf and put both halves of a merge ([a, b] or "a b") into it, with `between` between them. */
static kq_status merge_text(const vocabulary *v, const json_t *merge, size_t index, const char *between,
                            kq_buffer *buf, kq_error *err)
{
    const char *a = json_string_value(json_array_get(merge, 0)),
               *b = json_string_value(json_array_get(merge, 1)), *both = json_string_value(merge);
    size_t n = a ? strlen(a) : 0;
    if (both) {
        const char *space = *both ? strchr(both + 1, ' ') : NULL;
        if (space) {
            a = both;
            n = (size_t)(space - both);
            b = space + 1;
        }
    }
    if (!a || !b || !n || !*b || memchr(a, ' ', n) || strchr(b, ' '))
        return kq_fail(err, KQ_E_UNSUPPORTED,
                       "%s: merge %zu is not two pieces without spaces, which is all that GGUF can hold",
                       v->path, index);
    kq_status status;
    buf->size = 0;
    (void)((status = kq_buffer_add(buf, a, n, err)) ||
           (status = kq_buffer_add(buf, between, strlen(between), err)) ||
           (status = kq_buffer_add(buf, b, strlen(b) + 1, err)));
    return status;
}

/* Find sentencepiece's scores again: pieces are numbered down from 0 in the order in which merges make them.
 * In every vocabulary that was made from scores, all merges that make one piece stand together. Where they do
 * not, no scores could give the same order, and the vocabulary is refused. */
static kq_status find_scores(vocabulary *v, const json_t *root, kq_error *err)
{
    const json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab"),
                 *merges = json_object_get(model, "merges"), *merge;
    size_t i, rank = 0, last = SIZE_MAX;
    kq_buffer buf = {0};
    kq_status status = KQ_OK;
    bool *made = kq_calloc(v->n, sizeof *made);
    if (!made)
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", v->path);
    json_array_foreach(merges, i, merge) {
        if ((status = merge_text(v, merge, i, "", &buf, err)))
            break;
        const json_t *id = json_object_get(vocab, buf.data);
        const size_t token = (size_t)json_integer_value(id);
        if (!id || token >= v->n) {
            status = kq_fail(err, KQ_E_FORMAT, "%s: merge %zu makes \"%.60s\", which is no token", v->path, i,
                             buf.data);
            break;
        }
        if (token == last)
            continue;
        if (made[token]) {
            status = kq_fail(err, KQ_E_UNSUPPORTED,
                             "%s: the merges that make \"%.60s\" do not stand together: no scores, which is "
                             "what GGUF holds for this "
                             "kind of tokenizer, give their order",
                             v->path, buf.data);
            break;
        }
        made[token] = true;
        v->score[token] = -(float)rank++;
        last = token;
    }
    for (i = 0; i < v->n && !status; i++) {
        if (v->type[i] == KQ_TOKEN_NORMAL && !made[i])
            v->score[i] = -(float)rank++; /* single characters come last; nothing depends on their scores */
        else if (v->type[i] == KQ_TOKEN_USER)
            v->score[i] = -1000;
        else if (v->type[i] == KQ_TOKEN_UNUSED)
            v->score[i] = -10000;
    }
    kq_free(made);
    kq_free(buf.data);
    return status;
}

static kq_status write_merges(kq_gguf_writer *w, const vocabulary *v, const json_t *root, kq_error *err)
{
    const json_t *merges = json_object_get(json_object_get(root, "model"), "merges"), *merge;
    const size_t n = json_array_size(merges);
    kq_buffer all = {0}, buf = {0};
    size_t *at = kq_alloc(n, sizeof *at), i;
    const char **text = kq_alloc(n, sizeof *text);
    kq_status status = at && text ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "%s: out of memory", v->path);
    json_array_foreach(merges, i, merge) {
        if (status || (status = merge_text(v, merge, i, " ", &buf, err)))
            break;
        at[i] = all.size;
        status = kq_buffer_add(&all, buf.data, buf.size, err);
    }
    for (i = 0; i < n && !status; i++)
        text[i] = all.data + at[i];
    if (!status)
        status = kq_gguf_writer_strings(w, "tokenizer.ggml.merges", text, n, err);
    kq_free(all.data);
    kq_free(buf.data);
    kq_free(at);
    kq_free(text);
    return status;
}

/* GGUF has two flags for what the post-processor adds: a beginning token and an end token. Anything else is
 * refused. */
static kq_status write_added(kq_gguf_writer *w, const kq_tokenizer *tok, kq_error *err)
{
    const bool bos = tok->n_prefix == 1 && tok->prefix[0] == tok->bos,
               eos = tok->n_suffix == 1 && tok->suffix[0] == tok->eos;
    if ((tok->n_prefix && !bos) || (tok->n_suffix && !eos))
        return kq_fail(err, KQ_E_UNSUPPORTED,
                       "%s: its post-processor adds other tokens than bos_token in front and eos_token "
                       "behind: GGUF has no word for it",
                       tok->path);
    kq_status status = kq_gguf_writer_bool(w, "tokenizer.ggml.add_bos_token", bos, err);
    return status ? status : kq_gguf_writer_bool(w, "tokenizer.ggml.add_eos_token", eos, err);
}

/* The id of a role ("pad_token") of tokenizer_config.json; -1: none. */
static int32_t role_id(const kq_tokenizer *tok, const json_t *config, const char *role)
{
    const char *text = json_string_value(kq_token_text(json_object_get(config, role)));
    const int32_t id = text ? kq_tokenizer_id(tok, text) : -1;
    return (size_t)id < tok->n_rows ? id : -1;
}

static kq_status write_id(kq_gguf_writer *w, const char *role, int32_t id, kq_error *err)
{
    char key[64];
    snprintf(key, sizeof key, "tokenizer.ggml.%s_token_id", role);
    return id < 0 || kq_gguf_writer_has(w, key) ? KQ_OK : kq_gguf_writer_u32(w, key, (uint32_t)id, err);
}

static kq_status write_ids(kq_gguf_writer *w, const kq_tokenizer *tok, const json_t *config,
                           const kq_config *cfg, bool spm, kq_error *err)
{
    static const char *const ends_turn[] = {"<|eot_id|>", "<|im_end|>"};
    kq_status status;
    int32_t unk = role_id(tok, config, "unk_token");
    if (spm && tok->unk_id >= 0)
        unk = tok->unk_id;
    if ((status = write_id(w, "bos", tok->bos, err)) || (status = write_id(w, "eos", tok->eos, err)) ||
        (status = write_id(w, "unknown", unk, err)) ||
        (status = write_id(w, "padding", role_id(tok, config, "pad_token"), err)))
        return status;
    for (size_t i = 0; i < cfg->n_eos; i++) /* a token that ends a turn of a conversation but not the text */
        for (size_t k = 0; k < 2; k++)
            if (cfg->eos_id[i] != tok->eos && kq_tokenizer_id(tok, ends_turn[k]) == cfg->eos_id[i] &&
                (status = write_id(w, "eot", cfg->eos_id[i], err)))
                return status;
    /* llama.cpp knows other end tokens by their names; the rest take the two keys that are left */
    for (size_t i = 0; i < cfg->n_eos; i++) {
        const kq_token *t = (size_t)cfg->eos_id[i] < tok->n_id ? &tok->token[cfg->eos_id[i]] : NULL;
        char name[64];
        snprintf(name, sizeof name, "%.*s",
                 t && t->off != UINT32_MAX && t->size < sizeof name ? (int)t->size : 0,
                 t ? tok->text.data + t->off : "");
        if (cfg->eos_id[i] == tok->eos || kq_gguf_ends_by_name(name))
            continue;
        const bool eot = !kq_gguf_writer_has(w, "tokenizer.ggml.eot_token_id");
        if (!eot && kq_gguf_writer_has(w, "tokenizer.ggml.eom_token_id"))
            kq_warn("%s: end token %d has no place in a GGUF: answers will not end there", tok->path,
                    cfg->eos_id[i]);
        else if ((status = write_id(w, eot ? "eot" : "eom", cfg->eos_id[i], err)))
            return status;
    }
    return KQ_OK;
}

static bool adds_space_prefix(const kq_tokenizer *tok)
{
    for (size_t i = 0; i < tok->n_norm; i++)
        if (tok->norm[i].kind == KQ_NORM_PREPEND)
            return true;
    for (size_t i = 0; i < tok->n_pre; i++)
        if (tok->pre[i].kind == KQ_PRE_METASPACE && tok->pre[i].prepend != KQ_PREPEND_NEVER)
            return true;
    return false;
}

/* Write the chat templates as llama.cpp's converter does: in a name, '_' stands for what is neither a letter
 * nor a digit. */
static kq_status write_templates(kq_gguf_writer *w, const kq_tokenizer *tok, kq_error *err)
{
    char name[KQ_MAX_CHAT_TEMPLATES][120];
    const char *list[KQ_MAX_CHAT_TEMPLATES], *key;
    size_t n = 0;
    json_t *text;
    kq_status status = KQ_OK;
    json_object_foreach(tok->chat_templates, key, text) {
        char full[200];
        if (!strcmp(key, "default")) {
            status = kq_gguf_writer_str(w, "tokenizer.chat_template", json_string_value(text), err);
        } else if (n < KQ_MAX_CHAT_TEMPLATES) {
            snprintf(name[n], sizeof name[n], "%s", key);
            for (char *c = name[n]; *c; c++)
                if (!((*c >= '0' && *c <= '9') || (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z')))
                    *c = '_';
            snprintf(full, sizeof full, "tokenizer.chat_template.%s", name[n]);
            list[n] = name[n];
            n++;
            status = kq_gguf_writer_str(w, full, json_string_value(text), err);
        }
        if (status)
            return status;
    }
    return n ? kq_gguf_writer_strings(w, "tokenizer.chat_templates", list, n, err) : KQ_OK;
}

/* Write the tokens' texts and types, and then the scores (LLaMA-2's kind) or the merges (all others). */
static kq_status write_vocabulary(kq_gguf_writer *w, vocabulary *v, const json_t *root, bool spm,
                                  kq_error *err)
{
    const char *unk = json_string_value(json_object_get(json_object_get(root, "model"), "unk_token"));
    kq_status status;
    v->text = kq_alloc(v->n, sizeof *v->text);
    v->type = kq_alloc(v->n, sizeof *v->type);
    v->score = kq_calloc(v->n, sizeof *v->score);
    v->pad = kq_alloc(v->n, sizeof *v->pad);
    if (!v->text || !v->type || !v->score || !v->pad)
        status = kq_fail(err, KQ_E_MEMORY, "%s: out of memory for %zu tokens", v->path, v->n);
    else
        (void)((status = fill_tokens(v, root, spm, unk, err)) ||
               (spm && (status = find_scores(v, root, err))) ||
               (status = kq_gguf_writer_strings(w, "tokenizer.ggml.tokens", v->text, v->n, err)) ||
               (spm && (status = kq_gguf_writer_array(w, "tokenizer.ggml.scores", KQ_GGUF_F32, v->score, v->n,
                                                      err))) ||
               (status =
                    kq_gguf_writer_array(w, "tokenizer.ggml.token_type", KQ_GGUF_I32, v->type, v->n, err)) ||
               (!spm && (status = write_merges(w, v, root, err))));
    kq_free(v->text);
    kq_free(v->type);
    kq_free(v->score);
    kq_free(v->pad);
    return status;
}

kq_status kq_tokenizer_write_gguf(kq_gguf_writer *w, const kq_source *src, kq_error *err)
{
    const kq_config *cfg = kq_source_config(src);
    kq_tokenizer *tok = NULL;
    json_t *root = NULL, *config = NULL;
    char *file;
    kq_status status = kq_path_in(&file, err, kq_source_path(src), "tokenizer.json");
    vocabulary v = {.path = file, .n = cfg->vocab_size};
    if (status ||
        (status = kq_tokenizer_open(src, &tok, err)) || /* this checks the JSON's form for all later steps */
        (status = kq_tokenizer_folder_json(file, &root, &config, err)))
        goto out;
    const bool spm = tok->byte_fallback;
    const char *pre = spm ? "default" : kq_gguf_pre_name(root);
    if (!pre)
        status = kq_fail(err, KQ_E_UNSUPPORTED,
                         "%s: its normalizer and pre_tokenizer are none of those that GGUF has a name for "
                         "(tokenizer.ggml.pre)",
                         file);
    if (status || (status = kq_gguf_writer_str(w, "tokenizer.ggml.model", spm ? "llama" : "gpt2", err)) ||
        (status = kq_gguf_writer_str(w, "tokenizer.ggml.pre", pre, err)) ||
        (status = write_vocabulary(w, &v, root, spm, err)) ||
        (status = write_ids(w, tok, config, cfg, spm, err)) || (status = write_added(w, tok, err)) ||
        (status = kq_gguf_writer_bool(w, "tokenizer.ggml.add_space_prefix", adds_space_prefix(tok), err)))
        goto out;
    status = write_templates(w, tok, err);
out:
    json_decref(root);
    json_decref(config);
    kq_tokenizer_close(tok);
    kq_free(file);
    return status;
}
