/* Blocks of llama.cpp's IQ2 and IQ3 types, taken apart and put together. Each of the five layouts is restated
 * from ggml-common.h and the dequantize_row functions of ggml-quants.c (MIT). */
#include "format/codebook.h"

#include <string.h>

#include "base/f16.h"

static const uint8_t levels_iq2[3] = {8, 25, 43}, levels_iq3_xxs[8] = {4, 12, 20, 28, 36, 44, 52, 62},
                     levels_iq3_s[8] = {1, 3, 5, 7, 9, 11, 13, 15};

static const kq_codebook codebooks[] = {
    {KQ_T_IQ2_XXS, 8, kq_words_iq2_xxs, 256, 2, levels_iq2, 3, 32, true, 0.125f},
    {KQ_T_IQ2_XS, 8, kq_words_iq2_xs, 512, 2, levels_iq2, 3, 16, true, 0.125f},
    {KQ_T_IQ2_S, 8, kq_words_iq2_s, 1024, 2, levels_iq2, 3, 16, false, 0.125f},
    {KQ_T_IQ3_XXS, 4, kq_words_iq3_xxs, 256, 3, levels_iq3_xxs, 8, 32, true, 0.25f},
    {KQ_T_IQ3_S, 4, kq_words_iq3_s, 512, 3, levels_iq3_s, 8, 32, false, 1},
};

const kq_codebook *kq_codebook_of(kq_dtype type)
{
    for (size_t i = 0; i < sizeof codebooks / sizeof *codebooks; i++)
        if (codebooks[i].type == type)
            return &codebooks[i];
    return NULL;
}

static uint16_t load16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t load32(const uint8_t *p)
{
    return (uint32_t)load16(p) | (uint32_t)load16(p + 2) << 16;
}

/* Seven signs, and the eighth that makes the number of minus signs even. */
static uint8_t eight_signs(uint32_t seven)
{
    uint32_t odd = seven & 127;
    odd ^= odd >> 4;
    odd ^= odd >> 2;
    odd ^= odd >> 1;
    return (uint8_t)((seven & 127) | (odd & 1) << 7);
}

/* Four times seven signs in the low bits of a word of 32 bits, and a scale in its upper four. */
static void signs_and_scale(const uint8_t *p, size_t group, kq_codebook_block *b)
{
    const uint32_t u = load32(p);
    b->scale[group] = (uint8_t)(u >> 28);
    for (size_t k = 0; k < 4; k++)
        b->signs[4 * group + k] = eight_signs(u >> (7 * k));
}

/* Two scales a byte, the first in its low half. */
static void scales_of_nibbles(const uint8_t *p, size_t n, kq_codebook_block *b)
{
    for (size_t g = 0; g < n; g++)
        b->scale[g] = p[g / 2] >> (g % 2 * 4) & 15;
}

/* For each group of 32 weights: four codewords of 8 bits, then signs and scale. */
static void unpack_iq2_xxs(const uint8_t *p, kq_codebook_block *b)
{
    for (size_t g = 0; g < 8; g++) {
        for (size_t k = 0; k < 4; k++)
            b->word[4 * g + k] = p[8 * g + k];
        signs_and_scale(p + 8 * g + 4, g, b);
    }
}

/* Codewords of 9 bits with seven signs above them; then scales. */
static void unpack_iq2_xs(const uint8_t *p, kq_codebook_block *b)
{
    for (size_t k = 0; k < 32; k++) {
        const uint16_t u = load16(p + 2 * k);
        b->word[k] = u & 511;
        b->signs[k] = eight_signs(u >> 9);
    }
    scales_of_nibbles(p + 64, 16, b);
}

/* The low 8 bits of the codewords, signs, the upper 2 bits of the codewords, scales. */
static void unpack_iq2_s(const uint8_t *p, kq_codebook_block *b)
{
    for (size_t k = 0; k < 32; k++) {
        b->word[k] = (uint16_t)(p[k] | (p[64 + k / 4] >> (k % 4 * 2) & 3) << 8);
        b->signs[k] = p[32 + k];
    }
    scales_of_nibbles(p + 72, 16, b);
}

/* Codewords of 8 bits; then signs and scale of each group of 32 weights. */
static void unpack_iq3_xxs(const uint8_t *p, kq_codebook_block *b)
{
    for (size_t k = 0; k < 64; k++)
        b->word[k] = p[k];
    for (size_t g = 0; g < 8; g++)
        signs_and_scale(p + 64 + 4 * g, g, b);
}

/* The low 8 bits of the codewords, their ninth bits, signs, scales. */
static void unpack_iq3_s(const uint8_t *p, kq_codebook_block *b)
{
    for (size_t k = 0; k < 64; k++)
        b->word[k] = (uint16_t)(p[k] | (p[64 + k / 8] >> (k % 8) & 1) << 8);
    memcpy(b->signs, p + 72, 32);
    scales_of_nibbles(p + 104, 8, b);
}

