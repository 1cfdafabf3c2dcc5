/* One table of items: the embedding and the head first, whose few choices are tried in every combination,
 * then the linears. Costs are bytes of the safetensors files, losses are nats a token. The header's length
 * depends on the choice by a few digits; so the exact size is computed for what was chosen, and where it is
 * beyond the budget by these digits, the choice is made again with so much less. aim.h. */
#include "quant/aim.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "prepare/trial.h"
#include "quant/rows_choices.h"
#include "sweep/seal.h"

bool kq_aim_given(const kq_quantize_options *opt)
{
    return opt->most_bytes || opt->most_bpw > 0 || opt->most_kld > 0;
}

kq_status kq_aim_check(const kq_quantize_options *opt, kq_error *err)
{
    if ((opt->most_bytes != 0) + (opt->most_bpw > 0) + (opt->most_kld > 0) > 1)
        return kq_fail(err, KQ_E_ARG, "--size, --bpw and --kld ask for different things; give one of them");
    return KQ_OK;
}

const char *kq_aim_text(const kq_quantize_options *opt, char buf[64])
{
    if (opt->most_bytes)
        snprintf(buf, 64, "at most %s", kq_bytes_text((double)opt->most_bytes, (char[32]){0}));
    else if (opt->most_bpw > 0)
        snprintf(buf, 64, "at most %g bits a weight of the file", opt->most_bpw);
    else
        snprintf(buf, 64, "a forecast of at most %g nats", opt->most_kld);
    return buf;
}

/* The option as it was typed, for messages. */
static const char *option_text(const kq_quantize_options *opt, char buf[64])
{
    if (opt->most_bytes)
        snprintf(buf, 64, "--size %zu", opt->most_bytes);
    else
        snprintf(buf, 64, "--%s %g", opt->most_bpw > 0 ? "bpw" : "kld",
                 opt->most_bpw > 0 ? opt->most_bpw : opt->most_kld);
    return buf;
}

static size_t count_parameters(const kq_output *o)
{
    kq_save_report save;
    kq_checkpoint_plan(o->p.src, o->opt.embed_bits, o->opt.head_bits, o->opt.frequent_rows, kq_bits_of,
                       o->bits, &save);
    return save.n_parameters;
}

double kq_aim_budget(const kq_output *o)
{
    if (o->opt.most_bytes)
        return (double)o->opt.most_bytes;
    return o->opt.most_bpw > 0 ? floor(o->opt.most_bpw * (double)count_parameters(o) / 8) : INFINITY;
}

/* ---- the table of items ---- */

typedef struct table {
    kq_item *items; /* owned [n]: n_rows of embedding and head, then every selected linear */
    size_t n, n_rows;
    double overhead;     /* bytes that no choice changes; exact for the cheapest choices */
    double kld_per_loss; /* of the trial */
} table;

/* Bits of a linear by what its item has chosen. */
typedef struct chosen {
    const kq_output *o;
    const table *t;
} chosen;

static double chosen_bits(void *ctx, size_t layer, kq_linear_id id)
{
    const chosen *c = ctx;
    kq_model_tensor t;
    size_t n = c->t->n_rows;
    if (!(c->o->p.selected[layer] >> id & 1))
        return 0;
    for (size_t i = 0; kq_selected_next(&c->o->p, &i, &t); i++, n++)
        if (t.layer == layer && t.linear == id)
            return c->t->items[n].choice[c->t->items[n].chosen].bits;
    return 0;
}

static const kq_choice *choice_of(const table *t, size_t i)
{
    return &t->items[i].choice[t->items[i].chosen];
}

/* The exact bytes of the safetensors files, as the items have chosen. */
static kq_status exact_bytes(const kq_output *o, const table *t, double *bytes, kq_error *err)
{
    chosen c = {o, t};
    size_t whole = 0;
    kq_save_options save = {.src = o->p.src,
                            .embed_bits = (int)choice_of(t, 0)->bits,
                            .head_bits = (int)choice_of(t, t->n_rows - 1)->bits,
                            .frequent_rows = o->opt.frequent_rows,
                            .shard_size = o->opt.shard_size};
    kq_status status = kq_code_parse(o->opt.code, &save.code, err);
    if (!status)
        status = kq_checkpoint_bytes(&save, chosen_bits, &c, &whole, err);
    *bytes = (double)whole;
    return status;
}

