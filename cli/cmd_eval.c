/* kronq eval: measures perplexity and KL divergence on a text, or accuracy on tasks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli.h"

static double real(const json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

/* text: the result's JSON, for the forecast that a checkpoint may carry. */
static void print_text(const cli *c, const kq_eval_result *r, const char *text)
{
    printf("perplexity %.4f +/- %.4f over %zu tokens in %zu windows of %zu\n", r->ppl, r->ppl_stderr,
           r->tokens, r->windows, r->ctx);
    if (r->has_reference) {
        printf("KL divergence to %s: %.5f +/- %.5f nats; same most likely token %.2f%% +/- %.2f%%\n", c->kld,
               r->kld, r->kld_stderr, 100 * r->top1, 100 * r->top1_stderr);
        printf("  median %.5f, 90%% %.5f, 95%% %.5f, 99%% %.5f, 99.9%% %.5f, largest %.5f; ln(ppl / "
               "reference's %.4f) %.5f +/- %.5f; "
               "RMS difference of the next token's probability %.3f%%\n",
               r->kld_median, r->kld_90, r->kld_95, r->kld_99, r->kld_999, r->kld_max, r->reference_ppl,
               r->ln_ppl_ratio, r->ln_ppl_ratio_stderr, 100 * r->dp_rms);
    }
    json_t *o = json_loads(text, 0, NULL);
    if (json_object_get(o, "forecast_kld"))
        printf("  forecast before rounding %.5f nats; measured / forecast %.3f\n", real(o, "forecast_kld"),
               real(o, "kld_over_forecast"));
    json_decref(o);
    if (r->llama_cpp)
        puts("  (llama.cpp's convention: only the second half of each window is scored)");
}

/* The table of lm_eval.utils.make_table. */
static void print_table(const json_t *r)
{
    const json_t *all = json_object_get(r, "results"), *one;
    const char *name;
    size_t wide = strlen("Tasks");
    json_object_foreach((json_t *)all, name, one)
        wide = strlen(name) > wide ? strlen(name) : wide;
    printf("|%-*s|Version|Filter|n-shot| Metric |   |Value |   |Stderr|\n|", (int)wide, "Tasks");
    for (size_t i = 0; i < wide; i++)
        putchar('-');
    printf("|------:|------|-----:|--------|---|-----:|---|-----:|\n");
    json_object_foreach((json_t *)all, name, one) {
        static const char *const metric[] = {"acc", "acc_norm"};
        char version[16] = "";
        snprintf(version, sizeof version, "%.0f", real(json_object_get(r, "versions"), name));
        for (int i = 0; i < 2; i++) {
            char key[32], error[16] = "   N/A";
            snprintf(key, sizeof key, "%s,none", metric[i]);
            if (!json_object_get(one, key))
                continue;
            const double value = real(one, key);
            snprintf(key, sizeof key, "%s_stderr,none", metric[i]);
            if (json_is_number(json_object_get(one, key)))
                snprintf(error, sizeof error, "%.4f", real(one, key));
            printf("|%-*s|%7s|none  |     0|%-8s|\xe2\x86\x91  |%.4f|\xc2\xb1  |%s|\n", (int)wide,
                   i ? "" : name, i ? "" : version, metric[i], value, error);
        }
    }
}

/* The last part of a path. */
static const char *file_name(const char *path)
{
    const char *start = path;
    for (const char *p = path; *p; p++)
        if (*p == '/' && p[1] && p[1] != '/')
            start = p + 1;
    return start;
}

/* The figures of a perplexity run as rows of MODEL/README.md. */
static kq_status text_on_card(const cli *c, const kq_eval_result *r, const char *json, kq_error *err)
{
    const char *const text = c->ppl && r->text ? r->text : "the text of the saved logits";
    char what[300], value[200];
    snprintf(what, sizeof what, "Perplexity, `%.100s`, %zu windows of %zu tokens", text, r->windows, r->ctx);
    snprintf(value, sizeof value, "%.4f +/- %.4f", r->ppl, r->ppl_stderr);
    kq_status status = kq_card_add_figure(c->model, what, value, err);
    if (status || !c->kld)
        return status;
    snprintf(what, sizeof what, "KL divergence to `%.100s`, the same windows of `%.100s`", file_name(c->kld),
             text);
    snprintf(value, sizeof value, "%.5f +/- %.5f nats; same most likely token %.2f%%", r->kld, r->kld_stderr,
             100 * r->top1);
    json_t *o = json_loads(json, 0, NULL);
    const size_t n = strlen(value);
    if (json_object_get(o, "forecast_kld"))
        snprintf(value + n, sizeof value - n, "; %.3f of the forecast", real(o, "kld_over_forecast"));
    json_decref(o);
    return kq_card_add_figure(c->model, what, value, err);
}