void kq_codebook_unpack(const kq_codebook *c, const uint8_t *bytes, kq_codebook_block *b)
{
    memset(b, 0, sizeof *b);
    b->d = load16(bytes);
    bytes += 2;
    switch (c->type) {
    case KQ_T_IQ2_XXS: unpack_iq2_xxs(bytes, b); return;
    case KQ_T_IQ2_XS: unpack_iq2_xs(bytes, b); return;
    case KQ_T_IQ2_S: unpack_iq2_s(bytes, b); return;
    case KQ_T_IQ3_XXS: unpack_iq3_xxs(bytes, b); return;
    default: unpack_iq3_s(bytes, b); return;
    }
}

/* ---- the reverse, in the same order ---- */

static void store16(uint8_t *p, unsigned x)
{
    p[0] = (uint8_t)x;
    p[1] = (uint8_t)(x >> 8);
}

static void store_signs_and_scale(const kq_codebook_block *b, size_t group, uint8_t *p)
{
    uint32_t u = (uint32_t)b->scale[group] << 28;
    for (size_t k = 0; k < 4; k++)
        u |= (uint32_t)(b->signs[4 * group + k] & 127) << (7 * k);
    store16(p, u & 0xffff);
    store16(p + 2, u >> 16);
}

static void store_nibbles(const kq_codebook_block *b, size_t n, uint8_t *p)
{
    for (size_t g = 0; g < n; g += 2)
        p[g / 2] = (uint8_t)(b->scale[g] | b->scale[g + 1] << 4);
}

static void pack_iq2_xxs(const kq_codebook_block *b, uint8_t *p)
{
    for (size_t g = 0; g < 8; g++) {
        for (size_t k = 0; k < 4; k++)
            p[8 * g + k] = (uint8_t)b->word[4 * g + k];
        store_signs_and_scale(b, g, p + 8 * g + 4);
    }
}

static void pack_iq2_xs(const kq_codebook_block *b, uint8_t *p)
{
    for (size_t k = 0; k < 32; k++)
        store16(p + 2 * k, b->word[k] | (b->signs[k] & 127u) << 9);
    store_nibbles(b, 16, p + 64);
}

static void pack_iq2_s(const kq_codebook_block *b, uint8_t *p)
{
    memset(p + 64, 0, 8);
    for (size_t k = 0; k < 32; k++) {
        p[k] = (uint8_t)b->word[k];
        p[32 + k] = b->signs[k];
        p[64 + k / 4] |= (uint8_t)(b->word[k] >> 8 << (k % 4 * 2));
    }
    store_nibbles(b, 16, p + 72);
}

static void pack_iq3_xxs(const kq_codebook_block *b, uint8_t *p)
{
    for (size_t k = 0; k < 64; k++)
        p[k] = (uint8_t)b->word[k];
    for (size_t g = 0; g < 8; g++)
        store_signs_and_scale(b, g, p + 64 + 4 * g);
}

static void pack_iq3_s(const kq_codebook_block *b, uint8_t *p)
{
    memset(p + 64, 0, 8);
    for (size_t k = 0; k < 64; k++) {
        p[k] = (uint8_t)b->word[k];
        p[64 + k / 8] |= (uint8_t)(b->word[k] >> 8 << (k % 8));
    }
    memcpy(p + 72, b->signs, 32);
    store_nibbles(b, 8, p + 104);
}

void kq_codebook_pack(const kq_codebook *c, const kq_codebook_block *b, uint8_t *bytes)
{
    store16(bytes, b->d);
    bytes += 2;
    switch (c->type) {
    case KQ_T_IQ2_XXS: pack_iq2_xxs(b, bytes); return;
    case KQ_T_IQ2_XS: pack_iq2_xs(b, bytes); return;
    case KQ_T_IQ2_S: pack_iq2_s(b, bytes); return;
    case KQ_T_IQ3_XXS: pack_iq3_xxs(b, bytes); return;
    default: pack_iq3_s(b, bytes); return;
    }
}

/* ---- values ---- */

void kq_codebook_values(const kq_codebook *c, const kq_codebook_block *b, float *y)
{
    const float d = kq_f16_to_f32(b->d);
    const unsigned mask = (1u << c->bits) - 1;
    for (size_t i = 0; i < KQ_CODEBOOK_BLOCK; i++) {
        const float scale = d * (float)(2 * b->scale[i / c->group] + 1) * c->unit;
        const unsigned word = c->word[b->word[i / c->dim]];
        const float level = (float)c->level[word >> (i % c->dim * c->bits) & mask];
        y[i] = scale * (b->signs[i / 8] >> (i % 8) & 1 ? -level : level);
    }
}
