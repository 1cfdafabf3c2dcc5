/* Figures of modules: spectra of their Fisher matrices, convergence of the search for them, and what
 * rounding did to each. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "report/report.h"

static const double page_width = 1000;

static double number(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : (double)NAN;
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, size_t n)
{
    qsort(x, n, sizeof *x, ascending);
    return n ? (n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2) : (double)NAN;
}

/* ---- spectra ---- */

/* sigma2 / sigma1 of a module's report; NaN: it has none. */
static double gap(const json_t *m)
{
    const double s1 = number(m, "sigma1"), s2 = number(m, "sigma2"), q = s2 / s1;
    return s1 > 0 && s2 > 0 && q <= 1 ? q : (double)NAN;
}

static size_t gaps(const kq_rp_factors *fa, double *q, size_t most)
{
    const char *name;
    json_t *m;
    size_t n = 0;
    json_object_foreach(json_object_get(fa->o, "modules"), name, m)
        if (isfinite(gap(m)) && n < most)
            q[n++] = gap(m);
    return n;
}

static size_t steps(const json_t *m)
{
    return json_array_size(json_object_get(m, "trace"));
}

static double step(const json_t *m, size_t i, int which)
{
    return json_number_value(json_array_get(json_array_get(json_object_get(m, "trace"), i), (size_t)which));
}

/* Factors worth a panel: of each series the one with the most tokens; at most `most`. */
static size_t choose(const kq_rp *p, bool (*has)(const kq_rp_factors *), const kq_rp_factors **out,
                     size_t most)
{
    size_t n = 0;
    for (size_t i = 0; i < p->n_factors; i++) {
        const kq_rp_factors *fa = &p->factors[i];
        size_t k = 0;
        if (!has(fa))
            continue;
        while (k < n && out[k]->row->series != fa->row->series)
            k++;
        if (k < n && fa->row->tokens > out[k]->row->tokens)
            out[k] = fa;
        else if (k == n && n < most)
            out[n++] = fa;
    }
    return n;
}

static bool has_gaps(const kq_rp_factors *fa)
{
    double q;
    return gaps(fa, &q, 1);
}

static bool has_trace(const kq_rp_factors *fa)
{
    const char *name;
    json_t *m;
    json_object_foreach(json_object_get(fa->o, "modules"), name, m)
        if (steps(m) > 1)
            return true;
    return false;
}

static const char *factors_title(const kq_rp *p, const kq_rp_factors *fa, char buf[300])
{
    char tokens[32];
    snprintf(buf, 300, "%.200s, %s tokens", p->series[fa->row->series],
             kq_tokens_text(fa->row->tokens, tokens));
    return buf;
}

static void histogram(const kq_rp *p, FILE *f, const kq_rp_factors *fa, double left, double wide, double *q,
                      size_t n)
{
    enum { BINS = 20 };
    double count[BINS] = {0}, most = 1;
    char title[300], tooltip[100];
    for (size_t i = 0; i < n; i++) {
        const int b = q[i] >= 1 ? BINS - 1 : (int)(q[i] * BINS);
        most = fmax(most, ++count[b]);
    }
    factors_title(p, fa, title);
    const kq_panel axes = {.x = {0, 1, left, left + wide, false},
                           .y = {0, fmax(5, ceil(most * 1.1)), 265, 34, false},
                           .x_name = "q = \xcf\x83\xe2\x82\x82 / \xcf\x83\xe2\x82\x81 of a layer",
                           .y_name = "layers",
                           .title = title};
    kq_svg_panel(f, &axes);
    for (int b = 0; b < BINS; b++) {
        const double x0 = kq_axis_at(&axes.x, (double)b / BINS), x1 = kq_axis_at(&axes.x, (b + 1.0) / BINS),
                     y = kq_axis_at(&axes.y, count[b]);
        if (count[b] > 0) {
            fprintf(f, "<rect class=\"bar\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\">", x0 + 0.75,
                    y, x1 - x0 - 1.5, axes.y.at0 - y);
            snprintf(tooltip, sizeof tooltip, "%.2f to %.2f: %.0f layers", (double)b / BINS, (b + 1.0) / BINS,
                     count[b]);
            fprintf(f, "<title>%s</title></rect>\n", tooltip);
        }
    }
    const double cross = kq_axis_at(&axes.x, 0.2956); /* q = ((1 - sqrt q) / (1 + sqrt q)) */
    fprintf(f, "<path class=\"rule\" d=\"M%.1f %.1fV%.1f\"/>\n", cross, axes.y.at0, axes.y.at1);
    kq_svg_label(f, cross + 5, axes.y.at1 + 10, "start", "note", "0.30");
}

