/* The table of methods. A method over whole gradients is one row here and one file with its kq_machine; a
 * method over tokens is one row and its list of passes (kq_method_pass). */
#include "fisher/method.h"

#include <stdio.h>
#include <string.h>

static const kq_estimator estimators[KQ_N_METHOD] = {
    [KQ_FLIPFLOP] = {"flipflop", KQ_NEEDS_GRADIENTS, .machine = &kq_flipflop},
    [KQ_FASTKRON] = {"fastkron", KQ_NEEDS_GRADIENTS, .exact = true, .machine = &kq_lanczos},
    [KQ_YAQA_A] = {"yaqa-a", KQ_NEEDS_TOKENS},
    [KQ_YAQA_B] = {"yaqa-b", KQ_NEEDS_GRADIENTS, .exact = true, .machine = &kq_power},
    [KQ_KFAC] = {"kfac", KQ_NEEDS_TOKENS},
    [KQ_FLIPFLOP_TOKENS] = {"flipflop-tokens", KQ_NEEDS_TOKENS},
    [KQ_INPUT_ONLY] = {"input-only", KQ_NEEDS_INPUTS},
    [KQ_DIAG] = {"diag", KQ_NEEDS_GRADIENTS, .exact = true, .diagonal = true, .machine = &kq_lanczos},
    [KQ_NONE] = {"none", KQ_NEEDS_NOTHING},
};

const kq_estimator *kq_estimator_of(kq_method method)
{
    return &estimators[method];
}

static const char *const lacks[KQ_N_LACK] = {
    [KQ_LACK_NOTHING] = "",
    [KQ_LACK_GRADIENT] = "no gradient",
    [KQ_LACK_ROUNDING] = "lost in rounding",
    [KQ_LACK_INPUT] = "no input",
    [KQ_LACK_ENTRY] = "not in the imatrix",
    [KQ_LACK_COUNT] = "not counted in the imatrix",
    [KQ_LACK_VALUES] = "zero in the imatrix",
};

const char *kq_lack_name(kq_lack lack)
{
    return (unsigned)lack < KQ_N_LACK ? lacks[lack] : "";
}

kq_lack kq_lack_of(const char *name)
{
    for (int i = 1; name && i < KQ_N_LACK; i++)
        if (!strcmp(name, lacks[i]))
            return (kq_lack)i;
    return KQ_LACK_NOTHING;
}

const char *kq_method_name(kq_method method)
{
    return (unsigned)method < KQ_N_METHOD ? estimators[method].name : "unknown";
}

kq_status kq_method_parse(const char *name, kq_method *out, kq_error *err)
{
    char all[200];
    size_t len = 0;
    for (int i = 0; i < KQ_N_METHOD; i++) {
        if (name && !strcmp(name, estimators[i].name)) {
            *out = (kq_method)i;
            return KQ_OK;
        }
        len += (size_t)snprintf(all + len, sizeof all - len, "%s%s",
                                !i                    ? ""
                                : i + 1 < KQ_N_METHOD ? ", "
                                                      : " or ",
                                estimators[i].name);
    }
    return kq_fail(err, KQ_E_ARG, "unknown method \"%s\": use %s", name ? name : "", all);
}

kq_needs kq_method_needs(kq_method method)
{
    return estimators[method].needs;
}

bool kq_method_needs_gradients(kq_method method)
{
    return estimators[method].needs == KQ_NEEDS_TOKENS || estimators[method].needs == KQ_NEEDS_GRADIENTS;
}

bool kq_method_iterates(kq_method method)
{
    return estimators[method].needs == KQ_NEEDS_GRADIENTS && method != KQ_FLIPFLOP;
}

size_t kq_method_passes(const kq_factor_options *opt)
{
    switch (opt->method) {
    case KQ_INPUT_ONLY:
    case KQ_KFAC: return 1;
    case KQ_YAQA_A: return (size_t)opt->passes;
    case KQ_FLIPFLOP_TOKENS: return 2 * (size_t)opt->rounds;
    default: return 0;
    }
}

kq_token_pass kq_method_pass(const kq_factor_options *opt, size_t i)
{
    const bool in = i % 2 == 0;
    switch (opt->method) {
    case KQ_INPUT_ONLY: return (kq_token_pass){.in = true};
    case KQ_KFAC: return (kq_token_pass){.in = true, .out = true};
    case KQ_YAQA_A:
        return (kq_token_pass){.in = in, .out = !in, .weight = i ? KQ_WEIGHT_FACTOR : KQ_WEIGHT_ONE};
    case KQ_FLIPFLOP_TOKENS:
        return (kq_token_pass){.in = in, .out = !in, .weight = i ? KQ_WEIGHT_INVERSE : KQ_WEIGHT_ONE};
    default: return (kq_token_pass){0};
    }
}

kq_factor_options kq_factor_defaults(void)
{
    return (kq_factor_options){.method = KQ_FLIPFLOP,
                               .compute = KQ_F32,
                               .threads = 1,
                               .rho = 1e-2,
                               .rounds = 3,
                               .early = 16,
                               .passes = 2,
                               .tol = 1e-3,
                               .max_iter = 32};
}
