/* Tuning a kronq checkpoint: OUT is a folder, and what is trained goes into su, sv and the norms. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "checkpoint/tuned_save.h"
#include "format/json.h"
#include "settings/settings.h"
#include "tune/internal.h"

static kq_status locate(kq_tune_run *r, kq_error *err)
{
    kq_status st = kq_path_in(&r->done_path, err, r->out, "config.json");
    return st ? st : kq_path_in(&r->work_dir, err, r->out, ".kronq-work");
}

static kq_status accept(const kq_tune_run *r, kq_error *err)
{
    if (kq_source_is_kronq(kq_model_file_source(r->file)))
        return KQ_OK;
    return kq_fail(err, KQ_E_ARG, "%s: is not a kronq checkpoint; kronq quantize makes one", r->checkpoint);
}

static char *made_from(const kq_tune_run *r)
{
    json_t *config = kq_json_again(kq_source_config_json(kq_model_file_source(r->file)));
    const char *text =
        json_string_value(json_object_get(json_object_get(config, "quantization_config"), "model"));
    char *copy = text ? strdup(text) : NULL;
    json_decref(config);
    return copy;
}

static bool is_trained(const kq_tune_run *r, size_t layer, kq_linear_id id)
{
    return kq_model_file_bits(r->file, layer, id) != 0;
}

/* The best factors of a tensor, by its name. */
static const float *factors_of(void *ctx, const char *name)
{
    const kq_tune_run *r = ctx;
    const kq_params *p = kq_tuner_params(r->tuner);
    kq_model_tensor t;
    char weight[KQ_TENSOR_NAME + 16];
    const size_t len = strlen(name);
    if (kq_model_tensor_find(r->p.cfg, name, &t)) {
        const size_t at = kq_params_of_tensor(p, &t);
        return t.role == KQ_ROLE_LINEAR || at == SIZE_MAX ? NULL : r->state.best + at;
    }
    if (len < 4 || len > KQ_TENSOR_NAME || (strcmp(name + len - 3, ".su") && strcmp(name + len - 3, ".sv")))
        return NULL;
    snprintf(weight, sizeof weight, "%.*s.weight", (int)(len - 3), name);
    if (!kq_model_tensor_find(r->p.cfg, weight, &t) || t.role != KQ_ROLE_LINEAR)
        return NULL;
    const size_t at = p->linear_at[t.layer * KQ_N_LINEAR + t.linear];
    if (at == SIZE_MAX)
        return NULL;
    return r->state.best + at + (name[len - 1] == 'u' ? t.rows : 0);
}

static char *command(const kq_tune_run *r)
{
    char *text = NULL;
    size_t size, n;
    FILE *f = open_memstream(&text, &size);
    if (!f)
        return NULL;
    fprintf(f, "kronq tune CHECKPOINT --reference %s -o OUT", kq_path_name(r->opt.reference));
    for (size_t i = 0; i < r->opt.n_text; i++)
        fprintf(f, " --text %s", kq_text_name(r->opt.text[i]));
    const kq_setting *s = kq_settings(&n);
    for (size_t i = 0; i < n; i++)
        if ((s[i].takers & KQ_FOR_TUNE) && !strcmp(s[i].group, "tuning") && strcmp(s[i].name, "text") &&
            !kq_setting_is_default(KQ_TUNE_OPTIONS, &r->opt, &s[i]))
            kq_setting_print(KQ_TUNE_OPTIONS, &r->opt, &s[i], f);
    fprintf(f, " --seed %llu", (unsigned long long)r->opt.common.seed);
    return fclose(f) ? (free(text), NULL) : text;
}

static kq_status save(kq_tune_run *r, kq_error *err)
{
    json_t *tuned = kq_tune_facts(r);
    char *line = command(r);
    kq_status st = tuned && line ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: the checkpoint");
    if (!st)
        st = kq_tuned_checkpoint_save(&(kq_tuned_save){.file = r->file,
                                                       .reference = r->p.src,
                                                       .dir = r->out,
                                                       .shard_size = r->opt.shard_size,
                                                       .factors = factors_of,
                                                       .ctx = r,
                                                       .tuned = tuned,
                                                       .command = line},
                                      &r->file_bytes, err);
    json_decref(tuned);
    free(line);
    return st;
}

kq_status kq_tuned_config_check(const kq_tune_run *r, const char *config_path, kq_error *err)
{
    char *text, *there_text = NULL, *now_text = NULL;
    size_t size;
    const char *key;
    json_t *value;
    kq_status st = kq_file_read(config_path, 1 << 26, &text, &size, err);
    if (st)
        return st;
    json_t *config = json_loadb(text, size, 0, NULL),
           *tuned = json_object_get(json_object_get(config, "quantization_config"), "tuned");
    kq_free(text);
    json_object_foreach(r->settings, key, value) {
        json_t *there = json_object_get(tuned, key);
        if (json_equal(there, value) || st)
            continue;
        there_text = kq_job_setting_text(there);
        now_text = kq_job_setting_text(value);
        st = kq_fail(err, KQ_E_MISMATCH,
                     "%s: the checkpoint there was tuned with %s %.200s, now it is %.200s; choose another "
                     "output or remove it",
                     config_path, key, there_text ? there_text : "?", now_text ? now_text : "?");
    }
    free(there_text);
    free(now_text);
    json_decref(config);
    return st;
}

static kq_status check_complete(const kq_tune_run *r, kq_error *err)
{
    return kq_tuned_config_check(r, r->done_path, err);
}

const kq_tune_kind kq_tune_of_checkpoint = {.trained = &kq_trained_scales,
                                            .locate = locate,
                                            .accept = accept,
                                            .made_from = made_from,
                                            .is_trained = is_trained,
                                            .save = save,
                                            .check_complete = check_complete};
