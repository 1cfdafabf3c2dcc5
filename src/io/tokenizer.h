/* Text <-> token ids, as the model's own tokenizer does it (byte-level BPE; LLaMA-2's byte-fallback BPE). */
#ifndef KQ_IO_TOKENIZER_H
#define KQ_IO_TOKENIZER_H

#include "io/source.h"

typedef struct kq_tokenizer kq_tokenizer;

/* From tokenizer.json (+ tokenizer_config.json) of the source's folder, or from the GGUF's tokenizer.ggml.* metadata. */
kq_status kq_tokenizer_open(const kq_source *src, kq_tokenizer **out, kq_error *err);
/* From a tokenizer.json (tokenizer_config.json beside it is read when it exists). */
kq_status kq_tokenizer_open_file(const char *tokenizer_json, kq_tokenizer **out, kq_error *err);
void kq_tokenizer_close(kq_tokenizer *tok);

/* Token ids of text (size bytes; invalid UTF-8 is replaced by U+FFFD as Rust's from_utf8_lossy does). add_special: add what the tokenizer's
 * own post-processor adds (a beginning token for LLaMA; nothing for SmolLM2 and Qwen). parse_special: special tokens written
 * in the text ("<|im_end|>") become their ids, as `tokenizers` does. *ids is the caller's (kq_free). Safe from several threads. */
kq_status kq_tokenizer_encode(const kq_tokenizer *tok, const char *text, size_t size, bool add_special, bool parse_special,
                              int32_t **ids, size_t *n_ids, kq_error *err);
/* The bytes of ids (not always whole UTF-8 characters), with a final NUL not counted. skip_special leaves special tokens out. */
kq_status kq_tokenizer_decode(const kq_tokenizer *tok, const int32_t *ids, size_t n_ids, bool skip_special,
                              char **text, size_t *size, kq_error *err);

size_t kq_tokenizer_vocab_size(const kq_tokenizer *tok); /* highest id + 1 */
int32_t kq_tokenizer_bos(const kq_tokenizer *tok);       /* -1: none */
int32_t kq_tokenizer_eos(const kq_tokenizer *tok);       /* the tokenizer's eos, -1: none */
int32_t kq_tokenizer_id(const kq_tokenizer *tok, const char *token); /* id of an exact token string, -1: none */
/* The token that separates documents: "<|endoftext|>"/"<|end_of_text|>" when there is one, else eos. -1: none. */
int32_t kq_tokenizer_document_end(const kq_tokenizer *tok);

typedef struct kq_message { const char *role, *content; } kq_message;
/* The text of a conversation in the model's chat format, ending where the assistant speaks. The three families' templates are written
 * out in C (ChatML of SmolLM2/Qwen with SmolLM2's default system message, LLaMA-2's [INST], LLaMA-3's headers) and recognised by
 * markers in the model's chat_template; the template itself is data and is never executed. KQ_E_UNSUPPORTED when none fits. */
kq_status kq_chat_render(const kq_tokenizer *tok, const kq_message *messages, size_t n, char **text, kq_error *err);

/* Write the Hugging Face side files of a GGUF source into folder `dir`: tokenizer.json, tokenizer_config.json (with the chat
 * template), special_tokens_map.json, generation_config.json. The stock `tokenizers` package must give the same ids from them. */
kq_status kq_write_hf_side_files(const kq_source *src, const char *dir, kq_error *err);
/* The text of config.json for a source (a folder's own, or made from GGUF metadata). kq_free. Without quantization_config. */
kq_status kq_config_json(const kq_source *src, char **json, kq_error *err);

#endif
