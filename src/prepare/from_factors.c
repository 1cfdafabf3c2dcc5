/* Takes factors from a file instead of a sweep. The file is checked as a whole before hours are spent on its
 * first modules. */
#include "prepare/from_factors.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "factors/lacks.h"
#include "prepare/sequences.h"
#include "settings/settings.h"

/* Does an imatrix have an entry for any linear of the model, selected or not? */
static bool has_any_entry(const kq_prepared *p, const kq_factor_file *file)
{
    for (size_t i = 0; i < kq_model_n_linears(p->cfg); i++) {
        const kq_model_tensor t = kq_model_linear_at(p->cfg, i);
        kq_lack lack;
        if (kq_factor_file_check(file, t.module, t.rows, t.cols, false, &lack, NULL) || lack != KQ_LACK_ENTRY)
            return true;
    }
    return false;
}

/* Check that every selected module is in the file and that its values are numbers. Warns of modules for which
 * the file has no factors. */
static kq_status check_modules(const kq_prepared *p, const kq_factor_file *file, bool both, kq_error *err)
{
    kq_lacks lacks = {0};
    kq_status status = KQ_OK;
    kq_model_tensor t;
    for (size_t i = 0; kq_selected_next(p, &i, &t) && !status; i++) {
        kq_lack lack;
        status = kq_factor_file_check(file, t.module, t.rows, t.cols, both, &lack, err);
        kq_lacks_add(&lacks, lack, t.module);
    }
    if (!status && kq_factor_file_is_imatrix(file) && lacks.n[KQ_LACK_ENTRY] == p->n_selected &&
        !has_any_entry(p, file))
        return kq_fail(
            err, KQ_E_MISMATCH,
            "%s: none of its entries is of a linear of this model (an imatrix of another kind of model?)",
            p->opt->factors);
    if (!status)
        kq_lacks_warn(&lacks);
    return status;
}

/* The two sides of a comparison of settings: what the caller gave, and what the file was made with. Both are
 * compared in the form that a factor file's settings have. */
typedef struct comparison {
    const kq_prepared *p;
    const json_t *file;        /* the file's settings */
    const json_t *calibration; /* their "calibration" */
} comparison;

/* The hash of the caller's texts, of which as much is read as the file's calibration has read. NULL: err is
 * filled in. */
static json_t *given_text(const comparison *c, kq_error *err)
{
    const json_int_t tokens = json_integer_value(json_object_get(c->calibration, "tokens"));
    char hex[33];
    kq_tokenizer *tok = NULL;
    kq_status status = c->p->opt->calibration.n_text ? kq_tokenizer_open(c->p->src, &tok, err) : KQ_OK;
    if (!status)
        status = kq_text_fingerprint(c->p->opt, tok, tokens > 0 ? (size_t)tokens : 0, hex, err);
    if (tok)
        kq_tokenizer_close(tok);
    return status ? NULL : json_string(hex);
}

/* The caller's number of tokens, as a whole number of sequences. Their length is the caller's if it was
 * given, and otherwise the file's. */
static json_t *given_tokens(const comparison *c)
{
    const kq_calibration *mine = &c->p->opt->calibration;
    size_t T = (size_t)json_integer_value(json_object_get(c->calibration, "seq_len"));
    for (size_t i = 0; i < mine->n_given; i++)
        T = strcmp(mine->given[i], "seq_len") ? T : mine->seq_len;
    return json_integer((json_int_t)(T ? mine->tokens / T * T : mine->tokens));
}

/* The value that the caller gave, as new JSON. NULL: err is filled in. */
static json_t *given_value(const comparison *c, const kq_setting *s, kq_error *err)
{
    if (!strcmp(s->name, "text"))
        return given_text(c, err);
    json_t *value =
        !strcmp(s->name, "tokens") ? given_tokens(c) : kq_setting_json(KQ_QUANTIZE_OPTIONS, c->p->opt, s);
    if (!value)
        kq_fail(err, KQ_E_MEMORY, "out of memory: settings");
    return value;
}

