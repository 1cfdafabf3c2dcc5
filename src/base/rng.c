/* Random numbers by hashing a counter. A generator with a state (xoshiro, PCG) would tie the numbers to the
 * order in which threads draw. */
#include "base/rng.h"

#include <math.h>
#include <string.h>

#include "base/hash.h"

/* SplitMix64's finaliser (Steele, Lea & Flood 2014) over key + counter * golden ratio: value i is a hash
 * of (key, i). */
static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

kq_rng kq_rng_stream(uint64_t seed, const char *label)
{
    return (kq_rng){.key = mix(kq_hash64(label, strlen(label), seed)), .counter = 0};
}

uint64_t kq_rng_u64(kq_rng *rng)
{
    return mix(rng->key + 0x9e3779b97f4a7c15u * ++rng->counter);
}

double kq_rng_uniform(kq_rng *rng)
{
    return (double)(kq_rng_u64(rng) >> 11) * 0x1p-53;
}

double kq_rng_normal(kq_rng *rng)
{
    double u = kq_rng_uniform(rng), v = kq_rng_uniform(rng);
    return sqrt(-2 * log(1 - u)) * cos(6.283185307179586477 * v);
}

void kq_rng_signs(kq_rng *rng, int8_t *out, size_t n)
{
    uint64_t bits = 0;
    for (size_t i = 0; i < n; i++) {
        if (i % 64 == 0)
            bits = kq_rng_u64(rng);
        out[i] = (bits >> (i % 64)) & 1 ? -1 : 1;
    }
}
