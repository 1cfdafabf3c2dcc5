#include "quant/from_factors.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* An imatrix names no model: it fits when it holds every wanted module with the model's number of inputs. */
static kq_status check_imatrix(kq_prepared *p, const kq_factor_file *file, json_t **settings, kq_error *err)
{
    kq_status status = KQ_OK;
    for (size_t l = 0; l < p->cfg->n_layer && !status; l++)
        for (int id = 0; id < KQ_N_LINEAR && !status; id++) {
            size_t m, n;
            char name[128];
            kq_linear_name(name, sizeof name, l, (kq_linear_id)id);
            kq_linear_shape(p->cfg, (kq_linear_id)id, &m, &n);
            if (p->wanted[l] >> id & 1)
                status = kq_factor_file_check(file, name, n, err);
        }
    if (status)
        return status;
    p->factor.method = KQ_INPUT_ONLY;
    *settings = json_loads(kq_factor_file_settings(file), JSON_REJECT_DUPLICATES, NULL);
    json_object_set_new(*settings, "model", json_string(p->fingerprint));
    return *settings ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "%s: out of memory", p->opt->factors);
}

static kq_status check(kq_prepared *p, const kq_factor_file *file, json_t **settings, kq_error *err)
{
    const char *path = p->opt->factors;
    json_t *s = json_loads(kq_factor_file_settings(file), JSON_REJECT_DUPLICATES, NULL);
    const char *model = json_string_value(json_object_get(s, "model")), *method = json_string_value(json_object_get(s, "method"));
    kq_status status = KQ_OK;
    if (!model || !method)
        status = kq_fail(err, KQ_E_FORMAT, "%s: its settings name no model and method", path);
    else if (strcmp(model, p->fingerprint))
        status = kq_fail(err, KQ_E_MISMATCH, "%s: its factors are of another model (fingerprint %.32s, this model's is %s)", path, model, p->fingerprint);
    else
        status = kq_method_parse(method, &p->factor.method, err);
    const json_int_t seq_len = json_integer_value(json_object_get(json_object_get(s, "calibration"), "seq_len"));
    if (!status && kq_method_needs_gradients(p->factor.method) && seq_len < 2)
        status = kq_fail(err, KQ_E_FORMAT, "%s: its settings have no sequence length", path);
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
    return kq_factor_file_is_imatrix(*file) ? check_imatrix(p, *file, settings, err) : check(p, *file, settings, err);
}

kq_status kq_from_factors_run(const kq_prepared *p, const kq_factor_file *file, const kq_sweep *s, const char *stage, kq_error *err)
{
    const kq_config *cfg = p->cfg;
    const kq_factor_report none = {.converged = true};
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
            kq_linear_name(name, sizeof name, l, (kq_linear_id)id);
            kq_linear_shape(cfg, (kq_linear_id)id, &m, &n);
            float *H_in = kq_alloc(n * n, sizeof *H_in), *H_out = kq_alloc(m * m, sizeof *H_out);
            status = H_in && H_out ? kq_factor_file_read(file, name, m, n, H_in, H_out, &has_out, err) : kq_fail(err, KQ_E_MEMORY, "%s: out of memory", name);
            if (!status)
                status = s->linear(s->ctx, l, (kq_linear_id)id, H_in, has_out ? H_out : NULL, &none, err);
            kq_free(H_in);
            kq_free(H_out);
        }
        if (!status)
            status = s->block(s->ctx, l, err);
        if (!status && s->progress(s->ctx, stage, (double)(l + 1) / (double)cfg->n_layer))
            status = kq_fail(err, KQ_E_INTERRUPTED, "stopped while %s", stage);
    }
    return status;
}
