/* The bitshift trellis code of QTIP (Tseng et al. 2024b): the 256 weights of a 16 x 16 tile as one
 * tail-biting walk through 2^16 states (docs/math.md, eq. 70 to 74).
 *
 * A weight takes k bits (2, 3 or 4; for EXL3 1 to 8), a step covers V weights and brings k V new bits: next
 * state = ((state << kV) | new) mod 2^16. The 256 k bits of a tile form a circle: word 0 first, bit 15 of
 * each word first. The state of step t is the 16 bits from position t k V on, the first the most significant.
 * Step t covers weights t V .. t V + V - 1 of the tile, row by row. docs/format.md specifies the codes'
 * values bit by bit.
 */
#ifndef KQ_TRELLIS_TRELLIS_H
#define KQ_TRELLIS_TRELLIS_H

#include "base/isa.h"

enum { KQ_TRELLIS_L = 16, KQ_TRELLIS_BITS_MAX = 8, KQ_TILE = 16, KQ_TILE_SIZE = 256, KQ_HYB_ENTRIES = 512 };

typedef enum kq_code { KQ_HYB = 0, KQ_1MAD, KQ_3INST, KQ_MUL1, KQ_MCG, KQ_N_CODE } kq_code;
const char *kq_code_name(kq_code code); /* "hyb", "1mad", "3inst", "mul1", "mcg" */
/* The reverse. KQ_E_ARG: an unknown name. */
kq_status kq_code_parse(const char *name, kq_code *out, kq_error *err);
int kq_code_V(kq_code code); /* weights a step: 2 for hyb, 1 for the others */
/* values [65536, V]: what each state means (docs/format.md); hyb's by kq_hyb_table. */
void kq_code_values(kq_code code, float *values);

/* kronq's own hyb table, 512 x 2: k-means of 2-D Gaussian samples, scaled to standard deviation 0.968246.
 * scripts/make_hyb_table.py made it. */
extern const float kq_hyb_table[KQ_HYB_ENTRIES][2];

/* A code at k bits, with the tables of its search. Read-only after creation: threads share it. */
typedef struct kq_trellis kq_trellis;
/* table: the hyb table to use (a checkpoint's, read during the call only), NULL for kq_hyb_table; the other
 * codes ignore it. *out is the caller's. KQ_E_ARG: k is not 2, 3 or 4 (1 to 8 where V is 1), or the table is
 * no code (not finite, or its rms or its largest value are out of range); KQ_E_MEMORY. */
kq_status kq_trellis_new(kq_code code, int k, kq_isa isa, const float (*table)[2], kq_trellis **out,
                         kq_error *err);
void kq_trellis_free(kq_trellis *t);
int kq_trellis_k(const kq_trellis *t);
kq_code kq_trellis_code(const kq_trellis *t);
size_t kq_trellis_words(const kq_trellis *t);        /* 16-bit words a tile: 16 k */
const float *kq_trellis_values(const kq_trellis *t); /* [65536, V]: what each state means; borrowed */
/* Root mean square of the code's values over all 2^16 states. */
double kq_trellis_rms(const kq_trellis *t);
/* The root mean square that weights, divided by their scale, should have: that of the code times a number
 * near 0.9, by code and bits (eq. 61). */
double kq_trellis_weight_rms(const kq_trellis *t);

/* Round tiles [n_tiles, 256] f32, already divided by the scale, to the nearest walks: packed [n_tiles, 16 k]
 * words, decoded [n_tiles, 256] (may be NULL). A walk is tail-biting: a pass over the steps around the
 * seam fixes the overlap, a second pass is constrained to it (eq. 73). Costs are integers and ties go to the
 * lowest state, so that every instruction set gives the same bits. For the search alone, a step whose target
 * is longer than 9, 6.5, 4.8 times 0.9 rms (at 2, 3, 4 bits; 16 rms at others) is shortened to that; NaN
 * counts as 0. scratch: kq_trellis_scratch_bytes(t), one block a thread. Runs on the calling thread and
 * cannot fail. Several tiles a call are faster than one, because up to KQ_TRELLIS_BATCH of them share the
 * loads of the tables. */
enum { KQ_TRELLIS_BATCH = 4 };
size_t kq_trellis_scratch_bytes(const kq_trellis *t);
void kq_trellis_encode(const kq_trellis *t, const float *tiles, size_t n_tiles, uint16_t *packed,
                       float *decoded, void *scratch);

/* e_k of eq. 66: the code's squared error on Gaussian weights at the scale of the rounding, relative to their
 * variance (0.071 for hyb at 2 bits). Measured on 128 tiles of a fixed stream, good to 1%; it takes as long
 * as rounding those. The same on every instruction set. KQ_E_MEMORY. */
kq_status kq_trellis_error(const kq_trellis *t, double *out, kq_error *err);

/* The values of packed tiles: [n_tiles, 16 k] words -> [n_tiles, 256] f32, before the scale. */
void kq_trellis_decode(const kq_trellis *t, const uint16_t *packed, size_t n_tiles, float *decoded);

#endif
