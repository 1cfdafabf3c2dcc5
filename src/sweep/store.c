/* One block's weight gradients, wherever they are kept (kq_gradient_way), and the factors of the
 * estimates that take them. */
#include "sweep/store.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/f16.h"
#include "base/first_error.h"
#include "base/mem.h"
#include "base/time.h"
#include "sweep/block_pass.h"

/* How a unit's gradient is kept: multiplied out, [m, n]; or as g [uT, m] and x [uT, n], u sequences of T
 * tokens (kq_gradients.T). */
enum { WHOLE, FACTORED };

static size_t width_of(const kq_sweeper *w, int form, int id) /* values of a unit */
{
    size_t m, n;
    kq_linear_shape(w->cfg, (kq_linear_id)id, &m, &n);
    return kq_sample_size(m, n, form == FACTORED ? w->unit * w->s->T : 0);
}

static bool takes_gradients(const kq_sweep_estimate *e)
{
    return kq_method_needs(e->factor->method) == KQ_NEEDS_GRADIENTS;
}

static int form_of(const kq_sweeper *w, const kq_sweep_estimate *e, int id)
{
    size_t m, n;
    kq_linear_shape(w->cfg, (kq_linear_id)id, &m, &n);
    return kq_factored_pays(m, n, e->batch * w->s->T, e->factor) ? FACTORED : WHOLE;
}

unsigned kq_sweep_forms(const kq_sweeper *w, int id)
{
    unsigned forms = 0;
    for (size_t i = 0; i < w->s->n_estimates; i++)
        if (takes_gradients(&w->s->estimates[i]))
            forms |= 1u << form_of(w, &w->s->estimates[i], id);
    return forms;
}

static kq_factor_options options_of(const kq_sweeper *w, const kq_sweep_estimate *e)
{
    kq_factor_options opt = *e->factor;
    opt.chunk_bytes = w->s->chunk_bytes;
    return opt;
}

/* ---- a pass over the units ---- */

typedef struct block_gradients {
    kq_sweeper *w;
    size_t layer;
    kq_block_pass pass;                        /* out becomes NULL once it is written */
    unsigned selected;                         /* linears whose gradients this pass makes */
    size_t first;                              /* the unit that memory begins with */
    uint16_t *memory[KQ_N_FORMS][KQ_N_LINEAR]; /* [units, or slots of a stream; width]; owned */
    /* a record a unit; owned, never committed: it goes when it is closed */
    kq_spill *disk[KQ_N_FORMS][KQ_N_LINEAR];
} block_gradients;

static uint16_t *unit_address(const block_gradients *b, const kq_sweep_worker *k, int form, int id,
                              size_t unit)
{
    uint16_t *memory = b->memory[form][id];
    return memory ? memory + (unit - b->first) * width_of(b->w, form, id) : k->unit[form][id];
}

/* What a worker's sink needs to put one sequence's gradient into its unit. */
typedef struct gradient_sink {
    const block_gradients *b;
    kq_sweep_worker *k;
    size_t unit, nth; /* sequence of the unit */
} gradient_sink;

static kq_status put_gradient(void *ctx, kq_linear_id id, const float *X, const float *G, size_t T,
                              kq_error *err)
{
    const gradient_sink *s = ctx;
    kq_sweeper *w = s->b->w;
    const unsigned forms = w->forms[id];
    if (forms >> FACTORED & 1) {
        size_t m, n;
        kq_linear_shape(w->cfg, id, &m, &n);
        uint16_t *g = unit_address(s->b, s->k, FACTORED, id, s->unit);
        kq_f32_to_bf16_n(G, g + s->nth * T * m, T * m);
        kq_f32_to_bf16_n(X, g + w->unit * T * m + s->nth * T * n, T * n);
    }
    return forms >> WHOLE & 1 ? kq_sweep_weight_gradient(w, s->k, id, X, G, T, s->nth > 0, err) : KQ_OK;
}

