/* Figures of the rows of a comparison: each row is one mark. Titles say the result, because a reader who
 * skims sees nothing else. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "report/report.h"

enum { MOST_PLOTS = 12, ACROSS = 3 };
static const double page_width = 1000;

static double clamped(const kq_axis *a, double x)
{
    return kq_axis_at(a, x < a->lo ? a->lo : x > a->hi ? a->hi : x);
}

/* Marks of different series that would lie on each other are set apart sideways. */
static double sideways(const kq_rp *p, size_t series, double most)
{
    return p->n_series < 2 ? 0 : most * (2.0 * (double)series / (double)(p->n_series - 1) - 1);
}

static void tooltip_of(char *buf, size_t cap, const kq_rp_row *r, const char *what, double value)
{
    char number[32];
    snprintf(buf, cap, "%.200s, %.4g bits, seed %lld: %s %s", r->spec, r->bits,
             (long long)json_integer_value(json_object_get(r->o, "seed")), what,
             kq_number_text(value, number));
}

/* Sorted, each once. */
static size_t distinct(double *x, size_t n)
{
    size_t m = 0;
    for (size_t i = 0; i < n; i++) {
        size_t k = 0;
        if (!isfinite(x[i]))
            continue;
        while (k < m && x[k] < x[i])
            k++;
        if (k < m && x[k] == x[i])
            continue;
        const double v = x[i]; /* i >= m: what is moved up was read already */
        memmove(x + k + 1, x + k, (m - k) * sizeof *x);
        x[k] = v;
        m++;
    }
    return m;
}

static size_t all_bits(const kq_rp *p, double bits[], size_t most)
{
    double *x = kq_alloc(p->n, sizeof *x);
    size_t n = 0;
    for (size_t i = 0; x && i < p->n; i++)
        x[i] = p->row[i].bits;
    if (x)
        n = distinct(x, p->n);
    n = n < most ? n : most;
    if (n)
        memcpy(bits, x, n * sizeof *x);
    kq_free(x);
    return n;
}

/* The kind of rows with the lowest mean KL divergence among those of the size of `like`; NULL: of any. */
static const kq_rp_row *best(const kq_rp *p, size_t text, const kq_rp_row *like)
{
    const kq_rp_row *b = NULL;
    for (size_t i = 0; i < p->n; i++) {
        const kq_rp_row *r = &p->row[i];
        if (r->group == i && (!like || kq_rp_same_size(r, like)) &&
            (!b || kq_rp_mean(p, r, text, "kld") < kq_rp_mean(p, b, text, "kld")))
            b = r;
    }
    return b;
}

static const kq_rp_row *smallest(const kq_rp *p)
{
    const kq_rp_row *r = p->row;
    for (size_t i = 1; i < p->n; i++)
        if (p->row[i].bpw < r->bpw)
            r = &p->row[i];
    return r;
}

/* ---- against tokens ---- */

typedef struct token_plot {
    const kq_rp *p;
    size_t text;
    double bits;
    kq_plot axes;
    double none_at; /* where rows without calibration stand, pixels; NaN: there are none */
} token_plot;

static bool in_plot(const token_plot *t, const kq_rp_row *r)
{
    return r->bits == t->bits;
}

static double token_x(const token_plot *t, const kq_rp_row *r)
{
    return (isfinite(r->tokens) ? kq_axis_at(&t->axes.x, r->tokens) : t->none_at) +
           sideways(t->p, r->series, 5);
}

static void series_line(const token_plot *t, FILE *f, size_t series)
{
    const kq_rp *p = t->p;
    double x[64], y[64], tokens[64];
    size_t n = 0;
    for (size_t i = 0; i < p->n; i++) {
        const kq_rp_row *r = &p->row[i];
        if (r->group != i || r->series != series || !in_plot(t, r))
            continue;
        const double mean = clamped(&t->axes.y, kq_rp_mean(p, r, t->text, "kld"));
        if (!isfinite(r->tokens)) { /* what everything else is to be compared with */
            fprintf(f, "<path class=\"line s%zu dot\" d=\"M%.1f %.1fH%.1f\"/>\n", series % KQ_COLOURS,
                    t->none_at, mean, t->axes.x.at1);
            continue;
        }
        size_t k = n < 64 ? n++ : 63;
        for (; k > 0 && tokens[k - 1] > r->tokens; k--) {
            tokens[k] = tokens[k - 1];
            x[k] = x[k - 1];
            y[k] = y[k - 1];
        }
        tokens[k] = r->tokens;
        x[k] = token_x(t, r);
        y[k] = mean;
    }
    kq_svg_line(f, x, y, n, series, "");
}

