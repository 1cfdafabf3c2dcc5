/* tokenizer.json (Hugging Face `tokenizers`) -> kq_tokenizer. What is not understood is refused by name,
 * never guessed. */
#include <stdio.h>
#include <string.h>

#include "tokenizer/convert.h"
#include "tokenizer/json_parts.h"
#include "tokenizer_files/tokenizer_files.h"

/* ---- vocabulary ---------------------------------------------------------------------------------------- */

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
        status = kq_buffer_add(&tok->text, "", 1, err); /* a final NUL, because messages print the text */
    if (!status && tok->text.size >= UINT32_MAX)
        status = kq_fail(err, KQ_E_FORMAT, "%s: the vocabulary is larger than 4 GB", tok->path);
    if (!status)
        *t = (kq_token){(uint32_t)off, (uint32_t)size, 0, 0};
    return status;
}

/* Check all ids of the vocabulary and of the added tokens, and find the highest. */
static kq_status find_top(const kq_tokenizer *tok, const json_t *vocab, const json_t *added, int32_t *top,
                          kq_error *err)
{
    const char *key;
    json_t *value;
    size_t i;
    int32_t id = 0;
    kq_status status;
    *top = -1;
    json_object_foreach((json_t *)vocab, key, value) {
        if ((status = kq_tok_read_id(tok, value, key, &id, err)))
            return status;
        *top = id > *top ? id : *top;
    }
    json_array_foreach(added, i, value) {
        const char *content = json_string_value(json_object_get(value, "content"));
        if (!content)
            return kq_fail(err, KQ_E_FORMAT, "%s: added_tokens[%zu] has no content", tok->path, i);
        if ((status = kq_tok_read_id(tok, json_object_get(value, "id"), content, &id, err)))
            return status;
        *top = id > *top ? id : *top;
    }
    return KQ_OK;
}

/* Allocate the tables by id, and an empty map for n_vocab tokens of the model. */
static kq_status make_tables(kq_tokenizer *tok, size_t n_vocab, kq_error *err)
{
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
    for (size_t i = 0; i < tok->n_id; i++)
        tok->token[i] = (kq_token){UINT32_MAX, 0, 0, 0};
    return KQ_OK;
}

/* Fill the two tables that are read for every character: tokens of one character and of one byte ("<0x0A>").
 */
static void find_single(kq_tokenizer *tok)
{
    for (uint32_t cp = 0; cp < 0x400; cp++) {
        char s[4];
        tok->char_id[cp] = kq_tok_lookup(tok, s, kq_utf8_put(cp, s));
    }
    for (unsigned b = 0; b < 256; b++) {
        char s[8];
        snprintf(s, sizeof s, "<0x%02X>", b);
        tok->byte_id[b] = kq_tok_lookup(tok, s, 6);
    }
}

static kq_status read_vocab(kq_tokenizer *tok, const json_t *vocab, const json_t *added, kq_error *err)
{
    const char *key;
    json_t *value;
    int32_t top;
    kq_status status;
    if (!json_is_object(vocab) || !json_object_size(vocab))
        return kq_fail(err, KQ_E_FORMAT, "%s: model.vocab is not an object with tokens", tok->path);
    if (added && !json_is_array(added) && !json_is_null(added))
        return kq_fail(err, KQ_E_FORMAT, "%s: added_tokens is not an array", tok->path);
    if ((status = find_top(tok, vocab, added, &top, err)))
        return status;
    tok->n_id = (size_t)top + 1;
    if ((status = make_tables(tok, json_object_size(vocab), err)))
        return status;
    json_object_foreach((json_t *)vocab, key, value) {
        const int32_t id = (int32_t)json_integer_value(value);
        if ((status = set_token(tok, id, key, strlen(key), err)))
            return status;
        tok->in_model[id] = true;
        kq_tok_map_insert(tok, id);
    }
    find_single(tok);
    return KQ_OK;
}

