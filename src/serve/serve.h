/* `kronq serve`: an HTTP server with OpenAI's API on top of the scheduler (batch.h). docs/serve.md says
 * what it answers. */
#ifndef KQ_SERVE_SERVE_H
#define KQ_SERVE_SERVE_H

#include "serve/batch.h"

/* Can the address be listened on? *loopback: only this machine itself can connect to it. Errors as
 * kq_server_start. */
kq_status kq_server_check(const kq_serve_options *opt, bool *loopback, kq_error *err);

/* What is served; everything is borrowed. */
typedef struct kq_served {
    kq_stepper stepper;
    const kq_config *cfg;
    const kq_tokenizer *tok;
    const kq_kern *kern;
    const char *path; /* of the model: a name that requests may use too; NULL: none */
    bool *busy;       /* NULL, or what becomes false when the server has ended */
} kq_served;
/* Listen and answer from now on, on threads of its own. The options' strings are borrowed; model_name and
 * other_name are set. KQ_E_IO: the host has no address here, or another program listens on the port. */
kq_status kq_server_start(const kq_serve_options *opt, const kq_served *served, kq_server **out,
                          kq_error *err);

#endif
