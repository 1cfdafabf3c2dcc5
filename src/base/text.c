/* Strings made to measure. They replace buffers of a fixed size, which are either too large for a small stack
 * or too small for a long path. */
#include "base/text.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/mem.h"

kq_status kq_format(char **out, kq_error *err, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    va_list again;
    va_copy(again, args);
    const int size = vsnprintf(NULL, 0, format, args);
    va_end(args);
    *out = size < 0 ? NULL : kq_alloc((size_t)size + 1, 1);
    if (*out)
        vsnprintf(*out, (size_t)size + 1, format, again);
    va_end(again);
    return *out ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: a text of %d bytes", size);
}