/* The value that the file was made with, as new JSON; NULL: the file does not say. A file of kronq's leaves
 * out settings that had their defaults; an imatrix of another program says nothing. */
static json_t *file_value(const comparison *c, const kq_setting *s)
{
    json_t *value = json_object_get(c->file, s->name);
    if (!value)
        value = json_object_get(c->calibration, strcmp(s->name, "text") ? s->name : "text_hash");
    if (value)
        return json_incref(value);
    const bool ours = json_object_get(c->calibration, "text_hash") != NULL;
    return (s->marks & KQ_UNLESS_DEFAULT) && ours ? kq_setting_default_json(s) : NULL;
}

static kq_status differs(const comparison *c, const kq_setting *s, const json_t *there, const json_t *mine,
                         kq_error *err)
{
    const char *path = c->p->opt->factors;
    if (!there)
        return kq_fail(err, KQ_E_MISMATCH,
                       "%s: does not tell with which %s its factors were made; leave that option out", path,
                       s->name);
    if (!strcmp(s->name, "text"))
        return kq_fail(err, KQ_E_MISMATCH,
                       "%s: its factors were made from another text than the one given now; leave "
                       "--text out, or calibrate with it",
                       path);
    char *a = kq_job_setting_text(there), *b = kq_job_setting_text(mine);
    kq_fail(err, KQ_E_MISMATCH,
            "%s: its factors were made with %s %.100s, asked for is %.100s; leave that "
            "option out, or calibrate with it",
            path, s->name, a ? a : "?", b ? b : "?");
    free(a);
    free(b);
    return KQ_E_MISMATCH;
}

static kq_status check_given_setting(const comparison *c, const char *name, kq_error *err)
{
    const kq_calibration *mine = &c->p->opt->calibration;
    const kq_setting *s = kq_setting_find(name, KQ_FOR_QUANTIZE);
    if (!s || !(s->marks & (KQ_IN_CALIBRATION | KQ_IN_FACTORS)))
        return kq_fail(err, KQ_E_ARG, "calibration.given: %s is no setting of a calibration", name);
    if (!strcmp(name, "method") &&
        !strcmp(mine->method, kq_method_name(c->p->factor.method))) /* an imatrix is input-only */
        return KQ_OK;
    json_t *asked = given_value(c, s, err), *there = file_value(c, s);
    kq_status status = asked ? KQ_OK : err ? err->status : KQ_E_MEMORY;
    /* a file whose labels were not drawn has no number of draws; it counts as one */
    if (!status && !json_equal(asked, there) && (there || strcmp(name, "draws") || mine->draws != 1))
        status = differs(c, s, there, asked, err);
    json_decref(asked);
    json_decref(there);
    return status;
}

/* Check that the file was made with the values that the caller gave. An option that has silently no effect
 * would be worse than none. */
static kq_status check_given(const kq_prepared *p, const json_t *settings, kq_error *err)
{
    const comparison c = {.p = p, .file = settings, .calibration = json_object_get(settings, "calibration")};
    kq_status status = KQ_OK;
    for (size_t i = 0; i < p->opt->calibration.n_given && !status; i++)
        status = check_given_setting(&c, p->opt->calibration.given[i], err);
    return status;
}

/* Check an imatrix. It names no model, so it fits when its entries have the model's numbers of inputs. */
static kq_status check_imatrix(kq_prepared *p, const kq_factor_file *file, json_t **settings, kq_error *err)
{
    kq_status status = check_modules(p, file, false, err);
    if (status)
        return status;
    p->factor.method = KQ_INPUT_ONLY;
    *settings = json_loads(kq_factor_file_settings(file), JSON_REJECT_DUPLICATES, NULL);
    json_object_set_new(*settings, "model", json_string(p->fingerprint));
    return *settings ? check_given(p, *settings, err)
                     : kq_fail(err, KQ_E_MEMORY, "%s: out of memory", p->opt->factors);
}

