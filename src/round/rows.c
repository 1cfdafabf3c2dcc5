/* Rounding an embedding or a head: one row a token, and the way back for any range of rows.
 *
 * The transform works on the inputs alone (docs/math.md, "Rows", eq. 144): the rows of W' are independent of
 * each other, so that a row can be read without the others, and the work goes through bands of rows, which
 * bound the memory. */
#include "round/round.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/f16.h"
#include "base/mem.h"
#include "round/matrix.h"
#include "round/side.h"

/* Rows that are rounded at once: whole supertiles (ldlq.c), and about 4 million weights. */
static size_t band_rows(size_t n_pad)
{
    const size_t rows = ((size_t)1 << 22) / n_pad / 128 * 128;
    return rows < 128 ? 128 : rows;
}

size_t kq_round_rows_bytes(size_t rows, size_t n, int k)
{
    const size_t np = kq_padded(n), mp = kq_padded(rows), band = band_rows(np) < mp ? band_rows(np) : mp;
    /* the packed weights and the scales; W, W', What' and E of a band; the factor and its factorisation */
    return mp * np / 8 * (size_t)k + 4 * mp + 16 * band * np + 20 * np * np;
}

size_t kq_packed_row_at(const kq_packed *p, int k, size_t r, int *bits)
{
    const size_t R = p->m_pad / KQ_TILE, a = p->fine_first, b = R - p->fine_last, first = r < a ? r : a,
                 last = r > b ? r - b : 0;
    *bits = r < a || r >= b ? KQ_FINE_BITS : k;
    return p->n_pad / KQ_TILE * KQ_TILE * ((first + last) * KQ_FINE_BITS + (r - first - last) * (size_t)k);
}

typedef struct row_rounding {
    const kq_rows_input *in;
    const kq_trellis *t; /* of most rows */
    const kq_round_options *opt;
    int threads;
    size_t band;
    kq_side inputs;
    kq_side outputs;      /* its signs and its transform are used with blocks alone */
    float *L;             /* owned: L - I of the factor; NULL: the identity */
    float *W, *Wp, *What; /* owned [band, n], [band, n_pad] twice */
    double energy, error; /* ||W||^2, ||W - What||^2 */
    double loss;          /* 1/2 sum_v weight_v e_v^T H_in e_v */
    kq_packed packed;
} row_rounding;

static kq_status prepare(row_rounding *z, const kq_round_options *opt, kq_round_report *report, kq_error *err)
{
    const size_t np = z->packed.n_pad;
    int bits;
    const size_t words = kq_packed_row_at(&z->packed, kq_trellis_k(z->t), z->packed.m_pad / KQ_TILE, &bits);
    kq_error why = {0};
    kq_status st;
    if ((st = kq_side_begin(&z->inputs, opt->seed, err)) != KQ_OK ||
        (opt->block && (st = kq_side_begin(&z->outputs, opt->seed, err)) != KQ_OK))
        return st;
    for (size_t j = 0; j < z->in->n; j++)
        z->inputs.scales[j] *= kq_f16_to_f32(kq_f32_to_f16((float)kq_fill_scale(z->in->n, opt->block, j)));
    if (z->in->H_in) {
        if ((st = kq_side_rotated_factor(&z->inputs, opt->shrink, z->threads, &z->L, err)) != KQ_OK)
            return st;
        if ((st = kq_factor_condition_ldl(z->L, np, opt->sigma_reg, &report->extra_in, z->L, z->threads,
                                          &why)) != KQ_OK)
            return kq_fail(err, st, "%s: H_in: %s", z->in->name, why.message);
    }
    if ((st = kq_alloc_for((void **)&z->W, z->band * z->in->n, sizeof *z->W, "rows", err)) != KQ_OK ||
        (st = kq_alloc_for((void **)&z->Wp, z->band * np, sizeof *z->Wp, "rotated rows", err)) != KQ_OK ||
        (st = kq_alloc_for((void **)&z->What, z->band * np, sizeof *z->What, "rounded rows", err)) != KQ_OK ||
        (st = kq_alloc_for((void **)&z->packed.sv, z->in->rows, sizeof *z->packed.sv, "scales", err)) !=
            KQ_OK)
        return st;
    return kq_alloc_for((void **)&z->packed.trellis, words, sizeof *z->packed.trellis, "packed rows", err);
}

