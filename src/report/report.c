/* kq_report: one HTML page of a comparison that needs nothing else: no network, no script. */
#include "report/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/locale.h"
#include "base/mem.h"

extern const unsigned char kq_report_css[];
extern const size_t kq_report_css_size;

enum { MOST_ROWS = 2000 };

static const char *string(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static double number(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : (double)NAN;
}

double kq_rp_measure(const kq_rp_row *r, size_t text, const char *key)
{
    return number(json_array_get(json_object_get(r->o, "texts"), text), key);
}

const char *kq_rp_text_name(const kq_rp *p, size_t text)
{
    return string(json_array_get(json_object_get(p->about, "texts"), text), "name");
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

/* ---- reading ---- */

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
    r->spec = string(r->o, "spec");
    r->bits = number(r->o, "bits");
    r->tokens = number(r->o, "tokens");
    r->bpw = number(r->o, "bpw");
    r->predicted = number(r->o, "predicted_loss");
    const char *module;
    json_t *m;
    double first = NAN;
    json_object_foreach(json_object_get(r->o, "modules"), module, m)
    {
        first = isnan(first) ? number(m, "bits") : first;
        r->mixed = r->mixed || number(m, "bits") != first;
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
    json_array_foreach(
        trace, i, step) if (json_array_size(step) != 2 || !is_number(json_array_get(step, 0)) ||
                            !is_number(json_array_get(
                                step, 1))) return kq_fail(err, KQ_E_FORMAT,
                                                          "%s: %.128s.trace[%zu] is not [products, residual]",
                                                          path, name, i);
    return KQ_OK;
}

static kq_status read_factors(kq_rp *p, const kq_rp_row *r, kq_error *err)
{
    const char *name = json_string_value(json_object_get(r->o, "factors")), *module;
    char path[KQ_CMP_PATH];
    json_t *o, *m;
    for (size_t i = 0; name && i < p->n_factors; i++)
        if (!strcmp(p->factors[i].name, name))
            return KQ_OK;
    if (!name)
        return KQ_OK;
    kq_status status = kq_cmp_path(path, p->dir, "factors", name, ".json", err);
    if (status || !kq_path_exists(path) || (status = kq_cmp_load(path, &o, err)))
        return status;
    const json_t *modules = json_object_get(o, "modules");
    if (modules && !json_is_object(modules) && !json_is_null(modules))
        status = kq_fail(err, KQ_E_FORMAT, "%s: modules is not an object", path);
    json_object_foreach((json_t *)modules, module, m) status =
        status ? status : check_factor_module(path, module, m, err);
    if (status) {
        json_decref(o);
        return status;
    }
    kq_rp_factors *f = &p->factors[p->n_factors++];
    *f = (kq_rp_factors){.o = o, .row = r};
    snprintf(f->name, sizeof f->name, "%s", name);
    return KQ_OK;
}

static kq_status open_report(const char *dir, kq_rp *p, kq_error *err)
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

static void close_report(kq_rp *p)
{
    for (size_t i = 0; i < p->n_factors; i++)
        json_decref(p->factors[i].o);
    kq_free(p->row);
    kq_free(p->series);
    kq_free(p->factors);
    json_decref(p->about);
    json_decref(p->rows);
}

/* ---- the page ---- */

void kq_rp_open(kq_rp *p, FILE *f, const char *name, const char *title)
{
    fprintf(f, "<figure id=\"%s\">\n<p class=\"figtitle\"><span>Figure %d</span>", name, ++p->figure);
    kq_html_text(f, title);
    fputs("</p>\n", f);
}

void kq_rp_close(FILE *f, const char *caption)
{
    fprintf(f, "<figcaption>%s</figcaption>\n</figure>\n", caption);
}

void kq_rp_legend(const kq_rp *p, FILE *f)
{
    fputs("<ul class=\"legend\">\n", f);
    for (size_t s = 0; s < p->n_series; s++) {
        const double x[2] = {1, 33}, y[2] = {6, 6};
        fputs("<li><svg class=\"swatch\" viewBox=\"0 0 34 12\" aria-hidden=\"true\">", f);
        kq_svg_line(f, x, y, 2, s, "");
        kq_svg_mark(f, 17, 6, s, false, "key", NULL);
        fputs("</svg><code>", f);
        kq_html_text(f, p->series[s]);
        fputs("</code></li>\n", f);
    }
    fputs("</ul>\n", f);
}

static void fact(FILE *f, const char *what, const char *text)
{
    fprintf(f, "<dt>%s</dt><dd>", what);
    kq_html_text(f, text);
    fputs("</dd>\n", f);
}

/* Settings of the first row that was calibrated. */
static const json_t *first_calibration(const kq_rp *p)
{
    for (size_t i = 0; i < p->n; i++) {
        const json_t *c = json_object_get(
            json_object_get(json_object_get(p->row[i].o, "settings"), "factors"), "calibration");
        if (json_is_object(c))
            return c;
    }
    return NULL;
}

static void print_facts(const kq_rp *p, FILE *f)
{
    char line[600];
    const json_t *text = json_array_get(json_object_get(p->row[0].o, "texts"), 0),
                 *cal = first_calibration(p), *name;
    size_t i, kinds = 0;
    for (i = 0; i < p->n; i++)
        kinds += p->row[i].group == i;
    fputs("<dl>\n", f);
    fact(f, "Model", string(p->about, "model"));
    snprintf(line, sizeof line, "%zu (%zu when seeds are taken together), of %zu methods", p->n, kinds,
             p->n_series);
    fact(f, "Rows", line);
    for (i = 0; i < p->n_text; i++) {
        text = json_array_get(json_object_get(p->row[0].o, "texts"), i);
        snprintf(line, sizeof line, "%.300s: %.0f windows of %.0f tokens, original's perplexity %.3f",
                 kq_rp_text_name(p, i), number(text, "windows"), number(text, "ctx"),
                 number(text, "reference_ppl"));
        fact(f, i ? "" : "Measured on", line);
    }
    if (cal) {
        size_t at = 0;
        const json_t *list = json_object_get(cal, "text");
        line[0] = 0;
        json_array_foreach(list, i, name) if (json_is_string(name) && at < 300) at +=
            (size_t)snprintf(line + at, sizeof line - at, "%s%.100s", i ? ", " : "", json_string_value(name));
        if (json_is_string(list))
            at += (size_t)snprintf(line, sizeof line, "%.100s", json_string_value(list));
        const double seq_len = number(cal, "seq_len");
        if (isfinite(seq_len) && at < 400)
            snprintf(line + at, sizeof line - at, ", sequences of %.0f tokens (the first row's)", seq_len);
        fact(f, "Calibrated on", line);
    }
    const char *only = string(json_object_get(p->row[0].o, "settings"), "only");
    if (*only) {
        snprintf(line, sizeof line, "modules that match %.200s; the others are not", only);
        fact(f, "Quantized", line);
    }
    snprintf(line, sizeof line, "%.30s products, instruction set %.30s, kronq %.30s",
             string(p->about, "compute"), string(p->about, "isa"), string(p->about, "kronq"));
    fact(f, "Computed with", line);
    fputs("</dl>\n", f);
}

static void cell(FILE *f, double x, int digits)
{
    if (isfinite(x))
        fprintf(f, "<td>%s%.*f</td>", x < 0 ? KQ_MINUS : "", digits, fabs(x));
    else
        fputs("<td>n/a</td>", f);
}

static void cell_pm(FILE *f, double x, double error, int digits)
{
    if (!isfinite(x))
        fputs("<td>n/a</td>", f);
    else if (isfinite(error))
        fprintf(f, "<td>%s%.*f<span class=\"pm\"> &#177; %.*f</span></td>", x < 0 ? KQ_MINUS : "", digits,
                fabs(x), digits, error);
    else
        cell(f, x, digits);
}

/* Digits behind the point of a perplexity: five significant ones */
static int ppl_digits(double x)
{
    return x >= 1e4 ? 0 : x >= 1000 ? 1 : x >= 100 ? 2 : 3;
}

static void bits_cell(FILE *f, double bits)
{
    fprintf(f, "<td>%.4g</td>", bits);
}

static void tokens_cell(FILE *f, double tokens)
{
    char buf[32];
    fprintf(f, "<td>%s</td>", kq_tokens_text(tokens, buf));
}

static void text_heads(const kq_rp *p, FILE *f)
{
    for (size_t t = 0; t < p->n_text; t++)
        fputs("<th>loss "
              "rise<br/>(nats/token)</th><th>KLD<br/>(nats)</th><th>top-1<br/>(%)</th><th>perplexity</th>",
              f);
    const json_t *v;
    size_t i;
    json_array_foreach(json_object_get(p->about, "tasks"), i, v) fputs("<th>accuracy<br/>(%)</th>", f);
}

static void group_heads(const kq_rp *p, FILE *f, int before, const char *rest)
{
    const json_t *v;
    size_t i;
    fprintf(f, "<tr><th colspan=\"%d\"></th>%s", before, rest);
    for (size_t t = 0; t < p->n_text; t++) {
        fputs("<th class=\"group\" colspan=\"4\">", f);
        kq_html_text(f, kq_rp_text_name(p, t));
        fputs("</th>", f);
    }
    json_array_foreach(json_object_get(p->about, "tasks"), i, v)
    {
        fputs("<th class=\"group\">", f);
        kq_html_text(f, string(v, "name"));
        fputs("</th>", f);
    }
    fputs("</tr>\n", f);
}

/* Mean and deviation over the seeds of a group. */
static void over_seeds(const kq_rp *p, size_t group, double (*of)(const kq_rp_row *r, const void *ctx),
                       const void *ctx, double *mean, double *sd, size_t *n)
{
    double s = 0, ss = 0;
    *n = 0;
    for (size_t i = 0; i < p->n; i++)
        if (p->row[i].group == group) {
            s += of(&p->row[i], ctx);
            ++*n;
        }
    *mean = s / (double)*n;
    for (size_t i = 0; i < p->n; i++)
        if (p->row[i].group == group)
            ss += pow(of(&p->row[i], ctx) - *mean, 2);
    *sd = *n > 1 ? sqrt(ss / (double)(*n - 1)) : (double)NAN;
}

typedef struct pick {
    size_t text;
    const char *key;
} pick;

static double of_text(const kq_rp_row *r, const void *ctx)
{
    const pick *k = ctx;
    return kq_rp_measure(r, k->text, k->key);
}

static double of_task(const kq_rp_row *r, const void *ctx)
{
    return number(json_object_get(json_object_get(r->o, "tasks"), ctx), "acc");
}

static double of_predicted(const kq_rp_row *r, const void *ctx)
{
    (void)ctx;
    return r->predicted;
}

static void quality_cells(const kq_rp *p, FILE *f, size_t group)
{
    static const struct {
        const char *key;
        double scale;
        int digits;
    } measure[] = {{"loss_rise", 1, 4}, {"kld", 1, 4}, {"top1", 100, 2}, {"ppl", 1, 3}};
    double mean, sd;
    size_t n, i;
    const json_t *v;
    for (size_t t = 0; t < p->n_text; t++)
        for (size_t k = 0; k < 4; k++) {
            const pick which = {t, measure[k].key};
            over_seeds(p, group, of_text, &which, &mean, &sd, &n);
            cell_pm(f, measure[k].scale * mean, measure[k].scale * sd,
                    k == 3 ? ppl_digits(mean) : measure[k].digits);
        }
    json_array_foreach(json_object_get(p->about, "tasks"), i, v)
    {
        over_seeds(p, group, of_task, string(v, "name"), &mean, &sd, &n);
        cell_pm(f, 100 * mean, 100 * sd, 2);
    }
}

/* The lowest KL divergence on the first text among the kinds of the same size. */
static bool is_best(const kq_rp *p, size_t group)
{
    if (!p->n_text)
        return false;
    size_t rivals = 0;
    for (size_t i = 0; i < p->n; i++)
        if (p->row[i].group == i && i != group && kq_rp_same_size(&p->row[i], &p->row[group])) {
            rivals++;
            if (kq_rp_mean(p, &p->row[i], 0, "kld") < kq_rp_mean(p, &p->row[group], 0, "kld"))
                return false;
        }
    return rivals > 0;
}

static void print_summary(const kq_rp *p, FILE *f)
{
    double mean, sd;
    size_t n;
    fputs("<h2>Summary</h2>\n<p>Mean over seeds, with their standard deviation where there are several. "
          "Shaded: the lowest KL divergence "
          "of its size.</p>\n"
          "<div class=\"wide\"><table id=\"summary\">\n<thead>",
          f);
    group_heads(p, f, 6, "");
    fputs("<tr><th>method</th><th>bits</th><th>calibration<br/>tokens</th><th>seeds</th><th>bits a "
          "weight<br/>of the "
          "file</th><th>predicted by<br/>eq. 1 (nats/token)</th>",
          f);
    text_heads(p, f);
    fputs("</tr></thead>\n<tbody>\n", f);
    for (size_t i = 0; i < p->n; i++) {
        if (p->row[i].group != i)
            continue;
        fputs(is_best(p, i) ? "<tr class=\"best\"><td><code>" : "<tr><td><code>", f);
        kq_html_text(f, p->row[i].spec);
        fputs("</code></td>", f);
        bits_cell(f, p->row[i].bits);
        tokens_cell(f, p->row[i].tokens);
        over_seeds(p, i, of_predicted, NULL, &mean, &sd, &n);
        fprintf(f, "<td>%zu</td>", n);
        cell(f, number(p->row[i].o, "bpw_file"), 3);
        cell_pm(f, mean, sd, 4);
        quality_cells(p, f, i);
        fputs("</tr>\n", f);
    }
    fputs("</tbody></table></div>\n", f);
}

static void print_all(const kq_rp *p, FILE *f)
{
    const json_t *v;
    size_t t, k;
    fputs("<h2>Every row</h2>\n<p>&#177;: standard error over tokens (documents for accuracies), taken as "
          "independent. The calibration's "
          "seconds are those of the pass over the text that "
          "rows share; times and peaks of work that was interrupted are not known (n/a).</p>\n<div "
          "class=\"wide\"><table "
          "id=\"rows\">\n<thead>",
          f);
    group_heads(p, f, 4,
                "<th class=\"group\" colspan=\"4\">seconds</th><th class=\"group\" colspan=\"3\">peak memory "
                "(MB)</th><th "
                "colspan=\"4\"></th>");
    fputs("<tr><th>method</th><th>bits</th><th>calibration<br/>tokens</th><th>seed</th><th>calibration</"
          "th><th>factors</th><th>rounding</th>"
          "<th>evaluation</th><th>calibration</th><th>rounding</th><th>evaluation</th><th>bits a "
          "quantized<br/>weight</th><th>bits a weight<br/>of the "
          "file</th><th>relative<br/>error</th>"
          "<th>predicted by<br/>eq. 1 (nats/token)</th>",
          f);
    text_heads(p, f);
    fputs("</tr></thead>\n<tbody>\n", f);
    for (size_t i = 0; i < p->n; i++) {
        static const char *const stage[] = {"calibration", "factors", "rounding", "evaluation"},
                                 *const peak[] = {"calibration", "rounding", "evaluation"};
        const kq_rp_row *r = &p->row[i];
        fputs("<tr><td><code>", f);
        kq_html_text(f, r->spec);
        fputs("</code></td>", f);
        bits_cell(f, r->bits);
        tokens_cell(f, r->tokens);
        fprintf(f, "<td>%lld</td>", (long long)json_integer_value(json_object_get(r->o, "seed")));
        for (k = 0; k < 4; k++)
            cell(f, number(json_object_get(r->o, "seconds"), stage[k]), 1);
        for (k = 0; k < 3; k++)
            cell(f, number(json_object_get(r->o, "peak_rss_bytes"), peak[k]) / 1e6, 0);
        cell(f, r->bpw, 3);
        cell(f, number(r->o, "bpw_file"), 3);
        cell(f, number(r->o, "relative_mse"), 4);
        cell(f, r->predicted, 4);
        for (t = 0; t < p->n_text; t++) {
            cell_pm(f, kq_rp_measure(r, t, "loss_rise"), kq_rp_measure(r, t, "loss_rise_stderr"), 4);
            cell_pm(f, kq_rp_measure(r, t, "kld"), kq_rp_measure(r, t, "kld_stderr"), 4);
            cell_pm(f, 100 * kq_rp_measure(r, t, "top1"), 100 * kq_rp_measure(r, t, "top1_stderr"), 2);
            cell_pm(f, kq_rp_measure(r, t, "ppl"), kq_rp_measure(r, t, "ppl_stderr"),
                    ppl_digits(kq_rp_measure(r, t, "ppl")));
        }
        json_array_foreach(json_object_get(p->about, "tasks"), t, v)
        {
            const json_t *task = json_object_get(json_object_get(r->o, "tasks"), string(v, "name"));
            cell_pm(f, 100 * number(task, "acc"), 100 * number(task, "acc_stderr"), 2);
        }
        fputs("</tr>\n", f);
    }
    fputs("</tbody></table></div>\n", f);
}

static void print_page(kq_rp *p, FILE *f)
{
    fputs("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n<meta name=\"viewport\" "
          "content=\"width=device-width, "
          "initial-scale=1\"/>\n<title>",
          f);
    kq_html_text(f, string(p->about, "model"));
    fputs(": ways to quantize it</title>\n<style>\n", f);
    fwrite(kq_report_css, 1, kq_report_css_size, f);
    fputs("</style>\n</head>\n<body>\n<h1>Ways to quantize ", f);
    kq_html_text(f, string(p->about, "model"));
    fputs("</h1>\n", f);
    print_facts(p, f);
    print_summary(p, f);
    kq_rp_quality(p, f);
    kq_rp_spectra(p, f);
    kq_rp_modules(p, f);
    print_all(p, f);
    fputs("</body>\n</html>\n", f);
}

kq_status kq_report(const char *dir, const char *out_file, kq_error *err)
{
    KQ_C_LOCALE;
    kq_rp p;
    char *text = NULL, path[KQ_CMP_PATH];
    size_t size = 0;
    kq_status status = open_report(dir, &p, err);
    if (!status && !out_file && !(status = kq_cmp_path(path, dir, NULL, "report.html", "", err)))
        out_file = path;
    if (!status) {
        FILE *f = open_memstream(&text, &size);
        if (f)
            print_page(&p, f);
        status = !f || fclose(f) ? kq_fail(err, KQ_E_MEMORY, "%s: out of memory", out_file)
                                 : kq_file_write(out_file, text, size, err);
    }
    free(text);
    close_report(&p);
    return status;
}
