/* SVG and HTML by printf. A page has a few dozen kinds of elements; a library for them would be larger than
 * this file, and another dependency. */
#include "report/svg.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Bytes of the UTF-8 character at s; 0: there is none (a text cut short, a control character). */
static size_t character_size(const char *s)
{
    const unsigned char c = (unsigned char)*s;
    const size_t n = c < 0x80                ? 1
                     : c >= 0xc2 && c < 0xe0 ? 2
                     : c >= 0xe0 && c < 0xf0 ? 3
                     : c >= 0xf0 && c < 0xf5 ? 4
                                             : 0;
    for (size_t i = 1; i < n; i++)
        if (((unsigned char)s[i] & 0xc0) != 0x80)
            return 0;
    return n == 1 && (c < 32 || c == 127) ? 0 : n;
}

void kq_html_text(FILE *f, const char *s)
{
    while (*s) {
        const size_t n = character_size(s);
        switch (*s) {
        case '<': fputs("&lt;", f); break;
        case '>': fputs("&gt;", f); break;
        case '&': fputs("&amp;", f); break;
        case '"': fputs("&quot;", f); break;
        case '\'': fputs("&#39;", f); break;
        default:
            if (n)
                fwrite(s, 1, n, f);
            else
                fputs("\xef\xbf\xbd", f);
        }
        s += n ? n : 1;
    }
}

/* m x 10^e, with the exponent set high */
static void power_of_ten(double x, char *buf, size_t cap)
{
    static const char *const digit[] = {"\xe2\x81\xb0", "\xc2\xb9",     "\xc2\xb2",     "\xc2\xb3",
                                        "\xe2\x81\xb4", "\xe2\x81\xb5", "\xe2\x81\xb6", "\xe2\x81\xb7",
                                        "\xe2\x81\xb8", "\xe2\x81\xb9"};
    int e = (int)floor(log10(x) + 1e-9);
    double m = x / pow(10, e);
    if (m >= 9.995) {
        m /= 10;
        e++;
    }
    size_t n = fabs(m - 1) < 5e-3 ? 0 : (size_t)snprintf(buf, cap, "%.3g\xc3\x97", m);
    n += (size_t)snprintf(buf + n, cap - n, "10%s", e < 0 ? "\xe2\x81\xbb" : "");
    char plain[12];
    snprintf(plain, sizeof plain, "%d", abs(e));
    for (const char *c = plain; *c && n + 4 < cap; c++)
        n += (size_t)snprintf(buf + n, cap - n, "%s", digit[*c - '0']);
}

const char *kq_number_text(double x, char buf[32])
{
    const double a = fabs(x);
    if (!isfinite(x))
        return "n/a";
    if (a == 0)
        return "0";
    const size_t sign = x < 0 ? (size_t)snprintf(buf, 32, KQ_MINUS) : 0;
    if (a >= 1e6 || a < 0.9995e-3) {
        power_of_ten(a, buf + sign, 32 - sign);
        return buf;
    }
    snprintf(buf + sign, 32 - sign, "%.*f",
             a >= 1000  ? 0
             : a >= 100 ? 1
             : a >= 10  ? 2
             : a >= 1   ? 3
             : a >= 0.1 ? 4
                        : 5,
             a);
    if (strchr(buf, '.')) { /* trailing zeros say nothing on an axis */
        size_t n = strlen(buf);
        while (buf[n - 1] == '0')
            buf[--n] = 0;
        if (buf[n - 1] == '.')
            buf[n - 1] = 0;
    }
    return buf;
}

const char *kq_tokens_text(double n, char buf[32])
{
    if (!isfinite(n))
        return "n/a";
    if (n >= 1024 && fmod(n, 1024) == 0)
        snprintf(buf, 32, "%.0fk", n / 1024);
    else if (n >= 1000 && n < 1e6)
        snprintf(buf, 32, "%d,%03d", (int)n / 1000, (int)n % 1000);
    else
        snprintf(buf, 32, "%.6g", n);
    return buf;
}

kq_axis kq_axis_around(const double *x, size_t n, bool log, double at0, double at1)
{
    kq_axis a = {.lo = INFINITY, .hi = -INFINITY, .at0 = at0, .at1 = at1, .log = log};
    for (size_t i = 0; i < n; i++)
        if (isfinite(x[i]) && (!log || x[i] > 1e-30)) {
            a.lo = fmin(a.lo, x[i]);
            a.hi = fmax(a.hi, x[i]);
        }
    if (!(a.lo <= a.hi)) {
        a.lo = log ? 1 : 0;
        a.hi = log ? 10 : 1;
    }
    if (log) {
        const double room = fmax(pow(a.hi / a.lo, 0.08), 1.06);
        a.lo /= room;
        a.hi *= room;
    } else {
        const double room = a.hi > a.lo ? 0.06 * (a.hi - a.lo) : a.hi != 0 ? 0.1 * fabs(a.hi) : 1;
        a.lo -= room;
        a.hi += room;
    }
    return a;
}

double kq_axis_at(const kq_axis *a, double x)
{
    const double t = a->log ? (log(fmax(x, 1e-300)) - log(a->lo)) / (log(a->hi) - log(a->lo))
                            : (x - a->lo) / (a->hi - a->lo);
    return a->at0 + (a->at1 - a->at0) * t;
}

/* 1, 2 or 5 times a power of ten, such that hi - lo has some `n` of it. */
static double nice_step(double lo, double hi, double n)
{
    const double raw = (hi - lo) / n, p = pow(10, floor(log10(raw))), m = raw / p;
    return p * (m < 1.5 ? 1 : m < 3.5 ? 2 : m < 7.5 ? 5 : 10);
}

