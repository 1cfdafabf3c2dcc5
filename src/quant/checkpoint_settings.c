/* config.json keeps the settings for two readers: the next run, which must not take another checkpoint for
 * its own, and people, who want to know how it was made. checkpoint_settings.h. */
#include "quant/checkpoint_settings.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "quant/aim.h"
#include "sequential/rounding.h"
#include "settings/settings.h"

char *kq_checkpoint_settings(kq_output *o)
{
    json_object_set_new(o->settings, "sigma_reg", json_real(o->opt.sigma_reg));
    json_object_set_new(o->settings, "shrink", json_real(o->opt.shrink));
    json_object_set_new(o->settings, "channel_scales", json_string(o->opt.channel_scales));
    json_object_set_new(o->settings, "sequential", json_string(o->opt.sequential));
    kq_bits_settings(&o->opt, o->settings);
    if (kq_aim_given(&o->opt))
        json_object_set_new(o->settings, "forecast_kld",
                            json_real(o->bits->expected.linears_kld + o->bits->expected.rows_kld));
    json_object_set_new(o->settings, "seed", json_integer((json_int_t)o->opt.common.seed));
    return json_dumps(o->settings, JSON_COMPACT);
}

/* Did an aim choose this option's value? Then the command has the aim instead. */
static bool was_chosen(const kq_quantize_options *o, const char *name)
{
    return kq_aim_given(o) && ((!strcmp(name, "embed_bits") && !o->keep_embed_bits) ||
                               (!strcmp(name, "head_bits") && !o->keep_head_bits));
}

/* Is it in the command although it has its default, because an aim would choose it otherwise? */
static bool is_kept(const kq_quantize_options *o, const char *name)
{
    return kq_aim_given(o) && ((!strcmp(name, "embed_bits") && o->keep_embed_bits) ||
                               (!strcmp(name, "head_bits") && o->keep_head_bits));
}

/* The options with one of `marks` that are not at their defaults, but for those that
 * kq_checkpoint_command writes itself. */
static void add_options(FILE *f, const kq_quantize_options *o, unsigned marks)
{
    size_t n;
    const kq_setting *s = kq_settings(&n);
    for (size_t i = 0; i < n; i++)
        if ((s[i].marks & marks) && (s[i].takers & KQ_FOR_QUANTIZE) && !(s[i].marks & KQ_WRITTEN_APART) &&
            strcmp(s[i].name, "seq_len") && strcmp(s[i].name, "seed") && strcmp(s[i].name, "sequential") &&
            !was_chosen(o, s[i].name) &&
            (is_kept(o, s[i].name) || !kq_setting_is_default(KQ_QUANTIZE_OPTIONS, o, &s[i])))
            kq_setting_print(KQ_QUANTIZE_OPTIONS, o, &s[i], f);
}

char *kq_checkpoint_command(const kq_output *output)
{
    const kq_quantize_options *o = &output->opt;
    const kq_calibration *c = &o->calibration;
    const json_t *calibration = json_object_get(output->settings, "calibration");
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    if (!f)
        return NULL;
    fprintf(f, "kronq quantize %s -o OUT", kq_path_name(output->work->model));
    if (o->most_bytes)
        fprintf(f, " --size %zu", o->most_bytes);
    else if (o->most_bpw > 0)
        fprintf(f, " --bpw %g", o->most_bpw);
    else if (o->most_kld > 0)
        fprintf(f, " --kld %g", o->most_kld);
    else
        fprintf(f, " --bits %g", o->bits);
    for (size_t i = 0; i < o->n_module_bits; i++)
        fprintf(f, " --module-bits '%s'", o->module_bits[i]);
    if (o->factors)
        fprintf(f, " --factors %s", kq_path_name(o->factors));
    const bool wanted = kq_sequential_wanted(o);
    for (size_t i = 0; i < c->n_text && (!o->factors || wanted); i++)
        fprintf(f, " --text %s", kq_text_name(c->text[i]));
    if (calibration && !o->factors)
        fprintf(f, " --tokens %lld --seq-len %lld",
                json_integer_value(json_object_get(calibration, "tokens")),
                json_integer_value(json_object_get(calibration, "seq_len")));
    if (!o->factors && strcmp(c->method, kq_quantize_defaults().calibration.method))
        fprintf(f, " --method %s", c->method);
    if (!o->factors)
        add_options(f, o, KQ_IN_CALIBRATION | KQ_IN_FACTORS);
    add_options(f, o, KQ_IN_CHECKPOINT);
    kq_quantize_options unsaid = *o;
    unsaid.sequential = "auto";
    if (kq_sequential_wanted(&unsaid) != wanted)
        fprintf(f, " --sequential %s", wanted ? "yes" : "none");
    fprintf(f, " --seed %llu", (unsigned long long)o->common.seed);
    return fclose(f) ? (free(text), NULL) : text;
}

