/* Measuring a model: perplexity, KL divergence to a reference, and letting it speak. */
#ifndef KQ_EVAL_EVAL_H
#define KQ_EVAL_EVAL_H

#include "model/model.h"
#include "io/tokenizer.h"

typedef struct kq_eval_options {
    size_t ctx;     /* tokens a window (2048) */
    size_t chunks;  /* at most this many windows; 0: all */
    int threads;
    kq_isa isa;
    kq_compute compute;
    int (*progress)(void *ctx, const char *stage, double fraction); void *progress_ctx; /* may be NULL; nonzero stops */
} kq_eval_options;
kq_eval_options kq_eval_defaults(void);

typedef struct kq_eval_result {
    size_t windows, tokens;      /* tokens scored: windows * (ctx - 1) */
    double nll, nll_stderr;      /* mean nats a token; standard error over windows' tokens */
    double ppl, ppl_stderr;      /* exp(nll), delta method */
    bool has_kld;
    double kld, kld_stderr;      /* mean over all windows * ctx positions of KL(reference || model), nats */
    double top1, top1_stderr;    /* share of positions with the same most likely token */
} kq_eval_result;

/* Perplexity of consecutive windows of `ctx` ids (last ctx-1 tokens of every whole window scored), and, when reference is not NULL, the KL
 * divergence on the same windows (both models in the same compute type). Runs block by block over groups of windows, so that only one block of each model is in memory.
 * KQ_E_ARG when there is not one whole window, KQ_E_MISMATCH when vocabularies differ. */
kq_status kq_evaluate(const kq_weights *model, const kq_weights *reference, const int32_t *ids, size_t n_ids,
                      const kq_eval_options *opt, kq_eval_result *out, kq_error *err);

typedef struct kq_sampling { double temperature; int top_k; double top_p; uint64_t seed; } kq_sampling; /* temperature 0: the most likely; top_k 0, top_p 1: off */
/* One draw from logits [n] (log-softmax is taken inside; logits are overwritten). u in [0,1) is the random number. */
int32_t kq_sample(float *logits, size_t n, const kq_sampling *s, double u);

/* Generate until an end token, n_max tokens, or emit says stop (nonzero). emit gets whole UTF-8 characters as they become complete. */
kq_status kq_generate(kq_decoder *dec, const kq_tokenizer *tok, const kq_config *cfg, const int32_t *prompt, size_t n_prompt, size_t n_max, const kq_sampling *s,
                      int (*emit)(void *ctx, const char *text, size_t size), void *ctx, size_t *n_generated, kq_error *err);

/* Calibration text written by the model itself (design section 3): n_seq sequences of seq_len ids each, sampled at temperature 1 from the
 * beginning (or document end) token, seeded; sequence i depends only on (seed, i). ids [n_seq, seq_len]. End tokens are kept and the text goes on. */
kq_status kq_self_text(const kq_weights *w, const kq_tokenizer *tok, size_t n_seq, size_t seq_len, const kq_eval_options *opt, uint64_t seed, int32_t *ids, kq_error *err);

#endif
