/* kronq checkpoints, as docs/format.md specifies them: writing them, and reading them as weights.
 *
 * While a model is quantized, each finished block is one part file, PART_DIR/block-00012.safetensors. When
 * all blocks are done, the parts and the tensors that stay as they are become model.safetensors (or shards);
 * then the files beside it are written, config.json last: a folder with a config.json is complete. */
#ifndef KQ_CHECKPOINT_CHECKPOINT_H
#define KQ_CHECKPOINT_CHECKPOINT_H

#include "format/safetensors_write.h"
#include "model/weights.h"
#include "round/round.h"

/* quantization_config.format_version of what is written. Versions 1 to this one are read. Version 1 has su
 * and sv as signs in I8. */
enum { KQ_FORMAT_VERSION = 2 };

/* ---- a block's packed linears: part.c ---- */

/* What is known of one quantized linear besides its weights. The same run gives the same numbers again. */
typedef struct kq_module_report {
    char name[128]; /* "model.layers.3.self_attn.q_proj" */
    size_t m, n;
    int bits;
    kq_round_report round;
    double factor_residual; /* of methods that iterate (kq_factor_report.residual); NaN for the others */
    double sigma1, sigma2;  /* of methods that iterate; NaN for the others */
    int products;           /* of the factor estimate */
    /* why the linear was rounded with the identity although the method has factors ("no gradient"); "": it
     * was not */
    char identity[32];
} kq_module_report;

/* The tensors of a packed matrix of k bits: type and shape of each, and in the place of its name the end of
 * its name, "trellis", "su", "sv", "scale". Of *p the shape is read. */
enum { KQ_PACKED_TENSORS = 4 };
void kq_packed_tensors(const kq_packed *p, int k, kq_st_decl out[KQ_PACKED_TENSORS]);
/* Write the quantized linears of one block as a part file. packed[id] and report[id] are used where bit id of
 * `ids` is set. The number of bits in the report is that of packed[id]. */
kq_status kq_part_write(const char *path, size_t layer, unsigned ids, const kq_packed packed[KQ_N_LINEAR],
                        const kq_module_report report[KQ_N_LINEAR], kq_error *err);
/* Head and embedding: their numbers in names of files, and their modules, "lm_head" and "model.embed_tokens".
 */
typedef enum kq_rows_id { KQ_ROWS_HEAD = 0, KQ_ROWS_EMBEDDING, KQ_N_ROWS } kq_rows_id;
extern const char *const kq_rows_module[KQ_N_ROWS];
/* A part file of k bits that is a trellis is "packed-000NN.safetensors" with NN = KQ_ROWS_PART k + its
 * number. */
enum { KQ_ROWS_PART = 10 };
/* Write an embedding or a head that is a trellis (kq_packed.one_sided) as a part file of its own; and read
 * its report, which is that of the module of this name. */
kq_status kq_part_write_rows(const char *path, const kq_packed *packed, const kq_module_report *report,
                             kq_error *err);
kq_status kq_part_read_rows_report(const char *path, const char *module, kq_module_report *report,
                                   kq_error *err);
/* The report as JSON text, the caller's (free); NULL: out of memory. A part file's metadata holds it under
 * the module's name. */
char *kq_module_report_json(const kq_module_report *r);
struct json_t *kq_json_number(double x); /* x as a JSON real, new; null for NaN and Inf */
/* Read the reports of a part file, indexed by kq_linear_id; name[0] is 0 where the file has no such linear.
 * The file is checked to be whole. */
kq_status kq_part_read_reports(const char *path, size_t layer, kq_module_report report[KQ_N_LINEAR],
                               kq_error *err);

/* ---- gathering: save.c ---- */

typedef struct kq_save_options {
    const kq_source *src;
    const char *dir;      /* OUT */
    const char *part_dir; /* where the part files are */
    kq_code code;
    /* 16, 8, or 4 to 2: those are in part files (kq_part_write_rows), KQ_ROWS_PART. head_bits is ignored when
     * the head is tied. */
    int embed_bits, head_bits;
    /* rows of tiles of embedding and head that have KQ_FINE_BITS bits (kq_fine_rows); 0: none */
    size_t frequent_rows;
    size_t shard_size; /* bytes; a larger checkpoint is written as several files */
    /* for the model card: the line that makes the checkpoint again; NULL: no card is written */
    const char *command;
    /* for the model card: the loss in nats a token (NaN: unknown), and the error of the quantized weights */
    double predicted_loss, relative_mse;
    /* members of quantization_config that the caller adds: "method", "calibration", "seed", ... (a JSON
     * object) */
    const char *settings_json;
} kq_save_options;

typedef struct kq_save_report {
    size_t file_bytes; /* all safetensors files */
    double bpw_linear; /* bits per quantized weight, scales counted */
    double bpw_file;   /* bits of the safetensors files per parameter of the model */
    double bits;       /* of the trellis, on average over the quantized weights */
    size_t n_quantized, n_weights_quantized, n_parameters;
} kq_save_report;

/* Gather the part files into a checkpoint in opt->dir, which exists. KQ_E_UNSUPPORTED, KQ_E_NUMERIC, KQ_E_IO
 * and KQ_E_FORMAT name the tensor or the file; config.json is then not there. */
