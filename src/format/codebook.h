/* llama.cpp's IQ2 and IQ3 types, whose weights are not rounded one by one: a codeword of a fixed list says
 * the magnitudes of eight (IQ2) or four (IQ3) neighbouring weights at once, and their signs stand beside it.
 * A block is 256 weights of a row. The value of a weight is
 *
 *     d (2 s + 1) unit level,    negative where its sign bit is set,
 *
 * with d in F16 for the block, s of 0..15 for each group of 16 or 32 weights, and level one of the type's few
 * magnitudes. Layouts and codewords are ggml's (ggml-common.h, MIT). */
#ifndef KQ_FORMAT_CODEBOOK_H
#define KQ_FORMAT_CODEBOOK_H

#include "format/tensor.h"

enum { KQ_CODEBOOK_BLOCK = 256, KQ_CODEBOOK_SCALES = 16, KQ_CODEBOOK_WORDS = 64, KQ_CODEBOOK_SIGNS = 32 };

/* What a type is. */
typedef struct kq_codebook {
    kq_dtype type;
    size_t dim; /* weights a codeword: 8 or 4 */
    /* [n]: a codeword is dim indices of levels of `bits` bits each, the first weight's in the lowest bits */
    const uint16_t *word;
    size_t n;
    unsigned bits;
    const uint8_t *level; /* [n_level], ascending */
    size_t n_level;
    size_t group; /* weights that share one s */
    /* Seven bits say the signs of eight weights: the number of minus signs is even. false: eight bits do. */
    bool even;
    float unit;
} kq_codebook;
/* NULL: the type has no codewords. */
const kq_codebook *kq_codebook_of(kq_dtype type);

/* What one block says. Codeword k is that of the weights from k dim on; bit i of signs[k] is set where weight
 * 8 k + i is negative. */
typedef struct kq_codebook_block {
    uint16_t d; /* F16 */
    uint8_t scale[KQ_CODEBOOK_SCALES];
    uint16_t word[KQ_CODEBOOK_WORDS]; /* indices into the type's list */
    uint8_t signs[KQ_CODEBOOK_SIGNS];
} kq_codebook_block;
void kq_codebook_unpack(const kq_codebook *c, const uint8_t *bytes, kq_codebook_block *b);
/* The reverse. Of a type with an even number of minus signs the eighth sign is not stored. */
void kq_codebook_pack(const kq_codebook *c, const kq_codebook_block *b, uint8_t *bytes);
/* Its 256 values. Every one is exact but for the last product, which is rounded to f32. */
void kq_codebook_values(const kq_codebook *c, const kq_codebook_block *b, float *y);

/* The lists of codewords, for this file's .c alone. */
extern const uint16_t kq_words_iq2_xxs[256], kq_words_iq2_xs[512], kq_words_iq2_s[1024],
    kq_words_iq3_xxs[256], kq_words_iq3_s[512];

#endif