static double trellis_bytes(size_t rows, size_t columns, int bits)
{
    return (double)((rows + 15) / 16 * ((columns + 15) / 16)) * 32 * bits;
}

/* The table with all costs, and without losses. */
static kq_status open_table(const kq_output *o, table *t, kq_error *err)
{
    kq_model_tensor linear;
    double sum = 0, exact = 0;
    *t = (table){.n = 0};
    kq_status status = kq_alloc_for((void **)&t->items, o->p.n_selected + KQ_N_ROWS, sizeof *t->items,
                                    "choices of the allocation", err);
    if (status || (status = kq_rows_choices(o, t->items, &t->n_rows, err)))
        return status;
    t->n = t->n_rows;
    for (size_t i = 0; kq_selected_next(&o->p, &i, &linear); i++) {
        kq_item *item = &t->items[t->n++];
        *item = (kq_item){.n = 0};
        for (int k = KQ_BITS_MIN; k <= KQ_BITS_MAX; k++)
            if (!o->bits->k[i] || o->bits->k[i] == k)
                item->choice[item->n++] =
                    (kq_choice){.bits = k, .cost = trellis_bytes(linear.rows, linear.cols, k)};
    }
    for (size_t i = 0; i < t->n; i++)
        sum += choice_of(t, i)->cost;
    status = exact_bytes(o, t, &exact, err);
    t->overhead = exact - sum;
    return status;
}

/* ---- before any work ---- */

static kq_status smallest_and_largest(const kq_output *o, double *smallest, double *largest, kq_error *err)
{
    table t;
    kq_status status = open_table(o, &t, err);
    if (!status && !(status = exact_bytes(o, &t, smallest, err))) {
        for (size_t i = 0; i < t.n; i++)
            t.items[i].chosen = t.items[i].n - 1;
        status = exact_bytes(o, &t, largest, err);
    }
    kq_free(t.items);
    return status;
}

kq_status kq_aim_check_reach(const kq_output *o, kq_error *err)
{
    const double budget = kq_aim_budget(o), per_byte = 8 / (double)count_parameters(o);
    double smallest = 0, largest = 0;
    char option[64], line[200], bytes[32];
    kq_status status = smallest_and_largest(o, &smallest, &largest, err);
    if (status || isinf(budget))
        return status;
    option_text(&o->opt, option);
    if (smallest > budget)
        return kq_fail(err, KQ_E_ARG,
                       "%s: the smallest checkpoint of this model has %.0f bytes (%s, %.4g bits a weight)",
                       option, smallest, kq_bytes_text(smallest, bytes), smallest * per_byte);
    if (largest > budget)
        return KQ_OK;
    snprintf(line, sizeof line,
             "%s: the largest checkpoint of this model has %.0f bytes (%s, %.4g bits a weight); it is made",
             option, largest, kq_bytes_text(largest, bytes), largest * per_byte);
    return o->work->planning ? KQ_OK : kq_progress_note(&o->opt.common, line, err);
}

/* ---- what is measured ---- */

size_t kq_aim_bytes(const kq_output *o)
{
    const double row = kq_packed_bits(o->p.cfg->vocab_size, o->p.cfg->d_model, KQ_BITS_MAX) / 8;
    const size_t trial = kq_trial_bytes(o->p.cfg), rows = (size_t)row;
    return trial > rows ? trial : rows;
}

/* Sequences that the factors were made from, by the settings of the work or of the factor file. */
static size_t calibrated(const kq_output *o)
{
    const json_t *c = json_object_get(o->settings, "calibration");
    const double tokens = json_number_value(json_object_get(c, "tokens")),
                 seq_len = json_number_value(json_object_get(c, "seq_len"));
    const double n = o->p.n_seq ? (double)o->p.n_seq : seq_len > 0 ? tokens / seq_len : 0;
    return n >= 1 ? (size_t)n : 1;
}

static kq_status measure(kq_output *o, table *t, kq_error *err)
{
    kq_measure m;
    kq_status status = kq_measure_open(&o->p, calibrated(o), &m, err);
    if (!status)
        status = kq_rows_measure(o, &m, t->items, t->n_rows, err);
    if (!status)
        status = kq_trial(&m, o->work->file, &o->bits->round, o->work->seq_len, &t->kld_per_loss, err);
    kq_measure_close(&m);
    return status;
}

