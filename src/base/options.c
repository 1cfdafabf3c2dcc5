/* Structs of options that know their size. They are copied as bytes: this file does not know their members,
 * only that the first one is the size. */
#include "base/options.h"

#include <string.h>

enum {
    LONGEST = 1 << 14 /* bytes: no struct of options is longer; an uninitialised one often claims to be */
};

void kq_options_fill(void *options, size_t size, const void *defaults, size_t full)
{
    if (size < sizeof size)
        return;
    memset(options, 0, size);
    memcpy(options, defaults, size < full ? size : full);
    memcpy(options, &size, sizeof size);
}

kq_status kq_options_read(void *whole, size_t full, const void *given, const char *name, kq_error *err)
{
    size_t size;
    if (!given)
        return KQ_OK;
    memcpy(&size, given, sizeof size);
    if (size <= sizeof size || size > LONGEST)
        return kq_fail(err, KQ_E_ARG,
                       "%s: its size is %zu; begin with the struct that %.*sdefaults() returns", name, size,
                       (int)(strlen(name) - strlen("options")), name);
    const unsigned char *bytes = given;
    for (size_t i = full; i < size; i++)
        if (bytes[i])
            return kq_fail(err, KQ_E_ARG,
                           "%s: an option is set that kronq %s does not know (%zu bytes, %zu are known): the "
                           "program was compiled with a newer kronq.h",
                           name, kq_version(), size, full);
    memcpy(whole, given, size < full ? size : full);
    memcpy(whole, &full, sizeof full);
    return KQ_OK;
}
