/* kronq run: lets a model continue a text, or holds a conversation with it. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

typedef struct run {
    const cli *c;
    kq_model *model;
    kq_chat_options chat;
    kq_message *messages; /* owned, and the contents of all of them */
    size_t n_messages;
    kq_generation *made; /* owned: the last answer */
} run;

static int emit(void *ctx, const char *text, size_t size)
{
    const run *r = ctx;
    cli_stop_gently(NULL); /* before the first word there is nothing to finish */
    if (!r->c->json && (fwrite(text, 1, size, stdout) != size || fflush(stdout)))
        return 1; /* nobody is listening: stop */
    return cli_stop_asked() != 0;
}

static kq_status add_message(run *r, const char *role, const char *content, kq_error *err)
{
    kq_message *grown = realloc(r->messages, (r->n_messages + 1) * sizeof *grown);
    char *copy = grown ? strdup(content) : NULL;
    r->messages = grown ? grown : r->messages;
    if (!copy)
        return cli_error(err, KQ_E_MEMORY, "out of memory: the conversation");
    r->messages[r->n_messages++] = (kq_message){role, copy};
    return KQ_OK;
}

/* Let the model answer to token ids. Outside a conversation the context is only as large as this answer
 * needs. */
static kq_status answer_ids(run *r, const int32_t *ids, size_t n_ids, kq_error *err)
{
    const cli *c = r->c;
    const size_t most = kq_model_get_info(r->model)->context;
    kq_generation_options opt = kq_generation_defaults();
    opt.n_max = c->n_predict;
    opt.temperature = c->temperature;
    opt.top_k = c->top_k;
    opt.top_p = c->top_p;
    opt.min_p = c->min_p;
    opt.repetition_penalty = c->repeat_penalty;
    opt.seed = c->q.common.seed;
    opt.stop = c->stop;
    opt.n_stop = c->n_stop;
    opt.emit = emit;
    opt.ctx = r;
    kq_generation_free(r->made);
    r->made = NULL;
    kq_status status = KQ_OK;
    if (!kq_model_get_engine(r->model) && n_ids && (!most || n_ids < most))
        status =
            kq_model_load(r->model, most && c->n_predict > most - n_ids ? most : n_ids + c->n_predict, err);
    return status ? status : kq_model_generate(r->model, ids, n_ids, &opt, &r->made, err);
}

/* Answer to a text, which is already in the model's chat format when `formatted`: then it holds the beginning
 * token where the model wants one. */
static kq_status answer_text(run *r, const char *text, bool formatted, kq_error *err)
{
    int32_t *ids;
    size_t n_ids;
    kq_status status = kq_model_tokenize(r->model, text, strlen(text), !formatted, true, &ids, &n_ids, err);
    if (!status)
        status = answer_ids(r, ids, n_ids, err);
    free(ids);
    return status;
}

static kq_status answer_message(run *r, const char *user, kq_error *err)
{
    char *prompt = NULL;
    kq_status status = add_message(r, "user", user, err);
    if (!status)
        status = kq_model_chat_prompt(r->model, r->messages, r->n_messages, &r->chat, &prompt, err);
    if (!status)
        status = answer_text(r, prompt, true, err);
    if (!status)
        status = add_message(r, "assistant", r->made->text, err);
    free(prompt);
    return status;
}

static void print_figures(const run *r)
{
    const kq_generation *g = r->made;
    if (!r->c->quiet)
        fprintf(stderr, "[prompt: %zu of %zu tokens run, %.1f tokens/s; answer: %zu tokens, %.1f tokens/s]\n",
                g->n_prompt_run, g->n_prompt, g->prompt_rate, g->n_ids, g->answer_rate);
}

