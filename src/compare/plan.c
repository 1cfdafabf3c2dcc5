/* What a comparison has to do: every row is checked before any work, so that a wrong one is found now and not
 * after a night; then it is settled which factors and which passes over the text the rows share, and what the
 * folder has. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/locale.h"
#include "base/mem.h"
#include "base/options.h"
#include "compare/compare.h"
#include "eval/eval.h"
#include "prepare/plan.h"
#include "quant/bits.h"
#include "settings/settings.h"
#include "tasks/tasks.h"
#include "text/text.h"

kq_quantize_options kq_cmp_options(const kq_cmp *c, const kq_quantize_options *opt)
{
    kq_quantize_options o = *opt;
    const uint64_t seed = o.common.seed;
    o.common = c->opt->common;
    o.common.seed = seed;
    o.factors = NULL;
    /* a factor file that we made is not to be checked against what the user typed */
    o.calibration.given = NULL;
    o.calibration.n_given = 0;
    o.resume = true; /* what is left over in DIR is ours */
    return o;
}

static void hash_text(const char *text, char *hex, size_t digits)
{
    char all[17];
    snprintf(all, sizeof all, "%016llx", (unsigned long long)kq_hash64(text, strlen(text), 0));
    memcpy(hex, all, digits);
    hex[digits] = 0;
}

/* A file name that people can read, out of the row's spec: letters, digits and a few harmless signs; with a
 * hash where the spec has others or is long. */
