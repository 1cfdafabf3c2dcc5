/* Writes a copy of a kronq checkpoint whose scales and norms have other values: what tuning makes. */
#ifndef KQ_CHECKPOINT_TUNED_SAVE_H
#define KQ_CHECKPOINT_TUNED_SAVE_H

#include <jansson.h>

#include "checkpoint/checkpoint.h"

typedef struct kq_tuned_save {
    const kq_model_file *file;  /* the checkpoint; all pointers are borrowed */
    const kq_source *reference; /* the original, whose name and licence the model card gives */
    const char *dir;            /* which exists */
    size_t shard_size;
    /* The tuned factors of a tensor: "<module>.su" [n], "<module>.sv" [m] or the name of a norm; NULL: it
     * keeps its values. */
    const float *(*factors)(void *ctx, const char *name);
    void *ctx;
    const json_t *tuned; /* the member "tuned" of quantization_config */
    const char *command; /* for the model card */
} kq_tuned_save;

/* All tensors and side files; config.json last. Scales become F16, tuned norms F32, and everything else keeps
 * its bytes. KQ_E_NUMERIC: a scale is beyond F16. *file_bytes: of the safetensors files. */
kq_status kq_tuned_checkpoint_save(const kq_tuned_save *o, size_t *file_bytes, kq_error *err);

#endif
