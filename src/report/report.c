/* kq_report: one HTML page of a comparison that needs nothing else: no network, no script. */
#include <math.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/locale.h"
#include "base/mem.h"
#include "report/report.h"

extern const unsigned char kq_report_css[];
extern const size_t kq_report_css_size;

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
    fact(f, "Model", kq_rp_string(p->about, "model"));
    snprintf(line, sizeof line, "%zu (%zu when seeds are taken together), of %zu methods", p->n, kinds,
             p->n_series);
    fact(f, "Rows", line);
    for (i = 0; i < p->n_text; i++) {
        text = json_array_get(json_object_get(p->row[0].o, "texts"), i);
        snprintf(line, sizeof line, "%.300s: %.0f windows of %.0f tokens, original's perplexity %.3f",
                 kq_rp_text_name(p, i), kq_rp_number(text, "windows"), kq_rp_number(text, "ctx"),
                 kq_rp_number(text, "reference_ppl"));
        fact(f, i ? "" : "Measured on", line);
    }
    if (cal) {
        size_t at = 0;
        const json_t *list = json_object_get(cal, "text");
        line[0] = 0;
        json_array_foreach(list, i, name)
            if (json_is_string(name) && at < 300)
                at += (size_t)snprintf(line + at, sizeof line - at, "%s%.100s", i ? ", " : "",
                                       json_string_value(name));
        if (json_is_string(list))
            at += (size_t)snprintf(line, sizeof line, "%.100s", json_string_value(list));
        const double seq_len = kq_rp_number(cal, "seq_len");
        if (isfinite(seq_len) && at < 400)
            snprintf(line + at, sizeof line - at, ", sequences of %.0f tokens (the first row's)", seq_len);
        fact(f, "Calibrated on", line);
    }
    const char *only = kq_rp_string(json_object_get(p->row[0].o, "settings"), "only");
    if (*only) {
        snprintf(line, sizeof line, "modules that match %.200s; the others are not", only);
        fact(f, "Quantized", line);
    }
    snprintf(line, sizeof line, "%.30s products, instruction set %.30s, kronq %.30s",
             kq_rp_string(p->about, "compute"), kq_rp_string(p->about, "isa"),
             kq_rp_string(p->about, "kronq"));
    fact(f, "Computed with", line);
    fputs("</dl>\n", f);
}

static void print_page(kq_rp *p, FILE *f)
{
    fputs("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
          "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>",
          f);
    kq_html_text(f, kq_rp_string(p->about, "model"));
    fputs(": ways to quantize it</title>\n<style>\n", f);
    fwrite(kq_report_css, 1, kq_report_css_size, f);
    fputs("</style>\n</head>\n<body>\n<h1>Ways to quantize ", f);
    kq_html_text(f, kq_rp_string(p->about, "model"));
    fputs("</h1>\n", f);
    print_facts(p, f);
    kq_rp_summary(p, f);
    kq_rp_quality(p, f);
    kq_rp_spectra(p, f);
    kq_rp_modules(p, f);
    kq_rp_all_rows(p, f);
    fputs("</body>\n</html>\n", f);
}

kq_status kq_report(const char *dir, const char *out_file, kq_error *err)
{
    KQ_C_LOCALE;
    kq_rp p;
    char *text = NULL, *path = NULL;
    size_t size = 0;
    kq_status status = kq_rp_read(dir, &p, err);
    if (!status && !out_file && !(status = kq_cmp_path(&path, dir, NULL, "report.html", "", err)))
        out_file = path;
    if (!status) {
        FILE *f = open_memstream(&text, &size);
        if (f)
            print_page(&p, f);
        status = !f || fclose(f) ? kq_fail(err, KQ_E_MEMORY, "%s: out of memory", out_file)
                                 : kq_file_write(out_file, text, size, err);
    }
    free(text);
    kq_free(path);
    kq_rp_free(&p);
    return status;
}
