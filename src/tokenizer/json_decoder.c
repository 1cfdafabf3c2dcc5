/* Reads the decoder of a tokenizer.json. Its steps up to Fuse act on each token alone. They are therefore run
 * once for every token when the tokenizer is read, and decoding a text is only copying bytes. Two things act
 * on the whole text and are done when a text is decoded: a Strip after Fuse, and the space of the first
 * token. */
#include <string.h>

#include "tokenizer/json_parts.h"

typedef enum op_kind { OP_BYTE_LEVEL, OP_REPLACE, OP_BYTE_FALLBACK, OP_STRIP, OP_METASPACE } op_kind;
/* borrowed */
typedef struct decode_op {
    op_kind kind;
    const char *from, *to;
    size_t from_size, to_size, start, stop;
    bool meta;
} decode_op;
typedef struct decoder {
    decode_op op[KQ_TOK_MAX_STAGES];
    size_t n;
    bool fused;
} decoder;

/* Read a Strip step. After Fuse it acts on the whole text and is kept in tok; *fused then says so. */
static kq_status read_strip(kq_tokenizer *tok, const json_t *v, const decoder *d, decode_op *op,
                            kq_error *err)
{
    const json_t *c = json_object_get(v, "content"), *start = json_object_get(v, "start"),
                 *stop = json_object_get(v, "stop");
    const size_t n = json_string_length(c);
    if (!json_is_string(c) || !n || n > 4 || kq_utf8_size((unsigned char)json_string_value(c)[0]) != n ||
        !json_is_integer(start) || !json_is_integer(stop) || json_integer_value(start) < 0 ||
        json_integer_value(stop) < 0)
        return kq_fail(err, KQ_E_FORMAT, "%s: decoder Strip wants one character, start and stop", tok->path);
    *op = (decode_op){.kind = OP_STRIP,
                      .from = json_string_value(c),
                      .from_size = n,
                      .start = (size_t)json_integer_value(start),
                      .stop = (size_t)json_integer_value(stop)};
    if (!d->fused)
        return KQ_OK;
    if (tok->strip_size)
        return kq_tok_refuse(tok, "decoder", "a second Strip after Fuse", err);
    memcpy(tok->strip_char, op->from, n);
    tok->strip_size = n;
    tok->strip_start = op->start;
    tok->strip_stop = op->stop;
    return KQ_OK;
}

static kq_status read_replace(kq_tokenizer *tok, const json_t *v, decode_op *op, kq_error *err)
{
    const json_t *from = json_object_get(json_object_get(v, "pattern"), "String"),
                 *to = json_object_get(v, "content");
    if (!json_is_string(from) || !json_string_length(from) || !json_is_string(to))
        return kq_tok_refuse(tok, "decoder", "Replace without a String pattern", err);
    *op = (decode_op){.kind = OP_REPLACE,
                      .from = json_string_value(from),
                      .from_size = json_string_length(from),
                      .to = json_string_value(to),
                      .to_size = json_string_length(to)};
    return KQ_OK;
}

static kq_status read_meta(kq_tokenizer *tok, const json_t *v, const decoder *d, int depth, decode_op *op,
                           kq_error *err)
{
    const json_t *r = json_object_get(v, "replacement");
    kq_prepend scheme;
    kq_status status = kq_tok_read_scheme(tok, v, &scheme, err);
    if (status)
        return status;
    if (!json_is_string(r) || !json_string_length(r))
        return kq_fail(err, KQ_E_FORMAT, "%s: decoder Metaspace has no replacement", tok->path);
    *op = (decode_op){.kind = OP_METASPACE,
                      .from = json_string_value(r),
                      .from_size = json_string_length(r),
                      .to = " ",
                      .to_size = 1};
    if (scheme == KQ_PREPEND_NEVER)
        return KQ_OK;
    if (d->n || depth)
        return kq_tok_refuse(tok, "decoder", "Metaspace with a prefix inside a Sequence", err);
    tok->meta_decoder = true;
    return kq_tok_copy_string(r, tok, "decoder Metaspace", &tok->meta, &tok->meta_size, err);
}

