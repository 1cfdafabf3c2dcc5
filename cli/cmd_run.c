#include <omp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/threads.h"
#include "base/time.h"
#include "chat/chat.h"
#include "cli.h"
#include "generate/generate.h"
#include "generate/sample.h"

typedef struct answer {
    bool print;
    char *text; /* owned, not terminated */
    size_t size, cap;
    bool failed;
} answer;

static int emit(void *ctx, const char *text, size_t size)
{
    answer *a = ctx;
    cli_stop_gently(NULL); /* before the first word there is nothing to finish */
    if (a->print && (fwrite(text, 1, size, stdout) != size || fflush(stdout)))
        return 1; /* nobody is listening: stop */
    if (size + 1 > a->cap - a->size) {
        size_t cap = 2 * (a->cap + size + 1);
        char *grown = realloc(a->text, cap);
        if (!grown) {
            a->failed = true;
            return 1;
        }
        a->text = grown;
        a->cap = cap;
    }
    memcpy(a->text + a->size, text, size);
    a->size += size;
    a->text[a->size] = 0;
    return cli_stop_asked() != 0;
}

typedef struct run {
    const cli *c;
    kq_model_file *model;
    kq_tokenizer *tok;
    kq_engine *engine;
    int threads;                      /* at most */
    size_t context;                   /* tokens the engine's slot holds */
    json_t *messages, *template_args; /* owned: array, object */
    int32_t *cached;
    size_t n_cached; /* owned: the tokens in the slot */
    kq_sampling sampling;
    answer out;
    kq_generated made;
    size_t n_prompt;
} run;

static kq_status add_message(run *r, const char *role, const char *content, kq_error *err)
{
    if (!r->messages && !(r->messages = json_array()))
        return kq_fail(err, KQ_E_MEMORY, "out of memory: the conversation");
    if (json_array_append_new(r->messages, json_pack("{s:s, s:s}", "role", role, "content", content)))
        return kq_fail(err, KQ_E_ARG, "the message of role %s is not UTF-8", role);
    return KQ_OK;
}

/* Options first, then what the model's authors recommend, then ours. A recommended penalty is one of
 * sampling: with --temp 0 the most likely token is taken. */
static kq_status choose_sampling(run *r, kq_error *err)
{
    const cli *c = r->c;
    const kq_sampling ours = {.temperature = 0.8, .top_k = 40, .top_p = 0.95, .seed = c->q.common.seed};
    kq_sampling *s = &r->sampling;
    const kq_status status = kq_sampling_recommended(kq_model_file_source(r->model), &ours, s, err);
    s->temperature = c->temperature >= 0 ? c->temperature : s->temperature;
    s->top_k = c->top_k >= 0 ? c->top_k : s->top_k;
    s->top_p = c->top_p >= 0 ? c->top_p : s->top_p;
    s->min_p = c->min_p >= 0 ? c->min_p : s->min_p;
    s->repetition_penalty = c->repeat_penalty >= 0 ? c->repeat_penalty
                            : c->temperature == 0  ? 0
                                                   : s->repetition_penalty;
    return status;
}

static kq_status make_engine(run *r, size_t max_T, kq_error *err)
{
    const cli *c = r->c;
    kq_engine_options opt = kq_engine_defaults();
    kq_status status;
    if ((status = kq_isa_pick(c->q.common.isa, &opt.isa, err)) ||
        (c->q.common.compute &&
         (status = kq_compute_pick(c->q.common.compute, opt.isa, &opt.compute, err))) ||
        (c->kv && (status = kq_kv_parse(c->kv, &opt.kv, err))) ||
        (c->weights && (status = kq_engine_weights_parse(c->weights, &opt.weights, err))))
        return status;
    opt.threads = kq_engine_threads(kq_source_config(kq_model_file_source(r->model)), r->threads);
    opt.max_T = r->context = max_T;
    return kq_engine_new(r->model, &opt, &r->engine, err);
}

