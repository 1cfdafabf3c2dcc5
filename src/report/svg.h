/* Drawing for the report: text that is escaped, axes, marks. Everything goes to a FILE of the caller's;
 * colours are classes of report.css. Nothing that comes from a file reaches the page but through
 * kq_html_text or as a finite number. */
#ifndef KQ_REPORT_SVG_H
#define KQ_REPORT_SVG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* Text with <, >, &, quotes as character references, and U+FFFD for control characters and what is no
 * UTF-8 (a text that was cut). */
void kq_html_text(FILE *f, const char *s);
#define KQ_MINUS "\xe2\x88\x92" /* as wide as a digit, unlike a hyphen */

/* A number for people: 4 significant digits, as a power of ten below 1e-3 and from 1e6 on; "n/a" for NaN. */
const char *kq_number_text(double x, char buf[32]);
/* 98304 -> "96k" (k = 1024, as on the command line), 1000 -> "1,000" */
const char *kq_tokens_text(double n, char buf[32]);

/* An axis: values lo..hi at pixels at0..at1. */
typedef struct kq_axis {
    double lo, hi, at0, at1;
    bool log;
} kq_axis;
/* Around n values (those not finite, and for log those not above 1e-30, are passed over) with a little
 * room; 1..10 or 0..1 when none is left. */
kq_axis kq_axis_around(const double *x, size_t n, bool log, double at0, double at1);
double kq_axis_at(const kq_axis *a, double x);

enum { KQ_TICKS = 24 };
/* Values to be labelled, at most KQ_TICKS. */
size_t kq_axis_ticks(const kq_axis *a, double tick[KQ_TICKS]);

/* Frame of a panel: grid lines and labels at the ticks of both axes, and their names. label: how a value
 * is written. */
typedef struct kq_panel {
    kq_axis x, y;
    const char *x_name, *y_name, *title; /* plain text, any may be NULL */
    /* NULL: kq_number_text */
    const char *(*x_label)(double v, char buf[32]), *(*y_label)(double v, char buf[32]);
    const double *x_tick;
    size_t n_x_tick; /* instead of kq_axis_ticks; NULL: those */
} kq_panel;
/* what: for those who do not see it */
void kq_svg_begin(FILE *f, double width, double height, const char *what);
void kq_svg_end(FILE *f);
void kq_svg_panel(FILE *f, const kq_panel *p);
void kq_svg_label(FILE *f, double x, double y, const char *anchor, const char *class, const char *text);

/* A mark of series s (colour and shape go by s) with a tooltip, and a line of it; hollow for what stands
 * outside the series' line. */
enum { KQ_COLOURS = 8, KQ_SHAPES = 5 };
void kq_svg_mark(FILE *f, double x, double y, size_t s, bool hollow, const char *class, const char *tooltip);
/* class besides "line s<colour>" */
void kq_svg_line(FILE *f, const double *x, const double *y, size_t n, size_t s, const char *class);

#endif