static kq_status unit_item(void *ctx, kq_sweep_worker *k, size_t i, kq_error *err)
{
    const block_gradients *b = ctx;
    const size_t unit = b->first + i, B = b->w->unit;
    kq_status status = KQ_OK;
    for (size_t nth = 0; nth < B && !status; nth++) {
        gradient_sink sink = {b, k, unit, nth};
        status = kq_sweep_backward_record(
            b->w, k, &b->pass, unit * B + nth,
            &(kq_linear_sink){.give = put_gradient, .ctx = &sink, .selected = b->selected}, err);
    }
    for (int id = 0; id < KQ_N_LINEAR && !status; id++) {
        if (!(b->selected >> id & 1))
            continue;
        if (b->w->forms[id] >> WHOLE & 1)
            kq_f32_to_bf16_n(k->G[id], unit_address(b, k, WHOLE, id, unit), width_of(b->w, WHOLE, id));
        for (int form = 0; form < KQ_N_FORMS && !status; form++)
            if (b->disk[form][id])
                status = kq_spill_write(b->disk[form][id], unit, k->unit[form][id], err);
    }
    return status;
}

static size_t units_of(const kq_sweeper *w)
{
    return w->n_rec / w->unit;
}

/* Where the sweep down stands, as a fraction of the whole: layer at work, share of it done. */
static double down(const kq_sweeper *w, size_t layer, double share)
{
    return ((double)(w->cfg->n_layer - 1 - layer) + share) / (double)w->cfg->n_layer;
}

static kq_status open_block(block_gradients *b, bool keep_dx, kq_error *err)
{
    kq_sweeper *w = b->w;
    kq_status status = kq_records_open(w, KQ_REC_INPUT, b->layer, &b->pass.in, err);
    if (!status)
        status = kq_records_open(w, KQ_REC_GRAD, b->layer + 1, &b->pass.dy, err);
    if (!status && keep_dx)
        status = kq_records_create(w, KQ_REC_GRAD, b->layer, &b->pass.out, err);
    return status ? status : kq_block_load(w->mc, w->s->weights, b->layer, &b->pass.block, err);
}

static kq_status finish_dx(block_gradients *b, kq_status status, kq_error *err)
{
    kq_spill *out = b->pass.out;
    b->pass.out = NULL;
    return kq_records_finish(out, status, err);
}

static kq_status close_block(block_gradients *b, kq_status status, kq_error *err)
{
    kq_block_free(&b->pass.block);
    kq_spill_close(b->pass.in);
    kq_spill_close(b->pass.dy);
    b->pass.in = b->pass.dy = NULL;
    return finish_dx(b, status, err);
}

static void drop_linear(block_gradients *b, int id)
{
    for (int form = 0; form < KQ_N_FORMS; form++) {
        kq_free(b->memory[form][id]);
        kq_spill_close(b->disk[form][id]);
        b->memory[form][id] = NULL;
        b->disk[form][id] = NULL;
    }
}

/* The file of a linear's units in one form. */
static kq_status make_file(block_gradients *b, int form, int id, size_t count, size_t bytes, kq_error *err)
{
    char *path, suffix[16];
    snprintf(suffix, sizeof suffix, "%d-%d.bf16", id, form);
    kq_status status = kq_job_path(b->w->s->job, "gradients", b->layer, suffix, &path, err);
    if (!status)
        status = kq_spill_create(path, count, bytes, &b->disk[form][id], err);
    kq_free(path);
    return status;
}

/* Room for `count` units of every selected linear. */
static kq_status make_room(block_gradients *b, size_t count, bool on_disk, kq_error *err)
{
    kq_status status = KQ_OK;
    for (int id = 0; id < KQ_N_LINEAR; id++)
        for (int form = 0; form < KQ_N_FORMS && !status; form++) {
            if (!(b->selected >> id & 1) || !(b->w->forms[id] >> form & 1))
                continue;
            const size_t width = width_of(b->w, form, id);
            status = on_disk ? make_file(b, form, id, count, width * sizeof(uint16_t), err)
                             : kq_alloc_for((void **)&b->memory[form][id], count * width, sizeof(uint16_t),
                                            "a block's gradients", err);
        }
    return status;
}

