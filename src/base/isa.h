/* Which instruction set the kernels may use. One binary holds them all; this asks the processor and the
 * system. */
#ifndef KQ_BASE_ISA_H
#define KQ_BASE_ISA_H

#include "base/error.h"

/* Ordered: each includes the ones below it.
 *   AVX2:   AVX2, FMA, F16C.
 *   AVX512: AVX-512 F, BW, VL, DQ.
 *   AMX:    AVX-512, AVX512_BF16 and AMX-BF16, and the system has granted the tile registers. */
typedef enum kq_isa { KQ_ISA_REF = 0, KQ_ISA_AVX2, KQ_ISA_AVX512, KQ_ISA_AMX } kq_isa;

/* The best this machine can run (asks CPUID, XGETBV and, for AMX, the kernel; the answer never changes). */
kq_isa kq_isa_best(void);
/* "ref", "avx2", "avx512", "amx". */
const char *kq_isa_name(kq_isa isa);
/* Parts of AVX-512 that some of its processors lack; only kernels that want one ask for it. */
typedef enum kq_cpu_feature {
    KQ_CPU_VNNI = 0,
    KQ_CPU_VBMI /* with VBMI2 */,
    KQ_N_CPU_FEATURE
} kq_cpu_feature;
/* Does the processor have it, and has the environment's KRONQ_WITHOUT (words "vnni" and "vbmi", with
 * commas between) not switched it off? The switch is for tests and for `kronq selfcheck`: a processor
 * with all of AVX-512 can stand for one with less. */
bool kq_cpu_has(kq_cpu_feature feature);
/* name NULL: the environment's KRONQ_ISA if set, else the best. KQ_E_ARG on an unknown word,
 * KQ_E_UNSUPPORTED on one this machine cannot run: the choice can only be lowered. KQ_E_ARG also on an
 * unknown word in KRONQ_WITHOUT. */
kq_status kq_isa_pick(const char *name, kq_isa *out, kq_error *err);

#endif