static bool same_number(const json_t *a, const json_t *b)
{
    const double x = json_number_value(a), y = json_number_value(b);
    /* config.json keeps nine digits */
    return json_is_number(a) && json_is_number(b) && fabs(x - y) <= 1e-8 * fabs(y);
}

/* What these settings would have written into config.json, qc being its "quantization_config"; new. NULL:
 * out of memory. */
static json_t *expected_config(const kq_output *output, const json_t *qc)
{
    const kq_quantize_options *o = &output->opt;
    static const char *const aims[] = {"size_asked", "bpw_asked", "kld_asked"};
    json_t *expected = json_object();
    bool ok = true;
    for (size_t i = 0; i < sizeof aims / sizeof *aims; i++) /* the first to be compared */
        if (json_object_get(qc, aims[i]))
            ok = !json_object_set_new(expected, aims[i], json_null()) && ok;
    ok = ok && kq_settings_write(KQ_QUANTIZE_OPTIONS, o, KQ_IN_CHECKPOINT, NULL, expected);
    json_object_del(expected, "only"); /* what it picks is counted */
    if (output->p.cfg->tie_embeddings)
        json_object_del(expected, "head_bits");
    ok = !json_object_update_missing(expected, output->settings) && ok;
    ok = kq_bits_settings(o, expected) && ok;
    json_object_del(expected, "bits_asked"); /* "bits" tells it where all modules have the same */
    if (kq_aim_given(o))
        kq_bits_forget_chosen(o, expected);
    else
        ok = !json_object_set_new(expected, json_object_get(qc, "bits_asked") ? "bits_asked" : "bits",
                                  kq_bits_number(o->bits)) &&
             ok;
    if (json_object_get(qc, "module_bits_rules") && !json_object_get(expected, "module_bits_rules"))
        ok = !json_object_set_new(expected, "module_bits_rules", json_null()) && ok;
    if (ok)
        return expected;
    json_decref(expected);
    return NULL;
}

static kq_status check_config(const kq_output *output, const json_t *qc, const json_t *expected,
                              kq_error *err)
{
    const char *path = output->done_path, *key;
    json_t *value;
    const size_t modules = json_object_size(json_object_get(qc, "module_bits"));
    if (modules != output->p.n_selected)
        return kq_fail(err, KQ_E_MISMATCH,
                       "%s: the checkpoint there has %zu quantized modules, now --only picks %zu; choose "
                       "another output or remove it",
                       path, modules, output->p.n_selected);
    json_object_foreach((json_t *)expected, key, value) {
        const json_t *there = json_object_get(qc, key);
        if (json_equal(there, value) || same_number(there, value) ||
            (!there && !strcmp(key, "shrink") && output->opt.shrink == 0) || /* older ones do not tell */
            (!there && !strcmp(key, "sequential") && !strcmp(output->opt.sequential, "none")))
            continue;
        char *a = kq_job_setting_text(there), *b = kq_job_setting_text(value);
        kq_fail(err, KQ_E_MISMATCH,
                "%s: the checkpoint there was made with %s %.200s, now it is %.200s; choose "
                "another output or remove it",
                path, key, a ? a : "?", b ? b : "?");
        free(a);
        free(b);
        return KQ_E_MISMATCH;
    }
    return KQ_OK;
}

/* Is the checkpoint there tuned, or was that tried, exactly where --tune asks for it? With which settings is
 * compared by the room tune. */
static kq_status check_tune(const kq_output *output, const json_t *qc, kq_error *err)
{
    const char *there = json_object_get(qc, "tuned") ? "scales" : "none",
               *now = output->opt.tune ? output->opt.tune : "none";
    return strcmp(there, now)
               ? kq_fail(err, KQ_E_MISMATCH,
                         "%s: the checkpoint there was made with tune %s, now it is %s; choose "
                         "another output or remove it",
                         output->done_path, there, now)
               : KQ_OK;
}

kq_status kq_checkpoint_check(const kq_output *output, kq_error *err)
{
    const char *path = output->done_path;
    char *text;
    size_t size;
    kq_status status = kq_file_read(path, 1 << 26, &text, &size, err);
    if (status)
        return status;
    json_t *config = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL),
           *qc = json_object_get(config, "quantization_config"), *expected = NULL;
    const char *kind = json_string_value(json_object_get(qc, "quant_method"));
    kq_free(text);
    if (!kind || strcmp(kind, "kronq"))
        status = kq_fail(err, KQ_E_MISMATCH, "%s: is not of a kronq checkpoint; choose another output", path);
    else if (!(expected = expected_config(output, qc)))
        status = kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    else if (!(status = check_config(output, qc, expected, err)))
        status = check_tune(output, qc, err);
    json_decref(config);
    json_decref(expected);
    return status;
}
