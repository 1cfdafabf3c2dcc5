/* Bits of the linears of an EXL3 folder: one number, exceptions, or an average shared out. quant/bits.c does
 * this for kronq's own checkpoints, which have 2 to 4 bits and no groups. */
#include "exl3/bits.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "allocate/allocate.h"
#include "base/mem.h"
#include "base/progress.h"
#include "format/exl3.h"
#include "quant/bits.h"

enum { BITS_MAX = KQ_EXL3_BITS_MAX, N_GROUPS = 4 /* of a layer */ };

/* Linears of a layer that get equal bits. */
static const unsigned groups[N_GROUPS] = {1u << KQ_Q | 1u << KQ_K | 1u << KQ_V, 1u << KQ_O,
                                          1u << KQ_GATE | 1u << KQ_UP, 1u << KQ_DOWN};

void kq_exl3_bits_free(kq_exl3_bits *b)
{
    kq_free(b->k);
    *b = (kq_exl3_bits){0};
}

double kq_exl3_bits_of(const kq_output *o, const kq_exl3_bits *b, size_t layer, kq_linear_id id)
{
    if (!(o->p.selected[layer] >> id & 1))
        return 0;
    const int k = b->k[layer * KQ_N_LINEAR + id];
    return k ? k : o->opt.bits;
}

/* Bits that a linear gets at the least where an average is shared out. */
static int least_of(double average)
{
    return average < 2 ? 1 : 2;
}

kq_status kq_exl3_bits_open(const kq_prepared *p, kq_exl3_bits *b, kq_error *err)
{
    kq_status status = KQ_OK;
    kq_model_tensor t;
    static const kq_bits_range range = {1, BITS_MAX, "'down_proj=5'; with --to exl3 1 to 8 are possible"};
    const double bits = p->opt->bits;
    *b = (kq_exl3_bits){.k = kq_calloc(p->cfg->n_layer * KQ_N_LINEAR, 1), .settled = true};
    if (!b->k)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: the modules' bits");
    for (size_t i = 0; i < p->opt->n_module_bits && !status; i++)
        status = kq_bits_apply_rule(p, p->opt->module_bits[i], &range, b->k, err);
    double total = 0, least = 0;
    for (size_t i = 0; !status && kq_selected_next(p, &i, &t); i++) {
        const double weights = (double)t.rows * (double)t.cols;
        if (!b->k[i] && bits == floor(bits))
            b->k[i] = (uint8_t)bits;
        b->settled = b->settled && b->k[i];
        total += weights;
        least += weights * (b->k[i] ? b->k[i] : least_of(bits));
    }
    if (!status && bits != floor(bits) && least > bits * total)
        status = kq_fail(err, KQ_E_ARG, "--bits %g: with --module-bits the average is at least %.4g", bits,
                         least / total);
    return status;
}

/* ---- an average ---- */

/* What sharing out works with. */
typedef struct sharing {
    kq_output *o;
    kq_exl3_bits *b;
    kq_round_options round;
    int least;                  /* bits that a linear gets at the least */
    double error[BITS_MAX + 1]; /* of the code, relative, by bits */
    kq_item *items;             /* owned [n_layer * N_GROUPS] */
    size_t *group_of;           /* owned: layer * N_GROUPS + group of each item */
    size_t n;
} sharing;

static kq_status measure_code(sharing *z, kq_code code, kq_error *err)
{
    kq_status status = KQ_OK;
    for (int k = z->least; k <= BITS_MAX && !status; k++) {
        kq_trellis *t;
        if ((status = kq_trellis_new(code, k, z->o->p.isa, NULL, &t, err)))
            break;
        status = kq_trellis_error(t, &z->error[k], err);
        kq_trellis_free(t);
    }
    return status;
}

/* Add what a linear would cost and lose to the choices of its group. */
static kq_status add_linear(const sharing *z, const kq_model_tensor *t, kq_item *item, kq_error *err)
{
    const kq_weights *w = kq_model_file_weights(z->o->p.model);
    const size_t m = t->rows, n = t->cols;
    float *W = NULL, *H_in = NULL, *H_out = NULL;
    bool has_out = false;
    kq_lack lack = KQ_LACK_NOTHING;
    kq_forecast f = {.loss = 0, .spread = 1};
    kq_status status;
    if (!(status = kq_alloc_for((void **)&W, m * n, sizeof *W, t->module, err)) &&
        !(status = kq_alloc_for((void **)&H_in, n * n, sizeof *H_in, t->module, err)) &&
        !(status = kq_alloc_for((void **)&H_out, m * m, sizeof *H_out, t->module, err)) &&
        !(status = w->linear(w->ctx, t->layer, t->linear, W, err)))
        status = kq_factor_file_read(z->o->work->file, t->module, m, n, H_in, H_out, &has_out, &lack, err);
    const kq_round_input in = {
        .name = t->module, .W = W, .m = m, .n = n, .H_in = H_in, .H_out = has_out ? H_out : NULL};
    if (!status && lack == KQ_LACK_NOTHING)
        status = kq_forecast_linear(&in, &z->round, &f, err);
    kq_free(W);
    kq_free(H_in);
    kq_free(H_out);
    item->n = (size_t)(BITS_MAX - z->least + 1);
    for (size_t c = 0; c < item->n && !status; c++) {
        const int k = z->least + (int)c;
        item->choice[c].bits = k;
        item->choice[c].cost += (double)m * (double)n * k;
        item->choice[c].loss += kq_forecast_loss(&f, z->error[k]);
    }
    return status ? status : kq_progress_ask(&z->o->opt.common, t->module, err);
}