static kq_status read_band(row_rounding *z, size_t row0, size_t count, kq_error *err)
{
    const size_t n = z->in->n;
    kq_status st = z->in->read(z->in->ctx, row0, count, z->W, err);
    const size_t bad = st ? 0 : kq_first_nonfinite(z->W, count * n);
    if (!st && bad < count * n)
        st = kq_fail(err, KQ_E_NUMERIC, "%s: the weight holds NaN or Inf at [%zu, %zu]", z->in->name,
                     row0 + bad / n, bad % n);
    return st;
}

static bool is_fine(const row_rounding *z, size_t row)
{
    const size_t tile = row / KQ_TILE, n_tiles = z->packed.m_pad / KQ_TILE;
    return tile < z->packed.fine_first || tile >= n_tiles - z->packed.fine_last;
}

/* With blocks sv takes signs and the scale too, so that a row needs nothing but its own number; rows that
 * have padding in their block stand out as its columns do. */
static void choose_block_scales(row_rounding *z, double scale)
{
    const double rms = scale * kq_trellis_weight_rms(z->t);
    for (size_t i = 0; i < z->in->rows; i++) {
        const double own = z->packed.sv[i] / rms * scale * kq_fill_scale(z->in->rows, z->opt->block, i),
                     least = own > 0 ? fmax(own, 0x1p-14) : 0;
        z->packed.sv[i] =
            z->packed.scale > 0 ? z->outputs.scales[i] * kq_f16_to_f32(kq_f32_to_f16((float)least)) : 0;
    }
    z->packed.scale = z->packed.scale > 0 ? 1 : 0;
}

/* Eq. 145: sv = each row's rms after su, over the rms of all rows, and the scale. */
static kq_status choose_scales(row_rounding *z, kq_error *err)
{
    const size_t n = z->in->n, rows = z->in->rows;
    double sum = 0;
    for (size_t r = 0; r < rows; r += z->band) {
        const size_t count = rows - r < z->band ? rows - r : z->band;
        kq_status st = read_band(z, r, count, err);
        if (st)
            return st;
        for (size_t i = 0; i < count; i++) {
            const double energy = kq_sum_squares(z->W + i * n, n);
            z->packed.sv[r + i] = (float)sqrt(energy / (double)n);
            sum += energy;
        }
    }
    z->energy = sum;
    const double rms = sqrt(sum / ((double)rows * (double)n)), scale = rms / kq_trellis_weight_rms(z->t);
    if (!(scale <= KQ_PACKED_SCALE_MAX))
        return kq_fail(err, KQ_E_NUMERIC, "%s: its weights need a scale of %g, at most %g is possible",
                       z->in->name, scale, (double)KQ_PACKED_SCALE_MAX);
    z->packed.scale = scale < FLT_MIN ? 0 : (float)scale;
    if (z->opt->block) {
        choose_block_scales(z, scale);
        return KQ_OK;
    }
    /* the finer code wants its weights at another size against its values: its rows' own scales see to it */
    const double fine = z->in->fine ? kq_trellis_weight_rms(z->t) / kq_trellis_weight_rms(z->in->fine) : 1;
    for (size_t i = 0; i < rows; i++) { /* as they are stored; at most about sqrt(rows) */
        const double sv = z->packed.sv[i] / rms * (is_fine(z, i) ? fine : 1);
        z->packed.sv[i] = scale < FLT_MIN ? 0 : kq_f16_to_f32(kq_f32_to_f16((float)sv));
    }
    return KQ_OK;
}

/* Into the rotated basis and back: the rows of a band, and with blocks the columns too. */
static kq_status transform(const row_rounding *z, float *X, bool back, size_t rows, kq_error *err)
{
    const size_t block = z->opt->block;
    kq_hadamard *u;
    if (!block)
        return kq_hadamard_rows_mt(z->inputs.u, back, X, rows, z->packed.n_pad, z->threads, err);
    kq_status st = kq_hadamard_new_blocks(rows, block, &u, err);
    if (!st)
        st = kq_rotate_both(u, z->inputs.u, back, X, z->threads, err);
    kq_hadamard_free(u);
    return st;
}