static void name_row(kq_cmp_row *r)
{
    char hex[17];
    size_t n = 0;
    bool changed = false;
    for (const char *s = r->spec; *s; s++) {
        const bool plain = (*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || (*s >= '0' && *s <= '9') ||
                           strchr(".=-+", *s);
        if (n == 96) {
            changed = true;
            break;
        }
        changed = changed || (!plain && *s != ':');
        r->name[n++] = plain ? *s : '_';
    }
    if (!n || r->name[0] == '.' || r->name[0] == '-')
        changed = true, r->name[0] = '_', n += !n;
    if (changed) {
        hash_text(r->spec, hex, 8);
        n += (size_t)snprintf(r->name + n, sizeof r->name - n, "_%s", hex);
    }
    snprintf(r->name + n, sizeof r->name - n, "-%gbit-seed%llu", r->opt.bits,
             (unsigned long long)r->opt.common.seed);
}

/* The seed that the factors depend on; 0: none, they are the same for every seed. Random are text that the
 * model writes, labels that are drawn, and a random start. */
static uint64_t factor_seed(const kq_prepared *p)
{
    const kq_calibration *c = &p->opt->calibration;
    const bool draws = c->sampled_labels && kq_method_needs_gradients(p->factor.method),
               starts = c->start_random && kq_method_iterates(p->factor.method);
    return !c->n_text || draws || starts ? p->opt->common.seed : 0;
}

static size_t factor_bytes(const kq_prepared *p, bool bf16)
{
    size_t bytes = 0;
    for (size_t l = 0; l < p->cfg->n_layer; l++)
        for (int id = 0; id < KQ_N_LINEAR; id++) {
            size_t m, n;
            kq_linear_shape(p->cfg, (kq_linear_id)id, &m, &n);
            if (p->selected[l] >> id & 1)
                bytes += (n * (n + 1) / 2 + (p->factor.method == KQ_INPUT_ONLY ? 0 : m * (m + 1) / 2)) *
                         (bf16 ? 2 : 4);
        }
    return bytes;
}

/* Can one pass over the text make both? It can when text, sequences, labels and seed are the same. */
static bool same_pass(const kq_cmp_factors *a, const kq_cmp_factors *b)
{
    const json_t *x = json_object_get(a->settings, "calibration"),
                 *y = json_object_get(b->settings, "calibration");
    size_t n;
    const kq_setting *s = kq_settings(&n);
    bool same =
        a->seed == b->seed && json_equal(json_object_get(x, "text_hash"), json_object_get(y, "text_hash"));
    for (size_t i = 0; i < n; i++) {
        const json_t *u = json_object_get(x, s[i].name), *v = json_object_get(y, s[i].name);
        same = same && (!(s[i].marks & KQ_OF_THE_PASS) || json_equal(u, v) || (!u && !v));
    }
    return same;
}

/* The factors that a prepared row needs: those there are already, or new ones. */
static kq_status find_factors(kq_cmp *c, kq_prepared *p, int *which, kq_error *err)
{
    kq_cmp_factors f = {.calibration = p->opt->calibration};
    kq_quantize_options opt = *p->opt;
    char hex[17];
    opt.common.seed = f.seed = factor_seed(p);
    p->opt = &opt;
    f.settings = kq_prepare_settings(p, err);
    f.bytes = factor_bytes(p, c->opt->factor_bf16);
    if (!f.settings)
        return KQ_E_MEMORY;
    json_object_set_new(f.settings, "only", json_string(opt.only ? opt.only : ""));
    json_object_set_new(f.settings, "factor_dtype", json_string(c->opt->factor_bf16 ? "bf16" : "f32"));
    char *text = json_dumps(f.settings, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(17));
    if (!text) {
        json_decref(f.settings);
        return kq_fail(err, KQ_E_MEMORY, "out of memory: settings");
    }
    hash_text(text, hex, 12);
    free(text);
    snprintf(f.name, sizeof f.name, "%s-%s", kq_method_name(p->factor.method), hex);
    for (size_t i = 0; i < c->n_factors; i++)
        if (json_equal(c->factors[i].settings, f.settings)) {
            *which = (int)i;
            json_decref(f.settings);
            return KQ_OK;
        }
    f.pass = c->n_passes;
    for (size_t i = 0; i < c->n_factors && f.pass == c->n_passes; i++)
        if (same_pass(&c->factors[i], &f))
            f.pass = c->factors[i].pass;
    c->n_passes += f.pass == c->n_passes;
    *which = (int)c->n_factors;
    c->factors[c->n_factors++] = f;
    return KQ_OK;
}

/* A row before r with the same calibration and seed, whose options have been checked: its factors are r's
 * too, and need not be settled again. */
static const kq_cmp_row *same_calibration(const kq_cmp *c, const kq_cmp_row *r)
{
    const kq_quantize_options *a = &r->opt;
    for (const kq_cmp_row *s = c->row; s < r; s++)
        if (!memcmp(&a->calibration, &s->opt.calibration, sizeof a->calibration) &&
            a->common.seed == s->opt.common.seed && a->only == s->opt.only &&
            a->sigma_reg == s->opt.sigma_reg && a->shrink == s->opt.shrink &&
            !strcmp(a->channel_scales, s->opt.channel_scales) && a->bits == floor(a->bits) &&
            !a->n_module_bits)
            return s;
    return NULL;
}

/* Refuse before any work what is sure not to fit into memory: the factors of one row alone, or the
 * evaluation. */
static kq_status check_memory(const kq_cmp *c, const kq_prepared *p, kq_error *err)
{
    size_t memory, disk;
    kq_eval_options o;
    kq_sweep s = kq_prepare_sweep(p, NULL);
    kq_status status = p->opt->memory ? kq_plan_settle(p, &s, NULL, 0, &memory, &disk, err) : KQ_OK;
    if (status || !c->opt->n_text || !c->opt->memory ||
        (status = kq_eval_options_of(&c->opt->common, &o, err)))
        return status;
    o.ctx = c->opt->ctx ? c->opt->ctx : o.ctx < p->cfg->max_position ? o.ctx : p->cfg->max_position;
    o.chunks = c->opt->chunks;
    o.memory = c->opt->memory;
    return kq_evaluate_fits(p->cfg, p->cfg, &o, err);
}

/* r is c's last row. */
static kq_status open_row(kq_cmp *c, kq_cmp_row *r, const kq_compare_row *in, kq_error *err)
{
    kq_prepared p = {0};
    kq_bits bits = {0};
    kq_code code;
    kq_method method;
    kq_status status;
    *r = (kq_cmp_row){.spec = in->spec, .opt = kq_cmp_options(c, &in->options), .factors = KQ_CMP_NO_FACTORS};
    kq_quantize_options *o = &r->opt;
    if ((status = kq_method_parse(o->calibration.method, &method, err)) || (status = kq_bits_check(o, err)) ||
        (status = kq_code_parse(o->code, &code, err)))
        return status;
    if (!kq_method_needs_gradients(method)) { /* they look at inputs alone */
        o->calibration.sampled_labels = false;
        o->calibration.draws = 1;
    }
    name_row(r);
    for (const kq_cmp_row *s = c->row; s < r; s++)
        if (!strcmp(s->name, r->name))
            return kq_fail(err, KQ_E_ARG, "it is asked for twice with %g bits and seed %llu", o->bits,
                           (unsigned long long)o->common.seed);
    const kq_cmp_row *same = same_calibration(c, r);
    if (same)
        r->factors = same->factors;
    else if (!(status = kq_prepare(c->model, o, true, &p, err)) && !(status = kq_bits_open(&p, &bits, err)) &&
             !(status = kq_bits_check_method(&bits, err)) && !(status = check_memory(c, &p, err))) {
        if (*c->fingerprint)
            memcpy(p.fingerprint, c->fingerprint, sizeof p.fingerprint);
        else if (!(status = kq_prepare_fingerprint(&p, err)))
            memcpy(c->fingerprint, p.fingerprint, sizeof c->fingerprint);
        if (!status && method != KQ_NONE)
            status = find_factors(c, &p, &r->factors, err);
    }
    kq_bits_free(&bits);
    kq_prepared_free(&p);
    if (status)
        return status;
    if ((r->settings = kq_quantize_settings(o))) {
        if (o->shrink == 0) /* rows made before there was one go on being recognised */
            json_object_del(r->settings, "shrink");
        json_object_set_new(r->settings, "factors",
                            r->factors < 0 ? json_string("none")
                                           : json_incref(c->factors[r->factors].settings));
    }
    return r->settings ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: settings");
}

/* The hash of a text as far as it is measured (how says what of it), or of a task's file (how NULL). */
static kq_status hash_file(const char *path, const kq_text_how *how, char hex[33], kq_error *err)
{
    kq_hash *h = kq_hash_new();
    char *text = NULL;
    size_t size;
    kq_status status = h ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    if (!status && how)
        status = kq_text_hash(path, how, false, h, NULL, err);
    else if (!status && !(status = kq_text_load(path, KQ_TEXT_MOST_DOCUMENT, &text, &size, err)))
        kq_hash_add(h, text, size);
    kq_free(text);
    if (h)
        kq_hash_finish(h, hex);
    return status;
}

/* compare.json as this call has it. tok: writes the conversations of the texts, so that what the model's
 * template refuses is known now. */
static kq_status describe(kq_cmp *c, const kq_tokenizer *tok, kq_error *err)
{
    const kq_compare_options *o = c->opt;
    json_t *texts = json_array(), *tasks = json_array(), *rows = json_array();
    char hex[33];
    kq_isa isa;
    kq_compute compute;
    const kq_text_how how = {.options = o->reading,
                             .tok = tok,
                             .reach =
                                 o->chunks ? kq_text_reach(o->chunks * (o->ctx ? o->ctx : 2048)) : SIZE_MAX,
                             .common = &o->common};
    kq_status status = kq_isa_pick(o->common.isa, &isa, err);
    if (!status)
        status = kq_compute_pick(o->common.compute, isa, &compute, err);
    for (size_t i = 0; i < o->n_text && !status; i++) {
        for (size_t j = 0; j < i && !status; j++)
            if (!strcmp(kq_text_name(o->text[i]), kq_text_name(o->text[j])))
                status =
                    kq_fail(err, KQ_E_ARG, "%s and %s: two texts of one name, by which the tables call them",
                            o->text[j], o->text[i]);
        if (!status && !(status = hash_file(o->text[i], &how, hex, err)))
            json_array_append_new(texts,
                                  json_pack("{s:s, s:s}", "name", kq_text_name(o->text[i]), "hash", hex));
    }
    for (size_t i = 0; i < o->n_tasks && !status; i++)
        if (!(status = hash_file(o->tasks[i].file, NULL, hex, err)))
            json_array_append_new(tasks, json_pack("{s:s, s:s, s:s}", "name", o->tasks[i].name, "file",
                                                   kq_path_name(o->tasks[i].file), "hash", hex));
    for (size_t i = 0; i < c->n; i++)
        json_array_append_new(rows, json_string(c->row[i].name));
    if (!status)
        c->about = json_pack("{s:i, s:s, s:s, s:s, s:O, s:I, s:I, s:O, s:I, s:s, s:s, s:O}", "format", 1,
                             "kronq", kq_version(), "model", kq_path_name(c->model), "fingerprint",
                             c->fingerprint, "texts", texts, "ctx", (json_int_t)o->ctx, "chunks",
                             (json_int_t)o->chunks, "tasks", tasks, "limit", (json_int_t)o->limit, "isa",
                             kq_isa_name(isa), "compute", compute == KQ_BF16 ? "bf16" : "f32", "rows", rows);
    if (c->about && o->reading.spell_special)
        json_object_set_new(c->about, "parse_special", json_false());
    if (c->about && o->reading.format && strcmp(o->reading.format, "auto"))
        json_object_set_new(c->about, "text_format", json_string(o->reading.format));
    json_decref(texts);
    json_decref(tasks);
    json_decref(rows);
    return status || c->about ? status : kq_fail(err, KQ_E_MEMORY, "out of memory: compare.json");
}

/* The first member that differs between the two objects, NULL when none does; text: "then ..., now ...". */
static const char *differs(const json_t *then, const json_t *now, char text[500])
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)now, key, value) {
        const json_t *old = json_object_get(then, key);
        if (json_equal(old, value))
            continue;
        if (json_is_object(old) && json_is_object(value)) {
            const char *inner = differs(old, value, text);
            if (inner)
                return inner;
        }
        char *a = kq_job_setting_text(old), *b = kq_job_setting_text(value);
        snprintf(text, 500, "then %.200s, now %.200s", a ? a : "?", b ? b : "?");
        free(a);
        free(b);
        return key;
    }
    json_object_foreach((json_t *)then, key, value)
        if (!json_object_get(now, key)) {
            snprintf(text, 500, "then there, now absent");
            return key;
        }
    return NULL;
}

