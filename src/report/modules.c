/* Figures and tables of modules: what rounding did to each. A map shows at a glance which blocks and which
 * linears lose the most; the table names the worst. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "report/report.h"

static const double page_width = 1000;

enum { KINDS = 7, MOST_LAYERS = 1000 };
static const char *const kind_name[KINDS] = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                             "gate_proj", "up_proj", "down_proj"};

/* "model.layers.3.mlp.down_proj" -> 3, 6; false for other names. */
static bool parse_module(const char *name, size_t *layer, size_t *kind)
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

enum { CELL = 34, CELL_TALL = 19, MAP_TALL = 24 + KINDS * CELL_TALL + 32 };

/* Blocks of which a row has modules. */
static size_t n_blocks(const kq_rp_row *r)
{
    const char *name;
    json_t *m;
    size_t layer, kind, n = 0;
    bool there[MOST_LAYERS] = {false};
    json_object_foreach(json_object_get(r->o, "modules"), name, m)
        if (parse_module(name, &layer, &kind) && !there[layer])
            there[layer] = ++n;
    return n;
}

/* A map of blocks over linears, each module a cell that is coloured by one of its values. */
typedef struct map {
    const kq_rp_row *row;
    const char *key, *title;
    bool logarithmic;        /* colours go by the logarithm of the value */
    double left, right, top; /* pixels */
    double lo, hi;           /* values of the first and the last colour */
    double cell;             /* width of a cell */
    bool there[MOST_LAYERS];
    size_t column[MOST_LAYERS], n_columns; /* a block's column; only blocks that have modules get one */
} map;

/* Which columns there are, how wide they are, and what the colours span. */
static void measure_map(map *a)
{
    const char *name;
    json_t *m;
    size_t layer, kind;
    a->lo = INFINITY;
    a->hi = -INFINITY;
    json_object_foreach(json_object_get(a->row->o, "modules"), name, m) {
        const double v = kq_rp_number(m, a->key);
        if (!parse_module(name, &layer, &kind) || !isfinite(v))
            continue;
        a->there[layer] = true;
        a->lo = fmin(a->lo, v);
        a->hi = fmax(a->hi, v);
    }
    for (size_t l = 0; l < MOST_LAYERS; l++)
        if (a->there[l])
            a->column[l] = a->n_columns++;
    a->logarithmic = a->logarithmic && a->lo > 0;
    if (a->logarithmic)
        a->lo = fmax(a->lo, a->hi / 1e4);
    a->cell = fmin((a->right - a->left) / (double)a->n_columns, CELL);
}

/* The colours from the least to the most: beside a short map, above a long one. */
static void colour_key(FILE *f, const map *a)
{
    char number[32];
    const double end = a->left + a->cell * (double)a->n_columns;
    const bool beside = end + 290 < a->right;
    const double x = beside ? end + 76 : a->right - 220, y = beside ? a->top + 24 : a->top + 3;
    for (size_t i = 0; i < 8; i++)
        fprintf(f, "<rect class=\"h%zu\" x=\"%.1f\" y=\"%.1f\" width=\"18\" height=\"10\"/>\n", i,
                x + 18 * (double)i, y);
    kq_svg_label(f, x - 6, y + 9, "end", "tick", kq_number_text(a->lo, number));
    kq_svg_label(f, x + 150, y + 9, "start", "tick", kq_number_text(a->hi, number));
}

/* The colour of a value, 0 to 7. */
static int colour_of(const map *a, double v)
{
    const double t = a->hi <= a->lo   ? 0
                     : a->logarithmic ? (log(fmax(v, a->lo)) - log(a->lo)) / (log(a->hi) - log(a->lo))
                                      : (v - a->lo) / (a->hi - a->lo);
    return t >= 1 ? 7 : t <= 0 ? 0 : (int)(t * 8);
}

