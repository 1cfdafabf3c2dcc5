/* Everything that quantize, calibrate and the plan have to settle before any work: the model, which
 * linears, how to compute, which tokens. */
#ifndef KQ_QUANT_PREPARE_H
#define KQ_QUANT_PREPARE_H

#include <jansson.h>

#include "checkpoint/checkpoint.h"
#include "fisher/fisher.h"
#include "tokenizer/tokenizer.h"
#include "sweep/job.h"
#include "sweep/sweep.h"
#include "text/windows.h"

typedef struct kq_prepared {
    const kq_quantize_options *opt; /* borrowed */
    kq_model_file *model;           /* owned, as all below; NULL, as src: kq_prepare_config */
    const kq_source *src;
    const kq_config *cfg;
    kq_tokenizer *tok; /* NULL when no text is needed */
    kq_isa isa;
    kq_compute compute;
    int threads;
    kq_factor_options factor;
    kq_sweep_estimate estimate; /* the one that kq_prepare_sweep's sweep yields; points at factor */
    uint8_t *selected;          /* [n_layer], bit id set: that linear is to be quantized (--only) */
    size_t n_selected;
    size_t n_seq;         /* sequences of calibration; 0: none needed */
    char fingerprint[33]; /* of the model */
    char text_hash[33];   /* of the texts; "" when no text is needed */
    kq_windows windows;   /* the sequences, after kq_prepare_ids */
    bool keeps;           /* what pipes gave, for a second reading (kq_text_keep) */
} kq_prepared;

/* Check options and open the model. Refuses an already quantized MODEL. needs_factors: false when they
 * come from a file. */
kq_status kq_prepare(const char *model, const kq_quantize_options *opt, bool needs_factors, kq_prepared *p,
                     kq_error *err);
/* The same of a model of which only the configuration is known (borrowed): enough for plans. */
kq_status kq_prepare_config(const kq_config *cfg, const kq_quantize_options *opt, kq_prepared *p,
                            kq_error *err);
void kq_prepared_free(kq_prepared *p);

/* The fingerprint of the model's tensors (reads them all). */
kq_status kq_prepare_fingerprint(kq_prepared *p, kq_error *err);
/* Fingerprint of the texts, as far as a calibration of that many tokens reads them, as the settings have
 * it ("text_hash"); "" without any. Checks them: what cannot be read is refused. tok: the model's, whose
 * template belongs to a conversation. */
kq_status kq_prepare_text_hash(const kq_quantize_options *opt, const kq_tokenizer *tok, size_t tokens,
                               char hex[33], kq_error *err);
/* The settings that a calibration's result depends on, as a new JSON object: model, method, text,
 * tokens, seed, ... NULL: out of memory. */
json_t *kq_prepare_settings(const kq_prepared *p, kq_error *err);
/* Token ids of the calibration: from the texts, or sampled from the model (kept in the job's folder for
 * --resume). */
kq_status kq_prepare_ids(kq_prepared *p, const kq_job *job, kq_error *err);
/* Likewise for several numbers of sequences at once (all of them positive): p->windows holds every
 * sequence that one of them takes. */
kq_status kq_prepare_windows(kq_prepared *p, const kq_job *job, const size_t *counts, size_t n_counts,
                             kq_error *err);
/* Say in a report what the texts turned out to be: "texts" (kq_text_ids) and "parse_special". Nothing
 * for text of the model's own. */
void kq_prepare_report_texts(const kq_prepared *p, json_t *report);
/* A sweep over the prepared model; the caller adds its functions. It points into *p. */
kq_sweep kq_prepare_sweep(const kq_prepared *p, const kq_job *job);

/* Paths of the job's STEM-i.safetensors for every block with a selected linear: *parts [*n], owned by the
 * caller, kq_prepared_free_parts also after a failure. */
kq_status kq_prepared_parts(const kq_prepared *p, const kq_job *job, const char *stem, char ***parts,
                            size_t *n, kq_error *err);
void kq_prepared_free_parts(char **parts, size_t n);

/* The selected linears, layer by layer:
 *   kq_model_tensor t;
 *   for (size_t i = 0; kq_selected_next(p, &i, &t); i++) ...
 * From *index on, the first selected linear: *index becomes its index, layer * KQ_N_LINEAR + id. False: there
 * is no more. */
bool kq_selected_next(const kq_prepared *p, size_t *index, kq_model_tensor *t);

#endif
