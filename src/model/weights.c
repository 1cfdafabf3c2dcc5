/* The weights of a source that is not packed: every tensor is read by its Hugging Face name. */
#include "model/weights.h"

static kq_status read_tensor(const kq_source *src, const char *name, size_t row0, size_t n_rows, float *dst,
                             kq_error *err)
{
    const kq_tensor *t = kq_source_find(src, name);
    if (!t)
        return kq_fail(err, KQ_E_FORMAT, "%s: no tensor \"%s\"", kq_source_path(src), name);
    if (t->rank < 1 || row0 > t->shape[0] || n_rows > t->shape[0] - row0)
        return kq_fail(err, KQ_E_SHAPE, "%s: tensor \"%s\" has no rows %zu..%zu", kq_source_path(src), name,
                       row0, row0 + n_rows);
    return kq_source_read_f32(src, t, row0, n_rows, dst, err);
}

static kq_status source_linear(void *ctx, size_t layer, kq_linear_id id, float *W, kq_error *err)
{
    const kq_source *src = ctx;
    char name[160];
    size_t m, n;
    kq_linear_shape(kq_source_config(src), id, &m, &n);
    kq_linear_name(name, sizeof name - 8, layer, id);
    size_t len = 0;
    while (name[len])
        len++;
    for (size_t i = 0; i < 8; i++)
        name[len + i] = ".weight"[i];
    return read_tensor(src, name, 0, m, W, err);
}

static kq_status source_rows(void *ctx, const char *name, size_t row0, size_t n_rows, float *dst,
                             kq_error *err)
{
    return read_tensor(ctx, name, row0, n_rows, dst, err);
}

static const kq_tensor *source_stored(void *ctx, const char *name)
{
    return kq_source_find(ctx, name);
}

kq_weights kq_weights_from_source(const kq_source *src)
{
    return (kq_weights){.cfg = kq_source_config(src),
                        .ctx = (void *)(uintptr_t)src,
                        .linear = source_linear,
                        .rows = source_rows,
                        .stored = source_stored};
}
