/* Embedding and head as trellis codes: rows.h. They come after the blocks, one at a time. */
#include "quant/rows.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/time.h"
#include "base/warn.h"
#include "factors/part.h"
#include "quant/aim.h"
#include "quant/bits.h"
#include "sweep/seal.h"

bool kq_rows_in_trellis(int bits)
{
    return bits >= 2 && bits <= 4;
}

/* The bits of a module, 0: it is no trellis. A tied head is the embedding. */
static int bits_of(const kq_output *o, int which)
{
    const int bits = which == KQ_ROWS_EMBEDDING ? o->opt.embed_bits : o->opt.head_bits;
    return kq_rows_in_trellis(bits) && !(which == KQ_ROWS_HEAD && o->p.cfg->tie_embeddings) ? bits : 0;
}

/* The most bits that a module may get as a trellis; 0: it will be none. With --size they are chosen later. */
static int most_bits_of(const kq_output *o, int which)
{
    const bool keep = which == KQ_ROWS_EMBEDDING ? o->opt.keep_embed_bits : o->opt.keep_head_bits;
    return !kq_aim_given(&o->opt) || keep                      ? bits_of(o, which)
           : which == KQ_ROWS_HEAD && o->p.cfg->tie_embeddings ? 0
                                                               : 4;
}

bool kq_rows_wanted(const kq_output *o)
{
    return most_bits_of(o, KQ_ROWS_HEAD) || most_bits_of(o, KQ_ROWS_EMBEDDING);
}

/* ---- factors ---- */

kq_status kq_rows_keep_factor(kq_output *o, bool head, const float *H_in, kq_error *err)
{
    const int which = head ? KQ_ROWS_HEAD : KQ_ROWS_EMBEDDING;
    char *path = NULL;
    kq_status status = kq_job_path(&o->job, "rowfactors", (size_t)which, "safetensors", &path, err);
    if (!status)
        status = kq_factor_part_write_input(path, kq_rows_module[which], H_in, o->p.cfg->d_model, err);
    if (!status)
        status = kq_seal_write(path, err);
    kq_free(path);
    return status;
}

static bool kept(const kq_output *o, int which)
{
    return !o->work->planning && kq_job_part_done(&o->job, "rowfactors", (size_t)which, "safetensors");
}

kq_status kq_rows_factor_parts(const kq_output *o, char ***parts, size_t *n, kq_error *err)
{
    char **list;
    kq_status status =
        kq_alloc_for((void **)&list, *n + KQ_N_ROWS, sizeof *list, "the list of factor files", err);
    if (status)
        return status;
    memcpy(list, *parts, *n * sizeof *list);
    kq_free(*parts);
    *parts = list;
    for (int which = 0; which < KQ_N_ROWS && !status; which++)
        if (kept(o, which) &&
            !(status = kq_job_path(&o->job, "rowfactors", (size_t)which, "safetensors", &list[*n], err)))
            ++*n;
    return status;
}

kq_status kq_rows_check_parts(const kq_output *o, kq_error *err)
{
    kq_status status = kq_job_check_parts(&o->job, "rowfactors", KQ_N_ROWS, "safetensors", err);
    return status ? status : kq_job_check_parts(&o->job, "packed", 5 * KQ_ROWS_PART, "safetensors", err);
}

/* Will, or did, a factor of this module's rows come from the factor file or the sweep? */
static bool has_factor(const kq_output *o, int which)
{
    if (o->opt.factors)
        return kq_factor_file_has(o->work->file, kq_rows_module[which]);
    return kq_method_needs_gradients(o->p.factor.method) && (which == KQ_ROWS_HEAD || o->p.selected[0]);
}