/* Give an added token its id. The vocabulary or an earlier added token may have this id already. */
static kq_status place_added(kq_tokenizer *tok, int32_t id, const char *s, size_t size, kq_error *err)
{
    const int32_t model_id = kq_tok_lookup(tok, s, size);
    const kq_token *t = &tok->token[id];
    bool again = false;
    if (model_id >= 0)
        return model_id == id
                   ? KQ_OK
                   : kq_fail(err, KQ_E_FORMAT, "%s: added token \"%.60s\" has id %d, but %d in model.vocab",
                             tok->path, s, id, model_id);
    for (size_t j = 0; j < tok->n_added && t->off != UINT32_MAX; j++)
        again = again || tok->added[j].id == id;
    if (!again)
        return set_token(tok, id, s, size, err);
    if (t->size != size || memcmp(tok->text.data + t->off, s, size))
        return kq_fail(err, KQ_E_FORMAT, "%s: id %d belongs to two added tokens, one of them \"%.60s\"",
                       tok->path, id, s);
    return KQ_OK;
}

static kq_status read_one_added(kq_tokenizer *tok, const json_t *item, kq_tok_scratch *scratch, kq_error *err)
{
    const json_t *content = json_object_get(item, "content");
    const char *s = json_string_value(content), *match = s;
    const size_t size = json_string_length(content);
    size_t match_size = size;
    const int32_t id = (int32_t)json_integer_value(json_object_get(item, "id"));
    kq_status status = place_added(tok, id, s, size, err);
    if (status)
        return status;
    kq_added *a = &tok->added[tok->n_added];
    const bool special = kq_json_flag(item, "special", false);
    *a = (kq_added){.id = id,
                    .special = special,
                    .lstrip = kq_json_flag(item, "lstrip", false),
                    .rstrip = kq_json_flag(item, "rstrip", false),
                    .single_word = kq_json_flag(item, "single_word", false),
                    .normalized = kq_json_flag(item, "normalized", !special)};
    if (a->normalized &&
        (status = kq_normalize(tok->norm, tok->n_norm, s, size, scratch, &match, &match_size, err)))
        return status;
    kq_buffer copy = {0};
    status = kq_buffer_add(&copy, match, match_size, err);
    a->match = copy.data;
    a->match_size = match_size;
    tok->n_added++;
    if (!status)
        tok->special[id] = special;
    return status;
}

static kq_status read_added(kq_tokenizer *tok, const json_t *added, kq_error *err)
{
    json_t *item;
    size_t i;
    kq_status status = KQ_OK;
    kq_tok_scratch scratch = {0};
    tok->added = kq_calloc(json_array_size(added), sizeof *tok->added);
    if (!tok->added)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: added tokens");
    json_array_foreach(added, i, item)
        if ((status = read_one_added(tok, item, &scratch, err)))
            break;
    if (!status && !(status = kq_tok_added_set(&tok->raw_set, tok->added, tok->n_added, false, err)))
        status = kq_tok_added_set(&tok->norm_set, tok->added, tok->n_added, true, err);
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
    /* of a merge that is written twice the later rank counts, as in `tokenizers` */
    tok->merge[i] = (kq_merge){key, (uint32_t)rank, id};
    return KQ_OK;
}

/* The two halves of a merge: "a b" or ["a", "b"]. False: neither. */
static bool split_merge(const json_t *item, const char *half[2], size_t size[2])
{
    const char *text = json_string_value(item);
    if (text) {
        const size_t n = json_string_length(item);
        const char *space = memchr(text, ' ', n);
        if (!space)
            return false;
        half[0] = text;
        size[0] = (size_t)(space - text);
        half[1] = space + 1;
        size[1] = n - size[0] - 1;
        return size[0] && size[1] && !memchr(half[1], ' ', size[1]);
    }
    for (size_t k = 0; k < 2; k++) {
        half[k] = json_string_value(json_array_get(item, k));
        size[k] = json_string_length(json_array_get(item, k));
    }
    return json_array_size(item) == 2 && half[0] && half[1] && size[0] && size[1];
}

