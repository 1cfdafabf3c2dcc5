/* Makes one tokenizer.json of a Hugging Face folder, as AutoTokenizer of transformers 5 understands the
 * folder. It has the normalizer, pre-tokenizer and decoder of the class that tokenizer_config.json names, and
 * the added tokens of tokenizer.json, tokenizer_config.json, special_tokens_map.json and added_tokens.json
 * with the ids that they get. What is run and what is exported are then the same. The expected results of the
 * tests come from AutoTokenizer itself (scripts/make_golden_tokenizer_folders.py). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "base/warn.h"
#include "format/json.h"
#include "tokenizer_files/gguf_pre.h"
#include "tokenizer_files/tokenizer_files.h"

/* The class of a tokenizer. CLASS_FILE: TokenizersBackend (PreTrainedTokenizerFast), which runs
 * tokenizer.json as it is. The other classes take only the vocabulary, the merges and the post-processor from
 * it, and have a normalizer, a pre-tokenizer and a decoder of their own. */
typedef enum tokenizer_class { CLASS_FILE, CLASS_LLAMA, CLASS_CODE_LLAMA, CLASS_QWEN2 } tokenizer_class;

typedef struct folder {
    const char *path; /* of tokenizer.json */
    char *dir;        /* of path; owned */
    /* tokenizer.json, tokenizer_config.json (an empty object without the file); owned */
    json_t *root, *config;
    /* config.json, special_tokens_map.json, added_tokens.json; NULL: not there; owned */
    json_t *model, *map, *added;
    tokenizer_class class;
    /* the added tokens so far, in the order in which they came, with their ids; owned */
    json_t *list;
    /* roles that only some models have, as strings in tokenizer_config.json: no other file changes them;
     * owned */
    json_t *firm;
    json_t *by_content; /* content -> its object in list */
    json_int_t top;     /* the highest id in list, -1: none */
    /* tokens that get another id than is written; the first one's text, owned */
    json_int_t moved_from, moved_to;
    json_t *moved;
    size_t n_moved;
    kq_error *err;
} folder;

static kq_status no_memory(folder *f)
{
    return kq_fail(f->err, KQ_E_MEMORY, "%s: out of memory", f->path);
}

/* ---- files --------------------------------------------------------------------------------------------- */

static kq_status load_beside(folder *f, const char *name, json_t **out)
{
    char *path;
    kq_status status = kq_path_in(&path, f->err, f->dir, "%s", name);
    if (!status && kq_path_exists(path) && !(status = kq_json_read(path, KQ_TOK_MAX_FILE, out, f->err)))
        status = kq_json_get_object(kq_json_root(*out, path), KQ_JSON_REQUIRED, NULL, f->err);
    kq_free(path);
    return status;
}

static kq_status load_all(folder *f)
{
    kq_status status;
    if ((status = kq_path_dir(f->path, &f->dir, f->err)) ||
        (status = kq_json_read(f->path, KQ_TOK_MAX_FILE, &f->root, f->err)) ||
        (status = load_beside(f, "tokenizer_config.json", &f->config)) ||
        (status = load_beside(f, "config.json", &f->model)))
        return status;
    if (!f->config && !(f->config = json_object()))
        return no_memory(f);
    /* then transformers reads neither of these two */
    if (json_object_get(f->config, "added_tokens_decoder"))
        return KQ_OK;
    return (status = load_beside(f, "special_tokens_map.json", &f->map))
               ? status
               : load_beside(f, "added_tokens.json", &f->added);
}

/* ---- the class ----------------------------------------------------------------------------------------- */

static bool names_type(const json_t *v, const char *type)
{
    const char *key;
    const json_t *item;
    size_t i;
    if (json_is_string(json_object_get(v, "type")) &&
        !strcmp(json_string_value(json_object_get(v, "type")), type))
        return true;
    json_object_foreach((json_t *)v, key, item)
        if (json_is_array(item))
            for (i = 0; i < json_array_size(item); i++)
                if (names_type(json_array_get(item, i), type))
                    return true;
    return false;
}

