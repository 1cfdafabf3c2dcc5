/* Final hidden states of a model on the windows of a text (its last block's output, before the head's
 * norm), kept in a file: whoever compares several models with one reference runs that one once. In f32,
 * so that what is computed from them has the same bits. */
#ifndef KQ_EVAL_HIDDEN_H
#define KQ_EVAL_HIDDEN_H

#include "base/error.h"

typedef struct kq_hidden kq_hidden;

/* FOLDER/<hash of key>.safetensors, of `windows` windows of [ctx, d] each; key is a text that names all
 * that the states depend on. FOLDER is made where it is missing. The file is opened when it is there,
 * else begun. KQ_E_FORMAT: it is there and not that. */
kq_status kq_hidden_open(const char *folder, const char *key, size_t windows, size_t ctx, size_t d,
                         kq_hidden **out, kq_error *err);
bool kq_hidden_whole(const kq_hidden *h); /* they can be read; else they are to be added */
/* x [n, ctx, d] of windows first .. first + n - 1; KQ_E_FORMAT: a window is not what was written (each
 * has a checksum). */
kq_status kq_hidden_read(const kq_hidden *h, size_t first, size_t n, float *x, kq_error *err);
/* The next n windows. The file is there once the last has come and kq_hidden_finish said so. */
kq_status kq_hidden_add(kq_hidden *h, const float *x, size_t n, kq_error *err);
kq_status kq_hidden_finish(kq_hidden *h, kq_error *err);
void kq_hidden_close(kq_hidden *h); /* NULL is fine; a file that is not finished leaves nothing */

#endif
