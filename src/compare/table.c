/* The rows as tables: Markdown to read, CSV to compute with, JSON for both. All three are written from
 * one matrix of cells. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "compare/compare.h"

/* One figure of every row. */
typedef struct column {
    char key[300]; /* in CSV and JSON: "kld:wiki.txt" */
    /* where it stands in the row: group.name; group NULL: at the top. Borrowed */
    const char *group, *name;
    int text;         /* >= 0: in texts[text] */
    const char *task; /* else not NULL: in tasks[task] */
    bool quality;     /* seeds are averaged */
} column;

typedef struct table {
    json_t *about, *rows; /* owned */
    json_t *reference;    /* accuracies of MODEL, or NULL; owned */
    column *col;
    size_t n_col; /* owned */
    double *cell;
    size_t n_row; /* [n_row, n_col], NaN: n/a; owned */
    /* rows that differ in the seed alone, with two or more of them */
    size_t *group; /* [n_row] the first row of its kind, owned */
} table;

static const json_t *row_of(const table *t, size_t i)
{
    return json_array_get(t->rows, i);
}

static const char *string(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static void add_column(table *t, int text, const char *task, const char *suffix, const char *group,
                       const char *name, const char *key, bool quality)
{
    column *c = &t->col[t->n_col++];
    *c = (column){.group = group, .name = name, .text = text, .task = task, .quality = quality};
    snprintf(c->key, sizeof c->key, "%s%s%.200s", key, suffix ? ":" : "", suffix ? suffix : "");
}

static void set_columns(table *t)
{
    static const char *const text_key[] = {"loss_rise", "loss_rise_stderr", "kld", "kld_stderr",
                                           "top1",      "top1_stderr",      "nll", "ppl",
                                           "ppl_stderr"};
    static const char *const task_key[] = {"acc", "acc_stderr", "acc_norm", "acc_norm_stderr"};
    const json_t *v;
    size_t i;
    add_column(t, -1, NULL, NULL, NULL, "bits", "bits", false);
    add_column(t, -1, NULL, NULL, NULL, "tokens", "tokens", false);
    add_column(t, -1, NULL, NULL, NULL, "seed", "seed", false);
    add_column(t, -1, NULL, NULL, "seconds", "calibration", "calibration_s", false);
    add_column(t, -1, NULL, NULL, "seconds", "factors", "factors_s", false);
    add_column(t, -1, NULL, NULL, "seconds", "rounding", "rounding_s", false);
    add_column(t, -1, NULL, NULL, "seconds", "evaluation", "evaluation_s", false);
    add_column(t, -1, NULL, NULL, "peak_rss_bytes", "calibration", "calibration_peak_bytes", false);
    add_column(t, -1, NULL, NULL, "peak_rss_bytes", "rounding", "rounding_peak_bytes", false);
    add_column(t, -1, NULL, NULL, "peak_rss_bytes", "evaluation", "evaluation_peak_bytes", false);
    add_column(t, -1, NULL, NULL, NULL, "file_bytes", "file_bytes", false);
    add_column(t, -1, NULL, NULL, NULL, "bpw", "bpw", false);
    add_column(t, -1, NULL, NULL, NULL, "bpw_file", "bpw_file", false);
    add_column(t, -1, NULL, NULL, NULL, "relative_mse", "relative_mse", true);
    add_column(t, -1, NULL, NULL, NULL, "predicted_loss", "predicted_loss", true);
    json_array_foreach(json_object_get(t->about, "texts"), i, v) {
        for (size_t k = 0; k < sizeof text_key / sizeof *text_key; k++)
            add_column(t, (int)i, NULL, string(v, "name"), NULL, text_key[k], text_key[k],
                       !strstr(text_key[k], "stderr"));
    }
    json_array_foreach(json_object_get(t->about, "tasks"), i, v) {
        for (size_t k = 0; k < sizeof task_key / sizeof *task_key; k++)
            add_column(t, -1, string(v, "name"), string(v, "name"), NULL, task_key[k], task_key[k],
                       !strstr(task_key[k], "stderr"));
    }
}

static double value(const json_t *row, const column *c)
{
    const json_t *o = row;
    if (c->text >= 0)
        o = json_array_get(json_object_get(o, "texts"), (size_t)c->text);
    else if (c->task)
        o = json_object_get(json_object_get(o, "tasks"), c->task);
    else if (c->group)
        o = json_object_get(o, c->group);
    const json_t *v = json_object_get(o, c->name);
    return json_is_number(v) ? json_number_value(v) : (double)NAN;
}

static double cell(const table *t, size_t row, const column *c)
{
    return t->cell[row * t->n_col + (size_t)(c - t->col)];
}

static const column *find_column(const table *t, int text, const char *task, const char *name)
{
    for (size_t i = 0; i < t->n_col; i++) {
        const column *c = &t->col[i];
        if (c->text == text && (!task ? !c->task : c->task && !strcmp(c->task, task)) &&
            !strncmp(c->key, name, strlen(name)) && (c->key[strlen(name)] == ':' || !c->key[strlen(name)]))
            return c;
    }
    return NULL;
}

/* Do the rows a and b differ in nothing but the seed? */
static bool same_kind(const json_t *a, const json_t *b)
{
    static const char *const key[] = {"spec", "bits", "tokens"};
    for (size_t i = 0; i < sizeof key / sizeof *key; i++)
        if (!json_equal(json_object_get(a, key[i]), json_object_get(b, key[i])))
            return false;
    return true;
}

static kq_status open_table(const char *dir, table *t, kq_error *err)
{
    *t = (table){0};
    kq_status status = kq_cmp_read(dir, &t->about, &t->rows, err);
    if (!status && json_array_size(json_object_get(t->about, "tasks")))
        status = kq_cmp_load_if_there(dir, "reference", "tasks", &t->reference, err);
    if (status)
        return status;
    t->n_row = json_array_size(t->rows);
    const size_t most = 16 + 9 * json_array_size(json_object_get(t->about, "texts")) +
                        4 * json_array_size(json_object_get(t->about, "tasks"));
    if ((status = kq_alloc_for((void **)&t->col, most, sizeof *t->col, "the table", err)))
        return status;
    set_columns(t);
    size_t cells;
    if (!kq_mul_size(t->n_row, t->n_col, &cells))
        return kq_fail(err, KQ_E_MEMORY, "%s: too many rows", dir);
    if ((status = kq_alloc_for((void **)&t->cell, cells, sizeof *t->cell, "the table", err)) ||
        (status = kq_alloc_for((void **)&t->group, t->n_row, sizeof *t->group, "the table", err)))
        return status;
    for (size_t r = 0; r < t->n_row; r++) {
        for (size_t c = 0; c < t->n_col; c++)
            t->cell[r * t->n_col + c] = value(row_of(t, r), &t->col[c]);
        size_t g = 0;
        while (g < r && !same_kind(row_of(t, g), row_of(t, r)))
            g++;
        t->group[r] = g < r ? t->group[g] : r;
    }
    return KQ_OK;
}

static void close_table(table *t)
{
    json_decref(t->about);
    json_decref(t->rows);
    json_decref(t->reference);
    kq_free(t->col);
    kq_free(t->cell);
    kq_free(t->group);
}

/* Mean and standard deviation (n - 1) of a column over the rows of a kind that have it; the number of
 * them. */
static size_t over_seeds(const table *t, size_t kind, const column *c, double *mean, double *sd)
{
    size_t n = 0;
    double s = 0, ss = 0;
    for (size_t r = kind; r < t->n_row; r++)
        if (t->group[r] == kind && isfinite(cell(t, r, c))) {
            s += cell(t, r, c);
            n++;
        }
    *mean = n ? s / (double)n : (double)NAN;
    for (size_t r = kind; r < t->n_row; r++)
        if (t->group[r] == kind && isfinite(cell(t, r, c)))
            ss += (cell(t, r, c) - *mean) * (cell(t, r, c) - *mean);
    *sd = n > 1 ? sqrt(ss / (double)(n - 1)) : (double)NAN;
    return n;
}

static size_t kind_size(const table *t, size_t kind)
{
    size_t n = 0;
    for (size_t r = kind; r < t->n_row; r++)
        n += t->group[r] == kind;
    return n;
}

/* ---- JSON ---- */

static json_t *number(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

/* A figure of MODEL itself: its perplexity stands in every row's comparison, its accuracies in a file of
 * their own. */
static double reference_value(const table *t, const column *c)
{
    if (c->task)
        return json_is_number(json_object_get(json_object_get(t->reference, c->task), c->name))
                   ? json_number_value(json_object_get(json_object_get(t->reference, c->task), c->name))
                   : (double)NAN;
    if (c->text < 0 || !t->n_row)
        return (double)NAN;
    const json_t *o = json_array_get(json_object_get(row_of(t, 0), "texts"), (size_t)c->text);
    return !strcmp(c->name, "ppl")   ? json_number_value(json_object_get(o, "reference_ppl"))
           : !strcmp(c->name, "nll") ? json_number_value(json_object_get(o, "reference_nll"))
                                     : (double)NAN;
}

static json_t *table_json(const table *t)
{
    json_t *rows = json_array(), *kinds = json_array(), *reference = json_object();
    for (size_t c = 0; c < t->n_col; c++)
        if (isfinite(reference_value(t, &t->col[c])))
            json_object_set_new(reference, t->col[c].key, json_real(reference_value(t, &t->col[c])));
    for (size_t r = 0; r < t->n_row; r++) {
        json_t *o = json_pack("{s:O, s:O, s:O}", "row", json_object_get(row_of(t, r), "row"), "spec",
                              json_object_get(row_of(t, r), "spec"), "method",
                              json_object_get(row_of(t, r), "method"));
        for (size_t c = 0; c < t->n_col; c++)
            json_object_set_new(o, t->col[c].key, number(t->cell[r * t->n_col + c]));
        json_array_append_new(rows, o);
        if (t->group[r] != r || kind_size(t, r) < 2)
            continue;
        o = json_pack("{s:O, s:O, s:O, s:I}", "spec", json_object_get(row_of(t, r), "spec"), "bits",
                      json_object_get(row_of(t, r), "bits"), "tokens",
                      json_object_get(row_of(t, r), "tokens"), "seeds", (json_int_t)kind_size(t, r));
        for (size_t c = 0; c < t->n_col; c++) {
            double mean, sd;
            if (t->col[c].quality && over_seeds(t, r, &t->col[c], &mean, &sd))
                json_object_set_new(o, t->col[c].key,
                                    json_pack("{s:o, s:o}", "mean", number(mean), "sd", number(sd)));
        }
        json_array_append_new(kinds, o);
    }
    return json_pack("{s:O, s:O, s:O, s:O, s:O, s:O, s:O, s:o, s:o, s:o}", "model",
                     json_object_get(t->about, "model"), "texts", json_object_get(t->about, "texts"), "tasks",
                     json_object_get(t->about, "tasks"), "ctx", json_object_get(t->about, "ctx"), "chunks",
                     json_object_get(t->about, "chunks"), "isa", json_object_get(t->about, "isa"), "compute",
                     json_object_get(t->about, "compute"), "reference", reference, "rows", rows, "seeds",
                     kinds);
}

/* ---- CSV ---- */

static void csv_text(FILE *f, const char *s)
{
    if (!s[strcspn(s, ",\"\r\n")]) {
        fputs(s, f);
        return;
    }
    putc('"', f);
    for (; *s; s++) {
        if (*s == '"')
            putc('"', f);
        putc(*s, f);
    }
    putc('"', f);
}

static void csv(const table *t, FILE *f)
{
    fputs("spec,method", f);
    for (size_t c = 0; c < t->n_col; c++) {
        putc(',', f);
        csv_text(f, t->col[c].key);
    }
    putc('\n', f);
    for (size_t r = 0; r < t->n_row; r++) {
        csv_text(f, string(row_of(t, r), "spec"));
        fprintf(f, ",");
        csv_text(f, string(row_of(t, r), "method"));
        for (size_t c = 0; c < t->n_col; c++) {
            const double x = t->cell[r * t->n_col + c];
            putc(',', f);
            if (isfinite(x))
                fprintf(f, "%.9g", x);
        }
        putc('\n', f);
    }
}

/* ---- Markdown ---- */

static void md_text(FILE *f, const char *s)
{
    for (; *s; s++) {
        if (strchr("|\\`*_<>[]&", *s))
            putc('\\', f);
        putc((unsigned char)*s < 32 ? ' ' : *s, f);
    }
}

static void md_number(FILE *f, double x, const char *format)
{
    if (isfinite(x))
        fprintf(f, format, x);
    else
        fputs("n/a", f);
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
static void md_measure(FILE *f, double x, double error, const char *format)
{
    fputs(" | ", f);
    md_number(f, x, format);
    if (isfinite(x) && isfinite(error)) {
        fputs(" ± ", f);
        md_number(f, error, format);
    }
}
#pragma GCC diagnostic pop

static double or_nan(const table *t, size_t r, const column *c)
{
    return c ? cell(t, r, c) : (double)NAN;
}

/* The figures of quality, of a row or (kind) as mean and deviation over seeds. */
static void md_quality(const table *t, FILE *f, size_t r, bool kind)
{
    static const struct {
        const char *name, *error, *format;
        double scale;
    } text[] = {{"loss_rise", "loss_rise_stderr", "%.4f", 1},
                {"kld", "kld_stderr", "%.4f", 1},
                {"top1", "top1_stderr", "%.2f", 100},
                {"ppl", NULL, "%.3f", 1}};
    const json_t *v;
    size_t i;
    double mean, sd;
    json_array_foreach(json_object_get(t->about, "texts"), i, v) {
        for (size_t k = 0; k < sizeof text / sizeof *text; k++) {
            const column *c = find_column(t, (int)i, NULL, text[k].name),
                         *e = text[k].error ? find_column(t, (int)i, NULL, text[k].error) : NULL;
            if (kind) {
                over_seeds(t, r, c, &mean, &sd);
            } else {
                mean = cell(t, r, c);
                sd = or_nan(t, r, e);
            }
            md_measure(f, mean * text[k].scale, sd * text[k].scale, text[k].format);
        }
    }
    json_array_foreach(json_object_get(t->about, "tasks"), i, v) {
        const column *c = find_column(t, -1, string(v, "name"), "acc");
        if (kind) {
            over_seeds(t, r, c, &mean, &sd);
        } else {
            mean = cell(t, r, c);
            sd = or_nan(t, r, find_column(t, -1, string(v, "name"), "acc_stderr"));
        }
        md_measure(f, 100 * mean, 100 * sd, "%.2f");
    }
}

static void md_quality_head(const table *t, FILE *f, size_t *n)
{
    const json_t *v;
    size_t i;
    json_array_foreach(json_object_get(t->about, "texts"), i, v) {
        static const char *const name[] = {"loss rise (nats/token)", "KLD (nats)", "top-1 agreement (%)",
                                           "perplexity"};
        for (size_t k = 0; k < 4; k++) {
            fprintf(f, " | %s, ", name[k]);
            md_text(f, string(v, "name"));
            ++*n;
        }
    }
    json_array_foreach(json_object_get(t->about, "tasks"), i, v) {
        fputs(" | ", f);
        md_text(f, string(v, "name"));
        fputs(" accuracy (%)", f);
        ++*n;
    }
}

static void md_rule(FILE *f, size_t n)
{
    fputs(" |\n|", f);
    for (size_t i = 0; i < n; i++)
        fputs(i ? "---:|" : "---|", f);
    putc('\n', f);
}

static void md_megabytes(FILE *f, double bytes)
{
    md_number(f, bytes / 1e6, "%.0f");
}

static void md_row(const table *t, FILE *f, size_t r)
{
    static const char *const plain[] = {"bits", "tokens", "seed"},
                             *const seconds[] = {"calibration_s", "factors_s", "rounding_s"},
                             *const peak[] = {"calibration_peak_bytes", "rounding_peak_bytes",
                                              "evaluation_peak_bytes"};
    fputs("| ", f);
    md_text(f, string(row_of(t, r), "spec"));
    for (int i = 0; i < 3; i++) {
        fputs(" | ", f);
        md_number(f, cell(t, r, find_column(t, -1, NULL, plain[i])), "%.10g");
    }
    for (int i = 0; i < 3; i++) {
        fputs(" | ", f);
        md_number(f, cell(t, r, find_column(t, -1, NULL, seconds[i])), "%.1f");
    }
    for (int i = 0; i < 3; i++) {
        fputs(i ? " / " : " | ", f);
        md_megabytes(f, cell(t, r, find_column(t, -1, NULL, peak[i])));
    }
    fputs(" | ", f);
    md_number(f, cell(t, r, find_column(t, -1, NULL, "bpw_file")), "%.3f");
    fputs(" | ", f);
    md_number(f, cell(t, r, find_column(t, -1, NULL, "predicted_loss")), "%.4f");
    md_quality(t, f, r, false);
    fputs(" |\n", f);
}

static void md_reference(const table *t, FILE *f)
{
    const json_t *v;
    size_t i;
    fputs("| original | n/a | n/a | n/a | n/a | n/a | n/a | n/a | n/a | n/a", f);
    json_array_foreach(json_object_get(t->about, "texts"), i, v) {
        fputs(" | 0 | 0 | 100 | ", f);
        md_number(f, reference_value(t, find_column(t, (int)i, NULL, "ppl")), "%.3f");
    }
    json_array_foreach(json_object_get(t->about, "tasks"), i, v)
        md_measure(f, 100 * reference_value(t, find_column(t, -1, string(v, "name"), "acc")),
                   100 * reference_value(t, find_column(t, -1, string(v, "name"), "acc_stderr")), "%.2f");
    fputs(" |\n", f);
}

/* A kind of rows as mean and deviation over its seeds. */
static void md_kind(const table *t, FILE *f, size_t r)
{
    double mean, sd;
    fputs("| ", f);
    md_text(f, string(row_of(t, r), "spec"));
    fputs(" | ", f);
    md_number(f, cell(t, r, find_column(t, -1, NULL, "bits")), "%.10g");
    fputs(" | ", f);
    md_number(f, cell(t, r, find_column(t, -1, NULL, "tokens")), "%.10g");
    fprintf(f, " | %zu", kind_size(t, r));
    over_seeds(t, r, find_column(t, -1, NULL, "predicted_loss"), &mean, &sd);
    md_measure(f, mean, sd, "%.4f");
    md_quality(t, f, r, true);
    fputs(" |\n", f);
}

/* The table over seeds, if some kind has several. */
static void md_kinds(const table *t, FILE *f)
{
    bool any = false;
    for (size_t r = 0; r < t->n_row; r++) {
        if (t->group[r] != r || kind_size(t, r) < 2)
            continue;
        if (!any) {
            size_t n = 5;
            fputs("\nMean ± standard deviation over seeds:\n\n"
                  "| method | bits | calibration tokens | seeds | loss rise by eq. 1 (nats/token)",
                  f);
            md_quality_head(t, f, &n);
            md_rule(f, n);
        }
        any = true;
        md_kind(t, f, r);
    }
}

static void markdown(const table *t, FILE *f)
{
    size_t n = 10;
    fputs("# Ways to quantize ", f);
    md_text(f, string(t->about, "model"));
    fputs("\n\n| method | bits | calibration tokens | seed | calibration (s, shared pass) | factors (s) | "
          "rounding (s) | peak memory (MB): calibration / rounding / evaluation | "
          "bits a weight of the file | loss rise by eq. 1 (nats/token)",
          f);
    md_quality_head(t, f, &n);
    md_rule(f, n);
    md_reference(t, f);
    for (size_t r = 0; r < t->n_row; r++)
        md_row(t, f, r);
    md_kinds(t, f);
    fprintf(f,
            "\nLoss rise: mean negative log-likelihood minus the original's, with its paired standard error "
            "over tokens. KLD: mean over all positions of KL(original || row). "
            "Windows of %lld tokens (0: the default), at most %lld (0: all); "
            "%s products, instruction set %s. n/a: not measured, or not predicted by the method; "
            "times of work that was interrupted are not known.\n",
            (long long)json_integer_value(json_object_get(t->about, "ctx")),
            (long long)json_integer_value(json_object_get(t->about, "chunks")), string(t->about, "compute"),
            string(t->about, "isa"));
}

static kq_status write_text(const char *dir, const char *name, const table *t,
                            void (*print)(const table *t, FILE *f), kq_error *err)
{
    char *path, *text = NULL;
    size_t size;
    kq_status status = kq_cmp_path(&path, dir, NULL, name, "", err);
    if (status)
        return status;
    FILE *f = open_memstream(&text, &size);
    if (f)
        print(t, f);
    if (!f || fclose(f))
        status = kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    else
        status = kq_file_write(path, text, size, err);
    free(text);
    kq_free(path);
    return status;
}

kq_status kq_cmp_tables(const char *dir, char **text, kq_error *err)
{
    table t;
    if (text)
        *text = NULL;
    kq_status status = open_table(dir, &t, err);
    if (!status && !(status = write_text(dir, "table.md", &t, markdown, err)) &&
        !(status = write_text(dir, "table.csv", &t, csv, err))) {
        json_t *o = table_json(&t);
        status = kq_cmp_store_in(dir, NULL, "table", o, err);
        if (!status && text && !(*text = json_dumps(o, JSON_INDENT(1) | JSON_REAL_PRECISION(12))))
            status = kq_fail(err, KQ_E_MEMORY, "%s: out of memory: table.json", dir);
        json_decref(o);
    }
    close_table(&t);
    return status;
}