/* ---- an estimate's samples out of units ---- */

/* Unit k of the `per` that make a sample: its tokens beside the others', or its values added to theirs
 * in f32. */
static void join_unit(const kq_sweeper *w, int form, int id, size_t per, size_t k, const uint16_t *unit,
                      float *sum, uint16_t *sample)
{
    const size_t width = width_of(w, form, id);
    if (per == 1) {
        memcpy(sample, unit, width * sizeof *sample);
    } else if (form == FACTORED) {
        size_t m, n;
        kq_linear_shape(w->cfg, (kq_linear_id)id, &m, &n);
        const size_t T = w->unit * w->s->T;
        memcpy(sample + k * T * m, unit, T * m * sizeof *sample);
        memcpy(sample + per * T * m + k * T * n, unit + T * m, T * n * sizeof *sample);
    } else {
        for (size_t j = 0; j < width; j++)
            sum[j] = (k ? sum[j] : 0) + kq_bf16_to_f32(unit[j]);
        if (k + 1 == per)
            kq_f32_to_bf16_n(sum, sample, width);
    }
}

typedef struct sample_reader {
    const block_gradients *b;
    const kq_sweep_estimate *e;
    int id, form;
} sample_reader;

static kq_status read_sample(const sample_reader *r, size_t i, uint16_t *sample, kq_error *err)
{
    const kq_sweeper *w = r->b->w;
    const size_t per = r->e->batch / w->unit, width = width_of(w, r->form, r->id);
    kq_spill *disk = r->b->disk[r->form][r->id];
    float *sum = NULL;
    uint16_t *unit = NULL;
    kq_status status = KQ_OK;
    if (per > 1 && r->form == WHOLE)
        status = kq_alloc_for((void **)&sum, width, sizeof *sum, "sums of gradients", err);
    if (!status && per > 1 && disk)
        status = kq_alloc_for((void **)&unit, width, sizeof *unit, "a gradient", err);
    for (size_t k = 0; k < per && !status; k++) {
        const size_t at = kq_sweep_record(w, r->e, (i * per + k) * w->unit) / w->unit;
        if (!disk)
            join_unit(w, r->form, r->id, per, k, r->b->memory[r->form][r->id] + at * width, sum, sample);
        else if (!(status = kq_spill_read(disk, at, per > 1 ? unit : sample, err)) && per > 1)
            join_unit(w, r->form, r->id, per, k, unit, sum, sample);
    }
    kq_free(sum);
    kq_free(unit);
    return status;
}

/* kq_gradients.read */
static kq_status read_samples(void *ctx, size_t first, size_t count, uint16_t *g, kq_error *err)
{
    const sample_reader *r = ctx;
    const kq_sweeper *w = r->b->w;
    const size_t width = width_of(w, r->form, r->id) * (r->form == FACTORED ? r->e->batch / w->unit : 1);
    kq_first_error f = KQ_FIRST_ERROR;
#pragma omp parallel for schedule(dynamic) num_threads(w->threads) if (w->threads > 1)
    for (size_t i = 0; i < count; i++) {
        kq_error e;
        if (!kq_first_error_skip(&f, i))
            kq_first_error_note(&f, i, read_sample(r, first + i, g + i * width, &e), &e);
    }
    return kq_first_error_get(&f, err);
}

/* progress of one factor computation, between the backward pass of its block and the next */
static int factor_progress(void *ctx, double fraction)
{
    (void)fraction;
    const kq_sweeper *w = ctx;
    return kq_sweep_progress(w->s, NULL, 0);
}

