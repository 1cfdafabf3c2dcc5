/* EXL3, the format of exllamav3: how a linear's bits lie, and the weights that they mean. What reads EXL3 and
 * what writes it take the layout from here. docs/format.md describes it byte by byte; the facts are from
 * exllamav3's own code (codebook.cuh, exl3_dq.cuh, pack.cu, quantize.py; MIT).
 *
 * A linear y = W x with n inputs and m outputs is stored with both sizes padded to multiples of 128:
 *     W^T = diag(suh) H C H diag(svh),
 * H the block-diagonal matrix of Sylvester's matrices of order 128 over sqrt(128), C [n, m] the values of a
 * trellis code of one weight a step and 16 bits of state. Three codes exist. They are kronq's own mul1, mcg
 * and 3inst, but for one thing: 3inst's value is rounded to a half float here. */
#ifndef KQ_FORMAT_EXL3_H
#define KQ_FORMAT_EXL3_H

#include "base/error.h"
#include "trellis/trellis.h"

enum { KQ_EXL3_BLOCK = 128, KQ_EXL3_BITS_MAX = 8 };

/* n up to the next multiple of a block. */
static inline size_t kq_exl3_padded(size_t n)
{
    return (n + KQ_EXL3_BLOCK - 1) / KQ_EXL3_BLOCK * KQ_EXL3_BLOCK;
}

/* Is it one of EXL3's codes: mul1, mcg, 3inst? */
bool kq_exl3_has_code(kq_code code);
/* The tensor whose presence says that a linear has this code, and what exllamav3 writes into it: "mul1",
 * "mcg"; NULL for 3inst, which no tensor names. */
const char *kq_exl3_code_tensor(kq_code code, uint32_t *multiplier);
/* values [65536]: what each state means, a number that a half float holds. */
void kq_exl3_values(kq_code code, float *values);

/* at [256]: walk position t of a tile is the weight of input at[t] / 16 and output at[t] % 16. */
void kq_exl3_order(uint8_t at[KQ_TILE_SIZE]);
/* The 16 `bits` words of a tile as EXL3 has them, from the circle of bits that kq_trellis_encode gives; and
 * back. A state is the 16 bits that end where the step's new bits end, but in kronq's circle those that begin
 * where the step's window begins: the two circles are turned by 16 - bits. And EXL3 reads 32 bits at a time,
 * so that of two words the second comes first. */
void kq_exl3_from_circle(const uint16_t *circle, int bits, uint16_t *words);
void kq_exl3_to_circle(const uint16_t *words, int bits, uint16_t *circle);

/* One stored linear. Everything that is a pointer is borrowed; bytes may lie at odd addresses. */
typedef struct kq_exl3 {
    int bits; /* a weight, 1 to 8 */
    kq_code code;
    size_t n_in, n_out;     /* padded */
    const uint8_t *trellis; /* I16 [n_in / 16, n_out / 16, 16 bits] */
    const uint8_t *suh;     /* F16 [n_in] */
    const uint8_t *svh;     /* F16 [n_out] */
    const float *values;    /* of the code (kq_exl3_values) */
} kq_exl3;

/* dst [count, n] = W's rows (outputs) from row0 on, of which each has n <= n_in weights. The arithmetic is
 * fixed, so that others can repeat it bit for bit: per block of 128 x 128 in f32, first the butterflies along
 * the inputs and then those along the outputs, strides 1, 2, 4 .. 64; then a division by 128 and one product
 * with suh svh (both are exact) rounded to f32. A row costs as much as the 128 rows of its block, so read
 * many. Runs on the calling thread. KQ_E_ARG: rows that are not there; KQ_E_MEMORY. */
kq_status kq_exl3_read_rows(const kq_exl3 *x, size_t n, size_t row0, size_t count, float *dst, kq_error *err);

#endif
