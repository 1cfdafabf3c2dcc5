/* Model cards: README.md beside a checkpoint, as the Hugging Face hub shows it (YAML front matter, then
 * Markdown). */
#ifndef KQ_CHECKPOINT_CARD_H
#define KQ_CHECKPOINT_CARD_H

#include <jansson.h>

#include "source/source.h"

/* What the card of a quantized model tells besides what quantization_config holds. */
typedef struct kq_card_facts {
    /* one line that makes the checkpoint again; file names without folders */
    const char *command;
    double predicted_loss; /* nats a token; NaN: the method predicts nothing */
    double relative_mse;   /* of the quantized weights */
    size_t file_bytes, n_parameters;
} kq_card_facts;

/* Write dir/README.md for a packed checkpoint. quantization_config as config.json will hold it. */
kq_status kq_card_quantized(const kq_source *src, const json_t *quantization_config,
                            const kq_card_facts *facts, const char *dir, kq_error *err);

/* Write dir/README.md for the weights of src as an ordinary model in bf16. */
kq_status kq_card_exported(const kq_source *src, const char *dir, size_t file_bytes, kq_error *err);

/* Put a figure into the section of dir/README.md that stands between the lines "<!-- kronq eval -->" and
 * "<!-- kronq eval end -->": a row of its table, replacing the row with the same `what`. Without
 * README.md or markers they are made at its end; the rest of the file stays as it is. Text for one line
 * each; '|' and line breaks become spaces. */
kq_status kq_card_add_figure(const char *dir, const char *what, const char *value, kq_error *err);

#endif
