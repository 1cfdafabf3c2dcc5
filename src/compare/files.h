/* The files of a comparison's folder: their paths, and reading and writing them as JSON. */
#ifndef KQ_COMPARE_FILES_H
#define KQ_COMPARE_FILES_H

#include <jansson.h>

#include "base/error.h"

/* *out = "DIR/folder/name.suffix", the caller's (kq_free). folder may be NULL, suffix "" or with its point.
 * KQ_E_MEMORY: *out is NULL. */
kq_status kq_cmp_path(char **out, const char *dir, const char *folder, const char *name, const char *suffix,
                      kq_error *err);
/* A JSON object from a file of at most 64 MB; KQ_E_FORMAT when it is none. The caller owns *out; NULL on
 * failure. */
kq_status kq_cmp_load(const char *path, json_t **out, kq_error *err);
/* The same for a file that may be absent: *out is then NULL, and that is no error. */
kq_status kq_cmp_load_if_there(const char *dir, const char *folder, const char *name, json_t **out,
                               kq_error *err);
/* Write an object. o NULL: it could not be made, KQ_E_MEMORY. */
kq_status kq_cmp_store(const char *path, const json_t *o, kq_error *err);
/* kq_cmp_store to "DIR/folder/name.json"; folder may be NULL. */
kq_status kq_cmp_store_in(const char *dir, const char *folder, const char *name, const json_t *o,
                          kq_error *err);

#endif
