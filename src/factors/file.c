/* Reading factor files. What a file holds is checked for type, shape and finite values before it is used: a
 * factor file may be another program's, and a NaN in a factor would spoil a whole linear. */
#include "factors/file.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/f16.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "factors/imatrix.h"
#include "factors/lacks.h"
#include "format/safetensors_write.h"
#include "source/tensors.h"

struct kq_factor_file {
    char *path, *settings; /* owned */
    kq_st_file **files;    /* owned */
    size_t n_files;
    kq_imatrix_file *imatrix; /* owned; instead of files */
};

void kq_factor_file_close(kq_factor_file *f)
{
    if (!f)
        return;
    for (size_t i = 0; i < f->n_files; i++)
        if (f->files[i])
            kq_st_close(f->files[i]);
    kq_free(f->files);
    kq_imatrix_close(f->imatrix);
    free(f->path);
    free(f->settings);
    kq_free(f);
}

const char *kq_factor_file_settings(const kq_factor_file *f)
{
    return f->settings;
}

/* Open a file that the index lists: it lies beside the index, and must have the same settings. */
static kq_status open_shard(const kq_factor_file *f, const char *name, const char *settings, kq_st_file **out,
                            kq_error *err)
{
    const char *slash = strrchr(f->path, '/');
    char *path;
    kq_status status = kq_format(&path, err, "%.*s%s", (int)(slash ? slash - f->path + 1 : 0), f->path, name);
    if (!status && !(status = kq_st_open(path, out, err))) {
        const char *own = kq_st_meta(*out, "kronq.factors");
        if (!own || strcmp(own, settings))
            status = kq_fail(err, KQ_E_MISMATCH,
                             "%s: is not of the calibration that %s lists; make both again", path, f->path);
    }
    kq_free(path);
    return status;
}

/* PATH is an index: a JSON object that lists the files beside it. */
static kq_status open_index(kq_factor_file *f, const json_t *index, kq_error *err)
{
    const json_t *list = json_object_get(index, "files");
    const char *settings = json_string_value(json_object_get(index, "kronq.factors"));
    if (!settings || !json_is_array(list) || !json_array_size(list) || json_array_size(list) > 100000)
        return kq_fail(err, KQ_E_FORMAT, "%s: is not an index of factor files", f->path);
    if (!(f->files = kq_calloc(json_array_size(list), sizeof *f->files)) || !(f->settings = strdup(settings)))
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", f->path);
    kq_status status = KQ_OK;
    for (f->n_files = 0; f->n_files < json_array_size(list) && !status; f->n_files++) {
        const char *name = json_string_value(json_array_get(list, f->n_files));
        if (!name || strchr(name, '/'))
            return kq_fail(err, KQ_E_FORMAT, "%s: entry %zu of \"files\" is not the name of a file beside it",
                           f->path, f->n_files);
        status = open_shard(f, name, settings, &f->files[f->n_files], err);
    }
    return status;
}

static kq_status open_single(kq_factor_file *f, kq_error *err)
{
    if (!(f->files = kq_calloc(1, sizeof *f->files)))
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", f->path);
    kq_status status = kq_st_open(f->path, &f->files[0], err);
    if (status)
        return status;
    f->n_files = 1;
    const char *settings = kq_st_meta(f->files[0], "kronq.factors");
    if (!settings)
        return kq_fail(err, KQ_E_FORMAT,
                       "%s: is not a factor file (its metadata has no \"kronq.factors\"); "
                       "make one with kronq calibrate",
                       f->path);
    f->settings = strdup(settings);
    return f->settings ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "%s: out of memory", f->path);
}

static kq_status open_imatrix(kq_factor_file *f, kq_error *err)
{
    kq_status status = kq_imatrix_open(f->path, &f->imatrix, err);
    if (!status && !(f->settings = strdup(kq_imatrix_settings(f->imatrix))))
        status = kq_fail(err, KQ_E_MEMORY, "%s: out of memory", f->path);
    return status;
}

