/* tokenizer.json (Hugging Face `tokenizers`) -> kq_tokenizer. What is not understood is refused by name,
 * never guessed. */
#include <stdio.h>
#include <string.h>

#include <utf8proc.h>

#include "base/file.h"
#include "base/hash.h"
#include "tokenizer/internal.h"
#include "tokenizer/convert.h"

enum { MAX_STAGES = 64 };

/* ---- small readers ------------------------------------------------------------------------------------- */

static const char *type_of(const json_t *obj)
{
    const char *type = json_string_value(json_object_get(obj, "type"));
    return type ? type : "(no type)";
}

static bool flag(const json_t *obj, const char *key, bool otherwise)
{
    const json_t *v = json_object_get(obj, key);
    return json_is_boolean(v) ? json_is_true(v) : otherwise;
}

static kq_status refuse(const kq_tokenizer *tok, const char *part, const char *what, kq_error *err)
{
    return kq_fail(err, KQ_E_UNSUPPORTED, "%s: %s \"%.100s\" is not supported", tok->path, part, what);
}

static kq_status copy_string(const json_t *v, const kq_tokenizer *tok, const char *where, char **out,
                             size_t *size, kq_error *err)
{
    kq_buffer buf = {0};
    if (!json_is_string(v))
        return kq_fail(err, KQ_E_FORMAT, "%s: %s is not a string", tok->path, where);
    kq_status status = kq_buffer_add(&buf, json_string_value(v), json_string_length(v), err);
    if (!status)
        status = kq_buffer_add(&buf, "", 1, err);
    if (status) {
        kq_free(buf.data);
        return status;
    }
    *out = buf.data;
    *size = buf.size - 1;
    return KQ_OK;
}

static kq_status read_pattern(const kq_tokenizer *tok, const json_t *obj, const char *where, kq_pattern *out,
                              kq_error *err)
{
    const json_t *p = json_object_get(obj, "pattern"), *re = json_object_get(p, "Regex"),
                 *s = json_object_get(p, "String");
    char at[512];
    snprintf(at, sizeof at, "%.300s: %s", tok->path, where);
    if (json_is_string(re))
        return kq_pattern_regex(json_string_value(re), json_string_length(re), at, out, err);
    if (json_is_string(s))
        return kq_pattern_literal(json_string_value(s), json_string_length(s), out, err);
    return kq_fail(err, KQ_E_FORMAT, "%s has no pattern {\"Regex\": ...} or {\"String\": ...}", at);
}

/* ---- vocabulary ---------------------------------------------------------------------------------------- */

static void map_insert(kq_tokenizer *tok, int32_t id)
{
    const kq_token *t = &tok->token[id];
    size_t i = kq_hash64(tok->text.data + t->off, t->size, 0) & tok->map_mask;
    while (tok->map[i] >= 0)
        i = (i + 1) & tok->map_mask;
    tok->map[i] = id;
}

static kq_status read_id(const kq_tokenizer *tok, const json_t *v, const char *token, int32_t *id,
                         kq_error *err)
{
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= KQ_TOK_MAX_ID)
        return kq_fail(err, KQ_E_FORMAT, "%s: the id of token \"%.60s\" is not a whole number below %d",
                       tok->path, token, KQ_TOK_MAX_ID);
    *id = (int32_t)json_integer_value(v);
    return KQ_OK;
}

static kq_status set_token(kq_tokenizer *tok, int32_t id, const char *s, size_t size, kq_error *err)
{
    kq_token *t = &tok->token[id];
    if (t->off != UINT32_MAX)
        return kq_fail(err, KQ_E_FORMAT,
                       "%s: id %d belongs to two tokens, \"%.60s\" and \"%.60s\" (added tokens are numbered "
                       "on from the size of model.vocab, as in "
                       "transformers: an id is missing below it)",
                       tok->path, id, tok->text.data + t->off, s);
    size_t off = tok->text.size;
    kq_status status = kq_buffer_add(&tok->text, s, size, err);
    if (!status)
        status = kq_buffer_add(&tok->text, "", 1, err); /* a NUL, for messages */
    if (!status && tok->text.size >= UINT32_MAX)
        status = kq_fail(err, KQ_E_FORMAT, "%s: the vocabulary is larger than 4 GB", tok->path);
    if (!status)
        *t = (kq_token){(uint32_t)off, (uint32_t)size, 0, 0};
    return status;
}