static void draw_token_plot(token_plot *t, FILE *f, const double *ticks, size_t n_ticks)
{
    char buf[400];
    t->axes.x_tick = n_ticks <= 10 ? ticks : NULL;
    t->axes.n_x_tick = n_ticks;
    t->axes.x_label = kq_tokens_text;
    kq_svg_plot(f, &t->axes);
    if (isfinite(t->none_at))
        kq_svg_label(f, t->none_at, t->axes.y.at0 + 19, "middle", "tick", "none");
    for (size_t s = 0; s < t->p->n_series; s++)
        series_line(t, f, s);
    for (size_t i = 0; i < t->p->n; i++) {
        const kq_rp_row *r = &t->p->row[i];
        if (!in_plot(t, r))
            continue;
        const double kld = kq_rp_measure(r, t->text, "kld");
        tooltip_of(buf, sizeof buf, r, "KLD", kld);
        kq_svg_mark(f, token_x(t, r), clamped(&t->axes.y, kld), r->series, false, "pt", buf);
    }
}

/* The figure's plots, one for each number of bits, in rows of `across`. */
typedef struct token_grid {
    const kq_rp *p;
    size_t text;
    double bits[MOST_PLOTS];
    size_t n_bits, across, down;
    double wide, tall, step_x, step_y; /* a plot, and the way to the next, in pixels */
    bool any_none;                     /* some row has no calibration */
} token_grid;

static token_grid make_token_grid(const kq_rp *p, size_t text)
{
    token_grid g = {.p = p, .text = text};
    g.n_bits = all_bits(p, g.bits, MOST_PLOTS);
    g.across = g.n_bits < ACROSS ? g.n_bits : ACROSS;
    g.down = (g.n_bits + g.across - 1) / g.across;
    g.wide = (page_width + 20) / (double)g.across - 86;
    g.tall = g.across == 1 ? 300 : 230;
    g.step_x = g.wide + 86;
    g.step_y = g.tall + 88;
    for (size_t i = 0; i < p->n; i++)
        g.any_none = g.any_none || !isfinite(p->row[i].tokens);
    return g;
}

static void tokens_title(const kq_rp *p, size_t text, char *title, size_t cap)
{
    char kld[32], tokens[32];
    const kq_rp_row *b = best(p, text, smallest(p));
    kq_number_text(kq_rp_mean(p, b, text, "kld"), kld);
    if (isfinite(b->tokens))
        snprintf(
            title, cap,
            "KL divergence against calibration tokens: at %.4g bits the lowest is %.150s with %s tokens, "
            "%s nats",
            b->bits, p->series[b->series], kq_tokens_text(b->tokens, tokens), kld);
    else
        snprintf(title, cap,
                 "KL divergence against calibration tokens: at %.4g bits the lowest is %.150s, "
                 "without calibration, %s nats",
                 b->bits, p->series[b->series], kld);
}

/* Plot k of the grid. tokens: the axis that all plots share; ticks [n_ticks]: the numbers of tokens that
 * there are; y [p->n]: scratch. */
