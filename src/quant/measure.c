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
                 asked = c->n_text ? c->seq_len : OWN_LENGTH;
    return asked < most ? asked : most;
}

static int writing(void *ctx, const char *stage, double fraction)
{
    (void)stage;
    const kq_common *c = ctx;
    return c->progress ? c->progress(c->ctx, "sampling text", fraction, NULL) : 0;
}

/* Sequences that the factors were made from, by the settings of the work or of the factor file. */
static size_t calibrated(const kq_output *o)
{
    const json_t *c = json_object_get(o->settings, "calibration");
    const double tokens = json_number_value(json_object_get(c, "tokens")),
                 seq_len = json_number_value(json_object_get(c, "seq_len"));
    const double n = o->p.n_seq ? (double)o->p.n_seq : seq_len > 0 ? tokens / seq_len : 0;
    return n >= 1 ? (size_t)n : 1;
}

static bool is_among(const kq_windows *w, uint32_t number)
{
    for (size_t i = 0; i < w->n; i++)
        if (w->number[i] == number)
            return true;
    return false;
}

/* The m->n windows of *all that are not among those of the calibration; and where these are too few, others.
 */
static void pick(kq_measure *m, const kq_windows *all, const kq_windows *used)
{
    const size_t bytes = m->ctx * sizeof *m->ids;
    size_t n = 0;
    for (int again = 0; again < 2; again++)
        for (size_t i = 0; i < all->n && n < m->n; i++)
            if (is_among(used, all->number[i]) == (again == 1))
                memcpy(m->ids + n++ * m->ctx, all->ids + i * m->ctx, bytes);
    m->n = n;
}

/* m->ids from --text. What the factors were fitted to would look better than other text, so that windows of
 * the text that the calibration left out are taken, where it left any out. */
static kq_status read_ids(kq_measure *m, const kq_tokenizer *tok, kq_error *err)
{
    const kq_calibration *c = &m->o->opt.calibration;
    const kq_text_how how = {.options = c->reading, .tok = tok, .common = &m->o->opt.common};
    const size_t n = calibrated(m->o);
    kq_windows used = {0}, all = {0};
    kq_status status = kq_text_windows(&how, c->text, c->n_text, &n, 1, m->ctx, &used, err);
    if (status)
        return status;
    const size_t wanted = 2 * (n + m->n), more = used.of < wanted ? used.of : wanted;
    status = kq_text_windows(&how, c->text, c->n_text, &more, 1, m->ctx, &all, err);
    if (!status)
        pick(m, &all, &used);
    kq_windows_free(&used);
    kq_windows_free(&all);
    return status;
}

/* m->ids as the model writes them. The calibration's own text has another seed. */
static kq_status write_ids(kq_measure *m, const kq_tokenizer *tok, kq_error *err)
{
    const kq_output *o = m->o;
    kq_eval_options e = eval_options(o, m->ctx, 0);
    e.progress = writing;
    e.progress_ctx = (void *)&o->opt.common;
    return kq_self_text(kq_model_file_weights(o->p.model), tok, m->n, m->ctx, &e, o->opt.common.seed + 1,
                        m->ids, err);
}

kq_status kq_measure_open(const kq_output *o, kq_measure *m, kq_error *err)
{
    const size_t ctx = window_length(o);
    kq_tokenizer *tok = NULL;
    *m = (kq_measure){.o = o, .n = ctx < TOKENS ? TOKENS / ctx : 1, .ctx = ctx};
    kq_status status = kq_alloc_for((void **)&m->ids, m->n * m->ctx, sizeof *m->ids, "token ids", err);
    if (!status && !(status = kq_tokenizer_open(o->p.src, &tok, err)))
        status = o->opt.calibration.n_text ? read_ids(m, tok, err) : write_ids(m, tok, err);
    if (tok)
        kq_tokenizer_close(tok);
    return status;
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
    if (!o->opt.calibration.n_text && o->opt.memory && writes > o->opt.memory)
        return kq_fail(
            err, KQ_E_MEMORY,
            "--memory %zuM is too little: what the embedding loses is measured on text that the model "
            "writes itself, which takes %zuM; with --text FILE it writes "
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
