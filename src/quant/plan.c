#include "quant/plan.h"
#include "eval/eval.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

kq_status kq_check_disk(const char *dir, size_t needed, kq_error *err)
{
    struct statvfs v;
    if (statvfs(dir, &v) == 0 && (double)v.f_bavail * (double)v.f_frsize < (double)needed)
        return kq_fail(err, KQ_E_IO, "%s: %.1f GB free, about %.1f GB needed for block inputs and the result", dir,
                       (double)v.f_bavail * (double)v.f_frsize / 1e9, (double)needed / 1e9);
    return KQ_OK;
}

/* The program, its libraries, BLAS's packing buffers and the tokenizer: measured, SmolLM2, two threads. */
static const size_t program_bytes = (size_t)100 << 20;

void kq_plan_sweep(const kq_prepared *p, const kq_sweep *s, size_t *memory_bytes, size_t *disk_bytes)
{
    size_t source = 0;
    kq_sweep_plan(p->cfg, s, memory_bytes, disk_bytes);
    for (size_t i = 0; i < kq_source_n_tensors(p->src); i++)
        source += kq_source_tensor(p->src, i)->size_bytes;
    if (p->n_seq && !p->opt->calibration.n_text) { /* the model writes the text first, whole in memory; then that is freed */
        const size_t writing = kq_self_text_bytes(p->cfg, p->opt->calibration.seq_len, p->compute);
        *memory_bytes = writing > *memory_bytes ? writing : *memory_bytes;
    }
    struct stat st;
    if (p->opt->factors && !stat(p->opt->factors, &st)) /* mapped, like the source */
        source += (size_t)st.st_size;
    *memory_bytes += source + program_bytes;
}

/* A block's factors as a part file has them, and what keeping those of every wanted linear takes. */
static void kept_factors(const kq_prepared *p, size_t *block_bytes, size_t *all_bytes)
{
    *block_bytes = *all_bytes = 0;
    for (size_t l = 0; l < p->cfg->n_layer; l++) {
        size_t block = 0;
        for (int id = 0; id < KQ_N_LINEAR; id++) {
            size_t m, n;
            kq_linear_shape(p->cfg, (kq_linear_id)id, &m, &n);
            block += p->wanted[l] >> id & 1 ? 2 * (m * (m + 1) + n * (n + 1)) : 0;
        }
        *block_bytes = block > *block_bytes ? block : *block_bytes;
        *all_bytes += block;
    }
}

void kq_plan_resources(const kq_prepared *p, const kq_bits *bits, size_t *memory_bytes, size_t *disk_bytes)
{
    const kq_sweep s = kq_prepare_sweep(p, NULL);
    size_t scratch = 0;
    kq_plan_sweep(p, &s, memory_bytes, disk_bytes);
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        size_t m, n;
        kq_linear_shape(p->cfg, (kq_linear_id)id, &m, &n);
        size_t bytes = kq_round_bytes(m, n);
        if (!bits->settled || bits->forecast) { /* factors come from files, twice */
            const size_t forecast = kq_forecast_bytes(m, n, p->threads);
            bytes = (forecast > bytes ? forecast : bytes) + 4 * (m * m + n * n);
        }
        scratch = bytes > scratch ? bytes : scratch;
    }
    *memory_bytes += scratch;
    if (!bits->settled && !p->opt->factors) {
        size_t block, all;
        kept_factors(p, &block, &all);
        *memory_bytes += block;
        *disk_bytes += all;
    }
    kq_save_report save;
    kq_checkpoint_plan(p->src, p->opt->embed_bits, p->opt->head_bits, kq_bits_of, (void *)bits, &save);
    *disk_bytes += 2 * save.file_bytes;
}

/* The bits that each module would get; from a factor file that takes its forecasts. */
static kq_status plan_bits(kq_prepared *p, kq_bits *b, kq_error *err)
{
    kq_factor_file *file = NULL;
    json_t *settings = NULL;
    kq_status status = kq_bits_open(p, b, err);
    if (!status && !b->settled && p->opt->factors) {
        if (!(status = kq_prepare_fingerprint(p, err)))
            status = kq_from_factors_open(p, &file, &settings, err);
        if (!status && !(status = kq_bits_check_method(b, err)))
            status = kq_bits_share(b, file, NULL, err);
    }
    if (!status)
        status = kq_bits_check_method(b, err);
    json_decref(settings);
    kq_factor_file_close(file);
    return status;
}

