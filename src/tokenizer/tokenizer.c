/* The tokenizer: opening, encoding, decoding, questions about the vocabulary. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/warn.h"
#include "format/json.h"
#include "tokenizer/internal.h"
#include "tokenizer/convert.h"

#include <utf8proc.h>

enum { CACHE_FROM = 4096 }; /* bytes of text from which a word cache pays */

/* ---- opening ------------------------------------------------------------------------------------------- */

kq_status kq_tok_json_load(const char *path, json_t **out, kq_error *err)
{
    return kq_json_read(path, KQ_TOK_MAX_FILE, out, err);
}

/* tokenizer_config.json, as it was read, and chat templates in files of tokenizer.json's folder. */
static kq_status read_beside(kq_tokenizer *tok, const json_t *config, const char *dir, kq_error *err)
{
    char path[4096];
    kq_status status = kq_path_join(path, sizeof path, dir, "tokenizer_config.json", err);
    if (!status)
        status = kq_tokenizer_apply_config(tok, config, path, err);
    if (!status)
        status = kq_chat_templates_from_folder(tok, dir, err);
    return status;
}

kq_status kq_tokenizer_open_file(const char *path, kq_tokenizer **out, kq_error *err)
{
    json_t *root = NULL, *config = NULL;
    kq_tokenizer *tok = NULL;
    char dir[4096];
    *out = NULL;
    kq_status status = kq_tokenizer_folder_json(path, &root, &config, err);
    if (!status)
        status = kq_tokenizer_from_json(root, path, &tok, err);
    json_decref(root);
    if (!status) {
        const char *slash = strrchr(path, '/');
        if ((size_t)snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash - path) + (slash == path) : 1,
                             slash ? path : ".") >= sizeof dir)
            status = kq_fail(err, KQ_E_ARG, "%s: the path is too long", path);
        else
            status = read_beside(tok, config, dir, err);
    }
    json_decref(config);
    if (status) {
        kq_tokenizer_close(tok);
        return status;
    }
    *out = tok;
    return KQ_OK;
}

/* A token beyond the model's rows has no embedding: no text may give it. What every text begins with
 * must have one. */
static kq_status check_rows(kq_tokenizer *tok, size_t n_rows, kq_error *err)
{
    size_t n = 0;
    int32_t first = -1;
    tok->n_rows = n_rows;
    for (size_t i = 0; i < tok->n_prefix + tok->n_suffix; i++) {
        const int32_t id = i < tok->n_prefix ? tok->prefix[i] : tok->suffix[i - tok->n_prefix];
        if ((size_t)id >= n_rows)
            return kq_fail(err, KQ_E_MISMATCH,
                           "%s: the post-processor adds token \"%.60s\" with id %d to every text, the model "
                           "has %zu rows (another model's "
                           "tokenizer?)",
                           tok->path, tok->text.data + tok->token[id].off, id, n_rows);
    }
    for (size_t id = n_rows; id < tok->n_id; id++)
        if (tok->token[id].off != UINT32_MAX && !n++)
            first = (int32_t)id;
    if (n)
        kq_warn("%s: token \"%.60s\" has id %d, the model has %zu rows (%zu such tokens): a text with one of "
                "them is refused",
                tok->path, tok->text.data + tok->token[first].off, first, n_rows, n);
    return KQ_OK;
}

kq_status kq_tokenizer_open(const kq_source *src, kq_tokenizer **out, kq_error *err)
{
    kq_tokenizer *tok = NULL;
    kq_status status;
    *out = NULL;
    if (kq_source_kind_of(src) == KQ_SOURCE_GGUF) {
        json_t *root = NULL, *config = NULL;
        if (!(status = kq_tokenizer_gguf_json(kq_source_gguf(src), kq_source_config(src)->max_position, &root,
                                              &config, err)) &&
            !(status = kq_tokenizer_from_json(root, kq_source_path(src), &tok, err)))
            status = kq_tokenizer_apply_config(tok, config, kq_source_path(src), err);
        json_decref(root);
        json_decref(config);
    } else {
        char path[4096];
        if (!(status = kq_path_join(path, sizeof path, kq_source_path(src), "tokenizer.json", err))) {
            if (!kq_path_exists(path))
                status = kq_fail(err, KQ_E_UNSUPPORTED,
                                 "%s: no tokenizer.json (older tokenizer files: load and save the folder "
                                 "once with transformers)",
                                 kq_source_path(src));
            else
                status = kq_tokenizer_open_file(path, &tok, err);
        }
    }
    if (!status)
        status = check_rows(tok, kq_source_config(src)->vocab_size, err);
    if (!status) {
        const kq_config *cfg = kq_source_config(src);
        if (tok->bos < 0 && cfg->bos_id >= 0 && (size_t)cfg->bos_id < tok->n_id)
            tok->bos = cfg->bos_id;
        if (tok->eos < 0 && cfg->n_eos && cfg->eos_id[0] >= 0 && (size_t)cfg->eos_id[0] < tok->n_id)
            tok->eos = cfg->eos_id[0];
        *out = tok;
        return KQ_OK;
    }
    kq_tokenizer_close(tok);
    return status;
}

