#include "quant/sweep.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/f16.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/time.h"
#include "quant/spill.h"

/* Scratch of one thread. */
typedef struct worker {
    float *x, *dy;              /* [T, d] */
    uint16_t *half;             /* [T, d], a record as stored */
    void *scratch;
    float *G[KQ_N_LINEAR];      /* [m, n], sum over the sequences of one sample */
    uint16_t *half_x, *half_g;  /* bf16 products: operands of G */
} worker;

typedef struct sweep {
    const kq_sweep *s;
    const kq_config *cfg;
    kq_model_ctx *mc;
    size_t d, record; /* d_model; values in a [T, d] record */
    worker *w;        /* [threads] */
    int threads;
    kq_sweep_report *report;
} sweep;

/* The first error of a parallel region; the others stop at their next look. */
typedef struct first_error {
    kq_status status;
    kq_error err;
} first_error;

static bool failed(first_error *f)
{
    kq_status s;
#pragma omp atomic read
    s = f->status;
    return s != KQ_OK;
}

static void note(first_error *f, kq_status status, const kq_error *err)
{
    if (!status)
        return;
#pragma omp critical(kq_sweep_error)
    if (!f->status) {
        f->err = *err;
#pragma omp atomic write
        f->status = status;
    }
}

static kq_status settle(const first_error *f, kq_error *err)
{
    if (f->status && err)
        *err = f->err;
    return f->status;
}

static void tick(const kq_sweep *s, first_error *f, const char *stage, double fraction)
{
    if (!s->progress)
        return;
#pragma omp critical(kq_sweep_progress)
    if (s->progress(s->ctx, stage, fraction)) {
        kq_error e;
        note(f, kq_fail(&e, KQ_E_INTERRUPTED, "stopped while %s", stage), &e);
    }
}

static void input_path(const sweep *w, size_t layer, char path[4400])
{
    kq_job_path(w->s->job, "input", layer, "bf16", path);
}

static void grad_path(const sweep *w, size_t layer, char path[4400])
{
    kq_job_path(w->s->job, "grad", layer, "f32", path);
}

static bool there(void (*name)(const sweep *, size_t, char[4400]), const sweep *w, size_t layer)
{
    char path[4400];
    name(w, layer, path);
    return kq_path_exists(path);
}

static void drop(void (*name)(const sweep *, size_t, char[4400]), const sweep *w, size_t layer)
{
    char path[4400];
    name(w, layer, path);
    unlink(path);
}

static size_t largest_linear(const kq_config *cfg, bool outputs)
{
    size_t best = 0;
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        size_t m, n;
        kq_linear_shape(cfg, (kq_linear_id)id, &m, &n);
        best = (outputs ? m : n) > best ? (outputs ? m : n) : best;
    }
    return best;
}

static void free_workers(sweep *w)
{
    for (int t = 0; w->w && t < w->threads; t++) {
        worker *k = &w->w[t];
        kq_free(k->x);
        kq_free(k->dy);
        kq_free(k->half);
        kq_free(k->scratch);
        for (int id = 0; id < KQ_N_LINEAR; id++)
            kq_free(k->G[id]);
        kq_free(k->half_x);
        kq_free(k->half_g);
    }
    kq_free(w->w);
    w->w = NULL;
}

static kq_status new_workers(sweep *w, bool backward, kq_error *err)
{
    const kq_config *cfg = w->cfg;
    if (!(w->w = kq_calloc((size_t)w->threads, sizeof *w->w)))
        return kq_fail(err, KQ_E_MEMORY, "out of memory: calibration");
    size_t scratch = kq_block_scratch_bytes(w->mc, w->s->T, backward);
    if (kq_head_scratch_bytes(w->mc) > scratch)
        scratch = kq_head_scratch_bytes(w->mc);
    for (int t = 0; t < w->threads; t++) {
        worker *k = &w->w[t];
        k->x = kq_alloc(w->record, sizeof *k->x);
        k->dy = kq_alloc(w->record, sizeof *k->dy);
        k->half = kq_alloc(w->record, sizeof *k->half);
        k->scratch = kq_alloc(scratch, 1);
        bool ok = k->x && k->dy && k->half && k->scratch;
        for (int id = 0; backward && id < KQ_N_LINEAR; id++) {
            size_t m, n;
            kq_linear_shape(cfg, (kq_linear_id)id, &m, &n);
            ok = (k->G[id] = kq_alloc(m * n, sizeof(float))) && ok;
        }
        if (backward && w->s->compute == KQ_BF16) {
            k->half_x = kq_alloc(w->s->T * largest_linear(cfg, false), 2);
            k->half_g = kq_alloc(w->s->T * largest_linear(cfg, true), 2);
            ok = ok && k->half_x && k->half_g;
        }
        if (!ok)
            return kq_fail(err, KQ_E_MEMORY, "out of memory: calibration with %d threads", w->threads);
    }
    return KQ_OK;
}

