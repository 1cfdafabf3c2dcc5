/* Rewrites the tokenizer in a GGUF's metadata as the tokenizer.json and tokenizer_config.json that Hugging
 * Face would have. One loader then serves both kinds of model, and what is exported is always what is run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "base/warn.h"
#include "source/gguf_special.h"
#include "tokenizer_files/gguf_pre.h"
#include "tokenizer_files/internal.h"

typedef struct reader {
    const kq_gguf *g;
    const char *path;
    const kq_gguf_kv *tokens, *types, *scores, *merges;
    size_t n;
    int32_t *type;
    json_t **name; /* [n] borrowed from vocab order: owned references */
    kq_gguf_special special;
    bool spm; /* tokenizer.ggml.model "llama": pieces with scores; else byte-level BPE with merges */
    const kq_gguf_pre *kind; /* byte-level: what tokenizer.ggml.pre names */
    bool add_bos, add_eos, space_prefix;
    kq_error *err;
} reader;

static kq_status token_types(reader *r)
{
    r->type = kq_alloc(r->n, sizeof *r->type);
    if (!r->type)
        return kq_fail(r->err, KQ_E_MEMORY, "out of memory: %zu tokens", r->n);
    for (size_t i = 0; i < r->n; i++) {
        int64_t t = KQ_TOKEN_NORMAL;
        if (r->types && (!kq_gguf_int(r->types, i, &t) || t < 0 || t > KQ_TOKEN_BYTE))
            return kq_fail(r->err, KQ_E_FORMAT, "%s: tokenizer.ggml.token_type[%zu] is not a token type",
                           r->path, i);
        r->type[i] = t ? (int32_t)t : KQ_TOKEN_NORMAL;
    }
    return KQ_OK;
}

static kq_status token_names(reader *r, json_t *vocab)
{
    r->name = kq_calloc(r->n, sizeof *r->name);
    if (!r->name)
        return kq_fail(r->err, KQ_E_MEMORY, "out of memory: %zu tokens", r->n);
    for (size_t i = 0; i < r->n; i++) {
        const char *s;
        size_t size;
        if (!kq_gguf_str(r->tokens, i, &s, &size))
            return kq_fail(r->err, KQ_E_FORMAT, "%s: tokenizer.ggml.tokens is not an array of strings",
                           r->path);
        if (memchr(s, 0, size) || kq_utf8_valid(s, size) < size)
            return kq_fail(r->err, KQ_E_FORMAT, "%s: token %zu is not UTF-8 text", r->path, i);
        char empty[32];
        if (!size) { /* llama.cpp's name for it */
            size = (size_t)snprintf(empty, sizeof empty, "[EMPTY_%zu]", i);
            s = empty;
        }
        r->name[i] = json_stringn_nocheck(s, size);
        if (!r->name[i])
            return kq_fail(r->err, KQ_E_MEMORY, "out of memory: %zu tokens", r->n);
        if (r->type[i] == KQ_TOKEN_UNUSED) /* padding up to the embedding's rows: no text may become it */
            continue;
        if (json_object_get(vocab, json_string_value(r->name[i])))
            return kq_fail(r->err, KQ_E_FORMAT, "%s: token %zu, \"%.60s\", is there twice", r->path, i,
                           json_string_value(r->name[i]));
        if (json_object_set_new_nocheck(vocab, json_string_value(r->name[i]), json_integer((json_int_t)i)))
            return kq_fail(r->err, KQ_E_MEMORY, "out of memory: %zu tokens", r->n);
    }
    return KQ_OK;
}

static json_t *special_token(int64_t id, json_t *name, bool special)
{
    return json_pack("{s:I,s:O,s:b,s:b,s:b,s:b,s:b}", "id", (json_int_t)id, "content", name, "single_word", 0,
                     "lstrip", 0, "rstrip", 0, "normalized", 0, "special", special);
}

