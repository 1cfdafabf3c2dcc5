/* The errors of the server as the OpenAI API writes them. The whole room and the server report with this type
 * instead of kq_error, because an answer needs an HTTP status and names the field of the request. */
#ifndef KQ_REQUEST_ERROR_H
#define KQ_REQUEST_ERROR_H

#include <stdbool.h>

/* An answer of the form {"error": {"message", "type", "param", "code"}}. */
typedef struct kq_api_error {
    int http;          /* status: 400, 401, 404, 405, 413, 415, 429, 500, 503 */
    const char *type;  /* "invalid_request_error", ...; static */
    const char *code;  /* static; NULL: null */
    char param[64];    /* ""; null */
    char message[512]; /* UTF-8 */
} kq_api_error;

/* Fill *e and return false. The type follows from the status. param and code may be NULL. A message that is
 * too long is cut, and remains valid UTF-8. */
bool kq_api_fail(kq_api_error *e, int http, const char *param, const char *code, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
/* kq_api_fail for an allocation that failed: 503, "out_of_memory". */
bool kq_api_no_memory(kq_api_error *e);

#endif
