/* The files of a comparison's folder. Everything is a JSON object with 17 digits of every real, so that a
 * number that is read again is the number that was written. */
#include "compare/files.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"

kq_status kq_cmp_path(char **out, const char *dir, const char *folder, const char *name, const char *suffix,
                      kq_error *err)
{
    return kq_path_in(out, err, dir, "%s%s%s%s", folder ? folder : "", folder ? "/" : "", name, suffix);
}

kq_status kq_cmp_load(const char *path, json_t **out, kq_error *err)
{
    char *text;
    size_t size;
    json_error_t je;
    *out = NULL;
    kq_status status = kq_file_read(path, 64u << 20, &text, &size, err);
    if (status)
        return status;
    *out = json_loadb(text, size, JSON_REJECT_DUPLICATES, &je);
    kq_free(text);
    if (json_is_object(*out))
        return KQ_OK;
    status = kq_fail(err, KQ_E_FORMAT, "%s: %s (line %d)", path, *out ? "a JSON object is expected" : je.text,
                     *out ? 1 : je.line);
    json_decref(*out);
    *out = NULL;
    return status;
}

kq_status kq_cmp_store(const char *path, const json_t *o, kq_error *err)
{
    char *text = o ? json_dumps(o, JSON_INDENT(1) | JSON_REAL_PRECISION(17)) : NULL;
    if (!text)
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    kq_status status = kq_file_write(path, text, strlen(text), err);
    free(text);
    return status;
}

kq_status kq_cmp_load_if_there(const char *dir, const char *folder, const char *name, json_t **out,
                               kq_error *err)
{
    char *path;
    *out = NULL;
    kq_status status = kq_cmp_path(&path, dir, folder, name, ".json", err);
    if (!status && kq_path_exists(path))
        status = kq_cmp_load(path, out, err);
    kq_free(path);
    return status;
}

kq_status kq_cmp_store_in(const char *dir, const char *folder, const char *name, const json_t *o,
                          kq_error *err)
{
    char *path;
    kq_status status = kq_cmp_path(&path, dir, folder, name, ".json", err);
    if (!status)
        status = kq_cmp_store(path, o, err);
    kq_free(path);
    return status;
}
