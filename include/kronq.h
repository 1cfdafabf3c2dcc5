/* kronq: quantize language models to 2-4 bits per weight, guided by the curvature of the loss on both sides
 * of every weight matrix.
 *
 * A complete program (the rest of this header is completed as the rooms land):
 *
 *     #include <kronq.h>
 *     #include <stdio.h>
 *     int main(void)
 *     {
 *         kq_error err;
 *         kq_quantize_options opt = kq_quantize_defaults();
 *         opt.bits = 2;
 *         if (kq_quantize("model.gguf", "out", &opt, &err)) { fprintf(stderr, "%s\n", err.message); return 1; }
 *     }
 */
#ifndef KRONQ_H
#define KRONQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What went wrong, in one word; 0 is success. Every function that can fail returns one. */
typedef enum kq_status {
    KQ_OK = 0,
    KQ_E_ARG,         /* the caller asked for something meaningless (bits 7, an unknown method) */
    KQ_E_IO,          /* the system refused: missing file, no permission, disk full */
    KQ_E_FORMAT,      /* a file breaks its own format */
    KQ_E_SHAPE,       /* a tensor has another shape or type than the configuration says */
    KQ_E_UNSUPPORTED, /* well-formed, but not something kronq does (an architecture, a tensor type) */
    KQ_E_MEMORY,      /* out of memory, or over the memory limit that was asked for */
    KQ_E_NUMERIC,     /* NaN or Inf where a number belongs, or a factor that cannot be made positive definite */
    KQ_E_MISMATCH,    /* two files that do not belong together (factors of another model) */
    KQ_E_INTERRUPTED  /* the caller's progress function asked to stop */
} kq_status;

/* One line for a person: file, tensor, found, expected, what to do next. Never more than one line. */
typedef struct kq_error {
    kq_status status;
    char message[1024];
} kq_error;

#ifdef __cplusplus
}
#endif
#endif
