/* OpenBLAS chooses its kernels when it is loaded, before kronq can say anything. A host program that lowers
 * the instruction set asks here for the word that OpenBLAS wants in its environment. */
#include "base/isa.h"

const char *kq_openblas_core(const char *isa)
{
    static const char *const core[] = {[KQ_ISA_REF] = "Prescott",
                                       [KQ_ISA_AVX2] = "Haswell",
                                       [KQ_ISA_AVX512] = "SkylakeX",
                                       [KQ_ISA_AMX] = "SapphireRapids"};
    kq_isa picked;
    return isa && !kq_isa_pick(isa, &picked, NULL) && picked != kq_isa_best() ? core[picked] : NULL;
}