static bool is_class(const char *name, const char *class)
{
    const size_t n = strlen(class);
    return name && !strncmp(name, class, n) && (!name[n] || !strcmp(name + n, "Fast"));
}

static void find_class(folder *f)
{
    /* classes that have steps of their own too, which differ from those that the models were trained
     * with (SmolLM2's digits): kronq goes by the file */
    static const char *const others[] = {"GPT2Tokenizer",       "GPTNeoXTokenizer", "GemmaTokenizer",
                                         "CohereTokenizer",     "CodeGenTokenizer", "RobertaTokenizer",
                                         "XLMRobertaTokenizer", "T5Tokenizer",      "Qwen3_5Tokenizer"};
    const char *name = json_string_value(json_object_get(f->config, "tokenizer_class")),
               *type = json_string_value(json_object_get(f->model, "model_type"));
    if (!name)
        name = json_string_value(json_object_get(f->model, "tokenizer_class"));
    const bool bytes = names_type(json_object_get(f->root, "pre_tokenizer"), "ByteLevel") ||
                       names_type(json_object_get(f->root, "decoder"), "ByteLevel");
    if (is_class(name, "Qwen2Tokenizer") || (!name && type && !strcmp(type, "qwen3")))
        f->class = CLASS_QWEN2;
    else if (is_class(name, "LlamaTokenizer") && !bytes &&
             !names_type(json_object_get(f->root, "post_processor"), "ByteLevel"))
        f->class = CLASS_LLAMA;
    else if (is_class(name, "CodeLlamaTokenizer"))
        f->class = CLASS_CODE_LLAMA;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (is_class(name, others[i]))
            kq_warn("%s/tokenizer_config.json: transformers 5 runs the steps of its own %s in the place of "
                    "tokenizer.json's; kronq goes by tokenizer.json",
                    f->dir, name);
}

/* Put the class's own steps into root. */
static kq_status class_steps(folder *f)
{
    json_t *model = json_object_get(f->root, "model"), *unk = NULL, *norm = NULL, *pre = NULL, *dec = NULL;
    const json_t *space = json_object_get(f->config, "add_prefix_space"),
                 *legacy = json_object_get(f->config, "legacy");
    const char *type = json_string_value(json_object_get(model, "type"));
    const bool llama = f->class != CLASS_QWEN2, prefix = json_is_boolean(space) ? json_is_true(space) : llama;
    /* another type: refused by its name later */
    if (f->class == CLASS_FILE || !json_is_object(model) || (type && strcmp(type, "BPE") != 0))
        return KQ_OK;
    if (llama) {
        const char *scheme = !prefix                                           ? "never"
                             : f->class == CLASS_LLAMA && json_is_true(legacy) ? "always"
                                                                               : "first";
        const bool strip = prefix || f->class == CLASS_CODE_LLAMA;
        norm = json_null();
        pre = json_pack("{s:s,s:s,s:s,s:b}", "type", "Metaspace", "replacement", "\xe2\x96\x81",
                        "prepend_scheme", scheme, "split", 0);
        dec = json_pack("{s:s,s:[{s:s,s:{s:s},s:s},{s:s},{s:s}]}", "type", "Sequence", "decoders", "type",
                        "Replace", "pattern", "String", "\xe2\x96\x81", "content", " ", "type",
                        "ByteFallback", "type", "Fuse");
        if (strip && dec)
            json_array_append_new(
                json_object_get(dec, "decoders"),
                json_pack("{s:s,s:s,s:i,s:i}", "type", "Strip", "content", " ", "start", 1, "stop", 0));
        if (f->class == CLASS_CODE_LLAMA) {
            const char *text = json_string_value(kq_token_text(json_object_get(f->config, "unk_token")));
            unk = json_string(text ? text : "<unk>");
        }
    } else {
        norm = json_pack("{s:s}", "type", "NFC");
        pre = kq_gguf_pre_json("qwen2", prefix);
        dec = json_pack("{s:s}", "type", "ByteLevel");
    }
    json_t *fresh =
        json_pack("{s:s,s:o,s:b,s:b,s:O,s:O}", "type", "BPE", "unk_token", unk ? unk : json_null(),
                  "fuse_unk", llama, "byte_fallback", llama, "vocab",
                  json_object_get(model, "vocab") ? json_object_get(model, "vocab") : json_null(), "merges",
                  json_object_get(model, "merges") ? json_object_get(model, "merges") : json_null());
    if (!fresh || !pre || !dec || !norm || json_object_set_new(f->root, "model", fresh) ||
        json_object_set_new(f->root, "normalizer", norm) ||
        json_object_set_new(f->root, "pre_tokenizer", pre) || json_object_set_new(f->root, "decoder", dec))
        return no_memory(f);
    return KQ_OK;
}

