/* A tuned GGUF is the old file with other scales and norms. Everything else, metadata and padding included,
 * is copied byte for byte, so that whatever loads the one loads the other. Nothing in the file says that it
 * was tuned: a key more would move every tensor. */
#include "checkpoint/tuned_gguf.h"

#include <math.h>
#include <string.h>

#include "base/f16.h"
#include "base/file.h"
#include "base/mem.h"
#include "format/block_scales.h"
#include "format/dequant.h"
#include "format/encode.h"
#include "format/gguf.h"

static bool is_plain(kq_dtype type)
{
    return type == KQ_T_F32 || type == KQ_T_F16 || type == KQ_T_BF16;
}

/* The tensors in the order of the file, as the source gives them. */
static bool is_norm(const kq_source *src, const kq_tensor *t)
{
    kq_model_tensor m;
    return kq_model_tensor_find(kq_source_config(src), t->name, &m) &&
           (m.role == KQ_ROLE_NORM || m.role == KQ_ROLE_FINAL_NORM);
}

kq_status kq_tuned_gguf_check(const kq_source *src, kq_error *err)
{
    const size_t parts = kq_gguf_n_parts(kq_source_gguf(src));
    if (parts > 1)
        return kq_fail(err, KQ_E_UNSUPPORTED,
                       "%s: is split into %zu parts; join them first (llama-gguf-split --merge)",
                       kq_source_path(src), parts);
    for (size_t i = 0; i < kq_source_n_tensors(src); i++) {
        const kq_tensor *t = kq_source_tensor(src, i);
        if (is_norm(src, t) && !is_plain(t->dtype))
            return kq_fail(err, KQ_E_UNSUPPORTED,
                           "%s: norm %s has type %s, expected F32, F16 or BF16; it cannot be tuned", t->file,
                           t->name, kq_dtype_name(t->dtype));
    }
    return KQ_OK;
}

/* ---- new values ---- */

static uint16_t load16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

/* Multiply the F16 number at p. *kept counts those that stay as they are. */
static kq_status scale_number(const kq_tensor *t, uint8_t *p, float by, size_t *kept, kq_error *err)
{
    const uint16_t old = load16(p), new = kq_f32_to_f16(kq_f16_to_f32(old) * by);
    if (isnan(by))
        return kq_fail(err, KQ_E_NUMERIC, "%s: %s: a factor of a block's scale is NaN", t->file, t->name);
    if ((new & 0x7c00) == 0x7c00 || (!(new & 0x7fff) && (old & 0x7fff))) {
        ++*kept;
        return KQ_OK;
    }
    p[0] = (uint8_t) new;
    p[1] = (uint8_t)(new >> 8);
    return KQ_OK;
}

/* The new bytes of a matrix into out, which holds the old ones. */
static kq_status scale_blocks(const kq_source *src, const kq_tensor *t, const float *theta, uint8_t *out,
                              size_t *kept, kq_error *err)
{
    const kq_block_scales s = kq_block_scales_of(t->dtype);
    const size_t per_row = t->shape[1] / s.elems, head_dim = kq_source_config(src)->head_dim;
    kq_status st = KQ_OK;
    for (size_t r = 0; r < t->shape[0]; r++) {
        uint8_t *block = out + kq_tensor_stored_row(t, r, head_dim) * per_row * s.bytes;
        for (size_t b = 0; b < per_row; b++, block += s.bytes)
            for (size_t k = 0; k < s.n && !st; k++)
                st = scale_number(t, block + s.at[k], *theta++, kept, err);
    }
    return st;
}

static kq_status scale_norm(const kq_tensor *t, const float *theta, uint8_t *out, kq_error *err)
{
    float *x;
    kq_status st = kq_alloc_for((void **)&x, t->n_elem, sizeof *x, t->name, err);
    if (st)
        return st;
    kq_dequantize(t->dtype, t->data, t->n_elem, x);
    for (size_t i = 0; i < t->n_elem && !st; i++) {
        x[i] *= theta[i];
        if (!isfinite(x[i]))
            st = kq_fail(err, KQ_E_NUMERIC, "%s: %s[%zu] would become %g", t->file, t->name, i, (double)x[i]);
    }
    if (!st)
        st = kq_fail_within(err, kq_encode(t->dtype, x, t->n_elem, out, NULL, err), t->name);
    kq_free(x);
    return st;
}