/* Answer to text (already in the model's format when `formatted`). */
static kq_status answer_to(run *r, const char *text, bool formatted, kq_error *err)
{
    const cli *c = r->c;
    const kq_config *cfg = kq_source_config(kq_model_file_source(r->model));
    const size_t limit = cfg->max_position;
    int32_t *ids = NULL, *made = NULL;
    size_t n = 0, same = 0, n_max = c->n_predict;
    kq_status status;
    r->out.size = 0;
    /* a chat template writes the beginning token itself where the model wants one */
    if ((status = kq_tokenizer_encode(r->tok, text, strlen(text), !formatted, true, &ids, &n, err)))
        goto out;
    const size_t most = r->engine ? r->context : limit ? limit : SIZE_MAX;
    if (!n || n >= most) {
        status = n ? kq_fail(err, KQ_E_ARG, "the prompt has %zu tokens, the %s context is %zu", n,
                             r->engine ? "conversation's" : "model's", most)
                   : kq_fail(err, KQ_E_ARG, "-p: the prompt is empty");
        goto out;
    }
    if (n_max > most - n)
        n_max = most - n; /* the model knows no positions beyond */
    if (!r->engine && (status = make_engine(r, n + n_max, err)))
        goto out;
    while (same < n && same < r->n_cached && r->cached[same] == ids[same])
        same++;
    if ((status = kq_alloc_for((void **)&made, n + n_max, sizeof *made, "the answer", err)))
        goto out;
    const kq_generate_options opt = {
        .n_max = n_max,
        .stop = c->stop,
        .n_stop = c->n_stop,
        .emit = emit,
        .ctx = &r->out,
        .ids = made + n,
        .sampling = r->sampling,
    };
    r->n_prompt = n;
    status = kq_generate(r->engine, 0, r->tok, ids, n, same, &opt, &r->made, err);
    if (!status && r->out.failed)
        status = kq_fail(err, KQ_E_MEMORY, "out of memory: the answer");
    if (!status) {
        memcpy(made, ids, n * sizeof *made);
        kq_free(r->cached);
        r->cached = made;
        r->n_cached = kq_engine_length(r->engine, 0);
        made = NULL;
    }
out:
    kq_free(ids);
    kq_free(made);
    return status;
}

static double rate(size_t n, double seconds)
{
    return seconds > 0 ? (double)n / seconds : 0;
}

/* The first new token comes out of the prompt's pass: n - 1 (or n, when an end token followed) single
 * steps. */
static size_t steps_of(const kq_generated *g)
{
    return g->finish == KQ_END_TOKEN || g->n == 0 ? g->n : g->n - 1;
}

static void print_figures(const run *r)
{
    const kq_generated *g = &r->made;
    if (!r->c->quiet)
        fprintf(stderr, "[prompt: %zu of %zu tokens run, %.1f tokens/s; answer: %zu tokens, %.1f tokens/s]\n",
                g->n_prompt, r->n_prompt, rate(g->n_prompt, g->prompt_s), g->n,
                rate(steps_of(g), g->generate_s));
}

static void print_json(const run *r)
{
    static const char *const finish[] = {"length", "end", "stop", "interrupted"};
    const kq_generated *g = &r->made;
    json_t *j =
        json_pack("{s:s, s:s%, s:s, s:I, s:I, s:f, s:f, s:f, s:f, s:f}", "model", r->c->model, "text",
                  r->out.text ? r->out.text : "", r->out.size, "finish", finish[g->finish], "prompt_tokens",
                  (json_int_t)r->n_prompt, "tokens", (json_int_t)g->n, "seconds", g->prompt_s + g->generate_s,
                  "prompt_seconds", g->prompt_s, "answer_seconds", g->generate_s, "prompt_tokens_per_second",
                  rate(g->n_prompt, g->prompt_s), "tokens_per_second", rate(steps_of(g), g->generate_s));
    char *text = j ? json_dumps(j, JSON_INDENT(1)) : NULL;
    puts(text ? text : "{}");
    free(text);
    json_decref(j);
}

static kq_status say(run *r, const char *user, kq_error *err)
{
    char *rendered = NULL;
    kq_status status = add_message(r, "user", user, err);
    const kq_chat chat = {
        .messages = r->messages, .arguments = r->template_args, .add_generation_prompt = true};
    if (!status)
        status = kq_chat_render(r->tok, &chat, &rendered, err);
    if (!status)
        status = answer_to(r, rendered, true, err);
    if (!status)
        status = add_message(r, "assistant", r->out.text && r->out.size ? r->out.text : "", err);
    kq_free(rendered);
    return status;
}

