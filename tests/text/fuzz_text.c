/* libFuzzer's entry: a file of any bytes. Any answer is right; memory errors, documents that are no
 * UTF-8, and two readings that differ are not. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/utf8.h"
#include "text/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct seen {
    size_t documents, bytes;
} seen;

static kq_status look(void *ctx, const kq_text_document *doc, bool *enough, kq_error *err)
{
    seen *s = ctx;
    (void)enough, (void)err;
    for (size_t at = 0; at < doc->size;) {
        const kq_utf8 c = kq_utf8_next(doc->text + at, doc->size - at);
        if (c.kind != KQ_UTF8_CHAR)
            abort();
        at += c.size;
    }
    s->documents++;
    s->bytes += doc->size;
    return KQ_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    kq_error err = {0}, again = {0};
    kq_text_info info;
    const int fd = memfd_create("text", 0);
    if (fd < 0 || (size && write(fd, data, size) != (ssize_t)size))
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    const kq_text_how whole = {.reach = SIZE_MAX}, part = {.reach = 100},
                      text = {.reach = SIZE_MAX, .options.format = "text"};
    seen a = {0}, b = {0};
    const kq_status status = kq_text_read(path, &whole, look, &a, &info, &err);
    if (!status && (a.documents != info.documents || !info.whole))
        abort();
    if (status && (!*err.message || strchr(err.message, '\n')))
        abort();
    if (kq_text_read(path, &whole, NULL, NULL, NULL, &again) != status ||
        (status && strcmp(err.message, again.message)))
        abort();
    if (!kq_text_read(path, &part, look, &b, &info, NULL) && !status && b.documents > a.documents)
        abort();
    kq_text_read(path, &text, look, &b, &info, NULL);
    close(fd);
    return 0;
}
