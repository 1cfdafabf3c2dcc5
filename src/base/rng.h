/* Random numbers that are the same on every machine and for every number of threads: a counter-based
 * generator, so that value i of a stream never depends on who drew value i-1. */
#ifndef KQ_BASE_RNG_H
#define KQ_BASE_RNG_H

#include <stddef.h>
#include <stdint.h>

/* A stream is named by a seed and a label (a layer's name, say). Not for cryptography. */
typedef struct kq_rng {
    uint64_t key, counter;
} kq_rng;

kq_rng kq_rng_stream(uint64_t seed, const char *label);
uint64_t kq_rng_u64(kq_rng *rng);
/* Uniform in [0, 1), 53 bits. */
double kq_rng_uniform(kq_rng *rng);
/* Standard normal (Box-Muller, two uniforms a value, nothing kept between calls). */
double kq_rng_normal(kq_rng *rng);
/* n random signs, +1 or -1. */
void kq_rng_signs(kq_rng *rng, int8_t *out, size_t n);

#endif
