/* Sequential rounding for `kronq quantize`: rounding.h. */
#include "sequential/rounding.h"

#include <string.h>

#include "base/mem.h"
#include "base/progress.h"
#include "prepare/sequences.h"
#include "text/windows.h"

/* Are there tokens for the streams, and factors that targets are rounded with? */
static bool possible(const kq_quantize_options *opt)
{
    return opt->calibration.n_text ? opt->factors || strcmp(opt->calibration.method, "none")
                                   : !opt->factors && strcmp(opt->calibration.method, "none");
}

static bool is_auto(const kq_quantize_options *opt)
{
    return !opt->sequential || !strcmp(opt->sequential, "auto");
}

bool kq_sequential_wanted(const kq_quantize_options *opt)
{
    if (!is_auto(opt))
        return !strcmp(opt->sequential, "yes");
    return !opt->only && possible(opt);
}

kq_status kq_sequential_settle(kq_quantize_options *opt, kq_error *err)
{
    const bool lacks_text = is_auto(opt) && !opt->only && opt->factors && !opt->calibration.n_text;
    opt->sequential = kq_sequential_wanted(opt) ? "yes" : "none";
    return lacks_text
               ? kq_progress_note(&opt->common,
                                  "each matrix is rounded by itself, because --factors is given without "
                                  "a --text on which to run the model (--sequential)",
                                  err)
               : KQ_OK;
}

kq_status kq_sequential_check(const kq_quantize_options *opt, kq_error *err)
{
    if (!kq_sequential_wanted(opt) || possible(opt))
        return KQ_OK;
    return opt->factors ? kq_fail(err, KQ_E_ARG,
                                  "--sequential yes with --factors: give the --text too, to run the model on")
                        : kq_fail(err, KQ_E_ARG,
                                  "--sequential yes with --method none: there are no factors "
                                  "to round towards targets with; give another --method");
}

static kq_sequential_options options(const kq_prepared *p, const kq_job *job)
{
    const size_t T = p->opt->calibration.seq_len, tokens = p->opt->calibration.tokens,
                 n = (tokens < KQ_SEQUENTIAL_TOKENS ? tokens : KQ_SEQUENTIAL_TOKENS) / T;
    return (kq_sequential_options){.weights = p->model ? kq_model_file_weights(p->model) : NULL,
                                   .n_seq = n ? n : 1,
                                   .T = T,
                                   .isa = p->isa,
                                   .compute = p->compute,
                                   .threads = p->threads,
                                   .job = job};
}

void kq_sequential_plan(const kq_prepared *p, size_t *memory, size_t *disk)
{
    if (!kq_sequential_wanted(p->opt))
        return;
    const kq_sequential_options o = options(p, NULL);
    *memory += kq_sequential_memory(p->cfg, &o);
    *disk += kq_sequential_disk(p->cfg, &o);
}

/* A factor file has kept no tokens, and its text may be shorter than all that the streams could have. */
static kq_status fit_text(const kq_prepared *p, size_t T, size_t *n_seq, kq_error *err)
{
    const kq_calibration *c = &p->opt->calibration;
    const kq_common silent = {.threads = p->threads};
    const kq_text_how how = {.options = c->reading, .tok = p->tok, .common = &silent};
    kq_status st = kq_text_count_windows(&how, c->text, c->n_text, *n_seq, T, n_seq, err);
    if (!st && !*n_seq)
        st = kq_fail(err, KQ_E_ARG, "%s: has less than one sequence of %zu tokens for --sequential yes",
                     c->text[0], T);
    return st;
}

/* o->n_seq of the calibration's windows, from all over it, as an array of the caller's. */
static kq_status choose(kq_prepared *p, const kq_job *job, kq_sequential_options *o, int32_t **ids,
                        kq_error *err)
{
    size_t n = p->n_seq;
    kq_status st = p->tok ? KQ_OK : kq_tokenizer_open(p->src, &p->tok, err);
    if (!st && !n && !(st = fit_text(p, o->T, &o->n_seq, err)))
        n = o->n_seq;
    if (!st)
        st = kq_prepare_sequences(p, job, &n, 1, err);
    if (!st)
        st = kq_alloc_for((void **)ids, o->n_seq * o->T, sizeof **ids, "token ids", err);
    for (size_t s = 0; s < o->n_seq && !st; s++)
        memcpy(*ids + s * o->T, p->windows.ids + s * p->windows.n / o->n_seq * o->T, o->T * sizeof **ids);
    return st;
}

kq_status kq_sequential_begin(kq_prepared *p, const kq_job *job, kq_sequential **out, kq_error *err)
{
    kq_sequential_options o = options(p, job);
    int32_t *ids = NULL;
    *out = NULL;
    if (!kq_sequential_wanted(p->opt))
        return KQ_OK;
    kq_status st = choose(p, job, &o, &ids, err);
    o.ids = ids;
    if (!st)
        st = kq_sequential_new(&o, out, err);
    kq_free(ids);
    return st;
}

kq_status kq_sequential_round(kq_sequential *s, size_t layer, kq_linear_id id, const kq_trellis *t,
                              const kq_round_input *in, const kq_round_options *opt, kq_packed *out,
                              kq_round_report *report, kq_error *err)
{
    float *target;
    if (!s)
        return kq_round_linear(t, in, opt, out, report, err);
    kq_status st = kq_alloc_for((void **)&target, in->m * in->n, sizeof *target, in->name, err);
    if (!st)
        st = kq_sequential_target(s, layer, id, in->W, target, err);
    if (!st) {
        kq_round_input towards = *in;
        towards.W = target;
        st = kq_round_linear(t, &towards, opt, out, report, err);
    }
    kq_free(target);
    return st ? st : kq_sequential_rounded(s, layer, id, t, out, err);
}