static kq_status read_vocab(kq_tokenizer *tok, const json_t *vocab, const json_t *added, kq_error *err)
{
    const char *key;
    json_t *value;
    size_t i, n_vocab = json_object_size(vocab);
    int32_t id = 0, top = -1;
    kq_status status;
    if (!json_is_object(vocab) || !n_vocab)
        return kq_fail(err, KQ_E_FORMAT, "%s: model.vocab is not an object with tokens", tok->path);
    if (added && !json_is_array(added) && !json_is_null(added))
        return kq_fail(err, KQ_E_FORMAT, "%s: added_tokens is not an array", tok->path);
    json_object_foreach((json_t *)vocab, key, value)
    {
        if ((status = read_id(tok, value, key, &id, err)))
            return status;
        top = id > top ? id : top;
    }
    json_array_foreach(added, i, value)
    {
        const char *content = json_string_value(json_object_get(value, "content"));
        if (!content)
            return kq_fail(err, KQ_E_FORMAT, "%s: added_tokens[%zu] has no content", tok->path, i);
        if ((status = read_id(tok, json_object_get(value, "id"), content, &id, err)))
            return status;
        top = id > top ? id : top;
    }
    tok->n_id = (size_t)top + 1;
    size_t slots = 16;
    while (slots < 2 * n_vocab)
        slots *= 2;
    tok->map_mask = slots - 1;
    tok->token = kq_alloc(tok->n_id, sizeof *tok->token);
    tok->in_model = kq_calloc(tok->n_id, sizeof *tok->in_model);
    tok->special = kq_calloc(tok->n_id, sizeof *tok->special);
    tok->map = kq_alloc(slots, sizeof *tok->map);
    if (!tok->token || !tok->in_model || !tok->special || !tok->map)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: a vocabulary of %zu tokens", tok->n_id);
    memset(tok->map, 0xff, slots * sizeof *tok->map);
    for (i = 0; i < tok->n_id; i++)
        tok->token[i] = (kq_token){UINT32_MAX, 0, 0, 0};
    json_object_foreach((json_t *)vocab, key, value)
    {
        id = (int32_t)json_integer_value(value);
        if ((status = set_token(tok, id, key, strlen(key), err)))
            return status;
        tok->in_model[id] = true;
        map_insert(tok, id);
    }
    for (uint32_t cp = 0; cp < 0x400; cp++) {
        char s[4];
        tok->char_id[cp] = kq_tok_lookup(tok, s, kq_utf8_put(cp, s));
    }
    for (unsigned b = 0; b < 256; b++) {
        char s[8];
        snprintf(s, sizeof s, "<0x%02X>", b);
        tok->byte_id[b] = kq_tok_lookup(tok, s, 6);
    }
    return KQ_OK;
}

static kq_status read_added(kq_tokenizer *tok, const json_t *added, kq_error *err)
{
    json_t *item;
    size_t i;
    kq_status status;
    kq_tok_scratch scratch = {0};
    tok->added = kq_calloc(json_array_size(added), sizeof *tok->added);
    if (!tok->added)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: added tokens");
    json_array_foreach(added, i, item)
    {
        const json_t *content = json_object_get(item, "content");
        const char *s = json_string_value(content);
        size_t size = json_string_length(content);
        int32_t id = (int32_t)json_integer_value(json_object_get(item, "id"));
        int32_t model_id = kq_tok_lookup(tok, s, size);
        bool again = false;
        if (model_id >= 0 && model_id != id) {
            status = kq_fail(err, KQ_E_FORMAT, "%s: added token \"%.60s\" has id %d, but %d in model.vocab",
                             tok->path, s, id, model_id);
            goto out;
        }
        for (size_t j = 0; j < tok->n_added && tok->token[id].off != UINT32_MAX && model_id < 0; j++)
            again = again || tok->added[j].id == id;
        if (model_id < 0 && again &&
            (tok->token[id].size != size || memcmp(tok->text.data + tok->token[id].off, s, size))) {
            status = kq_fail(err, KQ_E_FORMAT, "%s: id %d belongs to two added tokens, one of them \"%.60s\"",
                             tok->path, id, s);
            goto out;
        }
        if (model_id < 0 && !again && (status = set_token(tok, id, s, size, err)))
            goto out;
        kq_added *a = &tok->added[tok->n_added];
        bool special = flag(item, "special", false);
        *a = (kq_added){.id = id,
                        .special = special,
                        .lstrip = flag(item, "lstrip", false),
                        .rstrip = flag(item, "rstrip", false),
                        .single_word = flag(item, "single_word", false),
                        .normalized = flag(item, "normalized", !special)};
        const char *match = s;
        size_t match_size = size;
        if (a->normalized &&
            (status = kq_normalize(tok->norm, tok->n_norm, s, size, &scratch, &match, &match_size, err)))
            goto out;
        kq_buffer copy = {0};
        status = kq_buffer_add(&copy, match, match_size, err);
        a->match = copy.data;
        a->match_size = match_size;
        tok->n_added++;
        if (status)
            goto out;
        tok->special[id] = special;
    }
    if (!(status = kq_tok_added_set(&tok->raw_set, tok->added, tok->n_added, false, err)))
        status = kq_tok_added_set(&tok->norm_set, tok->added, tok->n_added, true, err);
out:
    kq_tok_scratch_free(&scratch);
    return status;
}

