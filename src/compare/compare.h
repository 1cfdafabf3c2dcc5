/* Comparing ways to quantize one model: plan.c finds out what is to be done, compare.c and row.c do it row by
 * row, read.c reads a finished folder, and table.c writes the tables. The folder DIR holds everything, so
 * that an interrupted comparison continues there:
 *
 *   DIR/compare.json   the model, the texts and tasks, and the names of all rows in their order
 *   DIR/rows/          ROW.json: the settings and figures of a finished row
 *   DIR/factors/       NAME.safetensors: a factor file, as long as rows wait for it; NAME.json: its report,
 *                      which stays
 *   DIR/models/        ROW/: the checkpoint while it is measured; ROW.json: the report of how it was made
 *   DIR/reference/     what is kept of MODEL's own predictions
 *   DIR/table.md, table.csv, table.json: the tables */
#ifndef KQ_COMPARE_COMPARE_H
#define KQ_COMPARE_COMPARE_H

#include <jansson.h>

#include "base/error.h"
#include "compare/files.h"

enum { KQ_CMP_NAME = 160, KQ_CMP_NO_FACTORS = -1 };

typedef struct kq_cmp_factors {
    char name[64];              /* "flipflop-3f0c..." */
    kq_calibration calibration; /* its strings are borrowed */
    uint64_t seed;              /* 0 where nothing in them is random */
    json_t *settings;           /* owned: all that they depend on, as in the factor file */
    size_t pass, bytes;         /* of the file */
    size_t waiting;             /* rows that are not done and need them */
} kq_cmp_factors;

typedef struct kq_cmp_row {
    char name[KQ_CMP_NAME]; /* of its files */
    const char *spec;       /* borrowed */
    kq_quantize_options opt;
    /* owned: all that its figures depend on, beside what compare.json holds */
    json_t *settings;
    int factors; /* which, or KQ_CMP_NO_FACTORS */
    bool done;
} kq_cmp_row;

typedef struct kq_cmp {
    const char *model, *dir; /* borrowed, as opt */
    const kq_compare_options *opt;
    kq_cmp_row *row;
    size_t n; /* owned */
    /* rows left out because their settings are another's (a sweep over what a method does not look at) */
    size_t n_same;
    const char *same[2]; /* the first of them, and whose they are; borrowed */
    kq_cmp_factors *factors;
    size_t n_factors, n_passes;
    char fingerprint[33]; /* of the model */
    json_t *about;        /* owned: compare.json */
} kq_cmp;

/* Check every row and settle which factors and passes they need, and what DIR has already. Nothing is
 * written. */
kq_status kq_cmp_open(const char *model, const char *dir, const kq_compare_row *rows, size_t n,
                      const kq_compare_options *opt, kq_cmp *c, kq_error *err);
void kq_cmp_close(kq_cmp *c);
/* The options of a row's or a pass's work: opt with the comparison's threads, isa, compute and progress. */
kq_quantize_options kq_cmp_options(const kq_cmp *c, const kq_quantize_options *opt);

/* Quantize, measure, write rows/ROW.json. */
kq_status kq_cmp_row_run(const kq_cmp *c, const kq_cmp_row *r, const kq_common *common, kq_error *err);
/* Of a row that is written down: the checkpoint goes (unless it is to be kept) and the report of its
 * making. A run that dies between the two leaves that to the next; a checkpoint without a report beside
 * it was kept on purpose, and stays. */
kq_status kq_cmp_row_tidy(const kq_cmp *c, const kq_cmp_row *r, kq_error *err);

/* What DIR holds, checked: compare.json, and the finished rows in its order (a JSON array of
 * rows/ROW.json). Both are the caller's. KQ_E_FORMAT when a file is not what kq_compare writes: wrong
 * types, numbers that are none, names that leave the folder. */
kq_status kq_cmp_read(const char *dir, json_t **about, json_t **rows, kq_error *err);

/* The tables of all finished rows that compare.json names, into DIR; text (may be NULL): table.json's,
 * free() it. */
kq_status kq_cmp_tables(const char *dir, char **text, kq_error *err);

#endif
