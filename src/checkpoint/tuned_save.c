/* A tuned checkpoint is the old one with other scales and norms. Tensors are copied byte for byte but for
 * those; the version of the format becomes today's, because version 1 has no room for scales. */
#include "checkpoint/tuned_save.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/f16.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "checkpoint/card.h"
#include "checkpoint/side_files.h"
#include "format/json.h"

static bool ends_with(const char *name, const char *end)
{
    const size_t n = strlen(name), k = strlen(end);
    return n >= k && !strcmp(name + n - k, end);
}

static bool is_scale(const kq_tensor *t)
{
    return t->rank == 1 && (ends_with(t->name, ".su") || ends_with(t->name, ".sv"));
}

/* Scales are F16 in any case: those of version 1 are signs in I8. */
static kq_dtype new_dtype(const kq_tuned_save *o, const kq_tensor *t)
{
    return is_scale(t) ? KQ_T_F16 : o->factors(o->ctx, t->name) ? KQ_T_F32 : t->dtype;
}

static kq_status write_tensor(void *ctx, size_t i, kq_st_writer *w, kq_error *err)
{
    const kq_tuned_save *o = ctx;
    const kq_source *src = kq_model_file_source(o->file);
    const kq_tensor *t = kq_source_tensor(src, i);
    const float *by = o->factors(o->ctx, t->name);
    const bool half = is_scale(t);
    if (!by && !half) {
        kq_status st = kq_st_writer_data(w, t->data, t->size_bytes, err);
        kq_map_release(t->data, t->size_bytes);
        return st;
    }
    float *x;
    kq_status st = kq_alloc_for((void **)&x, t->n_elem, sizeof *x, t->name, err);
    if (!st)
        st = kq_source_read_f32(src, t, 0, t->n_elem, x, err);
    uint16_t *h = (uint16_t *)(void *)x; /* value j is read before half j / 2 is written */
    for (size_t j = 0; j < t->n_elem && !st; j++) {
        const float v = by ? x[j] * by[j] : x[j];
        const uint16_t packed = kq_f32_to_f16(v);
        if (!isfinite(v) || (half && (packed & 0x7c00) == 0x7c00))
            st = kq_fail(err, KQ_E_NUMERIC, "%s: %s[%zu] would become %g, which is beyond its type", t->file,
                         t->name, j, (double)v);
        if (half)
            memcpy(h + j, &packed, sizeof packed);
        else
            x[j] = v;
    }
    if (!st)
        st = kq_st_writer_data(w, x, t->n_elem * (half ? 2 : 4), err);
    kq_free(x);
    return st;
}

static kq_status write_tensors(const kq_tuned_save *o, size_t *file_bytes, kq_error *err)
{
    const kq_source *src = kq_model_file_source(o->file);
    const size_t n = kq_source_n_tensors(src);
    kq_st_decl *decl;
    kq_status st = kq_alloc_for((void **)&decl, n, sizeof *decl, "the checkpoint's tensors", err);
    for (size_t i = 0; i < n && !st; i++) {
        const kq_tensor *t = kq_source_tensor(src, i);
        decl[i] = (kq_st_decl){.name = t->name, .dtype = new_dtype(o, t), .rank = t->rank};
        memcpy(decl[i].shape, t->shape, sizeof decl[i].shape);
    }
    if (!st)
        st = kq_st_write_shards(o->dir, o->shard_size, decl, n, write_tensor, (void *)o, file_bytes, err);
    kq_free(decl);
    return st;
}

static double bits_of(void *ctx, size_t layer, kq_linear_id id)
{
    return kq_model_file_bits(ctx, layer, id);
}

/* Of the linears and the parameters; the file's size is not meant. */
static void sizes_of(const kq_model_file *f, kq_save_report *sizes)
{
    kq_checkpoint_plan(kq_model_file_source(f), 16, 16, 0, bits_of, (void *)f, sizes);
}

/* config.json's quantization_config as it will be: today's version, "tuned", and the sizes. */
static kq_status new_config(const kq_tuned_save *o, size_t file_bytes, json_t **out, kq_error *err)
{
    const kq_source *src = kq_model_file_source(o->file);
    json_t *config = kq_json_again(kq_source_config_json(src)),
           *qc = json_object_get(config, "quantization_config");
    kq_save_report sizes;
    sizes_of(o->file, &sizes);
    if (!qc || json_object_set_new(qc, "format_version", json_integer(KQ_FORMAT_VERSION)) ||
        json_object_set_new(qc, "bpw", json_real(sizes.bpw_linear)) ||
        json_object_set_new(qc, "bpw_file",
                            json_real(8.0 * (double)file_bytes / (double)sizes.n_parameters)) ||
        json_object_set(qc, "tuned", (json_t *)o->tuned)) {
        json_decref(config);
        return kq_fail(err, KQ_E_MEMORY, "%s/config.json: out of memory", o->dir);
    }
    *out = config;
    return KQ_OK;
}

kq_status kq_tuned_checkpoint_save(const kq_tuned_save *o, size_t *file_bytes, kq_error *err)
{
    json_t *config = NULL;
    kq_save_report sizes;
    kq_status st = write_tensors(o, file_bytes, err);
    if (st || (st = kq_write_hf_side_files(kq_model_file_source(o->file), o->dir, err)) ||
        (st = kq_write_modeling(o->dir, err)) || (st = new_config(o, *file_bytes, &config, err)))
        return st;
    sizes_of(o->file, &sizes);
    const kq_card_facts facts = {.command = o->command,
                                 .predicted_loss = NAN,
                                 .relative_mse = NAN,
                                 .file_bytes = *file_bytes,
                                 .n_parameters = sizes.n_parameters};
    if (!(st = kq_card_quantized(o->reference, json_object_get(config, "quantization_config"), &facts, o->dir,
                                 err)))
        st = kq_write_config(o->dir, config, err);
    json_decref(config);
    return st;
}