static void grid_plot(const token_grid *g, FILE *f, size_t k, const kq_axis *tokens, const double *ticks,
                      size_t n_ticks, double *y)
{
    const kq_rp *p = g->p;
    const double left = 64 + (double)(k % g->across) * g->step_x,
                 top = 30 + (double)(k / g->across) * g->step_y, none_room = g->any_none ? 44 : 0;
    char title[40], y_name[300];
    snprintf(title, sizeof title, "%.4g bits", g->bits[k]);
    snprintf(y_name, sizeof y_name, "KL divergence (nats), %.200s", kq_rp_text_name(p, g->text));
    for (size_t i = 0; i < p->n; i++)
        y[i] = p->row[i].bits == g->bits[k] ? kq_rp_measure(&p->row[i], g->text, "kld") : (double)NAN;
    token_plot t = {.p = p,
                    .text = g->text,
                    .bits = g->bits[k],
                    .none_at = g->any_none ? left + 22 : (double)NAN,
                    .axes = {.x = *tokens,
                             .y = kq_axis_around(y, p->n, true, top + g->tall, top),
                             .x_name = "calibration tokens",
                             .y_name = k % g->across ? NULL : y_name,
                             .title = title}};
    t.axes.x.at0 = left + none_room;
    t.axes.x.at1 = left + g->wide;
    draw_token_plot(&t, f, ticks, n_ticks);
    if (g->any_none)
        fprintf(f, "<path class=\"frame\" d=\"M%.1f %.1fH%.1f\"/>\n", left, top + g->tall,
                left + none_room - 8);
}

/* scratch [2 p->n] */
static void tokens_figure(kq_rp *p, FILE *f, size_t text, double *scratch)
{
    static const char all_drawn[] =
        "A mark is one seed, a line the mean over seeds; methods are set apart sideways. "
        "Both axes are logarithmic, each panel with a range of its own. "
        "Methods that need no calibration stand at the left, and the dotted line carries their mean across.";
    static const char some_drawn[] =
        "A mark is one seed, a line the mean over seeds. Both axes are logarithmic. "
        "Only the twelve lowest numbers of bits are drawn.";
    char title[500], name[32];
    double *tokens = scratch;
    const token_grid g = make_token_grid(p, text);
    size_t drawn = 0;
    for (size_t i = 0; i < p->n; i++) {
        tokens[i] = p->row[i].tokens;
        for (size_t b = 0; b < g.n_bits; b++)
            drawn += p->row[i].bits == g.bits[b];
    }
    tokens_title(p, text, title, sizeof title);
    snprintf(name, sizeof name, "tokens-%zu", text);
    kq_rp_open(p, f, name, title);
    kq_rp_legend(p, f);
    kq_svg_begin(f, page_width, (double)g.down * g.step_y, title);
    const kq_axis span = kq_axis_around(tokens, p->n, true, 0, 1);
    const size_t n_tokens = distinct(tokens, p->n);
    for (size_t k = 0; k < g.n_bits; k++)
        grid_plot(&g, f, k, &span, tokens, n_tokens, scratch + p->n);
    kq_svg_end(f);
    kq_rp_close(f, drawn == p->n ? all_drawn : some_drawn);
}

/* ---- against size ---- */

/* The whole-bit kind of a series with these bits and the most tokens. */
static const kq_rp_row *anchor(const kq_rp *p, size_t series, double bits)
{
    const kq_rp_row *a = NULL;
    for (size_t i = 0; i < p->n; i++) {
        const kq_rp_row *r = &p->row[i];
        if (r->group == i && r->series == series && r->bits == bits && !r->mixed &&
            (!a || r->tokens > a->tokens))
            a = r;
    }
    return a;
}

/* KL divergence on the line between the two whole-bit results of r's series around it (straight in the
 * logarithm); NaN when one is missing. */
static double on_line(const kq_rp *p, const kq_rp_row *r, size_t text)
{
    const kq_rp_row *lo = NULL, *hi = NULL;
    for (double b = floor(r->bits); b >= 1 && !lo; b--)
        lo = anchor(p, r->series, b);
    for (double b = ceil(r->bits); b <= 16 && !hi; b++)
        hi = anchor(p, r->series, b);
    if (!lo || !hi || !(hi->bpw > lo->bpw))
        return (double)NAN;
    const double w = (r->bpw - lo->bpw) / (hi->bpw - lo->bpw);
    return exp((1 - w) * log(kq_rp_mean(p, lo, text, "kld")) + w * log(kq_rp_mean(p, hi, text, "kld")));
}

