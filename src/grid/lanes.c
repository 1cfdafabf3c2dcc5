/* The kernel that tries sixteen scales at once (kq_grid_lanes_fn), compiled for each instruction set from one
 * template. The template is plain C, because the compiler makes vectors of it as they are. */
#include "grid/lanes.h"

#include <string.h>

#define FN lanes_ref
#define TARGET
#include "grid/lanes_template.h"

#if defined(__x86_64__)
#define FN lanes_avx2
#define TARGET __attribute__((target("avx2")))
#include "grid/lanes_template.h"

#define FN lanes_avx512
#define TARGET __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq")))
#include "grid/lanes_template.h"
#endif

kq_grid_lanes_fn *kq_grid_lanes_for(kq_isa isa)
{
#if defined(__x86_64__)
    if (isa >= KQ_ISA_AVX512)
        return lanes_avx512;
    if (isa >= KQ_ISA_AVX2)
        return lanes_avx2;
#endif
    (void)isa;
    return lanes_ref;
}