/* ---- added tokens -------------------------------------------------------------------------------------- */

/* A token without its id. from: its object, or NULL. New reference; NULL: out of memory. */
static json_t *token(const json_t *content, const json_t *from, bool special)
{
    special = kq_json_flag(from, "special", special);
    return json_pack("{s:O,s:b,s:b,s:b,s:b,s:b}", "content", content, "single_word",
                     kq_json_flag(from, "single_word", false), "lstrip", kq_json_flag(from, "lstrip", false),
                     "rstrip", kq_json_flag(from, "rstrip", false), "normalized",
                     kq_json_flag(from, "normalized", !special), "special", special);
}

const json_t *kq_token_text(const json_t *v)
{
    const json_t *content = json_is_object(v) ? json_object_get(v, "content") : v;
    return json_is_string(content) ? content : NULL;
}

static bool same_flags(const json_t *a, const json_t *b)
{
    static const char *const flags[] = {"single_word", "lstrip", "rstrip", "normalized", "special"};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (json_is_true(json_object_get(a, flags[i])) != json_is_true(json_object_get(b, flags[i])))
            return false;
    return true;
}

static json_t *found(const folder *f, const json_t *content)
{
    return json_object_getn(f->by_content, json_string_value(content), json_string_length(content));
}

/* Add a token as add_tokens of `tokenizers` does. It gets the vocabulary's id when its text is in the
 * vocabulary, and the next free id otherwise, whatever the file says. A text that was added before keeps its
 * id and gets the new flags. Takes over the reference of t. written: the id in the file; -1: none. */
static kq_status add(folder *f, json_t *t, json_int_t written, json_int_t *next)
{
    const json_t *content = json_object_get(t, "content"),
                 *vocab = json_object_get(json_object_get(f->root, "model"), "vocab");
    if (!t)
        return no_memory(f);
    json_t *old = found(f, content);
    const json_t *id = json_object_getn(vocab, json_string_value(content), json_string_length(content));
    if (!json_string_length(content) || (old && same_flags(old, t))) {
        json_decref(t);
        return KQ_OK;
    }
    const json_int_t given = json_is_integer(id) ? json_integer_value(id)
                             : old               ? json_integer_value(json_object_get(old, "id"))
                                                 : (*next)++;
    if (written >= 0 && written != given && !f->n_moved++) {
        f->moved_from = written;
        f->moved_to = given;
        f->moved = json_incref((json_t *)content);
    }
    if (given > f->top)
        f->top = given;
    int bad = json_object_set_new(t, "id", json_integer(given));
    /* a text that was special once stays special for tokenizers, whatever its later flags say */
    if (json_is_true(json_object_get(t, "special")))
        bad |= json_object_set_new(t, "once_special", json_true());
    if (old) {
        bad |= json_object_update_existing(old, t);
        json_decref(t);
    } else {
        bad |= json_object_set_new(t, "place", json_integer((json_int_t)json_array_size(f->list)));
        bad |= json_object_setn(f->by_content, json_string_value(content), json_string_length(content), t) |
               json_array_append_new(f->list, t);
    }
    return bad ? no_memory(f) : KQ_OK;
}

