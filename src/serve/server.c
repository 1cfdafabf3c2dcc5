/* HTTP in front of the scheduler, on libmicrohttpd. Its threads parse requests, render answers and never wait: a connection whose answer is still being
 * computed is suspended, and the model thread resumes it. A watcher looks after clients that send too slowly or have left. */
#include "serve/serve.h"

#include <arpa/inet.h>
#include <microhttpd.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/time.h"
#include "chat/chat.h"
#include "serve/answer.h"
#include "serve/metrics.h"

enum {
    DRAIN_BYTES = 1 << 26, /* of a body that is too large: read and thrown away, so that the client reads why */
    HTTP_THREADS = 2,
    WATCH_MS = 100
};

typedef enum path { P_COMPLETIONS = 0, P_CHAT, P_TOKENIZE, P_DETOKENIZE, P_MODELS, P_MODEL, P_HEALTH, P_METRICS, P_TOKENIZER_INFO, P_OTHER } path;
static const char *const path_name[KQ_METRIC_PATHS] = {"/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize", "/v1/models", "/v1/models/{model}",
                                                       "/health", "/metrics", "/tokenizer_info", "other"};

/* A connection, for the watcher. */
typedef struct client {
    int fd;
    double since;  /* of the request that is arriving; 0: none is */
    kq_query *job;   /* one reference; NULL: none at work */
    bool left;
    struct client *next, *before;
} client;

struct kq_server {
    kq_serve_options opt;
    kq_api_limits limits;
    const kq_tokenizer *tok;
    kq_batch *batch;
    struct MHD_Daemon *daemon;
    unsigned port;
    kq_metrics metrics;
    pthread_t watcher;
    pthread_mutex_t lock;      /* clients, calls, draining, ids */
    client *clients;
    size_t calls;              /* requests that have begun and not been answered */
    bool draining, stop;
    uint64_t id_key, n_ids;
};

/* One request, from its header to the last byte of its answer. */
typedef struct call {
    kq_server *server;
    struct MHD_Connection *connection;
    path path;
    char method[8];
    double start_s;
    char *body; size_t size, cap; /* owned */
    bool too_large, arrived, answered;
    kq_api_error error; bool failed; /* found in the header; told after the body */
    kq_query *job;                     /* one reference */
    kq_answer_context answer;
    client *client;
    int status;
    /* stream */
    char *out; size_t out_at, out_size; /* owned (malloc): events on their way */
    bool usage_sent, closed;
    char model_asked[128];
} call;

kq_serve_options kq_serve_defaults(void)
{
    return (kq_serve_options){.host = "127.0.0.1", .port = 8080, .max_body = 4u << 20, .max_choices = 128, .max_jobs = 256, .max_connections = 1024,
                              .receive_s = 30, .request_s = 600, .idle_s = 60, .drain_s = 30};
}

/* ---- answers ---- */

static enum MHD_Result send_bytes(call *c, int status, char *bytes, size_t size, const char *type)
{
    struct MHD_Response *r = bytes ? MHD_create_response_from_buffer(size, bytes, MHD_RESPMEM_MUST_FREE) : NULL;
    if (!r) {
        free(bytes);
        return MHD_NO;
    }
    MHD_add_response_header(r, "Content-Type", type);
    MHD_add_response_header(r, "Cache-Control", "no-store");
    if (status == 429 || status == 503)
        MHD_add_response_header(r, "Retry-After", "1");
    if (status == 401)
        MHD_add_response_header(r, "WWW-Authenticate", "Bearer");
    if (status == 405)
        MHD_add_response_header(r, "Allow", c->path <= P_DETOKENIZE ? "POST" : "GET, HEAD");
    c->status = status;
    c->answered = true;
    enum MHD_Result sent = MHD_queue_response(c->connection, (unsigned)status, r);
    MHD_destroy_response(r);
    return sent;
}

/* Takes the reference of j. */
static enum MHD_Result send_json(call *c, int status, json_t *j)
{
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    if (!text) { /* out of memory: a fixed answer, else nothing but closing the connection */
        text = strdup("{\"error\":{\"message\":\"out of memory; try again later\",\"type\":\"server_error\",\"param\":null,\"code\":\"out_of_memory\"}}");
        status = 503;
    }
    return send_bytes(c, status, text, text ? strlen(text) : 0, "application/json");
}

