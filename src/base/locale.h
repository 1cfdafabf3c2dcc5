/* Numbers in files, settings and messages are written and read with a point, whatever locale the host
 * program has set. */
#ifndef KQ_BASE_LOCALE_H
#define KQ_BASE_LOCALE_H

#include <locale.h>

/* The first line of every function of kronq.h that reads or writes text: until it returns, its thread
 * has the C locale. Calls may be nested. Threads of its own parallel loops keep the host's locale: they
 * write no numbers but those of error messages. */
#define KQ_C_LOCALE \
    __attribute__((cleanup(kq_locale_restore), unused)) locale_t kq_locale_before = kq_locale_c()

locale_t kq_locale_c(void);
void kq_locale_restore(locale_t *before);

/* Around a call of the host's own function (progress, warnings): it runs in the host's locale. */
locale_t kq_locale_host(void);

#endif