/* Every block's input, from the embedding up to the input of layer `top` (n_layer: the final hidden state). */
static kq_status embed_inputs(sweep *w, const kq_head *head, kq_error *err)
{
    char path[4400];
    kq_spill *out;
    if (there(input_path, w, 0))
        return KQ_OK;
    input_path(w, 0, path);
    kq_status status = kq_spill_create(path, w->s->n_seq, 2 * w->record, &out, err);
    for (size_t i = 0; i < w->s->n_seq && !status; i++) {
        if (!(status = kq_head_embed(head, w->s->ids + i * w->s->T, w->s->T, w->w->x, err))) {
            kq_f32_to_bf16_n(w->w->x, w->w->half, w->record);
            status = kq_spill_write(out, i, w->w->half, err);
        }
    }
    if (!status)
        return kq_spill_commit(out, err);
    kq_spill_close(out);
    return status;
}

static kq_status read_input(const sweep *w, worker *k, kq_spill *in, size_t i, kq_error *err)
{
    kq_status status = kq_spill_read(in, i, k->half, err);
    if (!status)
        kq_bf16_to_f32_n(k->half, k->x, w->record);
    return status;
}

static kq_status write_output(const sweep *w, worker *k, kq_spill *out, size_t i, kq_error *err)
{
    kq_f32_to_bf16_n(k->x, k->half, w->record);
    return kq_spill_write(out, i, k->half, err);
}

static kq_status forward_block(sweep *w, size_t layer, kq_error *err)
{
    const kq_sweep *s = w->s;
    char path[4400];
    kq_spill *in = NULL, *out = NULL;
    kq_block block = {0};
    first_error f = {0};
    input_path(w, layer, path);
    kq_status status = kq_spill_open(path, s->n_seq, 2 * w->record, &in, err);
    if (!status) {
        input_path(w, layer + 1, path);
        status = kq_spill_create(path, s->n_seq, 2 * w->record, &out, err);
    }
    if (!status)
        status = kq_block_load(w->mc, s->weights, layer, &block, err);
    if (!status) {
        size_t finished = 0;
#pragma omp parallel for schedule(dynamic) num_threads(w->threads)
        for (size_t i = 0; i < s->n_seq; i++) {
            if (failed(&f))
                continue;
            worker *k = &w->w[omp_get_thread_num()];
            kq_error e;
            kq_status st = read_input(w, k, in, i, &e);
            if (!st)
                st = kq_block_forward(w->mc, &block, k->x, s->T, k->x, k->scratch, 1, &e);
            if (!st)
                st = write_output(w, k, out, i, &e);
            note(&f, st, &e);
            size_t n;
#pragma omp atomic capture
            n = ++finished;
            tick(s, &f, "forward", ((double)layer + (double)n / (double)s->n_seq) / (double)w->cfg->n_layer);
        }
        status = settle(&f, err);
    }
    kq_block_free(&block);
    kq_spill_close(in);
    if (!status)
        return kq_spill_commit(out, err);
    kq_spill_close(out);
    return status;
}

