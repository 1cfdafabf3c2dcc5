/* The final hidden states of a model on the windows of a text, kept in a file, so that a reference is run
 * only once although several models are compared with it. Final means: the output of the last block, before
 * the head's norm. The file is in f32, so that whatever is computed from it has the same bits. */
#ifndef KQ_EVAL_HIDDEN_H
#define KQ_EVAL_HIDDEN_H

#include "base/error.h"

typedef struct kq_hidden kq_hidden;

/* Open FOLDER/<hash of key>.safetensors, or begin it where it does not exist. key is a text that names
 * everything that the states depend on. The file has `windows` windows of [ctx, d]. FOLDER is made where it
 * is missing. KQ_E_FORMAT: the file exists and is not such a file. */
kq_status kq_hidden_open(const char *folder, const char *key, size_t windows, size_t ctx, size_t d,
                         kq_hidden **out, kq_error *err);
bool kq_hidden_whole(const kq_hidden *h); /* true: the windows can be read; false: they are to be added */
/* Read the windows first .. first + n - 1 into x [n, ctx, d]. KQ_E_FORMAT: the checksum of a window
 * is wrong. */
kq_status kq_hidden_read(const kq_hidden *h, size_t first, size_t n, float *x, kq_error *err);
/* Add the next n windows. The file gets its name in kq_hidden_finish, after the last window. */
kq_status kq_hidden_add(kq_hidden *h, const float *x, size_t n, kq_error *err);
kq_status kq_hidden_finish(kq_hidden *h, kq_error *err);
void kq_hidden_close(kq_hidden *h); /* NULL is fine; a file that is not finished leaves nothing */

#endif