/* A pair of pieces that makes a piece. The pairs are ordered as in transformers' conversion of sentencepiece
 * models: by score, then by the length of the left half and of the right half in characters, all descending,
 * and then in the order in which they were found. */
typedef struct spm_merge {
    double score;
    uint32_t left_chars, right_chars, token, cut;
} spm_merge;

static int by_rank(const void *pa, const void *pb)
{
    const spm_merge *a = pa, *b = pb;
    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    if (a->left_chars != b->left_chars)
        return a->left_chars > b->left_chars ? -1 : 1;
    if (a->right_chars != b->right_chars)
        return a->right_chars > b->right_chars ? -1 : 1;
    return a->token < b->token ? -1 : a->token > b->token;
}

static bool plain_piece(const reader *r, const json_t *vocab, const char *s)
{
    const json_t *v = json_object_get(vocab, s);
    return v && r->type[json_integer_value(v)] == KQ_TOKEN_NORMAL;
}

/* Pairs that merge, a growing list. */
typedef struct merge_list {
    spm_merge *v; /* owned */
    size_t n, cap;
} merge_list;

/* Find all cuts of token i into two pieces. left: room for its text. */
static kq_status cut_piece(reader *r, const json_t *vocab, size_t i, double score, char *left,
                           merge_list *list)
{
    const char *s = json_string_value(r->name[i]);
    const size_t size = json_string_length(r->name[i]);
    uint32_t chars = 0, done = 0;
    for (size_t j = 0; j < size; j += kq_utf8_size((unsigned char)s[j]))
        chars++;
    for (size_t cut = 0; cut + kq_utf8_size((unsigned char)s[cut]) < size;) {
        const size_t step = kq_utf8_size((unsigned char)s[cut]);
        memcpy(left + cut, s + cut, step);
        cut += step;
        left[cut] = 0;
        done++;
        if (!plain_piece(r, vocab, s + cut) || !plain_piece(r, vocab, left))
            continue;
        void *block = list->v;
        kq_status status =
            kq_grow(&block, &list->cap, list->n, list->n + 1, sizeof *list->v, "the tokenizer", r->err);
        if (status)
            return status;
        list->v = block;
        list->v[list->n++] = (spm_merge){score, done, chars - done, (uint32_t)i, (uint32_t)cut};
    }
    return KQ_OK;
}

/* Append [a, b]. */
static kq_status add_pair(const reader *r, json_t *merges, const char *a, size_t n_a, const char *b,
                          size_t n_b)
{
    json_t *pair = json_pack("[s%, s%]", a, n_a, b, n_b);
    return json_array_append_new(merges, pair) ? kq_fail(r->err, KQ_E_MEMORY, "out of memory: merges")
                                               : KQ_OK;
}

/* Make merges from scores. sentencepiece's files have scores and no merges: two pieces merge when they make a
 * piece together, the best score first. */
static kq_status score_merges(reader *r, const json_t *vocab, json_t *merges)
{
    enum { MAX_PIECE = 1024 }; /* bytes: every cut is looked up, which takes size^2 steps in a hostile file */
    char left[MAX_PIECE + 1];
    merge_list list = {0};
    kq_status status = KQ_OK;
    for (size_t i = 0; i < r->n && !status; i++) {
        const size_t size = json_string_length(r->name[i]);
        double score;
        if (r->type[i] != KQ_TOKEN_NORMAL)
            continue;
        if (!kq_gguf_f64(r->scores, i, &score) || score != score)
            status =
                kq_fail(r->err, KQ_E_FORMAT, "%s: tokenizer.ggml.scores[%zu] is not a number", r->path, i);
        else if (size > MAX_PIECE)
            status = kq_fail(r->err, KQ_E_FORMAT, "%s: token %zu is %zu bytes long", r->path, i, size);
        else
            status = cut_piece(r, vocab, i, score, left, &list);
    }
    if (!status && list.n)
        qsort(list.v, list.n, sizeof *list.v, by_rank);
    for (size_t i = 0; i < list.n && !status; i++) {
        const char *s = json_string_value(r->name[list.v[i].token]);
        status = add_pair(r, merges, s, list.v[i].cut, s + list.v[i].cut, strlen(s) - list.v[i].cut);
    }
    kq_free(list.v);
    return status;
}

