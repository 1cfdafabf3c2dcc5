/* HTTP in front of the scheduler, on libmicrohttpd. Its threads never wait: a connection whose request is
 * being prepared (work.h) or answered (batch.h) is suspended, and whoever has something for it resumes it.
 * Connections come from the door (door.h), which has seen that the head of their first request is whole and
 * in order, and which handles clients that are slow, idle or gone.
 *
 * Locks: the batch's (queries and what readers see of them), the door's (its connections), this file's
 * (calls, draining, ids), those of work.c (its queues) and metrics.c (its counters). Only the last two are
 * taken inside another: work.c's inside the batch's (on_news), metrics.c's inside the door's (on_refused). */
#include "serve/serve.h"

#include <errno.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/locale.h"
#include "base/mem.h"
#include "base/options.h"
#include "base/time.h"
#include "serve/answer.h"
#include "serve/door.h"
#include "request/head.h"
#include "serve/metrics.h"
#include "serve/prepare.h"
#include "serve/work.h"

enum {
    /* of a body that is too large: read and thrown away, so that the client reads why */
    DRAIN_BYTES = 1 << 26,
    HTTP_THREADS = 2,
    SMALL_BODY = 64 << 10,   /* bytes of a request that never waits for a larger one */
    SMALL_ANSWER = 64 << 10, /* numbers in an answer that never waits for a larger one */
    OWN_FILES = 64           /* file descriptors that are no connections */
};

typedef enum path {
    P_COMPLETIONS = 0,
    P_CHAT,
    P_TOKENIZE,
    P_DETOKENIZE,
    P_MODELS,
    P_MODEL,
    P_HEALTH,
    P_METRICS,
    P_TOKENIZER_INFO,
    P_OTHER
} path;
static const char *const path_name[KQ_METRIC_PATHS] = {"/v1/completions", "/v1/chat/completions",
                                                       "/tokenize",       "/detokenize",
                                                       "/v1/models",      "/v1/models/{model}",
                                                       "/health",         "/metrics",
                                                       "/tokenizer_info", "other"};

struct kq_server {
    kq_serve_options opt;
    kq_api_limits limits;
    const kq_tokenizer *tok;
    kq_batch *batch;
    kq_work *work;
    kq_door *door;
    struct MHD_Daemon *daemon;
    bool own_names_only; /* requests must name this server in Host */
    kq_metrics metrics;
    pthread_mutex_t lock; /* calls, draining, ids */
    size_t calls;         /* requests that have begun and not been answered */
    bool draining;
    bool *busy; /* NULL, or what becomes false when the server has ended */
    uint64_t id_key, n_ids;
};

/* What a request waits for, or what it has got. */
typedef enum stage { ARRIVES = 0, PREPARES, REFUSED, HAS_REPLY, STREAMS, ANSWERS } stage;

/* One request, from its head to the last byte of its answer. */
typedef struct call {
    kq_work_item work; /* first: a piece of work is its call */
    kq_server *server;
    struct MHD_Connection *connection;
    path path;
    char method[8];
    double start_s;
    char *body;
    size_t size, cap; /* owned */
    bool too_large, answered;
    /* found in the head, and answered after the body has come; or found while preparing */
    kq_api_error error;
    bool failed;
    /* changed by whoever is to resume the connection, before it does */
    stage stage;
    kq_query *query; /* one reference */
    char *reply;     /* owned (malloc): the answer, JSON */
    kq_answer_context answer;
    kq_guest *guest; /* borrowed */
    int status;
    /* stream */
    kq_buffer events;                   /* owned: events on their way */
    size_t events_sent;                 /* bytes of them */
    bool closed;                        /* the last event is among them */
    char model_asked[260], origin[260]; /* origin: the page that asks, when it may; "" */
} call;

void kq_serve_options_init(kq_serve_options *opt, size_t size)
{
    const kq_serve_options defaults = {.host = "127.0.0.1",
                                       .port = 8080,
                                       .max_body = 4u << 20,
                                       .max_choices = 128,
                                       .max_jobs = 256,
                                       .max_connections = 1024,
                                       .max_per_address = 512,
                                       .sampling = {.temperature = 1, .top_p = 1},
                                       .receive_s = 30,
                                       .request_s = 600,
                                       .idle_s = 60,
                                       .drain_s = 30};
    kq_options_fill(opt, size, &defaults, sizeof defaults);
}

/* ---- answers ---- */

