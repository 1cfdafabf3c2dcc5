/* The linears of an EXL3 folder. Each is stored as several tensors: `<module>.trellis`, `.suh`, `.svh`, and
 * `.mcg` or `.mul1` for two of the three codes. Here they become one tensor `<module>.weight`, so that
 * nothing above this room knows of EXL3: kq_source_read_f32 decodes it. A folder may come from a stranger, so
 * that everything is checked before a number is read. */
#include "source/exl3.h"

#include <stdio.h>
#include <string.h>

#include "base/f16.h"
#include "base/mem.h"
#include "format/dequant.h"

static const char *const ends[] = {".trellis", ".suh", ".svh", ".mcg", ".mul1", ".su", ".sv", ".bias"};
enum { N_ENDS = sizeof ends / sizeof *ends };

kq_status kq_exl3_set_open(kq_exl3_set *set, size_t n_tensors, kq_error *err)
{
    set->cap = n_tensors;
    return kq_alloc_for((void **)&set->linear, n_tensors, sizeof *set->linear, "the EXL3 linears", err);
}

void kq_exl3_set_close(kq_exl3_set *set)
{
    for (size_t i = 0; i < KQ_N_CODE; i++)
        kq_free(set->values[i]);
    kq_free(set->linear);
    *set = (kq_exl3_set){0};
}

/* Which of ends[] a name ends with; N_ENDS: none. */
static size_t end_of(const char *name)
{
    const size_t n = strlen(name);
    size_t i = 0;
    for (; i < N_ENDS; i++) {
        const size_t m = strlen(ends[i]);
        if (n > m && !strcmp(name + n - m, ends[i]))
            break;
    }
    return i;
}

size_t kq_exl3_module(const char *name)
{
    const size_t end = end_of(name);
    return end < N_ENDS ? strlen(name) - strlen(ends[end]) : 0;
}

bool kq_exl3_take(kq_exl3_parts *p, const kq_tensor *t)
{
    const kq_tensor **place[N_ENDS] = {&p->trellis, &p->suh,   &p->svh,   &p->mcg,
                                       &p->mul1,    &p->other, &p->other, &p->other};
    const size_t end = end_of(t->name);
    if (end < N_ENDS)
        *place[end] = t;
    return end < N_ENDS;
}

static kq_status not_expected(const kq_tensor *t, const char *expected, kq_error *err)
{
    char shape[96] = "";
    for (size_t i = 0, at = 0; i < t->rank && at < sizeof shape; i++)
        at += (size_t)snprintf(shape + at, sizeof shape - at, "%s%zu", i ? ", " : "", t->shape[i]);
    return kq_fail(err, KQ_E_SHAPE, "%s: %.200s is %s [%s], expected %s", t->file, t->name,
                   kq_dtype_name(t->dtype), shape, expected);
}

/* Is it a matrix of 1 to 8 whole bits, with the padded sizes of the linear? */
static kq_status check_trellis(const kq_tensor *t, size_t n_in, size_t n_out, kq_error *err)
{
    char expected[160];
    const size_t last = t->rank == 3 ? t->shape[2] : 0, most = 16 * KQ_EXL3_BITS_MAX;
    if (t->rank == 3 && t->dtype == KQ_T_I16 && last % 16 == 8 && last < most)
        return kq_fail(err, KQ_E_UNSUPPORTED,
                       "%s: %.200s has %zu words a tile, which are %g bits a weight; kronq reads EXL3 with "
                       "whole bits, 1 to %d (16 words each)",
                       t->file, t->name, last, (double)last / 16, KQ_EXL3_BITS_MAX);
    snprintf(expected, sizeof expected,
             "I16 [%zu, %zu, 16 K] with K from 1 to %d: both sizes of the linear, padded to multiples of %d, "
             "over 16",
             n_in / KQ_TILE, n_out / KQ_TILE, KQ_EXL3_BITS_MAX, KQ_EXL3_BLOCK);
    return t->rank == 3 && t->dtype == KQ_T_I16 && t->shape[0] == n_in / KQ_TILE &&
                   t->shape[1] == n_out / KQ_TILE && last && last % 16 == 0 && last <= most
               ? KQ_OK
               : not_expected(t, expected, err);
}