/* Loss of every sequence and its gradient at the last block's output. */
static kq_status loss_gradients(sweep *w, const kq_head *head, kq_error *err)
{
    const kq_sweep *s = w->s;
    const size_t L = w->cfg->n_layer;
    char path[4400];
    kq_spill *in = NULL, *out = NULL;
    first_error f = {0};
    float *nll = kq_calloc(s->n_seq * s->T, sizeof *nll);
    int32_t *target = kq_alloc(s->n_seq * s->T, sizeof *target);
    kq_status status = nll && target ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: losses");
    if (!status) {
        input_path(w, L, path);
        status = kq_spill_open(path, s->n_seq, 2 * w->record, &in, err);
    }
    if (!status) {
        grad_path(w, L, path);
        status = kq_spill_create(path, s->n_seq, 4 * w->record, &out, err);
    }
    if (!status) {
        size_t finished = 0;
#pragma omp parallel for schedule(dynamic) num_threads(w->threads)
        for (size_t i = 0; i < s->n_seq; i++) {
            if (failed(&f))
                continue;
            worker *k = &w->w[omp_get_thread_num()];
            int32_t *next = target + i * s->T;
            memcpy(next, s->ids + i * s->T + 1, (s->T - 1) * sizeof *next);
            next[s->T - 1] = -1;
            kq_error e;
            kq_status st = read_input(w, k, in, i, &e);
            if (!st)
                st = kq_head_loss(head, k->x, s->T, next, nll + i * s->T, k->dy, k->scratch, &e);
            if (!st)
                st = kq_spill_write(out, i, k->dy, &e);
            note(&f, st, &e);
            size_t n;
#pragma omp atomic capture
            n = ++finished;
            tick(s, &f, "loss", (double)n / (double)s->n_seq);
        }
        status = settle(&f, err);
    }
    if (!status) {
        double sum = 0;
        for (size_t i = 0; i < s->n_seq * s->T; i++)
            sum += nll[i];
        w->report->nll = sum / (double)(s->n_seq * (s->T - 1));
        if (!isfinite(w->report->nll))
            status = kq_fail(err, KQ_E_NUMERIC, "the model's loss on the calibration text is not a number");
    }
    kq_free(nll);
    kq_free(target);
    kq_spill_close(in);
    if (!status)
        return kq_spill_commit(out, err);
    kq_spill_close(out);
    return status;
}

/* What a worker's sink needs to add one sequence's G^T X to its sample's gradient. */
typedef struct gradient_sink {
    sweep *w;
    worker *k;
    bool first; /* first sequence of the sample */
} gradient_sink;

static kq_status add_gradient(void *ctx, kq_linear_id id, const float *X, const float *G, size_t T, kq_error *err)
{
    gradient_sink *g = ctx;
    size_t m, n;
    kq_linear_shape(g->w->cfg, id, &m, &n);
    if (g->w->s->compute == KQ_F32) {
        kq_gemm_f32(true, false, m, n, T, 1, G, m, X, n, g->first ? 0 : 1, g->k->G[id], n);
        return KQ_OK;
    }
    kq_f32_to_bf16_n(X, g->k->half_x, T * n);
    kq_f32_to_bf16_n(G, g->k->half_g, T * m);
    return kq_gemm_bf16(true, false, m, n, T, g->k->half_g, m, g->k->half_x, n, !g->first, g->k->G[id], n, err);
}

/* Gradients of the wanted linears for all samples, [D, m, n] each, and the gradient at the block's input. */
static kq_status backward_block(sweep *w, size_t layer, unsigned wanted, uint16_t *const store[KQ_N_LINEAR], bool keep_dx, kq_error *err)
{
    const kq_sweep *s = w->s;
    const size_t D = s->n_seq / s->batch;
    char path[4400];
    kq_spill *in = NULL, *dy = NULL, *dx = NULL;
    kq_block block = {0};
    first_error f = {0};
    input_path(w, layer, path);
    kq_status status = kq_spill_open(path, s->n_seq, 2 * w->record, &in, err);
    if (!status) {
        grad_path(w, layer + 1, path);
        status = kq_spill_open(path, s->n_seq, 4 * w->record, &dy, err);
    }
    if (!status && keep_dx) {
        grad_path(w, layer, path);
        status = kq_spill_create(path, s->n_seq, 4 * w->record, &dx, err);
    }
    if (!status)
        status = kq_block_load(w->mc, s->weights, layer, &block, err);
    if (!status) {
        size_t finished = 0;
#pragma omp parallel for schedule(dynamic) num_threads(w->threads)
        for (size_t i = 0; i < D; i++) {
            if (failed(&f))
                continue;
            worker *k = &w->w[omp_get_thread_num()];
            kq_error e;
            kq_status st = KQ_OK;
            for (size_t b = 0; b < s->batch && !st; b++) {
                const size_t seq = i * s->batch + b;
                gradient_sink sink = {.w = w, .k = k, .first = b == 0};
                if (!(st = read_input(w, k, in, seq, &e)) && !(st = kq_spill_read(dy, seq, k->dy, &e)))
                    st = kq_block_backward(w->mc, &block, k->x, k->dy, s->T, keep_dx ? k->dy : NULL, wanted, add_gradient, &sink, k->scratch, &e);
                if (!st && keep_dx)
                    st = kq_spill_write(dx, seq, k->dy, &e);
            }
            for (int id = 0; id < KQ_N_LINEAR && !st; id++) {
                size_t m, n;
                kq_linear_shape(w->cfg, (kq_linear_id)id, &m, &n);
                if (wanted >> id & 1)
                    kq_f32_to_bf16_n(k->G[id], store[id] + i * m * n, m * n);
            }
            note(&f, st, &e);
            size_t n;
#pragma omp atomic capture
            n = ++finished;
            tick(s, &f, "backward", ((double)(w->cfg->n_layer - 1 - layer) + 0.5 * (double)n / (double)D) / (double)w->cfg->n_layer);
        }
        status = settle(&f, err);
    }
    kq_block_free(&block);
    kq_spill_close(in);
    kq_spill_close(dy);
    if (!status && keep_dx)
        return kq_spill_commit(dx, err);
    kq_spill_close(dx);
    return status;
}

