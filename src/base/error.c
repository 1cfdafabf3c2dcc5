/* Writing errors. A message may quote a hostile file, so control characters are taken out here, in one place,
 * and no caller has to think of them. */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

kq_status kq_fail(kq_error *err, kq_status status, const char *format, ...)
{
    if (!err)
        return status;
    err->status = status;
    va_list args;
    va_start(args, format);
    vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    for (char *c = err->message; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
    return status;
}

kq_status kq_fail_within(kq_error *err, kq_status status, const char *where)
{
    if (err && status) {
        char inner[sizeof err->message];
        memcpy(inner, err->message, sizeof inner);
        size_t n = (size_t)snprintf(err->message, sizeof err->message, "%.200s: ", where);
        snprintf(err->message + n, sizeof err->message - n, "%.*s", (int)(sizeof err->message - n - 1),
                 inner);
    }
    return status;
}
