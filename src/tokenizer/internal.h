/* Inside the room: what its files share. An encoding goes through them in this order: added tokens (added.c),
 * normalizers and pre-tokenizers (pretokenize.c), byte pair encoding (bpe.c). */
#ifndef KQ_TOKENIZER_INTERNAL_H
#define KQ_TOKENIZER_INTERNAL_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <jansson.h>
#include <pcre2.h>

#include "base/buffer.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "tokenizer/tokenizer.h"

typedef struct kq_tok_ids {
    int32_t *data;
    size_t size, cap;
} kq_tok_ids;

kq_status kq_tok_ids_add(kq_tok_ids *ids, int32_t id, kq_error *err);

/* GPT-2's printable stand-in for each byte: byte -> code point, and back (-1: none). */
uint32_t kq_byte_char(unsigned byte);
int kq_char_byte(uint32_t cp);

/* ---- patterns, normalisers, pre-tokenizers ------------------------------------------------------------- */

/* What a text is cut at: a regular expression or a literal text. One of the two is set; both are owned. */
typedef struct kq_pattern {
    pcre2_code *code;
    char *literal;
    size_t literal_size;
} kq_pattern;

typedef enum kq_norm_kind { KQ_NORM_FORM, KQ_NORM_PREPEND, KQ_NORM_REPLACE } kq_norm_kind;
typedef struct kq_norm {
    kq_norm_kind kind;
    int form;           /* utf8proc options of NFC, NFD, NFKC, NFKD */
    kq_pattern pattern; /* REPLACE */
    char *content;      /* PREPEND, REPLACE; owned */
    size_t content_size;
} kq_norm;

typedef enum kq_pre_kind { KQ_PRE_SPLIT, KQ_PRE_DIGITS, KQ_PRE_BYTE_LEVEL, KQ_PRE_METASPACE } kq_pre_kind;
typedef enum kq_behavior {
    KQ_REMOVED,
    KQ_ISOLATED,
    KQ_MERGED_PREVIOUS,
    KQ_MERGED_NEXT,
    KQ_CONTIGUOUS
} kq_behavior;
typedef enum kq_prepend { KQ_PREPEND_NEVER, KQ_PREPEND_FIRST, KQ_PREPEND_ALWAYS } kq_prepend;
typedef struct kq_pre {
    kq_pre_kind kind;
    kq_pattern pattern;
    kq_behavior behavior;
    bool invert;                      /* SPLIT; BYTE_LEVEL with its regex */
    bool use_regex, add_prefix_space; /* BYTE_LEVEL */
    char *replacement;                /* METASPACE; owned */
    size_t replacement_size;
    kq_prepend prepend;
    bool split; /* METASPACE */
} kq_pre;

/* A piece of a text, as an offset and a size. at_start: it begins at byte 0 of the caller's text. */
typedef struct kq_piece {
    size_t off, size;
    bool at_start;
} kq_piece;
typedef struct kq_span {
    size_t off, size;
    bool match;
} kq_span;

/* Scratch of one encode call. */
typedef struct kq_tok_scratch {
    /* kq_encode_options; steps since it was last asked */
    bool (*stop)(void *ctx);
    void *ctx;
    size_t steps;
    kq_buffer valid, norm[2], text[2], work;
    kq_piece *piece[2];
    size_t n_piece[2], cap_piece[2];
    kq_span *span;
    size_t n_span, cap_span;
    pcre2_match_data *match;
    pcre2_match_context *match_context;
    pcre2_jit_stack *jit_stack;
    void *bpe;
    size_t cap_bpe; /* arena for the symbols of one piece */
    void *heap;
    size_t cap_heap;
    struct kq_bpe_cache *cache; /* NULL for short texts */
} kq_tok_scratch;
void kq_tok_scratch_free(kq_tok_scratch *s);
/* Every loop over a text counts its steps (bytes, matches, merges) here: KQ_E_INTERRUPTED when the
 * caller asks to stop. */
kq_status kq_tok_check_stop(kq_tok_scratch *s, kq_error *err);
static inline kq_status kq_tok_steps(kq_tok_scratch *s, size_t n, kq_error *err)
{
    enum { STEPS_A_QUESTION = 1 << 14 };
    s->steps += n;
    return s->steps < STEPS_A_QUESTION ? KQ_OK : kq_tok_check_stop(s, err);
}

/* *out = the pattern of a tokenizer.json whose text is `regex`. KQ_E_UNSUPPORTED: it is none of those that
 * patterns.c has. `where` names it in messages. */
kq_status kq_pattern_regex(const char *regex, size_t size, const char *where, kq_pattern *out, kq_error *err);
const char *kq_pattern_known(size_t i); /* their texts; NULL after the last */
kq_status kq_pattern_literal(const char *s, size_t size, kq_pattern *out, kq_error *err);
void kq_pattern_free(kq_pattern *p);

/* Append text in a Unicode normal form (utf8proc's options of NFC, NFD, NFKC, NFKD), in time that grows
 * with the size. */
kq_status kq_normal_form(int form, const char *text, size_t size, kq_tok_scratch *s, kq_buffer *out,
                         kq_error *err);
/* Normalise text; *out points into the scratch or at text itself. */
kq_status kq_normalize(const kq_norm *norm, size_t n_norm, const char *text, size_t size, kq_tok_scratch *s,
                       const char **out, size_t *out_size, kq_error *err);
/* The pieces of a text: v [n], offsets into base. Both live in the scratch until the next call; base may also
 * be the text that was given. */
