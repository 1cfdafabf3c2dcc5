#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/threads.h"
#include "base/time.h"
#include "cli.h"
#include "decode/engine.h"

enum { MAX_TESTS = 16 };

typedef struct test {
    bool prompt;
    size_t n;
} test;

typedef struct measured {
    /* seconds a run; tokens a second, its standard deviation over the runs */
    double mean_s, sd_s, min_s, rate, rate_sd;
} measured;

static int parse_list(const char *text, bool prompt, test *tests, size_t *n, kq_error *err)
{
    for (const char *p = text;;) {
        char *end;
        const unsigned long v = strtoul(p, &end, 10);
        if (end == p || v > 1u << 20 || (*end && *end != ',') || *n == MAX_TESTS)
            return kq_fail(err, KQ_E_ARG,
                           "--%s %s: whole numbers with commas between are expected (%d tests at most)",
                           prompt ? "pp" : "tg", text, MAX_TESTS);
        if (v)
            tests[(*n)++] = (test){prompt, v};
        if (!*end)
            return KQ_OK;
        p = end + 1;
    }
}

/* One run from an empty slot; ids are spread over the vocabulary. */
static kq_status once(kq_engine *e, const test *t, const int32_t *ids, float *logits, kq_error *err)
{
    kq_engine_truncate(e, 0, 0);
    kq_status st = KQ_OK;
    if (t->prompt) {
        const kq_engine_piece p = {.slot = 0, .ids = ids, .n = t->n, .n_logits = 1, .logits = logits};
        return kq_engine_run(e, &p, 1, err);
    }
    for (size_t i = 0; i < t->n && !st; i++) {
        const kq_engine_piece p = {.slot = 0, .ids = ids + i, .n = 1, .n_logits = 1, .logits = logits};
        st = kq_engine_run(e, &p, 1, err);
    }
    return st;
}

static kq_status measure(kq_engine *e, const test *t, size_t repetitions, const int32_t *ids, float *logits,
                         measured *m, kq_error *err)
{
    double sum = 0, sum2 = 0, rates = 0, rates2 = 0;
    const test warm = {t->prompt, t->n < 32 ? t->n : 32};
    kq_status st = once(e, &warm, ids, logits, err);
    m->min_s = INFINITY;
    for (size_t i = 0; i < repetitions && !st; i++) {
        const double start = kq_now_s();
        st = once(e, t, ids, logits, err);
        const double s = kq_now_s() - start, r = (double)t->n / s;
        sum += s, sum2 += s * s, rates += r, rates2 += r * r;
        m->min_s = fmin(m->min_s, s);
    }
    const double n = (double)repetitions;
    m->mean_s = sum / n, m->rate = rates / n;
    m->sd_s = n > 1 ? sqrt(fmax(0, (sum2 - sum * sum / n) / (n - 1))) : 0;
    m->rate_sd = n > 1 ? sqrt(fmax(0, (rates2 - rates * rates / n) / (n - 1))) : 0;
    return st;
}