/* W' of a band, each row over its scale: its rms is that of all rows. Rows of padding are 0. */
static kq_status rotate_band(row_rounding *z, size_t row0, size_t count, size_t padded, kq_error *err)
{
    const size_t n = z->in->n, np = z->packed.n_pad;
    memset(z->Wp, 0, padded * np * sizeof *z->Wp);
    for (size_t i = 0; i < count; i++) {
        const float sv = z->packed.sv[row0 + i], inverse = sv != 0 ? 1 / sv : 0;
        for (size_t j = 0; j < n; j++) /* without blocks su is a sign */
            z->Wp[i * np + j] = z->W[i * n + j] * (inverse / z->inputs.scales[j]);
    }
    return transform(z, z->Wp, false, padded, err);
}

/* What was lost in a band: W - What, over W. */
static kq_status add_errors(row_rounding *z, size_t row0, size_t count, kq_error *err)
{
    const size_t n = z->in->n, np = z->packed.n_pad, block = z->opt->block;
    kq_status st = transform(z, z->What, true, block ? kq_padded_to(count, block) : count, err);
    if (st)
        return st;
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < n; j++)
            z->W[i * n + j] -= z->What[i * np + j] * (z->packed.sv[row0 + i] * z->inputs.scales[j]);
    z->error += kq_sum_squares(z->W, count * n);
    if (!isfinite(z->error))
        return kq_fail(err, KQ_E_NUMERIC,
                       "%s: rounding diverged (the factor feeds errors back without bound; raise sigma_reg)",
                       z->in->name);
    return KQ_OK;
}

static kq_status round_band(row_rounding *z, size_t row0, size_t count, kq_error *err)
{
    const size_t np = z->packed.n_pad, padded = kq_padded_to(count, z->opt->block);
    int bits;
    const size_t at = kq_packed_row_at(&z->packed, kq_trellis_k(z->t), row0 / KQ_TILE, &bits);
    const kq_trellis *t = bits == kq_trellis_k(z->t) ? z->t : z->in->fine;
    kq_status st = read_band(z, row0, count, err);
    if (!st)
        st = rotate_band(z, row0, count, padded, err);
    const kq_ldlq_input in = {.Wp = z->Wp, .m = padded, .n = np, .L_in = z->L, .scale = z->packed.scale};
    const kq_tile_rounder tiles = z->opt->tiles ? *z->opt->tiles : kq_trellis_rounder(t);
    if (!st)
        st = kq_ldlq_with(&tiles, &in, z->packed.trellis + at, z->What, z->threads, err);
    return st ? st : add_errors(z, row0, count, err);
}

/* Round the rows from row0 on that lie before `end`, band by band. */
static kq_status round_rows(row_rounding *z, size_t row0, size_t end, kq_error *err)
{
    kq_status st = KQ_OK;
    end = end < z->in->rows ? end : z->in->rows;
    for (size_t r = row0; r < end && !st; r += z->band) {
        st = round_band(z, r, end - r < z->band ? end - r : z->band, err);
        if (!st && z->in->progress)
            st = z->in->progress(z->in->ctx, err);
    }
    return st;
}