/* Web pages of the origins that were allowed may read answers (the Fetch standard's CORS protocol). */
static void add_origin(const call *c, struct MHD_Response *r)
{
    if (c->server->opt.n_cors)
        MHD_add_response_header(r, "Vary", "Origin");
    if (*c->origin)
        MHD_add_response_header(r, "Access-Control-Allow-Origin", c->origin);
}

static enum MHD_Result send_bytes(call *c, int status, char *bytes, size_t size, const char *type)
{
    struct MHD_Response *r =
        bytes ? MHD_create_response_from_buffer(size, bytes, MHD_RESPMEM_MUST_FREE) : NULL;
    if (!r) {
        free(bytes);
        return MHD_NO;
    }
    MHD_add_response_header(r, "Content-Type", type);
    MHD_add_response_header(r, "Cache-Control", "no-store");
    add_origin(c, r);
    if (status == 429 || status == 503)
        MHD_add_response_header(r, "Retry-After", "1");
    if (status == 401)
        MHD_add_response_header(r, "WWW-Authenticate", "Bearer");
    if (status == 405)
        MHD_add_response_header(r, "Allow", c->path <= P_DETOKENIZE ? "OPTIONS, POST" : "GET, HEAD, OPTIONS");
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
        text = strdup("{\"error\":{\"message\":\"out of memory; try again "
                      "later\",\"type\":\"server_error\",\"param\":null,\"code\":\"out_of_memory\"}}");
        status = 503;
    }
    return send_bytes(c, status, text, text ? strlen(text) : 0, "application/json");
}

static enum MHD_Result send_error(call *c, const kq_api_error *e)
{
    return send_json(c, e->http, kq_answer_error(e));
}

/* What a browser asks before it lets a page of another origin post, and what anybody asks who wants to
 * know the methods. */
static enum MHD_Result send_options(call *c)
{
    const char *asked =
        MHD_lookup_connection_value(c->connection, MHD_HEADER_KIND, "Access-Control-Request-Headers");
    const bool post = c->path <= P_DETOKENIZE;
    struct MHD_Response *r = MHD_create_response_from_buffer(0, (void *)"", MHD_RESPMEM_PERSISTENT);
    if (!r)
        return MHD_NO;
    MHD_add_response_header(r, "Allow", post ? "OPTIONS, POST" : "GET, HEAD, OPTIONS");
    add_origin(c, r);
    if (*c->origin) {
        MHD_add_response_header(r, "Access-Control-Allow-Methods", post ? "POST" : "GET, HEAD");
        MHD_add_response_header(r, "Access-Control-Allow-Headers",
                                asked ? asked : "Authorization, Content-Type, X-Api-Key");
        MHD_add_response_header(r, "Access-Control-Max-Age", "600");
        if (MHD_lookup_connection_value(c->connection, MHD_HEADER_KIND,
                                        "Access-Control-Request-Private-Network"))
            MHD_add_response_header(r, "Access-Control-Allow-Private-Network", "true");
    }
    c->status = 204;
    c->answered = true;
    enum MHD_Result sent = MHD_queue_response(c->connection, 204, r);
    MHD_destroy_response(r);
    return sent;
}

/* ---- the simple paths ---- */

static json_t *model_json(const kq_server *s)
{
    return json_pack("{s:s, s:s, s:i, s:s, s:I}", "id", s->limits.model, "object", "model", "created", 0,
                     "owned_by", "kronq", "max_model_len", (json_int_t)s->limits.context);
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
        return send_json(c, draining ? 503 : 200,
                         json_pack("{s:s}", "status", draining ? "shutting down" : "ok"));
    }
    case P_MODELS:
        return send_json(c, 200, json_pack("{s:s, s:[o]}", "object", "list", "data", model_json(s)));
    case P_MODEL:
        if (!kq_api_model_known(&s->limits, c->model_asked)) {
            kq_api_fail(&e, 404, "model", "model_not_found",
                        "The model '%.100s' does not exist; this server has '%.100s'.", c->model_asked,
                        s->limits.model);
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
        return send_json(c, 200,
                         json_pack("{s:s, s:o, s:o, s:s?, s:I, s:I}", "tokenizer_class",
                                   "PreTrainedTokenizerFast", "bos_token",
                                   token_json(s->tok, kq_tokenizer_bos(s->tok)), "eos_token",
                                   token_json(s->tok, kq_tokenizer_eos(s->tok)), "chat_template", template,
                                   "vocab_size", (json_int_t)kq_tokenizer_vocab_size(s->tok),
                                   "model_max_length", (json_int_t)s->limits.context));
    }
    }
}