static enum MHD_Result send_error(call *c, const kq_api_error *e) { return send_json(c, e->http, kq_answer_error(e)); }

static enum MHD_Result send_kq_error(call *c, const kq_error *err, const char *param)
{
    kq_api_error e;
    const bool theirs = err->status == KQ_E_ARG || err->status == KQ_E_UNSUPPORTED || err->status == KQ_E_FORMAT;
    kq_api_fail(&e, theirs ? 400 : err->status == KQ_E_MEMORY ? 503 : 500, theirs ? param : NULL, theirs ? "invalid_value" : "server_error", "%.480s", err->message);
    return send_error(c, &e);
}

/* ---- the simple paths ---- */

static json_t *model_json(const kq_server *s)
{
    return json_pack("{s:s, s:s, s:i, s:s, s:I}", "id", s->limits.model, "object", "model", "created", 0, "owned_by", "kronq", "max_model_len", (json_int_t)s->limits.context);
}

static json_t *token_json(const kq_tokenizer *tok, int32_t id)
{
    char *text = NULL;
    size_t n;
    if (id < 0 || kq_tokenizer_decode(tok, &id, 1, false, &text, &n, NULL))
        return json_null();
    json_t *j = json_string(text);
    kq_free(text);
    return j ? j : json_null();
}

static enum MHD_Result get(call *c)
{
    kq_server *s = c->server;
    kq_api_error e;
    switch (c->path) {
    case P_HEALTH: {
        pthread_mutex_lock(&s->lock);
        const bool draining = s->draining;
        pthread_mutex_unlock(&s->lock);
        return send_json(c, draining ? 503 : 200, json_pack("{s:s}", "status", draining ? "shutting down" : "ok"));
    }
    case P_MODELS: return send_json(c, 200, json_pack("{s:s, s:[o]}", "object", "list", "data", model_json(s)));
    case P_MODEL:
        if (strcmp(c->model_asked, s->limits.model)) {
            kq_api_fail(&e, 404, "model", "model_not_found", "The model '%.100s' does not exist; this server has '%.100s'.", c->model_asked, s->limits.model);
            return send_error(c, &e);
        }
        return send_json(c, 200, model_json(s));
    case P_METRICS: {
        const kq_batch_stats stats = kq_batch_statistics(s->batch);
        size_t size = 0;
        char *page = kq_metrics_page(&s->metrics, &stats, path_name, &size);
        return send_bytes(c, 200, page, size, "text/plain; version=0.0.4; charset=utf-8");
    }
    default: {
        const char *template = kq_tokenizer_chat_template(s->tok);
        return send_json(c, 200, json_pack("{s:s, s:o, s:o, s:s?, s:I, s:I}", "tokenizer_class", "PreTrainedTokenizerFast", "bos_token", token_json(s->tok, kq_tokenizer_bos(s->tok)),
                                           "eos_token", token_json(s->tok, kq_tokenizer_eos(s->tok)), "chat_template", template, "vocab_size",
                                           (json_int_t)kq_tokenizer_vocab_size(s->tok), "model_max_length", (json_int_t)s->limits.context));
    }
    }
}

static kq_status render(const kq_tokenizer *tok, const kq_api_request *r, char **text, kq_error *err)
{
    json_t *messages = json_array();
    bool ok = messages != NULL;
    for (size_t i = 0; i < r->n_message && ok; i++)
        ok = !json_array_append_new(messages, json_pack("{s:s, s:s}", "role", r->message[i].role, "content", r->message[i].content));
    const kq_chat chat = {.messages = messages, .add_generation_prompt = true};
    const kq_status status = ok ? kq_chat_render(tok, &chat, text, err) : kq_fail(err, KQ_E_MEMORY, "out of memory: a conversation");
    json_decref(messages);
    return status;
}