size_t kq_axis_ticks(const kq_axis *a, double tick[KQ_TICKS])
{
    size_t n = 0;
    if (!a->log || a->hi / a->lo < 4) {
        const double step = nice_step(a->lo, a->hi, 5);
        for (double i = ceil(a->lo / step - 1e-9); i * step <= a->hi * (1 + 1e-12) && n < KQ_TICKS; i++)
            tick[n++] = i == 0 ? 0 : i * step;
        return n;
    }
    static const double fine[] = {1, 2, 5}, coarse[] = {1};
    const bool wide = a->hi / a->lo > 200;
    const double *m = wide ? coarse : fine;
    const size_t n_m = wide ? 1 : 3;
    const int decades = (int)(log10(a->hi) - log10(a->lo)), every = decades / 10 + 1;
    for (int e = (int)floor(log10(a->lo)); e <= (int)ceil(log10(a->hi)); e += every)
        for (size_t i = 0; i < n_m && n < KQ_TICKS; i++) {
            const double v = m[i] * pow(10, e);
            if (v >= a->lo * (1 - 1e-9) && v <= a->hi * (1 + 1e-9))
                tick[n++] = v;
        }
    return n;
}

void kq_svg_begin(FILE *f, double width, double height, const char *what)
{
    fprintf(f,
            "<div class=\"wide\"><svg class=\"drawing\" viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-label=\"",
            width, height);
    kq_html_text(f, what);
    fputs("\">\n", f);
}

void kq_svg_end(FILE *f)
{
    fputs("</svg></div>\n", f);
}

void kq_svg_label(FILE *f, double x, double y, const char *anchor, const char *class, const char *text)
{
    fprintf(f, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" class=\"%s\">", x, y, anchor, class);
    kq_html_text(f, text);
    fputs("</text>\n", f);
}

void kq_svg_plot(FILE *f, const kq_plot *p)
{
    double tick[KQ_TICKS];
    char buf[32];
    const kq_axis *x = &p->x, *y = &p->y;
    size_t n = kq_axis_ticks(y, tick);
    for (size_t i = 0; i < n; i++) {
        const double at = kq_axis_at(y, tick[i]);
        fprintf(f, "<path class=\"grid\" d=\"M%.1f %.1fH%.1f\"/>\n", x->at0, at, x->at1);
        kq_svg_label(f, x->at0 - 8, at + 4, "end", "tick",
                     (p->y_label ? p->y_label : kq_number_text)(tick[i], buf));
    }
    const double *xt = p->x_tick ? p->x_tick : tick;
    n = p->x_tick ? p->n_x_tick : kq_axis_ticks(x, tick);
    for (size_t i = 0; i < n; i++) {
        const double at = kq_axis_at(x, xt[i]);
        fprintf(f, "<path class=\"tickmark\" d=\"M%.1f %.1fv5\"/>\n", at, y->at0);
        kq_svg_label(f, at, y->at0 + 19, "middle", "tick",
                     (p->x_label ? p->x_label : kq_number_text)(xt[i], buf));
    }
    fprintf(f, "<path class=\"frame\" d=\"M%.1f %.1fV%.1fH%.1f\"/>\n", x->at0, y->at1, y->at0, x->at1);
    if (p->x_name)
        kq_svg_label(f, (x->at0 + x->at1) / 2, y->at0 + 39, "middle", "axis", p->x_name);
    if (p->y_name) {
        fprintf(f,
                "<text transform=\"translate(%.1f %.1f) rotate(-90)\" text-anchor=\"middle\" class=\"axis\">",
                x->at0 - 50, (y->at0 + y->at1) / 2);
        kq_html_text(f, p->y_name);
        fputs("</text>\n", f);
    }
    if (p->title)
        kq_svg_label(f, x->at0, y->at1 - 10, "start", "paneltitle", p->title);
}

void kq_svg_mark(FILE *f, double x, double y, size_t s, bool hollow, const char *class, const char *tooltip)
{
    /* half-width 4 and areas that look alike */
    static const char *const shape[KQ_SHAPES] = {
        "m-3.8 0a3.8 3.8 0 1 0 7.6 0a3.8 3.8 0 1 0 -7.6 0z", "m-3.4 -3.4h6.8v6.8h-6.8z",
        "m0 -4.4l4.2 7.4h-8.4z", "m0 -4.8l4.8 4.8l-4.8 4.8l-4.8 -4.8z", "m0 4.4l4.2 -7.4h-8.4z"};
    fprintf(f, "<path class=\"%s %s s%zu\" d=\"M%.1f %.1f%s\">", class, hollow ? "hollow" : "mark",
            s % KQ_COLOURS, x, y, shape[s % KQ_SHAPES]);
    if (tooltip) {
        fputs("<title>", f);
        kq_html_text(f, tooltip);
        fputs("</title>", f);
    }
    fputs("</path>\n", f);
}

void kq_svg_line(FILE *f, const double *x, const double *y, size_t n, size_t s, const char *class)
{
    if (n < 2)
        return;
    fprintf(f, "<path class=\"line s%zu%s%s\" d=\"", s % KQ_COLOURS, *class ? " " : "", class);
    for (size_t i = 0; i < n; i++)
        fprintf(f, "%s%.1f %.1f", i ? "L" : "M", x[i], y[i]);
    fputs("\"/>\n", f);
}
