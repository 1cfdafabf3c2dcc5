#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/threads.h"
#include "cli.h"
#include "request/head.h"
#include "serve/serve.h"

static const char about[] =
    "Answer over HTTP as OpenAI's API does, until Ctrl-C (or SIGTERM), which lets what runs finish; a second "
    "one stops at once.\n\n"
    "  kronq serve out\n"
    "  curl localhost:8080/v1/chat/completions -H 'Content-Type: application/json' \\\n"
    "       -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Why is the sky blue?\"}], \"stream\": "
    "true}'\n\n"
    "  /v1/completions        continue texts or token ids; echo and logprobs score the prompt itself\n"
    "  /v1/chat/completions   answer messages in the model's chat format; \"stream\": true sends events\n"
    "  /v1/models  /health  /metrics (Prometheus)  /tokenize  /detokenize  /tokenizer_info\n\n"
    "Requests that come at the same time are computed together; the answer to one does not depend on the "
    "others. With the official client:\n"
    "  openai.OpenAI(base_url=\"http://localhost:8080/v1\", api_key=\"none\")\n"
    "With lm-evaluation-harness (bench/lm_eval/README.md), exactly as `kronq eval` scores:\n"
    "  kronq serve out --compute f32 --kv f32\n"
    "  lm_eval --model local-completions --model_args "
    "model=out,base_url=http://localhost:8080/v1/completions,tokenizer_backend=remote ...\n"
    "What a request does not say of temperature, top_p, top_k, min_p and repetition_penalty is as the "
    "model's generation_config.json recommends.\n"
    "docs/serve.md has every field.";

static void log_line(void *ctx, const char *line)
{
    (void)ctx;
    fprintf(stderr, "%s\n", line);
}

/* --cors and --allow-host. -1: they are fine. */
static int check_words(const cli *c)
{
    for (size_t i = 0; i < c->n_cors; i++)
        if (strcmp(c->cors[i], "*") && !kq_head_origin_valid(c->cors[i])) {
            cli_say("kronq serve: --cors '%s': an origin as browsers send it is expected (https://host or "
                    "http://host:port, nothing behind it), or *",
                    c->cors[i]);
            return EXIT_USAGE;
        }
    for (size_t i = 0; i < c->n_allow_host; i++)
        if (!*c->allow_host[i] || strpbrk(c->allow_host[i], "/ *")) {
            cli_say("kronq serve: --allow-host '%s': a host name or an address is expected",
                    c->allow_host[i]);
            return EXIT_USAGE;
        }
    return -1;
}

/* What the model is called must fit into JSON. -1: it does. */
static int check_name(const cli *c, const char *name)
{
    json_t *j = json_string(name);
    const bool good = j && *name && strlen(name) < 256;
    json_decref(j);
    if (good)
        return -1;
    cli_say("kronq serve: %s '%.100s': a name of 1 to 255 bytes in UTF-8 is expected%s",
            c->alias        ? "--alias"
            : c->model_name ? "--model-name"
                            : "MODEL",
            name, c->alias || c->model_name ? "" : "; give one with --alias");
    return EXIT_USAGE;
}

/* Connections are file descriptors: as many as the system lets this process have. */
static void raise_files(void)
{
    struct rlimit r;
    if (!getrlimit(RLIMIT_NOFILE, &r) && r.rlim_cur != RLIM_INFINITY && r.rlim_cur < 4096) {
        r.rlim_cur = r.rlim_max == RLIM_INFINITY || r.rlim_max > 4096 ? 4096 : r.rlim_max;
        setrlimit(RLIMIT_NOFILE, &r);
    }
}

/* name: room for the last part of MODEL's path. */
static kq_serve_options server_options(const cli *c, char name[256])
{
    kq_serve_options so = kq_serve_defaults();
    const char *key = c->api_key ? c->api_key : getenv("KRONQ_API_KEY");
    size_t n = strlen(c->model);
    while (n > 1 && c->model[n - 1] == '/')
        n--;
    size_t from = n;
    while (from && c->model[from - 1] != '/')
        from--;
    snprintf(name, 256, "%.*s", (int)(n - from), c->model + from);
    so.host = c->host ? c->host : so.host;
    so.port = (unsigned)c->port;
    so.api_key = key && *key ? key : NULL;
    so.other_name = c->model_name ? c->model_name : name;
    so.model_name = c->alias ? c->alias : so.other_name;
    so.model_path = c->model;
    so.any_model = c->any_model;
    so.cors = c->cors;
    so.n_cors = c->n_cors;
    so.allowed_host = c->allow_host;
    so.n_allowed_host = c->n_allow_host;
    so.max_jobs = c->queue;
    so.max_body = c->max_body;
    so.request_s = (double)c->timeout;
    so.drain_s = c->timeout ? so.request_s : 1e9; /* what runs has its time */
    so.log = c->quiet ? NULL : log_line;
    return so;
}