static kq_status listed_merges(reader *r, json_t *merges)
{
    for (size_t i = 0; r->merges && i < r->merges->n; i++) {
        const char *s;
        size_t size;
        if (!kq_gguf_str(r->merges, i, &s, &size))
            return kq_fail(r->err, KQ_E_FORMAT, "%s: tokenizer.ggml.merges is not an array of strings",
                           r->path);
        /* "a b"; the first character may itself be a space in no byte-level vocabulary */
        const char *space = size > 1 ? memchr(s + 1, ' ', size - 1) : NULL;
        if (!space || kq_utf8_valid(s, size) < size)
            return kq_fail(r->err, KQ_E_FORMAT, "%s: tokenizer.ggml.merges[%zu] is not \"a b\"", r->path, i);
        kq_status status =
            add_pair(r, merges, s, (size_t)(space - s), space + 1, size - (size_t)(space - s) - 1);
        if (status)
            return status;
    }
    return KQ_OK;
}

/* Can merges of ordinary text end in this token? */
static bool is_merged(const reader *r, size_t token, const json_t *merges)
{
    const char *name = json_string_value(r->name[token]);
    const json_t *pair;
    size_t i;
    json_array_foreach(merges, i, pair) {
        const char *left = json_string_value(json_array_get(pair, 0));
        const size_t n = strlen(left);
        if (!strncmp(name, left, n) && !strcmp(name + n, json_string_value(json_array_get(pair, 1))))
            return true;
    }
    return false;
}

/* Correct the types of tokens whose names say what they are. If a converter left "<|im_end|>" an ordinary
 * token, every chat prompt would be wrong. A token with such a name that ordinary text merges into stays a
 * piece of text (llama.cpp makes it a control token too). Padding stays unused. */
static void correct_types(reader *r, const json_t *merges)
{
    for (size_t i = 0; i < r->special.n_retyped; i++) {
        const size_t id = (size_t)r->special.retyped[i].id;
        const int32_t type = r->special.retyped[i].type;
        if (r->type[id] == type || r->type[id] == KQ_TOKEN_UNUSED ||
            (r->type[id] == KQ_TOKEN_NORMAL && is_merged(r, id, merges)))
            continue;
        if (type == KQ_TOKEN_CONTROL && r->type[id] == KQ_TOKEN_NORMAL)
            kq_warn("%s: token %zu, \"%.60s\", is no control token in tokenizer.ggml.token_type; it is taken "
                    "for one, as in llama.cpp",
                    r->path, id, json_string_value(r->name[id]));
        r->type[id] = type;
    }
}

/* ---- what the metadata say ---- */

static kq_status no_memory(const reader *r)
{
    return kq_fail(r->err, KQ_E_MEMORY, "out of memory: the tokenizer of %s", r->path);
}

