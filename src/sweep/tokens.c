/* Methods over tokens: the inputs x_t, and the gradients g_t at the outputs, of one block at a time, a
 * group of sequences at a time. */
#include "sweep/tokens.h"

#include <string.h>

#include "base/mem.h"
#include "base/time.h"
#include "sweep/block_pass.h"

enum { N_INPUTS = 4, GROUP = 8 /* sequences held at a time */ };

/* Linears that share an input share its values: q k v | o | gate up | down. */
static const kq_linear_id input_of[N_INPUTS] = {KQ_Q, KQ_O, KQ_GATE, KQ_DOWN};
static const int input_index[KQ_N_LINEAR] = {
    [KQ_Q] = 0, [KQ_K] = 0, [KQ_V] = 0, [KQ_O] = 1, [KQ_GATE] = 2, [KQ_UP] = 2, [KQ_DOWN] = 3};

static size_t group_of(size_t n_seq)
{
    return n_seq < GROUP ? n_seq : GROUP;
}

/* One block's tokens and what is made of them. Arrays of a linear that is not selected are NULL. */
typedef struct token_block {
    kq_sweeper *w;
    const kq_sweep_estimate *e;
    size_t n_rec; /* records it looks at */
    kq_block_pass pass;
    unsigned selected;
    size_t first, rows; /* the group's first record, of the estimate's; tokens in it */
    bool norms;         /* take ||G_i||_F^2 along */
    size_t m[KQ_N_LINEAR], n[KQ_N_LINEAR];
    float *X[N_INPUTS];    /* [GROUP * T, n] */
    float *g[KQ_N_LINEAR]; /* [GROUP * T, m] */
    float *H_in[KQ_N_LINEAR], *H_out[KQ_N_LINEAR];
    unsigned lacking; /* bit id: it is selected, but no token moves the loss through it */
    /* [n_rec] ||G_i||_F^2; when only the diagonal is selected, [n] sum_t x_t^2 */
    double *square[KQ_N_LINEAR];
    /* [GROUP * T]; the quadratic form [widest, widest]; [GROUP * T, widest] */
    float *weight, *form, *scaled;
} token_block;

/* What a worker's sink needs: where its sequence's rows go. */
/* i: of the estimate's records */
typedef struct token_sink {
    token_block *b;
    kq_sweep_worker *k;
    size_t i;
} token_sink;

static kq_status keep_tokens(void *ctx, kq_linear_id id, const float *X, const float *G, size_t T,
                             kq_error *err)
{
    const token_sink *s = ctx;
    token_block *b = s->b;
    const int i = input_index[id];
    const size_t row = (s->i - b->first) * T;
    if (input_of[i] == id && b->X[i])
        memcpy(b->X[i] + row * b->n[id], X, T * b->n[id] * sizeof *X);
    if (!G || !(b->selected >> id & 1))
        return KQ_OK;
    memcpy(b->g[id] + row * b->m[id], G, T * b->m[id] * sizeof *G);
    if (!b->norms)
        return KQ_OK;
    kq_status status = kq_sweep_weight_gradient(b->w, s->k, id, X, G, T, false, err);
    double sum = 0;
    for (size_t j = 0; j < b->m[id]; j++) {
        double row_sum = 0;
        for (size_t l = 0; l < b->n[id]; l++)
            row_sum += (double)s->k->G[id][j * b->n[id] + l] * s->k->G[id][j * b->n[id] + l];
        sum += row_sum;
    }
    b->square[id][s->i] = sum;
    return status;
}

static kq_status up_item(void *ctx, kq_sweep_worker *k, size_t i, kq_error *err)
{
    token_block *b = ctx;
    token_sink sink = {.b = b, .k = k, .i = b->first + i};
    const size_t seq = kq_sweep_record(b->w, b->e, sink.i) % b->w->s->n_seq;
    kq_status status = kq_records_read_input(b->w, k, b->pass.in, seq, err);
    if (!status)
        status = kq_block_forward_sink(b->w->mc, &b->pass.block, k->x, b->w->s->T, k->x, k->scratch,
                                       &(kq_linear_sink){.give = keep_tokens, .ctx = &sink}, err);
    return status || !b->pass.out ? status : kq_records_write_input(b->w, k, b->pass.out, seq, err);
}

