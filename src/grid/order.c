/* The order of rounding (docs/math.md, "Grids"; Frantar et al. 2023 for one side). The entries that matter
 * most are rounded first, that is, they stand last, because all later ones can still make up for their
 * errors. Blocks stay whole, since their weights share a scale. */
#include "grid/work.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

typedef struct ranked {
    float key;
    uint32_t index;
} ranked;

static int by_key(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    return x->key < y->key ? -1 : x->key > y->key ? 1 : x->index < y->index ? -1 : x->index > y->index;
}

/* Sort `count` units of `unit` consecutive entries of order by the sum of the diagonal over each. */
static void sort_units(const float *diag, size_t stride, uint32_t *order, size_t count, size_t unit,
                       ranked *scratch, uint32_t *copy)
{
    for (size_t u = 0; u < count; u++) {
        float sum = 0;
        for (size_t i = 0; i < unit; i++)
            sum += diag[(size_t)order[u * unit + i] * stride];
        scratch[u] = (ranked){sum, (uint32_t)u};
    }
    qsort(scratch, count, sizeof *scratch, by_key);
    memcpy(copy, order, count * unit * sizeof *order);
    for (size_t u = 0; u < count; u++)
        memcpy(order + u * unit, copy + (size_t)scratch[u].index * unit, unit * sizeof *order);
}

/* Blocks by their sum of the diagonal, groups within their block, units within their group. */
kq_status kq_grid_order(const float *H, size_t n, kq_grid_whole whole, uint32_t **out, kq_error *err)
{
    const size_t block = whole.block, group = whole.group, unit = whole.unit;
    uint32_t *order, *copy = NULL;
    ranked *scratch = NULL;
    kq_status st = kq_alloc_for((void **)out, n, sizeof **out, "order of rounding", err);
    if (st)
        return st;
    order = *out;
    for (size_t i = 0; i < n; i++)
        order[i] = (uint32_t)i;
    if (!H)
        return KQ_OK;
    if ((st = kq_alloc_for((void **)&copy, n, sizeof *copy, "order of rounding", err)) == KQ_OK &&
        (st = kq_alloc_for((void **)&scratch, n, sizeof *scratch, "order of rounding", err)) == KQ_OK) {
        sort_units(H, n + 1, order, n / block, block, scratch, copy);
        for (size_t b = 0; b < n; b += block) {
            if (group < block)
                sort_units(H, n + 1, order + b, block / group, group, scratch, copy);
            for (size_t k = b; k < b + block && block > 1; k += group)
                sort_units(H, n + 1, order + k, group / unit, unit, scratch, copy);
        }
    }
    kq_free(copy);
    kq_free(scratch);
    return st;
}
