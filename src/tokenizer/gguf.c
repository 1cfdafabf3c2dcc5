/* The tokenizer in a GGUF's metadata, rewritten as the tokenizer.json and tokenizer_config.json that
 * Hugging Face would have: one loader then serves both kinds of model, and what is exported is by
 * construction what is run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/warn.h"
#include "source/gguf_special.h"
#include "tokenizer/convert.h"
#include "tokenizer/internal.h"

/* The pre-tokenizers that tokenizer.ggml.pre can name, as the JSON of Hugging Face's files. */
#define BYTE_LEVEL_ONLY \
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}"
#define SPLIT(re) \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" re "\"},\"behavior\":\"Isolated\",\"invert\":false}"
#define SEQUENCE(list) "{\"type\":\"Sequence\",\"pretokenizers\":[" list "]}"
#define GPT2_RE \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\\\p{L}+| ?\\\\p{N}+| ?[^\\\\s\\\\p{L}\\\\p{N}]+|\\\\s+(?!\\\\S)|\\\\s+"
#define MODERN_RE(digits)                                                          \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|" digits \
    "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
static const char gpt2_pre[] =
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}";
static const char digits_pre[] =
    SEQUENCE("{\"type\":\"Digits\",\"individual_digits\":true},"
             "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}");
static const char llama3_pre[] = SEQUENCE(SPLIT(MODERN_RE("\\\\p{N}{1,3}")) "," BYTE_LEVEL_ONLY);
static const char qwen2_pre[] = SEQUENCE(SPLIT(MODERN_RE("\\\\p{N}")) "," BYTE_LEVEL_ONLY);
static const char default_pre[] = SEQUENCE(SPLIT("[\\\\p{P}\\\\$\\\\+<=>\\\\^~\\\\|]+") "," SPLIT(
    GPT2_RE) "," SPLIT("\\\\p{N}+") "," SPLIT("[0-9][0-9][0-9]") "," BYTE_LEVEL_ONLY);

static const struct pre_kind {
    const char *name, *json;
    bool nfc, ignore_merges, add_bos;
} pre_kinds[] = {
    {"smollm", digits_pre, false, false, false},   {"starcoder", digits_pre, false, false, false},
    {"refact", digits_pre, false, false, false},   {"gpt-2", gpt2_pre, false, false, false},
    {"gpt2", gpt2_pre, false, false, false},       {"llama-bpe", llama3_pre, false, true, true},
    {"llama3", llama3_pre, false, true, true},     {"llama-v3", llama3_pre, false, true, true},
    {"qwen2", qwen2_pre, true, false, false},      {"deepseek-r1-qwen", qwen2_pre, true, false, false},
    {"default", default_pre, false, false, false}, {"smaug-bpe", llama3_pre, false, false, false},
};
static const char known_pres[] = "smollm, starcoder, refact, gpt-2, gpt2, llama-bpe, llama3, llama-v3, "
                                 "qwen2, deepseek-r1-qwen, default, smaug-bpe";

json_t *kq_gguf_pre_json(const char *name, bool add_prefix_space)
{
    json_t *pre = NULL, *step;
    size_t i;
    for (i = 0; i < sizeof pre_kinds / sizeof *pre_kinds && !pre; i++)
        if (!strcmp(pre_kinds[i].name, name))
            pre = json_loads(pre_kinds[i].json, 0, NULL);
    json_array_foreach(json_object_get(pre, "pretokenizers"), i,
                       step) if (json_object_get(step, "add_prefix_space"))
        json_object_set_new(step, "add_prefix_space", json_boolean(add_prefix_space));
    return pre;
}

/* A pre-tokenizer without what makes no difference to ids: offsets, and a Sequence around one step. New
 * reference; NULL: none, or out of memory. */
static json_t *plain_pre(const json_t *pre)
{
    json_t *copy = json_deep_copy(pre), *steps = json_object_get(copy, "pretokenizers"), *step;
    size_t i;
    json_array_foreach(steps, i, step) json_object_del(step, "trim_offsets");
    json_object_del(copy, "trim_offsets");
    if (json_array_size(steps) != 1)
        return copy;
    step = json_incref(json_array_get(steps, 0));
    json_decref(copy);
    return step;
}