static void scale_by(float *H, size_t n, float by)
{
    for (size_t i = 0; i < n * n; i++)
        H[i] *= by;
}

/* Factors as kq_factors leaves them go to the receiver. */
static kq_status deliver(kq_sweeper *w, const kq_sweep_estimate *e, size_t layer, int id, float *H_in,
                         float *H_out, kq_factor_report *report, kq_error *err)
{
    size_t m, n;
    kq_linear_shape(w->cfg, (kq_linear_id)id, &m, &n);
    if (report->lack)
        return kq_sweep_hand_out(w, e, layer, (kq_linear_id)id, NULL, NULL, report, err);
    if (e->batch > 1) { /* a batch's product is divided by B in its sums (eq. 5) */
        scale_by(H_in, n, 1 / sqrtf((float)e->batch));
        scale_by(H_out, m, 1 / sqrtf((float)e->batch));
        report->trace_product /= (double)e->batch;
    }
    return kq_sweep_hand_out(w, e, layer, (kq_linear_id)id, H_in, H_out, report, err);
}

static kq_status name_error(size_t layer, int id, kq_status status, kq_error *err)
{
    char name[128];
    if (status && status != KQ_E_INTERRUPTED) {
        kq_linear_name(name, sizeof name, layer, (kq_linear_id)id);
        kq_fail_within(err, status, name);
    }
    return status;
}

static kq_gradients samples_of(const kq_sweeper *w, const kq_sweep_estimate *e, int id)
{
    size_t m, n;
    kq_linear_shape(w->cfg, (kq_linear_id)id, &m, &n);
    const size_t T = form_of(w, e, id) == FACTORED ? e->batch * w->s->T : 0;
    return (kq_gradients){.D = kq_sweep_n_records(w, e) / e->batch, .m = m, .n = n, .T = T};
}

static kq_status alloc_factors(const kq_gradients *G, float **H_in, float **H_out, kq_error *err)
{
    *H_out = NULL;
    kq_status status = kq_alloc_for((void **)H_in, G->n * G->n, sizeof **H_in, "a factor", err);
    return status ? status : kq_alloc_for((void **)H_out, G->m * G->m, sizeof **H_out, "a factor", err);
}

/* One estimate's factors of one linear, from gradients in memory or on disk. */
static kq_status factor_linear(const block_gradients *b, const kq_sweep_estimate *e, int id, kq_error *err)
{
    kq_sweeper *w = b->w;
    const kq_factor_options opt = options_of(w, e);
    sample_reader reader = {b, e, id, form_of(w, e, id)};
    kq_gradients G = samples_of(w, e, id);
    G.read = read_samples;
    G.ctx = &reader;
    if (kq_sweep_as_stored(w, e))
        G.g = b->memory[reader.form][id]; /* NULL: on disk */
    kq_factor_report report = {0};
    float *H_in, *H_out;
    const double start = kq_now_s();
    kq_status status = alloc_factors(&G, &H_in, &H_out, err);
    if (!status)
        status = kq_factors(&G, &opt, H_in, H_out, &report, factor_progress, w, err);
    w->report->factor_s += kq_now_s() - start;
    status = name_error(b->layer, id, status, err);
    if (!status)
        status = deliver(w, e, b->layer, id, H_in, H_out, &report, err);
    kq_free(H_in);
    kq_free(H_out);
    return status;
}