static void gap_figure(kq_rp *p, FILE *f)
{
    const kq_rp_factors *fa[3];
    const size_t n_fa = choose(p, has_gaps, fa, 3);
    char title[500], of[300];
    if (!n_fa)
        return;
    const size_t most = 100000;
    double *q = kq_alloc(most, sizeof *q);
    if (!q)
        return;
    size_t n = gaps(fa[0], q, most), above = 0;
    for (size_t i = 0; i < n; i++)
        above += q[i] > 0.2956;
    const double middle = median(q, n);
    snprintf(title, sizeof title,
             "Spectral gaps: half of the %zu layers have \xcf\x83\xe2\x82\x82/\xcf\x83\xe2\x82\x81 above "
             "%.2f, and "
             "%zu of %zu above 0.30 (%s)",
             n, middle, above, n, factors_title(p, fa[0], of));
    kq_rp_open(p, f, "gaps", title);
    kq_svg_begin(f, page_width, 320, title);
    const double step_x = (page_width + 10) / (double)n_fa;
    for (size_t i = 0; i < n_fa; i++) {
        n = gaps(fa[i], q, most);
        histogram(p, f, fa[i], 64 + (double)i * step_x, (n_fa == 1 ? 640 : step_x - 84), q, n);
    }
    kq_svg_end(f);
    kq_rp_close(f, "The two largest singular values of each layer's rearranged Fisher matrix; &#963;&#8322; "
                   "is a Ritz value, a lower "
                   "bound. The dashed line is where the paper's "
                   "f<sub>k</sub> and g<sub>k</sub> cross. With several numbers of calibration tokens the "
                   "largest is shown.");
    kq_free(q);
}

static void traces(const kq_rp *p, FILE *f, const kq_rp_factors *fa, double left, double wide, bool named)
{
    const char *name;
    json_t *m;
    double lo = 1, hi = 1e-12, most = 2;
    size_t longest = 0, n = 0;
    char title[300];
    json_object_foreach(json_object_get(fa->o, "modules"), name, m) {
        n++;
        longest = steps(m) > longest ? steps(m) : longest;
        for (size_t i = 0; i < steps(m); i++) {
            most = fmax(most, step(m, i, 0));
            if (step(m, i, 1) > 0) {
                lo = fmin(lo, fmax(step(m, i, 1), 1e-12));
                hi = fmax(hi, step(m, i, 1));
            }
        }
    }
    double *x = kq_alloc(3 * (longest + n) + 3, sizeof *x), *y = x ? x + longest : NULL,
           *at = x ? y + longest : NULL;
    if (!x)
        return;
    factors_title(p, fa, title);
    const double range[2] = {lo, hi};
    const kq_panel axes = {.x = {0, most, left, left + wide, false},
                           .y = kq_axis_around(range, 2, true, 300, 34),
                           .x_name = "products with A or A*",
                           .y_name = named ? "residual (eq. 42)" : NULL,
                           .title = title};
    kq_svg_panel(f, &axes);
    json_object_foreach(json_object_get(fa->o, "modules"), name, m) {
        size_t k = 0;
        for (size_t i = 0; i < steps(m); i++) {
            x[k] = kq_axis_at(&axes.x, step(m, i, 0));
            y[k++] = kq_axis_at(&axes.y, fmax(step(m, i, 1), axes.y.lo));
        }
        kq_svg_line(f, x, y, k, 0, "thin");
    }
    size_t k = 0;
    for (size_t i = 0; i < longest; i++) { /* a layer that has stopped counts with its last residual */
        size_t have = 0;
        double products = 0;
        json_object_foreach(json_object_get(fa->o, "modules"), name, m)
            if (steps(m)) {
                at[have++] = step(m, i < steps(m) ? i : steps(m) - 1, 1);
                products = i < steps(m) ? step(m, i, 0) : products;
            }
        x[k] = kq_axis_at(&axes.x, products);
        y[k++] = kq_axis_at(&axes.y, fmax(median(at, have), axes.y.lo));
    }
    kq_svg_line(f, x, y, k, 1, "bold");
    kq_free(x);
}