int cmd_serve(int argc, char **argv)
{
    cli c;
    int exit_status = cli_parse(&c, argc, argv, "serve MODEL [--port P] [options]", about);
    if (exit_status >= 0)
        return exit_status;
    kq_error err;
    kq_isa isa;
    int threads;
    kq_compute kind;
    kq_kv_type kv;
    kq_model_file *model = NULL;
    kq_tokenizer *tok = NULL;
    kq_engine *engine = NULL;
    kq_server *server = NULL;
    kq_status status;
    char bytes[32], name[256];
    bool loopback;
    if (c.port > 65535) {
        cli_say("kronq serve: --port %zu: 0 to 65535 is expected", c.port);
        return EXIT_USAGE;
    }
    if (!c.slots || c.slots > 4096 || !c.queue || !c.max_body || c.max_body > (size_t)1 << 30) {
        cli_say(
            "kronq serve: --slots (1 to 4096), --queue (at least 1) or --max-body (1 to 1G) is out of range");
        return EXIT_USAGE;
    }
    kq_serve_options so = server_options(&c, name);
    if ((exit_status = check_words(&c)) >= 0 || (exit_status = check_name(&c, so.model_name)) >= 0)
        return exit_status;
    raise_files();
    if ((status = kq_server_check(&so, &loopback, &err)) ||
        (status = kq_isa_pick(c.q.common.isa, &isa, &err)) ||
        (status = kq_threads_pick(c.q.common.threads, &threads, &err)) ||
        (status = kq_compute_pick(c.q.common.compute, isa, &kind, &err)) ||
        (status = kq_kv_parse(c.kv ? c.kv : "bf16", &kv, &err)))
        goto out;
    kq_kern_init(isa);
    if ((status = kq_model_file_open(c.model, isa, &model, &err)) ||
        (status = kq_tokenizer_open(kq_model_file_source(model), &tok, &err)))
        goto out;
    const kq_config *cfg = kq_source_config(kq_model_file_source(model));
    size_t ctx = c.e.ctx;
    if (!ctx) /* not given */
        ctx = cfg->max_position && cfg->max_position < 2048 ? cfg->max_position : 2048;
    if (ctx < 2 || (cfg->max_position && ctx > cfg->max_position)) {
        status = kq_fail(&err, KQ_E_ARG, "--ctx %zu: 2 to %zu, the model's context, is expected", ctx,
                         cfg->max_position);
        goto out;
    }
    const kq_engine_options eo = {.isa = isa,
                                  .compute = kind,
                                  .threads = kq_engine_threads(cfg, threads),
                                  .n_slots = c.slots,
                                  .max_T = ctx,
                                  .kv = kv};
    if ((status = kq_engine_new(model, &eo, &engine, &err)))
        goto out;
    if ((status = kq_sampling_recommended(kq_model_file_source(model), &so.sampling, &so.sampling, &err)))
        goto out;
    cli_stop_gently(NULL);
    if ((status =
             kq_server_start(&so, kq_stepper_engine(engine), cfg, tok, kq_kern_pick(isa), &server, &err)))
        goto out;
    const bool v6 = strchr(so.host, ':') != NULL && so.host[0] != '[';
    if (c.json) {
        char url[300];
        snprintf(url, sizeof url, v6 ? "http://[%s]:%u" : "http://%s:%u", so.host, kq_server_port(server));
        json_t *j =
            json_pack("{s:s, s:s, s:I, s:I, s:I}", "url", url, "model", so.model_name, "ctx", (json_int_t)ctx,
                      "slots", (json_int_t)c.slots, "bytes", (json_int_t)kq_engine_bytes(engine));
        char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
        puts(text ? text : "{}");
        fflush(stdout);
        free(text);
        json_decref(j);
    }
    if (!c.quiet)
        fprintf(stderr,
                v6 ? "%s on http://[%s]:%u: %zu sequences of %zu tokens, %s, kv %s, %s; Ctrl-C ends it\n"
                   : "%s on http://%s:%u: %zu sequences of %zu tokens, %s, kv %s, %s; Ctrl-C ends it\n",
                so.model_name, so.host, kq_server_port(server), c.slots, ctx,
                kind == KQ_BF16 ? "bf16" : "f32", kq_kv_name(kv),
                cli_bytes((double)kq_engine_bytes(engine), bytes));
    if (!so.api_key && !loopback)
        cli_say("kronq serve: other machines may reach %s, and no key is asked for (--api-key)", so.host);
    cli_stop_wait();
    if (!c.quiet)
        fprintf(stderr, "finishing what runs; Ctrl-C again stops at once\n");
    if (!kq_server_stop(server, NULL, NULL) && !c.quiet)
        fprintf(stderr, "some requests were cut off\n");
out:
    kq_engine_free(engine);
    if (tok)
        kq_tokenizer_close(tok);
    kq_model_file_close(model);
    return status ? cli_fail(&err) : EXIT_OK;
}