/* DIR's compare.json, if there is one, must be of the same model, texts and evaluation. Its rows stay first;
 * new rows come after them. */
static kq_status join_folder(kq_cmp *c, kq_error *err)
{
    char text[500];
    json_t *there, *value;
    kq_status status = kq_cmp_load_if_there(c->dir, NULL, "compare", &there, err);
    if (!there)
        return status;
    json_t *rows = json_object_get(there, "rows"), *now = json_copy(c->about), *then = json_copy(there);
    static const char *const free_to_change[] = {"rows", "kronq"};
    for (int i = 0; i < 2; i++) {
        json_object_del(now, free_to_change[i]);
        json_object_del(then, free_to_change[i]);
    }
    const char *key = differs(then, now, text);
    if (key)
        status = kq_fail(err, KQ_E_MISMATCH,
                         "%s/compare.json: is of another comparison (%s: %s); choose another folder", c->dir,
                         key, text);
    else if (!json_is_array(rows))
        status = kq_fail(err, KQ_E_FORMAT, "%s/compare.json: has no list of rows", c->dir);
    if (!status) {
        json_t *all = json_deep_copy(rows);
        size_t i, j;
        json_array_foreach(json_object_get(c->about, "rows"), i, value) {
            for (j = 0; j < json_array_size(rows) && !json_equal(json_array_get(rows, j), value);)
                j++;
            if (j == json_array_size(rows))
                json_array_append(all, value);
        }
        json_object_set_new(c->about, "rows", all);
    }
    json_decref(now);
    json_decref(then);
    json_decref(there);
    return status;
}

