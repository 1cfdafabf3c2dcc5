/* `kronq serve`: an HTTP server with OpenAI's API on top of the scheduler (batch.h). docs/serve.md says
 * what it answers. */
#ifndef KQ_SERVE_SERVE_H
#define KQ_SERVE_SERVE_H

#include "serve/batch.h"

typedef struct kq_serve_options {
    const char *host;                    /* an address or a name of this machine; "127.0.0.1" */
    unsigned port;                       /* 8080; 0: any that is free */
    const char *api_key;                 /* NULL: none is asked for */
    const char *model_name;              /* what the model is called */
    const char *other_name, *model_path; /* what requests may call it too; NULL: none */
    bool any_model;                      /* requests may call it anything */
    kq_sampling sampling; /* where a request says nothing: temperature 1, everything else off */
    /* With no key and only loopback addresses, a request whose Host header is no name of loopback and
     * none of these is refused (DNS rebinding). */
    const char *const *allowed_host;
    size_t n_allowed_host;
    const char *const *cors;
    size_t n_cors;      /* origins whose pages may ask, or "*" for all */
    size_t max_body;    /* bytes of a request: 4 MiB */
    size_t max_choices; /* answers of one request (prompts * n): 128 */
    size_t max_jobs;    /* requests that wait or run: 256 */
    /* 1024, or what file descriptors there are; an idle one is closed for one that asks */
    size_t max_connections;
    size_t max_per_address;                   /* of one client's address: 512, at most half of them */
    double receive_s;                         /* from a request's first byte to its last: 30 s */
    double request_s;                         /* and to its answer: 600 s; 0: no limit */
    double idle_s;                            /* a connection on which nothing moves is closed after: 60 s */
    double drain_s;                           /* shutting down, what runs may take: 30 s */
    void (*log)(void *ctx, const char *line); /* one line a request; NULL: none. From several threads */
    void *log_ctx;
} kq_serve_options;
kq_serve_options kq_serve_defaults(void);

/* Can the address be listened on? To be asked before a model is opened. *loopback: only this machine
 * itself can connect to it. Errors as kq_server_start. */
kq_status kq_server_check(const kq_serve_options *opt, bool *loopback, kq_error *err);

typedef struct kq_server kq_server;
/* Listen and answer from now on, on threads of its own. The stepper's engine, cfg, tok and the options'
 * strings are borrowed. KQ_E_IO: the host has no address here, or another program listens on the port. */
kq_status kq_server_start(const kq_serve_options *opt, kq_stepper stepper, const kq_config *cfg,
                          const kq_tokenizer *tok, const kq_kern *kern, kq_server **out, kq_error *err);
unsigned kq_server_port(const kq_server *s);
/* Take no more requests and wait for those at work, drain_s at most or until `hurry` (may be NULL) says
 * so; then stop and free. True: all were finished. */
bool kq_server_stop(kq_server *s, bool (*hurry)(void *ctx), void *ctx);

#endif