static void map_cells(FILE *f, const map *a, double top)
{
    const char *name;
    json_t *m;
    size_t layer, kind;
    char text[300], number[32];
    json_object_foreach(json_object_get(a->row->o, "modules"), name, m) {
        const double v = kq_rp_number(m, a->key), bits = kq_rp_number(m, "bits");
        if (!parse_module(name, &layer, &kind) || !isfinite(v))
            continue;
        const int h = colour_of(a, v);
        const double x = a->left + (double)a->column[layer] * a->cell, y = top + (double)kind * CELL_TALL;
        fprintf(f, "<rect class=\"cell h%d\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"><title>", h,
                x, y, a->cell, (double)CELL_TALL);
        snprintf(text, sizeof text, "%.128s: %.3g bits, %s %s", name, bits,
                 strcmp(a->key, "relative_mse") ? "predicted loss" : "relative error",
                 kq_number_text(v, number));
        kq_html_text(f, text);
        fputs("</title></rect>\n", f);
        if (a->row->mixed && a->cell >= 12) {
            snprintf(text, sizeof text, "%.3g", bits);
            kq_svg_label(f, x + a->cell / 2, y + 13, "middle", h > 3 ? "onhi" : "onlo", text);
        }
    }
}

/* The numbers of the blocks below the map, as many as there is room for. */
static void block_numbers(FILE *f, const map *a, double y)
{
    const size_t every = a->cell >= 18 ? 1 : a->cell >= 9 ? 2 : 5;
    char number[32];
    for (size_t l = 0; l < MOST_LAYERS; l++)
        if (a->there[l] && a->column[l] % every == 0) {
            snprintf(number, sizeof number, "%zu", l);
            kq_svg_label(f, a->left + ((double)a->column[l] + 0.5) * a->cell, y, "middle", "tick", number);
        }
    kq_svg_label(f, a->left - 8, y, "end", "tick", "block");
}

/* a: row, key, title, logarithmic, left, right and top are set. */
static void draw_map(FILE *f, map *a)
{
    measure_map(a);
    if (!a->n_columns)
        return;
    const double top = a->top + 24;
    kq_svg_label(f, a->left, a->top + 12, "start", "paneltitle", a->title);
    colour_key(f, a);
    for (size_t k = 0; k < KINDS; k++)
        kq_svg_label(f, a->left - 8, top + (double)k * CELL_TALL + 13.5, "end", "tick", kind_name[k]);
    map_cells(f, a, top);
    block_numbers(f, a, top + KINDS * CELL_TALL + 15);
}

/* The rows to show: for each number of bits the best kind's first seed. */
static size_t choose_rows(const kq_rp *p, const kq_rp_row **out, size_t most)
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
        if (kq_rp_number(m, "relative_mse") > most) {
            most = kq_rp_number(m, "relative_mse");
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
    kq_svg_begin(f, page_width, 6 + (two && !side ? 2 * MAP_TALL : MAP_TALL), title);
    draw_map(f, &(map){.row = r,
                       .key = "relative_mse",
                       .title = "relative error, ||W \xe2\x88\x92 W\xcc\x82||\xc2\xb2 / ||W||\xc2\xb2",
                       .left = 84,
                       .right = side ? 490 : page_width - 4,
                       .top = 6});
    if (two)
        draw_map(f, &(map){.row = r,
                           .key = "predicted_loss",
                           .title = "predicted rise of the loss (nats a token)",
                           .logarithmic = true,
                           .left = side ? 594 : 84,
                           .right = page_width - 4,
                           .top = side ? 6 : 6 + MAP_TALL});
    kq_svg_end(f);
    snprintf(title, sizeof title, "Each cell is a module.%s%s",
             r->mixed ? " Numbers in the cells are its bits." : "",
             two ? " The predicted rise is eq. 1's share of it; its colours are logarithmic." : "");
    kq_rp_close(f, title);
}

/* A module, to be sorted by what it costs. */
typedef struct hard_module {
    const char *name;
    const json_t *m;
    double score;
} hard_module;

static int harder(const void *a, const void *b)
{
    const hard_module *x = a, *y = b;
    return x->score != y->score ? (x->score < y->score) - (x->score > y->score) : strcmp(x->name, y->name);
}

