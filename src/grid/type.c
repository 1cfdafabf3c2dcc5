/* The block types that can be rounded onto, and how their blocks are packed: the layouts of llama.cpp's
 * ggml-common.h (MIT), restated. format/dequant.c is the reverse. */
#include "grid/internal.h"

#include <string.h>

static const kq_grid grids[] = {
    {KQ_T_Q4_0, 32, 32, -8, 7, false, false, 0, 0, 0, false},
    {KQ_T_Q4_1, 32, 32, 0, 15, true, false, 0, 0, 0, false},
    {KQ_T_Q5_0, 32, 32, -16, 15, false, false, 0, 0, 0, false},
    {KQ_T_Q5_1, 32, 32, 0, 31, true, false, 0, 0, 0, false},
    {KQ_T_Q8_0, 32, 32, -127, 127, false, false, 0, 0, 0,
     false}, /* -128 is left out: other readers' products may not expect it */
    {KQ_T_IQ4_NL, 32, 32, -127, 113, false, true, 0, 0, 0, false},
    {KQ_T_Q2_K, 256, 16, 0, 3, true, false, 0, 15, 15, false},
    {KQ_T_Q3_K, 256, 16, -4, 3, false, false, -32, 31, 0, false},
    {KQ_T_Q4_K, 256, 32, 0, 15, true, false, 0, 63, 63, false},
    {KQ_T_Q5_K, 256, 32, 0, 31, true, false, 0, 63, 63, false},
    {KQ_T_Q6_K, 256, 16, -32, 31, false, false, -128, 127, 0, false},
    {KQ_T_IQ4_XS, 256, 32, -127, 113, false, true, -32, 31, 0, false},
    {.type = KQ_T_IQ2_XXS, .elems = 256, .group = 32, .codewords = true},
    {.type = KQ_T_IQ2_XS, .elems = 256, .group = 16, .codewords = true},
    {.type = KQ_T_IQ2_S, .elems = 256, .group = 16, .codewords = true},
    {.type = KQ_T_IQ3_XXS, .elems = 256, .group = 32, .codewords = true},
    {.type = KQ_T_IQ3_S, .elems = 256, .group = 32, .codewords = true},
};

const kq_grid *kq_grid_of(kq_dtype type)
{
    for (size_t i = 0; i < sizeof grids / sizeof *grids; i++)
        if (grids[i].type == type)
            return &grids[i];
    return NULL;
}

bool kq_grid_known(kq_dtype type)
{
    return kq_grid_of(type) != NULL;
}

static void put16(uint8_t *p, uint16_t x)
{
    p[0] = (uint8_t)x;
    p[1] = (uint8_t)(x >> 8);
}

/* Sixteen bytes of nibbles: value i in the low half, value i + 16 in the high half. */
static void nibbles(const uint8_t u[32], uint8_t *p)
{
    for (int i = 0; i < 16; i++)
        p[i] = (uint8_t)((u[i] & 15) | (u[i + 16] & 15) << 4);
}

static void fifth_bits(const uint8_t u[32], uint8_t *p)
{
    memset(p, 0, 4);
    for (int i = 0; i < 32; i++)
        p[i / 8] |= (uint8_t)((u[i] >> 4 & 1) << (i % 8));
}

static uint8_t level_index(int level)
{
    for (uint8_t i = 0; i < 16; i++)
        if (kq_iq4nl_values[i] == level)
            return i;
    return 0;
}

/* Six bits of scale and of minimum for eight groups in 12 bytes (format/dequant.c, k_scale_min). */
static void k_scales(const kq_grid_code *c, uint8_t *s)
{
    memset(s, 0, 12);
    for (int j = 0; j < 4; j++) {
        s[j] |= (uint8_t)c->scale[j];
        s[j + 4] |= (uint8_t)c->min[j];
        s[j] |= (uint8_t)((c->scale[j + 4] >> 4) << 6);
        s[j + 4] |= (uint8_t)((c->min[j + 4] >> 4) << 6);
        s[j + 8] = (uint8_t)((c->scale[j + 4] & 15) | (c->min[j + 4] & 15) << 4);
    }
}

/* u [elems]: codes from 0 on (IQ4_NL: indices of its levels). */
static void pack_32(const kq_grid *g, const kq_grid_code *c, const uint8_t *u, uint8_t *b)
{
    const bool five_bits = g->type == KQ_T_Q5_0 || g->type == KQ_T_Q5_1;
    put16(b, c->d);
    b += 2;
    if (g->type == KQ_T_Q8_0) {
        memcpy(b, c->q, 32);
        return;
    }
    if (g->offset) {
        put16(b, c->m);
        b += 2;
    }
    if (five_bits) {
        fifth_bits(u, b);
        b += 4;
    }
    nibbles(u, b);
}

