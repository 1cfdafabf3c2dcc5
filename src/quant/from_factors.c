#include "quant/from_factors.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "factors/lacks.h"

/* Does an imatrix have an entry for any linear of the model, wanted or not? */
static bool has_any_entry(const kq_prepared *p, const kq_factor_file *file)
{
    for (size_t l = 0; l < p->cfg->n_layer; l++)
        for (int id = 0; id < KQ_N_LINEAR; id++) {
            size_t m, n;
            char name[128];
            kq_lack lack;
            kq_linear_name(name, sizeof name, l, (kq_linear_id)id);
            kq_linear_shape(p->cfg, (kq_linear_id)id, &m, &n);
            if (kq_factor_file_check(file, name, m, n, false, &lack, NULL) || lack != KQ_LACK_ENTRY)
                return true;
        }
    return false;
}

/* Every wanted module is there and its values are numbers, before hours are spent on the first ones.
 * Modules of which the file tells nothing are warned of. */
static kq_status check_modules(const kq_prepared *p, const kq_factor_file *file, bool both, kq_error *err)
{
    kq_lacks lacks = {0};
    kq_status status = KQ_OK;
    for (size_t l = 0; l < p->cfg->n_layer && !status; l++)
        for (int id = 0; id < KQ_N_LINEAR && !status; id++) {
            size_t m, n;
            char name[128];
            kq_lack lack;
            kq_linear_name(name, sizeof name, l, (kq_linear_id)id);
            kq_linear_shape(p->cfg, (kq_linear_id)id, &m, &n);
            if (!(p->wanted[l] >> id & 1))
                continue;
            status = kq_factor_file_check(file, name, m, n, both, &lack, err);
            kq_lacks_add(&lacks, lack, name);
        }
    if (!status && kq_factor_file_is_imatrix(file) && lacks.n[KQ_LACK_ENTRY] == p->n_wanted &&
        !has_any_entry(p, file))
        return kq_fail(
            err, KQ_E_MISMATCH,
            "%s: none of its entries is of a linear of this model (an imatrix of another kind of model?)",
            p->opt->factors);
    if (!status)
        kq_lacks_warn(&lacks);
    return status;
}

/* What the caller said of the calibration, under the names that a factor file's settings have. NULL: out
 * of memory, or err is filled in. */
static json_t *said(const kq_prepared *p, size_t file_seq_len, size_t file_tokens, kq_error *err)
{
    const kq_calibration *c = &p->opt->calibration;
    char hex[33];
    size_t T = file_seq_len;
    for (size_t i = 0; i < c->n_given; i++)
        T = strcmp(c->given[i], "seq_len") ? T : c->seq_len;
    kq_tokenizer *tok = NULL;
    kq_status status = c->n_text ? kq_tokenizer_open(p->src, &tok, err) : KQ_OK;
    if (!status)
        status = kq_prepare_text_hash(p->opt, tok, file_tokens, hex, err);
    if (tok)
        kq_tokenizer_close(tok);
    if (status)
        return NULL;
    json_t *o = json_pack(
        "{s:s, s:I, s:I, s:I, s:s, s:I, s:s, s:f, s:i, s:I, s:i, s:b, s:f, s:i, s:s, s:b, s:s}", "text", hex,
        "tokens", (json_int_t)(T ? c->tokens / T * T : c->tokens), "seq_len", (json_int_t)c->seq_len, "batch",
        (json_int_t)c->batch, "labels", c->sampled_labels ? "sampled" : "text", "draws", (json_int_t)c->draws,
        "method", c->method, "rho", c->rho, "rounds", c->rounds, "early", (json_int_t)c->early, "passes",
        c->passes, "exact", c->exact, "tol", c->tol, "max_iter", c->max_iter, "start",
        c->start_random ? "random" : "identity", "parse_special", !c->reading.spell_special, "text_format",
        c->reading.format ? c->reading.format : "auto");
    if (!o)
        kq_fail(err, KQ_E_MEMORY, "out of memory: settings");
    return o;
}

/* What the caller named must be what the file was made with: an option that is silently without effect
 * would be worse than none. */