/* ---- preparing, on a thread of its own ---- */

/* Takes the reference of j. False with c->error. */
static bool reply_json(call *c, json_t *j)
{
    c->reply = j ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    return c->reply || kq_api_no_memory(&c->error);
}

/* The answer of /tokenize: written by hand, as there may be millions of ids. */
static bool reply_tokens(call *c, const kq_prompt *p)
{
    const bool names = c->query->request.return_token_strs;
    size_t size = 0;
    FILE *f = open_memstream(&c->reply, &size);
    if (!f)
        return kq_api_no_memory(&c->error);
    fprintf(f, "{\"count\":%zu,\"max_model_len\":%zu,\"tokens\":[", p->n, c->server->limits.context);
    for (size_t i = 0; i < p->n; i++)
        fprintf(f, i ? ",%d" : "%d", p->ids[i]);
    fputs(names ? "],\"token_strs\":[" : "],\"token_strs\":null}", f);
    for (size_t i = 0; names && i < p->n; i++) {
        char *key = kq_token_key(c->server->tok, p->ids[i]);
        json_t *j = key ? json_string(key) : NULL;
        if (i)
            fputc(',', f);
        if (!j || json_dumpf(j, f, JSON_ENCODE_ANY))
            fputs("null", f);
        json_decref(j);
        kq_free(key);
    }
    if (names)
        fputs("]}", f);
    const bool failed = ferror(f);
    return (!fclose(f) && !failed) || kq_api_no_memory(&c->error);
}

/* Submit the query, which is ready. False with c->error. *woken: the model resumes the connection, or has
 * already; c may then be gone. */
static bool submit(call *c, bool *woken)
{
    kq_server *s = c->server;
    kq_query *j = c->query;
    kq_api_request *r = &j->request;
    kq_query_stops(s->tok, r);
    j->score_prompt = r->echo && r->logprobs;
    if (!r->has_seed && getrandom(&r->sampling.seed, sizeof r->sampling.seed, 0) != sizeof r->sampling.seed)
        r->sampling.seed = (uint64_t)(kq_now_s() * 1e9);
    pthread_mutex_lock(&s->lock);
    const bool draining = s->draining;
    snprintf(c->answer.id, sizeof c->answer.id, "%s-%016llx%08llx",
             r->api == KQ_API_CHAT ? "chatcmpl" : "cmpl", (unsigned long long)s->id_key,
             (unsigned long long)++s->n_ids);
    pthread_mutex_unlock(&s->lock);
    c->answer.tok = s->tok;
    c->answer.model = s->limits.model;
    c->answer.created = (int64_t)time(NULL);
    c->stage = r->stream ? STREAMS : ANSWERS; /* before the model may wake the connection */
    j->parked = *woken = !r->stream;
    if (draining)
        return kq_api_fail(&c->error, 503, NULL, "shutting_down", "the server is shutting down");
    return kq_batch_submit(s->batch, j, &c->error);
}

/* Everything before the model. False with c->error. *woken: as submit. */
static bool prepare(call *c, bool *woken)
{
    kq_server *s = c->server;
    kq_query *j = c->query;
    kq_api_request *r = &j->request;
    const kq_api api = (kq_api)c->path; /* the first four paths are the four APIs, in their order */
    if (!kq_query_in_time(j, &c->error) ||
        !kq_api_parse(api, c->body ? c->body : "", c->size, &s->limits, r, &c->error))
        return false;
    kq_free(c->body);
    c->body = NULL;
    c->stage = HAS_REPLY;
    if (api == KQ_API_DETOKENIZE) {
        size_t n = 0;
        char *text = kq_prompt_text(s->tok, r->prompt->ids, r->prompt->n, &n);
        json_t *reply = text ? json_pack("{s:s%}", "prompt", text, n) : NULL;
        kq_free(text);
        return reply_json(c, reply);
    }
    if (!kq_query_prepare(s->tok, j, r->echo && r->logprobs ? s->limits.context : 0, &c->error))
        return false;
    if (api == KQ_API_TOKENIZE)
        return reply_tokens(c, j->prompt);
    return kq_query_fits(&s->limits, j, &c->error) && submit(c, woken);
}

