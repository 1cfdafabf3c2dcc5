/* The tables of a tokenizer: looking tokens up, and freeing all of it. */
#include <string.h>

#include "base/hash.h"
#include "tokenizer/internal.h"

void kq_tok_map_insert(kq_tokenizer *tok, int32_t id)
{
    const kq_token *t = &tok->token[id];
    size_t i = kq_hash64(tok->text.data + t->off, t->size, 0) & tok->map_mask;
    while (tok->map[i] >= 0)
        i = (i + 1) & tok->map_mask;
    tok->map[i] = id;
}

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

bool kq_tokenizer_is_special(const kq_tokenizer *tok, int32_t id)
{
    return id >= 0 && (size_t)id < tok->n_id && tok->special[id];
}

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