static kq_status down_item(void *ctx, kq_sweep_worker *k, size_t i, kq_error *err)
{
    token_block *b = ctx;
    token_sink sink = {.b = b, .k = k, .i = b->first + i};
    unsigned ids = b->selected;
    for (int j = 0; j < N_INPUTS; j++)
        if (b->X[j])
            ids |= 1u << input_of[j]; /* so that the shared input is handed out */
    return kq_sweep_backward_record(b->w, k, &b->pass, kq_sweep_record(b->w, b->e, sink.i),
                                    &(kq_linear_sink){.give = keep_tokens, .ctx = &sink, .selected = ids},
                                    err);
}

static void free_block(token_block *b)
{
    for (int i = 0; i < N_INPUTS; i++)
        kq_free(b->X[i]);
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        kq_free(b->g[id]);
        kq_free(b->H_in[id]);
        kq_free(b->H_out[id]);
        kq_free(b->square[id]);
    }
    kq_free(b->weight);
    kq_free(b->form);
    kq_free(b->scaled);
    kq_block_free(&b->pass.block);
}

static kq_status new_block(token_block *b, size_t layer, bool backward, kq_error *err)
{
    const kq_sweep *s = b->w->s;
    const size_t rows = group_of(b->n_rec) * s->T;
    size_t widest = 0;
    bool ok = true;
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        size_t *m = &b->m[id], *n = &b->n[id];
        kq_linear_shape(b->w->cfg, (kq_linear_id)id, m, n);
        if (!(b->selected >> id & 1))
            continue;
        widest = *n > widest ? *n : widest;
        widest = *m > widest ? *m : widest;
        const int i = input_index[id];
        if (!b->X[i])
            ok = (b->X[i] = kq_alloc(rows * *n, sizeof(float))) && ok;
        ok = (b->H_in[id] = kq_calloc(s->diagonal ? *n : *n * *n, sizeof(float))) && ok;
        if (s->diagonal)
            ok = (b->square[id] = kq_calloc(*n, sizeof(double))) && ok;
        if (!backward)
            continue;
        ok = (b->g[id] = kq_alloc(rows * *m, sizeof(float))) && ok;
        ok = (b->H_out[id] = kq_calloc(*m * *m, sizeof(float))) && ok;
        ok = (b->square[id] = kq_calloc(b->n_rec, sizeof(double))) && ok;
    }
    if (backward) {
        ok = (b->weight = kq_alloc(rows, sizeof(float))) && ok;
        ok = (b->form = kq_alloc(widest * widest, sizeof(float))) && ok;
        ok = (b->scaled = kq_alloc(rows * widest, sizeof(float))) && ok;
    }
    if (!ok)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: token statistics of layer %zu", layer);
    return kq_block_load(b->w->mc, s->weights, layer, &b->pass.block, err);
}

size_t kq_sweep_token_bytes(const kq_config *cfg, size_t T, size_t n_seq, bool backward, bool diagonal)
{
    const size_t rows = group_of(n_seq) * T;
    size_t bytes = 0, widest = 0;
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        size_t m, n;
        kq_linear_shape(cfg, (kq_linear_id)id, &m, &n);
        widest = m > widest ? m : widest;
        widest = n > widest ? n : widest;
        bytes += (diagonal ? 12 * n : 4 * n * n) +
                 (input_of[input_index[id]] == (kq_linear_id)id ? 4 * rows * n : 0);
        bytes += backward ? 4 * (m * m + rows * m) : 0;
    }
    /* forms: with the two of an inverse */
    return bytes + (backward ? 4 * (3 * widest * widest + rows * widest) : 0);
}

/* Add the group's tokens to one side of a linear's statistics. other: the matrix that weights them, NULL
 * for ones. */