/* f_k and g_k of Theorem 3.1 over q, and the layers' own residuals after k steps. */
static void paper_curves(FILE *f, const kq_rp_factors *fa, double left, double wide)
{
    static const int ks[] = {1, 5, 10};
    enum { N = 101 };
    double x[N], y[N];
    const char *name;
    json_t *m;
    double most = 2;
    json_object_foreach(json_object_get(fa->o, "modules"), name, m)
        if (steps(m))
            most = fmax(most, step(m, 0, 1));
    const kq_panel axes = {.x = {0, 1, left, left + wide, false},
                           .y = {1e-6, 2 * most, 300, 34, true},
                           .x_name = "q = \xcf\x83\xe2\x82\x82 / \xcf\x83\xe2\x82\x81",
                           .title = "f and g of Theorem 3.1, and layers"};
    kq_svg_panel(f, &axes);
    for (size_t c = 0; c < 3; c++) {
        for (int which = 0; which < 2; which++) {
            size_t n = 0;
            for (int i = 1; i < N; i++) {
                const double q = (double)i / (N - 1), r = sqrt(q),
                             v = pow(which ? q : (1 - r) / (1 + r), ks[c]);
                if (v >= axes.y.lo) {
                    x[n] = kq_axis_at(&axes.x, q);
                    y[n++] = kq_axis_at(&axes.y, v);
                }
            }
            kq_svg_line(f, x, y, n, c, which ? "" : "dash");
        }
        json_object_foreach(json_object_get(fa->o, "modules"), name, m) {
            const size_t k = (size_t)ks[c] - 1;
            if (!isfinite(gap(m)) || steps(m) <= k)
                continue;
            char tooltip[300];
            snprintf(tooltip, sizeof tooltip, "%.128s: q = %.3f, residual %.2g after %d steps", name, gap(m),
                     step(m, k, 1), ks[c]);
            kq_svg_mark(f, kq_axis_at(&axes.x, gap(m)),
                        kq_axis_at(&axes.y, fmin(fmax(step(m, k, 1), axes.y.lo), axes.y.hi)), c, false,
                        "layer", tooltip);
        }
    }
}

static void convergence_figure(kq_rp *p, FILE *f)
{
    const kq_rp_factors *fa[2];
    const size_t n_fa = choose(p, has_trace, fa, 2);
    char title[500], of[300], products[64] = "";
    const char *name;
    json_t *m;
    size_t n = 0, done = 0;
    if (!n_fa)
        return;
    double *last = kq_alloc(json_object_size(json_object_get(fa[0]->o, "modules")), sizeof *last);
    if (!last)
        return;
    json_object_foreach(json_object_get(fa[0]->o, "modules"), name, m)
        if (steps(m)) {
            last[n++] = step(m, steps(m) - 1, 0);
            done += json_is_true(json_object_get(m, "converged"));
        }
    snprintf(products, sizeof products, "%.0f", median(last, n));
    kq_free(last);
    snprintf(title, sizeof title,
             "Convergence: %zu of %zu layers reach the tolerance; half of them stop within %s products (%s)",
             done, n, products, factors_title(p, fa[0], of));
    kq_rp_open(p, f, "convergence", title);
    fputs("<ul class=\"legend\">\n<li><svg class=\"swatch\" viewBox=\"0 0 34 12\"><path class=\"line s0 "
          "thin\" d=\"M1 6H33\"/></svg>"
          "a layer</li>\n<li><svg class=\"swatch\" viewBox=\"0 0 34 12\"><path class=\"line s1 bold\" d=\"M1 "
          "6H33\"/></svg>"
          "median of the layers</li>\n",
          f);
    static const int ks[] = {1, 5, 10};
    for (size_t c = 0; c < 3; c++) {
        fprintf(f,
                "<li><svg class=\"swatch\" viewBox=\"0 0 34 12\"><path class=\"line s%zu dash\" d=\"M1 "
                "6H33\"/></svg>f<sub>%d</sub></li>"
                "<li><svg class=\"swatch\" viewBox=\"0 0 34 12\"><path class=\"line s%zu\" d=\"M1 "
                "6H33\"/></svg>g<sub>%d</sub></li>"
                "<li><svg class=\"swatch\" viewBox=\"0 0 34 12\">",
                c, ks[c], c, ks[c]);
        kq_svg_mark(f, 17, 6, c, false, "key", NULL);
        fprintf(f, "</svg>layers after %d step%s</li>\n", ks[c], ks[c] > 1 ? "s" : "");
    }
    fputs("</ul>\n", f);
    kq_svg_begin(f, page_width, 350, title);
    const double step_x = (page_width + 10) / (double)(n_fa + 1), wide = step_x - 84;
    for (size_t i = 0; i < n_fa; i++)
        traces(p, f, fa[i], 64 + (double)i * step_x, wide, i == 0);
    paper_curves(f, fa[0], 64 + (double)n_fa * step_x, wide);
    kq_svg_end(f);
    kq_rp_close(f,
                "Left: ||A*(u) &#8722; &#963;v||<sub>F</sub> / &#963; after each step, a step being two "
                "products; in the median a "
                "layer that has stopped counts with its "
                "last residual. Right: f<sub>k</sub>(q) = ((1 &#8722; &#8730;q)/(1 + &#8730;q))<sup>k</sup> "
                "(Lanczos) and g<sub>k</sub>(q) = q<sup>k</sup> (power iteration), as the proof of Theorem "
                "3.1 has them (its "
                "statement leaves the roots out), and each layer at its own q: "
                "the theorem bounds the sine of an angle, the marks are residuals. The printed bound for "
                "Lanczos does not hold: it "
                "promises the fastest convergence as q approaches 1, where the gap closes and every Krylov "
                "method is slowest; it "
                "falls with the "
                "gap the wrong way round. What counts is the measured curve.");
}

