/* Inside the room: EXL3's tensors of rounded linears in part files, and gathering them to a folder. */
#ifndef KQ_EXL3_SAVE_H
#define KQ_EXL3_SAVE_H

#include "checkpoint/checkpoint.h"

/* Bits that a linear [m, n] of k bits takes in an EXL3 folder: its trellis with the padding, its scales, and
 * the tensor that names the code. */
double kq_exl3_linear_bits(size_t m, size_t n, double k, kq_code code);

/* Write n linears (or the head) with their reports as one part file: for each `<module>.trellis`, `.suh`,
 * `.svh`, and the tensor that names the code. packed[i] comes from kq_round_linear or kq_round_rows with
 * blocks and kq_exl3_rounder; report[i].bits are its bits. */
kq_status kq_exl3_part_write(const char *path, kq_code code, size_t n, const kq_packed *const packed[],
                             const kq_module_report *const report[], kq_error *err);

typedef struct kq_exl3_save_options {
    const kq_source *src;
    const char *dir;          /* OUT, which exists */
    const char *const *parts; /* [n_parts] part files, in the order of the folder's tensors */
    size_t n_parts;
    kq_code code;
    int head_bits; /* 16: plain, or tied */
    double bits;   /* asked for, of the linears */
    size_t shard_size;
    size_t rows, cols;         /* calibration: sequences and tokens of each; 0: none */
    const char *settings_json; /* what the folder depends on, as a JSON object */
    const char *command;       /* for the model card: the line that makes the folder again */
    double predicted_loss, relative_mse;
} kq_exl3_save_options;

typedef struct kq_exl3_saved {
    size_t file_bytes; /* all safetensors files */
    size_t n_parameters;
} kq_exl3_saved;

/* Write the folder as exllamav3's converter lays it out: weights, tokenizer files, quantization_config.json
 * with every stored tensor, a model card, and config.json last. */
kq_status kq_exl3_save(const kq_exl3_save_options *opt, kq_exl3_saved *out, kq_error *err);
/* Bytes of the tensors of such a folder, from shapes alone. bits as for kq_checkpoint_plan. */
size_t kq_exl3_planned_bytes(const kq_source *src, kq_code code, int head_bits,
                             double (*bits)(void *ctx, size_t layer, kq_linear_id id), void *ctx);
/* Is the folder of this config.json one that these settings gave? KQ_E_MISMATCH: no. */
kq_status kq_exl3_check_saved(const char *config_path, const char *settings_json, kq_error *err);

#endif