/* The figures as a list: KL divergence for nats of predicted loss, then the losses of the embedding's choices
 * and of the head's. */
static kq_status write_measured(const table *t, const char *path, kq_error *err)
{
    json_t *list = json_pack("[f]", t->kld_per_loss);
    for (size_t r = 0; r < t->n_rows; r++)
        for (size_t i = 0; i < t->items[r].n; i++)
            json_array_append_new(list, json_real(t->items[r].choice[i].loss));
    char *text = list ? json_dumps(list, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    kq_status status = text ? kq_file_write(path, text, strlen(text), err)
                            : kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    free(text);
    json_decref(list);
    return status ? status : kq_seal_write(path, err);
}

static kq_status read_measured(table *t, const char *path, kq_error *err)
{
    char *text = NULL;
    size_t size, at = 0;
    kq_status status = kq_seal_check(path, err);
    if (status || (status = kq_file_read(path, 1 << 16, &text, &size, err)))
        return status;
    json_t *list = json_loadb(text, size, 0, NULL);
    bool whole = json_is_number(json_array_get(list, at));
    t->kld_per_loss = json_number_value(json_array_get(list, at++));
    for (size_t r = 0; r < t->n_rows; r++)
        for (size_t i = 0; i < t->items[r].n; i++) {
            const json_t *loss = json_array_get(list, at++);
            whole = whole && json_is_number(loss);
            t->items[r].choice[i].loss = json_number_value(loss);
        }
    json_decref(list);
    kq_free(text);
    return whole ? KQ_OK
                 : kq_fail(err, KQ_E_FORMAT,
                           "%s: lacks measurements; --fresh discards the unfinished work and starts anew",
                           path);
}

/* Measure, or read what an interrupted run has measured. */
static kq_status take_measurements(kq_output *o, table *t, kq_error *err)
{
    char *path;
    if (o->work->planning)
        return measure(o, t, err);
    kq_status status = kq_job_path(&o->job, "measured", 0, "json", &path, err);
    if (!status && kq_job_part_done(&o->job, "measured", 0, "json"))
        status = read_measured(t, path, err);
    else if (!status && !(status = measure(o, t, err)))
        status = write_measured(t, path, err);
    kq_free(path);
    return status;
}

/* ---- choosing ---- */

static void fill_losses(const kq_output *o, table *t)
{
    const kq_bits *b = o->bits;
    kq_model_tensor linear;
    size_t n = t->n_rows;
    for (size_t i = 0; kq_selected_next(&o->p, &i, &linear); i++, n++)
        for (size_t c = 0; c < t->items[n].n; c++) {
            kq_choice *choice = &t->items[n].choice[c];
            choice->loss = t->kld_per_loss *
                           kq_forecast_loss(&b->forecast[i], b->error[(int)choice->bits - KQ_BITS_MIN]) /
                           (double)o->work->seq_len;
        }
}

static kq_status allocate(const kq_output *o, table *t, kq_allocation *a, kq_error *err)
{
    const double limit = kq_aim_budget(o);
    double budget = limit - t->overhead, exact = 0;
    kq_error why = {0};
    if (isinf(limit)) {
        kq_status status = kq_allocate_for_loss(t->items, t->n, t->n_rows, o->opt.most_kld, a, &why);
        return status == KQ_E_ARG
                   ? kq_fail(err, status,
                             "--kld %g: the largest checkpoint of this model has a forecast of %.4g nats a "
                             "token already",
                             o->opt.most_kld, a->loss)
               : status ? kq_fail(err, status, "%s", why.message)
                        : KQ_OK;
    }
    for (int again = 0; again < 16; again++) {
        kq_status status = kq_allocate(t->items, t->n, t->n_rows, budget, a, err);
        if (status || (status = exact_bytes(o, t, &exact, err)) || exact <= limit)
            return status;
        budget -= exact - limit;
    }
    return kq_fail(err, KQ_E_ARG, "no choice of bits has at most %.0f bytes", limit);
}

static kq_status tell(const kq_output *o, kq_error *err)
{
    const kq_expected *e = &o->bits->expected;
    char line[320], head[48] = "", bytes[32];
    const kq_common *c = &o->opt.common;
    if (!o->p.cfg->tie_embeddings)
        snprintf(head, sizeof head, ", head %d bits", o->opt.head_bits);
    snprintf(
        line, sizeof line,
        "expected: %s, %.4g bits a weight of the file; linears %.4g bits on average (%zu with 2, %zu "
        "with 3, %zu with 4), embedding %d bits%s; forecast %.4g nats a token (linears %.4g, embedding and "
        "head %.4g)",
        kq_bytes_text(e->bytes, bytes), e->bpw_file, o->bits->average, e->count[0], e->count[1], e->count[2],
        o->opt.embed_bits, head, e->linears_kld + e->rows_kld, e->linears_kld, e->rows_kld);
    if (c->progress && c->progress(c->ctx, "rounding", 0, line))
        return kq_fail(err, KQ_E_INTERRUPTED, "stopped after the bits were chosen");
    return KQ_OK;
}

/* Keep what the items have chosen. */
static kq_status settle(kq_output *o, const table *t, const kq_allocation *a, kq_error *err)
{
    kq_bits *b = o->bits;
    kq_expected *e = &b->expected;
    kq_model_tensor linear;
    double bits = 0, weights = 0;
    size_t n = t->n_rows;
    *e = (kq_expected){.bound = a->bound, .kld_per_loss = t->kld_per_loss};
    kq_status status = exact_bytes(o, t, &e->bytes, err);
    for (size_t i = 0; i < t->n_rows; i++)
        e->rows_kld += choice_of(t, i)->loss;
    for (size_t i = 0; kq_selected_next(&o->p, &i, &linear); i++, n++) {
        const kq_choice *c = choice_of(t, n);
        const double count = (double)linear.rows * (double)linear.cols;
        b->k[i] = (uint8_t)c->bits;
        e->count[b->k[i] - KQ_BITS_MIN]++;
        e->linears_kld += c->loss;
        bits += count * c->bits;
        weights += count;
    }
    o->opt.embed_bits = (int)choice_of(t, 0)->bits;
    if (t->n_rows > 1)
        o->opt.head_bits = (int)choice_of(t, 1)->bits;
    b->average = weights > 0 ? bits / weights : 0;
    e->bpw_file = 8 * e->bytes / (double)count_parameters(o);
    b->settled = true;
    return status;
}

kq_status kq_aim_choose(kq_output *o, kq_error *err)
{
    table t;
    kq_allocation a = {0};
    kq_status status = open_table(o, &t, err);
    if (!status && !(status = take_measurements(o, &t, err))) {
        fill_losses(o, &t);
        status = allocate(o, &t, &a, err);
    }
    if (!status)
        status = settle(o, &t, &a, err);
    kq_free(t.items);
    return status ? status : tell(o, err);
}

bool kq_aim_settings(const kq_quantize_options *opt, json_t *into)
{
    const struct {
        const char *name;
        json_t *value; /* new; NULL: not asked for */
    } aims[] = {{"size_asked", opt->most_bytes ? json_integer((json_int_t)opt->most_bytes) : NULL},
                {"bpw_asked", opt->most_bpw > 0 ? json_real(opt->most_bpw) : NULL},
                {"kld_asked", opt->most_kld > 0 ? json_real(opt->most_kld) : NULL}};
    bool ok = true;
    for (size_t i = 0; i < sizeof aims / sizeof *aims; i++)
        if (aims[i].value)
            ok = !json_object_set_new(into, aims[i].name, aims[i].value) && ok;
    return ok;
}

json_t *kq_aim_report(const kq_output *o)
{
    const kq_bits *b = o->bits;
    const kq_expected *e = &b->expected;
    json_t *r = json_pack("{s:f, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "average", b->average,
                          "expected_bytes", (json_int_t)e->bytes, "expected_bpw_file", e->bpw_file,
                          "forecast_loss", e->linears_kld / e->kld_per_loss, "kld_per_loss", e->kld_per_loss,
                          "forecast_linears_kld", e->linears_kld, "forecast_rows_kld", e->rows_kld,
                          "forecast_kld", e->linears_kld + e->rows_kld, "least_possible", e->bound);
    if (r && kq_aim_settings(&o->opt, r))
        return r;
    json_decref(r);
    return NULL;
}
