/* Writing safetensors: tensors are declared first (the header comes first in the file), then their bytes
 * follow in the same order. */
#ifndef KQ_FORMAT_SAFETENSORS_WRITE_H
#define KQ_FORMAT_SAFETENSORS_WRITE_H

#include "format/tensor.h"

typedef struct kq_st_writer kq_st_writer;

/* The file appears under PATH only after a successful finish. */
kq_status kq_st_writer_new(const char *path, kq_st_writer **out, kq_error *err);
/* One pair of __metadata__, before the first tensor's data. */
kq_status kq_st_writer_meta(kq_st_writer *w, const char *key, const char *value, kq_error *err);
/* The next tensor: its name, type and shape. KQ_E_ARG: a name that is there already, a type that safetensors
 * has not. */
kq_status kq_st_writer_declare(kq_st_writer *w, const char *name, kq_dtype dtype, size_t rank,
                               const size_t *shape, kq_error *err);
/* The next declared tensor's bytes, in one or more calls; the first call writes the header. KQ_E_ARG
 * when more or fewer come than declared (one call never spans two tensors). After a failure every
 * further call fails too, and finish writes nothing. */
kq_status kq_st_writer_data(kq_st_writer *w, const void *data, size_t size, kq_error *err);
kq_status kq_st_writer_finish(kq_st_writer *w, kq_error *err); /* frees w, whether it succeeds or not */
void kq_st_writer_abort(kq_st_writer *w);

/* One tensor of a checkpoint to be written. */
typedef struct kq_st_decl {
    const char *name;
    kq_dtype dtype;
    size_t rank, shape[4];
} kq_st_decl;

/* n tensors into folder dir as Hugging Face lays them out: model.safetensors, or, above shard_size bytes
 * (0: no limit), model-00001-of-0000N.safetensors and model.safetensors.index.json. A shard holds at
 * least one tensor, however large. data(ctx, i, w) gives tensor i's bytes to kq_st_writer_data;
 * *file_bytes is the size of all safetensors files. */
kq_status kq_st_write_shards(const char *dir, size_t shard_size, const kq_st_decl *decl, size_t n,
                             kq_status (*data)(void *ctx, size_t i, kq_st_writer *w, kq_error *err),
                             void *ctx, size_t *file_bytes, kq_error *err);
/* The bytes of one safetensors file with these tensors, header and padding counted, without writing it. */
kq_status kq_st_planned_bytes(const kq_st_decl *decl, size_t n, size_t *bytes, kq_error *err);
/* The same for all files that kq_st_write_shards would write. */
kq_status kq_st_planned_shards(size_t shard_size, const kq_st_decl *decl, size_t n, size_t *bytes,
                               kq_error *err);

/* One safetensors file, mapped and checked against all rules of the format: the length and form of the
 * header, types, shapes, and tensors that fill the data without gaps or overlaps. KQ_E_FORMAT names the
 * tensor. */
typedef struct kq_st_file kq_st_file;
kq_status kq_st_open(const char *path, kq_st_file **out, kq_error *err);
/* Check and open a file's bytes in memory, which are borrowed until kq_st_close; path is for messages only.
 */
kq_status kq_st_open_memory(const void *data, size_t size, const char *path, kq_st_file **out, kq_error *err);
void kq_st_close(kq_st_file *f); /* NULL is fine */
size_t kq_st_n_tensors(const kq_st_file *f);
const kq_tensor *kq_st_tensor(const kq_st_file *f, size_t i); /* in the order of their bytes */
const kq_tensor *kq_st_find(const kq_st_file *f, const char *name);
const char *kq_st_meta(const kq_st_file *f, const char *key); /* NULL: not there */
/* The key of pair i of __metadata__; NULL: there are not so many. */
const char *kq_st_meta_key(const kq_st_file *f, size_t i);

#endif