static bool is_open(const sharing *z, size_t layer, int id)
{
    return z->o->p.selected[layer] >> id & 1 && !z->b->k[layer * KQ_N_LINEAR + (size_t)id];
}

static kq_status fill_items(sharing *z, kq_error *err)
{
    const kq_config *cfg = z->o->p.cfg;
    kq_status status = KQ_OK;
    for (size_t g = 0; g < cfg->n_layer * N_GROUPS && !status; g++) {
        kq_item *item = &z->items[z->n];
        *item = (kq_item){.n = 0};
        for (int id = 0; id < KQ_N_LINEAR && !status; id++) {
            const kq_model_tensor t = kq_model_linear(cfg, g / N_GROUPS, (kq_linear_id)id);
            if (groups[g % N_GROUPS] >> id & 1 && is_open(z, g / N_GROUPS, id))
                status = add_linear(z, &t, item, err);
        }
        if (item->n)
            z->group_of[z->n++] = g;
    }
    return status;
}

/* Bits of all weights, less those that rules have given already. */
static double budget(const sharing *z)
{
    double sum = 0;
    kq_model_tensor t;
    for (size_t i = 0; kq_selected_next(&z->o->p, &i, &t); i++)
        sum += (double)t.rows * (double)t.cols * (z->o->opt.bits * (1 + 1e-12) - z->b->k[i]);
    return sum;
}

static kq_status share(sharing *z, kq_error *err)
{
    kq_allocation a;
    size_t count[BITS_MAX + 1] = {0};
    char line[200];
    kq_status status = kq_allocate(z->items, z->n, 0, budget(z), &a, err);
    for (size_t i = 0; i < z->n && !status; i++) {
        const size_t layer = z->group_of[i] / N_GROUPS;
        const unsigned group = groups[z->group_of[i] % N_GROUPS];
        const int k = (int)z->items[i].choice[z->items[i].chosen].bits;
        for (int id = 0; id < KQ_N_LINEAR; id++)
            if (group >> id & 1 && is_open(z, layer, id)) {
                z->b->k[layer * KQ_N_LINEAR + (size_t)id] = (uint8_t)k;
                count[k]++;
            }
    }
    z->b->settled = !status;
    int at = snprintf(line, sizeof line, "bits shared out:");
    for (int k = 1; k <= BITS_MAX; k++)
        if (count[k])
            at += snprintf(line + at, sizeof line - (size_t)at, " %zu modules with %d", count[k], k);
    const kq_common *c = &z->o->opt.common;
    if (!status && c->progress && c->progress(c->ctx, NULL, 0, line))
        status = kq_fail(err, KQ_E_INTERRUPTED, "stopped after the bits were shared out");
    return status;
}

kq_status kq_exl3_bits_share(kq_output *o, kq_exl3_bits *b, kq_code code, kq_error *err)
{
    const size_t most = o->p.cfg->n_layer * N_GROUPS;
    sharing z = {.o = o,
                 .b = b,
                 .round = {.sigma_reg = o->opt.sigma_reg,
                           .seed = o->opt.common.seed,
                           .threads = o->p.threads,
                           .shrink = o->opt.shrink},
                 .least = least_of(o->opt.bits)};
    kq_status status = kq_channel_scales_parse(o->opt.channel_scales, &z.round.channel_scales, err);
    if (!o->work->predicts)
        return kq_fail(err, KQ_E_ARG,
                       "--bits %g: %s: its method predicts no loss by which bits could be shared out; take "
                       "factors of flipflop or another method with gradients, or a whole number",
                       o->opt.bits, o->opt.factors);
    if (!status && !(status = kq_alloc_for((void **)&z.items, most, sizeof *z.items, "shares", err)) &&
        !(status = kq_alloc_for((void **)&z.group_of, most, sizeof *z.group_of, "shares", err)) &&
        !(status = measure_code(&z, code, err)) && !(status = fill_items(&z, err)))
        status = share(&z, err);
    kq_free(z.items);
    kq_free(z.group_of);
    return status;
}
