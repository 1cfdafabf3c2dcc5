/* Reading GGUF files of versions 2 and 3: metadata, table of tensors, bytes of tensors. */
#ifndef KQ_FORMAT_GGUF_H
#define KQ_FORMAT_GGUF_H

#include "base/error.h"

typedef enum kq_gguf_type { /* as in the file */
                            KQ_GGUF_U8 = 0,
                            KQ_GGUF_I8,
                            KQ_GGUF_U16,
                            KQ_GGUF_I16,
                            KQ_GGUF_U32,
                            KQ_GGUF_I32,
                            KQ_GGUF_F32,
                            KQ_GGUF_BOOL,
                            KQ_GGUF_STRING,
                            KQ_GGUF_ARRAY,
                            KQ_GGUF_U64,
                            KQ_GGUF_I64,
                            KQ_GGUF_F64,
                            KQ_GGUF_N_TYPE
} kq_gguf_type;

/* One metadata pair. A scalar is an array of one element with is_array false. */
typedef struct kq_gguf_kv {
    const char *key; /* owned by the file object, NUL-terminated, without inner NUL */
    bool is_array;
    /* of the value, or of the array's elements (never ARRAY: arrays of arrays are refused) */
    kq_gguf_type type;
    size_t n;            /* elements; 1 for a scalar */
    const uint8_t *data; /* borrowed from the map, unaligned, little-endian */
    /* string type only: [n], where element i (its 8-byte length) starts, relative to data */
    const uint64_t *offsets;
} kq_gguf_kv;

/* One entry of the tensor table, sizes checked, bytes inside the file. */
typedef struct kq_gguf_tensor {
    const char *name; /* owned by the file object */
    const char *file; /* path of the file that holds it, owned by the file object */
    uint32_t type;    /* ggml type number */
    uint32_t rank;    /* 1..4 */
    uint64_t ne[4];   /* fastest first, as in the file; 1 beyond rank */
    uint64_t n_elem;
    const uint8_t *data;
    size_t size_bytes; /* borrowed from the map */
} kq_gguf_tensor;

typedef struct kq_gguf kq_gguf;

/* Map and check everything but the weights: counts and lengths against the bytes that remain, types,
 * duplicate keys and names, alignment, that tensor offsets are exactly the running sum of padded sizes
 * and that all data is there. KQ_E_FORMAT names the field; KQ_E_UNSUPPORTED: another version, a
 * big-endian file, a tensor type whose size is not known.
 * A model may be split into parts (NAME-00001-of-00003.gguf, as llama-gguf-split names them). Its first part
 * opens all of it: the other parts are found in the same folder, and their tensors come after its own. An
 * error names what is wrong: a path that is another part, a part that is missing or of another model, wrong
 * counts, or a tensor that is there twice. */
kq_status kq_gguf_open(const char *path, kq_gguf **out, kq_error *err);
/* Check and open the bytes of one file in memory, which are borrowed until kq_gguf_close; path is for
 * messages only. The other parts of a split model are not opened. */
kq_status kq_gguf_open_memory(const void *data, size_t size, const char *path, kq_gguf **out, kq_error *err);
void kq_gguf_close(kq_gguf *g); /* NULL is fine */

const char *kq_gguf_path(const kq_gguf *g);
/* The bytes of the file, which tensors point into, [*size], borrowed. Of a split model: of its first part. */
const uint8_t *kq_gguf_bytes(const kq_gguf *g, size_t *size);
size_t kq_gguf_n_parts(const kq_gguf *g); /* files of the model: 1, or the parts of a split one */
size_t kq_gguf_n_kv(const kq_gguf *g);
const kq_gguf_kv *kq_gguf_kv_at(const kq_gguf *g, size_t i);
const kq_gguf_kv *kq_gguf_find(const kq_gguf *g, const char *key); /* NULL: not there. By halving. */
size_t kq_gguf_n_tensors(const kq_gguf *g);
const kq_gguf_tensor *kq_gguf_tensor_at(const kq_gguf *g, size_t i); /* in file order */

/* Element i of a value (i = 0 for a scalar) with conversion. False, *out untouched, when kv is NULL, i
 * is out of range, or the type does not fit: int takes every integer type and bool (U64 above INT64_MAX:
 * false); f64 every number; bool only bool; str only strings (*text points into the map and is NOT
 * NUL-terminated). Every read of a value goes through these, so that no file can have it read as another type
 * than it has. */
bool kq_gguf_int(const kq_gguf_kv *kv, size_t i, int64_t *out);
bool kq_gguf_f64(const kq_gguf_kv *kv, size_t i, double *out);
bool kq_gguf_bool(const kq_gguf_kv *kv, size_t i, bool *out);
bool kq_gguf_str(const kq_gguf_kv *kv, size_t i, const char **text, size_t *size);
/* A string value equal to `text`? */
bool kq_gguf_str_is(const kq_gguf_kv *kv, size_t i, const char *text);

/* The name of a ggml type ("Q4_1"); NULL: there is no such type. */
const char *kq_ggml_type_name(uint32_t type);
/* Elements and bytes of one block (1 element for plain types); false when the type is unknown. */
bool kq_ggml_type_size(uint32_t type, uint32_t *block_elems, uint32_t *block_bytes);

#endif
