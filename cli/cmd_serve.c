/* kronq serve: OpenAI's API over HTTP, until a signal ends it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "cli.h"

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

/* Check that the model's name can be written into JSON. Returns -1 when it can, or an exit status. */
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

/* Raise the limit of file descriptors as far as the system allows, because every connection takes one. */
static void raise_files(void)
{
    struct rlimit r;
    if (!getrlimit(RLIMIT_NOFILE, &r) && r.rlim_cur != RLIM_INFINITY && r.rlim_cur < 4096) {
        r.rlim_cur = r.rlim_max == RLIM_INFINITY || r.rlim_max > 4096 ? 4096 : r.rlim_max;
        setrlimit(RLIMIT_NOFILE, &r);
    }
}

/* The options of the server. name: room for the last part of MODEL's path, which is the default name. */
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
    so.any_model = c->any_model;
    so.cors = c->cors;
    so.n_cors = c->n_cors;
    so.allowed_host = c->allow_host;
    so.n_allowed_host = c->n_allow_host;
    so.max_jobs = c->queue;
    so.max_body = c->max_body;
    so.request_s = (double)c->timeout;
    /* without --timeout, answers in progress may take as long as they need */
    so.drain_s = c->timeout ? so.request_s : 1e9;
    so.log = c->quiet ? NULL : log_line;
    return so;
}

static const char *url_of(const kq_serve_options *so, const kq_server *server, char url[300])
{
    const bool v6 = strchr(so->host, ':') != NULL && so->host[0] != '[';
    snprintf(url, 300, v6 ? "http://[%s]:%u" : "http://%s:%u", so->host, kq_server_port(server));
    return url;
}

/* Say that the server is ready, at which address, and what it serves. */
static void announce(const cli *c, const kq_serve_options *so, const kq_model *model, const kq_server *server)
{
    const kq_engine_info *e = kq_model_get_engine(model);
    char url[300], bytes[32];
    url_of(so, server, url);
    if (c->json) {
        json_t *j = json_pack("{s:s, s:s, s:I, s:I, s:I}", "url", url, "model", so->model_name, "ctx",
                              (json_int_t)e->context, "slots", (json_int_t)e->sequences, "bytes",
                              (json_int_t)e->bytes);
        char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
        puts(text ? text : "{}");
        fflush(stdout);
        free(text);
        json_decref(j);
    }
    if (!c->quiet)
        fprintf(stderr, "%s on %s: %zu sequences of %zu tokens, %s, kv %s, %s; Ctrl-C ends it\n",
                so->model_name, url, e->sequences, e->context, e->compute, e->kv,
                cli_bytes((double)e->bytes, bytes));
}

/* Make the weights ready for sequences of --ctx tokens. */
static kq_status load(const cli *c, kq_model *model, kq_error *err)
{
    const size_t most = kq_model_get_info(model)->context;
    size_t ctx = c->e.ctx;
    if (!ctx) /* not given */
        ctx = most && most < 2048 ? most : 2048;
    if (ctx < 2 || (most && ctx > most))
        return cli_error(err, KQ_E_ARG, "--ctx %zu: 2 to %zu, the model's context, is expected", ctx, most);
    return kq_model_load(model, ctx, err);
}

/* Serve until a signal ends the server. */
static void serve_until_signal(const cli *c, kq_server *server)
{
    cli_stop_wait();
    if (!c->quiet)
        fprintf(stderr, "finishing what runs; Ctrl-C again stops at once\n");
    if (!kq_server_stop(server, NULL, NULL) && !c->quiet)
        fprintf(stderr, "some requests were cut off\n");
}

int cmd_serve(int argc, char **argv)
{
    cli c;
    int exit_status = cli_parse(&c, argc, argv, "serve MODEL [--port P] [options]", about);
    if (exit_status >= 0)
        return exit_status;
    kq_error err;
    kq_model *model = NULL;
    kq_server *server = NULL;
    char name[256];
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
    const kq_serve_options so = server_options(&c, name);
    if ((exit_status = check_name(&c, so.model_name)) >= 0)
        return exit_status;
    raise_files();
    kq_model_options mo = kq_model_defaults();
    mo.common = c.q.common;
    if (!mo.common.compute)
        mo.common.compute = "auto";
    mo.kv = c.kv;
    mo.sequences = c.slots;
    kq_status status;
    if ((status = kq_serve_check(&so, &loopback, &err)) ||
        (status = kq_model_open(c.model, &mo, &model, &err)) || (status = load(&c, model, &err)))
        goto out;
    cli_stop_gently(NULL);
    if ((status = kq_serve(model, &so, &server, &err)))
        goto out;
    announce(&c, &so, model, server);
    if (!so.api_key && !loopback)
        cli_say("kronq serve: other machines may reach %s, and no key is asked for (--api-key)", so.host);
    serve_until_signal(&c, server);
out:
    kq_model_close(model);
    return status ? cli_fail(&err) : EXIT_OK;
}