/* All gradients of the block, then one linear after the other. */
static kq_status stored_block(block_gradients *b, bool keep_dx, size_t n_estimates, kq_error *err)
{
    kq_sweeper *w = b->w;
    const kq_sweep *s = w->s;
    const unsigned selected = b->selected;
    double start = kq_now_s();
    size_t done = 0;
    kq_status status = make_room(b, units_of(w), s->way == KQ_WAY_DISK, err);
    if (!status)
        status = open_block(b, keep_dx, err);
    if (!status)
        status = kq_sweep_for_each(w, units_of(w), unit_item, b, "backward", down(w, b->layer, 0),
                                   down(w, b->layer, 0.5), err);
    status = close_block(b, status, err);
    w->report->backward_s += kq_now_s() - start;
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        for (size_t i = 0; i < s->n_estimates && !status; i++) {
            const kq_sweep_estimate *e = &s->estimates[i];
            if (!(selected >> id & 1) || !takes_gradients(e))
                continue;
            status = factor_linear(b, e, id, err);
            const double share = (double)++done / (double)(n_estimates * KQ_N_LINEAR);
            if (!status && kq_sweep_progress(s, "backward", down(w, b->layer, 0.5 + 0.5 * share)))
                status = kq_fail(err, KQ_E_INTERRUPTED, "stopped in the backward sweep");
        }
        drop_linear(b, id);
    }
    return status;
}

/* ---- kept nowhere: the block is run again for every product ---- */

/* One estimate of one linear. A sample that several units make is put together here. */
typedef struct stream_item {
    const kq_sweep_estimate *e;
    int id, form;
    kq_factor_options opt;
    kq_gradients sizes;
    size_t per, next, pending; /* units a sample; its next record; units of the sample at hand */
    float *sum;                /* owned, as below */
    uint16_t *sample;
} stream_item;

enum { MAX_SET = 64, SLOTS_A_WORKER = 2 };

/* The estimates of the selected linears, linear by linear; at most n_estimates * KQ_N_LINEAR. */
static size_t list_items(const kq_sweeper *w, unsigned selected, stream_item *items)
{
    size_t n = 0;
    for (int id = 0; id < KQ_N_LINEAR; id++)
        for (size_t i = 0; i < w->s->n_estimates; i++) {
            const kq_sweep_estimate *e = &w->s->estimates[i];
            if (selected >> id & 1 && takes_gradients(e))
                items[n++] = (stream_item){.e = e,
                                           .id = id,
                                           .form = form_of(w, e, id),
                                           .opt = options_of(w, e),
                                           .sizes = samples_of(w, e, id),
                                           .per = e->batch / w->unit};
        }
    return n;
}

static size_t item_bytes(const stream_item *t)
{
    const kq_gradients *G = &t->sizes;
    const kq_stream_linear one = {.D = G->D, .m = G->m, .n = G->n, .T = G->T, .opt = &t->opt};
    const size_t sample = kq_sample_size(G->m, G->n, G->T);
    return kq_factors_stream_bytes(&one, 1) + 4 * (G->m * G->m + G->n * G->n) +
           (t->per > 1 ? (t->form == WHOLE ? 6 : 2) * sample : 0);
}

/* How many of the n items advance together: as many as fit limit (0: any), at least one. */
static size_t take_set(const stream_item *items, size_t n, size_t limit, size_t *bytes)
{
    size_t count = 0;
    *bytes = 0;
    while (count < n && count < MAX_SET) {
        const size_t more = item_bytes(&items[count]);
        if (count && limit && *bytes + more > limit)
            break;
        *bytes += more;
        count++;
    }
    return count;
}

static size_t slots_of(const kq_sweeper *w)
{
    const size_t slots = (size_t)w->workers * SLOTS_A_WORKER;
    return slots < units_of(w) ? slots : units_of(w);
}

typedef struct stream {
    block_gradients *b;
    stream_item *items;
    size_t count;
    double share;
} stream;

static int stream_progress(void *ctx, double fraction)
{
    stream *st = ctx;
    st->share = fraction;
    return factor_progress(st->b->w, fraction);
}