void kq_tokenizer_close(kq_tokenizer *tok)
{
    if (!tok)
        return;
    for (size_t i = 0; i < tok->n_norm; i++) {
        kq_pattern_free(&tok->norm[i].pattern);
        kq_free(tok->norm[i].content);
    }
    for (size_t i = 0; i < tok->n_pre; i++) {
        kq_pattern_free(&tok->pre[i].pattern);
        kq_free(tok->pre[i].replacement);
    }
    for (size_t i = 0; i < tok->n_added; i++)
        kq_free(tok->added[i].match);
    kq_free(tok->norm);
    kq_free(tok->pre);
    kq_free(tok->added);
    kq_free(tok->raw_set.item);
    kq_free(tok->norm_set.item);
    kq_free(tok->path);
    kq_free(tok->token);
    kq_free(tok->text.data);
    kq_free(tok->decoded.data);
    kq_free(tok->map);
    kq_free(tok->in_model);
    kq_free(tok->merge);
    kq_free(tok->special);
    kq_free(tok->prefix);
    kq_free(tok->suffix);
    kq_free(tok->meta);
    json_decref(tok->chat_templates);
    json_decref(tok->special_map);
    kq_free(tok);
}

/* ---- added tokens -------------------------------------------------------------------------------------- */

/* Whether text ends (before `at`) or goes on (at `at`) with a character of \w or \s. */
static size_t char_before(const char *s, size_t at)
{
    size_t n = 1;
    while (n < at && ((unsigned char)s[at - n] & 0xc0) == 0x80)
        n++;
    return n;
}

static bool is_word(uint32_t cp)
{
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    default: return cp == 0x200c || cp == 0x200d;
    }
}

static bool is_space(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || cp == 0x20 || cp == 0x85 || cp == 0xa0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 || cp == 0x202f || cp == 0x205f ||
           cp == 0x3000;
}

/* In [lo, hi), whose tokens are longer than depth and share what stands before it: the first whose byte
 * there is b or more. */
