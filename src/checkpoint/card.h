/* Model cards: README.md beside a checkpoint, as the Hugging Face hub shows it (YAML front matter, then
 * Markdown). */
#ifndef KQ_CHECKPOINT_CARD_H
#define KQ_CHECKPOINT_CARD_H

#include <jansson.h>

#include "source/source.h"

/* What the card of a quantized model says besides quantization_config. */
typedef struct kq_card_facts {
    /* one line that makes the checkpoint again; file names without folders */
    const char *command;
    double predicted_loss; /* nats a token; NaN: the method predicts nothing */
    double relative_mse;   /* of the quantized weights; NaN: not known */
    size_t file_bytes, n_parameters;
} kq_card_facts;

/* Write dir/README.md for a packed checkpoint. quantization_config: the object that config.json will hold. */
kq_status kq_card_quantized(const kq_source *src, const json_t *quantization_config,
                            const kq_card_facts *facts, const char *dir, kq_error *err);

/* Write dir/README.md for an EXL3 folder. quantization_config: that of its config.json (src/exl3/save.c). */
kq_status kq_card_exl3(const kq_source *src, const json_t *quantization_config, const kq_card_facts *facts,
                       const char *dir, kq_error *err);

/* Write dir/README.md for the weights of src as an ordinary model in bf16. */
kq_status kq_card_exported(const kq_source *src, const char *dir, size_t file_bytes, kq_error *err);

#endif