void kq_rows_warn(const kq_output *o)
{
    if (!kq_method_needs_gradients(o->p.factor.method)) /* it has no such factors for any model */
        return;
    for (int which = 0; which < KQ_N_ROWS; which++) {
        const bool tied = which == KQ_ROWS_EMBEDDING && o->p.cfg->tie_embeddings;
        if (!most_bits_of(o, which) || has_factor(o, which) || (tied && has_factor(o, KQ_ROWS_HEAD)))
            continue;
        const char *module = kq_rows_module[tied ? KQ_ROWS_HEAD : which];
        if (o->opt.factors)
            kq_warn("%s: has no %s.H_in, so that %s is rounded without curvature; kronq calibrate makes a "
                    "factor file that has it",
                    o->opt.factors, module, kq_rows_module[which]);
        else
            kq_warn("%s is rounded without curvature: --only leaves out layer 0, so that no gradient reaches "
                    "the embedding",
                    kq_rows_module[which]);
    }
}

/* H [d, d] += the factor of a module's rows, when there is one. *found: there was. */
static kq_status add_factor(const kq_output *o, int which, float *H, bool *found, kq_error *err)
{
    kq_factor_file *own = NULL;
    char *path = NULL;
    const bool here = kept(o, which);
    kq_status status = KQ_OK;
    if (!here && (!o->opt.factors || !has_factor(o, which)))
        return KQ_OK;
    if (here && !(status = kq_job_path(&o->job, "rowfactors", (size_t)which, "safetensors", &path, err)))
        status = kq_factor_file_open_parts(&path, 1, "", &own, err);
    if (!status)
        status =
            kq_factor_file_add(own ? own : o->work->file, kq_rows_module[which], o->p.cfg->d_model, H, err);
    *found = *found || !status;
    kq_free(path);
    kq_factor_file_close(own);
    return status;
}

/* ---- rounding ---- */

size_t kq_rows_bytes(const kq_output *o)
{
    const kq_config *c = o->p.cfg;
    size_t most = 0;
    for (int which = 0; which < KQ_N_ROWS; which++) {
        const int bits = most_bits_of(o, which);
        const size_t bytes = bits ? kq_round_rows_bytes(c->vocab_size, c->d_model,
                                                        o->opt.frequent_rows ? KQ_FINE_BITS : bits) +
                                        8 * c->d_model * c->d_model
                                  : 0;
        most = bytes > most ? bytes : most;
    }
    return most;
}

typedef struct reading {
    const kq_output *o;
    char name[64]; /* "lm_head.weight" */
} reading;

static kq_status read_rows(void *ctx, size_t row0, size_t count, float *W, kq_error *err)
{
    const reading *r = ctx;
    const kq_weights *w = kq_model_file_weights(r->o->p.model);
    return w->rows(w->ctx, r->name, row0, count, W, err);
}

static kq_status progress(void *ctx, kq_error *err)
{
    const reading *r = ctx;
    return kq_progress_ask(&r->o->opt.common, r->name, err);
}

kq_status kq_rows_factor(const kq_output *o, bool head, float **H, kq_error *err)
{
    const size_t d = o->p.cfg->d_model;
    bool found = false;
    if (!(*H = kq_calloc(d * d, sizeof **H)))
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory",
                       kq_rows_module[head ? KQ_ROWS_HEAD : KQ_ROWS_EMBEDDING]);
    kq_status status = add_factor(o, head ? KQ_ROWS_HEAD : KQ_ROWS_EMBEDDING, *H, &found, err);
    if (!status && !head && o->p.cfg->tie_embeddings) /* both uses count: eq. 143 */
        status = add_factor(o, KQ_ROWS_HEAD, *H, &found, err);
    if (status || !found) {
        kq_free(*H);
        *H = NULL;
    }
    return status;
}

/* A part file's number says which module it holds, and at how many bits: --size weighs several. */
static size_t part_number(int which, int bits)
{
    return (size_t)(KQ_ROWS_PART * bits + which);
}

static kq_status write_part(const kq_output *o, int which, const kq_packed *packed,
                            const kq_module_report *report, kq_error *err)
{
    char *path = NULL;
    kq_status status =
        kq_job_path(&o->job, "packed", part_number(which, report->bits), "safetensors", &path, err);
    if (!status)
        status = kq_part_write_rows(path, packed, report, err);
    if (!status)
        status = kq_seal_write(path, err);
    kq_free(path);
    return status;
}