kq_status kq_plan(const char *model, const kq_quantize_options *opt, char **plan_json, kq_error *err)
{
    kq_prepared p = {0};
    kq_bits bits = {0};
    kq_code code;
    *plan_json = NULL;
    kq_status status = kq_bits_check(opt, err);
    if (!status)
        status = kq_code_parse(opt->code, &code, err);
    if (!status)
        status = kq_prepare(model, opt, !opt->factors, &p, err);
    if (!status)
        status = plan_bits(&p, &bits, err);
    if (status) {
        kq_bits_free(&bits);
        kq_prepared_free(&p);
        return status;
    }
    size_t memory, disk;
    kq_save_report save;
    kq_plan_resources(&p, &bits, &memory, &disk);
    kq_checkpoint_plan(p.src, opt->embed_bits, opt->head_bits, kq_bits_of, &bits, &save);
    json_t *modules = json_array();
    for (size_t l = 0; l < p.cfg->n_layer; l++) {
        for (int id = 0; id < KQ_N_LINEAR; id++) {
            char name[160];
            size_t m, n;
            kq_hadamard *u = NULL, *v = NULL;
            kq_linear_name(name, sizeof name - 8, l, (kq_linear_id)id);
            kq_linear_shape(p.cfg, (kq_linear_id)id, &m, &n);
            const size_t m_pad = (m + 15) / 16 * 16, n_pad = (n + 15) / 16 * 16;
            if (!status && !(status = kq_hadamard_new(m_pad, &u, err)))
                status = kq_hadamard_new(n_pad, &v, err);
            if (!status) {
                char weight[176];
                snprintf(weight, sizeof weight, "%s.weight", name);
                const kq_tensor *t = kq_source_find(p.src, weight);
                const bool wanted = kq_prepared_wants(&p, l, (kq_linear_id)id);
                json_array_append_new(modules, json_pack("{s:s, s:[I,I], s:s, s:o, s:s}", "name", name, "shape", (json_int_t)m, (json_int_t)n, "source",
                                                         t ? kq_dtype_name(t->dtype) : "?", "bits",
                                                         kq_bits_number(wanted ? kq_bits_of(&bits, l, (kq_linear_id)id) : 16), "transform",
                                                         !wanted                                                      ? "-"
                                                         : kq_hadamard_is_fallback(u) || kq_hadamard_is_fallback(v) ? "fall-back"
                                                         : m_pad != m || n_pad != n                                   ? "Hadamard, padded"
                                                                                                                      : "Hadamard"));
            }
            kq_hadamard_free(u);
            kq_hadamard_free(v);
        }
    }
    json_t *o = json_pack("{s:s, s:o, s:b, s:s, s:s, s:I, s:I, s:f, s:f, s:I, s:I, s:I, s:I, s:I, s:s, s:s, s:i, s:O}", "model", model, "bits",
                          kq_bits_number(bits.settled ? save.bits : opt->bits), "bits_settled", bits.settled, "code", opt->code,
                          "method", opt->factors ? opt->factors : kq_method_name(p.factor.method), "quantized_modules", (json_int_t)save.n_quantized, "quantized_weights",
                          (json_int_t)save.n_weights_quantized, "bpw", save.bpw_linear, "bpw_file", save.bpw_file, "file_bytes",
                          (json_int_t)save.file_bytes, "parameters", (json_int_t)save.n_parameters, "planned_memory_bytes", (json_int_t)memory, "planned_disk_bytes", (json_int_t)disk,
                          "calibration_tokens", (json_int_t)(p.n_seq * opt->calibration.seq_len), "isa", kq_isa_name(p.isa), "compute",
                          p.compute == KQ_BF16 ? "bf16" : "f32", "threads", p.threads, "modules", modules);
    if (!status && (!o || !(*plan_json = json_dumps(o, JSON_INDENT(1) | JSON_REAL_PRECISION(6)))))
        status = kq_fail(err, KQ_E_MEMORY, "out of memory: the plan");
    json_decref(o);
    json_decref(modules);
    kq_bits_free(&bits);
    kq_prepared_free(&p);
    return status;
}
