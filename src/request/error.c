/* Errors of the API. A message may quote what a client sent, and both the message and the field's name are
 * cut to a fixed size: the cut can split a character, which would make the answer invalid JSON. */
#include "request/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

/* Replace every byte that belongs to no whole character by '?'. */
static void mend_utf8(char *text)
{
    for (size_t at = 0, n = strlen(text); at < n;) {
        const kq_utf8 c = kq_utf8_next(text + at, n - at);
        if (c.kind != KQ_UTF8_CHAR)
            memset(text + at, '?', c.size);
        at += c.size;
    }
}

bool kq_api_fail(kq_api_error *e, int http, const char *param, const char *code, const char *format, ...)
{
    va_list args;
    *e = (kq_api_error){.http = http, .code = code};
    e->type = http == 401   ? "authentication_error"
              : http == 429 ? "rate_limit_error"
              : http >= 500 ? "server_error"
                            : "invalid_request_error";
    if (param)
        snprintf(e->param, sizeof e->param, "%.50s", param);
    va_start(args, format);
    vsnprintf(e->message, sizeof e->message, format, args);
    va_end(args);
    mend_utf8(e->param);
    mend_utf8(e->message);
    return false;
}

bool kq_api_no_memory(kq_api_error *e)
{
    return kq_api_fail(e, 503, NULL, "out_of_memory", "out of memory; try again later");
}
