/* kq_plan_ways: what calibrating and rounding a model would take, for each way of keeping gradients,
 * from its configuration alone. Time is counted arithmetic over rates that this machine shows in about a
 * second, by processor time: as if nothing else ran on it. */
#include <jansson.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/f16.h"
#include "base/file.h"
#include "base/locale.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/time.h"
#include "source/config_json.h"
#include "quant/bits.h"
#include "quant/plan.h"
#include "generate/self_text.h"

/* Forward with the head and backward reach this share of the rate that gemm_rate measures: 0.85 and 1.0
 * on SmolLM2 with sequences of 1024 (SPEED.md); the model's larger products are faster than the 512^3
 * measured, what lies between them is slower. */
static const double share_of_gemm = 0.85;

typedef struct rates {
    /* FLOP/s: products of all threads; the factor step, all threads; block LDL in f64, one thread */
    double gemm, factor, ldl;
    double tile_s; /* seconds a 16x16 tile, all threads at work */
} rates;

/* ---- measuring ---- */

static void fill(uint16_t *g, size_t n)
{
    kq_rng rng = kq_rng_stream(1, "rates");
    for (size_t i = 0; i < n; i++)
        g[i] = kq_f32_to_bf16((float)kq_rng_normal(&rng));
}

/* Products as forward makes them, each thread its own, for a quarter of a second. */
static kq_status gemm_rate(const kq_prepared *p, double *out, kq_error *err)
{
    const size_t N = 512;
    float *M;
    kq_status status =
        kq_alloc_for((void **)&M, (size_t)p->threads * 3 * N * N, sizeof *M, "a measurement", err);
    if (status)
        return status;
    memset(M, 0, (size_t)p->threads * 3 * N * N * sizeof *M);
    size_t count = 0;
    const double start = kq_cpu_s();
    double seconds = 0;
    for (int round = 0; seconds < 0.25 || round < 2; round++) {
#pragma omp parallel for num_threads(p->threads)
        for (int t = 0; t < p->threads; t++) {
            float *A = M + (size_t)t * 3 * N * N;
            for (int i = 0; i < 4; i++)
                if (p->compute == KQ_BF16)
                    kq_gemm_bf16(false, true, N, N, N, (uint16_t *)A, N, (uint16_t *)(A + N * N), N, false,
                                 A + 2 * N * N, N, NULL);
                else
                    kq_gemm_f32(false, true, N, N, N, 1, A, N, A + N * N, N, 0, A + 2 * N * N, N);
        }
        count += (size_t)p->threads * 4;
        seconds = (kq_cpu_s() - start) / p->threads;
    }
    *out = 2.0 * (double)count * (double)N * (double)N * (double)N / seconds;
    kq_free(M);
    return KQ_OK;
}

/* The method itself on a small layer, in the form that most linears will have. */
static kq_status factor_rate(const kq_prepared *p, double *out, kq_error *err)
{
    enum { D = 24, N = 768, TOKENS = 256 };
    size_t m, n;
    kq_linear_shape(p->cfg, KQ_GATE, &m, &n);
    const bool factored =
        kq_factored_pays(m, n, p->opt->calibration.batch * p->opt->calibration.seq_len, &p->factor);
    kq_gradients G = {.D = D, .m = N, .n = N, .T = factored ? TOKENS : 0};
    kq_factor_options opt = p->factor;
    opt.max_iter = 2;
    opt.rounds = 2;
    uint16_t *g;
    float *H = kq_alloc(2 * N * N, sizeof *H);
    kq_factor_report report;
    double start = 0;
    kq_status status =
        kq_alloc_for((void **)&g, D * kq_sample_size(N, N, G.T), sizeof *g, "a measurement", err);
    if (!status && !H)
        status = kq_fail(err, KQ_E_MEMORY, "out of memory: a measurement");
    if (!status) {
        fill(g, D * kq_sample_size(N, N, G.T));
        G.g = g;
        start = kq_cpu_s();
        status = kq_factors(&G, &opt, H, H + N * N, &report, NULL, NULL, err);
    }
    if (!status)
        *out = report.flop / (kq_cpu_s() - start) * p->threads;
    kq_free(g);
    kq_free(H);
    return status;
}