/* Write down the answer of a query that is done: no other thread changes it any more. False with c->error. */
static bool render(call *c)
{
    const kq_query *j = c->query;
    c->stage = HAS_REPLY;
    if (!j->failed && !j->cancelled)
        return reply_json(c, kq_answer_whole(&c->answer, j));
    c->error = j->error;
    return j->failed ? false : kq_api_fail(&c->error, 503, NULL, "cancelled", "the request was cancelled");
}

static void work_on(void *ctx, kq_work_item *item)
{
    KQ_C_LOCALE; /* numbers of a chat template */
    (void)ctx;
    call *c = (call *)item;
    bool woken = false;
    if (!(c->stage == ANSWERS ? render(c) : prepare(c, &woken))) {
        c->query->parked = woken = false;
        c->stage = REFUSED;
    }
    if (!woken)
        MHD_resume_connection(c->connection);
}

/* ---- completions ---- */

/* How many tokens, and numbers beside them, the answer of a query that is done shows. */
static size_t answer_numbers(const kq_query *j)
{
    size_t n = 0;
    for (size_t i = 0; i < j->n_seq; i++)
        n += j->seq[i].n_made + j->seq[i].n_score * (2 + (size_t)j->request.n_top);
    return n;
}

/* The model has news for the call: events to send, or the whole answer to write down. */
static void on_news(void *ctx)
{
    call *c = ctx;
    if (c->stage == STREAMS)
        MHD_resume_connection(c->connection);
    else
        kq_work_add(c->server->work, &c->work, answer_numbers(c->query) <= SMALL_ANSWER);
}

/* Append one event to what waits to be sent. Takes the reference of j. False: out of memory. */
static bool add_event(call *c, json_t *j)
{
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    const bool ok = text && !kq_buffer_add(&c->events, "data: ", 6, NULL) &&
                    !kq_buffer_add(&c->events, text, strlen(text), NULL) &&
                    !kq_buffer_add(&c->events, "\n\n", 2, NULL);
    free(text);
    return ok;
}

/* The last events of a query that is done: its error or the usage, and the mark of the end. */
static bool add_last_events(call *c)
{
    static const char end[] = "data: [DONE]\n\n";
    const kq_query *q = c->query;
    bool ok = true;
    c->closed = true;
    if (q->failed || q->cancelled) {
        kq_api_error e = q->error;
        if (!q->failed)
            kq_api_fail(&e, 503, NULL, "cancelled", "the request was cancelled");
        ok = add_event(c, kq_answer_error(&e));
    } else if (q->request.include_usage) {
        ok = add_event(c, kq_answer_usage_part(&c->answer, q));
    }
    return ok && !kq_buffer_add(&c->events, end, sizeof end - 1, NULL);
}

/* Everything that is new, as events. When nothing is, the connection is suspended until the model has news;
 * that happens under the batch's lock, so that no news can come between the look and the suspension. False:
 * out of memory. */
static bool collect_events(call *c)
{
    kq_query *q = c->query;
    bool ok = true;
    c->events_sent = c->events.size = 0;
    kq_batch_lock(c->server->batch);
    for (size_t i = 0; i < q->n_seq && ok; i++)
        for (bool none = false; ok && !none;) {
            json_t *part = kq_answer_part(&c->answer, q, &q->seq[i], &none);
            ok = none || add_event(c, part);
        }
    if (ok && q->done) {
        ok = add_last_events(c);
    } else if (ok && !c->events.size) {
        q->parked = true;
        MHD_suspend_connection(c->connection);
    }
    kq_batch_unlock(c->server->batch);
    return ok;
}

/* libmicrohttpd asks for the next bytes of a stream. */
static ssize_t stream_bytes(void *ctx, uint64_t pos, char *buf, size_t max)
{
    (void)pos;
    call *c = ctx;
    if (c->events_sent == c->events.size) {
        if (c->closed)
            return MHD_CONTENT_READER_END_OF_STREAM;
        if (!collect_events(c))
            return MHD_CONTENT_READER_END_WITH_ERROR;
    }
    const size_t left = c->events.size - c->events_sent, n = left < max ? left : max;
    if (n)
        memcpy(buf, c->events.data + c->events_sent, n);
    c->events_sent += n;
    return (ssize_t)n;
}

