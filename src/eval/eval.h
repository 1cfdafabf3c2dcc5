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
    /* most resident bytes of the process at its peak; 0: no limit. With less memory fewer windows are
     * evaluated at once, which changes no bit of the result */
    size_t memory;
    /* llama.cpp's convention: every measure counts only the positions ctx/2 .. ctx-2; ctx is at least 4 */
    bool half;
    /* saved logits to compare with instead of a reference model; half must be set; borrowed */
    const kq_kld_base *base;
    /* where to append the model's rows for a file of saved logits; half must be set; borrowed */
    kq_out *save;
    kq_eval_window *per_window; /* [windows] is filled; NULL: not wanted. Borrowed */
    /* the reference's hidden states on the same windows. Those of a whole file are read; otherwise they are
     * added, and the caller finishes the file. NULL: they are not kept. Borrowed */
    kq_hidden *hidden;
    /* [ctx, vocab]: kq_evaluate puts the model's logits of the first window here; NULL: not
     * wanted. Borrowed */
    float *logits;
    /* called on the calling thread with the fraction of the whole work, in (0, 1]; a nonzero return stops the
     * work; may be NULL */
    int (*progress)(void *ctx, const char *stage, double fraction);
    void *progress_ctx;
} kq_eval_options;
kq_eval_options kq_eval_defaults(void);
/* *out = the defaults with what the caller of the library chose: instruction set, compute type, threads, and
 * progress (so that common must outlive *out). The kernels are held to the instruction set from then on.
 * Errors are those of kq_isa_pick and kq_compute_pick. */
kq_status kq_eval_options_of(const kq_common *common, kq_eval_options *out, kq_error *err);

/* Standard errors (docs/math.md, "Measures"). `_stderr` is sd / sqrt(N) over the N tokens. It takes them as
 * independent draws, which the tokens of one window are not (they share topic and style), so it is somewhat
 * too small. `_stderr_windows` is the sd of the windows' means / sqrt(windows). It takes only the windows as
 * independent; it is rough with few windows, and NaN with one. */
enum { KQ_N_QUANTILE = 11 };
/* 0, 0.001, 0.01, 0.05, 0.1, 0.5, 0.9, 0.95, 0.99, 0.999, 1 */
extern const double kq_quantile[KQ_N_QUANTILE];

typedef struct kq_eval_figures {
    /* tokens: those that were scored, windows * (ctx - 1); with half, windows * (ctx - 1 - ctx/2) */
    size_t windows, tokens;
    double nll, nll_stderr, nll_stderr_windows; /* mean loss in nats a token, and its standard errors */
    double ppl, ppl_stderr, ppl_stderr_windows; /* exp(nll); delta method: ppl * stderr of nll */
    bool has_kld;
    /* mean over all windows * ctx positions of KL(reference || model), nats */
    double kld, kld_stderr, kld_stderr_windows;
    /* quantiles of the positions' values, linear between neighbours, as in llama-perplexity */
    double kld_quantile[KQ_N_QUANTILE];
    /* the reference's nll; ln(ppl / reference's ppl) with its paired standard error (tokens) */
    double reference_nll, ratio, ratio_stderr;
    double dp_mean, dp_rms; /* mean and root mean square of p(next token) - the reference's p(next token) */
    /* share of the compared positions where both have the same most likely token (ties: lowest id) */
    double top1, top1_stderr, top1_stderr_windows;
} kq_eval_figures;

/* Perplexity of consecutive windows of `ctx` ids, of which the last ctx-1 are scored; and, when reference is
 * not NULL, the KL divergence on the same windows. Both models are computed in the same compute type. The
 * work goes block by block over groups of windows. In memory are one block of each model, both heads, and the
 * hidden states of a group (512 MB, or those of one window if that is more; less with opt->memory). The bits
 * are the same for every number of threads and every memory limit. *out is written on success only. KQ_E_ARG:
 * ctx < 2, or there is no whole window; KQ_E_MISMATCH: the vocabularies differ; KQ_E_NUMERIC names the model,
 * the block and the window where NaN or Inf appears first; KQ_E_INTERRUPTED: progress said so; KQ_E_MEMORY:
 * opt->memory is too little. */
kq_status kq_evaluate(const kq_weights *model, const kq_weights *reference, const int32_t *ids, size_t n_ids,
                      const kq_eval_options *opt, kq_eval_figures *out, kq_error *err);

/* Check that opt->memory is enough for windows of opt->ctx tokens of models of these shapes (reference may be
 * NULL). KQ_E_MEMORY: kq_evaluate would fail with the same message. */
kq_status kq_evaluate_fits(const kq_config *model, const kq_config *reference, const kq_eval_options *opt,
                           kq_error *err);

#endif