/* The ids of a request's texts. False: an answer has been sent, *sent. */
static bool encode(call *c, kq_api_request *r, kq_prompt **ids, size_t *n_ids, enum MHD_Result *sent)
{
    const kq_tokenizer *tok = c->server->tok;
    const size_t n = r->n_message ? 1 : r->n_prompt;
    kq_error err;
    kq_prompt *out = kq_calloc(n, sizeof *out);
    *ids = out;
    *n_ids = n;
    if (!out) {
        kq_fail(&err, KQ_E_MEMORY, "out of memory: a request's tokens");
        *sent = send_kq_error(c, &err, NULL);
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        kq_status st = KQ_OK;
        char *chat = NULL;
        if (r->n_message && !(st = render(tok, r, &chat, &err)))
            st = kq_tokenizer_encode(tok, chat, strlen(chat), false, true, &out[i].ids, &out[i].n, &err); /* the template writes the beginning token */
        else if (!st && r->prompt[i].text)
            st = kq_tokenizer_encode(tok, r->prompt[i].text, r->prompt[i].size, r->add_special_tokens, true, &out[i].ids, &out[i].n, &err);
        else if (!st && (out[i].ids = kq_alloc(r->prompt[i].n, sizeof *out[i].ids))) {
            out[i].n = r->prompt[i].n;
            memcpy(out[i].ids, r->prompt[i].ids, out[i].n * sizeof *out[i].ids);
        } else if (!st)
            st = kq_fail(&err, KQ_E_MEMORY, "out of memory: a request's tokens");
        kq_free(chat);
        if (st) {
            *sent = send_kq_error(c, &err, r->n_message ? "messages" : "prompt");
            return false;
        }
    }
    return true;
}

static void free_prompts(kq_prompt *p, size_t n)
{
    for (size_t i = 0; p && i < n; i++)
        kq_free(p[i].ids);
    kq_free(p);
}

static enum MHD_Result tokenize(call *c, kq_api_request *r)
{
    kq_prompt *p = NULL;
    size_t n = 0;
    enum MHD_Result sent = MHD_NO;
    if (encode(c, r, &p, &n, &sent)) {
        json_t *tokens = json_array(), *strings = r->return_token_strs ? json_array() : json_null();
        for (size_t i = 0; i < p->n; i++) {
            json_array_append_new(tokens, json_integer(p->ids[i]));
            if (r->return_token_strs) {
                char *key = kq_token_key(c->server->tok, p->ids[i]);
                json_array_append_new(strings, key ? json_string(key) : json_null());
                kq_free(key);
            }
        }
        sent = send_json(c, 200, json_pack("{s:I, s:I, s:o, s:o}", "count", (json_int_t)p->n, "max_model_len", (json_int_t)c->server->limits.context, "tokens", tokens,
                                           "token_strs", strings));
    }
    free_prompts(p, n);
    return sent;
}

static enum MHD_Result detokenize(call *c, const kq_api_request *r)
{
    char *text = NULL;
    size_t n = 0;
    kq_error err;
    if (kq_tokenizer_decode(c->server->tok, r->prompt->ids, r->prompt->n, false, &text, &n, &err))
        return send_kq_error(c, &err, "tokens");
    /* ids need not make whole characters */
    char *const none[1] = {NULL};
    json_t *j = NULL;
    kq_text t = {.before = -1};
    if (!kq_text_bytes(&t, text, n, &err) && !kq_text_end(&t, none, 0, &err))
        j = json_pack("{s:o}", "prompt", json_stringn_nocheck(t.data ? t.data : "", t.size));
    kq_text_clear(&t);
    kq_free(text);
    return send_json(c, 200, j);
}

/* ---- completions ---- */

static void resume(void *ctx) { MHD_resume_connection(((call *)ctx)->connection); }

/* Append one event to what waits to be sent. */
static bool add_event(call *c, json_t *j)
{
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    if (!text)
        return false;
    const size_t n = strlen(text) + 8;
    char *grown = realloc(c->out, c->out_size + n + 1);
    if (grown) {
        c->out = grown;
        c->out_size += (size_t)snprintf(grown + c->out_size, n + 1, "data: %s\n\n", text);
    }
    free(text);
    return grown != NULL;
}