/* "llama 30 layers x 576, kronq 2 bits hyb" */
static void describe(const kq_model_file *f, const kq_engine_options *opt, char what[96], double *bits)
{
    const kq_config *c = kq_source_config(kq_model_file_source(f));
    const int dense = opt->compute == KQ_F32 ? 32 : 16;
    double sum = 0, weights = 0;
    bool stored = false;
    for (size_t l = 0; l < c->n_layer; l++)
        for (int id = 0; id < KQ_N_LINEAR; id++) { /* they may differ */
            size_t m, n;
            const int k = kq_model_file_bits(f, l, (kq_linear_id)id);
            kq_linear_shape(c, (kq_linear_id)id, &m, &n);
            stored = stored || k;
            weights += (double)m * (double)n;
            sum += (double)m * (double)n * (k ? k : dense);
        }
    const bool packed = stored && (opt->weights == KQ_WEIGHTS_PACKED ||
                                   (opt->weights == KQ_WEIGHTS_AUTO && opt->compute == KQ_BF16));
    *bits = packed ? sum / weights : dense;
    snprintf(what, 96, "%s %zux%zu, %s", c->arch == KQ_ARCH_QWEN3 ? "qwen3" : "llama", c->n_layer, c->d_model,
             packed                   ? "packed"
             : opt->compute == KQ_F32 ? "f32"
                                      : "bf16");
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
    kq_engine_options opt = kq_engine_defaults();
    test tests[MAX_TESTS];
    size_t n_tests = 0, longest = 0;
    int asked = 0;
    const char *format = c.format ? c.format : c.json ? "json" : "md";
    const bool csv = !strcmp(format, "csv"), json = !strcmp(format, "json");
    kq_status st = KQ_OK;
    json_t *list = NULL;
    if (!csv && !json && strcmp(format, "md"))
        st = kq_fail(&err, KQ_E_ARG, "--format %s (md, csv or json)", format);
    if (c.table6 && !st) {
        for (size_t n = 1024; n <= 2048; n *= 2)
            for (int prompt = 0; prompt < 2; prompt++)
                tests[n_tests++] = (test){prompt, n};
    } else if (!st && !(st = parse_list(c.pp ? c.pp : "512", true, tests, &n_tests, &err))) {
        st = parse_list(c.tg ? c.tg : "128", false, tests, &n_tests, &err);
    }
    if (!st && !(st = kq_isa_pick(c.q.common.isa, &opt.isa, &err)) && c.q.common.compute)
        st = kq_compute_pick(c.q.common.compute, opt.isa, &opt.compute, &err);
    if (!st)
        st = kq_threads_pick(c.q.common.threads, &asked, &err);
    if (!st && c.kv)
        st = kq_kv_parse(c.kv, &opt.kv, &err);
    if (!st && c.weights)
        st = kq_engine_weights_parse(c.weights, &opt.weights, &err);
    if (st)
        return cli_fail(&err);
    kq_kern_init(opt.isa);
    for (size_t i = 0; i < n_tests; i++)
        longest = tests[i].n > longest ? tests[i].n : longest;
    opt.max_T = longest > 32 ? longest : 32;
    if (json)
        list = json_array();

    for (size_t m = 0; m <= c.n_also && !st; m++) {
        const char *path = m ? c.also[m - 1] : c.model;
        kq_model_file *model = NULL;
        kq_engine *e = NULL;
        float *logits = NULL;
        int32_t *ids = NULL;
        char what[96], size[32];
        double bits = 0;
        if (!c.quiet)
            fprintf(stderr, "%s: loading\n", path);
        if ((st = kq_model_file_open(path, opt.isa, &model, &err)))
            goto next;
        opt.threads = kq_engine_threads(kq_source_config(kq_model_file_source(model)), asked);
        if ((st = kq_engine_new(model, &opt, &e, &err)))
            goto next;
        const size_t vocab = kq_engine_config(e)->vocab_size;
        if ((st = kq_alloc_for((void **)&logits, vocab, sizeof *logits, "logits", &err)) ||
            (st = kq_alloc_for((void **)&ids, opt.max_T, sizeof *ids, "tokens", &err)))
            goto next;
        for (size_t i = 0; i < opt.max_T; i++)
            ids[i] = (int32_t)((i * 7919 + 11) % vocab);
        describe(model, &opt, what, &bits);
        cli_bytes((double)kq_engine_bytes_per_token(e), size);
        if (m == 0 && !json)
            puts(c.table6 ? csv ? "model,seq_len,bit,test,total_ms,total_ms_sd,per_token_ms"
                                : "| model | seq len | bit | test | total latency (ms) | latency per token "
                                  "(ms) |\n| --- | ---: | ---: | --- | ---: | ---: |"
                 : csv    ? "model,type,size_bytes,threads,test,n,avg_ts,stddev_ts,avg_ns,stddev_ns,min_ns"
                       : "| model | type | size | threads | test | t/s |\n| --- | --- | ---: | ---: | --- | "
                         "---: |");
        for (size_t i = 0; i < n_tests && !st; i++) {
            const test *t = &tests[i];
            measured r;
            if (!c.quiet)
                fprintf(stderr, "%s: %s%zu\n", path, t->prompt ? "pp" : "tg", t->n);
            if ((st = measure(e, t, c.repetitions, ids, logits, &r, &err)))
                break;
            const char *kind = t->prompt ? "pp" : "tg";
            if (json)
                json_array_append_new(
                    list, json_pack("{s:s, s:s, s:f, s:I, s:i, s:s, s:I, s:I, s:f, s:f, s:f, s:f, s:f}",
                                    "model", path, "type", what, "bits", bits, "size_bytes",
                                    (json_int_t)kq_engine_bytes_per_token(e), "threads", opt.threads, "test",
                                    kind, "n", (json_int_t)t->n, "repetitions", (json_int_t)c.repetitions,
                                    "avg_ts", r.rate, "stddev_ts", r.rate_sd, "avg_ns", r.mean_s * 1e9,
                                    "stddev_ns", r.sd_s * 1e9, "min_ns", r.min_s * 1e9));
            else if (c.table6)
                printf(csv ? "%s,%zu,%.4g,%s,%.2f,%.2f,%.4f\n"
                           : "| %s | %zu | %.4g | %s | %.1f ± %.1f | %.3f |\n",
                       path, t->n, bits, t->prompt ? "prompt" : "generate", r.mean_s * 1e3, r.sd_s * 1e3,
                       r.mean_s * 1e3 / (double)t->n);
            else if (csv)
                printf("%s,\"%s\",%zu,%d,%s%zu,%zu,%.2f,%.2f,%.0f,%.0f,%.0f\n", path, what,
                       kq_engine_bytes_per_token(e), opt.threads, kind, t->n, t->n, r.rate, r.rate_sd,
                       r.mean_s * 1e9, r.sd_s * 1e9, r.min_s * 1e9);
            else
                printf("| %s | %s | %s | %d | %s%zu | %.2f ± %.2f |\n", path, what, size, opt.threads, kind,
                       t->n, r.rate, r.rate_sd);
            fflush(stdout);
        }
    next:
        kq_engine_free(e);
        kq_model_file_close(model);
        kq_free(logits);
        kq_free(ids);
    }
    if (json && !st) {
        char *text = json_dumps(list, JSON_INDENT(1));
        puts(text ? text : "[]");
        free(text);
    }
    json_decref(list);
    return st ? cli_fail(&err) : EXIT_OK;
}