typedef struct kq_pieces {
    const char *base;
    const kq_piece *v;
    size_t n;
} kq_pieces;
/* Cut text into pieces with the pre-tokenizers pre [n_pre], one after the other. at_start: text is at byte 0
 * of the caller's. */
kq_status kq_pretokenize(const kq_pre *pre, size_t n_pre, const char *text, size_t size, bool at_start,
                         kq_tok_scratch *s, kq_pieces *out, kq_error *err);

/* ---- the tokenizer ------------------------------------------------------------------------------------- */

/* One token: where its text and its decoded bytes are in the tokenizer's two arenas. */
typedef struct kq_token {
    uint32_t off, size; /* off UINT32_MAX: no token has this id */
    uint32_t dec_off, dec_size;
} kq_token;

typedef struct kq_added {
    int32_t id;
    /* what is looked for (normalised when `normalized`); owned */
    char *match;
    size_t match_size;
    bool special, lstrip, rstrip, single_word, normalized;
} kq_added;

/* Added tokens that are looked for in one pass. */
typedef struct kq_added_set {
    const kq_added **item; /* owned [n], the entries borrowed; in the order of their bytes */
    size_t n;
    uint32_t first[257]; /* first[b]: the first item that begins with byte b or a higher one */
} kq_added_set;

/* One slot of the hash table of merges. */
typedef struct kq_merge {
    uint64_t key; /* (left id << 32 | right id) + 1; 0: the slot is empty */
    uint32_t rank;
    int32_t id; /* of the token that the two become */
} kq_merge;

struct kq_tokenizer {
    char *path;
    /* the vocabulary */
    kq_token *token; /* [n_id] */
    size_t n_id;
    kq_buffer text, decoded; /* the arenas of all tokens' texts and decoded bytes */
    int32_t *map;            /* hash table of the model's vocabulary: ids, -1 in an empty slot */
    size_t map_mask;
    bool *in_model;         /* [n_id]: the token is in the model's vocabulary */
    int32_t char_id[0x400]; /* id of the token that is this one character; -1: none */
    int32_t byte_id[256];   /* id of the token for this byte ("<0x0A>"); -1: none */
    /* byte pair encoding */
    kq_merge *merge;
    size_t merge_mask;
    int merge_shift;
    bool byte_fallback, fuse_unk, ignore_merges;
    int32_t unk_id;
    /* what is done before and after byte pair encoding */
    kq_norm *norm;
    size_t n_norm;
    kq_pre *pre;
    size_t n_pre;
    kq_added *added;
    size_t n_added;
    kq_added_set raw_set, norm_set;
    bool *special;            /* [n_id] */
    int32_t *prefix, *suffix; /* ids that the post-processor puts before and after a text */
    size_t n_prefix, n_suffix;
    /* the decoder */
    bool join_space; /* no decoder: tokens are joined with a space */
    /* Metaspace: the first token loses every replacement character */
    bool meta_decoder;
    char *meta;
    size_t meta_size;
    char strip_char[4];
    size_t strip_size, strip_start, strip_stop; /* the decoder's Strip after Fuse */
    /* what the model's other files say */
    int32_t bos, eos;
    /* rows of the model's embedding, 0: not known. No text may give an id beyond them */
    size_t n_rows;
    bool split_special; /* special tokens in a text are always spelled out */
    /* name -> text; "default" is the usual one; NULL: none; owned */
    json_t *chat_templates;
    json_t *special_map; /* "bos_token" -> text, ...; NULL: none; owned */
};

/* Read bos, eos, split_special_tokens and the chat template from a tokenizer_config.json. */
kq_status kq_tokenizer_apply_config(kq_tokenizer *tok, const json_t *config, const char *path, kq_error *err);
/* Read chat templates and the names of special tokens from a tokenizer_config.json; then the templates that
 * are files of a folder, which take the place of those. */
kq_status kq_chat_templates_from_config(kq_tokenizer *tok, const json_t *config, const char *path,
                                        kq_error *err);
kq_status kq_chat_templates_from_folder(kq_tokenizer *tok, const char *dir, kq_error *err);
/* id of a string in the model's vocabulary, -1: none. */
int32_t kq_tok_lookup(const kq_tokenizer *tok, const char *s, size_t size);
kq_status kq_tok_added_set(kq_added_set *set, const kq_added *added, size_t n, bool normalized,
                           kq_error *err);

/* The next added token of the set at or after *from in s [size]; NULL: there is none. [*start, *end) is its
 * extent with the white space that it takes along, and *from becomes the end of the match itself. done: where
 * the token before it ended. */
const kq_added *kq_tok_next_added(const kq_tokenizer *tok, const kq_added_set *set, const char *s,
                                  size_t size, bool parse_special, size_t done, size_t *from, size_t *start,
                                  size_t *end);
/* Put a token of the model's vocabulary, whose text is known, into the map that kq_tok_lookup reads. */
void kq_tok_map_insert(kq_tokenizer *tok, int32_t id);

/* Append the ids of one piece. */
kq_status kq_bpe_piece(const kq_tokenizer *tok, const char *s, size_t size, kq_tok_scratch *scratch,
                       kq_tok_ids *ids, kq_error *err);
kq_status kq_bpe_cache_new(kq_tok_scratch *scratch, kq_error *err);
void kq_bpe_cache_free(struct kq_bpe_cache *cache);
static inline size_t kq_merge_slot(const kq_tokenizer *tok, uint64_t key)
{
    return (size_t)((key * 0x9E3779B97F4A7C15u) >> tok->merge_shift);
}

#endif
