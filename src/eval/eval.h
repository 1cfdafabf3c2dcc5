/* Measuring a model: perplexity, and KL divergence to a reference. */
#ifndef KQ_EVAL_EVAL_H
#define KQ_EVAL_EVAL_H

#include "decode/engine.h"
#include "eval/hidden.h"
#include "eval/kld_base.h"
#include "tokenizer/tokenizer.h"
#include "model/model.h"

/* One window's means; kld and top1 are 0 without a reference. */
typedef struct kq_eval_window {
    double nll, kld, top1;
} kq_eval_window;

typedef struct kq_eval_options {
    size_t ctx;    /* tokens a window (2048) */
    size_t chunks; /* at most this many windows; 0: all */
    int threads;   /* 0 or less: as many as OpenMP offers */
    kq_isa isa;
    kq_compute compute;
    /* what the process may take at its peak, bytes resident: fewer windows at once, the same bits; 0: no
     * limit */
    size_t memory;
    /* llama.cpp's convention instead of ours: only the positions ctx/2 .. ctx-2 count, for every
     * measure. ctx is at least 4 then. */
    bool half;
    /* saved logits to compare with instead of a reference model; half must be set; borrowed */
    const kq_kld_base *base;
    /* where to append the model's rows for a file of saved logits; half must be set; borrowed */
    kq_out *save;
    kq_eval_window *per_window; /* [windows] is filled; NULL: not wanted. Borrowed */
    /* the reference's states on these very windows: read when they are whole, else added (and finished
     * by the caller); NULL: not kept. Borrowed */
    kq_hidden *hidden;
    /* kq_evaluate: the model's logits of the first window, [ctx, vocab], are put here; NULL: not wanted.
     * Borrowed */
    float *logits;
    /* May be NULL; nonzero stops. Called on the calling thread, fraction of the whole in (0, 1]. */
    int (*progress)(void *ctx, const char *stage, double fraction);
    void *progress_ctx;
} kq_eval_options;
kq_eval_options kq_eval_defaults(void);
/* The defaults with what the caller of the library chose: instruction set (which the kernels are then
 * held to), compute type, threads, progress (of which common must outlive *out). KQ_E_ARG,
 * KQ_E_UNSUPPORTED as kq_isa_pick and kq_compute_pick. */
kq_status kq_eval_options_of(const kq_common *common, kq_eval_options *out, kq_error *err);

/* Standard errors (docs/math.md, "Measures"): `_stderr` is sd / sqrt(N) over the N tokens, as if they
 * were independent draws; the tokens of one window are not (one topic, one style), so it is somewhat too
 * small. `_stderr_windows` takes the windows' means as the independent draws, sd over windows /
 * sqrt(windows): honest about that, but rough with few windows and NaN with one. */
enum { KQ_N_QUANTILE = 11 };
/* 0, 0.001, 0.01, 0.05, 0.1, 0.5, 0.9, 0.95, 0.99, 0.999, 1 */
extern const double kq_quantile[KQ_N_QUANTILE];

typedef struct kq_eval_figures {
    /* tokens scored: windows * (ctx - 1); half: windows * (ctx - 1 - ctx/2) */
    size_t windows, tokens;
    double nll, nll_stderr, nll_stderr_windows; /* mean nats a token */
    double ppl, ppl_stderr, ppl_stderr_windows; /* exp(nll); delta method: ppl * stderr of nll */
    bool has_kld;
    /* mean over all windows * ctx positions of KL(reference || model), nats */
    double kld, kld_stderr, kld_stderr_windows;
    /* of the positions' values, linear between neighbours, as llama-perplexity's */
    double kld_quantile[KQ_N_QUANTILE];
    /* the reference's nll; ln(ppl / reference's ppl) with its paired standard error (tokens) */
    double reference_nll, ratio, ratio_stderr;
    double dp_mean, dp_rms; /* of p(next token) - reference's p(next token) */
    /* share of those positions with the same most likely token (ties: lowest id) */
    double top1, top1_stderr, top1_stderr_windows;
} kq_eval_figures;

/* Perplexity of consecutive windows of `ctx` ids (last ctx-1 tokens of every whole window scored), and,
 * when reference is not NULL, the KL divergence on the same windows (both models in the same compute
 * type). Runs block by block over groups of windows, so that only one block of each model is in memory,
 * beside both heads and a group's hidden states (512 MB, or one window's if that is more; less with
 * opt->memory). The same bits for every number of threads and every memory limit.
 * KQ_E_ARG when ctx < 2 or there is not one whole window, KQ_E_MISMATCH when vocabularies differ,
 * KQ_E_NUMERIC names the model, the block and the window where NaN or Inf appears first,
 * KQ_E_INTERRUPTED when progress said so, KQ_E_MEMORY when opt->memory cannot hold. *out is only written
 * on success. */
kq_status kq_evaluate(const kq_weights *model, const kq_weights *reference, const int32_t *ids, size_t n_ids,
                      const kq_eval_options *opt, kq_eval_figures *out, kq_error *err);

/* Whether opt->memory will do for windows of opt->ctx tokens of models of these shapes (reference may be
 * NULL): KQ_E_MEMORY, as from kq_evaluate itself. */
kq_status kq_evaluate_fits(const kq_config *model, const kq_config *reference, const kq_eval_options *opt,
                           kq_error *err);

#endif
