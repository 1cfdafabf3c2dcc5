/* Tuning a GGUF: OUT is a file, a copy of the other with new F16 scales of its blocks and new norms. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/text.h"
#include "checkpoint/tuned_gguf.h"
#include "format/gguf.h"
#include "settings/settings.h"
#include "tune/internal.h"

static kq_status locate(kq_tune_run *r, kq_error *err)
{
    if (kq_path_is_dir(r->out))
        return kq_fail(err, KQ_E_ARG, "%s: is a folder, expected the name of a GGUF file to write", r->out);
    kq_status st = kq_format(&r->done_path, err, "%s", r->out);
    return st ? st : kq_format(&r->work_dir, err, "%s.work", r->out);
}

static kq_status accept(const kq_tune_run *r, kq_error *err)
{
    return kq_tuned_gguf_check(kq_model_file_source(r->file), err);
}

/* What kronq quantize writes says so in kronq.settings. */
static char *made_from(const kq_tune_run *r)
{
    const kq_gguf *g = kq_source_gguf(kq_model_file_source(r->file));
    const char *text;
    size_t size;
    const kq_gguf_kv *kv = kq_gguf_find(g, "kronq.settings");
    if (!kv || kv->is_array || !kq_gguf_str(kv, 0, &text, &size))
        return NULL;
    json_t *settings = json_loadb(text, size, 0, NULL);
    const char *model = json_string_value(json_object_get(json_object_get(settings, "factors"), "model"));
    char *copy = model ? strdup(model) : NULL;
    json_decref(settings);
    return copy;
}

static const kq_tensor *find(const kq_tune_run *r, size_t layer, kq_linear_id id)
{
    const kq_source *src = kq_model_file_source(r->file);
    return kq_source_find(src, kq_model_linear(kq_source_config(src), layer, id).name);
}

static bool is_trained(const kq_tune_run *r, size_t layer, kq_linear_id id)
{
    return kq_block_scales_of(find(r, layer, id)->dtype).n != 0;
}

/* A tied model has no tensor of the head. */
static bool trains_rows(const kq_tune_run *r, bool embedding)
{
    const kq_tensor *t = kq_source_find(kq_model_file_source(r->file),
                                        embedding ? "model.embed_tokens.weight" : "lm_head.weight");
    return t && kq_block_scales_of(t->dtype).n;
}

static const float *factors_of(void *ctx, const char *name)
{
    const kq_tune_run *r = ctx;
    kq_model_tensor t;
    if (!kq_model_tensor_find(r->p.cfg, name, &t))
        return NULL;
    const size_t at = kq_params_of_tensor(kq_tuner_params(r->tuner), &t);
    return at == SIZE_MAX ? NULL : r->state.best + at;
}

static kq_status save(kq_tune_run *r, kq_error *err)
{
    kq_tuned_gguf_saved saved;
    kq_status st = kq_tuned_gguf_save(
        &(kq_tuned_gguf){
            .src = kq_model_file_source(r->file), .path = r->out, .factors = factors_of, .ctx = r},
        &saved, err);
    r->file_bytes = saved.file_bytes;
    r->n_kept_scales = saved.n_kept;
    return st;
}

/* The file says nothing of its tuning, so that only its bytes can be compared. */
static kq_status check_complete(const kq_tune_run *r, kq_error *err)
{
    return kq_tuned_gguf_compare(kq_model_file_source(r->file), r->done_path, err);
}

/* How many matrices of each type were trained, and how many keep their weights. */
static void report(const kq_tune_run *r, json_t *o)
{
    json_t *trained = json_object(), *kept = json_object();
    const kq_source *src = kq_model_file_source(r->file);
    for (size_t i = 0; i < kq_source_n_tensors(src); i++) {
        const kq_tensor *t = kq_source_tensor(src, i);
        if (t->rank != 2)
            continue;
        json_t *to = kq_block_scales_of(t->dtype).n ? trained : kept;
        const char *type = kq_dtype_name(t->dtype);
        json_object_set_new(to, type, json_integer(json_integer_value(json_object_get(to, type)) + 1));
    }
    json_object_set_new(o, "trained_matrices", trained);
    json_object_set_new(o, "kept_matrices", kept);
    json_object_set_new(o, "kept_scales", json_integer((json_int_t)r->n_kept_scales));
}

const kq_tune_kind kq_tune_of_gguf = {.trained = &kq_trained_blocks,
                                      .locate = locate,
                                      .accept = accept,
                                      .made_from = made_from,
                                      .is_trained = is_trained,
                                      .trains_rows = trains_rows,
                                      .save = save,
                                      .check_complete = check_complete,
                                      .report = report};