/* libmicrohttpd asks for the next bytes of a stream. */
static ssize_t stream_bytes(void *ctx, uint64_t pos, char *buf, size_t max)
{
    (void)pos;
    call *c = ctx;
    kq_query *j = c->job;
    if (c->out_at == c->out_size) {
        if (c->closed)
            return MHD_CONTENT_READER_END_OF_STREAM;
        c->out_at = c->out_size = 0;
        bool ok = true;
        kq_batch_lock(c->server->batch);
        for (size_t i = 0; i < j->n_seq && ok; i++)
            for (bool none = false; ok && !none;) {
                json_t *part = kq_answer_part(&c->answer, j, &j->seq[i], &none);
                ok = none || add_event(c, part);
            }
        if (ok && j->done) {
            if (j->failed || j->cancelled) {
                kq_api_error e = j->error;
                if (!j->failed)
                    kq_api_fail(&e, 503, NULL, "cancelled", "the request was cancelled");
                ok = add_event(c, kq_answer_error(&e));
            } else if (j->request.include_usage) {
                ok = add_event(c, kq_answer_usage_part(&c->answer, j));
            }
            char *grown = realloc(c->out, c->out_size + 16);
            ok = ok && grown;
            c->out = grown ? grown : c->out;
            if (ok)
                c->out_size += (size_t)snprintf(c->out + c->out_size, 16, "data: [DONE]\n\n");
            c->closed = true;
        } else if (ok && !c->out_size) {
            j->parked = true;
            MHD_suspend_connection(c->connection);
        }
        kq_batch_unlock(c->server->batch);
        if (!ok)
            return MHD_CONTENT_READER_END_WITH_ERROR;
    }
    const size_t n = c->out_size - c->out_at < max ? c->out_size - c->out_at : max;
    if (n)
        memcpy(buf, c->out + c->out_at, n);
    c->out_at += n;
    return (ssize_t)n;
}

static enum MHD_Result start_stream(call *c)
{
    struct MHD_Response *r = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 1 << 14, stream_bytes, c, NULL);
    if (!r)
        return MHD_NO;
    MHD_add_response_header(r, "Content-Type", "text/event-stream; charset=utf-8");
    MHD_add_response_header(r, "Cache-Control", "no-cache");
    MHD_add_response_header(r, "X-Accel-Buffering", "no"); /* proxies: pass events on as they come */
    c->status = 200;
    c->answered = true;
    enum MHD_Result sent = MHD_queue_response(c->connection, 200, r);
    MHD_destroy_response(r);
    return sent;
}

/* The job is done: answer. */
static enum MHD_Result finish(call *c)
{
    kq_batch_lock(c->server->batch);
    kq_query *j = c->job;
    kq_api_error e = j->error;
    const bool answer = !j->failed && !j->cancelled;
    json_t *body = answer ? kq_answer_whole(&c->answer, j) : NULL;
    kq_batch_unlock(c->server->batch);
    if (answer)
        return send_json(c, 200, body);
    if (!j->failed)
        kq_api_fail(&e, 503, NULL, "cancelled", "the request was cancelled");
    return send_error(c, &e);
}

/* Is there room for what is asked? */
static bool fits(const kq_server *s, const kq_query *j, kq_api_error *e)
{
    const char *param = j->request.api == KQ_API_CHAT ? "messages" : "prompt";
    for (size_t i = 0; i < j->n_prompt; i++) {
        const size_t n = j->prompt[i].n, asked = j->request.max_tokens;
        if (!n)
            return kq_api_fail(e, 400, param, "invalid_value", "'%s' has no tokens; at least one is needed", param);
        if (n > s->limits.context || (asked != SIZE_MAX && asked > s->limits.context - n) || (asked == SIZE_MAX && n == s->limits.context))
            return kq_api_fail(e, 400, asked == SIZE_MAX || n > s->limits.context ? param : "max_tokens", "context_length_exceeded",
                               "This model's maximum context length is %zu tokens; the prompt has %zu and %zu are asked for.", s->limits.context, n, asked == SIZE_MAX ? 1 : asked);
        for (size_t t = 0; t < n; t++)
            if (j->prompt[i].ids[t] < 0 || (size_t)j->prompt[i].ids[t] >= s->limits.vocab_size)
                return kq_api_fail(e, 400, param, "invalid_value", "a token of '%s' is not in the model's vocabulary", param);
    }
    return true;
}

/* Stop strings that are one special token have no text to be found in: they become stop tokens. */
static void special_stops(const kq_tokenizer *tok, kq_api_request *r)
{
    for (size_t i = 0; i < r->n_stop && r->n_stop_id < KQ_API_MAX_STOP; i++) {
        int32_t id = kq_tokenizer_id(tok, r->stop[i]);
        char *text = NULL;
        size_t n = 1;
        if (id >= 0 && !kq_tokenizer_decode(tok, &id, 1, true, &text, &n, NULL) && n == 0)
            r->stop_id[r->n_stop_id++] = id;
        kq_free(text);
    }
}

