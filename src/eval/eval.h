/* Measuring a model: perplexity, KL divergence to a reference, and letting it speak. */
#ifndef KQ_EVAL_EVAL_H
#define KQ_EVAL_EVAL_H

#include "decode/engine.h"
#include "eval/hidden.h"
#include "eval/kld_base.h"
#include "io/tokenizer.h"
#include "model/model.h"

/* One window's means; kld and top1 are 0 without a reference. */
typedef struct kq_eval_window { double nll, kld, top1; } kq_eval_window;

typedef struct kq_eval_options {
    size_t ctx;     /* tokens a window (2048) */
    size_t chunks;  /* at most this many windows; 0: all */
    int threads;    /* 0 or less: as many as OpenMP offers */
    kq_isa isa;
    kq_compute compute;
    size_t memory;  /* what the process may take at its peak, bytes resident: fewer windows at once, the same bits; 0: no limit */
    /* llama.cpp's convention instead of ours: only the positions ctx/2 .. ctx-2 count, for every measure. ctx is at least 4 then. */
    bool half;
    const kq_kld_base *base; /* saved logits to compare with instead of a reference model; half must be set; borrowed */
    kq_out *save;   /* where to append the model's rows for a file of saved logits; half must be set; borrowed */
    kq_eval_window *per_window; /* [windows] is filled; NULL: not wanted. Borrowed */
    kq_hidden *hidden; /* the reference's states on these very windows: read when they are whole, else added (and finished by the caller); NULL: not kept. Borrowed */
    float *logits;  /* kq_evaluate: the model's logits of the first window, [ctx, vocab], are put here; NULL: not wanted. Borrowed */
    /* May be NULL; nonzero stops. Called on the calling thread, fraction of the whole in (0, 1]. */
    int (*progress)(void *ctx, const char *stage, double fraction);
    void *progress_ctx;
} kq_eval_options;
kq_eval_options kq_eval_defaults(void);
/* The defaults with what the caller of the library chose: instruction set (which the kernels are then held to), compute type, threads, progress (of
 * which common must outlive *out). KQ_E_ARG, KQ_E_UNSUPPORTED as kq_isa_pick and kq_compute_pick. */
kq_status kq_eval_options_of(const kq_common *common, kq_eval_options *out, kq_error *err);

/* Standard errors (docs/math.md, "Measures"): `_stderr` is sd / sqrt(N) over the N tokens, as if they were independent draws; the tokens of
 * one window are not (one topic, one style), so it is somewhat too small. `_stderr_windows` takes the windows' means as the independent
 * draws, sd over windows / sqrt(windows): honest about that, but rough with few windows and NaN with one. */
enum { KQ_N_QUANTILE = 11 };
extern const double kq_quantile[KQ_N_QUANTILE]; /* 0, 0.001, 0.01, 0.05, 0.1, 0.5, 0.9, 0.95, 0.99, 0.999, 1 */

typedef struct kq_eval_result {
    size_t windows, tokens;      /* tokens scored: windows * (ctx - 1); half: windows * (ctx - 1 - ctx/2) */
    double nll, nll_stderr, nll_stderr_windows;    /* mean nats a token */
    double ppl, ppl_stderr, ppl_stderr_windows;    /* exp(nll); delta method: ppl * stderr of nll */
    bool has_kld;
    double kld, kld_stderr, kld_stderr_windows;    /* mean over all windows * ctx positions of KL(reference || model), nats */
    double kld_quantile[KQ_N_QUANTILE];            /* of the positions' values, linear between neighbours, as llama-perplexity's */
    double reference_nll, ratio, ratio_stderr;     /* the reference's nll; ln(ppl / reference's ppl) with its paired standard error (tokens) */
    double dp_mean, dp_rms;                        /* of p(next token) - reference's p(next token) */
    double top1, top1_stderr, top1_stderr_windows; /* share of those positions with the same most likely token (ties: lowest id) */
} kq_eval_result;

/* Perplexity of consecutive windows of `ctx` ids (last ctx-1 tokens of every whole window scored), and, when reference is not NULL, the KL
 * divergence on the same windows (both models in the same compute type). Runs block by block over groups of windows, so that only one block
 * of each model is in memory, beside both heads and a group's hidden states (512 MB, or one window's if that is more; less with opt->memory).
 * The same bits for every number of threads and every memory limit.
 * KQ_E_ARG when ctx < 2 or there is not one whole window, KQ_E_MISMATCH when vocabularies differ, KQ_E_NUMERIC names the model, the block
 * and the window where NaN or Inf appears first, KQ_E_INTERRUPTED when progress said so, KQ_E_MEMORY when opt->memory cannot hold. *out is only written on success. */
kq_status kq_evaluate(const kq_weights *model, const kq_weights *reference, const int32_t *ids, size_t n_ids,
                      const kq_eval_options *opt, kq_eval_result *out, kq_error *err);

/* Whether opt->memory will do for windows of opt->ctx tokens of models of these shapes (reference may be NULL): KQ_E_MEMORY, as from kq_evaluate itself. */
kq_status kq_evaluate_fits(const kq_config *model, const kq_config *reference, const kq_eval_options *opt, kq_error *err);

