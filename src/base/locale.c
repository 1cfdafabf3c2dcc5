/* The C locale of a thread, for as long as a function of the library runs. The locale of a thread is set
 * (uselocale), not that of the process (setlocale), which other threads of the host program would see. */
#include "base/locale.h"

static _Thread_local locale_t host; /* of the thread, while a function of the library runs; else 0 */
/* Functions of the library that the thread is in: the host's own function may call another one. */
static _Thread_local int depth;

locale_t kq_locale_c(void)
{
    /* glibc's own object: nothing to free */
    const locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    const locale_t before = uselocale(c);
    if (!depth++)
        host = before;
    return before;
}

void kq_locale_restore(locale_t *before)
{
    uselocale(*before);
    if (!--depth)
        host = (locale_t)0;
}

locale_t kq_locale_host(void)
{
    return uselocale(host); /* 0 changes nothing */
}