static enum MHD_Result start_stream(call *c)
{
    struct MHD_Response *r =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 1 << 14, stream_bytes, c, NULL);
    if (!r)
        return MHD_NO;
    MHD_add_response_header(r, "Content-Type", "text/event-stream; charset=utf-8");
    MHD_add_response_header(r, "Cache-Control", "no-cache");
    add_origin(c, r);
    MHD_add_response_header(r, "X-Accel-Buffering", "no"); /* proxies: pass events on as they come */
    c->status = 200;
    c->answered = true;
    enum MHD_Result sent = MHD_queue_response(c->connection, 200, r);
    MHD_destroy_response(r);
    return sent;
}

/* The body has come: have it prepared. */
static enum MHD_Result post(call *c)
{
    kq_server *s = c->server;
    kq_api_error e;
    const size_t waiting = kq_work_waiting(s->work);
    if (waiting >= s->opt.max_jobs) {
        kq_api_fail(&e, 429, NULL, "queue_full", "%zu requests wait already; try again later", waiting);
        return send_error(c, &e);
    }
    if (!(c->query = kq_query_new())) {
        kq_api_fail(&e, 503, NULL, "out_of_memory", "out of memory; try again later");
        return send_error(c, &e);
    }
    c->query->deadline_s = s->opt.request_s > 0 ? c->start_s + s->opt.request_s : 0;
    c->query->wake = on_news;
    c->query->wake_ctx = c;
    c->stage = PREPARES;
    kq_guest_works(s->door, c->guest, c->query); /* the call's reference outlives this */
    MHD_suspend_connection(c->connection);
    kq_work_add(s->work, &c->work, c->size <= SMALL_BODY);
    return MHD_YES;
}

/* The connection was resumed: what it waited for is there. */
static enum MHD_Result prepared(call *c)
{
    char *reply = c->reply;
    if (c->stage == REFUSED)
        return send_error(c, &c->error);
    if (c->stage == STREAMS)
        return start_stream(c);
    c->reply = NULL;
    return send_bytes(c, 200, reply, strlen(reply), "application/json");
}

/* ---- requests arriving ---- */