static void print_json(const run *r)
{
    static const char *const end[] = {"length", "end", "stop", "interrupted"};
    const kq_generation *g = r->made;
    json_t *j =
        json_pack("{s:s, s:s%, s:s, s:I, s:I, s:f, s:f, s:f, s:f, s:f}", "model", r->c->model, "text",
                  g->text, g->text_size, "finish", end[g->end], "prompt_tokens", (json_int_t)g->n_prompt,
                  "tokens", (json_int_t)g->n_ids, "seconds", g->prompt_seconds + g->answer_seconds,
                  "prompt_seconds", g->prompt_seconds, "answer_seconds", g->answer_seconds,
                  "prompt_tokens_per_second", g->prompt_rate, "tokens_per_second", g->answer_rate);
    char *text = j ? json_dumps(j, JSON_INDENT(1)) : NULL;
    puts(text ? text : "{}");
    free(text);
    json_decref(j);
}

static void print_answer(const run *r)
{
    if (r->c->json) {
        print_json(r);
        return;
    }
    putchar('\n');
    fflush(stdout);
    print_figures(r);
}

/* One line of standard input without its end; NULL at the end of input. *line is the caller's, as
 * in getline. */
static char *read_line(char **line, size_t *cap)
{
    ssize_t n = getline(line, cap, stdin);
    if (n < 0)
        return NULL;
    while (n > 0 && ((*line)[n - 1] == '\n' || (*line)[n - 1] == '\r'))
        (*line)[--n] = 0;
    return *line;
}

/* Hold a conversation: every line of standard input is a message, until its end. */
static kq_status converse(run *r, kq_error *err)
{
    const bool terminal = isatty(STDIN_FILENO);
    const size_t most = kq_model_get_info(r->model)->context, asked = r->c->e.ctx;
    if (most && asked > most)
        return cli_error(err, KQ_E_ARG, "--ctx %zu: the model's context is %zu", asked, most);
    kq_status status = kq_model_load(r->model, asked, err);
    char *line = NULL;
    size_t cap = 0;
    if (terminal && !status)
        fputs("A line is a message; Ctrl-C stops an answer, Ctrl-D ends.\n", stderr);
    while (!status) {
        if (terminal)
            fputs("> ", stderr);
        if (terminal && cli_stop_asked() == SIGINT) /* Ctrl-C meant the answer and not the program */
            cli_stop_forget();
        fflush(stdout);
        cli_stop_at_once();
        const char *message = read_line(&line, &cap);
        if (!message)
            break;
        if (!*message)
            continue;
        cli_stop_gently("kronq: stopping at the next token; Ctrl-C again ends the program");
        if (!(status = answer_message(r, message, err)))
            print_answer(r);
    }
    if (terminal)
        fputc('\n', stderr);
    free(line);
    return status;
}

/* Everything that can be refused before the weights are made ready. */
static kq_status open_model(run *r, kq_error *err)
{
    const cli *c = r->c;
    int32_t *none;
    size_t n_none;
    kq_model_options opt = kq_model_defaults();
    opt.common = c->q.common;
    opt.kv = c->kv;
    opt.weights = c->weights;
    kq_status status = kq_model_open(c->model, &opt, &r->model, err);
    if (status || (status = kq_model_tokenize(r->model, "", 0, false, false, &none, &n_none, err)))
        return status;
    free(none);
    r->chat = kq_chat_defaults();
    r->chat.argument = c->template_arg;
    r->chat.n_argument = c->n_template_arg;
    if (!c->chat)
        return c->n_template_arg ? cli_error(err, KQ_E_ARG, "--template-arg goes with --chat") : KQ_OK;
    if (c->system)
        status = add_message(r, "system", c->system, err);
    return status ? status : kq_model_check_chat(r->model, &r->chat, err);
}

static void close_run(run *r)
{
    kq_generation_free(r->made);
    kq_model_close(r->model);
    for (size_t i = 0; i < r->n_messages; i++)
        free((char *)r->messages[i].content);
    free(r->messages);
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
    run r = {.c = &c};
    kq_status status = open_model(&r, &err);
    if (!status)
        status = !c.prompt ? converse(&r, &err)
                 : c.chat  ? answer_message(&r, c.prompt, &err)
                           : answer_text(&r, c.prompt, false, &err);
    if (!status && c.prompt)
        print_answer(&r);
    close_run(&r);
    return status ? cli_fail(&err) : EXIT_OK;
}
