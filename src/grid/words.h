/* The nearest codeword of a type whose weights are rounded eight or four at a time (format/codebook.h;
 * docs/math.md, eq. 96 to 98). */
#ifndef KQ_GRID_WORDS_H
#define KQ_GRID_WORDS_H

#include "format/codebook.h"

enum { KQ_OCTET = 8, KQ_WORDS = 1024, KQ_WORDS_HALF = 81 };

/* A type's codewords, for the search. A half is a number in the base n_level, its first weight the lowest
 * digit. Codewords ascend, so that those with the same upper half are neighbours: a run. */
typedef struct kq_words {
    const kq_codebook *c;
    size_t n_half, n_run;
    uint8_t low[KQ_WORDS];             /* the lower half of each codeword */
    uint8_t high[KQ_WORDS_HALF];       /* the upper half of the codewords of a run */
    uint16_t begin[KQ_WORDS_HALF + 1]; /* the first codeword of each run, and n */
    uint8_t near[KQ_WORDS_HALF];       /* for each half the run whose upper half is nearest to it */
    float rms;                         /* of the levels of all codewords */
} kq_words;
void kq_words_begin(kq_words *t, const kq_codebook *c);

/* Eight neighbouring weights that share their signs: one codeword of eight levels or two of four. */
typedef struct kq_octet {
    uint16_t word[2];
    uint8_t signs;
    float value[KQ_OCTET]; /* levels with signs */
} kq_octet;
/* The octet with the least sum_j q_j (x_j - scale value_j)^2, for scale > 0 and q >= 0. With an even number
 * of minus signs it is the least over no flip or one flip at the three weights that cost least; more flips
 * are not tried. */
void kq_words_nearest(const kq_words *t, const float *x, const float *q, float scale, kq_octet *o);

#endif
