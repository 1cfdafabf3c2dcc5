/* Encoding and decoding a whole text. Encoding cuts the text at added tokens, normalises what lies between,
 * cuts that into pieces and hands each to byte pair encoding. Decoding joins the bytes of the tokens. */
#include <string.h>

#include "tokenizer/internal.h"

enum { CACHE_FROM = 4096 }; /* bytes: for shorter texts a cache of words costs more than it saves */

/* ---- encoding ------------------------------------------------------------------------------------------ */

static kq_status encode_words(const kq_tokenizer *tok, const char *text, size_t size, bool at_start,
                              kq_tok_scratch *s, kq_tok_ids *ids, kq_error *err)
{
    kq_pieces p;
    kq_status status = kq_pretokenize(tok->pre, tok->n_pre, text, size, at_start, s, &p, err);
    for (size_t i = 0; i < p.n && !status; i++)
        status = kq_bpe_piece(tok, p.base + p.v[i].off, p.v[i].size, s, ids, err);
    return status;
}

/* Encode raw text between two added tokens: normalise it and look for the added tokens that are matched in
 * normalised text. */
static kq_status encode_stretch(const kq_tokenizer *tok, const char *raw, size_t raw_size, bool at_start,
                                bool parse_special, kq_tok_scratch *s, kq_tok_ids *ids, kq_error *err)
{
    const char *text;
    size_t size, done = 0, from = 0, start, end;
    const kq_added *a;
    kq_status status = kq_normalize(tok->norm, tok->n_norm, raw, raw_size, s, &text, &size, err);
    while (!status && (a = kq_tok_next_added(tok, &tok->norm_set, text, size, parse_special, done, &from,
                                             &start, &end))) {
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
    kq_status status = kq_tok_check_stop(&s, err);
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
    while (!status && (a = kq_tok_next_added(tok, &tok->raw_set, text, size, parse_special, done, &from,
                                             &start, &end))) {
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
    if (!status && !ids.data) { /* an empty result is still a block that can be freed */
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
    if (!status) { /* the decoder's Strip after Fuse, which acts on the whole text */
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