static kq_status ldl_rate(double *out, kq_error *err)
{
    enum { N = 512 };
    float *H = kq_calloc(2 * N * N, sizeof *H);
    if (!H)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: a measurement");
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < N; j++)
            H[i * N + j] = (float)exp(-0.1 * fabs((double)i - (double)j));
    int extra = 0;
    const double start = kq_cpu_s();
    kq_status status = kq_factor_condition(H, N, 1e-2, &extra, err);
    if (!status)
        status = kq_factor_block_ldl(H, N, H + N * N, err);
    *out = (double)N * N * N / (kq_cpu_s() - start);
    kq_free(H);
    return status;
}

static kq_status tile_rate(const kq_prepared *p, double *out, kq_error *err)
{
    kq_code code;
    kq_trellis *t = NULL;
    kq_status status = kq_code_parse(p->opt->code, &code, err);
    if (!status)
        status = kq_trellis_new(code, (int)ceil(p->opt->bits), p->isa, NULL, &t, err);
    if (status)
        return status;
    enum { CALLS = 32 };
    const size_t words = kq_trellis_words(t);
    bool memory = true;
    const double start = kq_cpu_s();
#pragma omp parallel for num_threads(p->threads)
    for (int k = 0; k < p->threads; k++) {
        float *tiles = kq_alloc(KQ_TRELLIS_BATCH * KQ_TILE_SIZE, sizeof *tiles);
        uint16_t *packed = kq_alloc(KQ_TRELLIS_BATCH * words, sizeof *packed);
        void *scratch = kq_alloc(kq_trellis_scratch_bytes(t), 1);
        kq_rng rng = kq_rng_stream((uint64_t)k, "tiles");
        for (size_t i = 0; tiles && i < KQ_TRELLIS_BATCH * KQ_TILE_SIZE; i++)
            tiles[i] = (float)kq_rng_normal(&rng);
        for (int i = 0; tiles && packed && scratch && i < CALLS; i++)
            kq_trellis_encode(t, tiles, KQ_TRELLIS_BATCH, packed, NULL, scratch);
        if (!tiles || !packed || !scratch) {
#pragma omp atomic write
            memory = false;
        }
        kq_free(tiles);
        kq_free(packed);
        kq_free(scratch);
    }
    *out = (kq_cpu_s() - start) / p->threads / (CALLS * KQ_TRELLIS_BATCH * p->threads);
    kq_trellis_free(t);
    return memory ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: a measurement");
}

/* ---- counting ---- */

/* Seconds of each stage. */
typedef struct stages {
    double forward, backward, factors, rounding;
} stages;

/* Over all samples; flipflop's early rounds are parts of a pass. */
static double passes_of(const kq_prepared *p, const kq_sweep *s)
{
    const kq_needs needs = kq_method_needs(p->factor.method);
    return needs == KQ_NEEDS_TOKENS ? (double)kq_method_passes(&p->factor)
           : needs == KQ_NEEDS_GRADIENTS && s->way == KQ_WAY_STREAM
               ? kq_factors_passes(&p->factor, s->n_seq * s->draws / p->estimate.batch)
               : 1;
}

/* With T tokens a sequence, q the width of all heads: a block's products take 2 P operations a token,
 * causal attention 2 T q forward and 5 T q back; the head 2 V d forward, and as much back. */
