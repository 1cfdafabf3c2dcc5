/* What --text and --ppl name: files, pipes and standard input as documents, and as token ids.
 * docs/texts.md is the specification.
 *
 * A file is looked at, not its name: plain text in UTF-8, UTF-16 or UTF-32 (the last two with a byte
 * order mark) is one document; JSON lines, a JSON array, or one JSON object hold documents; each of them
 * may be packed with gzip or zstd. Everything else is refused by its name. */
#ifndef KQ_TEXT_TEXT_H
#define KQ_TEXT_TEXT_H

#include <jansson.h>

#include "base/hash.h"
#include "tokenizer/tokenizer.h"

/* The name in messages ("standard input" for "-"), and the one in reports: the last part of the path,
 * "pipe" for a process substitution. */
const char *kq_text_shown(const char *path);
const char *kq_text_name(const char *path);

/* A pipe can be read once, but jobs read their texts twice: what pipes gave between these two calls is
 * kept (in an unlinked file in TMPDIR). They may be nested, also by several threads; the last
 * kq_text_forget lets go. */
void kq_text_keep(void);
void kq_text_forget(void);

/* How to read. */
typedef struct kq_text_how {
    kq_text_options options;
    /* renders conversations with its template; NULL: they are checked, and handed out empty */
    const kq_tokenizer *tok;
    /* bytes of (unpacked) text after which no further document begins, and a plain text ends; SIZE_MAX:
     * all of it, up to KQ_TEXT_MOST */
    size_t reach;
    const kq_common *common; /* its progress function can stop the reading; NULL: none */
} kq_text_how;

#define KQ_TEXT_MOST \
    ((size_t)4 << 30) /* unpacked bytes of one file that is to be read whole: what is larger is refused */
#define KQ_TEXT_MOST_DOCUMENT ((size_t)1 << 30) /* of one plain text */
#define KQ_TEXT_MOST_VALUE ((size_t)256 << 20)  /* of one document in JSON */

/* How far to read for this many tokens that are taken from all over the text: 16 MiB, or 32 bytes a
 * token if that is more. So a calibration of 131072 tokens from a file of any size reads 16 MiB. */
size_t kq_text_reach(size_t tokens);

/* What a file turned out to be. */
typedef struct kq_text_info {
    const char *format; /* "text", "JSON lines" or "JSON" */
    /* "gzip", "zstd" or NULL; "UTF-8", "UTF-16LE", ... All static. */
    const char *packing, *encoding;
    size_t documents, conversations; /* the latter among the former */
    size_t bytes;                    /* of the unpacked text, that were read */
    bool whole;                      /* read to its end */
} kq_text_info;

typedef struct kq_text_document {
    const char *text;
    size_t size; /* UTF-8, borrowed for the call */
    /* rendered: holds the template's special tokens, also a beginning token where the template writes
     * one */
    bool conversation;
    size_t line; /* of the file, from 1, where it begins */
} kq_text_document;

/* Called for every document; *enough ends the reading. */
typedef kq_status kq_text_visitor(void *ctx, const kq_text_document *doc, bool *enough, kq_error *err);

/* Read PATH's documents, one at a time (visit NULL: they are only checked). Memory: the largest document.
 * KQ_E_UNSUPPORTED: it is no text, or a kind of JSON that is not read; KQ_E_FORMAT: damaged, or not what
 * it seems; KQ_E_ARG: it holds no text, or is too large. Every message names the file, and the line. */
kq_status kq_text_read(const char *path, const kq_text_how *how, kq_text_visitor *visit, void *ctx,
                       kq_text_info *info, kq_error *err);

/* Add to hash the text that kq_text_read would read, unpacked and decoded, with size_first after the
 * number of bytes in the file (all ones for a pipe): the same when a job is continued with the same
 * text. Checks all of it. */
kq_status kq_text_hash(const char *path, const kq_text_how *how, bool size_first, kq_hash *hash,
                       kq_text_info *info, kq_error *err);

/* Token ids of files one after another. */
typedef struct kq_text_ids {
    int32_t *ids;
    size_t n; /* owned */
    /* owned: one object a file {"file", "format", "packing", "encoding", "documents", "conversations",
     * "bytes", "whole", "tokens", "special_tokens"} */
    json_t *report;
} kq_text_ids;

/* Documents are joined by kq_tokenizer_document_end's token, where there is one. first: put the
 * tokenizer's own first tokens (a beginning token) before the first document, unless it is a
 * conversation, whose template does that. Special tokens that a text spells out become their ids, unless
 * how->options.spell_special. n_tokens: how many tokens the caller uses. how->reach is doubled until so many
 * are there or the files end; early: stop as soon as they are there. how->tok must not be NULL. */
kq_status kq_text_encode(const char *const *files, size_t n_files, const kq_text_how *how, size_t n_tokens,
                         bool early, bool first, kq_text_ids *out, kq_error *err);
void kq_text_ids_free(kq_text_ids *t);

/* All of PATH as UTF-8, unpacked and decoded, at most `most` bytes: for files that have a format of
 * their own. *text: kq_free; a NUL follows it that *size does not count. */
kq_status kq_text_load(const char *path, size_t most, char **text, size_t *size, kq_error *err);

#endif