/* progress of one factor computation, between the backward pass of its block and the next */
static int factor_progress(void *ctx, double fraction)
{
    (void)fraction;
    const sweep *w = ctx;
    return w->s->progress ? w->s->progress(w->s->ctx, NULL, 0) : 0;
}

static kq_status hand_out(sweep *w, size_t layer, kq_linear_id id, const float *H_in, const float *H_out, const kq_factor_report *report, kq_error *err)
{
    double start = kq_now_s();
    kq_status status = w->s->linear(w->s->ctx, layer, id, H_in, H_out, report, err);
    w->report->callback_s += kq_now_s() - start;
    return status;
}

static kq_status factor_linear(sweep *w, size_t layer, kq_linear_id id, const uint16_t *g, kq_error *err)
{
    size_t m, n;
    kq_linear_shape(w->cfg, id, &m, &n);
    kq_gradients G = {.D = w->s->n_seq / w->s->batch, .m = m, .n = n, .g = g};
    float *H_in = kq_alloc(n * n, sizeof *H_in), *H_out = kq_alloc(m * m, sizeof *H_out);
    kq_status status = H_in && H_out ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: factors [%zu, %zu] and [%zu, %zu]", n, n, m, m);
    kq_factor_report report = {0};
    double start = kq_now_s();
    if (!status)
        status = kq_factors(&G, &w->s->factor, H_in, H_out, &report, factor_progress, w, err);
    w->report->factor_s += kq_now_s() - start;
    if (status && status != KQ_E_INTERRUPTED) {
        char name[128];
        kq_linear_name(name, sizeof name, layer, id);
        kq_fail_within(err, status, name);
    }
    if (!status) {
        if (w->s->batch > 1) { /* a batch's product is divided by B in its sums (design section 2) */
            const float scale = 1 / sqrtf((float)w->s->batch);
            for (size_t i = 0; i < n * n; i++)
                H_in[i] *= scale;
            for (size_t i = 0; i < m * m; i++)
                H_out[i] *= scale;
            report.trace_product /= (double)w->s->batch;
        }
        status = hand_out(w, layer, id, H_in, H_out, &report, err);
    }
    kq_free(H_in);
    kq_free(H_out);
    return status;
}

