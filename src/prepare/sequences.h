/* The calibration's sequences of token ids: windows of the given texts, or text that the model writes itself.
 */
#ifndef KQ_PREPARE_SEQUENCES_H
#define KQ_PREPARE_SEQUENCES_H

#include "prepare/prepare.h"

/* Fingerprint of the given texts, in hexadecimal, as far as a calibration of `tokens` tokens reads them; ""
 * without any. The settings hold it as "text_hash". tok: the model's tokenizer, whose chat template belongs
 * to a text of conversations; NULL: there is none. Reading is checking: KQ_E_IO and KQ_E_FORMAT name the
 * text. */
kq_status kq_text_fingerprint(const kq_quantize_options *opt, const kq_tokenizer *tok, size_t tokens,
                              char hex[33], kq_error *err);

/* Fill in p->windows with every sequence that one of the counts [n_counts], all positive, takes. Nothing is
 * done when they are there already. Without a text the model writes as many sequences as the largest count
 * says, into the work folder of job, where a resumed run finds them. job may be NULL when there is a text.
 * KQ_E_ARG: the texts are too short. */
kq_status kq_prepare_sequences(kq_prepared *p, const kq_job *job, const size_t *counts, size_t n_counts,
                               kq_error *err);
/* Add to a report what the texts turned out to be: "texts" (kq_text_ids) and "parse_special". Nothing is
 * added for text that the model wrote. */
void kq_report_texts(const kq_prepared *p, json_t *report);

#endif
