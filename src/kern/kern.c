/* The choice of kernels. A table is picked once by who needs it and handed down, so that tests can run any of
 * them. */
#include "kern/kern.h"

const kq_kern *kq_kern_pick(kq_isa isa)
{
#if defined(__x86_64__)
    if (isa >= KQ_ISA_AVX512)
        return &kq_kern_avx512;
    if (isa >= KQ_ISA_AVX2)
        return &kq_kern_avx2;
#else
    (void)isa;
#endif
    return &kq_kern_ref;
}
