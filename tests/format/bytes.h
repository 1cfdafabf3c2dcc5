/* Building files byte by byte for the readers' tests. */
#ifndef KQ_TESTS_IO_BYTES_H
#define KQ_TESTS_IO_BYTES_H

#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

typedef struct bytes {
    uint8_t *p;
    size_t n, cap;
} bytes;

static inline void put(bytes *b, const void *data, size_t n)
{
    if (b->n + n > b->cap) {
        b->cap = 2 * b->cap + n + 256;
        b->p = realloc(b->p, b->cap);
        assert_non_null(b->p);
    }
    if (n && data)
        memcpy(b->p + b->n, data, n);
    else if (n)
        memset(b->p + b->n, 0, n);
    b->n += n;
}

static inline void put32(bytes *b, uint32_t v)
{
    put(b, &v, 4);
}
static inline void put64(bytes *b, uint64_t v)
{
    put(b, &v, 8);
}
static inline void putf(bytes *b, float v)
{
    put(b, &v, 4);
}
static inline void put_text(bytes *b, const char *text)
{
    put(b, text, strlen(text));
}
static inline void put_string(bytes *b, const char *text)
{
    put64(b, strlen(text));
    put_text(b, text);
}
static inline void pad_to(bytes *b, size_t alignment)
{
    put(b, NULL, (alignment - b->n % alignment) % alignment);
}

/* GGUF pairs. */
static inline void kv_u32(bytes *b, const char *key, uint32_t v)
{
    put_string(b, key);
    put32(b, 4);
    put32(b, v);
}
static inline void kv_f32(bytes *b, const char *key, float v)
{
    put_string(b, key);
    put32(b, 6);
    putf(b, v);
}
static inline void kv_str(bytes *b, const char *key, const char *v)
{
    put_string(b, key);
    put32(b, 8);
    put_string(b, v);
}

static inline void gguf_header(bytes *b, uint64_t n_tensor, uint64_t n_kv)
{
    put_text(b, "GGUF");
    put32(b, 3);
    put64(b, n_tensor);
    put64(b, n_kv);
}

/* A tensor table entry. */
static inline void gguf_info(bytes *b, const char *name, uint32_t rank, const uint64_t *ne, uint32_t type,
                             uint64_t offset)
{
    put_string(b, name);
    put32(b, rank);
    for (uint32_t d = 0; d < rank; d++)
        put64(b, ne[d]);
    put32(b, type);
    put64(b, offset);
}

/* A safetensors file: header text, then n data bytes (zeros when data is NULL). */
static inline void st_file(bytes *b, const char *header, const void *data, size_t n)
{
    put64(b, strlen(header));
    put_text(b, header);
    put(b, data, n);
}

/* An exactly sized copy, so that the sanitizer sees a read one byte past the end. */
static inline uint8_t *exact(const bytes *b, size_t n)
{
    uint8_t *copy = malloc(n ? n : 1);
    assert_non_null(copy);
    if (n)
        memcpy(copy, b->p, n);
    return copy;
}

static inline void write_file(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static inline void write_text(const char *path, const char *text)
{
    write_file(path, text, strlen(text));
}

#endif