static enum MHD_Result complete(call *c, kq_api_request *r)
{
    kq_server *s = c->server;
    kq_api_error e;
    enum MHD_Result sent = MHD_NO;
    kq_query *j = kq_query_new();
    if (!j) {
        kq_api_fail(&e, 503, NULL, "out_of_memory", "out of memory; try again later");
        return send_error(c, &e);
    }
    c->job = j;
    j->request = *r;
    *r = (kq_api_request){0};
    r = &j->request;
    if (!r->has_seed && getrandom(&r->sampling.seed, sizeof r->sampling.seed, 0) != sizeof r->sampling.seed)
        r->sampling.seed = (uint64_t)(kq_now_s() * 1e9);
    if (!encode(c, r, &j->prompt, &j->n_prompt, &sent))
        return sent;
    if (!fits(s, j, &e))
        return send_error(c, &e);
    special_stops(s->tok, r);
    j->score_prompt = r->echo && r->logprobs;
    j->deadline_s = s->opt.request_s > 0 ? c->start_s + s->opt.request_s : 0;
    j->wake = resume;
    j->wake_ctx = c;
    pthread_mutex_lock(&s->lock);
    const bool draining = s->draining;
    snprintf(c->answer.id, sizeof c->answer.id, "%s-%016llx%08llx", r->api == KQ_API_CHAT ? "chatcmpl" : "cmpl", (unsigned long long)s->id_key, (unsigned long long)++s->n_ids);
    pthread_mutex_unlock(&s->lock);
    c->answer.tok = s->tok;
    c->answer.model = s->limits.model;
    c->answer.created = (int64_t)time(NULL);
    if (draining ? !kq_api_fail(&e, 503, NULL, "shutting_down", "the server is shutting down") : !kq_batch_submit(s->batch, j, &e))
        return send_error(c, &e);
    pthread_mutex_lock(&s->lock);
    if (c->client) {
        c->client->job = j; /* the call's reference outlives this */
    }
    pthread_mutex_unlock(&s->lock);
    if (r->stream)
        return start_stream(c);
    kq_batch_lock(s->batch);
    const bool wait = !j->done;
    if (wait) {
        j->parked = true;
        MHD_suspend_connection(c->connection);
    }
    kq_batch_unlock(s->batch);
    return wait ? MHD_YES : finish(c);
}

static enum MHD_Result post(call *c)
{
    kq_api_request r;
    kq_api_error e;
    const kq_api api = (kq_api)c->path; /* the first four are the four */
    enum MHD_Result sent;
    if (!kq_api_parse(api, c->body ? c->body : "", c->size, &c->server->limits, &r, &e))
        return send_error(c, &e);
    kq_free(c->body);
    c->body = NULL;
    sent = api == KQ_API_TOKENIZE ? tokenize(c, &r) : api == KQ_API_DETOKENIZE ? detokenize(c, &r) : complete(c, &r);
    kq_api_request_clear(&r);
    return sent;
}

/* ---- requests arriving ---- */

static path find_path(const char *url, char *model, size_t cap)
{
    for (int p = 0; p < P_OTHER; p++)
        if (p != P_MODEL && !strcmp(url, path_name[p]))
            return (path)p;
    if (!strncmp(url, "/v1/models/", 11) && url[11]) {
        snprintf(model, cap, "%s", url + 11);
        return P_MODEL;
    }
    return P_OTHER;
}

/* Compare without telling by the time it takes where they differ. */
static bool same_key(const char *a, const char *b)
{
    const size_t n = strlen(a), m = strlen(b);
    volatile unsigned char diff = n != m;
    for (size_t i = 0; i < m; i++)
        diff |= (unsigned char)(a[i % (n + 1)] ^ b[i]);
    return !diff;
}

