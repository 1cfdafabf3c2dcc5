/* Drawing for the report: escaped text, axes, marks, lines. Everything is written to a FILE of the caller's,
 * whose errors the caller finds at fclose. Colours are classes of report.css. What comes from a file reaches
 * the page only through kq_html_text or as a finite number, so that no file can bring markup into it. */
#ifndef KQ_REPORT_SVG_H
#define KQ_REPORT_SVG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* Write text with <, >, & and quotes as character references, and U+FFFD for control characters and bytes
 * that are no UTF-8 (the end of a text that was cut). */
void kq_html_text(FILE *f, const char *s);
#define KQ_MINUS "\xe2\x88\x92" /* as wide as a digit, unlike a hyphen */

/* A number for people: 4 significant digits, as a power of ten below 1e-3 and from 1e6 on; "n/a" for NaN and
 * Inf. Returns buf or a constant. */
const char *kq_number_text(double x, char buf[32]);
/* 98304 -> "96k" (k = 1024, as on the command line), 1000 -> "1,000" */
const char *kq_tokens_text(double n, char buf[32]);

/* An axis: the values lo to hi are at the pixels at0 to at1. */
typedef struct kq_axis {
    double lo, hi, at0, at1;
    bool log;
} kq_axis;
/* An axis that holds n values, with a little room at both ends. Values that are not finite, and on a
 * logarithmic axis values up to 1e-30, do not count; when none is left the axis is 0 to 1, or 1 to 10 if
 * logarithmic. */
kq_axis kq_axis_around(const double *x, size_t n, bool log, double at0, double at1);
/* The pixel of a value. */
double kq_axis_at(const kq_axis *a, double x);

enum { KQ_TICKS = 24 };
/* Values to be labelled, at most KQ_TICKS. */
size_t kq_axis_ticks(const kq_axis *a, double tick[KQ_TICKS]);

/* A plot: two axes with grid lines, labels at their ticks, and names. */
typedef struct kq_plot {
    kq_axis x, y;
    const char *x_name, *y_name, *title; /* plain text, any may be NULL */
    /* how a value is written at its tick; NULL: kq_number_text */
    const char *(*x_label)(double v, char buf[32]), *(*y_label)(double v, char buf[32]);
    const double *x_tick; /* [n_x_tick] values to be labelled; NULL: kq_axis_ticks finds them */
    size_t n_x_tick;
} kq_plot;
/* A drawing of this size in pixels. what: says it in words, for those who do not see it. */
void kq_svg_begin(FILE *f, double width, double height, const char *what);
void kq_svg_end(FILE *f);
/* The empty plot. */
void kq_svg_plot(FILE *f, const kq_plot *p);
/* A text at x, y. anchor: "start", "middle" or "end"; class: of report.css. */
void kq_svg_label(FILE *f, double x, double y, const char *anchor, const char *class, const char *text);

/* A series' number chooses the colour and the shape of its marks and lines. */
enum { KQ_COLOURS = 8, KQ_SHAPES = 5 };
/* A mark of series s with a tooltip (NULL: none); hollow: it does not belong to the series' line. */
void kq_svg_mark(FILE *f, double x, double y, size_t s, bool hollow, const char *class, const char *tooltip);
/* A line of series s through n points in pixels; nothing for fewer than two. class: of report.css, besides
 * "line". */
void kq_svg_line(FILE *f, const double *x, const double *y, size_t n, size_t s, const char *class);

#endif
