#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sys/stat.h>

#include "cli.h"

static double real(const json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

static const char *word(const json_t *o, const char *key)
{
    return json_string_value(json_object_get(o, key));
}

static void print_text(const cli *c, const json_t *r)
{
    printf("perplexity %.4f +/- %.4f over %.0f tokens in %.0f windows of %.0f\n", real(r, "ppl"),
           real(r, "ppl_stderr"), real(r, "tokens"), real(r, "windows"), real(r, "ctx"));
    if (c->kld)
        printf("KL divergence to %s: %.5f +/- %.5f nats; same most likely token %.2f%% +/- %.2f%%\n", c->kld,
               real(r, "kld"), real(r, "kld_stderr"), 100 * real(r, "top1"), 100 * real(r, "top1_stderr"));
    const json_t *q = json_object_get(r, "kld_percentiles");
    if (q)
        printf("  median %.5f, 90%% %.5f, 95%% %.5f, 99%% %.5f, 99.9%% %.5f, largest %.5f; ln(ppl / "
               "reference's %.4f) %.5f +/- %.5f; "
               "RMS difference of the next token's probability %.3f%%\n",
               real(q, "median"), real(q, "90"), real(q, "95"), real(q, "99"), real(q, "99.9"),
               real(q, "max"), real(r, "reference_ppl"), real(r, "ln_ppl_ratio"),
               real(r, "ln_ppl_ratio_stderr"), 100 * real(r, "dp_rms"));
    if (!strcmp(json_string_value(json_object_get(r, "convention")), "llama.cpp"))
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
static kq_status text_on_card(const cli *c, const json_t *r, kq_error *err)
{
    const char *const file = word(json_array_get(json_object_get(r, "texts"), 0), "file"),
                      *const text = c->ppl && file ? file : "the text of the saved logits";
    char what[300], value[200];
    snprintf(what, sizeof what, "Perplexity, `%.100s`, %.0f windows of %.0f tokens", text, real(r, "windows"),
             real(r, "ctx"));
    snprintf(value, sizeof value, "%.4f +/- %.4f", real(r, "ppl"), real(r, "ppl_stderr"));
    kq_status status = kq_card_add_figure(c->model, what, value, err);
    if (status || !c->kld)
        return status;
    snprintf(what, sizeof what, "KL divergence to `%.100s`, the same windows of `%.100s`", file_name(c->kld),
             text);
    snprintf(value, sizeof value, "%.5f +/- %.5f nats; same most likely token %.2f%%", real(r, "kld"),
             real(r, "kld_stderr"), 100 * real(r, "top1"));
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
    if (status >= 0)
        return status;
    if (!c.ppl && !c.n_task && !c.kld) {
        fputs("kronq eval: --ppl FILE is missing: it names the text; or --task NAME=FILE.jsonl; see kronq "
              "eval --help\n",
              stderr);
        return EXIT_USAGE;
    }
    if ((c.ppl || c.kld) && c.n_task) {
        cli_say("kronq eval: --task and --%s are two measurements: run kronq eval twice",
                c.ppl ? "ppl" : "kld");
        return EXIT_USAGE;
    }
    struct stat st;
    if (c.card && (stat(c.model, &st) || !S_ISDIR(st.st_mode))) {
        cli_say("kronq eval: --card: %s is no folder, it has no README.md to write into", c.model);
        return EXIT_USAGE;
    }
    if ((status = c.n_task ? cli_only_for(&c, KQ_FOR_EVAL_TASKS, "belongs to --ppl, not to --task")
                           : cli_only_for(&c, KQ_FOR_EVAL_TEXT, "belongs to --task")) >= 0)
        return status;
    const char *const files[] = {c.e.save_logits, c.e.per_window, c.e.logits, c.t.samples_file};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if ((status = cli_check_output(files[i])) >= 0)
            return status;
    cli_resumable(c.n_task && c.t.samples_file ? "the same command with --resume" : NULL);
    kq_error err;
    char *text = NULL;
    cli_progress(&c, c.n_task ? &c.t.common : &c.e.common);
    if (c.n_task ? kq_eval_tasks(c.model, c.tasks, c.n_task, &c.t, &text, &err)
                 : kq_eval_text(c.model, c.kld, c.ppl, &c.e, &text, &err))
        return cli_fail(&err);
    cli_progress_end();
    json_t *r = json_loads(text, 0, NULL);
    if (c.card && (c.n_task ? tasks_on_card(&c, r, &err) : text_on_card(&c, r, &err))) {
        json_decref(r);
        free(text);
        return cli_fail(&err);
    }
    if (c.json)
        puts(text);
    else if (c.n_task)
        print_table(r);
    else
        print_text(&c, r);
    json_decref(r);
    free(text);
    return EXIT_OK;
}