static void check_header(call *c, const char *url, const char *method)
{
    kq_server *s = c->server;
    const char *auth = MHD_lookup_connection_value(c->connection, MHD_HEADER_KIND, "Authorization");
    const char *type = MHD_lookup_connection_value(c->connection, MHD_HEADER_KIND, "Content-Type");
    const bool get_path = c->path > P_DETOKENIZE;
    if (s->opt.api_key && c->path != P_HEALTH && (!auth || strncasecmp(auth, "Bearer ", 7) || !same_key(auth + 7, s->opt.api_key)))
        c->failed = !kq_api_fail(&c->error, 401, NULL, "invalid_api_key", "%s", auth ? "Incorrect API key provided." : "You didn't provide an API key: Authorization: Bearer KEY");
    else if (c->path == P_OTHER)
        c->failed = !kq_api_fail(&c->error, 404, NULL, "unknown_url", "Unknown request URL: %.10s %.200s", method, url);
    else if (get_path ? strcmp(method, "GET") && strcmp(method, "HEAD") : strcmp(method, "POST"))
        c->failed = !kq_api_fail(&c->error, 405, NULL, "method_not_supported", "%s answers %s only", path_name[c->path], get_path ? "GET" : "POST");
    /* Asking for JSON by name also keeps web pages of other origins from posting to a server on the same machine without the browser's asking first. */
    else if (!get_path && (!type || strncasecmp(type, "application/json", 16) || (type[16] && !strchr("; \t", type[16]))))
        c->failed = !kq_api_fail(&c->error, 415, NULL, "unsupported_media_type", "Content-Type must be application/json");
}

static enum MHD_Result too_large(call *c)
{
    kq_api_error e;
    kq_api_fail(&e, 413, NULL, "request_too_large", "The body has more than the %zu bytes that are taken.", c->server->opt.max_body);
    return send_error(c, &e);
}

/* Keep what has come of the body. False: nothing more is wanted from this client. */
static bool take(call *c, const char *data, size_t n)
{
    if (c->failed || c->too_large || n > c->server->opt.max_body - c->size) {
        c->too_large = c->too_large || !c->failed;
        c->size += n;
        return c->size < DRAIN_BYTES;
    }
    if (c->size + n > c->cap) {
        size_t cap = 2 * (c->size + n);
        cap = cap < c->server->opt.max_body ? cap : c->server->opt.max_body;
        char *bigger = kq_alloc(cap, 1);
        if (!bigger)
            return false;
        if (c->size)
            memcpy(bigger, c->body, c->size);
        kq_free(c->body);
        c->body = bigger;
        c->cap = cap;
    }
    memcpy(c->body + c->size, data, n);
    c->size += n;
    return true;
}

static enum MHD_Result on_request(void *ctx, struct MHD_Connection *connection, const char *url, const char *method, const char *version, const char *data, size_t *size,
                                  void **state)
{
    kq_server *s = ctx;
    call *c = *state;
    (void)version;
    if (!c) {
        if (!(c = kq_calloc(1, sizeof *c)))
            return MHD_NO;
        *state = c;
        c->server = s;
        c->connection = connection;
        c->start_s = kq_now_s();
        snprintf(c->method, sizeof c->method, "%.7s", method);
        c->path = find_path(url, c->model_asked, sizeof c->model_asked);
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
        c->client = info ? info->socket_context : NULL;
        pthread_mutex_lock(&s->lock);
        s->calls++;
        if (c->client && c->client->since > 0)
            c->start_s = c->client->since; /* the first byte, not the end of the header */
        else if (c->client)
            c->client->since = c->start_s;
        pthread_mutex_unlock(&s->lock);
        check_header(c, url, method);
        const char *length = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Content-Length");
        if (length && strtoull(length, NULL, 10) > DRAIN_BYTES)
            return c->failed ? send_error(c, &c->error) : too_large(c);
        return MHD_YES;
    }
    if (*size) {
        const bool more = take(c, data, *size);
        *size = 0;
        return more ? MHD_YES : MHD_NO;
    }
    if (c->answered)
        return MHD_YES;
    if (c->job) /* resumed */
        return finish(c);
    c->arrived = true;
    pthread_mutex_lock(&s->lock);
    if (c->client)
        c->client->since = 0;
    pthread_mutex_unlock(&s->lock);
    return c->failed ? send_error(c, &c->error) : c->too_large ? too_large(c) : c->path <= P_DETOKENIZE ? post(c) : get(c);
}

