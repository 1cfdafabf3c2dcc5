/* One evaluation of 2048 tokens costs less than a hundredth of a calibration, and its standard error, a few
 * percent, is less than what one text differs from another. measure.h. */
#include "prepare/measure.h"

#include <string.h>

#include "base/mem.h"
#include "eval/eval.h"
#include "generate/self_text.h"
#include "text/windows.h"

/* Tokens of the measurement; of a sequence of text that the model writes for it. */
enum { TOKENS = 2048, OWN_LENGTH = 256 };

static kq_eval_options eval_options(const kq_prepared *p, size_t ctx, size_t held)
{
    const size_t memory = p->opt->memory;
    kq_eval_options e = kq_eval_defaults();
    e.ctx = ctx;
    e.threads = p->threads;
    e.isa = p->isa;
    e.compute = p->compute;
    e.memory = !memory ? 0 : held < memory ? memory - held : 1;
    return e;
}

/* Tokens of a window. */
static size_t window_length(const kq_prepared *p)
{
    const kq_calibration *c = &p->opt->calibration;
    const size_t most = p->cfg->max_position ? p->cfg->max_position : SIZE_MAX,
                 asked = c->n_text ? c->seq_len : OWN_LENGTH;
    return asked < most ? asked : most;
}

/* An evaluation's progress under a stage of our own. */
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
static kq_status read_ids(kq_measure *m, const kq_tokenizer *tok, size_t n, kq_error *err)
{
    const kq_calibration *c = &m->p->opt->calibration;
    const kq_text_how how = {.options = c->reading, .tok = tok, .common = &m->p->opt->common};
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
    const kq_prepared *p = m->p;
    kq_eval_options e = eval_options(p, m->ctx, 0);
    listener l = {&p->opt->common, "sampling text"};
    e.progress = progress;
    e.progress_ctx = &l;
    return kq_self_text(kq_model_file_weights(p->model), tok, m->n, m->ctx, &e, p->opt->common.seed + 1,
                        m->ids, err);
}

kq_status kq_measure_open(const kq_prepared *p, size_t used, kq_measure *m, kq_error *err)
{
    const size_t ctx = window_length(p);
    kq_tokenizer *tok = NULL;
    *m = (kq_measure){.p = p, .n = ctx < TOKENS ? TOKENS / ctx : 1, .ctx = ctx};
    kq_status status = kq_alloc_for((void **)&m->ids, m->n * m->ctx, sizeof *m->ids, "token ids", err);
    if (!status && !(status = kq_tokenizer_open(p->src, &tok, err)))
        status = p->opt->calibration.n_text ? read_ids(m, tok, used ? used : 1, err) : write_ids(m, tok, err);
    if (tok)
        kq_tokenizer_close(tok);
    return status;
}

void kq_measure_close(kq_measure *m)
{
    kq_free(m->ids);
    m->ids = NULL;
}

kq_status kq_measure_check(const kq_prepared *p, size_t held, kq_error *err)
{
    const size_t ctx = window_length(p), n = ctx < TOKENS ? TOKENS / ctx : 1,
                 writes = kq_self_text_bytes(p->cfg, n, ctx, p->opt->memory);
    kq_eval_options e = eval_options(p, ctx, held);
    e.chunks = n;
    kq_error why = {0};
    kq_status status = kq_evaluate_fits(p->cfg, p->cfg, &e, &why);
    if (status == KQ_E_MEMORY && p->opt->memory)
        return kq_fail(
            err, status,
            "--memory %zuM is too little to measure what the embedding and a few blocks lose, which "
            "--size, --bpw and --kld need: the model is evaluated beside its original; --bits "
            "measures nothing",
            p->opt->memory >> 20);
    if (status)
        return kq_fail(err, status, "%s", why.message);
    if (!p->opt->calibration.n_text && p->opt->memory && writes > p->opt->memory)
        return kq_fail(
            err, KQ_E_MEMORY,
            "--memory %zuM is too little: what the embedding loses is measured on text that the model "
            "writes itself, which takes %zuM; with --text FILE it writes "
            "none",
            p->opt->memory >> 20, (writes >> 20) + 1);
    return KQ_OK;
}

kq_status kq_measure_kld(const kq_measure *m, const kq_weights *model, size_t held, const char *stage,
                         double *kld, kq_error *err)
{
    listener l = {&m->p->opt->common, stage};
    kq_eval_options e = eval_options(m->p, m->ctx, held);
    kq_eval_figures figures;
    e.progress = progress;
    e.progress_ctx = &l;
    kq_status status =
        kq_evaluate(model, kq_model_file_weights(m->p->model), m->ids, m->n * m->ctx, &e, &figures, err);
    *kld = !status && figures.kld > 0 ? figures.kld : 0; /* rounding errors can make it negative */
    return status;
}
