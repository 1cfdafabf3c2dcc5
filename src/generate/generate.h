/* Letting a model continue a prompt. */
#ifndef KQ_GENERATE_GENERATE_H
#define KQ_GENERATE_GENERATE_H

#include "decode/engine.h"
#include "generate/sample.h"
#include "tokenizer/tokenizer.h"

/* Does this token end an answer? Those that do are cfg's eos_id and the tokenizer's eos, and, where cfg names
 * no end, the token that separates documents. (Where cfg names an end, transformers' generate() goes on after
 * a separator.) */
bool kq_is_end(const kq_config *cfg, const kq_tokenizer *tok, int32_t id);

typedef struct kq_generate_options {
    size_t n_max; /* new tokens at most */
    kq_sampling sampling;
    /* Texts that end the answer; neither they nor what follows is emitted. Empty ones are passed over. */
    const char *const *stop;
    size_t n_stop;
    /* Gets the answer's text piece by piece; may be NULL. A nonzero return stops, which is no error. */
    int (*emit)(void *ctx, const char *text, size_t size);
    void *ctx;
    int32_t *ids; /* [n_max], gets the new tokens; may be NULL */
} kq_generate_options;

typedef struct kq_generated {
    size_t n; /* new tokens, without the ending one */
    kq_end finish;
    size_t n_prompt; /* tokens of the prompt that were run; those in the cache were not */
    double prompt_s, generate_s;
} kq_generated;

/* Continue a prompt in a slot of the engine. The slot's first n_cached tokens are taken for the prompt's, as
 * far as the slot holds so many; what else it holds is forgotten. 1 <= n_prompt (KQ_E_ARG), and the slot must
 * have room for n_prompt
 * + n_max - 1 tokens (the engine's KQ_E_ARG). End tokens are neither emitted nor counted. emit gets whole
 * UTF-8 characters as they become complete; they are held back only while they may be the beginning of a stop
 * string. Bytes that are no UTF-8 become U+FFFD, and so does a character left unfinished at the end. Special
 * tokens have no text. *out (may be NULL) is set on failure as well. Afterwards the slot holds the prompt and
 * all new tokens but the last. KQ_E_NUMERIC: the logits hold NaN or Inf. */
kq_status kq_generate(kq_engine *e, size_t slot, const kq_tokenizer *tok, const int32_t *prompt,
                      size_t n_prompt, size_t n_cached, const kq_generate_options *opt, kq_generated *out,
                      kq_error *err);

/* The token that a text begins with: what the tokenizer itself puts before a text if it does so (LLaMA);
 * otherwise the token between documents (SmolLM2, Qwen); otherwise bos; -1: none. It is not simply bos,
 * because SmolLM2-Instruct's bos is "<|im_start|>", which begins a chat. */
kq_status kq_text_start(const kq_tokenizer *tok, int32_t *id, kq_error *err);

#endif