kq_status kq_factor_file_open(const char *path, kq_factor_file **out, kq_error *err)
{
    *out = NULL;
    kq_map map;
    kq_status status = kq_map_open(path, &map, err);
    if (status)
        return status;
    json_t *index = map.size && map.data[0] == '{' && map.size < 1 << 24
                        ? json_loadb((const char *)map.data, map.size, JSON_REJECT_DUPLICATES, NULL)
                        : NULL;
    const bool imatrix = !index && kq_imatrix_recognise(map.data, map.size);
    kq_map_close(&map);
    kq_factor_file *f = kq_calloc(1, sizeof *f);
    if (!f || !(f->path = strdup(path)))
        status = kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    else
        status = index ? open_index(f, index, err) : imatrix ? open_imatrix(f, err) : open_single(f, err);
    json_decref(index);
    if (status)
        kq_factor_file_close(f);
    else
        *out = f;
    return status;
}

kq_status kq_factor_file_open_parts(char *const *parts, size_t n, const char *settings, kq_factor_file **out,
                                    kq_error *err)
{
    *out = NULL;
    kq_factor_file *f = kq_calloc(1, sizeof *f);
    kq_status status = KQ_OK;
    if (!f || !(f->path = strdup(n ? parts[0] : "")) || !(f->settings = strdup(settings)) ||
        !(f->files = kq_calloc(n, sizeof *f->files)))
        status = kq_fail(err, KQ_E_MEMORY, "out of memory: factor files");
    for (size_t i = 0; i < n && !status; i++, f->n_files++)
        status = kq_st_open(parts[i], &f->files[i], err);
    if (status)
        kq_factor_file_close(f);
    else
        *out = f;
    return status;
}

static const kq_tensor *find_matrix(const kq_factor_file *f, const char *module, const char *suffix)
{
    char name[KQ_TENSOR_NAME + 16];
    snprintf(name, sizeof name, "%s.%s", module, suffix);
    for (size_t i = 0; i < f->n_files; i++) {
        const kq_tensor *t = kq_st_find(f->files[i], name);
        if (t)
            return t;
    }
    return NULL;
}

/* Does the file say of a module that it has no factors, and why? */
static kq_lack lack_of(const kq_factor_file *f, const char *module)
{
    const char *report = NULL;
    for (size_t i = 0; i < f->n_files && !report; i++)
        report = kq_st_meta(f->files[i], module);
    return kq_lack_in_report(report);
}

static kq_status check_matrix(const kq_tensor *t, size_t order, kq_error *err)
{
    const size_t count = order * (order + 1) / 2;
    if (t->rank != 1 || t->shape[0] != count || (t->dtype != KQ_T_F32 && t->dtype != KQ_T_BF16))
        return kq_fail(
            err, KQ_E_SHAPE,
            "%s: %s is %s with %zu values, expected F32 or BF16 with %zu (a triangle of order %zu)", t->file,
            t->name, kq_dtype_name(t->dtype), t->n_elem, count, order);
    return KQ_OK;
}

static float value_at(const kq_tensor *t, size_t i)
{
    float x;
    uint16_t h;
    if (t->dtype == KQ_T_F32) {
        memcpy(&x, t->data + 4 * i, 4);
        return x;
    }
    memcpy(&h, t->data + 2 * i, 2);
    return kq_bf16_to_f32(h);
}

/* The right type and size, every value finite, and none on the diagonal below zero. */
static kq_status check_values(const kq_tensor *t, size_t order, kq_error *err)
{
    kq_status status = check_matrix(t, order, err);
    for (size_t i = 0, at = 0; i < order && !status; i++)
        for (size_t j = 0; j <= i && !status; j++, at++) {
            const float x = value_at(t, at);
            if (!isfinite(x))
                status = kq_fail(err, KQ_E_NUMERIC, "%s: %s[%zu] is %g, expected a finite number", t->file,
                                 t->name, at, (double)x);
            else if (i == j && x < 0)
                status = kq_fail(err, KQ_E_NUMERIC,
                                 "%s: %s[%zu] is %g, on the diagonal of a factor, expected 0 or more",
                                 t->file, t->name, at, (double)x);
        }
    return status;
}

