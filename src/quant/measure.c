/* One evaluation of 2048 tokens costs less than a hundredth of a calibration, and its standard error, a few
 * percent, is less than what one text differs from another. measure.h. */
#include "quant/measure.h"

#include <string.h>

#include "base/mem.h"
#include "eval/eval.h"
#include "generate/self_text.h"
#include "text/windows.h"

/* Tokens of the measurement; of a sequence of text that the model writes for it. */
enum { TOKENS = 2048, OWN_LENGTH = 256 };

static kq_eval_options eval_options(const kq_output *o, size_t ctx, size_t held)
{
    const size_t memory = o->opt.memory;
    kq_eval_options e = kq_eval_defaults();
    e.ctx = ctx;
    e.threads = o->p.threads;
    e.isa = o->p.isa;
    e.compute = o->p.compute;
    e.memory = !memory ? 0 : held < memory ? memory - held : 1;
    return e;
}

/* Tokens of a window. */
static size_t window_length(const kq_output *o)
{
    const kq_calibration *c = &o->opt.calibration;
    const size_t most = o->p.cfg->max_position ? o->p.cfg->max_position : SIZE_MAX,
                 asked = o->opt.factors && !c->n_text ? OWN_LENGTH : c->seq_len;
    return asked < most ? asked : most;
}

static int writing(void *ctx, const char *stage, double fraction)
{
    (void)stage;
    const kq_common *c = ctx;
    return c->progress ? c->progress(c->ctx, "sampling text", fraction, NULL) : 0;
}

/* Fill in m->ids [n, ctx]: windows of --text, or text of the model. */
static kq_status make_ids(kq_measure *m, kq_error *err)
{
    const kq_output *o = m->o;
    const kq_calibration *c = &o->opt.calibration;
    kq_tokenizer *tok;
    kq_windows windows = {0};
    kq_status status = kq_tokenizer_open(o->p.src, &tok, err);
    if (status)
        return status;
    if (c->n_text) {
        const kq_text_how how = {.options = c->reading, .tok = tok, .common = &o->opt.common};
        status = kq_text_windows(&how, c->text, c->n_text, &m->n, 1, m->ctx, &windows, err);
        if (!status)
            memcpy(m->ids, windows.ids, m->n * m->ctx * sizeof *m->ids);
    } else {
        kq_eval_options e = eval_options(o, m->ctx, 0);
        e.progress = writing;
        e.progress_ctx = (void *)&o->opt.common;
        status = kq_self_text(kq_model_file_weights(o->p.model), tok, m->n, m->ctx, &e, o->opt.common.seed,
                              m->ids, err);
    }
    kq_windows_free(&windows);
    kq_tokenizer_close(tok);
    return status;
}

kq_status kq_measure_open(const kq_output *o, kq_measure *m, kq_error *err)
{
    const kq_windows *w = &o->p.windows;
    const size_t ctx = w->n ? o->opt.calibration.seq_len : window_length(o);
    *m = (kq_measure){.o = o, .n = ctx < TOKENS ? TOKENS / ctx : 1, .ctx = ctx};
    if (w->n && w->n < m->n)
        m->n = w->n;
    kq_status status = kq_alloc_for((void **)&m->ids, m->n * m->ctx, sizeof *m->ids, "token ids", err);
    if (status)
        return status;
    if (!w->n)
        return make_ids(m, err);
    memcpy(m->ids, w->ids, m->n * m->ctx * sizeof *m->ids);
    return KQ_OK;
}

void kq_measure_close(kq_measure *m)
{
    kq_free(m->ids);
    m->ids = NULL;
}

kq_status kq_measure_check(const kq_output *o, size_t held, kq_error *err)
{
    const size_t ctx = window_length(o), writes = kq_self_text_bytes(o->p.cfg, ctx, o->p.compute);
    kq_eval_options e = eval_options(o, ctx, held);
    e.chunks = ctx < TOKENS ? TOKENS / ctx : 1;
    kq_error why = {0};
    kq_status status = kq_evaluate_fits(o->p.cfg, o->p.cfg, &e, &why);
    if (status == KQ_E_MEMORY && o->opt.memory)
        return kq_fail(
            err, status,
            "--memory %zuM is too little to measure what the embedding and a few blocks lose, which "
            "--size, --bpw and --kld need: the model is evaluated beside its original; --bits "
            "measures nothing",
            o->opt.memory >> 20);
    if (status)
        return kq_fail(err, status, "%s", why.message);
    if (o->opt.factors && !o->opt.calibration.n_text && o->opt.memory && writes > o->opt.memory)
        return kq_fail(
            err, KQ_E_MEMORY,
            "--memory %zuM is too little: what the embedding loses is measured on text that the model "
            "writes itself, which takes %zuM; with --text FILE, the text of the factors, it writes "
            "none",
            o->opt.memory >> 20, (writes >> 20) + 1);
    return KQ_OK;
}

typedef struct listener {
    const kq_common *common;
    const char *stage;
} listener;

static int progress(void *ctx, const char *stage, double fraction)
{
    const listener *l = ctx;
    (void)stage;
    return l->common->progress ? l->common->progress(l->common->ctx, l->stage, fraction, NULL) : 0;
}

kq_status kq_measure_kld(const kq_measure *m, const kq_weights *model, size_t held, const char *stage,
                         double *kld, kq_error *err)
{
    listener l = {&m->o->opt.common, stage};
    kq_eval_options e = eval_options(m->o, m->ctx, held);
    kq_eval_figures figures;
    e.progress = progress;
    e.progress_ctx = &l;
    kq_status status =
        kq_evaluate(model, kq_model_file_weights(m->o->p.model), m->ids, m->n * m->ctx, &e, &figures, err);
    *kld = !status && figures.kld > 0 ? figures.kld : 0; /* rounding errors can make it negative */
    return status;
}