static path find_path(const char *url, char *model, size_t cap)
{
    if (!strncasecmp(url, "http://", 7)) /* absolute-form: the host was looked at */
        url = strchr(url + 7, '/') ? strchr(url + 7, '/') : "/";
    /* with or without a slash at its end */
    const size_t n = strlen(url), n_path = n > 1 && url[n - 1] == '/' ? n - 1 : n;
    for (int p = 0; p < P_OTHER; p++)
        if (p != P_MODEL && n_path == strlen(path_name[p]) && !strncmp(url, path_name[p], n_path))
            return (path)p;
    if (strncmp(url, "/v1/models/", 11) || !url[11] || n - 11 >= cap)
        return P_OTHER;
    snprintf(model, cap, "%s", url + 11);
    return P_MODEL;
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

static enum MHD_Result note_field(void *ctx, enum MHD_ValueKind kind, const char *name, size_t n_name,
                                  const char *value, size_t n_value)
{
    (void)kind;
    kq_head_field(ctx, name, n_name, value ? value : "", value ? n_value : 0);
    return MHD_YES;
}

static const char *header(const call *c, const char *name)
{
    return MHD_lookup_connection_value(c->connection, MHD_HEADER_KIND, name);
}

static bool key_is_right(const call *c)
{
    const char *key = c->server->opt.api_key, *bearer = header(c, "Authorization"),
               *plain = header(c, "X-Api-Key");
    const bool first = bearer && !strncasecmp(bearer, "Bearer ", 7) && same_key(bearer + 7, key),
               second = plain && same_key(plain, key);
    return first || second;
}

/* The page that asks, when --cors allows it. */
static void note_origin(call *c)
{
    const kq_serve_options *o = &c->server->opt;
    const char *origin = header(c, "Origin");
    for (size_t i = 0; origin && i < o->n_cors; i++)
        if (!strcmp(o->cors[i], "*") || !strcasecmp(o->cors[i], origin))
            snprintf(c->origin, sizeof c->origin, "%s", !strcmp(o->cors[i], "*") ? "*" : o->cors[i]);
}

/* A page of another site whose name was made to lead here (DNS rebinding) is of one origin with this
 * server to the browser; only the Host header tells. */
static bool host_is_ours(const call *c, const char *url, const kq_head *h)
{
    char host[sizeof h->host];
    snprintf(host, sizeof host, "%s", h->host);
    if (!strncasecmp(url, "http://", 7)) /* absolute-form: this is the host then (RFC 9112, 3.2.2) */
        snprintf(host, sizeof host, "%.*s", (int)strcspn(url + 7, "/?"), url + 7);
    return !*host || kq_head_host_is(host, c->server->opt.allowed_host, c->server->opt.n_allowed_host);
}

static bool media_type_is_json(const char *type)
{
    return type && !strncasecmp(type, "application/json", 16) && (!type[16] || strchr("; \t", type[16]));
}

/* What can be said of a request by its head. False with *e. */
static bool check_request(call *c, const char *url, const char *method, const kq_head *h, kq_api_error *e)
{
    kq_server *s = c->server;
    const char *coding = header(c, "Content-Encoding");
    const bool get_path = c->path > P_DETOKENIZE, options = !strcmp(method, "OPTIONS");
    if (s->own_names_only && !host_is_ours(c, url, h))
        return kq_api_fail(e, 403, NULL, "host_not_allowed",
                           "'%.100s' is not a name of this server (kronq serve --allow-host NAME adds one)",
                           h->host);
    if (s->opt.api_key && c->path != P_HEALTH && !options && !key_is_right(c))
        return kq_api_fail(e, 401, NULL, "invalid_api_key", "%s",
                           header(c, "Authorization") || header(c, "X-Api-Key")
                               ? "Incorrect API key provided."
                               : "You didn't provide an API key: Authorization: Bearer KEY");
    if (c->path == P_OTHER)
        return kq_api_fail(e, 404, NULL, "unknown_url", "Unknown request URL: %.10s %.200s", method, url);
    if (!options && (get_path ? strcmp(method, "GET") && strcmp(method, "HEAD") : strcmp(method, "POST")))
        return kq_api_fail(e, 405, NULL, "method_not_supported", "%s answers %s only", path_name[c->path],
                           get_path ? "GET" : "POST");
    if (get_path || options)
        return true;
    if (coding && strcasecmp(coding, "identity"))
        return kq_api_fail(e, 415, NULL, "unsupported_media_type",
                           "Content-Encoding '%.50s' is not read here; send the body as it is", coding);
    /* Asking for JSON by name also keeps web pages of other origins from posting to a server on the same
     * machine without the browser's asking first. */
    return media_type_is_json(header(c, "Content-Type")) ||
           kq_api_fail(e, 415, NULL, "unsupported_media_type", "Content-Type must be application/json");
}

/* False: the connection cannot go on after this request, because where it ends is in doubt, or because
 * its body is not wanted and has not been sent yet (Expect: 100-continue, as curl asks before a large
 * one). */
static bool check_header(call *c, const char *url, const char *method, const char *version)
{
    kq_head h = {.minor = strcmp(version, "HTTP/1.0") != 0};
    MHD_get_connection_values_n(c->connection, MHD_HEADER_KIND, note_field, &h);
    note_origin(c);
    if (!kq_head_check(&h, &c->error)) {
        c->failed = true;
        return false;
    }
    c->failed = !check_request(c, url, method, &h, &c->error);
    const unsigned long long length = strtoull(h.length, NULL, 10);
    c->too_large = length > c->server->opt.max_body;
    return length <= DRAIN_BYTES && !(h.waits && (c->failed || c->too_large));
}

static enum MHD_Result too_large(call *c)
{
    kq_api_error e;
    kq_api_fail(&e, 413, NULL, "request_too_large", "The body has more than the %zu bytes that are taken.",
                c->server->opt.max_body);
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

static call *begin(kq_server *s, struct MHD_Connection *connection, const char *url, const char *method)
{
    call *c = kq_calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->server = s;
    c->connection = connection;
    snprintf(c->method, sizeof c->method, "%.7s", method);
    c->path = find_path(url, c->model_asked, sizeof c->model_asked);
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    c->guest = info ? info->socket_context : NULL;
    c->start_s = kq_guest_begins(s->door, c->guest);
    pthread_mutex_lock(&s->lock);
    s->calls++;
    pthread_mutex_unlock(&s->lock);
    return c;
}

static enum MHD_Result on_request(void *ctx, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data, size_t *size,
                                  void **state)
{
    KQ_C_LOCALE; /* numbers of the metrics; a thread of the HTTP library begins with the host's locale */
    kq_server *s = ctx;
    call *c = *state;
    if (!c) {
        if (!(c = begin(s, connection, url, method)))
            return MHD_NO;
        *state = c;
        if (!check_header(c, url, method, version))
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
    if (c->stage != ARRIVES) /* resumed */
        return prepared(c);
    kq_guest_arrived(s->door, c->guest);
    if (c->failed || c->too_large)
        return c->failed ? send_error(c, &c->error) : too_large(c);
    return !strcmp(c->method, "OPTIONS") ? send_options(c) : c->path <= P_DETOKENIZE ? post(c) : get(c);
}

static void on_completed(void *ctx, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode how)
{
    kq_server *s = ctx;
    call *c = *state;
    (void)connection;
    if (!c)
        return;
    const double seconds = kq_now_s() - c->start_s;
    double first = -1;
    size_t made = 0;
    if (c->query) {
        kq_query_cancel(c->query); /* a query that is done stays done */
        kq_batch_lock(s->batch);
        c->query->parked = false; /* nobody is there to be woken */
        first = c->query->first_s > 0 ? c->query->first_s - c->start_s : -1;
        for (size_t i = 0; i < c->query->n_seq; i++)
            made += c->query->seq[i].n_made;
        kq_batch_unlock(s->batch);
    }
    kq_guest_done(s->door, c->guest);
    const int status = how == MHD_REQUEST_TERMINATED_COMPLETED_OK ? c->status : 0;
    kq_metrics_answer(&s->metrics, c->path, status, seconds, first);
    if (s->opt.log) {
        char line[256];
        snprintf(line, sizeof line, "%s %s %d %.0f ms, %zu tokens%s", c->method, path_name[c->path],
                 c->status, 1e3 * seconds, made, status ? "" : " (the client left)");
        s->opt.log(s->opt.log_ctx, line);
    }
    kq_query_release(s->batch, c->query);
    free(c->reply);
    kq_free(c->body);
    kq_free(c->events.data);
    kq_free(c);
    *state = NULL;
    pthread_mutex_lock(&s->lock);
    s->calls--;
    pthread_mutex_unlock(&s->lock);
}

/* ---- connections ---- */

static void on_connection(void *ctx, struct MHD_Connection *connection, void **state,
                          enum MHD_ConnectionNotificationCode what)
{
    kq_server *s = ctx;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        *state = info ? kq_door_guest(s->door, info->connect_fd) : NULL;
    } else {
        kq_door_leaves(s->door, *state); /* a file descriptor is closed only after this */
        *state = NULL;
    }
}

static bool on_hand_over(void *ctx, int fd, const struct sockaddr *addr, socklen_t size)
{
    kq_server *s = ctx;
    return MHD_add_connection(s->daemon, fd, addr, size) == MHD_YES;
}

static void on_refused(void *ctx, const kq_api_error *e)
{
    kq_server *s = ctx;
    kq_metrics_answer(&s->metrics, P_OTHER, e->http, 0, -1);
    if (s->opt.log) {
        char line[256];
        snprintf(line, sizeof line, "- other %d (%s)", e->http, e->code);
        s->opt.log(s->opt.log_ctx, line);
    }
}

/* ---- start and stop ---- */

static void quiet_log(void *ctx, const char *format, va_list args)
{
    (void)ctx;
    (void)format;
    /* libmicrohttpd's remarks on clients that break off; what matters comes back as a result */
    (void)args;
}

/* Connections that the process has file descriptors for. */
static size_t connections(const kq_serve_options *opt)
{
    struct rlimit files;
    size_t n = opt->max_connections;
    if (!getrlimit(RLIMIT_NOFILE, &files) && files.rlim_cur != RLIM_INFINITY &&
        files.rlim_cur < n + OWN_FILES)
        n = files.rlim_cur > 2 * OWN_FILES ? (size_t)files.rlim_cur - OWN_FILES : OWN_FILES;
    return n;
}

static kq_status open_door(const kq_serve_options *opt, kq_server *s, kq_door **out, kq_error *err)
{
    const size_t n = connections(opt);
    const kq_door_options d = {.host = opt->host,
                               .port = opt->port,
                               .max_connections = n,
                               .max_per_address = opt->max_per_address < n / 2 ? opt->max_per_address : n / 2,
                               .receive_s = opt->receive_s,
                               .idle_s = opt->idle_s,
                               .hand_over = on_hand_over,
                               .refused = on_refused,
                               .ctx = s};
    return kq_door_open(&d, out, err);
}

kq_status kq_server_check(const kq_serve_options *opt, bool *loopback, kq_error *err)
{
    kq_door *d = NULL;
    const kq_status st = open_door(opt, NULL, &d, err);
    *loopback = !st && kq_door_loopback(d);
    kq_door_free(d);
    return st;
}

/* A key that nobody can guess; the time where the system has no random numbers. */
static uint64_t random_key(void)
{
    uint64_t key;
    return getrandom(&key, sizeof key, 0) == (ssize_t)sizeof key ? key : (uint64_t)time(NULL);
}

kq_status kq_server_start(const kq_serve_options *opt, const kq_served *served, kq_server **out,
                          kq_error *err)
{
    kq_status st;
    *out = NULL;
    kq_server *s = kq_calloc(1, sizeof *s);
    if (!s)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: the server");
    s->opt = *opt;
    s->tok = served->tok;
    s->busy = served->busy;
    s->limits = (kq_api_limits){.model = opt->model_name,
                                .other_name = {opt->other_name, served->path},
                                .any_model = opt->any_model,
                                .vocab_size = served->stepper.vocab_size,
                                .context = served->stepper.max_T,
                                .max_choices = opt->max_choices,
                                .sampling = opt->sampling};
    s->id_key = random_key();
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->metrics.lock, NULL);
    const kq_batch_options bo = {.stepper = served->stepper,
                                 .tok = served->tok,
                                 .cfg = served->cfg,
                                 .kern = served->kern,
                                 .rows = KQ_ENGINE_ROWS,
                                 .max_queries = opt->max_jobs};
    if ((st = open_door(opt, s, &s->door, err)) || (st = kq_batch_new(&bo, &s->batch, err)) ||
        (st = kq_work_new(work_on, s, &s->work, err)))
        goto fail;
    s->own_names_only = kq_door_loopback(s->door) && !opt->api_key;
    const unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC |
                           MHD_USE_ERROR_LOG | MHD_USE_NO_LISTEN_SOCKET;
    s->daemon = MHD_start_daemon(
        flags, 0, NULL, NULL, on_request, s, MHD_OPTION_EXTERNAL_LOGGER, quiet_log, NULL,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, s, MHD_OPTION_NOTIFY_CONNECTION, on_connection, s,
        MHD_OPTION_THREAD_POOL_SIZE, (unsigned)HTTP_THREADS,
        /* the door keeps the limit; this is never met */
        MHD_OPTION_CONNECTION_LIMIT, 2 * (unsigned)opt->max_connections + OWN_FILES,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)(opt->idle_s + 0.5), MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)(3 * KQ_HEAD_BYTES),
        /* head.h is stricter, and says what is wrong in JSON */
        MHD_OPTION_STRICT_FOR_CLIENT, -1, MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, MHD_OPTION_END);
    if (!s->daemon) {
        st = kq_fail(err, KQ_E_IO, "cannot start the HTTP threads: %s", strerror(errno));
        goto fail;
    }
    if ((st = kq_door_start(s->door, err)))
        goto fail;
    *out = s;
    return KQ_OK;
