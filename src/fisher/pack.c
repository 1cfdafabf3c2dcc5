#include "fisher/fisher.h"

#include <string.h>

void kq_factor_pack(const float *H, size_t n, float *packed)
{
    for (size_t i = 0; i < n; packed += ++i)
        memcpy(packed, H + i * n, (i + 1) * sizeof *packed);
}

void kq_factor_unpack(const float *packed, size_t n, float *H)
{
    for (size_t i = 0; i < n; packed += ++i)
        for (size_t j = 0; j <= i; j++)
            H[i * n + j] = H[j * n + i] = packed[j];
}