/* The model's kind and, of a byte-level one, its pre-tokenizer. */
static kq_status read_kind(reader *r)
{
    const kq_gguf_kv *model = kq_gguf_find(r->g, "tokenizer.ggml.model"),
                     *pre = kq_gguf_find(r->g, "tokenizer.ggml.pre");
    const char *s;
    size_t size;
    if (!kq_gguf_str(model, 0, &s, &size))
        return kq_fail(r->err, KQ_E_FORMAT, "%s: no tokenizer.ggml.model: the file has no tokenizer",
                       r->path);
    r->spm = kq_gguf_str_is(model, 0, "llama");
    if (!r->spm && !kq_gguf_str_is(model, 0, "gpt2"))
        return kq_fail(r->err, KQ_E_UNSUPPORTED,
                       "%s: tokenizer.ggml.model \"%.*s\" is not supported (gpt2 and llama are)", r->path,
                       size > 60 ? 60 : (int)size, s);
    if (r->spm)
        return KQ_OK;
    if (!pre || kq_gguf_str_is(pre, 0, "")) {
        kq_warn(
            "%s: tokenizer.ggml.pre is missing: texts are cut as llama.cpp's default does, which may not be "
            "how the model was trained (convert it again)",
            r->path);
        s = "default";
        size = strlen(s);
    } else if (!kq_gguf_str(pre, 0, &s, &size)) {
        s = "(not a string)";
        size = strlen(s);
    }
    if (!(r->kind = kq_gguf_pre_find(s, size)))
        return kq_fail(r->err, KQ_E_UNSUPPORTED, "%s: tokenizer.ggml.pre \"%.*s\" is not known (%s are)",
                       r->path, size > 60 ? 60 : (int)size, s, kq_gguf_pre_names);
    return KQ_OK;
}

static kq_status find_lists(reader *r)
{
    r->tokens = kq_gguf_find(r->g, "tokenizer.ggml.tokens");
    r->types = kq_gguf_find(r->g, "tokenizer.ggml.token_type");
    r->scores = kq_gguf_find(r->g, "tokenizer.ggml.scores");
    r->merges = kq_gguf_find(r->g, "tokenizer.ggml.merges");
    if (!r->tokens || !r->tokens->is_array || r->tokens->type != KQ_GGUF_STRING || !r->tokens->n ||
        r->tokens->n >= KQ_TOK_MAX_ID)
        return kq_fail(r->err, KQ_E_FORMAT, "%s: tokenizer.ggml.tokens is not an array of strings", r->path);
    r->n = r->tokens->n;
    if (r->types && (!r->types->is_array || r->types->n < r->n))
        return kq_fail(r->err, KQ_E_FORMAT, "%s: tokenizer.ggml.token_type has %zu entries for %zu tokens",
                       r->path, r->types->n, r->n);
    if (r->spm && (!r->scores || !r->scores->is_array || r->scores->n < r->n))
        return kq_fail(r->err, KQ_E_FORMAT,
                       "%s: tokenizer.ggml.scores is missing or has fewer than %zu entries", r->path, r->n);
    if (!r->spm && (!r->merges || !r->merges->is_array))
        return kq_fail(r->err, KQ_E_FORMAT, "%s: tokenizer.ggml.merges is missing", r->path);
    return KQ_OK;
}

/* A truth value of the metadata; absent: *out stays. */
static kq_status read_flag(const reader *r, const char *key, bool *out)
{
    const kq_gguf_kv *kv = kq_gguf_find(r->g, key);
    return !kv || kq_gguf_bool(kv, 0, out)
               ? KQ_OK
               : kq_fail(r->err, KQ_E_FORMAT, "%s: %s is not a truth value", r->path, key);
}

static kq_status read_flags(reader *r)
{
    kq_status status;
    r->add_bos = r->spm || r->kind->add_bos;
    r->space_prefix = true;
    if ((status = read_flag(r, "tokenizer.ggml.add_bos_token", &r->add_bos)) ||
        (status = read_flag(r, "tokenizer.ggml.add_eos_token", &r->add_eos)) ||
        (status = read_flag(r, "tokenizer.ggml.add_space_prefix", &r->space_prefix)))
        return status;
    if (r->spm && r->special.unknown < 0)
        return kq_fail(r->err, KQ_E_FORMAT, "%s: tokenizer.ggml.unknown_token_id is missing", r->path);
    r->add_bos = r->add_bos && r->special.bos >= 0;
    r->add_eos = r->add_eos && r->special.eos >= 0;
    return KQ_OK;
}

/* ---- the parts of a tokenizer.json: new references; NULL: out of memory ---- */

