#include "fisher/fisher.h"

#include <string.h>

static const char *const names[KQ_N_METHOD] = {"flipflop", "fastkron", "input-only", "none"};

const char *kq_method_name(kq_method method)
{
    return (unsigned)method < KQ_N_METHOD ? names[method] : "unknown";
}

kq_status kq_method_parse(const char *name, kq_method *out, kq_error *err)
{
    for (int i = 0; name && i < KQ_N_METHOD; i++)
        if (!strcmp(name, names[i])) {
            *out = (kq_method)i;
            return KQ_OK;
        }
    return kq_fail(err, KQ_E_ARG, "unknown method \"%s\": use flipflop, fastkron, input-only or none", name ? name : "");
}

bool kq_method_needs_gradients(kq_method method)
{
    return method == KQ_FLIPFLOP || method == KQ_FASTKRON;
}

bool kq_method_needs_inputs(kq_method method)
{
    return method == KQ_INPUT_ONLY;
}

kq_factor_options kq_factor_defaults(void)
{
    return (kq_factor_options){.method = KQ_FLIPFLOP, .compute = KQ_F32, .threads = 1, .rho = 1e-2, .rounds = 3, .tol = 1e-3, .max_iter = 32};
}