static kq_status check_given(const kq_prepared *p, const json_t *settings, kq_error *err)
{
    const kq_calibration *c = &p->opt->calibration;
    const json_t *calibration = json_object_get(settings, "calibration");
    if (!c->n_given)
        return KQ_OK;
    const json_int_t tokens = json_integer_value(json_object_get(calibration, "tokens"));
    json_t *all = said(p, (size_t)json_integer_value(json_object_get(calibration, "seq_len")),
                       tokens > 0 ? (size_t)tokens : 0, err);
    /* settings mention what is otherwise */
    json_t *unsaid = json_pack("{s:b, s:s}", "parse_special", true, "text_format", "auto");
    kq_status status = all ? KQ_OK : err ? err->status : KQ_E_MEMORY;
    for (size_t i = 0; i < c->n_given && !status; i++) {
        const char *name = c->given[i];
        const json_t *mine = json_object_get(all, name), *there = json_object_get(settings, name);
        const bool text = !strcmp(name, "text");
        if (!mine) {
            status = kq_fail(err, KQ_E_ARG, "calibration.given: %s is no setting of a calibration", name);
            break;
        }
        if (!there)
            there = json_object_get(calibration, text ? "text_hash" : name);
        if (!strcmp(name, "method") &&
            !strcmp(c->method, kq_method_name(p->factor.method))) /* an imatrix is input-only */
            continue;
        if (!there && json_object_get(calibration, "text_hash")) /* ours, not another program's imatrix */
            there = json_object_get(unsaid, name);
        if (json_equal(mine, there) || (!there && !strcmp(name, "draws") && c->draws == 1))
            continue;
        char *a = kq_job_shown(there), *b = kq_job_shown(mine);
        if (text && there)
            status = kq_fail(err, KQ_E_MISMATCH,
                             "%s: its factors were made from another text than the one given now; leave "
                             "--text out, or calibrate with it",
                             p->opt->factors);
        else if (!there)
            status = kq_fail(err, KQ_E_MISMATCH,
                             "%s: does not tell with which %s its factors were made; leave that option out",
                             p->opt->factors, name);
        else
            status = kq_fail(err, KQ_E_MISMATCH,
                             "%s: its factors were made with %s %.100s, asked for is %.100s; leave that "
                             "option out, or calibrate with it",
                             p->opt->factors, name, a ? a : "?", b ? b : "?");
        free(a);
        free(b);
    }
    json_decref(all);
    json_decref(unsaid);
    return status;
}

/* An imatrix names no model: it fits when its entries have the model's numbers of inputs. */
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

static kq_status check(kq_prepared *p, const kq_factor_file *file, json_t **settings, kq_error *err)
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
                                            : check(p, *file, settings, err);
}

kq_status kq_from_factors_run(const kq_prepared *p, const kq_factor_file *file, const kq_sweep *s,
                              const char *stage, kq_error *err)
{
    const kq_config *cfg = p->cfg;
    kq_status status = KQ_OK;
    for (size_t l = 0; l < cfg->n_layer && !status; l++) {
        if (!p->wanted[l] || s->done(s->ctx, l))
            continue;
        for (int id = 0; id < KQ_N_LINEAR && !status; id++) {
            if (!(p->wanted[l] >> id & 1))
                continue;
            size_t m, n;
            char name[128];
            bool has_out = false;
            kq_factor_report report = {.converged = true};
            kq_linear_name(name, sizeof name, l, (kq_linear_id)id);
            kq_linear_shape(cfg, (kq_linear_id)id, &m, &n);
            float *H_in = kq_alloc(n * n, sizeof *H_in), *H_out = kq_alloc(m * m, sizeof *H_out);
            status = H_in && H_out
                         ? kq_factor_file_read(file, name, m, n, H_in, H_out, &has_out, &report.lack, err)
                         : kq_fail(err, KQ_E_MEMORY, "%s: out of memory", name);
            if (!status)
                status = s->linear(s->ctx, l, (kq_linear_id)id, report.lack ? NULL : H_in,
                                   has_out ? H_out : NULL, &report, err);
            kq_free(H_in);
            kq_free(H_out);
        }
        if (!status)
            status = s->block(s->ctx, l, err);
        if (!status && kq_sweep_tell(s, stage, (double)(l + 1) / (double)cfg->n_layer))
            status = kq_fail(err, KQ_E_INTERRUPTED, "stopped while %s", stage);
    }
    return status;
}