static json_t *added_json(const reader *r)
{
    json_t *added = json_array();
    for (size_t i = 0; added && i < r->n; i++)
        if ((r->type[i] == KQ_TOKEN_CONTROL || r->type[i] == KQ_TOKEN_USER ||
             r->type[i] == KQ_TOKEN_UNKNOWN) &&
            json_array_append_new(added,
                                  special_token((int64_t)i, r->name[i], r->type[i] != KQ_TOKEN_USER))) {
            json_decref(added);
            return NULL;
        }
    return added;
}

static json_t *model_json(const reader *r, json_t *vocab, json_t *merges)
{
    return json_pack("{s:s,s:n,s:o?,s:n,s:n,s:b,s:b,s:b,s:O,s:O}", "type", "BPE", "dropout", "unk_token",
                     r->spm ? json_incref(r->name[r->special.unknown]) : NULL, "continuing_subword_prefix",
                     "end_of_word_suffix", "fuse_unk", r->spm, "byte_fallback", r->spm, "ignore_merges",
                     !r->spm && r->kind->ignore_merges, "vocab", vocab, "merges", merges);
}

static json_t *normalizer_json(const reader *r)
{
    if (!r->spm)
        return r->kind->nfc ? json_pack("{s:s}", "type", "NFC") : json_null();
    json_t *steps = json_array();
    if (r->space_prefix)
        json_array_append_new(steps, json_pack("{s:s,s:s}", "type", "Prepend", "prepend", "\xe2\x96\x81"));
    json_array_append_new(steps, json_pack("{s:s,s:{s:s},s:s}", "type", "Replace", "pattern", "String", " ",
                                           "content", "\xe2\x96\x81"));
    if (json_array_size(steps) != 1 + (size_t)r->space_prefix) {
        json_decref(steps);
        return NULL;
    }
    return json_pack("{s:s,s:o}", "type", "Sequence", "normalizers", steps);
}

static json_t *decoder_json(const reader *r)
{
    if (!r->spm)
        return json_pack("{s:s,s:b,s:b,s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1,
                         "use_regex", 1);
    json_t *chain = json_pack("[{s:s,s:{s:s},s:s},{s:s},{s:s}]", "type", "Replace", "pattern", "String",
                              "\xe2\x96\x81", "content", " ", "type", "ByteFallback", "type", "Fuse");
    if (r->space_prefix && json_array_append_new(chain, json_pack("{s:s,s:s,s:i,s:i}", "type", "Strip",
                                                                  "content", " ", "start", 1, "stop", 0))) {
        json_decref(chain);
        return NULL;
    }
    return json_pack("{s:s,s:o}", "type", "Sequence", "decoders", chain);
}

/* A sequence of a template, with the tokens around it. Nonzero: out of memory. */
static int add_sequence(const reader *r, json_t *list, int sequence)
{
    const struct {
        bool there;
        int64_t id; /* -1: the sequence itself */
    } items[] = {{r->add_bos, r->special.bos}, {true, -1}, {r->add_eos, r->special.eos}};
    int bad = 0;
    for (size_t i = 0; i < sizeof items / sizeof *items && !bad; i++) {
        if (!items[i].there)
            continue;
        bad = json_array_append_new(
            list,
            items[i].id >= 0
                ? json_pack("{s:{s:O,s:i}}", "SpecialToken", "id", r->name[items[i].id], "type_id", sequence)
                : json_pack("{s:{s:s,s:i}}", "Sequence", "id", sequence ? "B" : "A", "type_id", sequence));
    }
    return bad;
}

