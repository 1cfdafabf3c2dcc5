/* What an estimate will cost, before it begins: products, passes over the samples, arithmetic; and whether
 * factored samples are cheaper than whole ones. The memory plan and the forecasts of time ask. */
#include "fisher/estimate.h"

bool kq_factored_pays(size_t m, size_t n, size_t T, const kq_factor_options *opt)
{
    const double M = (double)m, N = (double)n, t = (double)T, c = opt->method == KQ_FLIPFLOP ? 0.5 : 1;
    kq_product_plan plan;
    const bool integers = kq_product_size(&plan, &(kq_gradients){.D = 1, .m = m, .n = n}, opt->compute,
                                          opt->exact || kq_estimator_of(opt->method)->exact, 1, 0, false) &&
                          plan.panels;
    const double whole = M * N * (M + N) * (c + 0.5) / 2 * (integers ? 0.5 : 1);
    const double factored = t * (M * M + N * N) * (c + 0.5) / 2 + t * t * (M + N) * 0.75;
    return T && t * (M + N) <= M * N && factored < whole;
}

int kq_factors_products(const kq_factor_options *opt)
{
    enum { TYPICAL = 18 };
    if (opt->method == KQ_FLIPFLOP)
        return 2 * opt->rounds;
    const int most = 2 * opt->max_iter + (opt->method == KQ_YAQA_B ? 0 : 2);
    return most < TYPICAL ? most : TYPICAL;
}

double kq_factors_passes(const kq_factor_options *opt, size_t D)
{
    if (opt->method != KQ_FLIPFLOP)
        return kq_factors_products(opt);
    return kq_flipflop_passes(opt, D, 2 * opt->rounds);
}

double kq_factors_flop(const kq_gradients *G, const kq_factor_options *opt, int products)
{
    kq_product_plan plan;
    double flop = 0;
    if (!kq_linear_estimate_bytes(&plan, G, opt, false))
        return 0;
    for (int i = 0; i < products; i++) {
        const bool flipflop = opt->method == KQ_FLIPFLOP, adjoint = (i % 2 == 0) == flipflop;
        const bool identity = i == 0 && (flipflop || (opt->method != KQ_YAQA_B && !opt->start_random));
        const double d = (double)(adjoint ? G->m : G->n);
        const size_t samples = flipflop ? kq_flipflop_samples(opt, G->D, i) : G->D;
        flop += kq_product_flop(&plan, adjoint,
                                identity   ? KQ_MID_IDENTITY
                                : flipflop ? KQ_MID_TRIANGULAR
                                           : KQ_MID_SYMMETRIC,
                                samples);
        if (flipflop && !identity)
            flop += 2.0 / 3.0 * d * d * d;
    }
    return flop;
}