/* Is the row finished already, with the settings that it has now? */
static kq_status check_done(const kq_cmp *c, kq_cmp_row *r, kq_error *err)
{
    char text[500];
    json_t *there;
    kq_status status = kq_cmp_load_if_there(c->dir, "rows", r->name, &there, err);
    if (!there)
        return status;
    const json_t *settings = json_object_get(there, "settings");
    const char *key = differs(settings, r->settings, text);
    if (!json_is_object(settings))
        status = kq_fail(err, KQ_E_FORMAT, "%s/rows/%s.json: has no settings", c->dir, r->name);
    else if (key)
        status = kq_fail(err, KQ_E_MISMATCH,
                         "%s/rows/%s.json: was made with another %s (%s); give it in the spec (%s:%s=...), "
                         "or choose another folder",
                         c->dir, r->name, key, text, r->spec, key);
    r->done = !status;
    json_decref(there);
    return status;
}

static kq_status find_done(kq_cmp *c, kq_error *err)
{
    kq_status status = KQ_OK;
    for (size_t i = 0; i < c->n && !status; i++) {
        kq_cmp_row *r = &c->row[i];
        status = check_done(c, r, err);
        if (!r->done && r->factors >= 0)
            c->factors[r->factors].waiting++;
    }
    return status;
}

