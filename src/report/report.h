/* The page of a comparison. rows.c reads what the folder holds; page.c has the parts that figures and tables
 * share; the figures are figures.c (a mark a row), spectra.c (the search for factors) and modules.c (a cell a
 * module); the tables are tables.c. report.c puts them together. Private to src/report: kq_report is what
 * others call (kronq.h). */
#ifndef KQ_REPORT_REPORT_H
#define KQ_REPORT_REPORT_H

#include "compare/compare.h"
#include "report/svg.h"

typedef struct kq_rp_row {
    const json_t *o; /* rows/ROW.json, checked; borrowed, as all strings */
    const char *spec;
    /* of rows that differ in bits, tokens and seed alone; of rows that differ in the seed alone */
    size_t series, group;
    double bits, tokens, bpw; /* tokens NaN: no calibration */
    bool mixed;               /* modules have different bits */
    double predicted;         /* NaN: not predicted */
} kq_rp_row;

typedef struct kq_rp_factors { /* factors/NAME.json of a method that iterates */
    char name[KQ_CMP_NAME];
    json_t *o;            /* checked; owned */
    const kq_rp_row *row; /* the first that was rounded from them */
} kq_rp_factors;

typedef struct kq_rp {
    const char *dir;      /* borrowed */
    json_t *about, *rows; /* owned */
    kq_rp_row *row;
    size_t n; /* owned */
    char (*series)[256];
    size_t n_series; /* their names: SPEC without tokens; owned */
    kq_rp_factors *factors;
    size_t n_factors; /* owned */
    size_t n_text;
    int figure; /* number of the last figure */
} kq_rp;

/* ---- rows.c ---- */

/* Read and check DIR; kq_rp_free also after a failure. KQ_E_FORMAT names the file and what in it is wrong. */
kq_status kq_rp_read(const char *dir, kq_rp *p, kq_error *err);
void kq_rp_free(kq_rp *p);
/* A member of an object: "" or NaN where there is none of that type. */
const char *kq_rp_string(const json_t *o, const char *key);
double kq_rp_number(const json_t *o, const char *key);
/* "kld", "loss_rise", ... of a text */
double kq_rp_measure(const kq_rp_row *r, size_t text, const char *key);
const char *kq_rp_text_name(const kq_rp *p, size_t text);
/* Sizes that can be compared: within 0.05 bits a quantized weight. */
bool kq_rp_same_size(const kq_rp_row *a, const kq_rp_row *b);
/* Mean of a measure over the rows of r's group. */
double kq_rp_mean(const kq_rp *p, const kq_rp_row *r, size_t text, const char *key);

/* ---- page.c ---- */

/* <figure id="NAME"> with its number and title; what follows is up to the caller, kq_rp_close takes the
 * caption (HTML of ours, no text of files). */
void kq_rp_open(kq_rp *p, FILE *f, const char *name, const char *title);
void kq_rp_close(FILE *f, const char *caption);
/* The series that rows of this report have, with their marks. */
void kq_rp_legend(const kq_rp *p, FILE *f);

/* <td> of a number; "n/a" for NaN and Inf. Then one with its standard error, where that is finite. */
void kq_rp_cell(FILE *f, double x, int digits);
void kq_rp_cell_error(FILE *f, double x, double error, int digits);
void kq_rp_bits_cell(FILE *f, double bits);
void kq_rp_tokens_cell(FILE *f, double tokens);
int kq_rp_ppl_digits(double x); /* behind the point, for five significant digits */

/* ---- figures.c, spectra.c, modules.c, tables.c ---- */

/* Figures of every text: quality against tokens, quality against size, loss predicted against measured. */
void kq_rp_quality(kq_rp *p, FILE *f);
/* Spectral gaps and convergence of the factors. */
void kq_rp_spectra(kq_rp *p, FILE *f);
/* sigma2 / sigma1 of a module's report in a factor file; NaN: it has none. */
double kq_rp_gap(const json_t *module);
bool kq_rp_has_gaps(const kq_rp_factors *factors);
/* Error and bits of every module, and the hardest of them. */
void kq_rp_modules(kq_rp *p, FILE *f);

/* The table over seeds, and the table of every row. */
void kq_rp_summary(const kq_rp *p, FILE *f);
void kq_rp_all_rows(const kq_rp *p, FILE *f);

#endif