static void add_group(token_block *b, const float *tokens, size_t width, const float *other_tokens,
                      size_t other_width, const float *form, float *H)
{
    const int threads = b->w->threads;
    if (form)
        kq_token_quadratic(other_tokens, b->rows, other_width, form, b->weight, b->scaled, threads);
    kq_token_gram(tokens, form ? b->weight : NULL, b->rows, width, H, b->scaled, threads);
}

/* Unweighted sums over an input that linears share are taken once, for the first of them that is selected,
 * and copied. -1: none to copy from. */
static int same_sums(const token_block *b, const kq_token_pass *pass, int id)
{
    if (pass->in && pass->weight == KQ_WEIGHT_ONE)
        for (int other = 0; other < id; other++)
            if ((b->selected >> other & 1) && input_index[other] == input_index[id])
                return other;
    return -1;
}

/* The weights of one linear's pass stay the same over all groups; each linear has its own, made when the
 * group's turn comes: the forms of all linears would not fit, the inverse is small beside the products
 * over a group. */
static kq_status add_linear(token_block *b, int id, const kq_token_pass *pass, const float *H_in,
                            const float *H_out, kq_factor_report *report, kq_error *err)
{
    const kq_factor_options *f = b->e->factor;
    const float *X = b->X[input_index[id]], *form = NULL;
    kq_status status = KQ_OK;
    if (pass->weight != KQ_WEIGHT_ONE) {
        form = b->form;
        status = kq_token_weight(pass->weight, pass->in ? H_out : H_in, pass->in ? b->m[id] : b->n[id],
                                 f->rho, b->w->threads, b->form, &report->regularised, err);
    }
    if (!status && pass->in && same_sums(b, pass, id) < 0)
        add_group(b, X, b->n[id], b->g[id], b->m[id], form, b->H_in[id]);
    if (!status && pass->out)
        add_group(b, b->g[id], b->m[id], X, b->n[id], form, b->H_out[id]);
    return status;
}

static double mean_square(const token_block *b, int id)
{
    double sum = 0;
    for (size_t r = 0; r < b->n_rec; r++)
        sum += b->square[id][r];
    return sum / ((double)b->n_rec * (double)b->m[id] * (double)b->n[id]);
}

/* After a pass: linears that no token tells anything of take no part in the others. */
static void find_lacking(token_block *b, const kq_token_pass *pass)
{
    for (int id = 0; id < KQ_N_LINEAR; id++)
        if ((b->selected >> id & 1) &&
            (mean_square(b, id) < KQ_TINY_SQUARE || (pass->in && kq_factor_is_tiny(b->H_in[id], b->n[id])) ||
             (pass->out && kq_factor_is_tiny(b->H_out[id], b->m[id]))))
            b->lacking |= 1u << id;
    b->selected &= ~b->lacking;
}

/* One pass over all tokens of the block. */
static kq_status run_pass(token_block *b, const kq_token_pass *pass, kq_sweep_item *item, const char *stage,
                          double from, double to, kq_factor_report report[KQ_N_LINEAR], kq_error *err)
{
    kq_sweeper *w = b->w;
    const size_t n = b->n_rec, group = group_of(n);
    kq_status status = KQ_OK;
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        if (pass->in && b->H_in[id])
            memset(b->H_in[id], 0, b->n[id] * b->n[id] * sizeof(float));
        if (pass->out && b->H_out[id])
            memset(b->H_out[id], 0, b->m[id] * b->m[id] * sizeof(float));
    }
    for (b->first = 0; b->first < n && !status; b->first += group) {
        const size_t count = n - b->first < group ? n - b->first : group;
        const double at = from + (to - from) * (double)b->first / (double)n,
                     end = from + (to - from) * (double)(b->first + count) / (double)n;
        b->rows = count * w->s->T;
        double start = kq_now_s();
        status = kq_sweep_for_each(w, count, item, b, stage, at, end, err);
        w->report->backward_s += kq_now_s() - start;
        start = kq_now_s();
        for (int id = 0; id < KQ_N_LINEAR && !status; id++) {
            if (b->selected >> id & 1)
                status = add_linear(b, id, pass, b->H_in[id], b->H_out[id], &report[id], err);
        }
        w->report->factor_s += kq_now_s() - start;
    }
    for (int id = 0; id < KQ_N_LINEAR && !status; id++) {
        if (!(b->selected >> id & 1))
            continue;
        const int same = same_sums(b, pass, id);
        if (same >= 0)
            memcpy(b->H_in[id], b->H_in[same], b->n[id] * b->n[id] * sizeof(float));
        else if (pass->in)
            status = kq_token_finish(b->H_in[id], b->n[id], n, err);
        if (!status && pass->out)
            status = kq_token_finish(b->H_out[id], b->m[id], n, err);
        if (status) {
            char name[128];
            kq_linear_name(name, sizeof name, b->pass.block.layer, (kq_linear_id)id);
            kq_fail_within(err, status, name);
        }
    }
    return status;
}