/* Q4_K, Q5_K: d, m, the packed scales, Q5_K's fifth bits, then nibbles. */
static void pack_k45(const kq_grid *g, const kq_grid_code *c, const uint8_t *u, uint8_t *b)
{
    uint8_t *low = b + (g->type == KQ_T_Q4_K ? 16 : 48);
    put16(b, c->d);
    put16(b + 2, c->m);
    k_scales(c, b + 4);
    for (int i = 0; i < 128; i++)
        low[i] = (uint8_t)((u[i / 32 * 64 + i % 32] & 15) | (u[i / 32 * 64 + 32 + i % 32] & 15) << 4);
    if (g->type == KQ_T_Q5_K) {
        memset(b + 16, 0, 32);
        for (int i = 0; i < 256; i++)
            b[16 + i % 32] |= (uint8_t)((u[i] >> 4) << (i / 32));
    }
}

/* Q6_K: nibbles, upper two bits, scales, d. */
static void pack_k6(const kq_grid_code *c, const uint8_t *u, uint8_t *b)
{
    memset(b, 0, 192);
    for (int i = 0; i < 256; i++) {
        const int half = i / 128, row = i % 128 / 32;
        b[half * 64 + row % 2 * 32 + i % 32] |= (uint8_t)((u[i] & 15) << (row / 2 * 4));
        b[128 + half * 32 + i % 32] |= (uint8_t)((u[i] >> 4) << (row * 2));
    }
    for (int j = 0; j < 16; j++)
        b[192 + j] = (uint8_t)(int8_t)c->scale[j];
    put16(b + 208, c->d);
}

/* Two bits a code, 64 bytes: code i in byte i % 32 of its half of the block. */
static void low_bits(const uint8_t *u, uint8_t *low)
{
    memset(low, 0, 64);
    for (int i = 0; i < 256; i++)
        low[i / 128 * 32 + i % 32] |= (uint8_t)((u[i] & 3) << (i % 128 / 32 * 2));
}

/* Q2_K: scales and minima, codes, d, m. */
static void pack_k2(const kq_grid_code *c, const uint8_t *u, uint8_t *b)
{
    for (int j = 0; j < 16; j++)
        b[j] = (uint8_t)(c->scale[j] | c->min[j] << 4);
    low_bits(u, b + 16);
    put16(b + 80, c->d);
    put16(b + 82, c->m);
}

/* Q3_K: the codes' third bits, their lower two, scales of six bits, d. */
static void pack_k3(const kq_grid_code *c, const uint8_t *u, uint8_t *b)
{
    memset(b, 0, 32);
    memset(b + 96, 0, 12);
    for (int i = 0; i < 256; i++)
        b[i % 32] |= (uint8_t)((u[i] >> 2) << (i / 32));
    low_bits(u, b + 32);
    for (int j = 0; j < 16; j++) {
        const int s = c->scale[j] + 32;
        b[96 + j % 8] |= (uint8_t)((s & 15) << (j / 8 * 4));
        b[104 + j % 4] |= (uint8_t)((s >> 4) << (j / 4 * 2));
    }
    put16(b + 108, c->d);
}

/* IQ4_XS: d, the scales' upper two bits, their low four, then the indices of levels. */
static void pack_iq4_xs(const kq_grid_code *c, const uint8_t *u, uint8_t *b)
{
    uint16_t high = 0;
    put16(b, c->d);
    memset(b + 4, 0, 4);
    for (int j = 0; j < 8; j++) {
        const int s = c->scale[j] + 32;
        high |= (uint16_t)((s >> 4) << (2 * j));
        b[4 + j / 2] |= (uint8_t)((s & 15) << (j % 2 * 4));
        nibbles(u + 32 * j, b + 8 + 16 * j);
    }
    put16(b + 2, high);
}

void kq_grid_pack(const kq_grid *g, const kq_grid_code *c, uint8_t *b)
{
    uint8_t u[KQ_GRID_BLOCK];
    for (int i = 0; i < g->elems; i++)
        u[i] = g->nonlinear ? level_index(c->q[i]) : (uint8_t)(c->q[i] - g->q_min);
    switch (g->type) {
    case KQ_T_Q2_K: pack_k2(c, u, b); return;
    case KQ_T_Q3_K: pack_k3(c, u, b); return;
    case KQ_T_Q4_K:
    case KQ_T_Q5_K: pack_k45(g, c, u, b); return;
    case KQ_T_Q6_K: pack_k6(c, u, b); return;
    case KQ_T_IQ4_XS: pack_iq4_xs(c, u, b); return;
    default: pack_32(g, c, u, b); return;
    }
}