/* The id that a batch of add_tokens begins with. */
static json_int_t next_id(const folder *f)
{
    const json_int_t n =
        (json_int_t)json_object_size(json_object_get(json_object_get(f->root, "model"), "vocab"));
    return f->top >= n ? f->top + 1 : n;
}

typedef struct listed {
    json_int_t id;
    json_t *token;
    size_t order;
} listed; /* token owned */
typedef struct listing {
    listed *item;
    size_t n, cap;
} listing;

/* Put a token on a list. Of several with the same id the last one counts. Takes over the reference of t. */
static kq_status list_token(folder *f, listing *l, json_int_t id, json_t *t)
{
    void *block = l->item;
    kq_status status =
        t ? kq_grow(&block, &l->cap, l->n, l->n + 1, sizeof *l->item, "the tokenizer", f->err) : no_memory(f);
    if (status) {
        json_decref(t);
        return status;
    }
    l->item = block;
    l->item[l->n] = (listed){id, t, l->n};
    l->n++;
    return KQ_OK;
}

static int by_id(const void *pa, const void *pb)
{
    const listed *a = pa, *b = pb;
    return a->id != b->id ? (a->id < b->id ? -1 : 1) : a->order < b->order ? -1 : 1;
}

static kq_status bad_token(folder *f, const char *file, const char *what, const char *key)
{
    return kq_fail(f->err, KQ_E_FORMAT, "%s/%s: %s \"%.60s\" is not a token with an id below %d", f->dir,
                   file, what, key, KQ_TOK_MAX_ID);
}

static bool read_number(const char *s, json_int_t *id)
{
    char *end;
    if (!s[0] || strspn(s, "0123456789") != strlen(s) || strlen(s) > 9)
        return false;
    *id = strtol(s, &end, 10);
    return !*end && *id < KQ_TOK_MAX_ID;
}

static kq_status file_tokens(folder *f, listing *l)
{
    const json_t *added = json_object_get(f->root, "added_tokens"), *t;
    size_t i;
    kq_status status;
    if (added && !json_is_array(added) && !json_is_null(added))
        return kq_fail(f->err, KQ_E_FORMAT, "%s: added_tokens is not an array", f->path);
    json_array_foreach(added, i, t) {
        const json_t *content = json_object_get(t, "content"), *id = json_object_get(t, "id");
        char at[32];
        snprintf(at, sizeof at, "%zu", i);
        if (!json_is_string(content) || !json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= KQ_TOK_MAX_ID)
            return bad_token(f, strrchr(f->path, '/') ? strrchr(f->path, '/') + 1 : f->path, "added_tokens",
                             at);
        if ((status = list_token(f, l, json_integer_value(id), token(content, t, false))))
            return status;
    }
    return KQ_OK;
}

/* Roles whose token transformers looks up when it reads added_tokens.json: only strings count there, and
 * what special_tokens_map.json says. */
static const char *const roles[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                    "pad_token", "cls_token", "mask_token"};
enum { N_ROLES = sizeof roles / sizeof *roles };

/* The texts that make a token of added_tokens.json special. New reference; NULL: out of memory. */
static json_t *special_texts(const folder *f)
{
    json_t *texts = json_object(), *t;
    size_t i;
    int bad = !texts;
    for (i = 0; i < N_ROLES && !bad; i++) {
        const json_t *mapped = kq_token_text(json_object_get(f->map, roles[i])),
                     *v = mapped ? mapped : json_object_get(f->config, roles[i]);
        if (json_is_string(v))
            bad = json_object_setn_new(texts, json_string_value(v), json_string_length(v), json_true());
    }
    json_array_foreach(json_object_get(f->config, "extra_special_tokens"), i, t)
        if (kq_token_text(t) && !bad)
            bad = json_object_setn_new(texts, json_string_value(kq_token_text(t)),
                                       json_string_length(kq_token_text(t)), json_true());
    if (bad)
        json_decref(texts);
    return bad ? NULL : texts;
}