fail:
    if (s->daemon)
        MHD_stop_daemon(s->daemon);
    kq_work_free(s->work);
    kq_batch_free(s->batch);
    kq_door_free(s->door);
    pthread_mutex_destroy(&s->metrics.lock);
    pthread_mutex_destroy(&s->lock);
    kq_free(s);
    return st;
}

unsigned kq_server_port(const kq_server *s)
{
    return kq_door_port(s->door);
}

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
    kq_door_shut(s->door); /* no new connections; those that are open are served on */
    const double start = kq_now_s();
    while (calls_at_work(s) && kq_now_s() - start < s->opt.drain_s && !(hurry && hurry(ctx)))
        usleep(20000);
    const bool all = calls_at_work(s) == 0;
    kq_door_cancel(s->door); /* those that are still at work learn that they are cancelled */
    /* a step of the model, or of preparing a request, has to end first, however long it takes: a
     * suspended connection cannot be closed */
    for (double t = kq_now_s();
         calls_at_work(s) &&
         (kq_now_s() - t < 5 || kq_batch_statistics(s->batch).queries || kq_work_busy(s->work));)
        usleep(20000);
    kq_work_free(s->work);
    MHD_stop_daemon(s->daemon);
    kq_door_free(s->door);
    kq_batch_free(s->batch);
    pthread_mutex_destroy(&s->metrics.lock);
    pthread_mutex_destroy(&s->lock);
    if (s->busy)
        *s->busy = false;
    kq_free(s);
    return all;
}
