/* What a comparison's folder holds, read as hostile: every member that is used has its type. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "compare/compare.h"

/* MAYBE: a number or null */
typedef enum kind { TEXT, NUMBER, MAYBE, WHOLE, BITS, OBJECT, ARRAY } kind;

typedef struct member {
    const char *name;
    kind kind;
} member;

static bool fits(const json_t *v, kind k)
{
    switch (k) {
    case TEXT:
        return json_is_string(v) && strlen(json_string_value(v)) == json_string_length(v) &&
               json_string_length(v) < 4096;
    case MAYBE:
        if (json_is_null(v))
            return true; /* fall through */
    /* nothing measured comes near; sums and ratios stay finite */
    case NUMBER: return json_is_number(v) && fabs(json_number_value(v)) < 1e30;
    case WHOLE: return json_is_integer(v) && json_integer_value(v) >= 0;
    case BITS: return json_is_number(v) && json_number_value(v) >= 1 && json_number_value(v) <= 32;
    case OBJECT: return json_is_object(v);
    case ARRAY: return json_is_array(v) && json_array_size(v) <= 100000;
    }
    return false;
}

static kq_status need(const char *path, const char *where, const json_t *o, const member *m, size_t n,
                      kq_error *err)
{
    static const char *const what[] = {
        "a short text", "a number", "a number or null", "a whole number", "a number from 1 to 32",
        "an object",    "a list"};
    for (size_t i = 0; i < n; i++)
        if (!fits(json_object_get(o, m[i].name), m[i].kind))
            return kq_fail(err, KQ_E_FORMAT, "%s: %s%s%s is not %s", path, where, *where ? "." : "",
                           m[i].name, what[m[i].kind]);
    return KQ_OK;
}

#define NEED(path, where, o, ...)                       \
    need(path, where, o, (const member[]){__VA_ARGS__}, \
         sizeof(const member[]){__VA_ARGS__} / sizeof(member), err)

/* A name of a file of ours, in its folder. */
static bool is_file_name(const json_t *v)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._=+-";
    const char *s = json_string_value(v);
    return fits(v, TEXT) && strlen(s) < KQ_CMP_NAME && *s && *s != '.' && !s[strspn(s, plain)];
}

static kq_status check_about(const char *path, const json_t *o, kq_error *err)
{
    kq_status status =
        NEED(path, "", o, {"format", WHOLE}, {"model", TEXT}, {"texts", ARRAY}, {"tasks", ARRAY},
             {"rows", ARRAY}, {"ctx", WHOLE}, {"chunks", WHOLE}, {"compute", TEXT}, {"isa", TEXT});
    const json_t *v;
    size_t i;
    if (!status && json_integer_value(json_object_get(o, "format")) != 1)
        return kq_fail(err, KQ_E_UNSUPPORTED, "%s: format %lld, this kronq reads 1", path,
                       (long long)json_integer_value(json_object_get(o, "format")));
    json_array_foreach(json_object_get(o, "texts"), i, v) status =
        status ? status : NEED(path, "texts", v, {"name", TEXT});
    json_array_foreach(json_object_get(o, "tasks"), i, v) status =
        status ? status : NEED(path, "tasks", v, {"name", TEXT});
    json_array_foreach(json_object_get(o, "rows"), i, v) if (!status && !is_file_name(v)) status =
        kq_fail(err, KQ_E_FORMAT, "%s: rows[%zu] is not the name of a row", path, i);
    return status;
}

static kq_status check_row(const char *path, const json_t *o, const json_t *about, kq_error *err)
{
    kq_status status =
        NEED(path, "", o, {"row", TEXT}, {"spec", TEXT}, {"method", TEXT}, {"bits", BITS}, {"seed", WHOLE},
             {"tokens", MAYBE}, {"texts", ARRAY}, {"settings", OBJECT}, {"seconds", OBJECT},
             {"peak_rss_bytes", OBJECT}, {"file_bytes", WHOLE}, {"bpw", NUMBER}, {"bpw_file", NUMBER},
             {"relative_mse", NUMBER}, {"predicted_loss", MAYBE}, {"modules", OBJECT});
    const char *name;
    json_t *v;
    size_t i;
    if (!status)
        status = NEED(path, "seconds", json_object_get(o, "seconds"), {"calibration", MAYBE},
                      {"factors", MAYBE}, {"rounding", MAYBE}, {"evaluation", MAYBE});
    if (!status)
        status = NEED(path, "peak_rss_bytes", json_object_get(o, "peak_rss_bytes"), {"calibration", MAYBE},
                      {"rounding", MAYBE}, {"evaluation", MAYBE});
    if (!status && json_object_get(o, "factors") && !is_file_name(json_object_get(o, "factors")))
        status = kq_fail(err, KQ_E_FORMAT, "%s: factors is not the name of a factor file", path);
    json_array_foreach(json_object_get(o, "texts"), i, v) status =
        status
            ? status
            : NEED(path, "texts", v, {"text", TEXT}, {"ctx", WHOLE}, {"windows", WHOLE}, {"tokens", WHOLE},
                   {"nll", NUMBER}, {"ppl", NUMBER}, {"kld", NUMBER}, {"kld_stderr", MAYBE}, {"top1", NUMBER},
                   {"top1_stderr", MAYBE}, {"loss_rise", NUMBER}, {"loss_rise_stderr", MAYBE},
                   {"ppl_stderr", MAYBE}, {"reference_nll", NUMBER}, {"reference_ppl", NUMBER});
    json_array_foreach(
        json_object_get(about, "texts"), i,
        v) if (!status && !json_equal(json_object_get(json_array_get(json_object_get(o, "texts"), i), "text"),
                                      json_object_get(v, "name"))) status =
        kq_fail(err, KQ_E_FORMAT, "%s: has no figures of %s", path,
                json_string_value(json_object_get(v, "name")));
    json_object_foreach(json_object_get(o, "modules"), name, v) status =
        status ? status
               : NEED(path, "modules", v, {"bits", BITS}, {"relative_mse", NUMBER}, {"predicted_loss", MAYBE},
                      {"shape", ARRAY});
    json_array_foreach(json_object_get(about, "tasks"), i, v)
    {
        const char *task = json_string_value(json_object_get(v, "name"));
        if (!status)
            status = NEED(path, "tasks", json_object_get(json_object_get(o, "tasks"), task), {"acc", NUMBER});
    }
    return status;
}

kq_status kq_cmp_read(const char *dir, json_t **about, json_t **rows, kq_error *err)
{
    char path[KQ_CMP_PATH];
    json_t *name;
    size_t i;
    *about = *rows = NULL;
    kq_status status = kq_cmp_path(path, dir, NULL, "compare.json", "", err);
    if (status)
        return status;
    if (!kq_path_exists(path))
        return kq_fail(err, KQ_E_IO, "%s: is not there: %s is no folder of `kronq compare`", path, dir);
    if (!(status = kq_cmp_load(path, about, err)) && !(status = check_about(path, *about, err)) &&
        !(*rows = json_array()))
        status = kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    json_array_foreach(json_object_get(*about, "rows"), i, name)
    {
        json_t *row;
        if (status || (status = kq_cmp_path(path, dir, "rows", json_string_value(name), ".json", err)) ||
            !kq_path_exists(path))
            continue;
        if ((status = kq_cmp_load(path, &row, err)))
            continue;
        if (!(status = check_row(path, row, *about, err)))
            json_array_append(*rows, row);
        json_decref(row);
    }
    if (status) {
        json_decref(*about);
        json_decref(*rows);
        *about = *rows = NULL;
    }
    return status;
}