/* List the tokens of added_tokens_decoder, or those that transformers takes in its place. */
static kq_status side_tokens(folder *f, listing *l)
{
    const json_t *decoder = json_object_get(f->config, "added_tokens_decoder");
    const char *key;
    json_t *t;
    kq_status status;
    if (decoder && !json_is_object(decoder))
        return kq_fail(f->err, KQ_E_FORMAT, "%s/tokenizer_config.json: added_tokens_decoder is not an object",
                       f->dir);
    json_object_foreach((json_t *)decoder, key, t) {
        json_int_t id;
        if (!read_number(key, &id) || !json_is_object(t) || !kq_token_text(t))
            return bad_token(f, "tokenizer_config.json", "added_tokens_decoder", key);
        if ((status = list_token(f, l, id, token(kq_token_text(t), t, false))))
            return status;
    }
    if (decoder)
        return KQ_OK;
    json_t *special = special_texts(f);
    status = special ? KQ_OK : no_memory(f);
    json_object_foreach(f->added, key, t) {
        if (status)
            break;
        json_t *content = json_string(key);
        if (!json_is_integer(t) || json_integer_value(t) < 0 || json_integer_value(t) >= KQ_TOK_MAX_ID)
            status = bad_token(f, "added_tokens.json", "token", key);
        else
            status = content ? list_token(f, l, json_integer_value(t),
                                          token(content, NULL, json_object_get(special, key) != NULL))
                             : no_memory(f);
        json_decref(content);
    }
    json_decref(special);
    if (status)
        return status;
    return file_tokens(f, l);
}

/* Tokens with a role, and further special ones, that no list names are added behind all others. */
/* list: tokens in order; texts: content -> true, those with a role; seen: what is in list */
typedef struct named {
    json_t *list, *texts, *seen;
} named;

static kq_status name_token(folder *f, named *n, const json_t *v, bool role)
{
    const json_t *content = kq_token_text(v);
    if (!content)
        return KQ_OK;
    json_t *t = token(content, json_is_object(v) ? v : NULL, !json_is_object(v));
    /* the same string, or the same text with the same flags, comes once; a string and an object are two,
     * and the later one's flags hold */
    char *kind = json_is_object(v) && t ? json_dumps(t, JSON_COMPACT) : NULL;
    json_t *key = kind ? json_string(kind) : json_sprintf("=%s", json_string_value(content));
    free(kind);
    kq_status status = KQ_OK;
    if (!t || !key)
        status = no_memory(f);
    else if (role && json_object_setn_new(n->texts, json_string_value(content), json_string_length(content),
                                          json_true()))
        status = no_memory(f);
    else if (!json_object_getn(n->seen, json_string_value(key), json_string_length(key)) &&
             (json_array_append(n->list, t) ||
              json_object_setn_new(n->seen, json_string_value(key), json_string_length(key), json_true())))
        status = no_memory(f);
    json_decref(t);
    json_decref(key);
    return status;
}

static bool ends_token(const char *key)
{
    const size_t n = strlen(key);
    return n > 6 && !strcmp(key + n - 6, "_token");
}

/* Is it the key of a token with a role that only some models have, as "image_token"? */
static bool other_role(const char *key)
{
    for (size_t i = 0; i < N_ROLES; i++)
        if (!strcmp(key, roles[i]))
            return false;
    return ends_token(key);
}

/* The class's own defaults, then special_tokens_map.json, into config: what transformers knows by these
 * names. */