static size_t first_from(const kq_added_set *set, size_t lo, size_t hi, size_t depth, unsigned b)
{
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        if ((unsigned char)set->item[mid]->match[depth] < b)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* The longest token that s begins with: the range of those that share its first `depth` bytes is
 * narrowed byte by byte, so that thousands of tokens with one beginning ("<|reserved_special_token_...")
 * cost a few comparisons, not one each. */
static const kq_added *match_at(const kq_added_set *set, const char *s, size_t left)
{
    size_t lo = set->first[(unsigned char)s[0]], hi = set->first[(unsigned char)s[0] + 1];
    const kq_added *best = NULL;
    for (size_t depth = 1; lo < hi; depth++) {
        if (set->item[lo]->match_size == depth) {
            best = set->item[lo];
            while (lo < hi && set->item[lo]->match_size == depth)
                lo++;
        }
        if (depth == left)
            break;
        const unsigned char b = (unsigned char)s[depth];
        lo = first_from(set, lo, hi, depth, b);
        hi = first_from(set, lo, hi, depth, b + 1u);
    }
    return best;
}

/* The next added token at or after *from: its extent with stripped white space in [*start, *end), *from
 * behind the match itself. done is where the last one ended. NULL: none left. */
static const kq_added *next_added(const kq_tokenizer *tok, const kq_added_set *set, const char *s,
                                  size_t size, bool parse_special, size_t done, size_t *from, size_t *start,
                                  size_t *end)
{
    if (!set->n)
        return NULL;
    for (size_t i = *from; i < size; i++) {
        unsigned char b = (unsigned char)s[i];
        if (set->first[b] == set->first[b + 1])
            continue;
        const kq_added *a = match_at(set, s + i, size - i);
        if (!a)
            continue;
        size_t lo = i, hi = i + a->match_size;
        *from = hi;
        i = hi - 1; /* matches do not overlap, even those turned down below */
        if (!parse_special && tok->special[a->id])
            continue;
        if (a->single_word && ((lo && is_word(kq_utf8_get(s + lo - char_before(s, lo)))) ||
                               (hi < size && is_word(kq_utf8_get(s + hi)))))
            continue;
        if (lo < done) /* swallowed by the white space of the token before */
            continue;
        if (a->lstrip)
            while (lo > done && is_space(kq_utf8_get(s + lo - char_before(s, lo))))
                lo -= char_before(s, lo);
        if (a->rstrip)
            while (hi < size && is_space(kq_utf8_get(s + hi)))
                hi += kq_utf8_size((unsigned char)s[hi]);
        *start = lo;
        *end = hi;
        return a;
    }
    *from = size;
    return NULL;
}

/* By bytes, a prefix before what it begins. */
static bool goes_first(const kq_added *a, const kq_added *b)
{
    const size_t n = a->match_size < b->match_size ? a->match_size : b->match_size;
    const int order = memcmp(a->match, b->match, n);
    return order ? order < 0 : a->match_size < b->match_size;
}

kq_status kq_tok_added_set(kq_added_set *set, const kq_added *added, size_t n, bool normalized, kq_error *err)
{
    set->item = kq_alloc(n, sizeof *set->item);
    const kq_added **tmp = kq_alloc(n, sizeof *tmp);
    if (!set->item || !tmp) {
        kq_free(tmp);
        return kq_fail(err, KQ_E_MEMORY, "out of memory: added tokens");
    }
    set->n = 0;
    for (size_t i = 0; i < n; i++)
        if (added[i].normalized == normalized && added[i].match_size)
            set->item[set->n++] = &added[i];
    for (size_t width = 1; width < set->n;
         width *= 2) { /* merge sort: stable, so that the first of two equal ones stays first */
        for (size_t lo = 0; lo < set->n; lo += 2 * width) {
            size_t mid = lo + width < set->n ? lo + width : set->n,
                   hi = lo + 2 * width < set->n ? lo + 2 * width : set->n;
            for (size_t i = lo, j = mid, k = lo; k < hi; k++)
                tmp[k] = j >= hi || (i < mid && !goes_first(set->item[j], set->item[i])) ? set->item[i++]
                                                                                         : set->item[j++];
        }
        memcpy(set->item, tmp, set->n * sizeof *tmp);
    }
    kq_free(tmp);
    for (size_t b = 0, i = 0; b <= 256; b++) {
        while (i < set->n && (unsigned char)set->item[i]->match[0] < b)
            i++;
        set->first[b] = (uint32_t)i;
    }
    return KQ_OK;
}

/* ---- encoding ------------------------------------------------------------------------------------------ */

static kq_status encode_words(const kq_tokenizer *tok, const char *text, size_t size, bool at_start,
                              kq_tok_scratch *s, kq_tok_ids *ids, kq_error *err)
{
    const char *base;
    const kq_piece *piece;
    size_t n;
    kq_status status = kq_pretokenize(tok->pre, tok->n_pre, text, size, at_start, s, &base, &piece, &n, err);
    for (size_t i = 0; i < n && !status; i++)
        status = kq_bpe_piece(tok, base + piece[i].off, piece[i].size, s, ids, err);
    return status;
}

/* A stretch of raw text between the added tokens found in it: normalise, look for those that are matched
 * in normalised text. */
static kq_status encode_stretch(const kq_tokenizer *tok, const char *raw, size_t raw_size, bool at_start,
                                bool parse_special, kq_tok_scratch *s, kq_tok_ids *ids, kq_error *err)
{
    const char *text;
    size_t size, done = 0, from = 0, start, end;
    const kq_added *a;
    kq_status status = kq_normalize(tok->norm, tok->n_norm, raw, raw_size, s, &text, &size, err);
    while (!status &&
           (a = next_added(tok, &tok->norm_set, text, size, parse_special, done, &from, &start, &end))) {
        if ((status = kq_tok_steps(s, end - done, err)))
            break;
        if (start > done)
            status = encode_words(tok, text + done, start - done, at_start && !done, s, ids, err);
        if (!status)
            status = kq_tok_ids_add(ids, a->id, err);
        done = end;
    }
    if (!status && done < size)
        status = encode_words(tok, text + done, size - done, at_start && !done, s, ids, err);
    return status;
}

static kq_status check_ids(const kq_tokenizer *tok, const kq_tok_ids *ids, kq_error *err)
{
    for (size_t i = 0; tok->n_id > tok->n_rows && tok->n_rows && i < ids->size; i++)
        if ((size_t)ids->data[i] >= tok->n_rows)
            return kq_fail(err, KQ_E_MISMATCH,
                           "%s: the text has token \"%.60s\" with id %d, the model has %zu rows", tok->path,
                           tok->text.data + tok->token[ids->data[i]].off, ids->data[i], tok->n_rows);
    return KQ_OK;
}

kq_status kq_tokenizer_encode(const kq_tokenizer *tok, const char *text, size_t size, bool add_special,
                              bool parse_special, int32_t **ids, size_t *n_ids, kq_error *err)
{
    return kq_tokenizer_encode_with(
        tok, text, size, &(kq_encode_options){.add_special = add_special, .parse_special = parse_special},
        ids, n_ids, err);
}

bool kq_tokenizer_is_special(const kq_tokenizer *tok, int32_t id)
{
    return id >= 0 && (size_t)id < tok->n_id && tok->special[id];
}

kq_status kq_tokenizer_encode_with(const kq_tokenizer *tok, const char *text, size_t size,
                                   const kq_encode_options *opt, int32_t **out, size_t *n_out, kq_error *err)
{
    const bool add_special = opt->add_special, parse_special = opt->parse_special && !tok->split_special;
    kq_tok_scratch s = {.stop = opt->stop, .ctx = opt->ctx};
    kq_tok_ids ids = {0};
    const kq_added *a;
    size_t done = 0, from = 0, start, end;
    *out = NULL;
    *n_out = 0;
    kq_status status = kq_tok_ask(&s, err);
    if (status)
        goto out;
    if (size && kq_utf8_valid(text, size) < size) {
        if ((status = kq_utf8_lossy(text, size, &s.valid, err)))
            goto out;
        text = s.valid.data;
        size = s.valid.size;
    }
    if (size >= CACHE_FROM && (status = kq_bpe_cache_new(&s, err)))
        goto out;
    if (add_special)
        for (size_t i = 0; i < tok->n_prefix && !status; i++)
            status = kq_tok_ids_add(&ids, tok->prefix[i], err);
    while (!status &&
           (a = next_added(tok, &tok->raw_set, text, size, parse_special, done, &from, &start, &end))) {
        if ((status = kq_tok_steps(&s, end - done, err)))
            break;
        if (start > done)
            status = encode_stretch(tok, text + done, start - done, !done, parse_special, &s, &ids, err);
        if (!status)
            status = kq_tok_ids_add(&ids, a->id, err);
        done = end;
    }
    if (!status && done < size)
        status = encode_stretch(tok, text + done, size - done, !done, parse_special, &s, &ids, err);
    if (add_special)
        for (size_t i = 0; i < tok->n_suffix && !status; i++)
            status = kq_tok_ids_add(&ids, tok->suffix[i], err);
    if (!status)
        status = check_ids(tok, &ids, err);
    if (!status && !ids.data) { /* no ids at all: still a block that can be freed */
        void *block = NULL;
        status = kq_grow(&block, &ids.cap, 0, 1, sizeof *ids.data, "the tokenizer", err);
        ids.data = block;
    }
    if (!status) {
        *out = ids.data;
        *n_out = ids.size;
        ids.data = NULL;
    }
out:
    kq_free(ids.data);
    kq_tok_scratch_free(&s);
    return status;
}

/* ---- decoding ------------------------------------------------------------------------------------------ */

kq_status kq_tokenizer_token_bytes(const kq_tokenizer *tok, int32_t id, const char **bytes, size_t *size,
                                   kq_error *err)
{
    *bytes = "";
    *size = 0;
    if (id < 0)
        return kq_fail(err, KQ_E_ARG, "token id %d is negative", id);
    if ((size_t)id < tok->n_id && tok->token[id].off != UINT32_MAX && tok->token[id].dec_size) {
        *bytes = tok->decoded.data + tok->token[id].dec_off;
        *size = tok->token[id].dec_size;
    }
    return KQ_OK;
}

kq_status kq_tokenizer_decode(const kq_tokenizer *tok, const int32_t *ids, size_t n_ids, bool skip_special,
                              char **text, size_t *size, kq_error *err)
{
    kq_buffer buf = {0};
    kq_status status = KQ_OK;
    size_t n = 0;
    *text = NULL;
    *size = 0;
    for (size_t i = 0; i < n_ids && !status; i++) {
        if (ids[i] < 0) {
            status = kq_fail(err, KQ_E_ARG, "token id %d (number %zu) is negative", ids[i], i);
            break;
        }
        if ((size_t)ids[i] >= tok->n_id || tok->token[ids[i]].off == UINT32_MAX ||
            (skip_special && tok->special[ids[i]]))
            continue;
        const kq_token *t = &tok->token[ids[i]];
        if (n++ && tok->join_space)
            status = kq_buffer_add(&buf, " ", 1, err);
        if (n == 1 && tok->meta_decoder) {
            const char *s = tok->text.data + t->off;
            for (size_t j = 0; j < t->size && !status;) {
                bool drop = t->size - j >= tok->meta_size && !memcmp(s + j, tok->meta, tok->meta_size);
                size_t step = drop ? tok->meta_size : 1;
                if (!drop)
                    status = kq_buffer_add(&buf, s + j, 1, err);
                j += step;
            }
        } else if (!status && t->dec_size) {
            status = kq_buffer_add(&buf, tok->decoded.data + t->dec_off, t->dec_size, err);
        }
    }
    if (!status) { /* the Strip that follows Fuse */
        size_t lo = 0, k = tok->strip_size;
        for (size_t i = 0;
             i < tok->strip_start && k && buf.size - lo >= k && !memcmp(buf.data + lo, tok->strip_char, k);
             i++)
            lo += k;
        for (size_t i = 0; i < tok->strip_stop && k && buf.size - lo >= k &&
                           !memcmp(buf.data + buf.size - k, tok->strip_char, k);
             i++)
            buf.size -= k;
        if (lo) {
            memmove(buf.data, buf.data + lo, buf.size - lo);
            buf.size -= lo;
        }
        status = kq_buffer_add(&buf, "", 1, err);
    }
    if (status) {
        kq_free(buf.data);
        return status;
    }
    *text = buf.data;
    *size = buf.size - 1;
    return KQ_OK;
}

/* ---- questions ----------------------------------------------------------------------------------------- */

int32_t kq_tok_lookup(const kq_tokenizer *tok, const char *s, size_t size)
{
    for (size_t i = kq_hash64(s, size, 0) & tok->map_mask;; i = (i + 1) & tok->map_mask) {
        int32_t id = tok->map[i];
        if (id < 0)
            return -1;
        const kq_token *t = &tok->token[id];
        if (t->size == size && !memcmp(tok->text.data + t->off, s, size))
            return id;
    }
}

size_t kq_tokenizer_vocab_size(const kq_tokenizer *tok)
{
    return tok->n_id;
}
int32_t kq_tokenizer_bos(const kq_tokenizer *tok)
{
    return tok->bos;
}
int32_t kq_tokenizer_eos(const kq_tokenizer *tok)
{
    return tok->eos;
}

int32_t kq_tokenizer_id(const kq_tokenizer *tok, const char *token)
{
    size_t size = strlen(token);
    int32_t id = kq_tok_lookup(tok, token, size);
    for (size_t i = 0; i < tok->n_added && id < 0; i++) {
        const kq_token *t = &tok->token[tok->added[i].id];
        if (t->size == size && !memcmp(tok->text.data + t->off, token, size))
            id = tok->added[i].id;
    }
    return id;
}

int32_t kq_tokenizer_document_end(const kq_tokenizer *tok)
{
    int32_t id = kq_tokenizer_id(tok, "<|endoftext|>");
    if (id < 0)
        id = kq_tokenizer_id(tok, "<|end_of_text|>");
    return id < 0 ? tok->eos : id;
}
