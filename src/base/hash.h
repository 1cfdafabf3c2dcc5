/* Fingerprints (not cryptographic): XXH3, 128 bits, as 32 hexadecimal digits. */
#ifndef KQ_BASE_HASH_H
#define KQ_BASE_HASH_H

#include "base/error.h"

typedef struct kq_hash kq_hash; /* opaque; an XXH3 state in disguise */
kq_hash *kq_hash_new(void);     /* NULL: out of memory */
void kq_hash_add(kq_hash *hash, const void *data, size_t size);
/* Writes 32 digits and a NUL and frees the hash. */
void kq_hash_finish(kq_hash *hash, char hex[33]);
uint64_t kq_hash64(const void *data, size_t size, uint64_t seed);

#endif