static kq_status merge_config(folder *f)
{
    static const struct {
        tokenizer_class class;
        const char *key, *value;
    } defaults[] = {
        {CLASS_LLAMA, "unk_token", "<unk>"},
        {CLASS_LLAMA, "bos_token", "<s>"},
        {CLASS_LLAMA, "eos_token", "</s>"},
        {CLASS_CODE_LLAMA, "unk_token", "<unk>"},
        {CLASS_CODE_LLAMA, "bos_token", "<s>"},
        {CLASS_CODE_LLAMA, "eos_token", "</s>"},
        {CLASS_CODE_LLAMA, "prefix_token", "\xe2\x96\x81<PRE>"},
        {CLASS_CODE_LLAMA, "middle_token", "\xe2\x96\x81<MID>"},
        {CLASS_CODE_LLAMA, "suffix_token", "\xe2\x96\x81<SUF>"},
        {CLASS_CODE_LLAMA, "eot_token", "\xe2\x96\x81<EOT>"},
        {CLASS_CODE_LLAMA, "fill_token", "<FILL_ME>"},
        {CLASS_QWEN2, "unk_token", "<|endoftext|>"},
        {CLASS_QWEN2, "eos_token", "<|endoftext|>"},
        {CLASS_QWEN2, "pad_token", "<|endoftext|>"},
    };
    const char *key;
    json_t *v;
    json_object_foreach(f->config, key, v)
        if (json_is_string(v) && other_role(key) && json_object_set_new(f->firm, key, json_true()))
            return no_memory(f);
    json_object_foreach(f->map, key, v) {
        if (json_object_get(f->firm, key))
            continue;
        json_t *copy = json_deep_copy(v);
        if (copy && json_is_object(copy) && kq_token_text(copy))
            json_object_set_new(copy, "special", json_true());
        if (!copy || json_object_set_new(f->config, key, copy))
            return no_memory(f);
    }
    for (size_t i = 0; i < sizeof defaults / sizeof *defaults; i++)
        if (defaults[i].class == f->class && !json_object_get(f->config, defaults[i].key) &&
            json_object_set_new(f->config, defaults[i].key, json_string(defaults[i].value)))
            return no_memory(f);
    v = json_object_get(json_object_get(f->root, "padding"), "pad_token");
    if (json_is_string(v) && !json_object_get(f->config, "pad_token") &&
        json_object_set(f->config, "pad_token", v))
        return no_memory(f);
    return KQ_OK;
}

static kq_status named_tokens(folder *f, named *n)
{
    const json_t *extra = json_object_get(f->config, "extra_special_tokens"),
                 *more = json_object_get(f->config, "additional_special_tokens");
    const char *key;
    json_t *v;
    size_t i;
    kq_status status;
    for (i = 0; i < N_ROLES; i++)
        if ((status = name_token(f, n, json_object_get(f->config, roles[i]), true)))
            return status;
    for (int firm = 0; firm < 2; firm++)
        json_object_foreach(f->config, key, v)
            if (other_role(key) && (json_object_get(f->firm, key) != NULL) == firm &&
                (status = name_token(f, n, v, true)))
                return status;
    json_object_foreach(json_object_get(f->config, "model_specific_special_tokens"), key, v)
        if ((status = name_token(f, n, v, true)))
            return status;
    json_object_foreach((json_t *)extra, key, v)
        if ((status = name_token(f, n, v, true)))
            return status;
    if (!json_is_array(extra) || !json_array_size(extra))
        extra = more;
    json_array_foreach(extra, i, v)
        if ((status = name_token(f, n, v, false)))
            return status;
    return KQ_OK;
}

/* A token of a side file: special when it has a role, even if its own entry does not say so. */
static void make_special(const named *n, json_t *t)
{
    const json_t *content = json_object_get(t, "content");
    if (json_object_getn(n->texts, json_string_value(content), json_string_length(content)))
        json_object_set_new(t, "special", json_true());
}