void kq_rp_spectra(kq_rp *p, FILE *f)
{
    const kq_rp_factors *one[1];
    if (!choose(p, has_gaps, one, 1) && !choose(p, has_trace, one, 1))
        return;
    fputs("<h2>Search for the factors</h2>\n", f);
    gap_figure(p, f);
    convergence_figure(p, f);
}

/* ---- modules ---- */

enum { KINDS = 7, MOST_LAYERS = 1000 };
static const char *const kind_name[KINDS] = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                             "gate_proj", "up_proj", "down_proj"};

/* "model.layers.3.mlp.down_proj" -> 3, 6; false for other names. */
static bool place(const char *name, size_t *layer, size_t *kind)
{
    unsigned long l;
    char rest[64];
    if (sscanf(name, "model.layers.%4lu.%63s", &l, rest) != 2 || l >= MOST_LAYERS)
        return false;
    const char *last = strrchr(rest, '.');
    last = last ? last + 1 : rest;
    for (*kind = 0; *kind < KINDS; ++*kind)
        if (!strcmp(last, kind_name[*kind])) {
            *layer = l;
            return true;
        }
    return false;
}

enum { CELL = 34, CELL_TALL = 19, STRIP = 24 + KINDS * CELL_TALL + 32 };

/* Blocks of which a row has modules. */
static size_t n_blocks(const kq_rp_row *r)
{
    const char *name;
    json_t *m;
    size_t layer, kind, n = 0;
    bool there[MOST_LAYERS] = {false};
    json_object_foreach(json_object_get(r->o, "modules"), name, m)
        if (place(name, &layer, &kind) && !there[layer])
            there[layer] = ++n;
    return n;
}

