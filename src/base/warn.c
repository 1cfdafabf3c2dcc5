/* Warnings go through one handler at a time, with the host's locale: a handler may print, and may be set from
 * another thread. */
#include "base/warn.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/locale.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static kq_warning_handler *handler;
static void *handler_ctx;

void kq_set_warning_handler(kq_warning_handler *fn, void *ctx)
{
    pthread_mutex_lock(&lock);
    handler = fn;
    handler_ctx = ctx;
    pthread_mutex_unlock(&lock);
}

void kq_warn(const char *format, ...)
{
    char message[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    for (char *c = message; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
    pthread_mutex_lock(&lock);
    const locale_t ours = kq_locale_host();
    if (handler)
        handler(handler_ctx, message);
    uselocale(ours);
    pthread_mutex_unlock(&lock);
}