/* What every row is measured by, before the first is made: the windows' length, and the tasks' names and
 * documents. */
static kq_status check_measures(const char *model, const kq_compare_options *opt, kq_error *err)
{
    kq_model_file *f;
    kq_status status = opt->ctx ? kq_model_file_open(model, KQ_ISA_REF, &f, err) : KQ_OK;
    if (!status && opt->ctx) {
        const size_t most = kq_source_config(kq_model_file_source(f))->max_position;
        kq_model_file_close(f);
        if (opt->ctx < 2 || (most && opt->ctx > most))
            return kq_fail(err, KQ_E_ARG, "--ctx %zu: from 2 to the model's context, %zu", opt->ctx, most);
    }
    for (size_t i = 0; i < opt->n_tasks && !status; i++) {
        const kq_task *task = kq_task_find(opt->tasks[i].name);
        kq_document *docs = NULL;
        size_t n = 0, n_file;
        if (!task)
            return kq_fail(err, KQ_E_ARG, "--task %s: unknown; there are %s", opt->tasks[i].name,
                           kq_task_names());
        for (size_t k = i + 1; k < opt->n_tasks; k++)
            if (!strcmp(opt->tasks[i].name, opt->tasks[k].name))
                return kq_fail(err, KQ_E_ARG, "--task %s: given twice", opt->tasks[i].name);
        if (!(status = kq_documents_read(task, opt->tasks[i].file, opt->limit, &docs, &n, &n_file, err)))
            kq_documents_free(docs, n);
    }
    return status;
}

/* Row i of the caller, whose rows may be shorter or longer than ours: their options say how long. */
static kq_status read_row(const kq_compare_row *rows, size_t i, kq_compare_row *out, kq_error *err)
{
    const size_t align = _Alignof(kq_compare_row),
                 stride =
                     (offsetof(kq_compare_row, options) + rows->options.size + align - 1) / align * align;
    const kq_compare_row *row = (const void *)((const char *)rows + i * stride);
    out->spec = row->spec;
    if (!row->spec)
        return kq_fail(err, KQ_E_ARG, "row %zu has no name (kq_compare_row.spec)", i);
    if (row->options.size != rows->options.size)
        return kq_fail(err, KQ_E_ARG, "row %zu has options of %zu bytes, the first row of %zu", i,
                       row->options.size, rows->options.size);
    return KQ_OPTIONS_READ(kq_quantize_options, &out->options, &row->options, err);
}