static kq_status gradient_sweep(sweep *w, size_t lowest, const kq_head *head, kq_error *err)
{
    const kq_sweep *s = w->s;
    const size_t L = w->cfg->n_layer, D = s->n_seq / s->batch;
    kq_status status = KQ_OK;
    double start = kq_now_s();

    /* Where an interrupted run stopped: the topmost block without a result, or whose gradient has not been passed on. */
    size_t from = L;
    while (from > lowest && (!s->wanted[from - 1] || s->done(s->ctx, from - 1)) && there(grad_path, w, from - 1))
        from--;
    if (from == L && !there(grad_path, w, L)) {
        status = embed_inputs(w, head, err);
        for (size_t l = 0; l < L && !status; l++)
            if (!there(input_path, w, l + 1))
                status = forward_block(w, l, err);
        if (!status)
            status = loss_gradients(w, head, err);
        if (!status)
            drop(input_path, w, L);
    }
    w->report->forward_s = kq_now_s() - start;

    for (size_t l = from; l-- > lowest && !status;) {
        const unsigned wanted = s->done(s->ctx, l) ? 0 : s->wanted[l];
        uint16_t *store[KQ_N_LINEAR] = {0};
        for (int id = 0; id < KQ_N_LINEAR && !status; id++) {
            size_t m, n;
            kq_linear_shape(w->cfg, (kq_linear_id)id, &m, &n);
            if (wanted >> id & 1)
                status = kq_alloc_for((void **)&store[id], D * m * n, 2, "the gradients of one block", err);
        }
        start = kq_now_s();
        if (!status && (wanted || l > lowest))
            status = backward_block(w, l, wanted, store, l > lowest, err);
        w->report->backward_s += kq_now_s() - start;
        for (int id = 0; id < KQ_N_LINEAR; id++) {
            if (!status && (wanted >> id & 1))
                status = factor_linear(w, l, (kq_linear_id)id, store[id], err);
            kq_free(store[id]);
            if (!status && s->progress && s->progress(s->ctx, "backward", ((double)(L - 1 - l) + 0.5 + 0.5 * (id + 1) / KQ_N_LINEAR) / (double)L))
                status = kq_fail(err, KQ_E_INTERRUPTED, "stopped in the backward sweep");
        }
        if (!status && wanted)
            status = s->block(s->ctx, l, err);
        if (!status) { /* only now: until here an interrupted run needs them again */
            drop(grad_path, w, l + 1);
            drop(input_path, w, l);
        }
    }
    return status;
}

/* ---- input-only ---- */

enum { INPUT_CHUNK = 8, INPUT_TILE = 192, N_INPUTS = 4 };

/* Linears that share an input share its statistics: q k v | o | gate up | down. */
static const kq_linear_id input_of[N_INPUTS] = {KQ_Q, KQ_O, KQ_GATE, KQ_DOWN};
static const int input_index[KQ_N_LINEAR] = {[KQ_Q] = 0, [KQ_K] = 0, [KQ_V] = 0, [KQ_O] = 1, [KQ_GATE] = 2, [KQ_UP] = 2, [KQ_DOWN] = 3};

typedef struct input_sink {
    size_t n[N_INPUTS], row;  /* width of each input; first row of this sequence in the chunk */
    float *X[N_INPUTS];       /* [INPUT_CHUNK * T, n] */
} input_sink;

static kq_status keep_input(void *ctx, kq_linear_id id, const float *X, const float *G, size_t T, kq_error *err)
{
    (void)G, (void)err;
    input_sink *s = ctx;
    const int i = input_index[id];
    if (input_of[i] == id && s->X[i])
        memcpy(s->X[i] + s->row * s->n[i], X, T * s->n[i] * sizeof *X);
    return KQ_OK;
}

/* H += X^T X, X [rows, n], lower triangle in fixed tiles. */
static void add_gram(const float *X, size_t rows, size_t n, float *H, int threads)
{
    const size_t tiles = (n + INPUT_TILE - 1) / INPUT_TILE;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (size_t t = 0; t < tiles * tiles; t++) {
        const size_t r = t / tiles * INPUT_TILE, c = t % tiles * INPUT_TILE;
        if (c > r)
            continue;
        kq_gemm_f32(true, false, n - r < INPUT_TILE ? n - r : INPUT_TILE, n - c < INPUT_TILE ? n - c : INPUT_TILE, rows, 1, X + r, n, X + c, n, 1,
                    H + r * n + c, n);
    }
}