typedef struct kq_sampling {
    double temperature; /* 0: the most likely */
    int top_k;          /* 0: off */
    double top_p;       /* 1: off */
    uint64_t seed;
    double min_p;       /* tokens less likely than this share of the most likely one's probability are left out; 0: off */
    double repetition_penalty; /* for kq_penalize; 0 or 1: off */
} kq_sampling;
/* What the model's authors recommend for drawing (its folder's generation_config.json: temperature, top_p, top_k, min_p, repetition_penalty; do_sample is not
 * looked at, as vLLM does it), what they leave out being off; all of `otherwise` when they say nothing, or the model is a GGUF. The seed is `otherwise`'s. */
kq_status kq_sampling_recommended(const kq_source *src, const kq_sampling *otherwise, kq_sampling *out, kq_error *err);
/* One draw from logits [n] (log-softmax is taken inside; logits are overwritten). u in [0,1) is the random number; tokens share
 * [0,1) in the order of their ids. First the temperature, then the k most likely, then of those (renormalised) the fewest most likely
 * whose sum reaches top_p, at least one, then min_p (Hugging Face's order); equal logits are kept lowest ids first. Temperature 0: the most
 * likely, ties to the lowest id. -1: a logit is NaN or +Inf, or none is finite. */
int32_t kq_sample(float *logits, size_t n, const kq_sampling *s, double u);
/* Before kq_sample: make the tokens of the context less likely (Keskar et al. 2019): each id that occurs in ids, once, has its logit divided by the
 * penalty if positive, else multiplied by it. penalty 1 or 0: nothing. Ids outside [0, n) are passed over. */
kq_status kq_penalize(float *logits, size_t n, const int32_t *ids, size_t n_ids, double penalty, kq_error *err);

/* Ends an answer: cfg's eos_id, and the tokenizer's eos; what separates documents only where cfg names no end: transformers' generate() goes on behind it. */
bool kq_is_end(const kq_config *cfg, const kq_tokenizer *tok, int32_t id);

typedef struct kq_generate_options {
    size_t n_max;                         /* new tokens at most */
    kq_sampling sampling;
    const char *const *stop; size_t n_stop; /* texts that end the answer; neither they nor what follows is emitted. Empty ones are passed over */
    int (*emit)(void *ctx, const char *text, size_t size); /* may be NULL; nonzero stops (not an error) */
    void *ctx;
    int32_t *ids;                         /* may be NULL: [n_max], gets the new tokens */
} kq_generate_options;

typedef enum kq_end { KQ_END_LENGTH = 0, KQ_END_TOKEN, KQ_END_STOP, KQ_END_CALLER } kq_end;
typedef struct kq_generated {
    size_t n;                     /* new tokens, the ending one not counted */
    kq_end finish;             /* n_max reached; an end token; a stop string; emit said so */
    size_t n_prompt;              /* tokens of the prompt that were run (those cached were not) */
    double prompt_s, generate_s;
} kq_generated;

/* Continue a prompt in a slot of the engine, whose first n_cached tokens are the prompt's (as far as it holds them); what else the slot holds is
 * forgotten. 1 <= n_prompt, and the slot must have room for n_prompt + n_max - 1 tokens. End tokens are neither emitted nor counted. emit gets
 * whole UTF-8 characters as they become complete, held back only while they may be the beginning of a stop string; bytes that are no
 * UTF-8 become U+FFFD, and so does a character left unfinished at the end. Special tokens have no text. *out (may be NULL) is set also on
 * failure. Afterwards the slot holds the prompt and all new tokens but the last. */
kq_status kq_generate(kq_engine *e, size_t slot, const kq_tokenizer *tok, const int32_t *prompt, size_t n_prompt, size_t n_cached,
                      const kq_generate_options *opt, kq_generated *out, kq_error *err);

/* The token that text begins with: what the tokenizer itself puts before a text if it does so (LLaMA), else the one between documents
 * (SmolLM2, Qwen), else bos; -1: none. Not simply bos: SmolLM2-Instruct's bos is "<|im_start|>", which begins a chat. */
kq_status kq_text_start(const kq_tokenizer *tok, int32_t *id, kq_error *err);

/* Calibration text written by the model itself: n_seq sequences of seq_len ids each, sampled at temperature 1, seeded; the first id of each is
 * kq_text_start's. A token that ends an answer (kq_is_end), or a document, ends the text: it is kept, and behind it a new text begins with kq_text_start's token, of
 * which the one before is forgotten (where both are the same token, it stands once). ids [n_seq, seq_len].
 * Sequence i depends only on the model, seq_len and (seed, i): the engine's logits do not depend on what is decoded beside it. 32 sequences at
 * once, halved until their key/value cache is at most 4 GiB. opt: threads, isa, compute and progress are used; the cache is in bf16.
 * KQ_E_ARG when there is no token to begin with. */
kq_status kq_self_text(const kq_weights *w, const kq_tokenizer *tok, size_t n_seq, size_t seq_len, const kq_eval_options *opt,
                       uint64_t seed, int32_t *ids, kq_error *err);
/* Bytes it takes: the whole model in the compute type, and the caches of one batch. */
size_t kq_self_text_bytes(const kq_config *cfg, size_t seq_len, kq_compute compute);

#endif