/* ---- the model ----------------------------------------------------------------------------------------- */

static kq_status add_merge(kq_tokenizer *tok, size_t rank, const char *l, size_t ln, const char *r, size_t rn,
                           kq_buffer *both, kq_error *err)
{
    int32_t left = kq_tok_lookup(tok, l, ln), right = kq_tok_lookup(tok, r, rn), id;
    kq_status status;
    if (left < 0 || right < 0)
        return kq_fail(err, KQ_E_FORMAT,
                       "%s: merge %zu (\"%.60s\", \"%.60s\") uses a token that is not in the vocabulary",
                       tok->path, rank, left < 0 ? l : "...", right < 0 ? r : "...");
    both->size = 0;
    if ((status = kq_buffer_add(both, l, ln, err)) || (status = kq_buffer_add(both, r, rn, err)))
        return status;
    id = kq_tok_lookup(tok, both->data, both->size);
    if (id < 0)
        return kq_fail(err, KQ_E_FORMAT, "%s: merge %zu makes \"%.*s\", which is not in the vocabulary",
                       tok->path, rank, both->size > 60 ? 60 : (int)both->size, both->data);
    uint64_t key = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) + 1;
    size_t i = kq_merge_slot(tok, key);
    while (tok->merge[i].key && tok->merge[i].key != key)
        i = (i + 1) & tok->merge_mask;
    /* written twice: the later rank holds, as in `tokenizers` */
    tok->merge[i] = (kq_merge){key, (uint32_t)rank, id};
    return KQ_OK;
}

static kq_status read_merges(kq_tokenizer *tok, const json_t *merges, kq_error *err)
{
    size_t n = json_array_size(merges), slots = 16, i;
    int bits = 4;
    json_t *item;
    kq_buffer both = {0};
    kq_status status = KQ_OK;
    if (!json_is_array(merges) || n >= UINT32_MAX / 4)
        return kq_fail(err, KQ_E_FORMAT, "%s: model.merges is not an array", tok->path);
    while (slots < 2 * n + 2) {
        slots *= 2;
        bits++;
    }
    tok->merge_mask = slots - 1;
    tok->merge_shift = 64 - bits;
    tok->merge = kq_calloc(slots, sizeof *tok->merge);
    if (!tok->merge)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: %zu merges", n);
    json_array_foreach(merges, i, item)
    {
        const char *l = NULL, *r = NULL;
        size_t ln = 0, rn = 0;
        if (json_is_string(item)) {
            const char *space = memchr(json_string_value(item), ' ', json_string_length(item));
            if (space) {
                l = json_string_value(item);
                ln = (size_t)(space - l);
                r = space + 1;
                rn = json_string_length(item) - ln - 1;
                if (memchr(r, ' ', rn))
                    l = NULL;
            }
        } else if (json_array_size(item) == 2 && json_is_string(json_array_get(item, 0)) &&
                   json_is_string(json_array_get(item, 1))) {
            l = json_string_value(json_array_get(item, 0));
            ln = json_string_length(json_array_get(item, 0));
            r = json_string_value(json_array_get(item, 1));
            rn = json_string_length(json_array_get(item, 1));
        }
        if (!l || !ln || !rn) {
            status = kq_fail(err, KQ_E_FORMAT, "%s: model.merges[%zu] is neither \"a b\" nor [\"a\", \"b\"]",
                             tok->path, i);
            break;
        }
        if ((status = add_merge(tok, i, l, ln, r, rn, &both, err)))
            break;
    }
    kq_free(both.data);
    return status;
}