static json_t *post_processor_json(const reader *r)
{
    if (!r->add_bos && !r->add_eos)
        return json_null();
    json_t *single = json_array(), *pair = json_array(), *known = json_object();
    int bad = add_sequence(r, single, 0) | add_sequence(r, pair, 0) | add_sequence(r, pair, 1);
    for (int e = 0; e < 2; e++) {
        const int64_t id = e ? r->special.eos : r->special.bos;
        if (e ? r->add_eos : r->add_bos)
            bad |= json_object_set_new(known, json_string_value(r->name[id]),
                                       json_pack("{s:O,s:[I],s:[O]}", "id", r->name[id], "ids",
                                                 (json_int_t)id, "tokens", r->name[id]));
    }
    json_t *post = json_pack("{s:s,s:o,s:o,s:o}", "type", "TemplateProcessing", "single", single, "pair",
                             pair, "special_tokens", known);
    if (bad) {
        json_decref(post);
        return NULL;
    }
    return post;
}

/* ---- both files ---- */

static kq_status tokenizer_json(const reader *r, json_t *vocab, json_t *merges, json_t **out)
{
    json_t *pre = r->spm ? json_null() : json_loads(r->kind->json, 0, NULL);
    *out = json_pack("{s:s,s:n,s:n,s:o,s:o,s:o,s:o,s:o,s:o}", "version", "1.0", "truncation", "padding",
                     "added_tokens", added_json(r), "normalizer", normalizer_json(r), "pre_tokenizer", pre,
                     "post_processor", post_processor_json(r), "decoder", decoder_json(r), "model",
                     model_json(r, vocab, merges));
    return *out ? KQ_OK : no_memory(r);
}

static kq_status config_json(const reader *r, size_t max_position, json_t **out)
{
    const struct {
        const char *key;
        int64_t id;
    } roles[] = {{"bos_token", r->special.bos},
                 {"eos_token", r->special.eos},
                 {"unk_token", r->special.unknown},
                 {"pad_token", r->special.padding}};
    /* Without model_input_names, transformers 4 gives token_type_ids as well, which LlamaForCausalLM.generate
     * refuses. */
    *out = json_pack("{s:s,s:b,s:b,s:b,s:I,s:[s,s]}", "tokenizer_class", "PreTrainedTokenizerFast",
                     "clean_up_tokenization_spaces", 0, "add_bos_token", r->add_bos, "add_eos_token",
                     r->add_eos, "model_max_length", (json_int_t)max_position, "model_input_names",
                     "input_ids", "attention_mask");
    if (!*out)
        return no_memory(r);
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (roles[i].id >= 0 && json_object_set(*out, roles[i].key, r->name[roles[i].id]))
            return no_memory(r);
    json_t *templates;
    kq_status status = kq_chat_templates_of_gguf(r->g, r->path, &templates, r->err);
    if (!status && templates && json_object_set(*out, "chat_template", templates))
        status = no_memory(r);
    json_decref(templates);
    return status;
}

kq_status kq_tokenizer_gguf_json(const kq_gguf *g, size_t max_position, json_t **tokenizer, json_t **config,
                                 kq_error *err)
{
    reader r = {.g = g, .path = kq_gguf_path(g), .err = err};
    json_t *vocab = json_object(), *merges = json_array();
    kq_status status;
    *tokenizer = *config = NULL;
    if (!vocab || !merges)
        status = no_memory(&r);
    else
        (void)((status = read_kind(&r)) || (status = find_lists(&r)) ||
               (status = kq_gguf_special_read(g, &r.special, err)) || (status = token_types(&r)) ||
               (status = token_names(&r, vocab)) ||
               (status = r.spm ? score_merges(&r, vocab, merges) : listed_merges(&r, merges)));
    if (!status) {
        correct_types(&r, merges);
        (void)((status = read_flags(&r)) || (status = tokenizer_json(&r, vocab, merges, tokenizer)) ||
               (status = config_json(&r, max_position, config)));
    }
    for (size_t i = 0; r.name && i < r.n; i++)
        json_decref(r.name[i]);
    kq_free(r.name);
    kq_free(r.type);
    json_decref(vocab);
    json_decref(merges);
    if (status) {
        json_decref(*tokenizer);
        json_decref(*config);
        *tokenizer = *config = NULL;
    }
    return status;
}