/* The slots' units, as far as they belong to the item's samples. */
static kq_status feed(const block_gradients *b, stream_item *t, size_t source, size_t count,
                      kq_gradient_sink *to, kq_error *err)
{
    const kq_sweeper *w = b->w;
    const uint16_t *slots = b->memory[t->form][t->id];
    const size_t width = width_of(w, t->form, t->id), n_records = kq_sweep_n_records(w, t->e);
    kq_status status = KQ_OK;
    if (kq_sweep_as_stored(w, t->e))
        return to->add(to, source, slots, count, err);
    for (size_t i = 0; i < count && !status; i++) { /* units are single records here */
        if (t->next >= n_records || kq_sweep_record(w, t->e, t->next) != b->first + i)
            continue;
        t->next++;
        if (t->per == 1) {
            status = to->add(to, source, slots + i * width, 1, err);
            continue;
        }
        join_unit(w, t->form, t->id, t->per, t->pending, slots + i * width, t->sum, t->sample);
        if (++t->pending == t->per) {
            t->pending = 0;
            status = to->add(to, source, t->sample, 1, err);
        }
    }
    return status;
}

/* kq_gradient_pass; the first one also writes the gradient at the block's input. */
static kq_status stream_pass(void *ctx, kq_gradient_sink *to, kq_error *err)
{
    stream *st = ctx;
    block_gradients *b = st->b;
    kq_sweeper *w = b->w;
    const size_t units = units_of(w), slots = slots_of(w);
    kq_status status = KQ_OK;
    for (size_t i = 0; i < st->count; i++)
        st->items[i].next = st->items[i].pending = 0;
    for (b->first = 0; b->first < units && (to->wanted || b->pass.out) && !status; b->first += slots) {
        b->selected = 0;
        for (size_t i = 0; i < st->count; i++)
            b->selected |= to->wanted >> i & 1 ? 1u << st->items[i].id : 0;
        const size_t count = units - b->first < slots ? units - b->first : slots;
        double start = kq_now_s();
        status = kq_sweep_for_each(w, count, unit_item, b, "backward", down(w, b->layer, st->share),
                                   down(w, b->layer, st->share), err);
        w->report->backward_s += kq_now_s() - start;
        start = kq_now_s();
        for (size_t i = 0; i < st->count && !status; i++)
            if (to->wanted >> i & 1)
                status =
                    name_error(b->layer, st->items[i].id, feed(b, &st->items[i], i, count, to, err), err);
        w->report->factor_s += kq_now_s() - start;
    }
    return b->pass.out ? finish_dx(b, status, err) : status;
}

static kq_status run_set(block_gradients *b, stream_item *items, size_t count, kq_error *err)
{
    kq_sweeper *w = b->w;
    kq_stream_linear linears[MAX_SET] = {{0}};
    stream st = {.b = b, .items = items, .count = count};
    kq_status status = KQ_OK;
    for (size_t i = 0; i < count && !status; i++) {
        stream_item *t = &items[i];
        kq_stream_linear *l = &linears[i];
        const size_t sample = kq_sample_size(t->sizes.m, t->sizes.n, t->sizes.T);
        *l = (kq_stream_linear){
            .source = i, .D = t->sizes.D, .m = t->sizes.m, .n = t->sizes.n, .T = t->sizes.T, .opt = &t->opt};
        status = alloc_factors(&t->sizes, &l->H_in, &l->H_out, err);
        if (!status && t->per > 1 && t->form == WHOLE)
            status = kq_alloc_for((void **)&t->sum, sample, sizeof *t->sum, "sums of gradients", err);
        if (!status && t->per > 1)
            status = kq_alloc_for((void **)&t->sample, sample, sizeof *t->sample, "a sample", err);
    }
    const double before = w->report->backward_s + w->report->factor_s, start = kq_now_s();
    if (!status)
        status = kq_factors_stream(linears, count, stream_pass, &st, stream_progress, &st, err);
    w->report->factor_s += kq_now_s() - start - (w->report->backward_s + w->report->factor_s - before);
    for (size_t i = 0; i < count; i++) {
        if (!status)
            status = deliver(w, items[i].e, b->layer, items[i].id, linears[i].H_in, linears[i].H_out,
                             &linears[i].report, err);
        kq_free(linears[i].H_in);
        kq_free(linears[i].H_out);
        kq_free(items[i].sum);
        kq_free(items[i].sample);
    }
    return status;
}

