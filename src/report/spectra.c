/* Figures of the search for factors: spectral gaps of the Fisher matrices, and convergence. They show where
 * the paper's theory meets the measurement, so they draw both. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "report/report.h"

static const double page_width = 1000;

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

double kq_rp_gap(const json_t *m)
{
    const double s1 = kq_rp_number(m, "sigma1"), s2 = kq_rp_number(m, "sigma2"), q = s2 / s1;
    return s1 > 0 && s2 > 0 && q <= 1 ? q : (double)NAN;
}

static size_t gaps(const kq_rp_factors *fa, double *q, size_t most)
{
    const char *name;
    json_t *m;
    size_t n = 0;
    json_object_foreach(json_object_get(fa->o, "modules"), name, m)
        if (isfinite(kq_rp_gap(m)) && n < most)
            q[n++] = kq_rp_gap(m);
    return n;
}

/* Steps of the search for a module's factors. */
static size_t n_steps(const json_t *m)
{
    return json_array_size(json_object_get(m, "trace"));
}

/* Of step i: products so far (which 0), residual (which 1). */
static double trace_value(const json_t *m, size_t i, int which)
{
    return json_number_value(json_array_get(json_array_get(json_object_get(m, "trace"), i), (size_t)which));
}

/* Factors to be drawn: of each series those with the most tokens; at most `most`. */
static size_t choose_factors(const kq_rp *p, bool (*has)(const kq_rp_factors *), const kq_rp_factors **out,
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

bool kq_rp_has_gaps(const kq_rp_factors *fa)
{
    double q;
    return gaps(fa, &q, 1);
}

static bool has_trace(const kq_rp_factors *fa)
{
    const char *name;
    json_t *m;
    json_object_foreach(json_object_get(fa->o, "modules"), name, m)
        if (n_steps(m) > 1)
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

/* One plot of how many layers have which gap. */
static void plot_gaps(const kq_rp *p, FILE *f, const kq_rp_factors *fa, double left, double wide, double *q,
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
    const kq_plot axes = {.x = {0, 1, left, left + wide, false},
                          .y = {0, fmax(5, ceil(most * 1.1)), 265, 34, false},
                          .x_name = "q = \xcf\x83\xe2\x82\x82 / \xcf\x83\xe2\x82\x81 of a layer",
                          .y_name = "layers",
                          .title = title};
    kq_svg_plot(f, &axes);
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
    const size_t n_fa = choose_factors(p, kq_rp_has_gaps, fa, 3);
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
             "%.2f, and %zu of %zu above 0.30 (%s)",
             n, middle, above, n, factors_title(p, fa[0], of));
    kq_rp_open(p, f, "gaps", title);
    kq_svg_begin(f, page_width, 320, title);
    const double step_x = (page_width + 10) / (double)n_fa;
    for (size_t i = 0; i < n_fa; i++) {
        n = gaps(fa[i], q, most);
        plot_gaps(p, f, fa[i], 64 + (double)i * step_x, (n_fa == 1 ? 640 : step_x - 84), q, n);
    }
    kq_svg_end(f);
    kq_rp_close(f, "The two largest singular values of each layer's rearranged Fisher matrix; "
                   "&#963;&#8322; is a Ritz value, a lower bound. The dashed line is where the paper's "
                   "f<sub>k</sub> and g<sub>k</sub> cross. "
                   "With several numbers of calibration tokens the largest is shown.");
    kq_free(q);
}

/* What the traces of all layers span. */
typedef struct trace_extent {
    size_t n, longest; /* layers; steps of the longest trace */
    double most_products, residual[2];
} trace_extent;

static trace_extent extent_of(const kq_rp_factors *fa)
{
    trace_extent e = {.most_products = 2, .residual = {1, 1e-12}};
    const char *name;
    json_t *m;
    json_object_foreach(json_object_get(fa->o, "modules"), name, m) {
        e.n++;
        e.longest = n_steps(m) > e.longest ? n_steps(m) : e.longest;
        for (size_t i = 0; i < n_steps(m); i++) {
            e.most_products = fmax(e.most_products, trace_value(m, i, 0));
            if (trace_value(m, i, 1) > 0) {
                e.residual[0] = fmin(e.residual[0], fmax(trace_value(m, i, 1), 1e-12));
                e.residual[1] = fmax(e.residual[1], trace_value(m, i, 1));
            }
        }
    }
    return e;
}

/* One plot of the residuals of all layers over the products, and their median. */
static void plot_traces(const kq_rp *p, FILE *f, const kq_rp_factors *fa, double left, double wide,
                        bool named)
{
    const char *name;
    json_t *m;
    const trace_extent e = extent_of(fa);
    char title[300];
    double *x = kq_alloc(3 * (e.longest + e.n) + 3, sizeof *x), *y = x ? x + e.longest : NULL,
           *residual = x ? y + e.longest : NULL;
    if (!x)
        return;
    factors_title(p, fa, title);
    const kq_plot axes = {.x = {0, e.most_products, left, left + wide, false},
                          .y = kq_axis_around(e.residual, 2, true, 300, 34),
                          .x_name = "products with A or A*",
                          .y_name = named ? "residual (eq. 42)" : NULL,
                          .title = title};
    kq_svg_plot(f, &axes);
    json_object_foreach(json_object_get(fa->o, "modules"), name, m) {
        size_t k = 0;
        for (size_t i = 0; i < n_steps(m); i++) {
            x[k] = kq_axis_at(&axes.x, trace_value(m, i, 0));
            y[k++] = kq_axis_at(&axes.y, fmax(trace_value(m, i, 1), axes.y.lo));
        }
        kq_svg_line(f, x, y, k, 0, "thin");
    }
    size_t k = 0;
    for (size_t i = 0; i < e.longest; i++) { /* a layer that has stopped counts with its last residual */
        size_t have = 0;
        double products = 0;
        json_object_foreach(json_object_get(fa->o, "modules"), name, m)
            if (n_steps(m)) {
                residual[have++] = trace_value(m, i < n_steps(m) ? i : n_steps(m) - 1, 1);
                products = i < n_steps(m) ? trace_value(m, i, 0) : products;
            }
        x[k] = kq_axis_at(&axes.x, products);
        y[k++] = kq_axis_at(&axes.y, fmax(median(residual, have), axes.y.lo));
    }
    kq_svg_line(f, x, y, k, 1, "bold");
    kq_free(x);
}

/* The steps after which layers are drawn beside the paper's curves. */
enum { N_CURVES = 3 };
static const int curve_steps[N_CURVES] = {1, 5, 10};

/* Every layer at its own q, with its residual after curve_steps[c] steps. */
static void mark_layers(FILE *f, const kq_rp_factors *fa, const kq_plot *axes, size_t c)
{
    const size_t k = (size_t)curve_steps[c] - 1;
    const char *name;
    json_t *m;
    json_object_foreach(json_object_get(fa->o, "modules"), name, m) {
        const double q = kq_rp_gap(m);
        char tooltip[300];
        if (!isfinite(q) || n_steps(m) <= k)
            continue;
        const double residual = trace_value(m, k, 1);
        snprintf(tooltip, sizeof tooltip, "%.128s: q = %.3f, residual %.2g after %d steps", name, q, residual,
                 curve_steps[c]);
        kq_svg_mark(f, kq_axis_at(&axes->x, q),
                    kq_axis_at(&axes->y, fmin(fmax(residual, axes->y.lo), axes->y.hi)), c, false, "layer",
                    tooltip);
    }
}

/* f_k and g_k of Theorem 3.1 over q, and the layers' own residuals after k steps. */
static void plot_paper_curves(FILE *f, const kq_rp_factors *fa, double left, double wide)
{
    enum { N = 101 };
    double x[N], y[N];
    const char *name;
    json_t *m;
    double most = 2;
    json_object_foreach(json_object_get(fa->o, "modules"), name, m)
        if (n_steps(m))
            most = fmax(most, trace_value(m, 0, 1));
    const kq_plot axes = {.x = {0, 1, left, left + wide, false},
                          .y = {1e-6, 2 * most, 300, 34, true},
                          .x_name = "q = \xcf\x83\xe2\x82\x82 / \xcf\x83\xe2\x82\x81",
                          .title = "f and g of Theorem 3.1, and layers"};
    kq_svg_plot(f, &axes);
    for (size_t c = 0; c < N_CURVES; c++) {
        for (int which = 0; which < 2; which++) {
            size_t n = 0;
            for (int i = 1; i < N; i++) {
                const double q = (double)i / (N - 1), r = sqrt(q),
                             v = pow(which ? q : (1 - r) / (1 + r), curve_steps[c]);
                if (v >= axes.y.lo) {
                    x[n] = kq_axis_at(&axes.x, q);
                    y[n++] = kq_axis_at(&axes.y, v);
                }
            }
            kq_svg_line(f, x, y, n, c, which ? "" : "dash");
        }
        mark_layers(f, fa, &axes, c);
    }
}

static void convergence_legend(FILE *f)
{
    static const char swatch[] = "<svg class=\"swatch\" viewBox=\"0 0 34 12\">";
    fprintf(f,
            "<ul class=\"legend\">\n<li>%s<path class=\"line s0 thin\" d=\"M1 6H33\"/></svg>a layer</li>\n"
            "<li>%s<path class=\"line s1 bold\" d=\"M1 6H33\"/></svg>median of the layers</li>\n",
            swatch, swatch);
    for (size_t c = 0; c < N_CURVES; c++) {
        const int k = curve_steps[c];
        fprintf(f, "<li>%s<path class=\"line s%zu dash\" d=\"M1 6H33\"/></svg>f<sub>%d</sub></li>", swatch, c,
                k);
        fprintf(f, "<li>%s<path class=\"line s%zu\" d=\"M1 6H33\"/></svg>g<sub>%d</sub></li>", swatch, c, k);
        fprintf(f, "<li>%s", swatch);
        kq_svg_mark(f, 17, 6, c, false, "key", NULL);
        fprintf(f, "</svg>layers after %d step%s</li>\n", k, k > 1 ? "s" : "");
    }
    fputs("</ul>\n", f);
}

/* False: out of memory. */
static bool convergence_title(const kq_rp *p, const kq_rp_factors *fa, char *title, size_t cap)
{
    const json_t *modules = json_object_get(fa->o, "modules");
    const char *name;
    char factors[300];
    json_t *m;
    size_t n = 0, converged = 0;
    double *products = kq_alloc(json_object_size(modules), sizeof *products);
    if (!products)
        return false;
    json_object_foreach((json_t *)modules, name, m)
        if (n_steps(m)) {
            products[n++] = trace_value(m, n_steps(m) - 1, 0);
            converged += json_is_true(json_object_get(m, "converged"));
        }
    snprintf(
        title, cap,
        "Convergence: %zu of %zu layers reach the tolerance; half of them stop within %.0f products (%s)",
        converged, n, median(products, n), factors_title(p, fa, factors));
    kq_free(products);
    return true;
}

static void convergence_figure(kq_rp *p, FILE *f)
{
    static const char caption[] =
        "Left: ||A*(u) &#8722; &#963;v||<sub>F</sub> / &#963; after each step, a step being two products; "
        "in the median a layer that has stopped counts with its last residual. "
        "Right: f<sub>k</sub>(q) = ((1 &#8722; &#8730;q)/(1 + &#8730;q))<sup>k</sup> (Lanczos) "
        "and g<sub>k</sub>(q) = q<sup>k</sup> (power iteration), as the proof of Theorem 3.1 has them "
        "(its statement leaves the roots out), and each layer at its own q: "
        "the theorem bounds the sine of an angle, the marks are residuals. "
        "The printed bound for Lanczos does not hold: it promises the fastest convergence as q approaches 1, "
        "where the gap closes and every Krylov method is slowest; it falls with the gap the wrong way round. "
        "What counts is the measured curve.";
    const kq_rp_factors *fa[2];
    const size_t n_fa = choose_factors(p, has_trace, fa, 2);
    char title[500];
    if (!n_fa || !convergence_title(p, fa[0], title, sizeof title))
        return;
    kq_rp_open(p, f, "convergence", title);
    convergence_legend(f);
    kq_svg_begin(f, page_width, 350, title);
    const double step_x = (page_width + 10) / (double)(n_fa + 1), wide = step_x - 84;
    for (size_t i = 0; i < n_fa; i++)
        plot_traces(p, f, fa[i], 64 + (double)i * step_x, wide, i == 0);
    plot_paper_curves(f, fa[0], 64 + (double)n_fa * step_x, wide);
    kq_svg_end(f);
    kq_rp_close(f, caption);
}

void kq_rp_spectra(kq_rp *p, FILE *f)
{
    const kq_rp_factors *some[1];
    if (!choose_factors(p, kq_rp_has_gaps, some, 1) && !choose_factors(p, has_trace, some, 1))
        return;
    fputs("<h2>Search for the factors</h2>\n", f);
    gap_figure(p, f);
    convergence_figure(p, f);
}
