/* Fingerprints by xxHash's XXH3: fast enough to hash a model of tens of gigabytes while it is read anyway. */
#include "base/hash.h"

#include <stdio.h>
#include <xxhash.h>

kq_hash *kq_hash_new(void)
{
    XXH3_state_t *state = XXH3_createState();
    if (state)
        XXH3_128bits_reset(state);
    return (kq_hash *)state;
}

void kq_hash_add(kq_hash *hash, const void *data, size_t size)
{
    XXH3_128bits_update((XXH3_state_t *)hash, data, size);
}

void kq_hash_finish(kq_hash *hash, char hex[33])
{
    XXH128_hash_t h = XXH3_128bits_digest((XXH3_state_t *)hash);
    XXH3_freeState((XXH3_state_t *)hash);
    snprintf(hex, 33, "%016llx%016llx", (unsigned long long)h.high64, (unsigned long long)h.low64);
}

uint64_t kq_hash64(const void *data, size_t size, uint64_t seed)
{
    return XXH3_64bits_withSeed(data, size, seed);
}