const char *kq_gguf_pre_name(const json_t *tokenizer)
{
    const json_t *norm = json_object_get(tokenizer, "normalizer"),
                 *ignore = json_object_get(json_object_get(tokenizer, "model"), "ignore_merges");
    const char *found = NULL, *form = json_string_value(json_object_get(norm, "type"));
    json_t *pre = plain_pre(json_object_get(tokenizer, "pre_tokenizer"));
    /* llama.cpp does not normalise; NFC, which changes no text that is in it already, is what its
     * converter passes over too */
    const bool plain = !norm || json_is_null(norm) || (form && !strcmp(form, "NFC"));
    for (size_t i = 0; plain && !found && i < sizeof pre_kinds / sizeof *pre_kinds; i++) {
        json_t *raw = json_loads(pre_kinds[i].json, 0, NULL), *kind = plain_pre(raw);
        if (kind && json_equal(kind, pre) && pre_kinds[i].ignore_merges == json_is_true(ignore))
            found = pre_kinds[i].name;
        json_decref(raw);
        json_decref(kind);
    }
    json_decref(pre);
    return found;
}

typedef struct reader {
    const kq_gguf *g;
    const char *path;
    const kq_gguf_kv *tokens, *types, *scores, *merges;
    size_t n;
    int32_t *type;
    json_t **name; /* [n] borrowed from vocab order: owned references */
    kq_gguf_special special;
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

/* A pair that makes a piece, in the order in which transformers' conversion of sentencepiece models
 * lists them: by score, then by the length of the left and of the right half in characters, all
 * descending, then as met. */
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

/* sentencepiece files carry scores, not merges: two pieces merge when their concatenation is a piece,
 * the best score first. */
static kq_status score_merges(reader *r, const json_t *vocab, json_t *merges)
{
    spm_merge *list = NULL;
    size_t n = 0, cap = 0;
    char *left = NULL;
    kq_status status = KQ_OK;
    for (size_t i = 0; i < r->n && !status; i++) {
        const char *s = json_string_value(r->name[i]);
        size_t size = json_string_length(r->name[i]);
        double score;
        if (r->type[i] != KQ_TOKEN_NORMAL)
            continue;
        if (!kq_gguf_f64(r->scores, i, &score) || score != score) {
            status =
                kq_fail(r->err, KQ_E_FORMAT, "%s: tokenizer.ggml.scores[%zu] is not a number", r->path, i);
            break;
        }
        if (size > 1024) { /* each cut is looked up: keep a hostile file from costing size^2 */
            status = kq_fail(r->err, KQ_E_FORMAT, "%s: token %zu is %zu bytes long", r->path, i, size);
            break;
        }
        kq_free(left);
        if (!(left = kq_alloc(size + 1, 1))) {
            status = kq_fail(r->err, KQ_E_MEMORY, "out of memory: merges");
            break;
        }
        uint32_t chars = 0, done = 0;
        for (size_t j = 0; j < size; j += kq_utf8_size((unsigned char)s[j]))
            chars++;
        for (size_t cut = 0; cut + kq_utf8_size((unsigned char)s[cut]) < size && !status;) {
            size_t step = kq_utf8_size((unsigned char)s[cut]);
            memcpy(left + cut, s + cut, step);
            cut += step;
            left[cut] = 0;
            done++;
            if (!plain_piece(r, vocab, s + cut) || !plain_piece(r, vocab, left))
                continue;
            void *block = list;
            if ((status = kq_grow(&block, &cap, n, n + 1, sizeof *list, "the tokenizer", r->err)))
                break;
            list = block;
            list[n++] = (spm_merge){score, done, chars - done, (uint32_t)i, (uint32_t)cut};
        }
    }
    if (!status && n)
        qsort(list, n, sizeof *list, by_rank);
    for (size_t i = 0; i < n && !status; i++) {
        const char *s = json_string_value(r->name[list[i].token]);
        json_t *pair = json_array();
        if (!pair || json_array_append_new(pair, json_stringn_nocheck(s, list[i].cut)) ||
            json_array_append_new(pair, json_string_nocheck(s + list[i].cut)) ||
            json_array_append(merges, pair))
            status = kq_fail(r->err, KQ_E_MEMORY, "out of memory: merges");
        json_decref(pair);
    }
    kq_free(list);
    kq_free(left);
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
        json_t *pair = json_array();
        if (!pair || json_array_append_new(pair, json_stringn_nocheck(s, (size_t)(space - s))) ||
            json_array_append_new(pair, json_stringn_nocheck(space + 1, size - (size_t)(space - s) - 1)) ||
            json_array_append(merges, pair)) {
            json_decref(pair);
            return kq_fail(r->err, KQ_E_MEMORY, "out of memory: merges");
        }
        json_decref(pair);
    }
    return KQ_OK;
}

