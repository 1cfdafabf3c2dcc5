/* Estimates the seconds of each stage. Its arithmetic is counted from shapes, and only its speed is measured.
 * The counts are those of this code and not of a textbook: what the code computes twice is counted twice. */
#include "estimate/seconds.h"

#include <math.h>

#include "sequential/rounding.h"
#include "tune/tune.h"

/* The forward pass with the head, and the backward pass, reach this share of the rate that gemm_rate
 * measures: 0.85 and 1.0 on SmolLM2 with sequences of 1024 (SPEED.md). The model's products are larger and
 * faster than the 512^3 that are measured; the work between the products is slower. */
static const double share_of_gemm = 0.85;

/* Operations a token in a block. */
typedef struct block_flop {
    double linears, attention; /* of a forward pass */
    double qkv, o, gate_up;    /* of these among linears */
    double sums;               /* of the targets: C and D of eq. 162 for four kinds of inputs, R for two */
} block_flop;

static block_flop count_block(const kq_config *cfg, size_t T)
{
    const double q = (double)(cfg->n_head * cfg->head_dim), d = (double)cfg->d_model, ff = (double)cfg->d_ff;
    block_flop f = {.attention = 2 * (double)T * q};
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        size_t m, n;
        kq_linear_shape(cfg, (kq_linear_id)id, &m, &n);
        const double flop = 2 * (double)m * (double)n;
        f.linears += flop;
        f.qkv += id <= KQ_V ? flop : 0;
        f.o += id == KQ_O ? flop : 0;
        f.gate_up += id == KQ_GATE || id == KQ_UP ? flop : 0;
    }
    f.sums = 4 * (2 * d * d + q * q + ff * ff) + 2 * d * (q + ff);
    return f;
}

/* Every block is run four times by each stream: to o, to gate and up, to down, and to its end. */
static double targets_flop(const kq_prepared *p, size_t T)
{
    const size_t all = p->n_seq * T;
    const double tokens = all && all < KQ_SEQUENTIAL_TOKENS ? (double)all : KQ_SEQUENTIAL_TOKENS;
    const block_flop f = count_block(p->cfg, T);
    const double streams =
        2 * (4 * (f.qkv + f.attention) + 3 * f.o + 2 * f.gate_up + f.linears - f.qkv - f.o - f.gate_up);
    return kq_sequential_wanted(p->opt) ? tokens * (double)p->cfg->n_layer * (streams + f.sums) : 0;
}

/* The original's forward pass; forward, forward again, back to the inputs, and to the weights; both heads. */
static double tuning_flop(const kq_prepared *p)
{
    const block_flop f = count_block(p->cfg, kq_tune_defaults().seq_len);
    const double head = 2 * (double)p->cfg->vocab_size * (double)p->cfg->d_model;
    return kq_tune_wanted(p->opt)
               ? (double)p->opt->tune_tokens *
                     ((double)p->cfg->n_layer * (5 * f.linears + 5.5 * f.attention) + 3 * head)
               : 0;
}

double kq_count_passes(const kq_prepared *p, const kq_sweep *s)
{
    const kq_needs needs = kq_method_needs(p->factor.method);
    return needs == KQ_NEEDS_TOKENS ? (double)kq_method_passes(&p->factor)
           : needs == KQ_NEEDS_GRADIENTS && s->way == KQ_WAY_STREAM
               ? kq_factors_passes(&p->factor, s->n_seq * s->draws / p->estimate.batch)
               : 1;
}

/* Operations a token, with T tokens in a sequence, P weights in a block's linears and q the width of all
 * attention heads: the products of a block take 2 P, causal attention 2 T q forward and 5 T q backward, and
 * the head 2 V d forward and as much backward. */
kq_stage_seconds kq_count_seconds(const kq_prepared *p, const kq_sweep *s, const kq_rates *r)
{
    const kq_config *cfg = p->cfg;
    const kq_needs needs = kq_method_needs(p->factor.method);
    const double T = (double)s->T, tokens = T * (double)s->n_seq, draws = (double)s->draws,
                 gemm = r->gemm * share_of_gemm;
    const block_flop f = count_block(cfg, s->T);
    const double block = f.linears, attention = f.attention,
                 head = 2 * (double)cfg->vocab_size * (double)cfg->d_model;
    double gradients = 0, factors = 0, search = 0, feedback = 0, ldl = 0;
    size_t blocks = 0;
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        size_t m, n;
        kq_linear_shape(cfg, (kq_linear_id)id, &m, &n);
        const double M = (double)m, N = (double)n;
        kq_gradients G = {.D = (size_t)(s->n_seq * s->draws / p->estimate.batch), .m = m, .n = n};
        if (needs == KQ_NEEDS_GRADIENTS && kq_factored_pays(m, n, p->estimate.batch * s->T, &p->factor))
            G.T = p->estimate.batch * s->T;
        gradients += G.T ? 0 : 2 * M * N;
        if (needs == KQ_NEEDS_GRADIENTS)
            factors += kq_factors_flop(&G, &p->factor, kq_factors_products(&p->factor)) / r->factor;
        /* half of each symmetric sum, and the quadratic forms that weight the tokens */
        else if (needs == KQ_NEEDS_TOKENS)
            factors +=
                tokens * draws * (double)kq_method_passes(&p->factor) * 1.5 * (M * M + N * N) / 2 / gemm;
        else if (needs == KQ_NEEDS_INPUTS)
            factors += tokens * N * N / gemm;
        search += ceil(M / KQ_TILE) * ceil(N / KQ_TILE) * r->tile_s;
        feedback += 2 * M * N * (M + N) / gemm;
        ldl += (M * M * M + N * N * N) / r->ldl;
    }
    for (size_t l = 0; l < cfg->n_layer; l++)
        blocks += p->selected[l] != 0;
    size_t lowest = cfg->n_layer;
    for (size_t l = cfg->n_layer; l-- > 0;)
        lowest = p->selected[l] ? l : lowest;
    /* through: blocks that the backward pass only goes through */
    const double L = (double)cfg->n_layer, selected = (double)blocks, through = L - (double)lowest - selected;
    kq_stage_seconds t = {.factors = selected * factors,
                          .targets = targets_flop(p, s->T) / gemm,
                          .rounding = selected * (search + feedback + ldl),
                          .tuning = tuning_flop(p) / gemm};
    if (needs == KQ_NEEDS_NOTHING)
        return t;
    t.forward = tokens * L * (block + attention) / gemm;
    if (needs == KQ_NEEDS_INPUTS)
        return t;
    t.forward += tokens * draws * 2 * head / gemm;
    /* the block is recomputed, and gradients go back to its inputs */
    const double down = 2 * block + 3.5 * attention;
    t.backward =
        tokens * draws * (through * down + selected * kq_count_passes(p, s) * (down + gradients)) / gemm;
    return t;
}
