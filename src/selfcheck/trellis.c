/* The trellis search: its costs are integers, so every instruction set must find the very walk that
 * plain C finds. */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "base/rng.h"
#include "selfcheck/selfcheck.h"
#include "trellis/trellis.h"

enum { TILES = 4, WORDS = TILES * 16 * 4 };

/* A Gaussian tile at the scale of the rounding, a few values far outside; four times, because the
 * kernels search four tiles at once and plain C, which takes 100 times as long, shall search only one. */
static void fill(float *tiles, double rms)
{
    kq_rng rng = kq_rng_stream(1, "selfcheck/trellis");
    for (size_t i = 0; i < TILES * KQ_TILE_SIZE; i++)
        tiles[i] = i < KQ_TILE_SIZE ? (float)(kq_rng_normal(&rng) * rms * (i % 97 ? 0.9 : 9))
                                    : tiles[i - KQ_TILE_SIZE];
}

static kq_status encode(kq_code code, int k, kq_isa isa, uint16_t packed[WORDS], kq_error *err)
{
    kq_trellis *t;
    kq_status status = kq_trellis_new(code, k, isa, NULL, &t, err);
    if (status)
        return status;
    float *tiles = kq_alloc(TILES * KQ_TILE_SIZE, sizeof *tiles);
    void *scratch = kq_alloc(kq_trellis_scratch_bytes(t), 1);
    if (tiles && scratch) {
        fill(tiles, kq_trellis_rms(t));
        memset(packed, 0, WORDS * sizeof *packed);
        kq_trellis_encode(t, tiles, isa == KQ_ISA_REF ? 1 : TILES, packed, NULL, scratch);
    } else {
        status = kq_fail(err, KQ_E_MEMORY, "out of memory: the search of the self-check");
    }
    kq_free(tiles);
    kq_free(scratch);
    kq_trellis_free(t);
    return status;
}

kq_status kq_check_trellis(kq_checker *c, kq_isa best, kq_error *err)
{
    uint16_t want[WORDS], got[WORDS];
    kq_status status = KQ_OK;
    for (int code = 0; code < KQ_N_CODE && !status; code++)
        for (int k = 2; k <= 4 && !status; k++) {
            char name[48];
            snprintf(name, sizeof name, "search_%s_%d_bits", kq_code_name((kq_code)code), k);
            status = encode((kq_code)code, k, KQ_ISA_REF, want, err);
            for (int isa = KQ_ISA_AVX2; isa <= (int)best && isa <= KQ_ISA_AVX512 && !status; isa++) {
                if ((status = encode((kq_code)code, k, (kq_isa)isa, got, err)))
                    break;
                size_t differ = 0, words = (size_t)(16 * k); /* of a tile */
                for (size_t i = 0; i < TILES * words; i++)
                    differ += got[i] != want[i % words];
                status =
                    kq_checker_note(c, "trellis", name, kq_isa_name((kq_isa)isa), (double)differ, 0, err);
            }
        }
    return status;
}
