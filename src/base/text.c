/* Strings made to measure. They replace buffers of a fixed size, which are either too large for a small stack
 * or too small for a long path. */
#include "base/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

static kq_status format_list(char **out, kq_error *err, const char *format, va_list args)
{
    va_list again;
    va_copy(again, args);
    const int size = vsnprintf(NULL, 0, format, args);
    *out = size < 0 ? NULL : kq_alloc((size_t)size + 1, 1);
    if (*out)
        vsnprintf(*out, (size_t)size + 1, format, again);
    va_end(again);
    return *out ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: a text of %d bytes", size);
}

kq_status kq_format(char **out, kq_error *err, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    const kq_status status = format_list(out, err, format, args);
    va_end(args);
    return status;
}

kq_status kq_path_in(char **out, kq_error *err, const char *dir, const char *format, ...)
{
    const size_t n = strlen(dir);
    char *name;
    va_list args;
    *out = NULL;
    va_start(args, format);
    kq_status status = format_list(&name, err, format, args);
    va_end(args);
    if (!status)
        status = kq_format(out, err, "%s%s%s", dir, n && dir[n - 1] == '/' ? "" : "/", name);
    kq_free(name);
    return status;
}