/* The modules of the factors that a row was rounded from, if they have gaps to show; else NULL. */
static const json_t *factors_of(const kq_rp *p, const kq_rp_row *r)
{
    const char *factors = json_string_value(json_object_get(r->o, "factors"));
    for (size_t k = 0; factors && k < p->n_factors; k++)
        if (!strcmp(p->factors[k].name, factors) && kq_rp_has_gaps(&p->factors[k]))
            return json_object_get(p->factors[k].o, "modules");
    return NULL;
}

/* factor: the module's report in its factor file. */
static void hardest_line(FILE *f, const hard_module *h, bool predicted, double sum, bool gaps,
                         const json_t *factor)
{
    const json_t *shape = json_object_get(h->m, "shape");
    fputs("<tr><td><code>", f);
    kq_html_text(f, h->name);
    fprintf(f, "</code></td><td>%lld</td><td>%lld</td><td>%.3g</td><td>%.4f</td>",
            (long long)json_integer_value(json_array_get(shape, 0)),
            (long long)json_integer_value(json_array_get(shape, 1)), kq_rp_number(h->m, "bits"),
            kq_rp_number(h->m, "relative_mse"));
    if (predicted)
        fprintf(f, "<td>%.5f</td><td>%.1f</td>", h->score, sum > 0 ? 100 * h->score / sum : 0);
    if (gaps && isfinite(kq_rp_gap(factor)))
        fprintf(f, "<td>%.3f</td><td>%.0f</td>", kq_rp_gap(factor), kq_rp_number(factor, "products"));
    else if (gaps)
        fputs("<td>n/a</td><td>n/a</td>", f);
    fputs("</tr>\n", f);
}

static void hardest_table(const kq_rp *p, FILE *f, const kq_rp_row *r)
{
    const json_t *modules = json_object_get(r->o, "modules"), *factors = factors_of(p, r);
    const bool predicted = isfinite(r->predicted);
    const size_t n = json_object_size(modules);
    const char *name;
    json_t *m;
    double sum = 0;
    size_t i = 0;
    hard_module *h = kq_alloc(n, sizeof *h);
    if (!h)
        return;
    json_object_foreach((json_t *)modules, name, m) {
        const double score = kq_rp_number(m, predicted ? "predicted_loss" : "relative_mse");
        h[i++] = (hard_module){name, m, isfinite(score) ? score : -1};
        sum += isfinite(score) ? score : 0;
    }
    qsort(h, n, sizeof *h, harder);
    fputs("<h3 class=\"figtitle\">The hardest modules of <code>", f);
    kq_html_text(f, r->spec);
    fprintf(f, "</code>, %.4g bits, by %s</h3>\n", r->bits,
            predicted ? "predicted rise of the loss" : "relative error");
    fprintf(f,
            "<div class=\"wide\"><table class=\"hardest\">\n"
            "<thead><tr><th>module</th><th>outputs</th><th>inputs</th><th>bits</th>"
            "<th>relative error</th>%s%s</tr></thead>\n<tbody>\n",
            predicted ? "<th>predicted rise<br/>(nats/token)</th><th>share of<br/>the whole (%)</th>" : "",
            factors ? "<th>&#963;&#8322;/&#963;&#8321;</th><th>products</th>" : "");
    for (i = 0; i < n && i < 12; i++)
        hardest_line(f, &h[i], predicted, sum, factors != NULL, json_object_get(factors, h[i].name));
    fputs("</tbody></table></div>\n", f);
    kq_free(h);
}

void kq_rp_modules(kq_rp *p, FILE *f)
{
    const kq_rp_row *r[4];
    const size_t n = choose_rows(p, r, 4);
    if (!n)
        return;
    fputs("<h2>Modules</h2>\n", f);
    for (size_t i = 0; i < n; i++)
        map_figure(p, f, r[i], i);
    for (size_t i = 0; i < n; i++)
        hardest_table(p, f, r[i]);
}
