/* Part files: the packed linears of one finished block as a safetensors file, with the report of each linear
 * in its metadata. A run that was interrupted continues from them. */
#include "checkpoint/checkpoint.h"

#include "base/f16.h"
#include "base/mem.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

json_t *kq_json_number(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static double number_of(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

char *kq_module_report_json(const kq_module_report *r)
{
    json_t *o = json_pack("{s:s, s:I, s:I, s:i, s:o, s:o, s:o, s:o, s:o, s:i, s:i, s:i}", "name", r->name,
                          "m", (json_int_t)r->m, "n", (json_int_t)r->n, "bits", r->bits, "relative_mse",
                          kq_json_number(r->round.relative_mse), "predicted_loss",
                          kq_json_number(r->round.predicted_loss), "factor_residual",
                          kq_json_number(r->factor_residual), "sigma1", kq_json_number(r->sigma1), "sigma2",
                          kq_json_number(r->sigma2), "products", r->products, "extra_in", r->round.extra_in,
                          "extra_out", r->round.extra_out);
    if (*r->identity)
        json_object_set_new(o, "identity", json_string(r->identity));
    char *text = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(o);
    return text;
}

static kq_status write_scales(kq_st_writer *w, const float *scales, size_t n, kq_error *err)
{
    uint16_t *half;
    kq_status status = kq_alloc_for((void **)&half, n, sizeof *half, "scales", err);
    if (status)
        return status;
    kq_f32_to_f16_n(scales, half, n);
    status = kq_st_writer_data(w, half, n * sizeof *half, err);
    kq_free(half);
    return status;
}

void kq_packed_tensors(const kq_packed *p, int k, kq_st_decl out[KQ_PACKED_TENSORS])
{
    int bits;
    const size_t words = kq_packed_row_at(p, k, p->m_pad / 16, &bits);
    const kq_st_decl tensors[KQ_PACKED_TENSORS] = {
        {"trellis", KQ_T_I16, 3, {p->m_pad / 16, p->n_pad / 16, (size_t)(16 * k)}},
        {"su", KQ_T_F16, 1, {p->n}},
        {"sv", KQ_T_F16, 1, {p->m}},
        {"scale", KQ_T_F32, 0, {0}}};
    memcpy(out, tensors, sizeof tensors);
    if (p->fine_first || p->fine_last) /* rows of tiles of two lengths */
        out[0] = (kq_st_decl){"trellis", KQ_T_I16, 1, {words}};
}

static kq_status declare_packed(kq_st_writer *w, const char *module, const kq_packed *p, int bits,
                                kq_error *err)
{
    kq_st_decl parts[KQ_PACKED_TENSORS];
    char tensor[160];
    kq_status status = KQ_OK;
    kq_packed_tensors(p, bits, parts);
    for (size_t i = 0; i < KQ_PACKED_TENSORS && !status; i++) {
        snprintf(tensor, sizeof tensor, "%s.%s", module, parts[i].name);
        status = kq_st_writer_declare(w, tensor, parts[i].dtype, parts[i].rank, parts[i].shape, err);
    }
    return status;
}

/* Write the data of the tensors that declare_packed has declared. */
static kq_status write_packed(kq_st_writer *w, const kq_packed *p, int bits, kq_error *err)
{
    kq_status status;
    int k;
    const size_t words = kq_packed_row_at(p, bits, p->m_pad / 16, &k);
    if ((status = kq_st_writer_data(w, p->trellis, 2 * words, err)) ||
        (status = write_scales(w, p->su, p->n, err)) || (status = write_scales(w, p->sv, p->m, err)))
        return status;
    return kq_st_writer_data(w, &p->scale, sizeof p->scale, err);
}

kq_status kq_part_write_rows(const char *path, const kq_packed *packed, const kq_module_report *report,
                             kq_error *err)
{
    kq_st_writer *w = NULL;
    char *text = kq_module_report_json(report);
    kq_status status =
        text ? kq_st_writer_new(path, &w, err) : kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    if (!status && !(status = kq_st_writer_meta(w, report->name, text, err)) &&
        !(status = declare_packed(w, report->name, packed, report->bits, err)))
        status = write_packed(w, packed, report->bits, err);
    free(text);
    if (!status)
        return kq_st_writer_finish(w, err);
    if (w)
        kq_st_writer_abort(w);
    return status;
}

kq_status kq_part_write(const char *path, size_t layer, unsigned ids, const kq_packed packed[KQ_N_LINEAR],
                        const kq_module_report report[KQ_N_LINEAR], kq_error *err)
{
    kq_st_writer *w = NULL;
    char module[128];
    kq_status status = kq_st_writer_new(path, &w, err);
    if (status)
        return status;
    for (int id = 0; id < KQ_N_LINEAR && !status; id++) {
        if (!(ids >> id & 1))
            continue;
        const kq_packed *p = &packed[id];
        kq_linear_name(module, sizeof module, layer, (kq_linear_id)id);
        char *text = kq_module_report_json(&report[id]);
        status = text ? kq_st_writer_meta(w, module, text, err)
                      : kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
        free(text);
        if (!status)
            status = declare_packed(w, module, p, report[id].bits, err);
    }
    for (int id = 0; id < KQ_N_LINEAR && !status; id++)
        if (ids >> id & 1)
            status = write_packed(w, &packed[id], report[id].bits, err);
    if (!status)
        return kq_st_writer_finish(w, err);
    kq_st_writer_abort(w);
    return status;
}

static kq_status parse_report(const char *path, const char *module, const char *text, kq_module_report *r,
                              kq_error *err)
{
    json_t *o = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    if (!json_is_object(o)) {
        json_decref(o);
        return kq_fail(err, KQ_E_FORMAT, "%s: the report of %s is not a JSON object", path, module);
    }
    snprintf(r->name, sizeof r->name, "%s", module);
    r->m = (size_t)json_integer_value(json_object_get(o, "m"));
    r->n = (size_t)json_integer_value(json_object_get(o, "n"));
    r->bits = (int)json_integer_value(json_object_get(o, "bits"));
    r->products = (int)json_integer_value(json_object_get(o, "products"));
    r->round.extra_in = (int)json_integer_value(json_object_get(o, "extra_in"));
    r->round.extra_out = (int)json_integer_value(json_object_get(o, "extra_out"));
    r->round.relative_mse = number_of(o, "relative_mse");
    r->round.predicted_loss = number_of(o, "predicted_loss");
    r->factor_residual = number_of(o, "factor_residual");
    r->sigma1 = number_of(o, "sigma1");
    r->sigma2 = number_of(o, "sigma2");
    const char *identity = json_string_value(json_object_get(o, "identity"));
    snprintf(r->identity, sizeof r->identity, "%s", identity ? identity : "");
    json_decref(o);
    return KQ_OK;
}

kq_status kq_part_read_rows_report(const char *path, const char *module, kq_module_report *report,
                                   kq_error *err)
{
    kq_st_file *f = NULL;
    *report = (kq_module_report){0};
    kq_status status = kq_st_open(path, &f, err);
    if (status)
        return status;
    const char *text = kq_st_meta(f, module);
    status = text ? parse_report(path, module, text, report, err)
                  : kq_fail(err, KQ_E_FORMAT, "%s: has no report of %s", path, module);
    kq_st_close(f);
    return status;
}

kq_status kq_part_read_reports(const char *path, size_t layer, kq_module_report report[KQ_N_LINEAR],
                               kq_error *err)
{
    kq_st_file *f = NULL;
    memset(report, 0, KQ_N_LINEAR * sizeof *report);
    kq_status status = kq_st_open(path, &f, err);
    if (status)
        return status;
    char module[128];
    for (int id = 0; id < KQ_N_LINEAR && !status; id++) {
        kq_linear_name(module, sizeof module, layer, (kq_linear_id)id);
        const char *text = kq_st_meta(f, module);
        if (!text)
            continue;
        status = parse_report(path, module, text, &report[id], err);
    }
    kq_st_close(f);
    return status;
}