static kq_status input_block(sweep *w, size_t layer, unsigned wanted, bool keep_output, kq_error *err)
{
    const kq_sweep *s = w->s;
    char path[4400];
    kq_spill *in = NULL, *out = NULL;
    kq_block block = {0};
    first_error f = {0};
    float *X[N_INPUTS] = {0}, *H[N_INPUTS] = {0};
    size_t n[N_INPUTS];
    kq_status status = KQ_OK;
    for (int i = 0; i < N_INPUTS && !status; i++) {
        size_t m;
        bool used = false;
        kq_linear_shape(w->cfg, input_of[i], &m, &n[i]);
        for (int id = 0; id < KQ_N_LINEAR; id++)
            used = used || ((wanted >> id & 1) && input_index[id] == i);
        if (!used)
            continue;
        X[i] = kq_alloc(INPUT_CHUNK * s->T * n[i], sizeof(float));
        H[i] = kq_calloc(n[i] * n[i], sizeof(float));
        if (!X[i] || !H[i])
            status = kq_fail(err, KQ_E_MEMORY, "out of memory: input statistics of layer %zu", layer);
    }
    if (!status) {
        input_path(w, layer, path);
        status = kq_spill_open(path, s->n_seq, 2 * w->record, &in, err);
    }
    if (!status && keep_output) {
        input_path(w, layer + 1, path);
        status = kq_spill_create(path, s->n_seq, 2 * w->record, &out, err);
    }
    if (!status)
        status = kq_block_load(w->mc, s->weights, layer, &block, err);
    for (size_t first = 0; first < s->n_seq && !status; first += INPUT_CHUNK) {
        const size_t count = s->n_seq - first < INPUT_CHUNK ? s->n_seq - first : INPUT_CHUNK;
#pragma omp parallel for schedule(dynamic) num_threads(w->threads)
        for (size_t i = 0; i < count; i++) {
            if (failed(&f))
                continue;
            worker *k = &w->w[omp_get_thread_num()];
            input_sink sink = {.row = i * s->T};
            memcpy(sink.n, n, sizeof n);
            memcpy(sink.X, X, sizeof X);
            kq_error e;
            kq_status st = read_input(w, k, in, first + i, &e);
            if (!st)
                st = kq_block_forward_sink(w->mc, &block, k->x, s->T, k->x, k->scratch, keep_input, &sink, &e);
            if (!st && keep_output)
                st = write_output(w, k, out, first + i, &e);
            note(&f, st, &e);
        }
        for (int i = 0; i < N_INPUTS && !failed(&f); i++)
            if (X[i])
                add_gram(X[i], count * s->T, n[i], H[i], w->threads);
        tick(s, &f, "forward", ((double)layer + (double)(first + count) / (double)s->n_seq) / (double)w->cfg->n_layer);
        status = settle(&f, err);
    }
    kq_block_free(&block);
    kq_spill_close(in);
    for (int i = 0; i < N_INPUTS && !status; i++)
        if (H[i])
            status = kq_fisher_input_finish(H[i], n[i], s->n_seq, err);
    for (int i = 0; i < N_INPUTS; i++)
        kq_free(X[i]);
    if (!status && keep_output) {
        status = kq_spill_commit(out, err);
        out = NULL;
    }
    kq_spill_close(out);
    const kq_factor_report none = {.converged = true};
    for (int id = 0; id < KQ_N_LINEAR && !status; id++)
        if (wanted >> id & 1)
            status = hand_out(w, layer, (kq_linear_id)id, H[input_index[id]], NULL, &none, err);
    for (int i = 0; i < N_INPUTS; i++)
        kq_free(H[i]);
    return status;
}

static kq_status input_sweep(sweep *w, size_t highest, const kq_head *head, kq_error *err)
{
    const kq_sweep *s = w->s;
    double start = kq_now_s();
    size_t from = 0;
    while (from < highest && (s->done(s->ctx, from) || !s->wanted[from]) && there(input_path, w, from + 1))
        from++;
    kq_status status = from ? KQ_OK : embed_inputs(w, head, err);
    for (size_t l = from; l <= highest && !status; l++) {
        const unsigned wanted = s->done(s->ctx, l) ? 0 : s->wanted[l];
        if (wanted || l < highest)
            status = input_block(w, l, wanted, l < highest, err);
        if (!status && wanted)
            status = s->block(s->ctx, l, err);
        if (!status)
            drop(input_path, w, l);
    }
    w->report->forward_s = kq_now_s() - start - w->report->callback_s;
    return status;
}

/* ---- both ---- */

