/* Text <-> token ids, as the model's own tokenizer does it (byte-level BPE; LLaMA-2's byte-fallback BPE). */
#ifndef KQ_TOKENIZER_TOKENIZER_H
#define KQ_TOKENIZER_TOKENIZER_H

#include <jansson.h>

#include "source/source.h"

typedef struct kq_tokenizer kq_tokenizer;

/* From tokenizer.json and the files beside it in the source's folder, or from the GGUF's
 * tokenizer.ggml.* metadata.
 * Tokens beyond the embedding's rows: a warning, and KQ_E_MISMATCH from encode for a text that has one;
 * at once, when they begin or end every text. */
kq_status kq_tokenizer_open(const kq_source *src, kq_tokenizer **out, kq_error *err);
/* From a tokenizer.json and the files beside it that exist (tokenizer_config.json,
 * special_tokens_map.json, added_tokens.json, config.json, chat_template.jinja), with the ids that
 * AutoTokenizer of transformers 5 gives: added tokens that only those files name are numbered on from
 * the vocabulary, and the classes LlamaTokenizer, CodeLlamaTokenizer and Qwen2Tokenizer bring their own
 * normalizer, pre-tokenizer and decoder. Understood: model BPE (byte_fallback, fuse_unk, ignore_merges);
 * normalizers NFC, NFD, NFKC, NFKD, Prepend, Replace; pre-tokenizers ByteLevel, Split, Digits,
 * Metaspace; decoders ByteLevel, Metaspace, Replace, ByteFallback, Fuse, Strip; post-processors
 * ByteLevel, TemplateProcessing; and Sequences of them. Anything else, dropout, and regex constructs
 * that other engines read differently: KQ_E_UNSUPPORTED with its name. \p{...} follows the Unicode
 * version of the installed PCRE2 (10.42: Unicode 14); characters assigned later may be cut differently.
 * truncation and padding are not applied. A GGUF's metadata (models "gpt2" and "llama") is turned into
 * the same JSON first. */
kq_status kq_tokenizer_open_file(const char *tokenizer_json, kq_tokenizer **out, kq_error *err);
void kq_tokenizer_close(kq_tokenizer *tok);

/* Token ids of text (size bytes; invalid UTF-8 is replaced by U+FFFD as Rust's from_utf8_lossy does).
 * add_special: add what the tokenizer's own post-processor adds (a beginning token for LLaMA; nothing
 * for SmolLM2 and Qwen). parse_special: special tokens written in the text ("<|im_end|>") become their
 * ids, as `tokenizers` does. *ids is the caller's (kq_free). Safe from several threads. */
kq_status kq_tokenizer_encode(const kq_tokenizer *tok, const char *text, size_t size, bool add_special,
                              bool parse_special, int32_t **ids, size_t *n_ids, kq_error *err);
/* The same, for texts that others send: stop (may be NULL) is asked every few thousand steps of the
 * work, from the calling thread, and once at the start; true ends it with KQ_E_INTERRUPTED. No step
 * takes longer than one pass over the text: the time of all of them together grows with the size (n log
 * n where the tokenizer does not cut the text), whatever the bytes are. */
typedef struct kq_encode_options {
    bool add_special, parse_special;
    bool (*stop)(void *ctx);
    void *ctx;
} kq_encode_options;
kq_status kq_tokenizer_encode_with(const kq_tokenizer *tok, const char *text, size_t size,
                                   const kq_encode_options *opt, int32_t **ids, size_t *n_ids, kq_error *err);
/* The bytes of ids (not always whole UTF-8 characters), with a final NUL not counted. skip_special
 * leaves special tokens out. Ids that have no token (the padded rows of an embedding) add nothing, as in
 * `tokenizers`; negative ones are KQ_E_ARG. */
kq_status kq_tokenizer_decode(const kq_tokenizer *tok, const int32_t *ids, size_t n_ids, bool skip_special,
                              char **text, size_t *size, kq_error *err);
/* The bytes that one id adds inside a text (for streaming): borrowed, alive as long as tok. A character
 * may come in parts; the bytes of a whole sequence, joined, are what kq_tokenizer_decode gives, but for
 * the leading space that LLaMA-2's decoder takes from the first token. */
kq_status kq_tokenizer_token_bytes(const kq_tokenizer *tok, int32_t id, const char **bytes, size_t *size,
                                   kq_error *err);

size_t kq_tokenizer_vocab_size(const kq_tokenizer *tok); /* highest id + 1 */
int32_t kq_tokenizer_bos(const kq_tokenizer *tok);       /* -1: none */
int32_t kq_tokenizer_eos(const kq_tokenizer *tok);       /* the tokenizer's eos, -1: none */
/* one that marks something ("<|im_end|>"), not text */
bool kq_tokenizer_is_special(const kq_tokenizer *tok, int32_t id);
/* id of an exact token string, -1: none */
int32_t kq_tokenizer_id(const kq_tokenizer *tok, const char *token);
/* The token that separates documents: "<|endoftext|>"/"<|end_of_text|>" when there is one, else eos. -1:
 * none. */
int32_t kq_tokenizer_document_end(const kq_tokenizer *tok);

/* The model's usual chat template as text, borrowed; NULL: none. */
const char *kq_tokenizer_chat_template(const kq_tokenizer *tok);
/* All of them, an object of name -> text ("default", "tool_use", ...), borrowed; NULL: none. From
 * chat_template.jinja and the files of additional_chat_templates/; without them from "chat_template" of
 * tokenizer_config.json; or a GGUF's tokenizer.chat_template and .NAME. */
const json_t *kq_tokenizer_chat_templates(const kq_tokenizer *tok);
/* What a template knows of the special tokens, as transformers' special_tokens_map: "bos_token" -> text,
 * ...; borrowed; NULL: nothing. */
const json_t *kq_tokenizer_special_tokens(const kq_tokenizer *tok);

#endif
