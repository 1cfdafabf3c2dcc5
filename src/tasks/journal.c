/* The journal: the scores so far, one line a document, so that an interrupted evaluation continues. Each line
 * begins with the checksum of its text, so that a line that was cut off or damaged is recognised. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "tasks/tasks.h"

struct kq_journal {
    FILE *file;
    char *path;
};

/* Append the line "CHECKSUM TEXT\n". CHECKSUM is the XXH3-64 of TEXT in 16 hexadecimal digits. */
static kq_status add_line(kq_journal *j, const char *text, kq_error *err)
{
    if (fprintf(j->file, "%016llx %s\n", (unsigned long long)kq_hash64(text, strlen(text), 0), text) < 0)
        return kq_fail(err, KQ_E_IO, "%s: cannot be written: %s", j->path, strerror(errno));
    return KQ_OK;
}

/* The text of a line [n] without its checksum; NULL: the line is damaged. */
static const char *check_line(const char *line, size_t n, size_t *n_text)
{
    char sum[24];
    if (n < 17 || line[16] != ' ')
        return NULL;
    snprintf(sum, sizeof sum, "%016llx", (unsigned long long)kq_hash64(line + 17, n - 17, 0));
    *n_text = n - 17;
    return memcmp(sum, line, 16) ? NULL : line + 17;
}

static kq_status replay(const char *path, const char *text, size_t n,
                        kq_status (*keep)(void *ctx, size_t task, size_t doc, const kq_loglikelihood *ll,
                                          size_t n, kq_error *err),
                        void *ctx, kq_error *err)
{
    kq_loglikelihood ll[KQ_TASK_MAX_CHOICES];
    json_int_t task, doc;
    json_t *values, *greedy, *o = json_loadb(text, n, 0, NULL);
    kq_status st = KQ_OK;
    if (json_unpack(o, "{s:I, s:I, s:o, s:o}", "task", &task, "doc", &doc, "ll", &values, "greedy",
                    &greedy) ||
        task < 0 || doc < 0 || json_array_size(values) > KQ_TASK_MAX_CHOICES ||
        json_array_size(greedy) != json_array_size(values)) {
        st = kq_fail(err, KQ_E_FORMAT, "%s: a line is no scored document", path);
    } else {
        for (size_t i = 0; i < json_array_size(values); i++)
            ll[i] = (kq_loglikelihood){json_number_value(json_array_get(values, i)),
                                       json_is_true(json_array_get(greedy, i))};
        st = keep(ctx, (size_t)task, (size_t)doc, ll, json_array_size(values), err);
    }
    json_decref(o);
    return st;
}

/* Read all whole lines and hand them to `keep`. *end: how many bytes of the file they take. */
static kq_status read_back(const char *path, const char *settings,
                           kq_status (*keep)(void *ctx, size_t task, size_t doc, const kq_loglikelihood *ll,
                                             size_t n, kq_error *err),
                           void *ctx, size_t *end, kq_error *err)
{
    kq_map map;
    kq_status st = kq_map_open(path, &map, err);
    if (st)
        return st;
    const char *data = (const char *)map.data;
    *end = 0;
    for (size_t line = 1; *end < map.size && !st; line++) {
        const char *nl = memchr(data + *end, '\n', map.size - *end), *text;
        size_t n;
        if (!nl) /* the line that was being written when the run was interrupted */
            break;
        if (!(text = check_line(data + *end, (size_t)(nl - data) - *end, &n)))
            st = kq_fail(err, KQ_E_FORMAT, "%s: line %zu is damaged; remove the file and start again", path,
                         line);
        else if (line == 1 && (n != strlen(settings) || memcmp(text, settings, n)))
            st = kq_fail(err, KQ_E_MISMATCH,
                         "%s: is of another run (%.*s, now %s); remove it or give the same settings", path,
                         (int)(n < 400 ? n : 400), text, settings);
        else if (line > 1)
            st = replay(path, text, n, keep, ctx, err);
        *end = (size_t)(nl - data) + 1;
    }
    kq_map_close(&map);
    return st;
}

kq_status kq_journal_open(const char *path, const char *settings, bool resume,
                          kq_status (*keep)(void *ctx, size_t task, size_t doc, const kq_loglikelihood *ll,
                                            size_t n, kq_error *err),
                          void *ctx, kq_journal **out, kq_error *err)
{
    size_t end = 0;
    kq_status st = KQ_OK;
    *out = NULL;
    if (resume && kq_path_exists(path)) {
        if ((st = read_back(path, settings, keep, ctx, &end, err)))
            return st;
    } else if (!resume && kq_path_exists(path)) {
        return kq_fail(err, KQ_E_ARG, "%s: an interrupted run left this; --resume continues it, or remove it",
                       path);
    }
    kq_journal *j = kq_calloc(1, sizeof *j);
    const int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (j && fd >= 0 && !ftruncate(fd, (off_t)end) && lseek(fd, 0, SEEK_END) >= 0 &&
        (j->path = strdup(path)) && (j->file = fdopen(fd, "w"))) {
        if (!end && (st = add_line(j, settings, err)))
            kq_journal_close(j, true);
        else
            *out = j;
        return st;
    }
    st = kq_fail(err, KQ_E_IO, "%s: cannot be created: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    if (j)
        free(j->path);
    kq_free(j);
    return st;
}

kq_status kq_journal_add(kq_journal *j, size_t task, size_t doc, const kq_loglikelihood *ll, size_t n,
                         kq_error *err)
{
    json_t *values = json_array(), *greedy = json_array();
    for (size_t i = 0; i < n; i++) {
        json_array_append_new(values, json_real(ll[i].value));
        json_array_append_new(greedy, json_boolean(ll[i].greedy));
    }
    json_t *o = json_pack("{s:I, s:I, s:o, s:o}", "task", (json_int_t)task, "doc", (json_int_t)doc, "ll",
                          values, "greedy", greedy);
    /* jansson writes 17 digits, so that every double is read back exactly */
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    kq_status st = text ? add_line(j, text, err) : kq_fail(err, KQ_E_MEMORY, "%s: out of memory", j->path);
    free(text);
    json_decref(o);
    return st;
}

kq_status kq_journal_sync(kq_journal *j, kq_error *err)
{
    if (fflush(j->file) || fsync(fileno(j->file)))
        return kq_fail(err, KQ_E_IO, "%s: cannot be written: %s", j->path, strerror(errno));
    return KQ_OK;
}

void kq_journal_close(kq_journal *j, bool remove_file)
{
    if (!j)
        return;
    fclose(j->file);
    if (remove_file)
        unlink(j->path);
    free(j->path);
    kq_free(j);
}