static void on_completed(void *ctx, struct MHD_Connection *connection, void **state, enum MHD_RequestTerminationCode how)
{
    kq_server *s = ctx;
    call *c = *state;
    (void)connection;
    if (!c)
        return;
    const double seconds = kq_now_s() - c->start_s;
    double first = -1;
    size_t made = 0;
    if (c->job) {
        kq_batch_cancel(c->job); /* a job that is done stays done */
        kq_batch_lock(s->batch);
        c->job->parked = false; /* nobody is there to be woken */
        first = c->job->first_s > 0 ? c->job->first_s - c->start_s : -1;
        for (size_t i = 0; i < c->job->n_seq; i++)
            made += c->job->seq[i].n_made;
        kq_batch_unlock(s->batch);
    }
    pthread_mutex_lock(&s->lock);
    if (c->client) {
        c->client->job = NULL;
        c->client->since = 0;
    }
    pthread_mutex_unlock(&s->lock);
    const int status = how == MHD_REQUEST_TERMINATED_COMPLETED_OK ? c->status : 0;
    kq_metrics_answer(&s->metrics, c->path, status, seconds, first);
    if (s->opt.log) {
        char line[256];
        snprintf(line, sizeof line, "%s %s %d %.0f ms, %zu tokens%s", c->method, path_name[c->path], c->status, 1e3 * seconds, made, status ? "" : " (the client left)");
        s->opt.log(s->opt.log_ctx, line);
    }
    kq_query_release(s->batch, c->job);
    kq_free(c->body);
    free(c->out);
    kq_free(c);
    *state = NULL;
    pthread_mutex_lock(&s->lock);
    s->calls--;
    pthread_mutex_unlock(&s->lock);
}

/* ---- the watcher ---- */

static void on_connection(void *ctx, struct MHD_Connection *connection, void **state, enum MHD_ConnectionNotificationCode what)
{
    kq_server *s = ctx;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        client *c = info ? kq_calloc(1, sizeof *c) : NULL;
        *state = c;
        if (!c)
            return;
        c->fd = info->connect_fd;
        c->since = kq_now_s();
        pthread_mutex_lock(&s->lock);
        c->next = s->clients;
        if (c->next)
            c->next->before = c;
        s->clients = c;
        pthread_mutex_unlock(&s->lock);
    } else if (*state) {
        client *c = *state;
        pthread_mutex_lock(&s->lock);
        *(c->before ? &c->before->next : &s->clients) = c->next;
        if (c->next)
            c->next->before = c->before;
        pthread_mutex_unlock(&s->lock);
        kq_free(c);
        *state = NULL;
    }
}

/* A suspended connection is not watched by libmicrohttpd, and a client that sends one byte a second is never idle: both are looked for here. A file
 * descriptor is closed only after on_connection took its client out of the list, so that the lock makes it safe to use. */