static stages count_seconds(const kq_prepared *p, const kq_sweep *s, const rates *r)
{
    const kq_config *cfg = p->cfg;
    const kq_needs needs = kq_method_needs(p->factor.method);
    const double T = (double)s->T, tokens = T * (double)s->n_seq, draws = (double)s->draws,
                 gemm = r->gemm * share_of_gemm;
    const double attention = 2 * T * (double)(cfg->n_head * cfg->head_dim),
                 head = 2 * (double)cfg->vocab_size * (double)cfg->d_model;
    double block = 0, gradients = 0, factors = 0, search = 0, feedback = 0, ldl = 0;
    size_t blocks = 0;
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        size_t m, n;
        kq_linear_shape(cfg, (kq_linear_id)id, &m, &n);
        const double M = (double)m, N = (double)n;
        kq_gradients G = {.D = (size_t)(s->n_seq * s->draws / p->estimate.batch), .m = m, .n = n};
        if (needs == KQ_NEEDS_GRADIENTS && kq_factored_pays(m, n, p->estimate.batch * s->T, &p->factor))
            G.T = p->estimate.batch * s->T;
        block += 2 * M * N;
        gradients += G.T ? 0 : 2 * M * N;
        if (needs == KQ_NEEDS_GRADIENTS)
            factors += kq_factors_flop(&G, &p->factor, kq_factors_products(&p->factor)) / r->factor;
        else if (needs == KQ_NEEDS_TOKENS) /* half of a sum, and the weights' quadratic forms */
            factors +=
                tokens * draws * (double)kq_method_passes(&p->factor) * 1.5 * (M * M + N * N) / 2 / gemm;
        else if (needs == KQ_NEEDS_INPUTS)
            factors += tokens * N * N / gemm;
        search += ceil(M / KQ_TILE) * ceil(N / KQ_TILE) * r->tile_s;
        feedback += 2 * M * N * (M + N) / gemm;
        ldl += (M * M * M + N * N * N) / r->ldl;
    }
    for (size_t l = 0; l < cfg->n_layer; l++)
        blocks += p->wanted[l] != 0;
    size_t lowest = cfg->n_layer;
    for (size_t l = cfg->n_layer; l-- > 0;)
        lowest = p->wanted[l] ? l : lowest;
    /* blocks only passed through */
    const double L = (double)cfg->n_layer, wanted = (double)blocks, through = L - (double)lowest - wanted;
    stages t = {.factors = wanted * factors, .rounding = wanted * (search + feedback + ldl)};
    if (needs == KQ_NEEDS_NOTHING)
        return t;
    t.forward = tokens * L * (block + attention) / gemm;
    if (needs == KQ_NEEDS_INPUTS)
        return t;
    t.forward += tokens * draws * 2 * head / gemm;
    const double down = 2 * block + 3.5 * attention; /* recomputed, and back to the inputs */
    t.backward = tokens * draws * (through * down + wanted * passes_of(p, s) * (down + gradients)) / gemm;
    return t;
}

static size_t result_bytes(const kq_prepared *p)
{
    double bits = (double)(p->cfg->vocab_size * p->cfg->d_model) *
                  (p->opt->embed_bits + (p->cfg->tie_embeddings ? 0 : p->opt->head_bits));
    for (size_t l = 0; l < p->cfg->n_layer; l++)
        for (int id = 0; id < KQ_N_LINEAR; id++) {
            size_t m, n;
            kq_linear_shape(p->cfg, (kq_linear_id)id, &m, &n);
            bits += p->wanted[l] >> id & 1 ? p->opt->bits * (double)(m * n) + 8 * (double)(m + n) + 32
                                           : 16 * (double)(m * n);
        }
    return (size_t)(bits / 8);
}

static size_t parameters(const kq_config *cfg)
{
    size_t all = cfg->vocab_size * cfg->d_model * (cfg->tie_embeddings ? 1 : 2);
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        size_t m, n;
        kq_linear_shape(cfg, (kq_linear_id)id, &m, &n);
        all += cfg->n_layer * m * n;
    }
    return all;
}

/* ---- the plan ---- */

static kq_status read_config(const char *model, kq_config *cfg, kq_error *err)
{
    char path[4400], *text;
    size_t size;
    kq_storage storage;
    if (!kq_path_is_dir(model)) {
        kq_source *src;
        kq_status status = kq_source_open(model, &src, err);
        if (!status)
            *cfg = *kq_source_config(src);
        kq_source_close(src);
        return status;
    }
    kq_status status = kq_path_join(path, sizeof path, model, "config.json", err);
    if (status || (status = kq_file_read(path, 1 << 26, &text, &size, err)))
        return status;
    status = kq_config_from_json(text, size, path, cfg, &storage, err);
    kq_free(text);
    return status;
}

static json_t *describe(const kq_prepared *p, const kq_sweep *s, size_t memory, size_t disk,
                        const char *refused, const stages *t)
{
    json_t *seconds = json_pack("{s:f, s:f, s:f, s:f, s:f}", "forward", t->forward, "backward", t->backward,
                                "factors", t->factors, "rounding", t->rounding, "total",
                                t->forward + t->backward + t->factors + t->rounding);
    return json_pack("{s:s, s:s*, s:I, s:I, s:i, s:f, s:o}", "gradients", kq_gradient_way_name(s->way),
                     "refused", refused, "memory_bytes", (json_int_t)memory, "disk_bytes", (json_int_t)disk,
                     "sequences_at_once", s->workers ? s->workers : s->threads, "passes_a_block",
                     passes_of(p, s), "seconds", seconds);
}