static kq_status write_tensor(const kq_tuned_gguf *o, const kq_tensor *t, kq_out *f, size_t *kept,
                              kq_error *err)
{
    const float *theta = o->factors(o->ctx, t->name);
    uint8_t *out;
    if (!theta)
        return kq_out_write(f, t->data, t->size_bytes, err);
    kq_status st = kq_alloc_for((void **)&out, t->size_bytes, 1, t->name, err);
    if (st)
        return st;
    memcpy(out, t->data, t->size_bytes);
    st = t->rank == 1 ? scale_norm(t, theta, out, err) : scale_blocks(o->src, t, theta, out, kept, err);
    if (!st)
        st = kq_out_write(f, out, t->size_bytes, err);
    kq_free(out);
    return st;
}

kq_status kq_tuned_gguf_save(const kq_tuned_gguf *o, kq_tuned_gguf_saved *saved, kq_error *err)
{
    const uint8_t *at = kq_gguf_bytes(kq_source_gguf(o->src), &saved->file_bytes), *const end =
                                                                                       at + saved->file_bytes;
    kq_out *f;
    saved->n_kept = 0;
    kq_status st = kq_out_open(o->path, &f, err);
    if (st)
        return st;
    /* tensors lie in the order of the table, with padding between them (kq_gguf_open) */
    for (size_t i = 0; i < kq_source_n_tensors(o->src) && !st; i++) {
        const kq_tensor *t = kq_source_tensor(o->src, i);
        if (!(st = kq_out_write(f, at, (size_t)(t->data - at), err)))
            st = write_tensor(o, t, f, &saved->n_kept, err);
        at = t->data + t->size_bytes;
        kq_map_release(t->data, t->size_bytes);
    }
    if (!st)
        st = kq_out_write(f, at, (size_t)(end - at), err);
    if (!st)
        return kq_out_commit(f, err);
    kq_out_abort(f);
    return st;
}

/* ---- comparing ---- */

/* Are the integers of all blocks the same? */
static bool same_but_scales(const kq_tensor *t, const uint8_t *a, const uint8_t *b)
{
    const kq_block_scales s = kq_block_scales_of(t->dtype);
    if (!s.n || t->rank != 2)
        return !memcmp(a, b, t->size_bytes);
    for (size_t i = 0; i < t->size_bytes; i++) {
        const size_t k = i % s.bytes;
        const bool scale = k - s.at[0] < 2 || (s.n == 2 && k - s.at[1] < 2);
        if (a[i] != b[i] && !scale)
            return false;
    }
    return true;
}

kq_status kq_tuned_gguf_compare(const kq_source *src, const char *path, kq_error *err)
{
    size_t size;
    kq_map map;
    const uint8_t *const data = kq_gguf_bytes(kq_source_gguf(src), &size), *at = data;
    const char *differs = "its size";
    kq_status st = kq_map_open(path, &map, err);
    if (st)
        return st;
    bool same = map.size == size;
    for (size_t i = 0; i < kq_source_n_tensors(src) && same; i++) {
        const kq_tensor *t = kq_source_tensor(src, i);
        differs = "what stands before its tensors";
        if ((same = !memcmp(at, map.data + (at - data), (size_t)(t->data - at)))) {
            differs = t->name;
            same = is_norm(src, t) || same_but_scales(t, t->data, map.data + (t->data - data));
        }
        at = t->data + t->size_bytes;
        kq_map_release(t->data, t->size_bytes);
        kq_map_release(map.data + (t->data - data), t->size_bytes);
    }
    if (!same)
        st = kq_fail(err, KQ_E_MISMATCH,
                     "%s: is there, but is not a tuned copy of %s: %s differs; choose another output or "
                     "remove it",
                     path, kq_source_path(src), differs);
    kq_map_close(&map);
    return st;
}