kq_status kq_checkpoint_save(const kq_save_options *opt, kq_save_report *report, kq_error *err);
/* Compute the figures of a report from shapes alone, before any work. bits(ctx, layer, id) gives the bits of
 * a linear (an average where the number is not known yet), and 0 for one that is not quantized. */
void kq_checkpoint_plan(const kq_source *src, int embed_bits, int head_bits, size_t frequent_rows,
                        double (*bits)(void *ctx, size_t layer, kq_linear_id id), void *ctx,
                        kq_save_report *report);

/* The bytes of all safetensors files that kq_checkpoint_save would write, headers counted, from shapes alone.
 * Of *opt: src, code, embed_bits, head_bits, frequent_rows and shard_size. bits as above, whole numbers. */
kq_status kq_checkpoint_bytes(const kq_save_options *opt,
                              double (*bits)(void *ctx, size_t layer, kq_linear_id id), void *ctx,
                              size_t *bytes, kq_error *err);
/* Bits that a packed linear, or an embedding or head as a trellis, takes: scales, words of the trellis. */
double kq_packed_bits(size_t m, size_t n, double k);
/* Which rows of tiles of an embedding or head [vocab, d] of k bits are fine when the user asks for `frequent`
 * rows: those of the first ids, which in a BPE vocabulary are the most frequent tokens, and a 256th of the
 * vocabulary at its end, where special tokens are. Sets fine_first and fine_last; none when frequent is 0 or
 * k KQ_FINE_BITS. */
void kq_fine_rows(kq_packed *p, size_t frequent, int k);
/* Bits that an embedding or head takes as a trellis. */
double kq_packed_rows_bits(const kq_config *cfg, int k, size_t frequent);

/* The type in which a tensor that is not quantized is kept: its own, or bf16 when the source has it in a
 * block type. Integers stay what they are. */
kq_dtype kq_kept_dtype(kq_dtype t);
/* Write such a tensor, which is declared with this type and the shape of t. KQ_E_NUMERIC: NaN or Inf. */
kq_status kq_write_kept(kq_st_writer *w, const kq_source *src, const kq_tensor *t, kq_error *err);
/* The parameters of a model; a tied head is none. */
size_t kq_count_parameters(const kq_config *cfg);

/* ---- embedding and head rows: rows.c ---- */

/* Columns that share one scale: the largest of 64, 32, 16 that divides n, else the whole row. */
size_t kq_rows_group(size_t n);
/* Round one row [n] of f32 to `bits` (8 or 4) bits with one f16 scale for each group. The code is symmetric:
 * value = q * scale with |q| <= 127 (8 bits) or 7 (4 bits). q: n bytes as int8 (8 bits), or (n + 1) / 2 bytes
 * (4 bits, with 8 added; the even column is the low half of a byte). scales [n / kq_rows_group(n)]. */
void kq_rows_encode(const float *row, size_t n, int bits, uint8_t *q, uint16_t *scales);
void kq_rows_decode(const uint8_t *q, const uint16_t *scales, size_t n, int bits, float *row);

/* ---- opening any MODEL: open.c ---- */

/* A model of any kind (folder, GGUF, kronq checkpoint) with its weights, which are mapped. Reading it is safe
 * from several threads. */
typedef struct kq_model_file kq_model_file;
kq_status kq_model_file_open(const char *path, kq_isa isa, kq_model_file **out, kq_error *err);
void kq_model_file_close(kq_model_file *f); /* NULL is fine */
const kq_source *kq_model_file_source(const kq_model_file *f);
const kq_weights *kq_model_file_weights(const kq_model_file *f);
/* How many bits a weight of this linear has in the file: k when it is packed (EXL3 too), 0 when it is a
 * plain tensor. */
int kq_model_file_bits(const kq_model_file *f, size_t layer, kq_linear_id id);
/* A packed linear as it is in the file. The arrays of *out are checked and borrowed, so do not free them;
 * out->trellis may be at an odd address. *trellis is its code, borrowed; NULL: the linear is not packed.
 * KQ_E_SHAPE, KQ_E_FORMAT, KQ_E_NUMERIC: the tensors are not what docs/format.md says. */
kq_status kq_model_file_packed(const kq_model_file *f, size_t layer, kq_linear_id id, kq_packed *out,
                               const kq_trellis **trellis, kq_error *err);

/* An embedding or head that is a trellis (out->one_sided), by its plain name ("lm_head.weight"), as
 * kq_model_file_packed. codes->most NULL: it is none. */
kq_status kq_model_file_packed_rows(const kq_model_file *f, const char *name, kq_packed *out,
                                    kq_row_codes *codes, kq_error *err);

/* Rows of the embedding or the head in 8 or 4 bits, as they are in the file. Everything is borrowed. */
typedef struct kq_packed_rows {
    int bits; /* 0: the tensor is plain, or a trellis */
    size_t rows, n, group, row_bytes;
    /* [rows, row_bytes]; f16 [rows, n / group], perhaps at an odd address */
    const uint8_t *q, *scales;
    const kq_tensor *scales_tensor;
} kq_packed_rows;
/* Fill in *out for a tensor by its plain name ("lm_head.weight"). */
kq_status kq_model_file_rows(const kq_model_file *f, const char *name, kq_packed_rows *out, kq_error *err);
/* Copy the scales [n / group] of one row. KQ_E_NUMERIC: one is not finite. */
kq_status kq_packed_rows_scales(const kq_packed_rows *r, size_t row, uint16_t *scales, kq_error *err);

#endif
