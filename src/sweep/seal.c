/* Seals: a file beside each finished file that holds its fingerprint (seal.h). */
#include "sweep/seal.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/text.h"

static kq_status fingerprint(const char *path, char hex[17], kq_error *err)
{
    kq_map map;
    kq_status status = kq_map_open(path, &map, err);
    if (status)
        return status;
    snprintf(hex, 17, "%016llx", (unsigned long long)kq_hash64(map.data, map.size, 0));
    kq_map_close(&map);
    return KQ_OK;
}

kq_status kq_seal_write(const char *path, kq_error *err)
{
    char hex[17], *seal = NULL;
    kq_status status = fingerprint(path, hex, err);
    if (!status && !(status = kq_format(&seal, err, "%s.seal", path)))
        status = kq_file_write(seal, hex, 16, err);
    kq_free(seal);
    return status;
}

kq_status kq_seal_check(const char *path, kq_error *err)
{
    char hex[17], *seal = NULL, *text = NULL;
    size_t size;
    kq_status status = fingerprint(path, hex, err);
    if (!status)
        status = kq_format(&seal, err, "%s.seal", path);
    if (!status && !(status = kq_file_read(seal, 64, &text, &size, err)) &&
        (size != 16 || memcmp(text, hex, 16)))
        status = kq_fail(err, KQ_E_FORMAT,
                         "%s: is damaged; --fresh discards the unfinished work and starts anew", path);
    kq_free(seal);
    kq_free(text);
    return status;
}

bool kq_job_part_done(const kq_job *job, const char *stem, size_t i, const char *suffix)
{
    char seal[64];
    snprintf(seal, sizeof seal, "%s.seal", suffix);
    return kq_job_has_file(job, stem, i, seal);
}

kq_status kq_job_check_parts(const kq_job *job, const char *stem, size_t n, const char *suffix, kq_error *err)
{
    kq_status status = KQ_OK;
    for (size_t i = 0; i < n && !status; i++) {
        char *path;
        if (!kq_job_part_done(job, stem, i, suffix))
            continue;
        if (!(status = kq_job_path(job, stem, i, suffix, &path, err)))
            status = kq_seal_check(path, err);
        kq_free(path);
    }
    return status;
}