kq_status kq_round_rows(const kq_trellis *t, const kq_rows_input *in, const kq_round_options *opt,
                        kq_packed *out, kq_round_report *report, kq_error *err)
{
    *out = (kq_packed){0};
    *report = (kq_round_report){.predicted_loss = NAN};
    if (!in->rows || !in->n || in->rows > (size_t)1 << 31 || in->n > 1u << 20 ||
        (in->fine && in->fine_first + in->fine_last > kq_padded(in->rows) / KQ_TILE))
        return kq_fail(err, KQ_E_ARG, "%s: a matrix of %zu x %zu", in->name, in->rows, in->n);
    row_rounding z = {.in = in,
                      .t = t,
                      .opt = opt,
                      .threads = kq_at_least_one(opt->threads),
                      .inputs = {.module = in->name,
                                 .factor = "H_in",
                                 .suffix = ".su",
                                 .H = in->H_in,
                                 .n = in->n,
                                 .block = opt->block},
                      .outputs = {.module = in->name, .suffix = ".sv", .n = in->rows, .block = opt->block},
                      .packed = {.m = in->rows,
                                 .n = in->n,
                                 .m_pad = kq_padded_to(in->rows, opt->block),
                                 .n_pad = kq_padded_to(in->n, opt->block),
                                 .one_sided = !opt->block,
                                 .fine_first = in->fine ? in->fine_first : 0,
                                 .fine_last = in->fine ? in->fine_last : 0}};
    z.band = in->band ? in->band : band_rows(z.packed.n_pad);
    z.band = z.band < z.packed.m_pad ? z.band : z.packed.m_pad;
    kq_status st = prepare(&z, opt, report, err);
    if (!st)
        st = choose_scales(&z, err);
    const size_t a = z.packed.fine_first * KQ_TILE, b = z.packed.m_pad - z.packed.fine_last * KQ_TILE;
    const size_t part[] = {0, a, b, z.packed.m_pad};
    for (size_t i = 0; i < 3 && !st; i++)
        st = round_rows(&z, part[i], part[i + 1], err);
    if (!st) {
        z.packed.su = z.inputs.scales;
        z.inputs.scales = NULL;
        z.packed.scale = opt->block ? 1 : z.packed.scale;
        report->relative_mse = z.energy > 0 ? z.error / z.energy : 0;
        *out = z.packed;
        z.packed = (kq_packed){0};
    }
    kq_packed_free(&z.packed);
    kq_side_free(&z.inputs);
    kq_side_free(&z.outputs);
    kq_free(z.L);
    kq_free(z.W);
    kq_free(z.Wp);
    kq_free(z.What);
    return st;
}

kq_status kq_unround_rows(const kq_row_codes *codes, const kq_packed *p, const kq_hadamard *u, size_t row0,
                          size_t count, float *dst, kq_error *err)
{
    const size_t n = p->n, np = p->n_pad, nc = np / KQ_TILE;
    if (row0 > p->m || count > p->m - row0 || kq_hadamard_order(u) != np || np != kq_padded(n))
        return kq_fail(err, KQ_E_ARG, "rows %zu to %zu of %zu x %zu", row0, row0 + count, p->m, n);
    float *band; /* one row of tiles [16, n_pad], then the transform's scratch [2 n_pad] */
    uint16_t tile[16 * 4];
    kq_status st = kq_alloc_for((void **)&band, 18 * np, sizeof *band, "unpacked rows", err);
    if (st)
        return st;
    for (size_t r = row0 / KQ_TILE; r * KQ_TILE < row0 + count; r++) {
        const size_t first = r * KQ_TILE < row0 ? row0 - r * KQ_TILE : 0,
                     end = row0 + count - r * KQ_TILE < KQ_TILE ? row0 + count - r * KQ_TILE : KQ_TILE;
        int bits;
        const size_t at = kq_packed_row_at(p, kq_trellis_k(codes->most), r, &bits);
        const kq_trellis *t = bits == kq_trellis_k(codes->most) ? codes->most : codes->fine;
        const size_t words = kq_trellis_words(t);
        for (size_t c = 0; c < nc; c++) {
            float v[KQ_TILE_SIZE];
            /* the file may hold the words at an odd address */
            memcpy(tile, (const char *)p->trellis + 2 * (at + c * words), 2 * words);
            kq_trellis_decode(t, tile, 1, v);
            for (size_t i = first; i < end; i++)
                memcpy(band + i * np + c * KQ_TILE, v + i * KQ_TILE, KQ_TILE * sizeof *v);
        }
        kq_hadamard_rows(u, true, band + first * np, end - first, np, band + 16 * np);
        for (size_t i = first; i < end; i++) {
            const size_t row = r * KQ_TILE + i;
            const float scale = p->sv[row] * p->scale;
            for (size_t j = 0; j < n; j++)
                dst[(row - row0) * n + j] = band[i * np + j] * (scale * p->su[j]);
        }
    }
    kq_free(band);
    return KQ_OK;
}
