/* kronq bench: tokens a second, as llama-bench measures them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

enum { MAX_TESTS = 16 };

typedef struct test {
    bool prompt;
    size_t n;
} test;

typedef struct measured {
    /* mean_s, sd_s, min_s: seconds of a run; rate: tokens a second, and its standard deviation over
     * the runs */
    double mean_s, sd_s, min_s, rate, rate_sd;
} measured;

static int parse_list(const char *text, bool prompt, test *tests, size_t *n, kq_error *err)
{
    for (const char *p = text;;) {
        char *end;
        const unsigned long v = strtoul(p, &end, 10);
        if (end == p || v > 1u << 20 || (*end && *end != ',') || *n == MAX_TESTS)
            return cli_error(err, KQ_E_ARG,
                             "--%s %s: whole numbers with commas between are expected (%d tests at most)",
                             prompt ? "pp" : "tg", text, MAX_TESTS);
        if (v)
            tests[(*n)++] = (test){prompt, v};
        if (!*end)
            return KQ_OK;
        p = end + 1;
    }
}

/* A model that is measured. */
typedef struct bench {
    const cli *c;
    const char *path;
    kq_model *model;
    const int32_t *ids; /* token ids that are spread over the vocabulary */
    float *logits;      /* [vocab_size] */
} bench;

/* One run from an empty cache. */
static kq_status run_once(const bench *b, const test *t, kq_error *err)
{
    const size_t step = t->prompt ? t->n : 1;
    kq_status status = KQ_OK;
    kq_model_truncate(b->model, 0, 0);
    for (size_t i = 0; i < t->n && !status; i += step)
        status = kq_model_append(b->model, 0, b->ids + i, step, 1, b->logits, err);
    return status;
}

static kq_status measure(const bench *b, const test *t, measured *m, kq_error *err)
{
    double sum = 0, sum2 = 0, rates = 0, rates2 = 0;
    const test warm = {t->prompt, t->n < 32 ? t->n : 32};
    kq_status status = run_once(b, &warm, err);
    m->min_s = INFINITY;
    for (size_t i = 0; i < b->c->repetitions && !status; i++) {
        const double start = cli_now_s();
        status = run_once(b, t, err);
        const double s = cli_now_s() - start, r = (double)t->n / s;
        sum += s, sum2 += s * s, rates += r, rates2 += r * r;
        m->min_s = fmin(m->min_s, s);
    }
    const double n = (double)b->c->repetitions;
    m->mean_s = sum / n, m->rate = rates / n;
    m->sd_s = n > 1 ? sqrt(fmax(0, (sum2 - sum * sum / n) / (n - 1))) : 0;
    m->rate_sd = n > 1 ? sqrt(fmax(0, (rates2 - rates * rates / n) / (n - 1))) : 0;
    return status;
}

/* "llama 30x576, packed" */
static void describe(const kq_model *model, char what[96])
{
    const kq_model_info *m = kq_model_get_info(model);
    snprintf(what, 96, "%s %zux%zu, %s", m->architecture, m->n_layer, m->d_model,
             kq_model_get_engine(model)->weights);
}

enum format { MD, CSV, JSON };

static void print_head(enum format format, bool table6)
{
    static const char *const table[] = {
        "| model | type | size | threads | test | t/s |\n| --- | --- | ---: | ---: | --- | ---: |",
        "model,type,size_bytes,threads,test,n,avg_ts,stddev_ts,avg_ns,stddev_ns,min_ns"};
    static const char *const latencies[] = {
        "| model | seq len | bit | test | total latency (ms) | latency per token (ms) |\n"
        "| --- | ---: | ---: | --- | ---: | ---: |",
        "model,seq_len,bit,test,total_ms,total_ms_sd,per_token_ms"};
    if (format != JSON)
        puts((table6 ? latencies : table)[format]);
}

static json_t *as_json(const bench *b, const test *t, const measured *r)
{
    const kq_engine_info *e = kq_model_get_engine(b->model);
    char what[96];
    describe(b->model, what);
    return json_pack("{s:s, s:s, s:f, s:I, s:i, s:s, s:I, s:I, s:f, s:f, s:f, s:f, s:f}", "model", b->path,
                     "type", what, "bits", e->bits, "size_bytes", (json_int_t)e->bytes_per_token, "threads",
                     e->threads, "test", t->prompt ? "pp" : "tg", "n", (json_int_t)t->n, "repetitions",
                     (json_int_t)b->c->repetitions, "avg_ts", r->rate, "stddev_ts", r->rate_sd, "avg_ns",
                     r->mean_s * 1e9, "stddev_ns", r->sd_s * 1e9, "min_ns", r->min_s * 1e9);
}