kq_status kq_plan_ways(const char *model, const kq_quantize_options *given, char **plan_json, kq_error *err)
{
    KQ_C_LOCALE;
    static const char *const some_text[] = {"TEXT"};
    kq_quantize_options opt = *given;
    kq_prepared p = {0};
    kq_config cfg;
    rates r = {0};
    *plan_json = NULL;
    opt.calibration.text = some_text; /* with a text at hand: what writing one takes is told apart */
    opt.calibration.n_text = 1;
    kq_status status = read_config(model, &cfg, err);
    if (!status)
        status = kq_prepare_config(&cfg, &opt, &p, err);
    if (!status)
        status = gemm_rate(&p, &r.gemm, err);
    if (!status && kq_method_needs(p.factor.method) == KQ_NEEDS_GRADIENTS)
        status = factor_rate(&p, &r.factor, err);
    if (!status)
        status = ldl_rate(&r.ldl, err);
    if (!status)
        status = tile_rate(&p, &r.tile_s, err);
    json_t *ways = json_array();
    for (int way = KQ_WAY_MEMORY; way <= KQ_WAY_STREAM && !status; way++) {
        kq_sweep s = kq_prepare_sweep(&p, NULL);
        kq_error why = {0};
        size_t memory = 0, disk = 0;
        if (opt.gradients && strcmp(opt.gradients, kq_gradient_way_name((kq_gradient_way)way)))
            continue;
        p.opt = &opt;
        kq_quantize_options one = opt;
        one.gradients = kq_gradient_way_name((kq_gradient_way)way);
        p.opt = &one;
        for (int id = 0; id < KQ_N_LINEAR; id++) {
            size_t m, n;
            kq_linear_shape(&cfg, (kq_linear_id)id, &m, &n);
            const size_t bytes = kq_round_bytes(m, n) + 4 * m * n;
            s.receiver_peak = bytes > s.receiver_peak ? bytes : s.receiver_peak;
        }
        const kq_status refused = kq_plan_settle(&p, &s, NULL, 2 * result_bytes(&p), &memory, &disk, &why);
        p.opt = &opt;
        if (refused == KQ_E_ARG)
            status = kq_fail(err, refused, "%s", why.message);
        const stages t = count_seconds(&p, &s, &r);
        json_array_append_new(ways, describe(&p, &s, memory, disk, refused ? why.message : NULL, &t));
        if (kq_method_needs(p.factor.method) != KQ_NEEDS_GRADIENTS)
            break; /* no gradients to keep */
    }
    if (!status && !json_array_size(ways))
        status =
            kq_fail(err, KQ_E_ARG, "--gradients %s is unknown; use memory, disk or stream", opt.gradients);
    json_t *measured =
        json_pack("{s:f, s:f, s:f, s:f}", "gemm_gflops", 1e-9 * r.gemm, "factor_gflops", 1e-9 * r.factor,
                  "ldl_gflops", 1e-9 * r.ldl, "tiles_per_second", r.tile_s > 0 ? 1 / r.tile_s : 0.0);
    const size_t result = status ? 0 : result_bytes(&p),
                 writing = status ? 0 : kq_self_text_bytes(&cfg, opt.calibration.seq_len, p.compute);
    json_t *o = json_pack(
        "{s:s, s:I, s:s, s:I, s:I, s:o, s:I, s:I, s:s, s:s, s:i, s:o, s:O}", "model", model, "parameters",
        (json_int_t)(status ? 0 : parameters(&cfg)), "method", kq_method_name(p.factor.method),
        "calibration_tokens", (json_int_t)(p.n_seq * opt.calibration.seq_len), "seq_len",
        (json_int_t)opt.calibration.seq_len, "bits", kq_bits_number(opt.bits), "result_bytes",
        (json_int_t)result, "self_text_bytes", (json_int_t)writing, "isa", kq_isa_name(p.isa), "compute",
        p.compute == KQ_BF16 ? "bf16" : "f32", "threads", p.threads, "measured", measured, "ways", ways);
    if (!status && (!o || !(*plan_json = json_dumps(o, JSON_INDENT(1) | JSON_REAL_PRECISION(6)))))
        status = kq_fail(err, KQ_E_MEMORY, "out of memory: the plan");
    json_decref(o);
    json_decref(ways);
    kq_prepared_free(&p);
    return status;
}
