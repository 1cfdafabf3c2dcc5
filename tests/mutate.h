/* Mutations of valid inputs, for tests that run a fuzzer's function over fixed inputs. The same seed gives
 * the same mutations on every machine, so that a failure can be repeated. */
#ifndef KQ_TESTS_MUTATE_H
#define KQ_TESTS_MUTATE_H

#include <stdint.h>
#include <string.h>

#include "base/rng.h"

/* How the inputs of one format are changed. */
typedef struct mutations {
    const char *letters;     /* bytes that mean something in the format */
    size_t n_letters;        /* how many of them are used; 0: strlen(letters) */
    const char *const *word; /* words that are inserted; may be NULL */
    size_t n_word;
    bool numbers; /* binary fields are overwritten with numbers at the edges of their types */
    int least;    /* an input gets `least` to `least` + 3 changes */
} mutations;

static inline void mutate_number(kq_rng *rng, uint8_t *p, size_t at, size_t n)
{
    static const uint64_t edge[] = {0,
                                    1,
                                    8,
                                    31,
                                    32,
                                    255,
                                    0x7fffffff,
                                    0x80000000,
                                    0xffffffff,
                                    INT64_MAX,
                                    0x8000000000000000,
                                    UINT64_MAX,
                                    0x3fffffffffffffff,
                                    0x7fffffffffffffc0};
    const uint64_t v = edge[kq_rng_u64(rng) % (sizeof edge / sizeof *edge)];
    const size_t width = (size_t)1 << kq_rng_u64(rng) % 4;
    memcpy(p + at, &v, width <= n - at ? width : n - at);
}

/* Make one change in p [n], which has room for cap bytes: change a bit, a byte or a letter, insert a word,
 * remove a piece or copy it elsewhere. Returns the new size, at least 1. */
static inline size_t mutate_once(kq_rng *rng, uint8_t *p, size_t n, size_t cap, const mutations *how)
{
    const size_t at = kq_rng_u64(rng) % n, from = kq_rng_u64(rng) % n;
    size_t len = kq_rng_u64(rng) % 24 + 1;
    len = len < n - at ? len : n - at;
    switch (kq_rng_u64(rng) % 7) {
    case 0: p[at] ^= (uint8_t)(1u << kq_rng_u64(rng) % 8); break;
    case 1: p[at] = (uint8_t)kq_rng_u64(rng); break;
    case 2:
    case 3: {
        const size_t n_letters = how->n_letters ? how->n_letters : strlen(how->letters);
        p[at] = (uint8_t)how->letters[kq_rng_u64(rng) % n_letters];
        break;
    }
    case 4: {
        if (how->numbers) {
            mutate_number(rng, p, at, n);
            break;
        }
        const char *w = how->n_word ? how->word[kq_rng_u64(rng) % how->n_word] : "";
        const size_t m = strlen(w);
        if (n + m < cap) {
            memmove(p + at + m, p + at, n - at);
            memcpy(p + at, w, m);
            n += m;
        }
        break;
    }
    case 5:
        if (len < n) {
            memmove(p + at, p + at + len, n - at - len);
            n -= len;
        }
        break;
    default: memmove(p + at, p + from, len < n - from ? len : n - from);
    }
    return n;
}

/* Make several changes, and one time in eight cut the input short. Returns the new size, at least 1. */
static inline size_t mutate(kq_rng *rng, uint8_t *p, size_t n, size_t cap, const mutations *how)
{
    for (size_t k = kq_rng_u64(rng) % 4 + (size_t)how->least; k; k--)
        n = mutate_once(rng, p, n, cap, how);
    return kq_rng_u64(rng) % 8 ? n : kq_rng_u64(rng) % n + 1;
}

#endif