static kq_status read_merges(kq_tokenizer *tok, const json_t *merges, kq_error *err)
{
    size_t n = json_array_size(merges), slots = 16, i, size[2];
    int bits = 4;
    json_t *item;
    const char *half[2];
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
    json_array_foreach(merges, i, item) {
        status = split_merge(item, half, size)
                     ? add_merge(tok, i, half[0], size[0], half[1], size[1], &both, err)
                     : kq_fail(err, KQ_E_FORMAT,
                               "%s: model.merges[%zu] is neither \"a b\" nor [\"a\", \"b\"]", tok->path, i);
        if (status)
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
            return kq_tok_refuse(tok, "model option", affixes[i], err);
    }
    v = json_object_get(model, "dropout");
    if (json_is_number(v) && json_number_value(v) != 0)
        return kq_tok_refuse(tok, "model option", "dropout", err);
    tok->byte_fallback = kq_json_flag(model, "byte_fallback", false);
    tok->fuse_unk = kq_json_flag(model, "fuse_unk", false);
    tok->ignore_merges = kq_json_flag(model, "ignore_merges", false);
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

/* ---- post-processor ------------------------------------------------------------------------------------ */

static kq_status read_template(kq_tokenizer *tok, const json_t *v, kq_error *err)
{
    const json_t *single = json_object_get(v, "single"), *known = json_object_get(v, "special_tokens");
    json_t *item;
    size_t i, j, n_seq = 0;
    kq_status status = KQ_OK;
    kq_tok_ids side[2] = {0};
    if (tok->n_prefix || tok->n_suffix)
        return kq_tok_refuse(tok, "post_processor", "two TemplateProcessing", err);
    json_array_foreach(single, i, item) {
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
        json_array_foreach(ids, j, id) {
            int32_t x = 0;
            if ((status = kq_tok_read_id(tok, id, name, &x, err)))
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

static kq_status read_post(kq_tokenizer *tok, const json_t *v, void *ctx, int depth, kq_error *err)
{
    if (!v || json_is_null(v))
        return KQ_OK;
    const char *type = kq_tok_type(v);
    if (!strcmp(type, "ByteLevel")) /* it only changes offsets, which kronq does not have */
        return KQ_OK;
    if (!strcmp(type, "TemplateProcessing"))
        return read_template(tok, v, err);
    if (!strcmp(type, "Sequence"))
        return kq_tok_sequence(&(kq_sequence_part){"post_processor", "processors", read_post}, tok, v, ctx,
                               depth, err);
    return kq_tok_refuse(tok, "post_processor", type, err);
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
    const char *type = kq_tok_type(model);
    if (strcmp(type, "BPE") != 0 &&
        !(json_object_get(model, "type") == NULL && json_object_get(model, "merges"))) {
        status = kq_tok_refuse(tok, "model type", type, err);
        goto out;
    }
    tok->norm = kq_calloc(KQ_TOK_MAX_STAGES, sizeof *tok->norm);
    tok->pre = kq_calloc(KQ_TOK_MAX_STAGES, sizeof *tok->pre);
    if (!tok->norm || !tok->pre) {
        status = kq_fail(err, KQ_E_MEMORY, "out of memory: the tokenizer");
        goto out;
    }
    if ((status = kq_tok_read_normalizer(tok, json_object_get(root, "normalizer"), err)) ||
        (status = kq_tok_read_pre_tokenizer(tok, json_object_get(root, "pre_tokenizer"), err)) ||
        (status = read_vocab(tok, json_object_get(model, "vocab"), added, err)) ||
        (status = read_model(tok, model, err)) || (status = read_added(tok, added, err)) ||
        (status = read_post(tok, json_object_get(root, "post_processor"), NULL, 0, err)) ||
        (status = kq_tok_read_decoder(tok, json_object_get(root, "decoder"), err)))
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
    const char *s = json_string_value(kq_token_text(v));
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
