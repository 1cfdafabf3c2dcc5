/* Figures of the rows of a comparison: each row is one mark in each. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "report/report.h"

enum { MOST_PANELS = 12, ACROSS = 3 };
static const double page_width = 1000;

static double clamped(const kq_axis *a, double x)
{
    return kq_axis_at(a, x < a->lo ? a->lo : x > a->hi ? a->hi : x);
}

/* Marks of different series that would lie on each other are set apart sideways. */
static double aside(const kq_rp *p, size_t series, double most)
{
    return p->n_series < 2 ? 0 : most * (2.0 * (double)series / (double)(p->n_series - 1) - 1);
}

static void tip(char *buf, size_t cap, const kq_rp_row *r, const char *what, double value)
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

typedef struct token_panel {
    const kq_rp *p;
    size_t text;
    double bits;
    kq_panel axes;
    double none_at; /* where rows without calibration stand, pixels; NaN: there are none */
} token_panel;

static bool in_panel(const token_panel *t, const kq_rp_row *r)
{
    return r->bits == t->bits;
}

static double token_x(const token_panel *t, const kq_rp_row *r)
{
    return (isfinite(r->tokens) ? kq_axis_at(&t->axes.x, r->tokens) : t->none_at) + aside(t->p, r->series, 5);
}

static void series_line(const token_panel *t, FILE *f, size_t series)
{
    const kq_rp *p = t->p;
    double x[64], y[64], tokens[64];
    size_t n = 0;
    for (size_t i = 0; i < p->n; i++) {
        const kq_rp_row *r = &p->row[i];
        if (r->group != i || r->series != series || !in_panel(t, r))
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

static void draw_token_panel(token_panel *t, FILE *f, const double *ticks, size_t n_ticks)
{
    char buf[400];
    t->axes.x_tick = n_ticks <= 10 ? ticks : NULL;
    t->axes.n_x_tick = n_ticks;
    t->axes.x_label = kq_tokens_text;
    kq_svg_panel(f, &t->axes);
    if (isfinite(t->none_at))
        kq_svg_label(f, t->none_at, t->axes.y.at0 + 19, "middle", "tick", "none");
    for (size_t s = 0; s < t->p->n_series; s++)
        series_line(t, f, s);
    for (size_t i = 0; i < t->p->n; i++) {
        const kq_rp_row *r = &t->p->row[i];
        if (!in_panel(t, r))
            continue;
        const double kld = kq_rp_measure(r, t->text, "kld");
        tip(buf, sizeof buf, r, "KLD", kld);
        kq_svg_mark(f, token_x(t, r), clamped(&t->axes.y, kld), r->series, false, "pt", buf);
    }
}

static void tokens_figure(kq_rp *p, FILE *f, size_t text, double *scratch)
{
    char title[500], name[32], kld[32], tokens_text[32];
    double bits[MOST_PANELS], *x = scratch, *y = scratch + p->n;
    size_t n = 0, n_none = 0;
    for (size_t i = 0; i < p->n; i++) {
        x[i] = p->row[i].tokens;
        n_none += !isfinite(x[i]);
    }
    const size_t n_bits = all_bits(p, bits, MOST_PANELS);
    size_t drawn = 0;
    for (size_t i = 0; i < p->n; i++)
        for (size_t b = 0; b < n_bits; b++)
            drawn += p->row[i].bits == bits[b];
    const double none_room = n_none ? 44 : 0;
    const size_t across = n_bits < ACROSS ? n_bits : ACROSS, down = (n_bits + across - 1) / across;
    const double wide = (page_width + 20) / (double)across - 86, tall = across == 1 ? 300 : 230,
                 step_x = wide + 86, step_y = tall + 88;
    const kq_rp_row *b = best(p, text, smallest(p));
    if (isfinite(b->tokens))
        snprintf(
            title, sizeof title,
            "KL divergence against calibration tokens: at %.4g bits the lowest is %.150s with %s tokens, %s "
            "nats",
            b->bits, p->series[b->series], kq_tokens_text(b->tokens, tokens_text),
            kq_number_text(kq_rp_mean(p, b, text, "kld"), kld));
    else
        snprintf(title, sizeof title,
                 "KL divergence against calibration tokens: at %.4g bits the lowest is %.150s, without "
                 "calibration, "
                 "%s nats",
                 b->bits, p->series[b->series], kq_number_text(kq_rp_mean(p, b, text, "kld"), kld));
    snprintf(name, sizeof name, "tokens-%zu", text);
    kq_rp_open(p, f, name, title);
    kq_rp_legend(p, f);
    kq_svg_begin(f, page_width, (double)down * step_y, title);
    const kq_axis span = kq_axis_around(x, p->n, true, 0, 1);
    n = distinct(x, p->n);
    for (size_t k = 0; k < n_bits; k++) {
        const double left = 64 + (double)(k % across) * step_x, top = 30 + (double)(k / across) * step_y;
        char panel_title[40], y_name[300];
        snprintf(panel_title, sizeof panel_title, "%.4g bits", bits[k]);
        snprintf(y_name, sizeof y_name, "KL divergence (nats), %.200s", kq_rp_text_name(p, text));
        for (size_t i = 0; i < p->n; i++)
            y[i] = p->row[i].bits == bits[k] ? kq_rp_measure(&p->row[i], text, "kld") : (double)NAN;
        token_panel t = {.p = p, .text = text, .bits = bits[k], .none_at = n_none ? left + 22 : (double)NAN};
        t.axes = (kq_panel){.x = span,
                            .y = kq_axis_around(y, p->n, true, top + tall, top),
                            .x_name = "calibration tokens",
                            .y_name = k % across ? NULL : y_name,
                            .title = panel_title};
        t.axes.x.at0 = left + none_room;
        t.axes.x.at1 = left + wide;
        draw_token_panel(&t, f, x, n);
        if (n_none)
            fprintf(f, "<path class=\"frame\" d=\"M%.1f %.1fH%.1f\"/>\n", left, top + tall,
                    left + none_room - 8);
    }
    kq_svg_end(f);
    kq_rp_close(
        f,
        drawn == p->n
            ? "A mark is one seed, a line the mean over seeds; methods are set apart sideways. Both axes are "
              "logarithmic, each panel with a range of its own. "
              "Methods that need no calibration stand at the left, and the dotted line carries their mean "
              "across."
            : "A mark is one seed, a line the mean over seeds. Both axes are logarithmic. Only the twelve "
              "lowest "
              "numbers of bits are drawn.");
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

static void size_figure(kq_rp *p, FILE *f, size_t text, double *scratch)
{
    char title[600], name[32], y_name[300], buf[400], number[32], other[32];
    double *x = scratch, *y = scratch + p->n;
    size_t mixed = 0, below = 0;
    bool mixed_any = false;
    for (size_t i = 0; i < p->n; i++) {
        const kq_rp_row *r = &p->row[i];
        x[i] = r->bpw;
        y[i] = kq_rp_measure(r, text, "kld");
        mixed_any = mixed_any || r->mixed;
        if (r->group == i && r->mixed && isfinite(on_line(p, r, text))) {
            mixed++;
            below += kq_rp_mean(p, r, text, "kld") < on_line(p, r, text);
        }
    }
    const kq_rp_row *lo = best(p, text, NULL), *hi = best(p, text, smallest(p));
    kq_number_text(kq_rp_mean(p, hi, text, "kld"), number);
    int len = kq_rp_same_size(lo, hi)
                  ? snprintf(title, sizeof title,
                             "KL divergence against size: %s nats at %.3f bits a weight with "
                             "the best method, %.150s",
                             number, hi->bpw, hi->spec)
                  : snprintf(title, sizeof title,
                             "KL divergence against size: from %s nats at %.3f bits a weight to "
                             "%s at %.3f with the best methods",
                             number, hi->bpw, kq_number_text(kq_rp_mean(p, lo, text, "kld"), other), lo->bpw);
    if (mixed)
        snprintf(title + len, sizeof title - (size_t)len,
                 "; %zu of %zu mixed results lie below the line between whole numbers of bits", below, mixed);
    snprintf(name, sizeof name, "size-%zu", text);
    snprintf(y_name, sizeof y_name, "KL divergence (nats), %.200s", kq_rp_text_name(p, text));
    kq_rp_open(p, f, name, title);
    kq_rp_legend(p, f);
    kq_svg_begin(f, page_width, 440, title);
    const kq_panel axes = {.x = kq_axis_around(x, p->n, false, 64, page_width - 8),
                           .y = kq_axis_around(y, p->n, true, 385, 16),
                           .x_name = "bits a quantized weight (codes, signs and scales)",
                           .y_name = y_name};
    kq_svg_panel(f, &axes);
    for (size_t s = 0; s < p->n_series; s++) {
        double lx[16], ly[16];
        size_t n = 0;
        for (double b = 1; b <= 16; b++) {
            const kq_rp_row *a = anchor(p, s, b);
            if (a) {
                lx[n] = kq_axis_at(&axes.x, a->bpw) + aside(p, s, 14);
                ly[n++] = clamped(&axes.y, kq_rp_mean(p, a, text, "kld"));
            }
        }
        kq_svg_line(f, lx, ly, n, s, "");
    }
    for (size_t i = 0; i < p->n; i++) {
        const kq_rp_row *r = &p->row[i];
        tip(buf, sizeof buf, r, "KLD", y[i]);
        kq_svg_mark(f, kq_axis_at(&axes.x, r->bpw) + aside(p, r->series, 14), clamped(&axes.y, y[i]),
                    r->series, r->mixed, "pt", buf);
    }
    kq_svg_end(f);
    kq_rp_close(f, mixed_any ? "A mark is one row; methods are set apart sideways. Lines join the means over "
                               "seeds at whole numbers of "
                               "bits, with the most calibration tokens, straight on this logarithmic axis. "
                               "Where bits are shared out to the "
                               "modules the mark is hollow: below its method's line that is better than "
                               "giving every module the same."
                             : "A mark is one row; methods are set apart sideways. Lines join the means over "
                               "seeds at whole numbers of "
                               "bits, with the most calibration tokens.");
}

/* ---- predicted against measured ---- */

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
    const kq_panel axes = {.x = kq_axis_around(x, p->n, log, 64, 700),
                           .y = kq_axis_around(both, n, log, 385, 16),
                           .x_name = "predicted rise of the loss by eq. 1 (nats a token)",
                           .y_name = y_name};
    kq_svg_panel(f, &axes);
    const double a = fmax(axes.x.lo, axes.y.lo), b = fmin(axes.x.hi, axes.y.hi);
    if (a < b) {
        fprintf(f, "<path class=\"rule\" d=\"M%.1f %.1fL%.1f %.1f\"/>\n", kq_axis_at(&axes.x, a),
                kq_axis_at(&axes.y, a), kq_axis_at(&axes.x, b), kq_axis_at(&axes.y, b));
        const double at = log ? sqrt(a * b) : (a + b) / 2;
        kq_svg_label(f, kq_axis_at(&axes.x, at) + 10, kq_axis_at(&axes.y, at) + 14, "start", "note",
                     "measured = predicted");
    }
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
        tip(buf, sizeof buf, r, "loss rise", y[i]);
        kq_svg_mark(f, kq_axis_at(&axes.x, x[i]), clamped(&axes.y, y[i]), r->series, r->mixed, "pp", buf);
    }
    kq_svg_end(f);
    kq_rp_close(f, "A mark is one row of a method that predicts; bars are standard errors over tokens. Eq. 1 "
                   "is the second-order term at "
                   "the original weights, on the calibration text; "
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