/* Can merges of ordinary text end in this token? */
static bool is_merged(const reader *r, size_t token, const json_t *merges)
{
    const char *name = json_string_value(r->name[token]);
    const json_t *pair;
    size_t i;
    json_array_foreach(merges, i, pair)
    {
        const char *left = json_string_value(json_array_get(pair, 0));
        const size_t n = strlen(left);
        if (!strncmp(name, left, n) && !strcmp(name + n, json_string_value(json_array_get(pair, 1))))
            return true;
    }
    return false;
}

/* Tokens whose names say what they are, whatever their types say: a converter that left "<|im_end|>" an
 * ordinary token would make every chat prompt wrong. Such a name that ordinary text merges into is a
 * piece of text here (llama.cpp makes it a control token too). Padding stays unused. */
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

kq_status kq_tokenizer_gguf_json(const struct kq_gguf *g, size_t max_position, json_t **tokenizer,
                                 json_t **config, kq_error *err)
{
    reader r = {.g = g, .path = kq_gguf_path(g), .err = err};
    const struct pre_kind *kind = NULL;
    json_t *vocab = json_object(), *merges = json_array(), *added = json_array(), *model = NULL, *norm = NULL,
           *pre = NULL, *post = NULL, *dec = NULL;
    int64_t bos, eos, unk, pad;
    bool spm = false, add_bos = false, add_eos = false, space_prefix = true;
    const char *s;
    size_t size;
    kq_status status = KQ_OK;
    *tokenizer = *config = NULL;

    const kq_gguf_kv *name = kq_gguf_find(r.g, "tokenizer.ggml.model");
    if (!kq_gguf_str(name, 0, &s, &size)) {
        status = kq_fail(err, KQ_E_FORMAT, "%s: no tokenizer.ggml.model: the file has no tokenizer", r.path);
        goto out;
    }
    spm = kq_gguf_str_is(name, 0, "llama");
    if (!spm && !kq_gguf_str_is(name, 0, "gpt2")) {
        status = kq_fail(err, KQ_E_UNSUPPORTED,
                         "%s: tokenizer.ggml.model \"%.*s\" is not supported (gpt2 and llama are)", r.path,
                         size > 60 ? 60 : (int)size, s);
        goto out;
    }
    if (!spm) {
        const kq_gguf_kv *kv = kq_gguf_find(r.g, "tokenizer.ggml.pre");
        if (!kv || kq_gguf_str_is(kv, 0, "")) {
            kq_warn("%s: tokenizer.ggml.pre is missing: texts are cut as llama.cpp's default does, which may "
                    "not be how the model was trained (convert it "
                    "again)",
                    r.path);
            kv = NULL;
        }
        for (size_t i = 0; i < sizeof pre_kinds / sizeof *pre_kinds; i++)
            if (kv ? kq_gguf_str_is(kv, 0, pre_kinds[i].name) : !strcmp(pre_kinds[i].name, "default"))
                kind = &pre_kinds[i];
        if (!kind) {
            if (!kq_gguf_str(kv, 0, &s, &size)) {
                s = "(not a string)";
                size = strlen(s);
            }
            status = kq_fail(err, KQ_E_UNSUPPORTED, "%s: tokenizer.ggml.pre \"%.*s\" is not known (%s are)",
                             r.path, size > 60 ? 60 : (int)size, s, known_pres);
            goto out;
        }
    }
    r.tokens = kq_gguf_find(r.g, "tokenizer.ggml.tokens");
    r.types = kq_gguf_find(r.g, "tokenizer.ggml.token_type");
    r.scores = kq_gguf_find(r.g, "tokenizer.ggml.scores");
    r.merges = kq_gguf_find(r.g, "tokenizer.ggml.merges");
    if (!r.tokens || !r.tokens->is_array || r.tokens->type != KQ_GGUF_STRING || !r.tokens->n ||
        r.tokens->n >= KQ_TOK_MAX_ID) {
        status = kq_fail(err, KQ_E_FORMAT, "%s: tokenizer.ggml.tokens is not an array of strings", r.path);
        goto out;
    }
    r.n = r.tokens->n;
    if (r.types && (!r.types->is_array || r.types->n < r.n)) {
        status = kq_fail(err, KQ_E_FORMAT, "%s: tokenizer.ggml.token_type has %zu entries for %zu tokens",
                         r.path, r.types->n, r.n);
        goto out;
    }
    if (spm && (!r.scores || !r.scores->is_array || r.scores->n < r.n)) {
        status = kq_fail(err, KQ_E_FORMAT,
                         "%s: tokenizer.ggml.scores is missing or has fewer than %zu entries", r.path, r.n);
        goto out;
    }
    if (!spm && (!r.merges || !r.merges->is_array)) {
        status = kq_fail(err, KQ_E_FORMAT, "%s: tokenizer.ggml.merges is missing", r.path);
        goto out;
    }
    if (!vocab || !merges || !added)
        goto memory;
    if ((status = kq_gguf_special_read(g, &r.special, err)) || (status = token_types(&r)) ||
        (status = token_names(&r, vocab)) ||
        (status = spm ? score_merges(&r, vocab, merges) : listed_merges(&r, merges)))
        goto out;
    correct_types(&r, merges);
    bos = r.special.bos;
    eos = r.special.eos;
    unk = r.special.unknown;
    pad = r.special.padding;
    for (size_t i = 0; i < r.n; i++)
        if ((r.type[i] == KQ_TOKEN_CONTROL || r.type[i] == KQ_TOKEN_USER || r.type[i] == KQ_TOKEN_UNKNOWN) &&
            json_array_append_new(added, special_token((int64_t)i, r.name[i], r.type[i] != KQ_TOKEN_USER)))
            goto memory;
    add_bos = spm || kind->add_bos;
    const kq_gguf_kv *flag_kv;
    if ((flag_kv = kq_gguf_find(r.g, "tokenizer.ggml.add_bos_token")) &&
        !kq_gguf_bool(flag_kv, 0, &add_bos)) {
        status = kq_fail(err, KQ_E_FORMAT, "%s: tokenizer.ggml.add_bos_token is not a truth value", r.path);
        goto out;
    }
    if ((flag_kv = kq_gguf_find(r.g, "tokenizer.ggml.add_eos_token")) &&
        !kq_gguf_bool(flag_kv, 0, &add_eos)) {
        status = kq_fail(err, KQ_E_FORMAT, "%s: tokenizer.ggml.add_eos_token is not a truth value", r.path);
        goto out;
    }
    if ((flag_kv = kq_gguf_find(r.g, "tokenizer.ggml.add_space_prefix")) &&
        !kq_gguf_bool(flag_kv, 0, &space_prefix)) {
        status =
            kq_fail(err, KQ_E_FORMAT, "%s: tokenizer.ggml.add_space_prefix is not a truth value", r.path);
        goto out;
    }
    if (spm && unk < 0) {
        status = kq_fail(err, KQ_E_FORMAT, "%s: tokenizer.ggml.unknown_token_id is missing", r.path);
        goto out;
    }
    add_bos = add_bos && bos >= 0;
    add_eos = add_eos && eos >= 0;

    model =
        json_pack("{s:s,s:n,s:o?,s:n,s:n,s:b,s:b,s:b}", "type", "BPE", "dropout", "unk_token",
                  spm ? json_incref(r.name[unk]) : NULL, "continuing_subword_prefix", "end_of_word_suffix",
                  "fuse_unk", spm, "byte_fallback", spm, "ignore_merges", !spm && kind->ignore_merges);
    if (!model || json_object_set(model, "vocab", vocab) || json_object_set(model, "merges", merges))
        goto memory;
    if (spm) {
        json_t *steps = json_array();
        norm = json_pack("{s:s,s:o}", "type", "Sequence", "normalizers", steps);
        if (!norm ||
            (space_prefix && json_array_append_new(steps, json_pack("{s:s,s:s}", "type", "Prepend", "prepend",
                                                                    "\xe2\x96\x81"))) ||
            json_array_append_new(steps, json_pack("{s:s,s:{s:s},s:s}", "type", "Replace", "pattern",
                                                   "String", " ", "content", "\xe2\x96\x81")))
            goto memory;
        json_t *chain = json_pack("[{s:s,s:{s:s},s:s},{s:s},{s:s}]", "type", "Replace", "pattern", "String",
                                  "\xe2\x96\x81", "content", " ", "type", "ByteFallback", "type", "Fuse");
        dec = json_pack("{s:s,s:o}", "type", "Sequence", "decoders", chain);
        if (!dec ||
            (space_prefix && json_array_append_new(chain, json_pack("{s:s,s:s,s:i,s:i}", "type", "Strip",
                                                                    "content", " ", "start", 1, "stop", 0))))
            goto memory;
        pre = json_null();
    } else {
        norm = kind->nfc ? json_pack("{s:s}", "type", "NFC") : json_null();
        pre = json_loads(kind->json, 0, NULL);
        dec = json_pack("{s:s,s:b,s:b,s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1,
                        "use_regex", 1);
        if (!norm || !pre || !dec)
            goto memory;
    }
    if (add_bos || add_eos) {
        json_t *single = json_array(), *pair = json_array(), *known = json_object();
        post = json_pack("{s:s,s:o,s:o,s:o}", "type", "TemplateProcessing", "single", single, "pair", pair,
                         "special_tokens", known);
        if (!post)
            goto memory;
        for (int seq = 0; seq < 2; seq++) {
            json_t *const lists[2] = {single, pair};
            for (int l = seq; l < 2; l++) {
                if (add_bos && json_array_append_new(lists[l], json_pack("{s:{s:O,s:i}}", "SpecialToken",
                                                                         "id", r.name[bos], "type_id", seq)))
                    goto memory;
                if (json_array_append_new(lists[l], json_pack("{s:{s:s,s:i}}", "Sequence", "id",
                                                              seq ? "B" : "A", "type_id", seq)))
                    goto memory;
                if (add_eos && json_array_append_new(lists[l], json_pack("{s:{s:O,s:i}}", "SpecialToken",
                                                                         "id", r.name[eos], "type_id", seq)))
                    goto memory;
            }
        }
        for (int e = 0; e < 2; e++) {
            int64_t id = e ? eos : bos;
            if ((e ? add_eos : add_bos) &&
                json_object_set_new(known, json_string_value(r.name[id]),
                                    json_pack("{s:O,s:[I],s:[O]}", "id", r.name[id], "ids", (json_int_t)id,
                                              "tokens", r.name[id])))
                goto memory;
        }
    } else {
        post = json_null();
    }
    *tokenizer = json_pack("{s:s,s:n,s:n,s:O,s:O,s:O,s:O,s:O,s:O}", "version", "1.0", "truncation", "padding",
                           "added_tokens", added, "normalizer", norm, "pre_tokenizer", pre, "post_processor",
                           post, "decoder", dec, "model", model);
    /* Without model_input_names, transformers 4 gives token_type_ids as well, which
     * LlamaForCausalLM.generate refuses. */
    *config = json_pack("{s:s,s:b,s:b,s:b,s:I,s:[s,s]}", "tokenizer_class", "PreTrainedTokenizerFast",
                        "clean_up_tokenization_spaces", 0, "add_bos_token", add_bos, "add_eos_token", add_eos,
                        "model_max_length", (json_int_t)max_position, "model_input_names", "input_ids",
                        "attention_mask");
    if (!*tokenizer || !*config)
        goto memory;
    const struct {
        const char *key;
        int64_t id;
    } roles[] = {{"bos_token", bos}, {"eos_token", eos}, {"unk_token", unk}, {"pad_token", pad}};
    for (size_t i = 0; i < 4; i++)
        if (roles[i].id >= 0 && json_object_set(*config, roles[i].key, r.name[roles[i].id]))
            goto memory;
    json_t *templates;
    if ((status = kq_chat_templates_of_gguf(r.g, r.path, &templates, err))) {
        json_decref(templates);
        goto out;
    }
    if (templates && json_object_set_new(*config, "chat_template", templates))
        goto memory;
    goto out;
memory:
    status = kq_fail(err, KQ_E_MEMORY, "out of memory: the tokenizer of %s", r.path);
out:
    for (size_t i = 0; r.name && i < r.n; i++)
        json_decref(r.name[i]);
    kq_free(r.name);
    kq_free(r.type);
    json_decref(vocab);
    json_decref(merges);
    json_decref(added);
    json_decref(model);
    json_decref(norm);
    json_decref(pre);
    json_decref(post);
    json_decref(dec);
    if (status) {
        json_decref(*tokenizer);
        json_decref(*config);
        *tokenizer = *config = NULL;
    }
    return status;
}