static kq_status read_model(kq_tokenizer *tok, const json_t *model, kq_error *err)
{
    const json_t *v;
    kq_status status;
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < 2; i++) {
        v = json_object_get(model, affixes[i]);
        if (v && !json_is_null(v) && !(json_is_string(v) && !json_string_length(v)))
            return refuse(tok, "model option", affixes[i], err);
    }
    v = json_object_get(model, "dropout");
    if (json_is_number(v) && json_number_value(v) != 0)
        return refuse(tok, "model option", "dropout", err);
    tok->byte_fallback = flag(model, "byte_fallback", false);
    tok->fuse_unk = flag(model, "fuse_unk", false);
    tok->ignore_merges = flag(model, "ignore_merges", false);
    v = json_object_get(model, "unk_token");
    tok->unk_id = -1;
    if (json_is_string(v)) {
        tok->unk_id = kq_tok_lookup(tok, json_string_value(v), json_string_length(v));
        if (tok->unk_id < 0)
            return kq_fail(err, KQ_E_FORMAT, "%s: unk_token \"%.60s\" is not in the vocabulary", tok->path,
                           json_string_value(v));
    } else if (v && !json_is_null(v)) {
        return kq_fail(err, KQ_E_FORMAT, "%s: unk_token is not a string", tok->path);
    }
    status = read_merges(tok, json_object_get(model, "merges"), err);
    return status;
}

/* ---- normaliser ---------------------------------------------------------------------------------------- */

