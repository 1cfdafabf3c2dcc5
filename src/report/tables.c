/* The page's two tables: a line for each way to quantize, over its seeds, and a line for each row. */
#include <math.h>
#include <string.h>

#include "report/report.h"

static void text_heads(const kq_rp *p, FILE *f)
{
    for (size_t t = 0; t < p->n_text; t++)
        fputs("<th>loss rise<br/>(nats/token)</th><th>KLD<br/>(nats)</th><th>top-1<br/>(%)</th>"
              "<th>perplexity</th>",
              f);
    const json_t *v;
    size_t i;
    json_array_foreach(json_object_get(p->about, "tasks"), i, v)
        fputs("<th>accuracy<br/>(%)</th>", f);
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
    json_array_foreach(json_object_get(p->about, "tasks"), i, v) {
        fputs("<th class=\"group\">", f);
        kq_html_text(f, kq_rp_string(v, "name"));
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
    return kq_rp_number(json_object_get(json_object_get(r->o, "tasks"), ctx), "acc");
}

static double of_predicted(const kq_rp_row *r, const void *ctx)
{
    (void)ctx;
    return r->predicted;
}

/* The measured KL divergence on a text for a nat that eq. 1 predicts. NaN where nothing is predicted. */
static double of_ratio(const kq_rp_row *r, const void *ctx)
{
    return r->predicted > 0 ? of_text(r, ctx) / r->predicted : (double)NAN;
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
            kq_rp_cell_error(f, measure[k].scale * mean, measure[k].scale * sd,
                             k == 3 ? kq_rp_ppl_digits(mean) : measure[k].digits);
        }
    json_array_foreach(json_object_get(p->about, "tasks"), i, v) {
        over_seeds(p, group, of_task, kq_rp_string(v, "name"), &mean, &sd, &n);
        kq_rp_cell_error(f, 100 * mean, 100 * sd, 2);
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

void kq_rp_summary(const kq_rp *p, FILE *f)
{
    double mean, sd;
    size_t n;
    fputs("<h2>Summary</h2>\n<p>Mean over seeds, with their standard deviation where there are several. "
          "Shaded: the lowest KL divergence of its size.</p>\n<div class=\"wide\"><table id=\"summary\">\n"
          "<thead>",
          f);
    group_heads(p, f, p->n_text ? 7 : 6, "");
    fputs("<tr><th>method</th><th>bits</th><th>calibration<br/>tokens</th><th>seeds</th>"
          "<th>bits a weight<br/>of the file</th><th>predicted by<br/>eq. 1 (nats/token)</th>",
          f);
    if (p->n_text)
        fputs("<th>KLD of the first text<br/>over predicted</th>", f);
    text_heads(p, f);
    fputs("</tr></thead>\n<tbody>\n", f);
    for (size_t i = 0; i < p->n; i++) {
        if (p->row[i].group != i)
            continue;
        fputs(is_best(p, i) ? "<tr class=\"best\"><td><code>" : "<tr><td><code>", f);
        kq_html_text(f, p->row[i].spec);
        fputs("</code></td>", f);
        kq_rp_bits_cell(f, p->row[i].bits);
        kq_rp_tokens_cell(f, p->row[i].tokens);
        over_seeds(p, i, of_predicted, NULL, &mean, &sd, &n);
        fprintf(f, "<td>%zu</td>", n);
        kq_rp_cell(f, kq_rp_number(p->row[i].o, "bpw_file"), 3);
        kq_rp_cell_error(f, mean, sd, 4);
        if (p->n_text) {
            over_seeds(p, i, of_ratio, &(pick){0, "kld"}, &mean, &sd, &n);
            kq_rp_cell_error(f, mean, sd, 3);
        }
        quality_cells(p, f, i);
        fputs("</tr>\n", f);
    }
    fputs("</tbody></table></div>\n", f);
}

void kq_rp_all_rows(const kq_rp *p, FILE *f)
{
    const json_t *v;
    size_t t, k;
    fputs("<h2>Every row</h2>\n<p>&#177;: standard error over tokens (documents for accuracies), "
          "taken as independent. The calibration's seconds are those of the pass over the text that rows "
          "share; times and peaks of work that was interrupted are not known (n/a).</p>\n"
          "<div class=\"wide\"><table id=\"rows\">\n<thead>",
          f);
    group_heads(p, f, 4,
                "<th class=\"group\" colspan=\"4\">seconds</th>"
                "<th class=\"group\" colspan=\"3\">peak memory (MB)</th><th colspan=\"4\"></th>");
    fputs("<tr><th>method</th><th>bits</th><th>calibration<br/>tokens</th><th>seed</th><th>calibration</th>"
          "<th>factors</th><th>rounding</th><th>evaluation</th><th>calibration</th><th>rounding</th>"
          "<th>evaluation</th><th>bits a quantized<br/>weight</th><th>bits a weight<br/>of the file</th>"
          "<th>relative<br/>error</th><th>predicted by<br/>eq. 1 (nats/token)</th>",
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
        kq_rp_bits_cell(f, r->bits);
        kq_rp_tokens_cell(f, r->tokens);
        fprintf(f, "<td>%lld</td>", (long long)json_integer_value(json_object_get(r->o, "seed")));
        for (k = 0; k < 4; k++)
            kq_rp_cell(f, kq_rp_number(json_object_get(r->o, "seconds"), stage[k]), 1);
        for (k = 0; k < 3; k++)
            kq_rp_cell(f, kq_rp_number(json_object_get(r->o, "peak_rss_bytes"), peak[k]) / 1e6, 0);
        kq_rp_cell(f, r->bpw, 3);
        kq_rp_cell(f, kq_rp_number(r->o, "bpw_file"), 3);
        kq_rp_cell(f, kq_rp_number(r->o, "relative_mse"), 4);
        kq_rp_cell(f, r->predicted, 4);
        for (t = 0; t < p->n_text; t++) {
            kq_rp_cell_error(f, kq_rp_measure(r, t, "loss_rise"), kq_rp_measure(r, t, "loss_rise_stderr"), 4);
            kq_rp_cell_error(f, kq_rp_measure(r, t, "kld"), kq_rp_measure(r, t, "kld_stderr"), 4);
            kq_rp_cell_error(f, 100 * kq_rp_measure(r, t, "top1"), 100 * kq_rp_measure(r, t, "top1_stderr"),
                             2);
            kq_rp_cell_error(f, kq_rp_measure(r, t, "ppl"), kq_rp_measure(r, t, "ppl_stderr"),
                             kq_rp_ppl_digits(kq_rp_measure(r, t, "ppl")));
        }
        json_array_foreach(json_object_get(p->about, "tasks"), t, v) {
            const json_t *task = json_object_get(json_object_get(r->o, "tasks"), kq_rp_string(v, "name"));
            kq_rp_cell_error(f, 100 * kq_rp_number(task, "acc"), 100 * kq_rp_number(task, "acc_stderr"), 2);
        }
        fputs("</tr>\n", f);
    }
    fputs("</tbody></table></div>\n", f);
}