static kq_status identity_sweep(sweep *w, kq_error *err)
{
    const kq_sweep *s = w->s;
    const kq_factor_report none = {.converged = true};
    kq_status status = KQ_OK;
    for (size_t l = 0; l < w->cfg->n_layer && !status; l++) {
        if (!s->wanted[l] || s->done(s->ctx, l))
            continue;
        for (int id = 0; id < KQ_N_LINEAR && !status; id++)
            if (s->wanted[l] >> id & 1)
                status = hand_out(w, l, (kq_linear_id)id, NULL, NULL, &none, err);
        if (!status)
            status = s->block(s->ctx, l, err);
        if (!status && s->progress && s->progress(s->ctx, "rounding", (double)(l + 1) / (double)w->cfg->n_layer))
            status = kq_fail(err, KQ_E_INTERRUPTED, "stopped while rounding");
    }
    return status;
}

kq_status kq_sweep_run(const kq_sweep *s, kq_sweep_report *report, kq_error *err)
{
    *report = (kq_sweep_report){.nll = NAN};
    sweep w = {.s = s, .cfg = s->weights->cfg, .threads = s->threads > 0 ? s->threads : 1, .report = report};
    if (s->factor.method == KQ_NONE)
        return identity_sweep(&w, err);

    size_t lowest = w.cfg->n_layer, highest = 0;
    bool left = false;
    for (size_t l = 0; l < w.cfg->n_layer; l++) {
        if (!s->wanted[l])
            continue;
        lowest = l < lowest ? l : lowest;
        highest = l;
        left = left || !s->done(s->ctx, l);
    }
    if (!left)
        return KQ_OK;
    const bool backward = kq_method_needs_gradients(s->factor.method);
    w.d = w.cfg->d_model;
    w.record = s->T * w.d;
    kq_head *head = NULL;
    kq_status status = kq_model_ctx_new(w.cfg, s->isa, s->compute, s->T, &w.mc, err);
    if (!status)
        status = new_workers(&w, backward, err);
    if (!status)
        status = kq_head_load(w.mc, s->weights, &head, err);
    if (!status)
        status = backward ? gradient_sweep(&w, lowest, head, err) : input_sweep(&w, highest, head, err);
    kq_head_free(head);
    free_workers(&w);
    kq_model_ctx_free(w.mc);
    return status;
}

void kq_sweep_plan(const kq_config *cfg, const kq_sweep *s, size_t *memory_bytes, size_t *disk_bytes)
{
    *memory_bytes = *disk_bytes = 0;
    if (s->factor.method == KQ_NONE)
        return;
    const size_t D = s->n_seq / (s->batch ? s->batch : 1), record = s->T * cfg->d_model, threads = (size_t)(s->threads > 0 ? s->threads : 1);
    const size_t width = s->compute == KQ_BF16 ? 2 : 4;
    const bool backward = kq_method_needs_gradients(s->factor.method);
    size_t largest = 0, gradients = 0, sums = 0;
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        size_t m, n;
        kq_linear_shape(cfg, (kq_linear_id)id, &m, &n);
        size_t factor = backward ? kq_factors_bytes(m, n, D, &s->factor) + 4 * (m * m + n * n) : 0;
        largest = factor > largest ? factor : largest;
        gradients += backward ? 2 * D * m * n : 0;
        sums += backward ? 4 * m * n : 0;
        if (!backward && input_of[input_index[id]] == (kq_linear_id)id)
            largest += 4 * (n * n + INPUT_CHUNK * s->T * n);
    }
    const size_t head = cfg->vocab_size * cfg->d_model * width * (cfg->tie_embeddings ? 1 : 2);
    size_t scratch = 0;
    kq_model_ctx *mc;
    if (!kq_model_ctx_new(cfg, s->isa, s->compute, s->T, &mc, NULL)) {
        scratch = kq_block_scratch_bytes(mc, s->T, backward);
        scratch = kq_head_scratch_bytes(mc) > scratch ? kq_head_scratch_bytes(mc) : scratch;
        kq_model_ctx_free(mc);
    }
    *memory_bytes = head + kq_block_bytes(cfg, s->compute) + gradients + largest + threads * (10 * record + scratch + sums);
    *disk_bytes = backward ? (cfg->n_layer + 1) * s->n_seq * record * 2 + 2 * s->n_seq * record * 4 : 2 * s->n_seq * record * 2;
}
