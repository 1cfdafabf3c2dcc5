/* The calibration's sequences of token ids: windows of the given texts, or text that the model
 * writes itself. */
#ifndef KQ_PREPARE_SEQUENCES_H
#define KQ_PREPARE_SEQUENCES_H

#include "prepare/prepare.h"

/* The fingerprint, in hexadecimal, of the part of the given texts that a calibration of `tokens` tokens
 * reads; "" without a text. The settings have it as "text_hash". tok: the model's tokenizer, whose chat
 * template is part of the fingerprint of conversations; NULL: there is none. The texts are read and so
 * checked: KQ_E_IO and KQ_E_FORMAT name the text. */
kq_status kq_text_fingerprint(const kq_quantize_options *opt, const kq_tokenizer *tok, size_t tokens,
                              char hex[33], kq_error *err);

/* Fill in p->windows with every sequence that one of the counts [n_counts], all positive, takes. Nothing is
 * done when they are there already. Without a text the model writes as many sequences as the largest count
 * says, into the work folder of job, where a resumed run finds them. job may be NULL when there is a text.
 * KQ_E_ARG: the texts are too short. */
kq_status kq_prepare_sequences(kq_prepared *p, const kq_job *job, const size_t *counts, size_t n_counts,
                               kq_error *err);
/* Add to a report how the texts were read: "texts" (kq_text_ids) and "parse_special". Nothing is added for
 * text that the model wrote itself. */
void kq_report_texts(const kq_prepared *p, json_t *report);

#endif