static kq_status streamed_block(block_gradients *b, bool keep_dx, kq_error *err)
{
    kq_sweeper *w = b->w;
    stream_item *items = NULL;
    size_t bytes, done = 0, n = 0;
    kq_status status = make_room(b, slots_of(w), false, err);
    if (!status)
        status =
            kq_alloc_for((void **)&items, w->s->n_estimates * KQ_N_LINEAR, sizeof *items, "estimates", err);
    if (!status) {
        n = list_items(w, b->selected, items);
        status = open_block(b, keep_dx, err);
    }
    while (done < n && !status) {
        const size_t count = take_set(items + done, n - done, w->s->stream_bytes, &bytes);
        status = run_set(b, items + done, count, err);
        done += count;
    }
    status = close_block(b, status, err);
    for (int id = 0; id < KQ_N_LINEAR; id++)
        drop_linear(b, id);
    kq_free(items);
    return status;
}

kq_status kq_sweep_gradient_block(kq_sweeper *w, size_t layer, unsigned selected, bool keep_dx, kq_error *err)
{
    size_t n_estimates = 0;
    for (size_t i = 0; i < w->s->n_estimates; i++)
        n_estimates += takes_gradients(&w->s->estimates[i]);
    block_gradients b = {.w = w, .layer = layer, .selected = n_estimates ? selected : 0};
    if (!b.selected && !keep_dx)
        return KQ_OK;
    return b.selected && w->s->way == KQ_WAY_STREAM ? streamed_block(&b, keep_dx, err)
                                                    : stored_block(&b, keep_dx, n_estimates, err);
}

/* ---- the plan ---- */

void kq_sweep_store_plan(const kq_sweeper *w, size_t *memory, size_t *disk)
{
    const kq_sweep *s = w->s;
    size_t unit = 0, factors = 0, receiver = s->receiver_peak;
    *memory = *disk = 0;
    for (int id = 0; id < KQ_N_LINEAR; id++)
        for (int form = 0; form < KQ_N_FORMS; form++)
            unit += w->forms[id] >> form & 1 ? 2 * width_of(w, form, id) : 0;
    if (!unit)
        return;
    stream_item *items = kq_alloc(s->n_estimates * KQ_N_LINEAR, sizeof *items);
    const size_t n = items ? list_items(w, 127, items) : 0;
    /* One at a time: its two factors, and the scratch of the estimate or of the receiver. */
    for (size_t i = 0; i < n && s->way != KQ_WAY_STREAM; i++) {
        kq_gradients G = items[i].sizes;
        if (s->way == KQ_WAY_DISK || !kq_sweep_as_stored(w, items[i].e))
            G.read = read_samples;
        const size_t H = 4 * (G.m * G.m + G.n * G.n),
                     join = items[i].per > 1 ? (size_t)w->threads * 6 * kq_sample_size(G.m, G.n, 0) : 0;
        const size_t scratch = kq_factors_bytes(&G, &items[i].opt) + join;
        factors = H + (scratch > receiver ? scratch : receiver) > factors
                      ? H + (scratch > receiver ? scratch : receiver)
                      : factors;
    }
    for (size_t done = 0, count, bytes; done < n && s->way == KQ_WAY_STREAM; done += count) {
        count = take_set(items + done, n - done, s->stream_bytes, &bytes);
        factors = bytes > factors ? bytes : factors;
    }
    kq_free(items);
    switch (s->way) {
    case KQ_WAY_MEMORY: *memory = units_of(w) * unit + factors; break;
    case KQ_WAY_DISK:
        *memory = (size_t)w->workers * unit + factors;
        *disk = units_of(w) * unit;
        break;
    case KQ_WAY_STREAM: *memory = slots_of(w) * unit + factors + receiver; break;
    }
}