/* One map of layers over linears, coloured by `key`, between left and right. */
static void strip(FILE *f, const kq_rp_row *r, const char *key, const char *title, bool logarithmic,
                  double left, double right, double top)
{
    const char *name;
    json_t *m;
    size_t layer, kind, column[MOST_LAYERS], n = 0;
    bool there[MOST_LAYERS] = {false};
    double lo = INFINITY, hi = -INFINITY;
    char buf[300], number_buf[32];
    json_object_foreach(json_object_get(r->o, "modules"), name, m) {
        const double v = number(m, key);
        if (!place(name, &layer, &kind) || !isfinite(v))
            continue;
        there[layer] = true;
        lo = fmin(lo, v);
        hi = fmax(hi, v);
    }
    for (size_t l = 0; l < MOST_LAYERS; l++)
        if (there[l])
            column[l] = n++;
    if (!n)
        return;
    logarithmic = logarithmic && lo > 0;
    if (logarithmic)
        lo = fmax(lo, hi / 1e4);
    const double cell = fmin((right - left) / (double)n, CELL), tall = CELL_TALL;
    kq_svg_label(f, left, top + 12, "start", "paneltitle", title);
    /* the colours, from the least to the most: beside a short map, above a long one */
    const bool beside = left + cell * (double)n + 290 < right;
    const double key_x = beside ? left + cell * (double)n + 76 : right - 220,
                 key_y = beside ? top + 24 : top + 3;
    for (size_t i = 0; i < 8; i++)
        fprintf(f, "<rect class=\"h%zu\" x=\"%.1f\" y=\"%.1f\" width=\"18\" height=\"10\"/>\n", i,
                key_x + 18 * (double)i, key_y);
    kq_svg_label(f, key_x - 6, key_y + 9, "end", "tick", kq_number_text(lo, number_buf));
    kq_svg_label(f, key_x + 150, key_y + 9, "start", "tick", kq_number_text(hi, number_buf));
    top += 24;
    for (size_t k = 0; k < KINDS; k++)
        kq_svg_label(f, left - 8, top + (double)k * tall + 13.5, "end", "tick", kind_name[k]);
    json_object_foreach(json_object_get(r->o, "modules"), name, m) {
        const double v = number(m, key), bits = number(m, "bits");
        if (!place(name, &layer, &kind) || !isfinite(v))
            continue;
        const double t = hi <= lo      ? 0
                         : logarithmic ? (log(fmax(v, lo)) - log(lo)) / (log(hi) - log(lo))
                                       : (v - lo) / (hi - lo);
        const int h = t >= 1 ? 7 : t <= 0 ? 0 : (int)(t * 8);
        const double x = left + (double)column[layer] * cell, y = top + (double)kind * tall;
        fprintf(f, "<rect class=\"cell h%d\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"><title>", h,
                x, y, cell, tall);
        snprintf(buf, sizeof buf, "%.128s: %.3g bits, %s %s", name, bits,
                 strcmp(key, "relative_mse") ? "predicted loss" : "relative error",
                 kq_number_text(v, number_buf));
        kq_html_text(f, buf);
        fputs("</title></rect>\n", f);
        if (r->mixed && cell >= 12) {
            snprintf(buf, sizeof buf, "%.3g", bits);
            kq_svg_label(f, x + cell / 2, y + 13, "middle", h > 3 ? "onhi" : "onlo", buf);
        }
    }
    const size_t every = cell >= 18 ? 1 : cell >= 9 ? 2 : 5;
    for (size_t l = 0; l < MOST_LAYERS; l++)
        if (there[l] && column[l] % every == 0) {
            snprintf(buf, sizeof buf, "%zu", l);
            kq_svg_label(f, left + ((double)column[l] + 0.5) * cell, top + KINDS * tall + 15, "middle",
                         "tick", buf);
        }
    kq_svg_label(f, left - 8, top + KINDS * tall + 15, "end", "tick", "block");
}

/* The rows to show: for each number of bits the best kind's first seed. */
static size_t shown(const kq_rp *p, const kq_rp_row **out, size_t most)
{
    size_t n = 0;
    for (size_t i = 0; i < p->n; i++) {
        const kq_rp_row *r = &p->row[i];
        size_t k = 0;
        if (r->group != i || !json_object_size(json_object_get(r->o, "modules")))
            continue;
        while (k < n && out[k]->bits != r->bits)
            k++;
        if (k == n && n < most)
            out[n++] = r;
        else if (k < n && p->n_text && kq_rp_mean(p, r, 0, "kld") < kq_rp_mean(p, out[k], 0, "kld"))
            out[k] = r;
    }
    return n;
}

static void map_figure(kq_rp *p, FILE *f, const kq_rp_row *r, size_t number_of)
{
    char title[500], name[32], worst[160] = "", buf[32];
    const char *module;
    json_t *m;
    double most = -1;
    json_object_foreach(json_object_get(r->o, "modules"), module, m)
        if (number(m, "relative_mse") > most) {
            most = number(m, "relative_mse");
            snprintf(worst, sizeof worst, "%.128s", module);
        }
    snprintf(
        title, sizeof title,
        "Error of every module: the largest relative error is %s, of %.128s (%.150s, %.4g bits, seed %lld)",
        kq_number_text(most, buf), worst, r->spec, r->bits,
        (long long)json_integer_value(json_object_get(r->o, "seed")));
    snprintf(name, sizeof name, "modules-%zu", number_of);
    kq_rp_open(p, f, name, title);
    const bool two = isfinite(r->predicted), side = (double)n_blocks(r) * CELL < 200;
    kq_svg_begin(f, page_width, 6 + (two && !side ? 2 * STRIP : STRIP), title);
    strip(f, r, "relative_mse", "relative error, ||W \xe2\x88\x92 W\xcc\x82||\xc2\xb2 / ||W||\xc2\xb2", false,
          84, side ? 490 : page_width - 4, 6);
    if (two)
        strip(f, r, "predicted_loss", "predicted rise of the loss (nats a token)", true, side ? 594 : 84,
              page_width - 4, side ? 6 : 6 + STRIP);
    kq_svg_end(f);
    snprintf(title, sizeof title, "Each cell is a module.%s%s",
             r->mixed ? " Numbers in the cells are its bits." : "",
             two ? " The predicted rise is eq. 1's share of it; its colours are logarithmic." : "");
    kq_rp_close(f, title);
}

