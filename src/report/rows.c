/* What a comparison's folder holds, as the page draws it. Everything is checked here, because the folder may
 * come from somebody else: numbers are numbers, lists have lengths that can be drawn. */
#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "report/report.h"

enum { MOST_ROWS = 2000 };

const char *kq_rp_string(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

double kq_rp_number(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : (double)NAN;
}

double kq_rp_measure(const kq_rp_row *r, size_t text, const char *key)
{
    return kq_rp_number(json_array_get(json_object_get(r->o, "texts"), text), key);
}

const char *kq_rp_text_name(const kq_rp *p, size_t text)
{
    return kq_rp_string(json_array_get(json_object_get(p->about, "texts"), text), "name");
}

bool kq_rp_same_size(const kq_rp_row *a, const kq_rp_row *b)
{
    return fabs(a->bpw - b->bpw) <= 0.05;
}

double kq_rp_mean(const kq_rp *p, const kq_rp_row *r, size_t text, const char *key)
{
    double s = 0;
    size_t n = 0;
    for (size_t i = 0; i < p->n; i++)
        if (p->row[i].group == r->group) {
            s += kq_rp_measure(&p->row[i], text, key);
            n++;
        }
    return s / (double)n;
}

/* "flipflop:tokens=16k:rho=1" -> "flipflop:rho=1" */
static void series_name(const char *spec, char out[256])
{
    size_t n = 0;
    for (const char *s = spec; *s;) {
        const size_t len = strcspn(s, ":");
        if (strncmp(s, "tokens=", 7))
            n += (size_t)snprintf(out + n, 256 - n, "%s%.*s", n ? ":" : "", (int)len, s);
        if (n >= 256)
            break;
        s += len;
        s += *s == ':';
    }
    if (!n)
        snprintf(out, 256, "%s", spec);
}

static void fill_row(kq_rp *p, size_t i)
{
    kq_rp_row *r = &p->row[i];
    char name[256];
    *r = (kq_rp_row){0};
    r->o = json_array_get(p->rows, i);
    r->spec = kq_rp_string(r->o, "spec");
    r->bits = kq_rp_number(r->o, "bits");
    r->tokens = kq_rp_number(r->o, "tokens");
    r->bpw = kq_rp_number(r->o, "bpw");
    r->predicted = kq_rp_number(r->o, "predicted_loss");
    const char *module;
    json_t *m;
    double first = NAN;
    json_object_foreach(json_object_get(r->o, "modules"), module, m) {
        first = isnan(first) ? kq_rp_number(m, "bits") : first;
        r->mixed = r->mixed || kq_rp_number(m, "bits") != first;
    }
    series_name(r->spec, name);
    for (r->series = 0; r->series < p->n_series && strcmp(p->series[r->series], name);)
        r->series++;
    if (r->series == p->n_series)
        memcpy(p->series[p->n_series++], name, sizeof name);
    for (r->group = 0; r->group < i; r->group++) {
        const kq_rp_row *s = &p->row[r->group];
        if (!strcmp(s->spec, r->spec) && s->bits == r->bits &&
            (s->tokens == r->tokens || (isnan(s->tokens) && isnan(r->tokens))))
            break;
    }
    if (r->group < i)
        r->group = p->row[r->group].group;
}

static bool is_number(const json_t *v)
{
    return json_is_number(v) && fabs(json_number_value(v)) < 1e30;
}

/* A module's report: numbers where numbers are drawn, a trace of pairs. */
static kq_status check_factor_module(const char *path, const char *name, const json_t *m, kq_error *err)
{
    static const char *const key[] = {"sigma1", "sigma2", "residual", "products"};
    const json_t *trace = json_object_get(m, "trace"), *step;
    size_t i;
    for (size_t k = 0; k < sizeof key / sizeof *key; k++) {
        const json_t *v = json_object_get(m, key[k]);
        if (v && !is_number(v) && !json_is_null(v))
            return kq_fail(err, KQ_E_FORMAT, "%s: %.128s.%s is not a number", path, name, key[k]);
    }
    if (trace && (!json_is_array(trace) || json_array_size(trace) > 10000))
        return kq_fail(err, KQ_E_FORMAT, "%s: %.128s.trace is not a list of at most 10000 steps", path, name);
    json_array_foreach(trace, i, step)
        if (json_array_size(step) != 2 || !is_number(json_array_get(step, 0)) ||
            !is_number(json_array_get(step, 1)))
            return kq_fail(err, KQ_E_FORMAT, "%s: %.128s.trace[%zu] is not [products, residual]", path, name,
                           i);
    return KQ_OK;
}

static kq_status read_factors(kq_rp *p, const kq_rp_row *r, kq_error *err)
{
    const char *name = json_string_value(json_object_get(r->o, "factors")), *module;
    char *path;
    json_t *o, *m;
    for (size_t i = 0; name && i < p->n_factors; i++)
        if (!strcmp(p->factors[i].name, name))
            return KQ_OK;
    if (!name)
        return KQ_OK;
    kq_status status = kq_cmp_load_if_there(p->dir, "factors", name, &o, err);
    if (!o)
        return status;
    if ((status = kq_cmp_path(&path, p->dir, "factors", name, ".json", err))) {
        json_decref(o);
        return status;
    }
    const json_t *modules = json_object_get(o, "modules");
    if (modules && !json_is_object(modules) && !json_is_null(modules))
        status = kq_fail(err, KQ_E_FORMAT, "%s: modules is not an object", path);
    json_object_foreach((json_t *)modules, module, m)
        status = status ? status : check_factor_module(path, module, m, err);
    kq_free(path);
    if (status) {
        json_decref(o);
        return status;
    }
    kq_rp_factors *f = &p->factors[p->n_factors++];
    *f = (kq_rp_factors){.o = o, .row = r};
    snprintf(f->name, sizeof f->name, "%s", name);
    return KQ_OK;
}

kq_status kq_rp_read(const char *dir, kq_rp *p, kq_error *err)
{
    *p = (kq_rp){.dir = dir};
    kq_status status = kq_cmp_read(dir, &p->about, &p->rows, err);
    if (status)
        return status;
    const size_t n = json_array_size(p->rows);
    if (!n)
        return kq_fail(err, KQ_E_ARG, "%s: no row is finished yet", dir);
    if (n > MOST_ROWS)
        return kq_fail(err, KQ_E_UNSUPPORTED, "%s: %zu rows, at most %d can be drawn", dir, n, MOST_ROWS);
    p->n_text = json_array_size(json_object_get(p->about, "texts"));
    if ((status = kq_alloc_for((void **)&p->row, n, sizeof *p->row, "rows", err)) ||
        (status = kq_alloc_for((void **)&p->series, n, sizeof *p->series, "rows", err)) ||
        (status = kq_alloc_for((void **)&p->factors, n, sizeof *p->factors, "rows", err)))
        return status;
    for (; p->n < n && !status; p->n++) {
        fill_row(p, p->n);
        status = read_factors(p, &p->row[p->n], err);
    }
    return status;
}

void kq_rp_free(kq_rp *p)
{
    for (size_t i = 0; i < p->n_factors; i++)
        json_decref(p->factors[i].o);
    kq_free(p->row);
    kq_free(p->series);
    kq_free(p->factors);
    json_decref(p->about);
    json_decref(p->rows);
}
