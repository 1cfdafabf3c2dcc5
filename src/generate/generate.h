/* Letting a model go on with a prompt. */
#ifndef KQ_GENERATE_GENERATE_H
#define KQ_GENERATE_GENERATE_H

#include "decode/engine.h"
#include "generate/sample.h"
#include "tokenizer/tokenizer.h"

/* Ends an answer: cfg's eos_id, and the tokenizer's eos; what separates documents only where cfg names
 * no end: transformers' generate() goes on behind it. */
bool kq_is_end(const kq_config *cfg, const kq_tokenizer *tok, int32_t id);

typedef struct kq_generate_options {
    size_t n_max; /* new tokens at most */
    kq_sampling sampling;
    /* texts that end the answer; neither they nor what follows is emitted. Empty ones are passed over */
    const char *const *stop;
    size_t n_stop;
    /* may be NULL; nonzero stops (not an error) */
    int (*emit)(void *ctx, const char *text, size_t size);
    void *ctx;
    int32_t *ids; /* may be NULL: [n_max], gets the new tokens */
} kq_generate_options;

typedef enum kq_end { KQ_END_LENGTH = 0, KQ_END_TOKEN, KQ_END_STOP, KQ_END_CALLER } kq_end;
typedef struct kq_generated {
    size_t n;        /* new tokens, the ending one not counted */
    kq_end finish;   /* n_max reached; an end token; a stop string; emit said so */
    size_t n_prompt; /* tokens of the prompt that were run (those cached were not) */
    double prompt_s, generate_s;
} kq_generated;

/* Continue a prompt in a slot of the engine, whose first n_cached tokens are the prompt's (as far as it
 * holds them); what else the slot holds is forgotten. 1 <= n_prompt, and the slot must have room for
 * n_prompt + n_max - 1 tokens. End tokens are neither emitted nor counted. emit gets whole UTF-8
 * characters as they become complete, held back only while they may be the beginning of a stop string;
 * bytes that are no UTF-8 become U+FFFD, and so does a character left unfinished at the end. Special
 * tokens have no text. *out (may be NULL) is set also on failure. Afterwards the slot holds the prompt
 * and all new tokens but the last. */
kq_status kq_generate(kq_engine *e, size_t slot, const kq_tokenizer *tok, const int32_t *prompt,
                      size_t n_prompt, size_t n_cached, const kq_generate_options *opt, kq_generated *out,
                      kq_error *err);

/* The token that text begins with: what the tokenizer itself puts before a text if it does so (LLaMA),
 * else the one between documents (SmolLM2, Qwen), else bos; -1: none. Not simply bos: SmolLM2-Instruct's
 * bos is "<|im_start|>", which begins a chat. */
kq_status kq_text_start(const kq_tokenizer *tok, int32_t *id, kq_error *err);

#endif
