/* The codes: the value of every state, and their names. hyb, 1mad and 3inst are of Tseng et al. 2024b (eq.
 * 71, 72), mul1 and mcg of EXL3, the format of exllamav3. Values are computed, not stored, but for hyb's
 * small table; docs/format.md specifies them bit by bit. */
#include "trellis/internal.h"

#include "base/f16.h"

static const char *const names[KQ_N_CODE] = {"hyb", "1mad", "3inst", "mul1", "mcg"};

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
    return kq_fail(err, KQ_E_ARG, "unknown code \"%s\" (one of hyb, 1mad, 3inst, mul1, mcg)",
                   name ? name : "");
}

int kq_code_V(kq_code code)
{
    return code == KQ_HYB ? 2 : 1;
}

static int byte_sum(uint32_t x)
{
    return (int)((x & 255) + (x >> 8 & 255) + (x >> 16 & 255) + (x >> 24));
}

static float to_half(float x)
{
    return kq_f16_to_f32(kq_f32_to_f16(x));
}

/* Both halves of x, after the mask that 3inst and mcg share, as half floats; the sum is exact in f32. */
static float sum_of_halves(uint32_t x)
{
    uint32_t y = (x & 0x8FFF8FFFu) ^ 0x3B603B60u;
    return kq_f16_to_f32((uint16_t)y) + kq_f16_to_f32((uint16_t)(y >> 16));
}

void kq_code_value(kq_code code, const float (*table)[2], uint32_t state, float *v)
{
    switch (code) {
    case KQ_HYB: {
        uint32_t h = state * (state + 1);
        const float *e = table[(h >> 6) & 511];
        v[0] = h >> 15 & 1 ? -e[0] : e[0];
        v[1] = e[1];
        break;
    }
    case KQ_1MAD: v[0] = (float)((byte_sum(state * 34038481u + 76625530u) - 510) / 147.800537); break;
    case KQ_3INST: v[0] = sum_of_halves(state * 89226354u + 64248484u); break;
    case KQ_MUL1:
        /* a multiply-add of half floats, rounded once: 0x1EEE is 1774 / 2^18, 0xC931 is -1329 / 2^7, and what
         * is rounded has 22 bits, so that f32 holds it exactly */
        v[0] = to_half((float)(1024 + byte_sum(state * 0x83DCD12Du)) * 0x1.bb8p-8f - 10.3828125f);
        break;
    default: /* KQ_MCG */ v[0] = to_half(sum_of_halves(state * 0xCBAC1FEDu));
    }
}

void kq_code_values(kq_code code, float *values)
{
    for (uint32_t s = 0; s < 65536; s++)
        kq_code_value(code, kq_hyb_table, s, values + s * (size_t)kq_code_V(code));
}