static kq_status read_decoder(kq_tokenizer *tok, const json_t *v, void *ctx, int depth, kq_error *err)
{
    decoder *d = ctx;
    const char *type = kq_tok_type(v);
    decode_op op = {0};
    kq_status status = KQ_OK;
    if (!strcmp(type, "Sequence"))
        return kq_tok_sequence(&(kq_sequence_part){"decoder", "decoders", read_decoder}, tok, v, ctx, depth,
                               err);
    if (!strcmp(type, "Fuse")) {
        d->fused = true;
        return KQ_OK;
    }
    if (!strcmp(type, "Strip"))
        status = read_strip(tok, v, d, &op, err);
    else if (!strcmp(type, "ByteLevel"))
        op.kind = OP_BYTE_LEVEL;
    else if (!strcmp(type, "ByteFallback"))
        op.kind = OP_BYTE_FALLBACK;
    else if (!strcmp(type, "Replace"))
        status = read_replace(tok, v, &op, err);
    else if (!strcmp(type, "Metaspace"))
        status = read_meta(tok, v, d, depth, &op, err);
    else
        status = kq_tok_refuse(tok, "decoder", type, err);
    if (status || (d->fused && op.kind == OP_STRIP)) /* that Strip acts on the whole text */
        return status;
    if (d->fused || d->n >= KQ_TOK_MAX_STAGES)
        return kq_tok_refuse(tok, "decoder after Fuse", type, err);
    if (d->n && (op.kind == OP_BYTE_LEVEL || d->op[d->n - 1].kind == OP_BYTE_LEVEL ||
                 d->op[d->n - 1].kind == OP_BYTE_FALLBACK || op.kind == OP_METASPACE))
        return kq_tok_refuse(tok, "decoder sequence with", type, err);
    d->op[d->n++] = op;
    return KQ_OK;
}

/* ---- the bytes of every token ---- */

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
            if (b < 0) { /* a character that stands for no byte: the token's text is taken literally */
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

/* Run the steps on one token. buf: two texts; each step reads one and writes the other. */
static kq_status decode_token(kq_tokenizer *tok, const decoder *d, kq_token *t, const kq_added *added,
                              kq_buffer buf[2], kq_error *err)
{
    const char *s = tok->text.data + t->off;
    size_t size = t->size;
    kq_status status = KQ_OK;
    if (added && added->normalized) {
        /* `tokenizers` decodes such a token to its normalised text; LLaMA-2's normalizer has put a space in
         * front of it */
        s = added->match;
        size = added->match_size;
    }
    for (size_t k = 0; k < d->n && !status; k++) {
        status = run_op(&d->op[k], s, size, &buf[k % 2], err);
        s = buf[k % 2].data ? buf[k % 2].data : "";
        size = buf[k % 2].size;
    }
    if (status)
        return status;
    t->dec_off = (uint32_t)tok->decoded.size;
    t->dec_size = (uint32_t)size;
    status = kq_buffer_add(&tok->decoded, s, size, err);
    if (!status && tok->decoded.size >= UINT32_MAX)
        status = kq_fail(err, KQ_E_FORMAT, "%s: the decoded vocabulary is larger than 4 GB", tok->path);
    return status;
}

kq_status kq_tok_read_decoder(kq_tokenizer *tok, const json_t *v, kq_error *err)
{
    decoder *d = kq_calloc(1, sizeof *d);
    const kq_added **added = kq_calloc(tok->n_id, sizeof *added); /* by id */
    kq_buffer buf[2] = {0};
    kq_status status = d && added ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: the decoder");
    tok->join_space = !v || json_is_null(v);
    if (!status && !tok->join_space)
        status = read_decoder(tok, v, d, 0, err);
    for (size_t i = 0; i < tok->n_added && !status; i++)
        added[tok->added[i].id] = &tok->added[i];
    for (size_t id = 0; id < tok->n_id && !status; id++)
        if (tok->token[id].off != UINT32_MAX)
            status = decode_token(tok, d, &tok->token[id], added[id], buf, err);
    kq_free(d);
    kq_free(added);
    kq_free(buf[0].data);
    kq_free(buf[1].data);
    return status;
}