static kq_status add_all(folder *f, listing *file, listing *side, const named *n)
{
    kq_status status = KQ_OK;
    json_int_t next = next_id(f);
    json_t *t;
    size_t i;
    if (f->class == CLASS_FILE) /* tokenizer.json's own list, in its order */
        for (i = 0; i < file->n && !status; i++)
            status = add(f, json_incref(file->item[i].token), file->item[i].id, &next);
    if (side->n)
        qsort(side->item, side->n, sizeof *side->item, by_id);
    next = next_id(f);
    for (i = 0; i < side->n && !status; i++) {
        listed *x = &side->item[i];
        if (i + 1 < side->n && side->item[i + 1].id == x->id) /* a later entry of this id replaces it */
            continue;
        const json_t *old = found(f, json_object_get(x->token, "content"));
        if (old && same_flags(old, x->token))
            continue;
        make_special(n, x->token);
        status = add(f, json_incref(x->token), x->id, &next);
    }
    const size_t n_listed = json_array_size(f->list);
    json_array_foreach(n->list, i, t) {
        const json_t *old = found(f, json_object_get(t, "content"));
        if (status || (old && json_integer_value(json_object_get(old, "place")) < (json_int_t)n_listed))
            continue;
        make_special(n, t);
        status = add(f, json_incref(t), -1, &next);
    }
    /* this class adds its special tokens again, with the flags of special tokens */
    if (f->class == CLASS_QWEN2 && !status) {
        next = next_id(f);
        json_array_foreach(n->list, i, t)
            if (!status)
                status = add(f, token(json_object_get(t, "content"), NULL, true), -1, &next);
    }
    return status;
}

static kq_status added_tokens(folder *f)
{
    listing file = {0}, side = {0};
    named n = {json_array(), json_object(), json_object()};
    json_t *t;
    size_t i;
    kq_status status;
    f->list = json_array();
    f->by_content = json_object();
    f->firm = json_object();
    if (!f->firm || !n.list || !n.texts || !n.seen || !f->list || !f->by_content)
        status = no_memory(f);
    else if (!(status = merge_config(f)) && !(status = file_tokens(f, &file)) &&
             !(status = side_tokens(f, &side)) && !(status = named_tokens(f, &n)) &&
             !(status = add_all(f, &file, &side, &n)) && json_object_set(f->root, "added_tokens", f->list))
        status = no_memory(f);
    json_array_foreach(f->list, i, t) {
        if (json_is_true(json_object_get(t, "once_special")))
            json_object_set_new(t, "special", json_true());
        json_object_del(t, "once_special");
        json_object_del(t, "place");
    }
    if (!status && f->n_moved)
        kq_warn("%s: added token \"%.60s\" is listed with id %lld and gets %lld, as in transformers, which "
                "numbers added tokens on from the vocabulary (%zu such "
                "tokens)",
                f->path, json_string_value(f->moved), (long long)f->moved_from, (long long)f->moved_to,
                f->n_moved);
    for (i = 0; i < file.n; i++)
        json_decref(file.item[i].token);
    for (i = 0; i < side.n; i++)
        json_decref(side.item[i].token);
    kq_free(file.item);
    kq_free(side.item);
    json_decref(n.list);
    json_decref(n.texts);
    json_decref(n.seen);
    return status;
}

kq_status kq_tokenizer_folder_json(const char *path, json_t **tokenizer, json_t **config, kq_error *err)
{
    folder f = {.path = path, .top = -1, .err = err};
    kq_status status;
    *tokenizer = *config = NULL;
    if ((status = load_all(&f)))
        goto out;
    if (json_is_object(json_object_get(f.root, "model"))) { /* else refused when the tokenizer is made */
        find_class(&f);
        if ((status = class_steps(&f)) || (status = added_tokens(&f)))
            goto out;
    }
    *tokenizer = json_incref(f.root);
    *config = json_incref(f.config);
out:
    kq_free(f.dir);
    json_decref(f.root);
    json_decref(f.config);
    json_decref(f.model);
    json_decref(f.map);
    json_decref(f.added);
    json_decref(f.list);
    json_decref(f.by_content);
    json_decref(f.firm);
    json_decref(f.moved);
    return status;
}