/* A line of stdin a message, until its end. */
static kq_status converse(run *r, kq_error *err)
{
    const bool terminal = isatty(STDIN_FILENO);
    const kq_config *cfg = kq_source_config(kq_model_file_source(r->model));
    size_t context = cfg->max_position && cfg->max_position < 4096 ? cfg->max_position : 4096;
    if (r->c->e.ctx != kq_eval_text_defaults().ctx)
        context = r->c->e.ctx;
    if (cfg->max_position && context > cfg->max_position)
        return kq_fail(err, KQ_E_ARG, "--ctx %zu: the model's context is %zu", context, cfg->max_position);
    kq_status status = make_engine(r, context, err);
    char *line = NULL;
    size_t cap = 0;
    if (terminal && !status)
        fputs("A line is a message; Ctrl-C stops an answer, Ctrl-D ends.\n", stderr);
    while (!status) {
        if (terminal)
            fputs("> ", stderr);
        if (terminal && cli_stop_asked() == SIGINT) /* it meant the answer */
            cli_stop_forget();
        fflush(stdout);
        cli_stop_at_once();
        ssize_t n = getline(&line, &cap, stdin);
        if (n < 0)
            break;
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r'))
            line[--n] = 0;
        if (!n)
            continue;
        cli_stop_gently("kronq: stopping at the next token; Ctrl-C again ends the program");
        if ((status = say(r, line, err)))
            break;
        if (r->c->json)
            print_json(r);
        else {
            putchar('\n');
            fflush(stdout);
            print_figures(r);
        }
    }
    if (terminal)
        fputc('\n', stderr);
    free(line);
    return status;
}

int cmd_run(int argc, char **argv)
{
    cli c;
    int exit_status =
        cli_parse(&c, argc, argv, "run MODEL [-p TEXT] [-n N] [--chat] [options]",
                  "Continue a text, or answer messages.\n\n  kronq run out -p \"Why is the sky blue?\" "
                  "--chat --temp 0\n  kronq run out --chat\n\n"
                  "How tokens are drawn, where no option says it: as the model's generation_config.json "
                  "recommends (what it leaves out is off), as kronq serve does;\n"
                  "if that says nothing: --temp 0.8 --top-k 40 --top-p 0.95. A recommended repeat penalty is "
                  "not applied with --temp 0.");
    if (exit_status >= 0)
        return exit_status;
    if (!c.prompt && !c.chat) {
        cli_say("kronq run: -p TEXT is missing (or --chat for a conversation); see kronq run --help");
        return EXIT_USAGE;
    }
    static const char *const of_chat[] = {"system", NULL}, *const of_conversation[] = {"ctx", NULL};
    if ((!c.chat && (exit_status = cli_misplaced(&c, of_chat, "goes with --chat")) >= 0) ||
        (c.prompt && (exit_status = cli_misplaced(&c, of_conversation,
                                                  "belongs to a conversation (--chat without -p)")) >= 0))
        return exit_status;
    static const char *const of_draws[] = {"top_k", "top_p", "min_p", "seed", NULL};
    if (cli_given(&c, "temp") && c.temperature == 0)
        cli_no_effect(&c, of_draws, "--temp 0");
    kq_error err;
    kq_isa isa;
    run r = {.c = &c, .out = {.print = !c.json}};
    kq_status status;
    if ((status = kq_isa_pick(c.q.common.isa, &isa, &err)) ||
        (status = kq_threads_pick(c.q.common.threads, &r.threads, &err)))
        goto out;
    kq_kern_init(isa);
    if ((status = kq_model_file_open(c.model, isa, &r.model, &err)) ||
        (status = kq_tokenizer_open(kq_model_file_source(r.model), &r.tok, &err)))
        goto out;
    if ((status = choose_sampling(&r, &err)))
        goto out;
    if (c.system && (status = c.chat ? add_message(&r, "system", c.system, &err)
                                     : kq_fail(&err, KQ_E_ARG, "--system goes with --chat")))
        goto out;
    if (c.n_template_arg && !c.chat && (status = kq_fail(&err, KQ_E_ARG, "--template-arg goes with --chat")))
        goto out;
    for (size_t i = 0; i < c.n_template_arg; i++)
        if ((status = kq_chat_argument(&r.template_args, c.template_arg[i], &err)))
            goto out;
    if (c.chat && (status = kq_chat_check(r.tok, &err))) /* before the weights are made ready */
        goto out;
    if (!c.prompt) {
        status = converse(&r, &err);
        goto out;
    }
    if ((status = c.chat ? say(&r, c.prompt, &err) : answer_to(&r, c.prompt, false, &err)))
        goto out;
    if (c.json) {
        print_json(&r);
    } else {
        putchar('\n');
        print_figures(&r);
    }
out:
    kq_engine_free(r.engine);
    if (r.tok)
        kq_tokenizer_close(r.tok);
    kq_model_file_close(r.model);
    json_decref(r.messages);
    json_decref(r.template_args);
    kq_free(r.cached);
    free(r.out.text);
    return status ? cli_fail(&err) : EXIT_OK;
}
