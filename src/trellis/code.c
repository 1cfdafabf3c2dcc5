/* The three codes (Tseng et al. 2024b; eq. 71, 72): the value of every state, and their names. Values are
 * computed, not stored, but for hyb's small table; docs/format.md specifies them bit by bit. */
#include "trellis/internal.h"

#include "base/f16.h"

static const char *const names[KQ_N_CODE] = {"hyb", "1mad", "3inst"};

const char *kq_code_name(kq_code code)
{
    return code >= 0 && code < KQ_N_CODE ? names[code] : "?";
}

kq_status kq_code_parse(const char *name, kq_code *out, kq_error *err)
{
    for (int i = 0; name && i < KQ_N_CODE; i++)
        if (!strcmp(name, names[i])) {
            *out = (kq_code)i;
            return KQ_OK;
        }
    return kq_fail(err, KQ_E_ARG, "unknown code \"%s\" (one of hyb, 1mad, 3inst)", name ? name : "");
}

int kq_code_V(kq_code code)
{
    return code == KQ_HYB ? 2 : 1;
}

void kq_code_value(kq_code code, const float (*table)[2], uint32_t state, float *v)
{
    if (code == KQ_HYB) {
        uint32_t h = state * (state + 1);
        const float *e = table[(h >> 6) & 511];
        v[0] = h >> 15 & 1 ? -e[0] : e[0];
        v[1] = e[1];
    } else if (code == KQ_1MAD) {
        uint32_t x = state * 34038481u + 76625530u;
        int sum = (int)((x & 255) + (x >> 8 & 255) + (x >> 16 & 255) + (x >> 24));
        v[0] = (float)((sum - 510) / 147.800537);
    } else {
        uint32_t x = state * 89226354u + 64248484u;
        uint32_t y = (x & 0x8FFF8FFFu) ^ 0x3B603B60u;
        v[0] = kq_f16_to_f32((uint16_t)y) + kq_f16_to_f32((uint16_t)(y >> 16));
    }
}
