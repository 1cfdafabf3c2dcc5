/* Sequential rounding as `kronq quantize` uses it: when it is done, on which tokens, what it takes, and one
 * linear's rounding. A NULL kq_sequential stands for rounding every linear by itself. */
#ifndef KQ_SEQUENTIAL_ROUNDING_H
#define KQ_SEQUENTIAL_ROUNDING_H

#include "prepare/prepare.h"
#include "sequential/sequential.h"

/* Tokens that the streams have, at most: on SmolLM2 the targets of 32,768 tokens remove a fifth more of the
 * error on other text than those of 8,192 (docs/evidence/sequential.md). */
enum { KQ_SEQUENTIAL_TOKENS = 32768 };

/* Does `sequential` ask for it? "auto": where there are factors, tokens and all linears. */
bool kq_sequential_wanted(const kq_quantize_options *opt);
/* Replace "auto" by what it means here. Where only a text is lacking, a line says so: KQ_E_INTERRUPTED when
 * the progress function asks to stop. */
kq_status kq_sequential_settle(kq_quantize_options *opt, kq_error *err);
/* KQ_E_ARG: "yes" with the method none, or with a factor file and no text. */
kq_status kq_sequential_check(const kq_quantize_options *opt, kq_error *err);
/* Add what it takes, when it is asked for, to memory and disk (bytes). */
void kq_sequential_plan(const kq_prepared *p, size_t *memory, size_t *disk);
/* Begin, when it is asked for, on windows of the calibration, at most KQ_SEQUENTIAL_TOKENS tokens of them
 * from all over it; with a factor file, on as many windows of p's texts. *out may become NULL; it is the
 * caller's, after a failure too. The streams are files of `job`. Errors of reading texts; KQ_E_ARG: they are
 * too short. */
kq_status kq_sequential_begin(kq_prepared *p, const kq_job *job, kq_sequential **out, kq_error *err);
/* kq_round_linear towards the linear's target. The report is relative to the target. */
kq_status kq_sequential_round(kq_sequential *s, size_t layer, kq_linear_id id, const kq_trellis *t,
                              const kq_round_input *in, const kq_round_options *opt, kq_packed *out,
                              kq_round_report *report, kq_error *err);

#endif
