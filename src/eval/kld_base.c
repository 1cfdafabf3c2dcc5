/* Writes and reads files of saved logits, byte for byte as llama.cpp's llama-perplexity does
 * (tools/perplexity, MIT; the arithmetic is the same), so that the figures of both programs can
 * be compared. */
#include "eval/kld_base.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

enum { HEADER = 8 + 3 * 4, MAX_CTX = 1 << 24, MAX_VOCAB = 1 << 24, MAX_WINDOWS = 1 << 26 };
static const char magic[8] = {'_', 'l', 'o', 'g', 'i', 't', 's', '_'};

size_t kq_kld_row_bytes(size_t vocab)
{
    return 2 * (2 * ((vocab + 1) / 2) + 4);
}

bool kq_kld_base_is(const char *path)
{
    char head[8] = {0};
    if (kq_path_is_dir(path))
        return false;
    FILE *f = fopen(path, "rb");
    const bool is = f && fread(head, 1, sizeof head, f) == sizeof head && !memcmp(head, magic, sizeof magic);
    if (f)
        fclose(f);
    return is;
}

kq_status kq_kld_base_open(const char *path, kq_kld_base *out, kq_error *err)
{
    kq_kld_base b = {0};
    int32_t head[3];
    size_t n_ids, n_rows, rows, want;
    *out = b;
    kq_status st = kq_map_open(path, &b.map, err);
    if (st)
        return st;
    if (b.map.size < HEADER || memcmp(b.map.data, magic, sizeof magic)) {
        st = kq_fail(err, KQ_E_FORMAT,
                     "%s: no file of saved logits: it does not begin with \"_logits_\" and three numbers",
                     path);
        goto fail;
    }
    memcpy(head, b.map.data + sizeof magic, sizeof head);
    if (head[0] < 4 || head[0] > MAX_CTX || head[1] < 1 || head[1] > MAX_VOCAB || head[2] < 1 ||
        head[2] > MAX_WINDOWS) {
        st = kq_fail(err, KQ_E_FORMAT, "%s: %d windows of %d tokens out of a vocabulary of %d cannot be",
                     path, head[2], head[0], head[1]);
        goto fail;
    }
    b.ctx = (size_t)head[0];
    b.vocab = (size_t)head[1];
    b.windows = (size_t)head[2];
    if (!kq_mul_size(b.ctx, b.windows, &n_ids) || !kq_mul_size(b.ctx - 1 - b.ctx / 2, b.windows, &n_rows) ||
        !kq_mul_size(n_rows, kq_kld_row_bytes(b.vocab), &rows) ||
        !kq_add_size(rows, HEADER + 4 * n_ids, &want) || want != b.map.size) {
        st = kq_fail(
            err, KQ_E_FORMAT,
            "%s: %zu bytes are not %zu windows of %zu tokens over a vocabulary of %zu (an unfinished file?)",
            path, b.map.size, b.windows, b.ctx, b.vocab);
        goto fail;
    }
    b.ids = (const int32_t *)(const void *)(b.map.data + HEADER);
    b.rows = b.map.data + HEADER + 4 * n_ids;
    for (size_t i = 0; i < n_ids; i++)
        if (b.ids[i] < 0 || (size_t)b.ids[i] >= b.vocab) {
            st = kq_fail(err, KQ_E_FORMAT, "%s: token %zu is %d, but the vocabulary has %zu", path, i,
                         b.ids[i], b.vocab);
            goto fail;
        }
    *out = b;
    return KQ_OK;
fail:
    kq_map_close(&b.map);
    return st;
}

void kq_kld_base_close(kq_kld_base *b)
{
    kq_map_close(&b->map);
    *b = (kq_kld_base){0};
}

void kq_kld_row_encode(const float *logits, const kq_row_stats *st, size_t vocab, uint8_t *row)
{
    float min = st->max;
    for (size_t i = 0; i < vocab; i++)
        min = logits[i] < min ? logits[i] : min;
    min = min > st->max - 16 ? min : st->max - 16;
    const float head[2] = {(st->max - min) / 65535.0f, min - (float)st->lse},
                inverse = head[0] > 0 ? 1 / head[0] : 0;
    uint16_t *q = (uint16_t *)(void *)(row + sizeof head);
    memset(row, 0, kq_kld_row_bytes(vocab));
    memcpy(row, head, sizeof head);
    for (size_t i = 0; i < vocab; i++) {
        const float steps = rintf(inverse * (logits[i] - min));
        q[i] = logits[i] > min ? (uint16_t)(steps < 65535.0f ? steps : 65535.0f) : 0;
    }
}

kq_status kq_kld_row_compare(const kq_kern *kern, const uint8_t *row, const float *logits,
                             const kq_row_stats *st, size_t vocab, int32_t next, float *scratch,
                             kq_kld_row *out, kq_error *err)
{
    float head[2], *p = scratch, *diff = scratch + vocab;
    memcpy(head, row, sizeof head);
    if (!(head[0] >= 0 && head[0] <= 16.01f / 65535) || !(head[1] <= 0 && head[1] >= -1e6f))
        return kq_fail(err, KQ_E_FORMAT, "scale %g and minimum %g are no log-probabilities", (double)head[0],
                       (double)head[1]);
    const uint16_t *q = (const uint16_t *)(const void *)(row + sizeof head);
    size_t n = 0, top = 0;
    for (size_t i = 0; i < vocab; i++) {
        const float lp = head[0] * (float)q[i] + head[1];
        top = q[i] > q[top] ? i : top;
        p[n] = lp;
        diff[n] = (float)((double)lp - ((double)logits[i] - st->lse));
        n += lp > -16.0f;
    }
    double kl = 0;
    kern->exp_sum(p, n, 0);
    for (size_t i = 0; i < n; i++)
        kl += (double)p[i] * (double)diff[i];
    *out = (kq_kld_row){.kl = kl, .nll = -(double)(head[0] * (float)q[next] + head[1]), .top = (int32_t)top};
    return KQ_OK;
}

kq_status kq_kld_writer_open(const char *path, size_t ctx, size_t vocab, size_t windows, const int32_t *ids,
                             kq_out **out, kq_error *err)
{
    if (ctx > MAX_CTX || vocab > MAX_VOCAB || windows > MAX_WINDOWS)
        return kq_fail(err, KQ_E_ARG, "%s: %zu windows of %zu tokens are too many for the format", path,
                       windows, ctx);
    const int32_t head[3] = {(int32_t)ctx, (int32_t)vocab, (int32_t)windows};
    kq_status st = kq_out_open(path, out, err);
    if (st)
        return st;
    if ((st = kq_out_write(*out, magic, sizeof magic, err)) ||
        (st = kq_out_write(*out, head, sizeof head, err)) ||
        (st = kq_out_write(*out, ids, ctx * windows * sizeof *ids, err))) {
        kq_out_abort(*out);
        *out = NULL;
    }
    return st;
}