kq_status kq_cmp_open(const char *model, const char *dir, const kq_compare_row *rows, size_t n,
                      const kq_compare_options *opt, kq_cmp *c, kq_error *err)
{
    *c = (kq_cmp){.model = model, .dir = dir, .opt = opt};
    if (!n)
        return kq_fail(err, KQ_E_ARG, "nothing to compare");
    kq_status status =
        kq_settings_check(KQ_COMPARE_OPTIONS, KQ_FOR_COMPARE_TEXTS | KQ_FOR_COMPARE_TASKS, opt, err);
    if (status)
        return status;
    kq_compare_row row;
    for (size_t i = 0; i < n; i++)
        if ((status = read_row(rows, i, &row, err)))
            return status;
    kq_text_keep(); /* until kq_cmp_close */
    status = kq_alloc_for((void **)&c->row, n, sizeof *c->row, "rows", err);
    if (!status)
        status = kq_alloc_for((void **)&c->factors, n, sizeof *c->factors, "rows", err);
    for (size_t i = 0; i < n && !status; i++) {
        kq_cmp_row *r = &c->row[c->n++];
        if ((status = read_row(rows, i, &row, err)) || (status = open_row(c, r, &row, err)))
            kq_fail_within(err, status, row.spec);
        for (const kq_cmp_row *s = c->row; s < r && !status; s++)
            if (json_equal(s->settings, r->settings)) {
                if (!c->n_same++)
                    c->same[0] = r->spec, c->same[1] = s->spec;
                json_decref(r->settings);
                c->n--;
                break;
            }
    }
    if (!status)
        status = check_measures(model, opt, err);
    kq_model_file *file = NULL;
    kq_tokenizer *tok = NULL;
    if (!status && opt->n_text && !(status = kq_model_file_open(model, KQ_ISA_REF, &file, err)))
        status = kq_tokenizer_open(kq_model_file_source(file), &tok, err);
    if (!status && !(status = describe(c, tok, err)) && !(status = join_folder(c, err)))
        status = find_done(c, err);
    kq_tokenizer_close(tok);
    kq_model_file_close(file);
    if (status)
        kq_cmp_close(c);
    return status;
}

void kq_cmp_close(kq_cmp *c)
{
    for (size_t i = 0; i < c->n; i++)
        json_decref(c->row[i].settings);
    for (size_t i = 0; i < c->n_factors; i++)
        json_decref(c->factors[i].settings);
    kq_free(c->row);
    kq_free(c->factors);
    json_decref(c->about);
    kq_text_forget();
    *c = (kq_cmp){0};
}

kq_status kq_compare_plan(const char *model, const char *dir, const kq_compare_row *rows, size_t n_rows,
                          const kq_compare_options *given, char **plan_json, kq_error *err)
{
    KQ_C_LOCALE;
    kq_cmp c;
    kq_compare_options whole;
    const kq_compare_options *opt = &whole;
    *plan_json = NULL;
    kq_status status = KQ_OPTIONS_READ(kq_compare_options, &whole, given, err);
    if (status)
        return status;
    status = kq_cmp_open(model, dir, rows, n_rows, opt, &c, err);
    if (status)
        return status;
    json_t *list = json_array(), *passes = json_array();
    size_t bytes = 0;
    for (size_t i = 0; i < c.n; i++) {
        const kq_cmp_row *r = &c.row[i];
        json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:I, s:b, s:s?}", "name", r->name, "spec",
                                              r->spec, "bits", kq_bits_number(r->opt.bits), "seed",
                                              (json_int_t)r->opt.common.seed, "done", r->done, "factors",
                                              r->factors < 0 ? NULL : c.factors[r->factors].name));
    }
    for (size_t p = 0; p < c.n_passes; p++) {
        json_t *factors = json_array();
        size_t pass_bytes = 0;
        for (size_t i = 0; i < c.n_factors; i++)
            if (c.factors[i].pass == p && c.factors[i].waiting) {
                json_array_append_new(factors, json_string(c.factors[i].name));
                pass_bytes += c.factors[i].bytes;
            }
        bytes = opt->keep_factors ? bytes + pass_bytes : pass_bytes > bytes ? pass_bytes : bytes;
        if (json_array_size(factors))
            json_array_append(passes, factors);
        json_decref(factors);
    }
    json_t *o =
        json_pack("{s:o, s:o, s:I}", "rows", list, "passes", passes, "factor_bytes", (json_int_t)bytes);
    *plan_json = o ? json_dumps(o, JSON_INDENT(1)) : NULL;
    json_decref(o);
    kq_cmp_close(&c);
    return *plan_json ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: the plan");
}
