/* What all long work and every plan find out first: how to compute, the model, which of its linears are
 * selected, the method of calibration and how many sequences it takes. Nothing is written. */
#ifndef KQ_PREPARE_PREPARE_H
#define KQ_PREPARE_PREPARE_H

#include <jansson.h>

#include "checkpoint/checkpoint.h"
#include "fisher/fisher.h"
#include "sweep/job.h"
#include "sweep/sweep.h"
#include "text/windows.h"
#include "tokenizer/tokenizer.h"

/* Zeroed, then filled in by kq_prepare or kq_prepare_config. It must not be moved: estimate points
 * at factor. */
typedef struct kq_prepared {
    const kq_quantize_options *opt; /* borrowed */
    kq_model_file *model;           /* owned, as is everything below; NULL after kq_prepare_config */
    const kq_source *src;           /* the model's; NULL after kq_prepare_config */
    const kq_config *cfg;
    kq_tokenizer *tok; /* NULL when no text is needed */
    kq_isa isa;
    kq_compute compute;
    int threads;
    kq_factor_options factor;   /* the method and its settings */
    kq_sweep_estimate estimate; /* what kq_prepare_sweep's sweep yields */
    uint8_t *selected;          /* [n_layer], bit id set: that linear is to be quantized (--only) */
    size_t n_selected;          /* linears */
    size_t n_seq;               /* sequences of calibration; 0: none needed */
    char fingerprint[33];       /* of the model, in hexadecimal; "" before kq_prepare_fingerprint */
    char text_hash[33];         /* of the texts, in hexadecimal; "" when no text is needed */
    kq_windows windows;         /* the sequences; empty before kq_prepare_sequences (sequences.h) */
    bool keeps_pipes;           /* what pipes gave is kept for a second reading, until kq_prepared_free */
} kq_prepared;

/* Check the options, open the model, and read the texts once. needs_factors: false when the factors come from
 * a file, so that no text is needed. Free *p (kq_prepared_free) after a failure too. KQ_E_ARG: an option is
 * out of range, the method is unknown, MODEL is quantized already, or --only matches nothing. Errors of
 * opening a model and of reading texts come as they are. */
kq_status kq_prepare(const char *model, const kq_quantize_options *opt, bool needs_factors, kq_prepared *p,
                     kq_error *err);
/* kq_prepare for a model of which only the configuration (borrowed) is known. This is enough for a plan. */
kq_status kq_prepare_config(const kq_config *cfg, const kq_quantize_options *opt, kq_prepared *p,
                            kq_error *err);
void kq_prepared_free(kq_prepared *p);

/* Compute the fingerprint of the model's tensors, unless it is known. All of them are read. */
kq_status kq_prepare_fingerprint(kq_prepared *p, kq_error *err);
/* The settings that a calibration's result depends on, as a new JSON object: model, method, text, tokens,
 * seed and the method's own. The fingerprint must be known. NULL: out of memory, err is filled in. */
json_t *kq_prepare_settings(const kq_prepared *p, kq_error *err);
/* A sweep over the prepared model, which points into *p. The caller adds its functions. job: the work folder;
 * NULL for a plan. */
kq_sweep kq_prepare_sweep(const kq_prepared *p, const kq_job *job);

/* The selected linears, layer by layer:
 *   kq_model_tensor t;
 *   for (size_t i = 0; kq_selected_next(p, &i, &t); i++) ...
 * Finds the first selected linear from *index on and sets *index to its number, layer * KQ_N_LINEAR + id.
 * False: there is no more. */
bool kq_selected_next(const kq_prepared *p, size_t *index, kq_model_tensor *t);

/* The paths WORK/STEM-i.safetensors of every block i with a selected linear: *parts [*n], the caller's
 * (kq_prepared_free_parts, after a failure too). */
kq_status kq_prepared_parts(const kq_prepared *p, const kq_job *job, const char *stem, char ***parts,
                            size_t *n, kq_error *err);
void kq_prepared_free_parts(char **parts, size_t n);

#endif