/* A linear's part of the block's time, by its number of weights. */
static double share_of(const token_block *b, int id)
{
    double all = 0;
    for (int other = 0; other < KQ_N_LINEAR; other++)
        all += (b->selected | b->lacking) >> other & 1 ? (double)b->m[other] * (double)b->n[other] : 0;
    return (double)b->m[id] * (double)b->n[id] / all;
}

kq_status kq_sweep_token_block(kq_sweeper *w, const kq_sweep_estimate *e, size_t layer, unsigned selected,
                               bool keep, kq_error *err)
{
    const kq_factor_options *f = e->factor;
    const size_t passes = kq_method_passes(f), L = w->cfg->n_layer;
    token_block b = {.w = w, .e = e, .n_rec = kq_sweep_n_records(w, e), .selected = selected};
    kq_factor_report report[KQ_N_LINEAR] = {0};
    double started = kq_now_s();
    kq_status status = new_block(&b, layer, true, err);
    if (!status)
        status = kq_records_open(w, KQ_REC_INPUT, layer, &b.pass.in, err);
    if (!status)
        status = kq_records_open(w, KQ_REC_GRAD, layer + 1, &b.pass.dy, err);
    for (size_t i = 0; i < passes && !status; i++) {
        const kq_token_pass pass = kq_method_pass(f, i);
        const double from = ((double)(L - 1 - layer) + (double)i / (double)passes) / (double)L;
        b.norms = i == 0;
        if (i == 0 && keep)
            status = kq_records_create(w, KQ_REC_GRAD, layer, &b.pass.out, err);
        if (!status)
            status = run_pass(&b, &pass, down_item, "backward", from, from + 1 / ((double)passes * (double)L),
                              report, err);
        if (!status)
            find_lacking(&b, &pass);
        if (i == 0) {
            status = kq_records_finish(b.pass.out, status, err);
            b.pass.out = NULL;
        }
    }
    kq_spill_close(b.pass.in);
    kq_spill_close(b.pass.dy);
    const double elapsed = kq_now_s() - started;
    for (int id = 0; id < KQ_N_LINEAR && !status; id++) {
        if (!(selected >> id & 1))
            continue;
        double square = 0;
        for (size_t r = 0; r < b.n_rec; r++)
            square += b.square[id][r];
        report[id].trace_product = square / (double)b.n_rec;
        report[id].seconds = elapsed * share_of(&b, id);
        report[id].converged = true;
        report[id].products = (int)passes;
        if (b.lacking >> id & 1) {
            report[id] = (kq_factor_report){
                .lack = KQ_LACK_GRADIENT, .products = 1, .converged = true, .seconds = report[id].seconds};
            status = kq_sweep_hand_out(w, e, layer, (kq_linear_id)id, NULL, NULL, &report[id], err);
        } else if (!(status = kq_factors_scale(b.H_in[id], b.n[id], b.H_out[id], b.m[id],
                                               report[id].trace_product, err)))
            status =
                kq_sweep_hand_out(w, e, layer, (kq_linear_id)id, b.H_in[id], b.H_out[id], &report[id], err);
    }
    free_block(&b);
    return status;
}