kq_status kq_rows_pack(const kq_output *o, bool head, const kq_trellis *t, kq_packed *packed, kq_error *err)
{
    const int which = head ? KQ_ROWS_HEAD : KQ_ROWS_EMBEDDING;
    const kq_config *c = o->p.cfg;
    reading r = {.o = o};
    kq_module_report report = {.m = c->vocab_size,
                               .n = c->d_model,
                               .bits = kq_trellis_k(t),
                               .round.predicted_loss = NAN,
                               .factor_residual = NAN,
                               .sigma1 = NAN,
                               .sigma2 = NAN};
    kq_rows_input in = {.name = kq_rows_module[which],
                        .rows = report.m,
                        .n = report.n,
                        .read = read_rows,
                        .progress = progress,
                        .ctx = &r};
    kq_packed shape = {.m = report.m, .m_pad = (report.m + 15) / 16 * 16};
    kq_trellis *fine = NULL;
    float *H = NULL;
    *packed = (kq_packed){0};
    kq_fine_rows(&shape, o->opt.frequent_rows, report.bits);
    in.fine_first = shape.fine_first;
    in.fine_last = shape.fine_last;
    snprintf(r.name, sizeof r.name, "%s.weight", kq_rows_module[which]);
    snprintf(report.name, sizeof report.name, "%s", kq_rows_module[which]);
    kq_status status = kq_rows_factor(o, head, &H, err);
    in.H_in = H;
    if (!status && (in.fine_first || in.fine_last))
        status = kq_trellis_new(kq_trellis_code(t), KQ_FINE_BITS, o->p.isa, NULL, &fine, err);
    in.fine = fine;
    if (!status)
        status = kq_round_rows(t, &in, &o->bits->round, packed, &report.round, err);
    if (!status && !o->work->planning)
        status = write_part(o, which, packed, &report, err);
    kq_free(H);
    kq_trellis_free(fine);
    if (status)
        kq_packed_free(packed);
    return status;
}

kq_status kq_rows_round(kq_output *o, kq_code code, kq_error *err)
{
    const double start = kq_now_s();
    kq_status status = KQ_OK;
    for (int which = 0; which < KQ_N_ROWS && !status; which++) {
        const int bits = bits_of(o, which);
        kq_trellis *t = NULL;
        kq_packed packed = {0};
        if (!bits || kq_job_part_done(&o->job, "packed", part_number(which, bits), "safetensors"))
            continue;
        if (!(status = kq_trellis_new(code, bits, o->p.isa, NULL, &t, err)))
            status = kq_rows_pack(o, which == KQ_ROWS_HEAD, t, &packed, err);
        kq_packed_free(&packed);
        kq_trellis_free(t);
    }
    o->work->round_s += kq_now_s() - start;
    return status;
}

json_t *kq_rows_describe(const kq_output *o, kq_error *err)
{
    json_t *all = json_object();
    kq_status status = all ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: the report");
    for (int which = 0; which < KQ_N_ROWS && !status; which++) {
        if (!bits_of(o, which))
            continue;
        kq_module_report r;
        char *path = NULL;
        if (!(status = kq_job_path(&o->job, "packed", part_number(which, bits_of(o, which)), "safetensors",
                                   &path, err)) &&
            !(status = kq_part_read_rows_report(path, kq_rows_module[which], &r, err)))
            json_object_set_new(all, kq_rows_module[which],
                                json_pack("{s:[I,I], s:i, s:f, s:f}", "shape", (json_int_t)r.m,
                                          (json_int_t)r.n, "bits", r.bits, "bpw",
                                          kq_packed_rows_bits(o->p.cfg, r.bits, o->opt.frequent_rows) /
                                              ((double)r.m * (double)r.n),
                                          "relative_mse", r.round.relative_mse));
        kq_free(path);
    }
    if (status) {
        json_decref(all);
        return NULL;
    }
    return all;
}
