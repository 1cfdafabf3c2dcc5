/* Inside the tokenizer: the parts of a tokenizer.json, each read by a file of its own, and what they share.
 */
#ifndef KQ_TOKENIZER_JSON_PARTS_H
#define KQ_TOKENIZER_JSON_PARTS_H

#include "format/json.h"
#include "tokenizer/internal.h"

enum { KQ_TOK_MAX_STAGES = 64 }; /* normalizers, pre-tokenizers, decoders */

/* Each of these reads a part into tok. KQ_E_UNSUPPORTED names what is not understood. */
kq_status kq_tok_read_normalizer(kq_tokenizer *tok, const json_t *v, kq_error *err);
kq_status kq_tok_read_pre_tokenizer(kq_tokenizer *tok, const json_t *v, kq_error *err);
/* The decoder is run here, once for every token: tok->decoded then has the bytes of each. */
kq_status kq_tok_read_decoder(kq_tokenizer *tok, const json_t *v, kq_error *err);

/* ---- shared ---- */

/* A part that may be a Sequence of such parts. */
typedef struct kq_sequence_part {
    const char *name, *list; /* "normalizer", and the key of the list in a Sequence */
    kq_status (*read)(kq_tokenizer *tok, const json_t *v, void *ctx, int depth, kq_error *err);
} kq_sequence_part;
/* Read the parts of the Sequence v, which stands depth Sequences deep. */
kq_status kq_tok_sequence(const kq_sequence_part *part, kq_tokenizer *tok, const json_t *v, void *ctx,
                          int depth, kq_error *err);

const char *kq_tok_type(const json_t *part); /* its "type" */
/* KQ_E_UNSUPPORTED: "FILE: PART "WHAT" is not supported". */
kq_status kq_tok_refuse(const kq_tokenizer *tok, const char *part, const char *what, kq_error *err);
/* *out: a new string, the caller's (kq_free). where names it in messages. */
kq_status kq_tok_copy_string(const json_t *v, const kq_tokenizer *tok, const char *where, char **out,
                             size_t *size, kq_error *err);
/* The "pattern" of a part. */
kq_status kq_tok_read_pattern(const kq_tokenizer *tok, const json_t *part, const char *where, kq_pattern *out,
                              kq_error *err);
/* An id below KQ_TOK_MAX_ID; token is its text, for messages. */
kq_status kq_tok_read_id(const kq_tokenizer *tok, const json_t *v, const char *token, int32_t *id,
                         kq_error *err);
/* Metaspace, pre-tokenizer or decoder: prepend_scheme, or add_prefix_space of older files. */
kq_status kq_tok_read_scheme(const kq_tokenizer *tok, const json_t *part, kq_prepend *out, kq_error *err);

#endif