/* sums[n] += the squares of each column of X [rows, n]. */
static void add_squares(const float *X, size_t rows, size_t n, double *sums, int threads)
{
    enum { COLUMNS = 64 };
#pragma omp parallel for schedule(static) num_threads(threads)
    for (size_t c = 0; c < n; c += COLUMNS) {
        const size_t width = n - c < COLUMNS ? n - c : COLUMNS;
        double sum[COLUMNS] = {0};
        for (size_t t = 0; t < rows; t++)
            for (size_t j = 0; j < width; j++)
                sum[j] += (double)X[t * n + c + j] * (double)X[t * n + c + j];
        for (size_t j = 0; j < width; j++)
            sums[c + j] += sum[j];
    }
}

/* The pass of an imatrix: into the first linear of each input, then copied to those that share it. */
static kq_status run_diagonal(token_block *b, double from, double to, kq_error *err)
{
    const size_t n = b->n_rec, group = group_of(n);
    int first[N_INPUTS] = {-1, -1, -1, -1};
    kq_status status = KQ_OK;
    for (int id = KQ_N_LINEAR; id-- > 0;)
        if (b->selected >> id & 1)
            first[input_index[id]] = id;
    for (b->first = 0; b->first < n && !status; b->first += group) {
        const size_t count = n - b->first < group ? n - b->first : group;
        const double at = from + (to - from) * (double)b->first / (double)n,
                     end = from + (to - from) * (double)(b->first + count) / (double)n;
        status = kq_sweep_for_each(b->w, count, up_item, b, "forward", at, end, err);
        for (int i = 0; i < N_INPUTS && !status; i++)
            if (first[i] >= 0)
                add_squares(b->X[i], count * b->w->s->T, b->n[first[i]], b->square[first[i]], b->w->threads);
    }
    for (int id = 0; id < KQ_N_LINEAR && !status; id++)
        if (b->selected >> id & 1)
            for (size_t j = 0; j < b->n[id]; j++)
                b->H_in[id][j] = (float)b->square[first[input_index[id]]][j];
    return status;
}

kq_status kq_sweep_input_block(kq_sweeper *w, const kq_sweep_estimate *e, size_t layer, unsigned selected,
                               bool keep, kq_error *err)
{
    const double L = (double)w->cfg->n_layer,
                 from = w->backward ? (L - (double)layer) / L : (double)layer / L,
                 to = w->backward ? from : from + 1 / L;
    const char *stage = w->backward ? "backward" : "forward";
    const kq_token_pass pass = kq_method_pass(e->factor, 0);
    const double started = kq_now_s();
    token_block b = {.w = w, .e = e, .n_rec = e->n_seq, .selected = selected};
    kq_factor_report report[KQ_N_LINEAR] = {0};
    kq_status status = new_block(&b, layer, false, err);
    if (!status)
        status = kq_records_open(w, KQ_REC_INPUT, layer, &b.pass.in, err);
    if (!status && keep)
        status = kq_records_create(w, KQ_REC_INPUT, layer + 1, &b.pass.out, err);
    if (!status)
        status = w->s->diagonal ? run_diagonal(&b, from, to, err)
                                : run_pass(&b, &pass, up_item, stage, from, to, report, err);
    kq_spill_close(b.pass.in);
    status = kq_records_finish(b.pass.out, status, err);
    const double elapsed = kq_now_s() - started;
    for (int id = 0; id < KQ_N_LINEAR && !status; id++)
        if (selected >> id & 1) {
            report[id] = (kq_factor_report){.converged = true, .seconds = elapsed * share_of(&b, id)};
            if (!w->s->diagonal && kq_factor_is_tiny(b.H_in[id], b.n[id]))
                report[id].lack = KQ_LACK_INPUT;
            status = kq_sweep_hand_out(w, e, layer, (kq_linear_id)id, report[id].lack ? NULL : b.H_in[id],
                                       NULL, &report[id], err);
        }
    free_block(&b);
    return status;
}