static void print_row(const bench *b, const test *t, const measured *r, enum format format)
{
    const kq_engine_info *e = kq_model_get_engine(b->model);
    const char *kind = t->prompt ? "pp" : "tg";
    char what[96], size[32];
    describe(b->model, what);
    if (b->c->table6)
        printf(format == CSV ? "%s,%zu,%.4g,%s,%.2f,%.2f,%.4f\n"
                             : "| %s | %zu | %.4g | %s | %.1f ± %.1f | %.3f |\n",
               b->path, t->n, e->bits, t->prompt ? "prompt" : "generate", r->mean_s * 1e3, r->sd_s * 1e3,
               r->mean_s * 1e3 / (double)t->n);
    else if (format == CSV)
        printf("%s,\"%s\",%zu,%d,%s%zu,%zu,%.2f,%.2f,%.0f,%.0f,%.0f\n", b->path, what, e->bytes_per_token,
               e->threads, kind, t->n, t->n, r->rate, r->rate_sd, r->mean_s * 1e9, r->sd_s * 1e9,
               r->min_s * 1e9);
    else
        printf("| %s | %s | %s | %d | %s%zu | %.2f ± %.2f |\n", b->path, what,
               cli_bytes((double)e->bytes_per_token, size), e->threads, kind, t->n, r->rate, r->rate_sd);
}

/* What is measured: the same tests for every model. */
typedef struct plan {
    test tests[MAX_TESTS];
    size_t n, longest;
    enum format format;
    json_t *list; /* of the format JSON */
} plan;

static kq_status read_plan(const cli *c, plan *p, kq_error *err)
{
    const char *format = c->format ? c->format : c->json ? "json" : "md";
    kq_status status = KQ_OK;
    p->format = !strcmp(format, "csv") ? CSV : !strcmp(format, "json") ? JSON : MD;
    if (p->format == MD && strcmp(format, "md"))
        return cli_error(err, KQ_E_ARG, "--format %s (md, csv or json)", format);
    if (c->table6)
        for (size_t n = 1024; n <= 2048; n *= 2)
            for (int prompt = 0; prompt < 2; prompt++)
                p->tests[p->n++] = (test){prompt, n};
    else if (!(status = parse_list(c->pp ? c->pp : "512", true, p->tests, &p->n, err)))
        status = parse_list(c->tg ? c->tg : "128", false, p->tests, &p->n, err);
    p->longest = 32;
    for (size_t i = 0; i < p->n; i++)
        p->longest = p->tests[i].n > p->longest ? p->tests[i].n : p->longest;
    return status;
}

static kq_status measure_model(const cli *c, const char *path, plan *p, bool first, kq_error *err)
{
    bench b = {.c = c, .path = path};
    int32_t *ids = NULL;
    kq_model_options opt = kq_model_defaults();
    opt.common = c->q.common;
    opt.kv = c->kv;
    opt.weights = c->weights;
    kq_status status = kq_model_open(path, &opt, &b.model, err); /* this refuses wrong options too */
    if (!status && !c->quiet)
        fprintf(stderr, "%s: loading\n", path);
    if (!status)
        status = kq_model_load(b.model, p->longest, err);
    if (!status) {
        const size_t vocab = kq_model_get_info(b.model)->vocab_size;
        b.ids = ids = malloc(p->longest * sizeof *ids);
        b.logits = malloc(vocab * sizeof *b.logits);
        if (!ids || !b.logits)
            status = cli_error(err, KQ_E_MEMORY, "out of memory: logits");
        for (size_t i = 0; i < p->longest && !status; i++)
            ids[i] = (int32_t)((i * 7919 + 11) % vocab);
    }
    if (!status && first)
        print_head(p->format, c->table6);
    for (size_t i = 0; i < p->n && !status; i++) {
        measured r;
        if (!c->quiet)
            fprintf(stderr, "%s: %s%zu\n", path, p->tests[i].prompt ? "pp" : "tg", p->tests[i].n);
        if ((status = measure(&b, &p->tests[i], &r, err)))
            break;
        if (p->format == JSON)
            json_array_append_new(p->list, as_json(&b, &p->tests[i], &r));
        else
            print_row(&b, &p->tests[i], &r, p->format);
        fflush(stdout);
    }
    kq_model_close(b.model);
    free(b.logits);
    free(ids);
    return status;
}

int cmd_bench(int argc, char **argv)
{
    cli c;
    int exit_status = cli_parse(
        &c, argc, argv, "bench MODEL [options]",
        "Tokens a second, measured as llama-bench does: pp, a prompt in one piece; tg, one token after "
        "another.\n\n"
        "  kronq bench out --also model.gguf --format csv\n  kronq bench out --also model.gguf --table6");
    if (exit_status >= 0)
        return exit_status;
    static const char *const lengths[] = {"pp", "tg", NULL}, *const format_too[] = {"format", NULL};
    if ((c.table6 && (exit_status = cli_misplaced(&c, lengths, "has no effect with --table6")) >= 0) ||
        (c.json && c.format && strcmp(c.format, "json") &&
         (exit_status = cli_misplaced(&c, format_too, "contradicts --json")) >= 0))
        return exit_status;
    kq_error err;
    plan p = {.list = json_array()};
    kq_status status = read_plan(&c, &p, &err);
    for (size_t m = 0; m <= c.n_also && !status; m++)
        status = measure_model(&c, m ? c.also[m - 1] : c.model, &p, m == 0, &err);
    if (p.format == JSON && !status) {
        char *text = json_dumps(p.list, JSON_INDENT(1));
        puts(text ? text : "[]");
        free(text);
    }
    json_decref(p.list);
    return status ? cli_fail(&err) : EXIT_OK;
}
