/* kq_serve: the server of a kq_model. The serve room does the work; this file checks the options of kronq.h
 * and translates them for it. */
#include <string.h>

#include "base/locale.h"
#include "base/options.h"
#include "host/model.h"
#include "request/head.h"
#include "serve/serve.h"

/* The options as the serve room has them: where to listen; origins and host names as browsers send them. */
static kq_status check_words(kq_serve_options *opt, kq_error *err)
{
    opt->host = opt->host ? opt->host : "127.0.0.1";
    if (opt->port > 65535)
        return kq_fail(err, KQ_E_ARG, "--port %u: 65535 is the highest", opt->port);
    for (size_t i = 0; i < opt->n_cors; i++)
        if (strcmp(opt->cors[i], "*") && !kq_head_origin_valid(opt->cors[i]))
            return kq_fail(err, KQ_E_ARG,
                           "--cors '%s': an origin as browsers send it is expected (https://host or "
                           "http://host:port, nothing behind it), or *",
                           opt->cors[i]);
    for (size_t i = 0; i < opt->n_allowed_host; i++)
        if (!*opt->allowed_host[i] || strpbrk(opt->allowed_host[i], "/ *"))
            return kq_fail(err, KQ_E_ARG, "--allow-host '%s': a host name or an address is expected",
                           opt->allowed_host[i]);
    return KQ_OK;
}

kq_status kq_serve_check(const kq_serve_options *given, bool *loopback, kq_error *err)
{
    KQ_C_LOCALE;
    kq_serve_options opt;
    bool own_machine = false;
    kq_status status = KQ_OPTIONS_READ(kq_serve_options, &opt, given, err);
    if (!status && !(status = check_words(&opt, err)))
        status = kq_server_check(&opt, &own_machine, err);
    if (loopback)
        *loopback = own_machine;
    return status;
}

kq_status kq_serve(kq_model *m, const kq_serve_options *given, kq_server **out, kq_error *err)
{
    KQ_C_LOCALE;
    kq_serve_options opt;
    *out = NULL;
    kq_status status = KQ_OPTIONS_READ(kq_serve_options, &opt, given, err);
    if (status || (status = check_words(&opt, err)) || (status = kq_model_open_tokenizer(m, err)) ||
        (status = kq_model_load(m, 0, err)) ||
        (status = kq_sampling_recommended(kq_model_file_source(m->file), &opt.sampling, &opt.sampling, err)))
        return status;
    opt.other_name = opt.other_name ? opt.other_name : m->name;
    opt.model_name = opt.model_name ? opt.model_name : opt.other_name;
    const kq_served served = {.stepper = kq_stepper_engine(m->engine),
                              .cfg = m->cfg,
                              .tok = m->tok,
                              .kern = kq_kern_pick(m->isa),
                              .path = m->info.path,
                              .busy = &m->busy};
    m->served = true;
    status = kq_server_start(&opt, &served, out, err);
    m->busy = !status;
    return status;
}