static void size_title(const kq_rp *p, size_t text, char *title, size_t cap)
{
    char highest[32], lowest[32];
    size_t mixed = 0, below = 0;
    for (size_t i = 0; i < p->n; i++) {
        const kq_rp_row *r = &p->row[i];
        if (r->group == i && r->mixed && isfinite(on_line(p, r, text))) {
            mixed++;
            below += kq_rp_mean(p, r, text, "kld") < on_line(p, r, text);
        }
    }
    const kq_rp_row *lo = best(p, text, NULL), *hi = best(p, text, smallest(p));
    kq_number_text(kq_rp_mean(p, hi, text, "kld"), highest);
    kq_number_text(kq_rp_mean(p, lo, text, "kld"), lowest);
    const int len = kq_rp_same_size(lo, hi)
                        ? snprintf(title, cap,
                                   "KL divergence against size: %s nats at %.3f bits a weight with the best "
                                   "method, %.150s",
                                   highest, hi->bpw, hi->spec)
                        : snprintf(title, cap,
                                   "KL divergence against size: from %s nats at %.3f bits a weight to %s at "
                                   "%.3f with the best methods",
                                   highest, hi->bpw, lowest, lo->bpw);
    if (mixed)
        snprintf(title + len, cap - (size_t)len,
                 "; %zu of %zu mixed results lie below the line between whole numbers of bits", below, mixed);
}

/* For each series, the line through its means at whole numbers of bits. */
static void size_lines(const kq_rp *p, FILE *f, size_t text, const kq_plot *axes)
{
    for (size_t s = 0; s < p->n_series; s++) {
        double x[16], y[16];
        size_t n = 0;
        for (double b = 1; b <= 16; b++) {
            const kq_rp_row *a = anchor(p, s, b);
            if (a) {
                x[n] = kq_axis_at(&axes->x, a->bpw) + sideways(p, s, 14);
                y[n++] = clamped(&axes->y, kq_rp_mean(p, a, text, "kld"));
            }
        }
        kq_svg_line(f, x, y, n, s, "");
    }
}

/* scratch [2 p->n] */
static void size_figure(kq_rp *p, FILE *f, size_t text, double *scratch)
{
    static const char plain[] =
        "A mark is one row; methods are set apart sideways. Lines join the means over seeds at whole "
        "numbers of bits, with the most calibration tokens.";
    static const char with_mixed[] =
        "A mark is one row; methods are set apart sideways. Lines join the means over seeds at whole "
        "numbers of bits, with the most calibration tokens, straight on this logarithmic axis. "
        "Where bits are shared out to the modules the mark is hollow: "
        "below its method's line that is better than giving every module the same.";
    char title[600], name[32], y_name[300], tooltip[400];
    double *x = scratch, *y = scratch + p->n;
    bool mixed = false;
    for (size_t i = 0; i < p->n; i++) {
        x[i] = p->row[i].bpw;
        y[i] = kq_rp_measure(&p->row[i], text, "kld");
        mixed = mixed || p->row[i].mixed;
    }
    size_title(p, text, title, sizeof title);
    snprintf(name, sizeof name, "size-%zu", text);
    snprintf(y_name, sizeof y_name, "KL divergence (nats), %.200s", kq_rp_text_name(p, text));
    kq_rp_open(p, f, name, title);
    kq_rp_legend(p, f);
    kq_svg_begin(f, page_width, 440, title);
    const kq_plot axes = {.x = kq_axis_around(x, p->n, false, 64, page_width - 8),
                          .y = kq_axis_around(y, p->n, true, 385, 16),
                          .x_name = "bits a quantized weight (codes, signs and scales)",
                          .y_name = y_name};
    kq_svg_plot(f, &axes);
    size_lines(p, f, text, &axes);
    for (size_t i = 0; i < p->n; i++) {
        const kq_rp_row *r = &p->row[i];
        tooltip_of(tooltip, sizeof tooltip, r, "KLD", y[i]);
        kq_svg_mark(f, kq_axis_at(&axes.x, r->bpw) + sideways(p, r->series, 14), clamped(&axes.y, y[i]),
                    r->series, r->mixed, "pt", tooltip);
    }
    kq_svg_end(f);
    kq_rp_close(f, mixed ? with_mixed : plain);
}

/* ---- predicted against measured ---- */