static kq_status read_norm(kq_tokenizer *tok, const json_t *v, int depth, kq_error *err)
{
    if (!v || json_is_null(v))
        return KQ_OK;
    const char *type = type_of(v);
    if (!strcmp(type, "Sequence")) {
        const json_t *list = json_object_get(v, "normalizers");
        json_t *item;
        size_t i;
        if (!json_is_array(list) || depth > 8)
            return kq_fail(err, KQ_E_FORMAT,
                           "%s: a normalizer Sequence without its list, or nested too deeply", tok->path);
        json_array_foreach(list, i, item)
        {
            kq_status status = read_norm(tok, item, depth + 1, err);
            if (status)
                return status;
        }
        return KQ_OK;
    }
    if (tok->n_norm >= MAX_STAGES)
        return kq_fail(err, KQ_E_UNSUPPORTED, "%s: more than %d normalizers", tok->path, MAX_STAGES);
    kq_norm *n = &tok->norm[tok->n_norm];
    static const struct {
        const char *name;
        int form;
    } forms[] = {
        {"NFC", UTF8PROC_STABLE | UTF8PROC_COMPOSE},
        {"NFD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE},
        {"NFKC", UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
        {"NFKD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT},
    };
    for (size_t i = 0; i < 4; i++)
        if (!strcmp(type, forms[i].name)) {
            n->kind = KQ_NORM_FORM;
            n->form = forms[i].form;
            tok->n_norm++;
            return KQ_OK;
        }
    if (!strcmp(type, "Prepend")) {
        n->kind = KQ_NORM_PREPEND;
        tok->n_norm++;
        return copy_string(json_object_get(v, "prepend"), tok, "normalizer Prepend", &n->content,
                           &n->content_size, err);
    }
    if (!strcmp(type, "Replace")) {
        n->kind = KQ_NORM_REPLACE;
        tok->n_norm++;
        kq_status status = read_pattern(tok, v, "normalizer Replace", &n->pattern, err);
        return status ? status
                      : copy_string(json_object_get(v, "content"), tok, "normalizer Replace", &n->content,
                                    &n->content_size, err);
    }
    return refuse(tok, "normalizer", type, err);
}

/* ---- pre-tokenizer ------------------------------------------------------------------------------------- */

static const char gpt2_regex[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static kq_status read_behavior(const kq_tokenizer *tok, const json_t *v, kq_behavior *out, kq_error *err)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext",
                                        "Contiguous"};
    const char *s = json_string_value(v);
    for (int i = 0; s && i < 5; i++)
        if (!strcmp(s, names[i])) {
            *out = (kq_behavior)i;
            return KQ_OK;
        }
    return refuse(tok, "split behavior", s ? s : "(none)", err);
}

/* Metaspace, pre-tokenizer or decoder: prepend_scheme, or add_prefix_space of older files. */
static kq_status read_scheme(const kq_tokenizer *tok, const json_t *v, kq_prepend *out, kq_error *err)
{
    const json_t *scheme = json_object_get(v, "prepend_scheme");
    const char *s = json_string_value(scheme);
    *out = flag(v, "add_prefix_space", true) ? KQ_PREPEND_ALWAYS : KQ_PREPEND_NEVER;
    if (!scheme || json_is_null(scheme))
        return KQ_OK;
    if (s && !strcmp(s, "always"))
        *out = KQ_PREPEND_ALWAYS;
    else if (s && !strcmp(s, "first"))
        *out = KQ_PREPEND_FIRST;
    else if (s && !strcmp(s, "never"))
        *out = KQ_PREPEND_NEVER;
    else
        return refuse(tok, "prepend_scheme", s ? s : "(not a string)", err);
    return KQ_OK;
}

static kq_status read_pre(kq_tokenizer *tok, const json_t *v, int depth, kq_error *err)
{
    if (!v || json_is_null(v))
        return KQ_OK;
    const char *type = type_of(v);
    kq_status status;
    if (!strcmp(type, "Sequence")) {
        const json_t *list = json_object_get(v, "pretokenizers");
        json_t *item;
        size_t i;
        if (!json_is_array(list) || depth > 8)
            return kq_fail(err, KQ_E_FORMAT,
                           "%s: a pre_tokenizer Sequence without its list, or nested too deeply", tok->path);
        json_array_foreach(list, i, item) if ((status = read_pre(tok, item, depth + 1, err))) return status;
        return KQ_OK;
    }
    if (tok->n_pre >= MAX_STAGES)
        return kq_fail(err, KQ_E_UNSUPPORTED, "%s: more than %d pre-tokenizers", tok->path, MAX_STAGES);
    kq_pre *p = &tok->pre[tok->n_pre];
    if (!strcmp(type, "ByteLevel")) {
        p->kind = KQ_PRE_BYTE_LEVEL;
        p->add_prefix_space = flag(v, "add_prefix_space", true);
        p->use_regex = flag(v, "use_regex", true);
        tok->n_pre++;
        return p->use_regex
                   ? kq_pattern_regex(gpt2_regex, sizeof gpt2_regex - 1, "ByteLevel", &p->pattern, err)
                   : KQ_OK;
    }
    if (!strcmp(type, "Split")) {
        p->kind = KQ_PRE_SPLIT;
        p->invert = flag(v, "invert", false);
        tok->n_pre++;
        status = read_behavior(tok, json_object_get(v, "behavior"), &p->behavior, err);
        return status ? status : read_pattern(tok, v, "pre_tokenizer Split", &p->pattern, err);
    }
    if (!strcmp(type, "Digits")) {
        p->kind = KQ_PRE_DIGITS;
        p->behavior = flag(v, "individual_digits", false) ? KQ_ISOLATED : KQ_CONTIGUOUS;
        tok->n_pre++;
        return KQ_OK;
    }
    if (!strcmp(type, "Metaspace")) {
        p->kind = KQ_PRE_METASPACE;
        p->split = flag(v, "split", true);
        tok->n_pre++;
        if ((status = read_scheme(tok, v, &p->prepend, err)))
            return status;
        if ((status = copy_string(json_object_get(v, "replacement"), tok, "Metaspace replacement",
                                  &p->replacement, &p->replacement_size, err)))
            return status;
        return p->replacement_size
                   ? KQ_OK
                   : kq_fail(err, KQ_E_FORMAT, "%s: Metaspace replacement is empty", tok->path);
    }
    return refuse(tok, "pre_tokenizer", type, err);
}

/* ---- post-processor ------------------------------------------------------------------------------------ */

static kq_status read_template(kq_tokenizer *tok, const json_t *v, kq_error *err)
{
    const json_t *single = json_object_get(v, "single"), *known = json_object_get(v, "special_tokens");
    json_t *item;
    size_t i, j, n_seq = 0;
    kq_status status = KQ_OK;
    kq_tok_ids side[2] = {0};
    if (tok->n_prefix || tok->n_suffix)
        return refuse(tok, "post_processor", "two TemplateProcessing", err);
    json_array_foreach(single, i, item)
    {
        const json_t *special = json_object_get(item, "SpecialToken"),
                     *seq = json_object_get(item, "Sequence");
        if (seq) {
            n_seq++;
            continue;
        }
        const char *name = json_string_value(json_object_get(special, "id"));
        const json_t *ids = name ? json_object_get(json_object_get(known, name), "ids") : NULL;
        if (!json_is_array(ids)) {
            status = kq_fail(err, KQ_E_FORMAT,
                             "%s: TemplateProcessing uses \"%.60s\", which its special_tokens do not define",
                             tok->path, name ? name : "(no id)");
            goto out;
        }
        json_t *id;
        json_array_foreach(ids, j, id)
        {
            int32_t x = 0;
            if ((status = read_id(tok, id, name, &x, err)))
                goto out;
            if ((size_t)x >= tok->n_id || tok->token[x].off == UINT32_MAX) {
                status = kq_fail(err, KQ_E_FORMAT,
                                 "%s: TemplateProcessing: id %d of \"%.60s\" is not in the vocabulary",
                                 tok->path, x, name);
                goto out;
            }
            if ((status = kq_tok_ids_add(&side[n_seq > 0], x, err)))
                goto out;
        }
    }
    if (n_seq != 1) {
        status = kq_fail(err, KQ_E_FORMAT, "%s: TemplateProcessing.single holds the sequence %zu times",
                         tok->path, n_seq);
        goto out;
    }
    tok->prefix = side[0].data;
    tok->n_prefix = side[0].size;
    tok->suffix = side[1].data;
    tok->n_suffix = side[1].size;
    return KQ_OK;
out:
    kq_free(side[0].data);
    kq_free(side[1].data);
    return status;
}

static kq_status read_post(kq_tokenizer *tok, const json_t *v, int depth, kq_error *err)
{
    if (!v || json_is_null(v))
        return KQ_OK;
    const char *type = type_of(v);
    if (!strcmp(type, "ByteLevel")) /* only moves offsets */
        return KQ_OK;
    if (!strcmp(type, "TemplateProcessing"))
        return read_template(tok, v, err);
    if (!strcmp(type, "Sequence")) {
        const json_t *list = json_object_get(v, "processors");
        json_t *item;
        size_t i;
        if (!json_is_array(list) || depth > 8)
            return kq_fail(err, KQ_E_FORMAT,
                           "%s: a post_processor Sequence without its list, or nested too deeply", tok->path);
        json_array_foreach(list, i, item)
        {
            kq_status status = read_post(tok, item, depth + 1, err);
            if (status)
                return status;
        }
        return KQ_OK;
    }
    return refuse(tok, "post_processor", type, err);
}

/* ---- decoder ------------------------------------------------------------------------------------------- */

typedef enum op_kind { OP_BYTE_LEVEL, OP_REPLACE, OP_BYTE_FALLBACK, OP_STRIP, OP_METASPACE } op_kind;
/* borrowed */
typedef struct decode_op {
    op_kind kind;
    const char *from, *to;
    size_t from_size, to_size, start, stop;
    bool meta;
} decode_op;
typedef struct decoder {
    decode_op op[MAX_STAGES];
    size_t n;
    bool fused;
} decoder;

static kq_status read_decoder(kq_tokenizer *tok, const json_t *v, decoder *d, int depth, kq_error *err)
{
    const char *type = type_of(v);
    decode_op op = {0};
    if (!strcmp(type, "Sequence")) {
        const json_t *list = json_object_get(v, "decoders");
        json_t *item;
        size_t i;
        if (!json_is_array(list) || depth > 8)
            return kq_fail(err, KQ_E_FORMAT, "%s: a decoder Sequence without its list, or nested too deeply",
                           tok->path);
        json_array_foreach(list, i, item)
        {
            kq_status status = read_decoder(tok, item, d, depth + 1, err);
            if (status)
                return status;
        }
        return KQ_OK;
    }
    if (!strcmp(type, "Fuse")) {
        d->fused = true;
        return KQ_OK;
    }
    if (!strcmp(type, "Strip")) {
        const json_t *c = json_object_get(v, "content"), *start = json_object_get(v, "start"),
                     *stop = json_object_get(v, "stop");
        size_t n = json_string_length(c);
        if (!json_is_string(c) || !n || n > 4 || kq_utf8_size((unsigned char)json_string_value(c)[0]) != n ||
            !json_is_integer(start) || !json_is_integer(stop) || json_integer_value(start) < 0 ||
            json_integer_value(stop) < 0)
            return kq_fail(err, KQ_E_FORMAT, "%s: decoder Strip wants one character, start and stop",
                           tok->path);
        op = (decode_op){.kind = OP_STRIP,
                         .from = json_string_value(c),
                         .from_size = n,
                         .start = (size_t)json_integer_value(start),
                         .stop = (size_t)json_integer_value(stop)};
        if (d->fused) {
            if (tok->strip_size)
                return refuse(tok, "decoder", "a second Strip after Fuse", err);
            memcpy(tok->strip_char, op.from, n);
            tok->strip_size = n;
            tok->strip_start = op.start;
            tok->strip_stop = op.stop;
            return KQ_OK;
        }
    } else if (!strcmp(type, "ByteLevel")) {
        op.kind = OP_BYTE_LEVEL;
    } else if (!strcmp(type, "ByteFallback")) {
        op.kind = OP_BYTE_FALLBACK;
    } else if (!strcmp(type, "Replace")) {
        const json_t *from = json_object_get(json_object_get(v, "pattern"), "String"),
                     *to = json_object_get(v, "content");
        if (!json_is_string(from) || !json_string_length(from) || !json_is_string(to))
            return refuse(tok, "decoder", "Replace without a String pattern", err);
        op = (decode_op){.kind = OP_REPLACE,
                         .from = json_string_value(from),
                         .from_size = json_string_length(from),
                         .to = json_string_value(to),
                         .to_size = json_string_length(to)};
    } else if (!strcmp(type, "Metaspace")) {
        const json_t *r = json_object_get(v, "replacement");
        kq_prepend scheme;
        kq_status status = read_scheme(tok, v, &scheme, err);
        if (status)
            return status;
        if (!json_is_string(r) || !json_string_length(r))
            return kq_fail(err, KQ_E_FORMAT, "%s: decoder Metaspace has no replacement", tok->path);
        op = (decode_op){.kind = OP_METASPACE,
                         .from = json_string_value(r),
                         .from_size = json_string_length(r),
                         .to = " ",
                         .to_size = 1};
        if (scheme != KQ_PREPEND_NEVER) {
            if (d->n || depth)
                return refuse(tok, "decoder", "Metaspace with a prefix inside a Sequence", err);
            tok->meta_decoder = true;
            if ((status = copy_string(r, tok, "decoder Metaspace", &tok->meta, &tok->meta_size, err)))
                return status;
        }
    } else {
        return refuse(tok, "decoder", type, err);
    }
    if (d->fused || d->n >= MAX_STAGES)
        return refuse(tok, "decoder after Fuse", type, err);
    if (d->n && (op.kind == OP_BYTE_LEVEL || d->op[d->n - 1].kind == OP_BYTE_LEVEL ||
                 d->op[d->n - 1].kind == OP_BYTE_FALLBACK || op.kind == OP_METASPACE))
        return refuse(tok, "decoder sequence with", type, err);
    d->op[d->n++] = op;
    return KQ_OK;
}

static int hex(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* Apply one operation to a token's text: in -> out (emptied first). */
static kq_status run_op(const decode_op *op, const char *s, size_t size, kq_buffer *out, kq_error *err)
{
    kq_status status = KQ_OK;
    out->size = 0;
    if (op->kind == OP_BYTE_LEVEL) {
        for (size_t i = 0; i < size && !status;) {
            int b = kq_char_byte(kq_utf8_get(s + i));
            char c = (char)b;
            if (b < 0) { /* one character that stands for no byte: the token is meant literally */
                out->size = 0;
                return kq_buffer_add(out, s, size, err);
            }
            status = kq_buffer_add(out, &c, 1, err);
            i += kq_utf8_size((unsigned char)s[i]);
        }
        return status;
    }
    if (op->kind == OP_BYTE_FALLBACK) {
        if (size == 6 && !memcmp(s, "<0x", 3) && s[5] == '>' && hex(s[3]) >= 0 && hex(s[4]) >= 0) {
            char c = (char)(hex(s[3]) * 16 + hex(s[4]));
            return kq_buffer_add(out, &c, 1, err);
        }
        return kq_buffer_add(out, s, size, err);
    }
    if (op->kind == OP_STRIP) {
        size_t k = op->from_size, lo = 0;
        for (size_t i = 0; i < op->start && size - lo >= k && !memcmp(s + lo, op->from, k); i++)
            lo += k;
        for (size_t i = 0; i < op->stop && size - lo >= k && !memcmp(s + size - k, op->from, k); i++)
            size -= k;
        return kq_buffer_add(out, s + lo, size - lo, err);
    }
    for (size_t i = 0; i < size && !status;) {
        const char *at = memmem(s + i, size - i, op->from, op->from_size);
        size_t n = at ? (size_t)(at - s) - i : size - i;
        status = kq_buffer_add(out, s + i, n, err);
        if (!status && at)
            status = kq_buffer_add(out, op->to, op->to_size, err);
        i += n + (at ? op->from_size : 0);
    }
    return status;
}

static kq_status make_decoded(kq_tokenizer *tok, const json_t *v, kq_error *err)
{
    decoder *d = NULL;
    const kq_added **added = NULL;
    kq_buffer buf[2] = {0};
    kq_status status = KQ_OK;
    if (!v || json_is_null(v))
        tok->join_space = true;
    if (!(d = kq_calloc(1, sizeof *d)))
        return kq_fail(err, KQ_E_MEMORY, "out of memory: the decoder");
    if (!tok->join_space && (status = read_decoder(tok, v, d, 0, err)))
        goto out;
    if (!(added = kq_calloc(tok->n_id, sizeof *added))) {
        status = kq_fail(err, KQ_E_MEMORY, "out of memory: the decoder");
        goto out;
    }
    for (size_t i = 0; i < tok->n_added; i++)
        added[tok->added[i].id] = &tok->added[i];
    for (size_t id = 0; id < tok->n_id && !status; id++) {
        kq_token *t = &tok->token[id];
        if (t->off == UINT32_MAX)
            continue;
        const char *s = tok->text.data + t->off;
        size_t size = t->size;
        if (added[id] && added[id]->normalized) { /* `tokenizers` writes what it looked for: LLaMA-2's
                                                     normalizer has put a space in front */
            s = added[id]->match;
            size = added[id]->match_size;
        }
        for (size_t k = 0; k < d->n && !status; k++) {
            status = run_op(&d->op[k], s, size, &buf[k % 2], err);
            s = buf[k % 2].data ? buf[k % 2].data : "";
            size = buf[k % 2].size;
        }
        if (status)
            break;
        t->dec_off = (uint32_t)tok->decoded.size;
        t->dec_size = (uint32_t)size;
        if (!(status = kq_buffer_add(&tok->decoded, s, size, err)) && tok->decoded.size >= UINT32_MAX)
            status = kq_fail(err, KQ_E_FORMAT, "%s: the decoded vocabulary is larger than 4 GB", tok->path);
    }
out:
    kq_free(d);
    kq_free(added);
    kq_free(buf[0].data);
    kq_free(buf[1].data);
    return status;
}

/* ---- all of it ----------------------------------------------------------------------------------------- */

kq_status kq_tokenizer_from_json(const json_t *root, const char *path, kq_tokenizer **out, kq_error *err)
{
    const json_t *model = json_object_get(root, "model"), *added = json_object_get(root, "added_tokens");
    kq_buffer copy = {0};
    kq_tokenizer *tok = kq_calloc(1, sizeof *tok);
    *out = NULL;
    if (!tok)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: the tokenizer");
    tok->bos = tok->eos = tok->unk_id = -1;
    kq_status status = kq_buffer_add(&copy, path, strlen(path) + 1, err);
    tok->path = copy.data;
    if (status)
        goto out;
    if (!json_is_object(model)) {
        status = kq_fail(err, KQ_E_FORMAT, "%s: no \"model\" object: not a tokenizer.json", path);
        goto out;
    }
    const char *type = type_of(model);
    if (strcmp(type, "BPE") != 0 &&
        !(json_object_get(model, "type") == NULL && json_object_get(model, "merges"))) {
        status = refuse(tok, "model type", type, err);
        goto out;
    }
    tok->norm = kq_calloc(MAX_STAGES, sizeof *tok->norm);
    tok->pre = kq_calloc(MAX_STAGES, sizeof *tok->pre);
    if (!tok->norm || !tok->pre) {
        status = kq_fail(err, KQ_E_MEMORY, "out of memory: the tokenizer");
        goto out;
    }
    if ((status = read_norm(tok, json_object_get(root, "normalizer"), 0, err)) ||
        (status = read_pre(tok, json_object_get(root, "pre_tokenizer"), 0, err)) ||
        (status = read_vocab(tok, json_object_get(model, "vocab"), added, err)) ||
        (status = read_model(tok, model, err)) || (status = read_added(tok, added, err)) ||
        (status = read_post(tok, json_object_get(root, "post_processor"), 0, err)) ||
        (status = make_decoded(tok, json_object_get(root, "decoder"), err)))
        goto out;
    *out = tok;
    return KQ_OK;
out:
    kq_tokenizer_close(tok);
    return status;
}

/* A token in tokenizer_config.json: a string, or {"content": ...}. */
static kq_status config_token(const kq_tokenizer *tok, const json_t *config, const char *key,
                              const char *path, int32_t *id, kq_error *err)
{
    const json_t *v = json_object_get(config, key);
    const char *s =
        json_is_object(v) ? json_string_value(json_object_get(v, "content")) : json_string_value(v);
    if (!v || json_is_null(v))
        return KQ_OK;
    if (!s)
        return kq_fail(err, KQ_E_FORMAT, "%s: %s is not a token", path, key);
    *id = kq_tokenizer_id(tok, s);
    return KQ_OK;
}

kq_status kq_tokenizer_apply_config(kq_tokenizer *tok, const json_t *config, const char *path, kq_error *err)
{
    kq_status status;
    if (!json_is_object(config))
        return kq_fail(err, KQ_E_FORMAT, "%s: not a JSON object", path);
    tok->split_special = json_is_true(json_object_get(config, "split_special_tokens"));
    if ((status = config_token(tok, config, "bos_token", path, &tok->bos, err)) ||
        (status = config_token(tok, config, "eos_token", path, &tok->eos, err)))
        return status;
    return kq_chat_templates_from_config(tok, config, path, err);
}