static kq_status tasks_on_card(const cli *c, const json_t *r, kq_error *err)
{
    static const char *const metric[] = {"acc", "acc_norm"};
    const char *name;
    const json_t *one;
    kq_status status = KQ_OK;
    json_object_foreach(json_object_get(r, "results"), name, one)
        for (int i = 0; i < 2 && !status; i++) {
            char key[32], error_key[40], what[200], value[100];
            snprintf(key, sizeof key, "%s,none", metric[i]);
            snprintf(error_key, sizeof error_key, "%s_stderr,none", metric[i]);
            if (!json_object_get(one, key))
                continue;
            snprintf(what, sizeof what, "%s on `%.100s`, zero-shot%s", metric[i], name,
                     c->t.limit ? ", the first documents only" : "");
            snprintf(value, sizeof value, "%.4f +/- %.4f", real(one, key), real(one, error_key));
            status = kq_card_add_figure(c->model, what, value, err);
        }
    return status;
}

/* Check that the options together ask for one measurement. Returns -1 when they do, or an exit status. */
static int check(const cli *c)
{
    struct stat st;
    if (!c->ppl && !c->n_task && !c->kld) {
        cli_say("kronq eval: --ppl FILE is missing: it names the text; or --task NAME=FILE.jsonl; see kronq "
                "eval --help");
        return EXIT_USAGE;
    }
    if ((c->ppl || c->kld) && c->n_task) {
        cli_say("kronq eval: --task and --%s are two measurements: run kronq eval twice",
                c->ppl ? "ppl" : "kld");
        return EXIT_USAGE;
    }
    if (c->card && (stat(c->model, &st) || !S_ISDIR(st.st_mode))) {
        cli_say("kronq eval: --card: %s is no folder, it has no README.md to write into", c->model);
        return EXIT_USAGE;
    }
    int status = c->n_task ? cli_only_for(c, KQ_FOR_EVAL_TASKS, "belongs to --ppl, not to --task")
                           : cli_only_for(c, KQ_FOR_EVAL_TEXT, "belongs to --task");
    const char *const files[] = {c->e.save_logits, c->e.per_window, c->e.logits, c->t.samples_file};
    for (size_t i = 0; i < sizeof files / sizeof *files && status < 0; i++)
        status = cli_check_output(files[i]);
    return status;
}

static int eval_text(cli *c)
{
    kq_error err;
    char *text = NULL;
    kq_eval_result *r = NULL;
    cli_progress(c, &c->e.common);
    kq_status status = kq_eval_text(c->model, c->kld, c->ppl, &c->e, &text, &err);
    if (!status)
        status = kq_eval_result_read(text, &r, &err);
    cli_progress_end();
    if (!status && c->card)
        status = text_on_card(c, r, text, &err);
    if (!status && c->json)
        puts(text);
    else if (!status)
        print_text(c, r, text);
    kq_eval_result_free(r);
    free(text);
    return status ? cli_fail(&err) : EXIT_OK;
}

static int eval_tasks(cli *c)
{
    kq_error err;
    char *text = NULL;
    cli_resumable(c->t.samples_file ? "the same command with --resume" : NULL);
    cli_progress(c, &c->t.common);
    kq_status status = kq_eval_tasks(c->model, c->tasks, c->n_task, &c->t, &text, &err);
    cli_progress_end();
    json_t *r = status ? NULL : json_loads(text, 0, NULL);
    if (!status && c->card)
        status = tasks_on_card(c, r, &err);
    if (!status && c->json)
        puts(text);
    else if (!status)
        print_table(r);
    json_decref(r);
    free(text);
    return status ? cli_fail(&err) : EXIT_OK;
}

int cmd_eval(int argc, char **argv)
{
    cli c;
    int status =
        cli_parse(&c, argc, argv,
                  "eval MODEL --ppl FILE [--kld REFERENCE] [options]\n       kronq eval MODEL --task "
                  "NAME=FILE.jsonl [--task ...] [options]",
                  "Perplexity of MODEL on consecutive windows of a text, and how far its predictions are "
                  "from a reference model's\n"
                  "(KL divergence in nats, share of positions with the same most likely token); or its "
                  "accuracy on multiple-choice tasks,\n"
                  "zero-shot, prompts and scores as in lm-evaluation-harness: arc_easy, arc_challenge, piqa, "
                  "boolq, hellaswag, winogrande.\n"
                  "FILE.jsonl holds a document a line, with the data set's own fields.\n\n"
                  "  kronq eval out --ppl wiki.txt --kld original.gguf --chunks 8\n"
                  "  kronq eval out --task arc_easy=arc_easy.jsonl --task piqa=piqa.jsonl --limit 200");
    if (status >= 0 || (status = check(&c)) >= 0)
        return status;
    cli_resumable(NULL);
    return c.n_task ? eval_tasks(&c) : eval_text(&c);
}