/* The line where measured is predicted. */
static void diagonal(FILE *f, const kq_plot *axes)
{
    const double a = fmax(axes->x.lo, axes->y.lo), b = fmin(axes->x.hi, axes->y.hi);
    if (!(a < b))
        return;
    fprintf(f, "<path class=\"rule\" d=\"M%.1f %.1fL%.1f %.1f\"/>\n", kq_axis_at(&axes->x, a),
            kq_axis_at(&axes->y, a), kq_axis_at(&axes->x, b), kq_axis_at(&axes->y, b));
    const double at = axes->x.log ? sqrt(a * b) : (a + b) / 2;
    kq_svg_label(f, kq_axis_at(&axes->x, at) + 10, kq_axis_at(&axes->y, at) + 14, "start", "note",
                 "measured = predicted");
}

/* scratch [4 p->n] */
static void predicted_figure(kq_rp *p, FILE *f, size_t text, double *scratch)
{
    char title[500], name[32], buf[400];
    double *x = scratch, *y = scratch + p->n, *both = scratch + 2 * p->n;
    size_t n = 0, over = 0;
    bool log = true;
    for (size_t i = 0; i < p->n; i++) {
        x[i] = p->row[i].predicted;
        y[i] = isfinite(x[i]) ? kq_rp_measure(&p->row[i], text, "loss_rise") : (double)NAN;
        if (!isfinite(x[i]))
            continue;
        log = log && y[i] > 0 && x[i] > 0;
        over += x[i] > y[i];
        both[n++] = x[i];
        both[n++] = y[i];
    }
    if (!n)
        return;
    snprintf(
        title, sizeof title,
        "Rise of the loss, predicted and measured: eq. 1 predicts more than was measured in %zu of %zu rows",
        over, n / 2);
    snprintf(name, sizeof name, "predicted-%zu", text);
    kq_rp_open(p, f, name, title);
    kq_rp_legend(p, f);
    kq_svg_begin(f, page_width, 440, title);
    char y_name[300];
    snprintf(y_name, sizeof y_name, "measured rise of the loss (nats a token), %.180s",
             kq_rp_text_name(p, text));
    const kq_plot axes = {.x = kq_axis_around(x, p->n, log, 64, 700),
                          .y = kq_axis_around(both, n, log, 385, 16),
                          .x_name = "predicted rise of the loss by eq. 1 (nats a token)",
                          .y_name = y_name};
    kq_svg_plot(f, &axes);
    diagonal(f, &axes);
    for (size_t i = 0; i < p->n; i++) {
        const kq_rp_row *r = &p->row[i];
        const double se = kq_rp_measure(r, text, "loss_rise_stderr");
        if (!isfinite(x[i]))
            continue;
        if (isfinite(se)) {
            const double ex[2] = {kq_axis_at(&axes.x, x[i]), kq_axis_at(&axes.x, x[i])},
                         ey[2] = {clamped(&axes.y, y[i] - se), clamped(&axes.y, y[i] + se)};
            kq_svg_line(f, ex, ey, 2, r->series, "faint");
        }
        tooltip_of(buf, sizeof buf, r, "loss rise", y[i]);
        kq_svg_mark(f, kq_axis_at(&axes.x, x[i]), clamped(&axes.y, y[i]), r->series, r->mixed, "pp", buf);
    }
    kq_svg_end(f);
    kq_rp_close(f, "A mark is one row of a method that predicts; bars are standard errors over tokens. Eq. "
                   "1 is the second-order term at the original weights, on the calibration text; "
                   "measured is on the text that the axis names.");
}

void kq_rp_quality(kq_rp *p, FILE *f)
{
    double *scratch = kq_alloc(4 * p->n + 64, sizeof *scratch);
    size_t tokens = 0;
    for (size_t i = 0; scratch && i < p->n; i++)
        scratch[i] = p->row[i].tokens;
    if (scratch)
        tokens = distinct(scratch, p->n);
    fputs("<h2>Quality</h2>\n", f);
    if (!p->n_text)
        fputs("<p>No text was measured.</p>\n", f);
    for (size_t t = 0; t < p->n_text && scratch; t++) {
        if (tokens > 1)
            tokens_figure(p, f, t, scratch);
        size_figure(p, f, t, scratch);
        predicted_figure(p, f, t, scratch);
    }
    kq_free(scratch);
}
