/* Text into token ids and back, as the model's own tokenizer does it. Two kinds are known: byte-level BPE,
 * and LLaMA-2's BPE with fallback to bytes. */
#ifndef KQ_TOKENIZER_TOKENIZER_H
#define KQ_TOKENIZER_TOKENIZER_H

#include <jansson.h>

#include "source/source.h"

typedef struct kq_tokenizer kq_tokenizer;

/* Open the tokenizer of a model: tokenizer.json and the files beside it in the source's folder, or the
 * tokenizer.ggml.* metadata of a GGUF. The caller frees *out (kq_tokenizer_free).
 * A token beyond the embedding's rows gives a warning, and KQ_E_MISMATCH from encoding a text that has it.
 * Where every text would begin or end with such a token, opening fails with KQ_E_MISMATCH. */
kq_status kq_tokenizer_open(const kq_source *src, kq_tokenizer **out, kq_error *err);
/* Open a tokenizer.json and the files beside it that exist (tokenizer_config.json,
 * special_tokens_map.json, added_tokens.json, config.json, chat_template.jinja), with the ids that
 * AutoTokenizer of transformers 5 gives: added tokens that only those files name get ids after the
 * vocabulary, and the classes LlamaTokenizer, CodeLlamaTokenizer and Qwen2Tokenizer bring their own
 * normalizer, pre-tokenizer and decoder. What is understood:
 *   - model: BPE (byte_fallback, fuse_unk, ignore_merges)
 *   - normalizers: NFC, NFD, NFKC, NFKD, Prepend, Replace
 *   - pre-tokenizers: ByteLevel, Split, Digits, Metaspace
 *   - decoders: ByteLevel, Metaspace, Replace, ByteFallback, Fuse, Strip
 *   - post-processors: ByteLevel, TemplateProcessing
 *   - Sequences of them
 * KQ_E_UNSUPPORTED names anything else, dropout, and patterns that patterns.c does not have. \p{...} follows
 * the Unicode version of the installed PCRE2 (10.42: Unicode 14); characters that were assigned later may be
 * cut differently. truncation and padding are not applied. */
kq_status kq_tokenizer_open_file(const char *tokenizer_json, kq_tokenizer **out, kq_error *err);
void kq_tokenizer_close(kq_tokenizer *tok);

/* *ids = the *n_ids token ids of text (size bytes; invalid UTF-8 becomes U+FFFD as in Rust's
 * from_utf8_lossy). add_special: add what the tokenizer's own post-processor adds (a beginning token for
 * LLaMA; nothing for SmolLM2 and Qwen). parse_special: special tokens written in the text ("<|im_end|>")
 * become their ids, as `tokenizers` does. *ids is the caller's (kq_free). Safe from several threads. */
kq_status kq_tokenizer_encode(const kq_tokenizer *tok, const char *text, size_t size, bool add_special,
                              bool parse_special, int32_t **ids, size_t *n_ids, kq_error *err);
/* Options of kq_tokenizer_encode_with, which encodes texts that others send. stop (may be NULL) is asked once
 * at the start and every few thousand steps of the work, from the calling thread; true ends the work with
 * KQ_E_INTERRUPTED. Whatever the bytes are, the time grows with the size of the text (n log n where the
 * tokenizer does not cut it), and between two questions there is at most one pass over the text. */
typedef struct kq_encode_options {
    bool add_special, parse_special;
    bool (*stop)(void *ctx);
    void *ctx;
} kq_encode_options;
kq_status kq_tokenizer_encode_with(const kq_tokenizer *tok, const char *text, size_t size,
                                   const kq_encode_options *opt, int32_t **ids, size_t *n_ids, kq_error *err);
/* *text = the bytes of ids, the caller's (kq_free). They may end or begin within a UTF-8 character. A final
 * NUL is not counted. skip_special leaves special tokens out. Ids without a token (the padded rows of an
 * embedding) add nothing, as in `tokenizers`. KQ_E_ARG: a negative id. */
kq_status kq_tokenizer_decode(const kq_tokenizer *tok, const int32_t *ids, size_t n_ids, bool skip_special,
                              char **text, size_t *size, kq_error *err);
/* The bytes that one id adds inside a text, for streaming: borrowed, alive as long as tok. A character may
 * come in parts. The bytes of all ids of a sequence, joined, are what kq_tokenizer_decode gives, except for
 * the space at the beginning that LLaMA-2's decoder takes from the first token. */
kq_status kq_tokenizer_token_bytes(const kq_tokenizer *tok, int32_t id, const char **bytes, size_t *size,
                                   kq_error *err);

size_t kq_tokenizer_vocab_size(const kq_tokenizer *tok); /* highest id + 1 */
int32_t kq_tokenizer_bos(const kq_tokenizer *tok);       /* -1: none */
int32_t kq_tokenizer_eos(const kq_tokenizer *tok);       /* the tokenizer's eos, -1: none */
/* Is it a token that marks something ("<|im_end|>") and not text? */
bool kq_tokenizer_is_special(const kq_tokenizer *tok, int32_t id);
/* id of an exact token string, -1: none */
int32_t kq_tokenizer_id(const kq_tokenizer *tok, const char *token);
/* The token that separates documents: "<|endoftext|>"/"<|end_of_text|>" when there is one, else eos. -1:
 * none. */
int32_t kq_tokenizer_document_end(const kq_tokenizer *tok);

/* The model's usual chat template as text, borrowed; NULL: none. */
const char *kq_tokenizer_chat_template(const kq_tokenizer *tok);
/* All chat templates, an object of name -> text ("default", "tool_use", ...), borrowed; NULL: none. They come
 * from chat_template.jinja and the files of additional_chat_templates/; without such files from
 * "chat_template" of tokenizer_config.json; in a GGUF from tokenizer.chat_template and
 * tokenizer.chat_template.NAME. */
const json_t *kq_tokenizer_chat_templates(const kq_tokenizer *tok);
/* The special tokens that a template knows by name, as transformers' special_tokens_map: an object of
 * "bos_token" -> text and so on, borrowed; NULL: none. */
const json_t *kq_tokenizer_special_tokens(const kq_tokenizer *tok);

#endif