static void *watch(void *ctx)
{
    kq_server *s = ctx;
    for (;;) {
        const double now = kq_now_s();
        pthread_mutex_lock(&s->lock);
        if (s->stop)
            break;
        for (client *c = s->clients; c; c = c->next) {
            struct pollfd p = {.fd = c->fd, .events = POLLRDHUP};
            if (c->since > 0 && now - c->since > s->opt.receive_s)
                shutdown(c->fd, SHUT_RDWR);
            if (c->job && !c->left && poll(&p, 1, 0) > 0 && p.revents & (POLLRDHUP | POLLHUP | POLLERR)) {
                c->left = true;
                kq_batch_cancel(c->job);
            }
        }
        pthread_mutex_unlock(&s->lock);
        usleep(WATCH_MS * 1000);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* ---- start and stop ---- */

static void quiet_log(void *ctx, const char *format, va_list args)
{
    (void)ctx;
    (void)format;
    (void)args; /* libmicrohttpd's remarks on clients that break off; what matters comes back as a result */
}

static kq_status address(const kq_serve_options *opt, struct sockaddr_storage *out, kq_error *err)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *list = NULL;
    char port[16];
    snprintf(port, sizeof port, "%u", opt->port);
    int rc = getaddrinfo(opt->host, port, &hints, &list);
    if (rc)
        return kq_fail(err, KQ_E_IO, "--host %.200s: %s", opt->host, gai_strerror(rc));
    memcpy(out, list->ai_addr, list->ai_addrlen);
    freeaddrinfo(list);
    return KQ_OK;
}

kq_status kq_server_start(const kq_serve_options *opt, kq_stepper stepper, const kq_config *cfg, const kq_tokenizer *tok, const kq_kern *kern, kq_server **out, kq_error *err)
{
    struct sockaddr_storage where = {0};
    kq_status st = address(opt, &where, err);
    *out = NULL;
    kq_server *s = st ? NULL : kq_calloc(1, sizeof *s);
    if (!s)
        return st ? st : kq_fail(err, KQ_E_MEMORY, "out of memory: the server");
    s->opt = *opt;
    s->tok = tok;
    s->limits = (kq_api_limits){.model = opt->model_name, .model_path = opt->model_path, .vocab_size = stepper.vocab_size, .context = stepper.max_T, .max_choices = opt->max_choices};
    if (getrandom(&s->id_key, sizeof s->id_key, 0) < 0)
        s->id_key = (uint64_t)time(NULL);
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->metrics.lock, NULL);
    const kq_batch_options bo = {.stepper = stepper, .tok = tok, .cfg = cfg, .kern = kern, .rows = KQ_ENGINE_ROWS, .max_jobs = opt->max_jobs};
    if ((st = kq_batch_new(&bo, &s->batch, err)))
        goto fail;
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC | MHD_USE_ERROR_LOG;
    if (where.ss_family == AF_INET6)
        flags |= MHD_USE_IPv6;
    s->daemon = MHD_start_daemon(flags, (uint16_t)opt->port, NULL, NULL, on_request, s, MHD_OPTION_EXTERNAL_LOGGER, quiet_log, NULL, MHD_OPTION_SOCK_ADDR, (struct sockaddr *)&where,
                                 MHD_OPTION_NOTIFY_COMPLETED, on_completed, s, MHD_OPTION_NOTIFY_CONNECTION, on_connection, s, MHD_OPTION_THREAD_POOL_SIZE, (unsigned)HTTP_THREADS,
                                 MHD_OPTION_CONNECTION_LIMIT, (unsigned)opt->max_connections, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)(opt->idle_s + 0.5),
                                 MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)(64 << 10), MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, MHD_OPTION_LISTENING_ADDRESS_REUSE, 1u, MHD_OPTION_END);
    if (!s->daemon) {
        st = kq_fail(err, KQ_E_IO, "cannot listen on %.200s port %u (is it taken?)", opt->host, opt->port);
        goto fail;
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_BIND_PORT);
    s->port = info ? info->port : opt->port;
    if (pthread_create(&s->watcher, NULL, watch, s)) {
        MHD_stop_daemon(s->daemon);
        st = kq_fail(err, KQ_E_MEMORY, "cannot start a thread");
        goto fail;
    }
    *out = s;
    return KQ_OK;
fail:
    kq_batch_free(s->batch);
    pthread_mutex_destroy(&s->metrics.lock);
    pthread_mutex_destroy(&s->lock);
    kq_free(s);
    return st;
}

unsigned kq_server_port(const kq_server *s) { return s->port; }

static size_t calls_at_work(kq_server *s)
{
    pthread_mutex_lock(&s->lock);
    const size_t n = s->calls;
    pthread_mutex_unlock(&s->lock);
    return n;
}

bool kq_server_stop(kq_server *s, bool (*hurry)(void *ctx), void *ctx)
{
    if (!s)
        return true;
    pthread_mutex_lock(&s->lock);
    s->draining = true;
    pthread_mutex_unlock(&s->lock);
    const int listening = MHD_quiesce_daemon(s->daemon); /* no new connections; those that are open are served on */
    const double start = kq_now_s();
    while (calls_at_work(s) && kq_now_s() - start < s->opt.drain_s && !(hurry && hurry(ctx)))
        usleep(20000);
    const bool all = calls_at_work(s) == 0;
    pthread_mutex_lock(&s->lock); /* those that are still at work learn that they are cancelled */
    for (client *c = s->clients; c; c = c->next)
        if (c->job)
            kq_batch_cancel(c->job);
    pthread_mutex_unlock(&s->lock);
    /* a step of the model has to end first, however long it takes: a suspended connection cannot be closed */
    for (double t = kq_now_s(); calls_at_work(s) && (kq_now_s() - t < 5 || kq_batch_statistics(s->batch).jobs);)
        usleep(20000);
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->watcher, NULL);
    MHD_stop_daemon(s->daemon);
    if (listening >= 0)
        close(listening);
    kq_batch_free(s->batch);
    pthread_mutex_destroy(&s->metrics.lock);
    pthread_mutex_destroy(&s->lock);
    kq_free(s);
    return all;
}
