/* The instruction sets of this processor. Each step asks for all instructions that the kernels of that step
 * use, because a virtual machine may hide any one of them. */
#include "base/isa.h"

#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The kernel hands out AMX's tile registers only on request (Linux: Documentation/arch/x86/xstate.rst). */
static bool amx_permitted(void)
{
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

kq_isa kq_isa_best(void)
{
    __builtin_cpu_init(); /* includes the XGETBV test that the system saves the wide registers */
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return KQ_ISA_REF;
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_F16C))
        return KQ_ISA_REF;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return KQ_ISA_AVX2;
    /* AMX-BF16, AMX-TILE */
    bool amx = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & (1u << 22)) && (d & (1u << 24));
    /* AVX512_BF16 */
    bool bf16 = __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 5));
    return amx && bf16 && amx_permitted() ? KQ_ISA_AMX : KQ_ISA_AVX512;
}

static bool processor_has(kq_cpu_feature feature)
{
    __builtin_cpu_init();
    return feature == KQ_CPU_VNNI
               ? __builtin_cpu_supports("avx512vnni")
               : __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2");
}
#else
static bool processor_has(kq_cpu_feature feature)
{
    (void)feature;
    return false;
}

kq_isa kq_isa_best(void)
{
    return KQ_ISA_REF;
}
#endif

static const char *const features[KQ_N_CPU_FEATURE] = {"vnni", "vbmi"};

/* The features that KRONQ_WITHOUT names, as bits. unknown: its first word that is none (length *n), else
 * NULL. */
static unsigned switched_off(const char **unknown, size_t *n)
{
    const char *list = getenv("KRONQ_WITHOUT");
    unsigned off = 0;
    *unknown = NULL;
    while (list && *list) {
        const size_t length = strcspn(list, ",");
        unsigned bit = 0;
        for (int i = 0; i < KQ_N_CPU_FEATURE; i++)
            if (strlen(features[i]) == length && !strncmp(list, features[i], length))
                bit = 1u << i;
        if (length && !bit && !*unknown)
            *unknown = list, *n = length;
        off |= bit;
        list += length + (list[length] == ',');
    }
    return off;
}

bool kq_cpu_has(kq_cpu_feature feature)
{
    const char *unknown;
    size_t n;
    return !(switched_off(&unknown, &n) >> feature & 1) && processor_has(feature);
}

static const char *const names[] = {"ref", "avx2", "avx512", "amx"};

const char *kq_isa_name(kq_isa isa)
{
    return names[isa];
}

kq_status kq_isa_pick(const char *name, kq_isa *out, kq_error *err)
{
    const char *from = "--isa", *unknown;
    size_t length = 0;
    switched_off(&unknown, &length);
    if (unknown)
        return kq_fail(err, KQ_E_ARG,
                       "KRONQ_WITHOUT=%.*s is unknown; use vnni or vbmi, or both with a comma between",
                       (int)(length < 100 ? length : 100), unknown);
    if (!name) {
        name = getenv("KRONQ_ISA");
        from = "KRONQ_ISA";
    }
    kq_isa best = kq_isa_best();
    if (!name || !*name) {
        *out = best;
        return KQ_OK;
    }
    for (int i = KQ_ISA_REF; i <= KQ_ISA_AMX; i++) {
        if (strcmp(name, names[i]))
            continue;
        if (i > (int)best)
            return kq_fail(err, KQ_E_UNSUPPORTED, "%s=%s: this processor can run %s at most", from, name,
                           names[best]);
        *out = (kq_isa)i;
        return KQ_OK;
    }
    return kq_fail(err, KQ_E_ARG, "%s=%s is unknown; use ref, avx2, avx512 or amx", from, name);
}