static kq_status check_scales(const kq_tensor *t, size_t n, kq_error *err)
{
    char expected[64];
    snprintf(expected, sizeof expected, "F16 [%zu]", n);
    if (t->dtype != KQ_T_F16 || t->rank != 1 || t->shape[0] != n)
        return not_expected(t, expected, err);
    for (size_t i = 0; i < n; i++) {
        const uint16_t h = (uint16_t)(t->data[2 * i] | t->data[2 * i + 1] << 8);
        if ((h & 0x7c00) == 0x7c00)
            return kq_fail(err, KQ_E_NUMERIC, "%s: %.200s[%zu] is %s, expected a finite scale", t->file,
                           t->name, i, h & 0x3ff ? "NaN" : "Inf");
    }
    return KQ_OK;
}

/* What is there, and nothing that asks for something else. */
static kq_status check_parts(const kq_exl3_parts *p, const char *name, kq_error *err)
{
    const kq_tensor *all[] = {p->trellis, p->suh, p->svh, p->mcg, p->mul1, p->other}, *any = NULL;
    for (size_t i = 0; i < sizeof all / sizeof *all && !any; i++)
        any = all[i];
    const int module = (int)kq_exl3_module(any->name);
    if (p->other && !strcmp(p->other->name + module, ".bias"))
        return kq_fail(err, KQ_E_UNSUPPORTED, "%s: %.200s: layers with a bias are not supported",
                       p->other->file, p->other->name);
    if (p->other)
        return kq_fail(err, KQ_E_UNSUPPORTED,
                       "%s: %.200s: packed signs, a form of EXL3 from before its first release, are not "
                       "read; kronq reads suh and svh",
                       p->other->file, p->other->name);
    if (!p->trellis || !p->suh || !p->svh)
        return kq_fail(err, KQ_E_FORMAT,
                       "%s: %.*s.%s is missing, but %.200s is there (an EXL3 linear has trellis, suh and "
                       "svh, here for %s)",
                       any->file, module, any->name, p->trellis ? p->suh ? "svh" : "suh" : "trellis",
                       any->name, name);
    if (p->mcg && p->mul1)
        return kq_fail(err, KQ_E_FORMAT,
                       "%s: %.200s and %.200s are both there, expected one of them: they name two codes",
                       p->mcg->file, p->mcg->name, p->mul1->name);
    return KQ_OK;
}

/* set->values[code], made when the first linear needs it. */
static kq_status need_values(kq_exl3_set *set, kq_code code, kq_error *err)
{
    if (set->values[code])
        return KQ_OK;
    const kq_status status =
        kq_alloc_for((void **)&set->values[code], 65536, sizeof **set->values, "the values of a code", err);
    if (!status)
        kq_exl3_values(code, set->values[code]);
    return status;
}

kq_status kq_exl3_linear(kq_exl3_set *set, const kq_exl3_parts *p, const char *name, size_t rows, size_t cols,
                         kq_tensor *out, kq_error *err)
{
    const size_t n_in = kq_exl3_padded(cols), n_out = kq_exl3_padded(rows);
    const kq_code code = p->mul1 ? KQ_MUL1 : p->mcg ? KQ_MCG : KQ_3INST;
    kq_status status;
    if ((status = check_parts(p, name, err)) || (status = check_trellis(p->trellis, n_in, n_out, err)) ||
        (status = check_scales(p->suh, n_in, err)) || (status = check_scales(p->svh, n_out, err)) ||
        (status = need_values(set, code, err)))
        return status;
    if (set->n == set->cap)
        return kq_fail(err, KQ_E_FORMAT, "%s: more linears than tensors", p->trellis->file);
    kq_exl3 *x = &set->linear[set->n++];
    *x = (kq_exl3){.bits = (int)(p->trellis->shape[2] / 16),
                   .code = code,
                   .n_in = n_in,
                   .n_out = n_out,
                   .trellis = p->trellis->data,
                   .suh = p->suh->data,
                   .svh = p->svh->data,
                   .values = set->values[code]};
    *out = (kq_tensor){.name = name,
                       .file = p->trellis->file,
                       .dtype = KQ_T_EXL3,
                       .rank = 2,
                       .shape = {rows, cols},
                       .n_elem = rows * cols,
                       .data = p->trellis->data,
                       .size_bytes = p->trellis->size_bytes,
                       .exl3 = x};
    return KQ_OK;
}