static kq_status read_matrix(const kq_tensor *t, size_t order, float *H, kq_error *err)
{
    const size_t count = order * (order + 1) / 2;
    float *packed;
    kq_status status = check_values(t, order, err);
    if (!status)
        status = kq_alloc_for((void **)&packed, count, sizeof *packed, t->name, err);
    if (status)
        return status;
    for (size_t i = 0; i < count; i++)
        packed[i] = value_at(t, i);
    kq_factor_unpack(packed, order, H);
    kq_free(packed);
    return KQ_OK;
}

bool kq_factor_file_has(const kq_factor_file *f, const char *module)
{
    return find_matrix(f, module, "H_in") != NULL;
}

static kq_status no_factors(const kq_factor_file *f, const char *module, kq_error *err)
{
    return kq_fail(err, KQ_E_MISMATCH,
                   "%s: holds no factors of %s; calibrate with an --only that includes it", f->path, module);
}

bool kq_factor_file_is_imatrix(const kq_factor_file *f)
{
    return f->imatrix != NULL;
}

kq_status kq_factor_file_check(const kq_factor_file *f, const char *module, size_t m, size_t n, bool both,
                               kq_lack *lack, kq_error *err)
{
    *lack = KQ_LACK_NOTHING;
    if (f->imatrix)
        return kq_imatrix_read(f->imatrix, module, n, NULL, lack, err);
    const kq_tensor *in = find_matrix(f, module, "H_in"), *out = find_matrix(f, module, "H_out");
    if (!in && !out && (*lack = lack_of(f, module)))
        return KQ_OK;
    if (!in)
        return no_factors(f, module, err);
    if (both && !out)
        return kq_fail(
            err, KQ_E_MISMATCH,
            "%s: holds %s.H_in but no %s.H_out, which its method has; make it again with kronq calibrate",
            f->path, module, module);
    kq_status status = check_values(in, n, err);
    return status || !out ? status : check_values(out, m, err);
}

static kq_status read_diagonal(const kq_imatrix_file *f, const char *module, size_t n, float *H_in,
                               kq_lack *lack, kq_error *err)
{
    memset(H_in, 0, n * n * sizeof *H_in);
    /* into the first row, then along the diagonal */
    kq_status status = kq_imatrix_read(f, module, n, H_in, lack, err);
    for (size_t i = n; i-- > 1 && !status;) {
        H_in[i * n + i] = H_in[i];
        H_in[i] = 0;
    }
    return status;
}

kq_status kq_factor_file_read(const kq_factor_file *f, const char *module, size_t m, size_t n, float *H_in,
                              float *H_out, bool *has_out, kq_lack *lack, kq_error *err)
{
    *has_out = false;
    *lack = KQ_LACK_NOTHING;
    if (f->imatrix)
        return read_diagonal(f->imatrix, module, n, H_in, lack, err);
    const kq_tensor *in = find_matrix(f, module, "H_in"), *out = find_matrix(f, module, "H_out");
    if (!in && !out && (*lack = lack_of(f, module)))
        return KQ_OK;
    if (!in)
        return no_factors(f, module, err);
    kq_status status = read_matrix(in, n, H_in, err);
    *has_out = out != NULL;
    if (!status && out)
        status = read_matrix(out, m, H_out, err);
    return status;
}

kq_status kq_factor_file_add(const kq_factor_file *f, const char *module, size_t n, float *H, kq_error *err)
{
    const kq_tensor *in = find_matrix(f, module, "H_in");
    float *one;
    kq_status status =
        in ? kq_alloc_for((void **)&one, n * n, sizeof *one, module, err) : no_factors(f, module, err);
    if (status)
        return status;
    if (!(status = read_matrix(in, n, one, err)))
        for (size_t i = 0; i < n * n; i++)
            H[i] += one[i];
    kq_free(one);
    return status;
}