typedef struct hard {
    const char *name;
    const json_t *m;
    double score;
} hard;

static int harder(const void *a, const void *b)
{
    const hard *x = a, *y = b;
    return x->score != y->score ? (x->score < y->score) - (x->score > y->score) : strcmp(x->name, y->name);
}

static void hardest_table(const kq_rp *p, FILE *f, const kq_rp_row *r)
{
    const json_t *modules = json_object_get(r->o, "modules"), *found = NULL;
    const char *key = isfinite(r->predicted) ? "predicted_loss" : "relative_mse", *name,
               *factors = json_string_value(json_object_get(r->o, "factors"));
    const size_t n = json_object_size(modules);
    json_t *m;
    double sum = 0;
    size_t i = 0;
    hard *h = kq_alloc(n, sizeof *h);
    if (!h)
        return;
    for (size_t k = 0; factors && k < p->n_factors; k++)
        if (!strcmp(p->factors[k].name, factors) && has_gaps(&p->factors[k]))
            found = json_object_get(p->factors[k].o, "modules");
    json_object_foreach((json_t *)modules, name, m) {
        const double score = number(m, key);
        h[i++] = (hard){name, m, isfinite(score) ? score : -1};
        sum += isfinite(score) ? score : 0;
    }
    qsort(h, n, sizeof *h, harder);
    fputs("<h3 class=\"figtitle\">The hardest modules of <code>", f);
    kq_html_text(f, r->spec);
    fprintf(f,
            "</code>, %.4g bits, by %s</h3>\n<div class=\"wide\"><table "
            "class=\"hardest\">\n<thead><tr><th>module</th><th>outputs</th><th>inputs</th><th>bits</"
            "th><th>relative "
            "error</th>%s%s</tr></thead>\n<tbody>\n",
            r->bits, isfinite(r->predicted) ? "predicted rise of the loss" : "relative error",
            isfinite(r->predicted)
                ? "<th>predicted rise<br/>(nats/token)</th><th>share of<br/>the whole (%)</th>"
                : "",
            found ? "<th>&#963;&#8322;/&#963;&#8321;</th><th>products</th>" : "");
    for (i = 0; i < n && i < 12; i++) {
        const json_t *shape = json_object_get(h[i].m, "shape"), *factor = json_object_get(found, h[i].name);
        fputs("<tr><td><code>", f);
        kq_html_text(f, h[i].name);
        fprintf(f, "</code></td><td>%lld</td><td>%lld</td><td>%.3g</td><td>%.4f</td>",
                (long long)json_integer_value(json_array_get(shape, 0)),
                (long long)json_integer_value(json_array_get(shape, 1)), number(h[i].m, "bits"),
                number(h[i].m, "relative_mse"));
        if (isfinite(r->predicted))
            fprintf(f, "<td>%.5f</td><td>%.1f</td>", h[i].score, sum > 0 ? 100 * h[i].score / sum : 0);
        if (found && isfinite(gap(factor)))
            fprintf(f, "<td>%.3f</td><td>%.0f</td>", gap(factor), number(factor, "products"));
        else if (found)
            fputs("<td>n/a</td><td>n/a</td>", f);
        fputs("</tr>\n", f);
    }
    fputs("</tbody></table></div>\n", f);
    kq_free(h);
}

void kq_rp_modules(kq_rp *p, FILE *f)
{
    const kq_rp_row *r[4];
    const size_t n = shown(p, r, 4);
    if (!n)
        return;
    fputs("<h2>Modules</h2>\n", f);
    for (size_t i = 0; i < n; i++)
        map_figure(p, f, r[i], i);
    for (size_t i = 0; i < n; i++)
        hardest_table(p, f, r[i]);
}