/* Check a file of kq_calibrate, which names its model and its method. */
static kq_status check_factors(kq_prepared *p, const kq_factor_file *file, json_t **settings, kq_error *err)
{
    const char *path = p->opt->factors;
    json_t *s = json_loads(kq_factor_file_settings(file), JSON_REJECT_DUPLICATES, NULL);
    const char *model = json_string_value(json_object_get(s, "model")),
               *method = json_string_value(json_object_get(s, "method"));
    kq_status status = KQ_OK;
    if (!model || !method)
        status = kq_fail(err, KQ_E_FORMAT, "%s: its settings name no model and method", path);
    else if (strcmp(model, p->fingerprint))
        status = kq_fail(err, KQ_E_MISMATCH,
                         "%s: its factors are of another model (fingerprint %.32s, this model's is %s)", path,
                         model, p->fingerprint);
    else
        status = kq_method_parse(method, &p->factor.method, err);
    const json_int_t seq_len =
        json_integer_value(json_object_get(json_object_get(s, "calibration"), "seq_len"));
    if (!status && kq_method_needs_gradients(p->factor.method) && seq_len < 2)
        status = kq_fail(err, KQ_E_FORMAT, "%s: its settings have no sequence length", path);
    if (!status)
        status = check_given(p, s, err);
    if (!status)
        status =
            check_modules(p, file, p->factor.method != KQ_INPUT_ONLY && p->factor.method != KQ_NONE, err);
    if (status)
        json_decref(s);
    else
        *settings = s;
    return status;
}

kq_status kq_from_factors_open(kq_prepared *p, kq_factor_file **file, json_t **settings, kq_error *err)
{
    *settings = NULL;
    kq_status status = kq_factor_file_open(p->opt->factors, file, err);
    if (status)
        return status;
    return kq_factor_file_is_imatrix(*file) ? check_imatrix(p, *file, settings, err)
                                            : check_factors(p, *file, settings, err);
}

/* Read the factors of one linear and give them to s->linear. */
static kq_status read_linear(const kq_factor_file *file, const kq_model_tensor *t, const kq_sweep *s,
                             kq_error *err)
{
    const size_t m = t->rows, n = t->cols;
    bool has_out = false;
    kq_factor_report report = {.converged = true};
    float *H_in = kq_alloc(n * n, sizeof *H_in), *H_out = kq_alloc(m * m, sizeof *H_out);
    kq_status status =
        H_in && H_out ? kq_factor_file_read(file, t->module, m, n, H_in, H_out, &has_out, &report.lack, err)
                      : kq_fail(err, KQ_E_MEMORY, "%s: out of memory", t->module);
    if (!status)
        status = s->linear(s->estimates->ctx, t->layer, t->linear, report.lack ? NULL : H_in,
                           has_out ? H_out : NULL, &report, err);
    kq_free(H_in);
    kq_free(H_out);
    return status;
}

kq_status kq_from_factors_run(const kq_prepared *p, const kq_factor_file *file, const kq_sweep *s,
                              const char *stage, kq_error *err)
{
    const size_t n_layer = p->cfg->n_layer;
    kq_status status = KQ_OK;
    for (size_t l = 0; l < n_layer && !status; l++) {
        if (!p->selected[l] || s->done(s->ctx, l))
            continue;
        for (int id = 0; id < KQ_N_LINEAR && !status; id++) {
            const kq_model_tensor t = kq_model_linear(p->cfg, l, (kq_linear_id)id);
            if (p->selected[l] >> id & 1)
                status = read_linear(file, &t, s, err);
        }
        if (!status)
            status = s->block(s->ctx, l, err);
        if (!status && kq_sweep_progress(s, stage, (double)(l + 1) / (double)n_layer))
            status = kq_fail(err, KQ_E_INTERRUPTED, "stopped while %s", stage);
    }
    return status;
}
