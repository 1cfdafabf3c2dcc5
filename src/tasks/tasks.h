/* Multiple-choice tasks as lm-evaluation-harness defines them: documents become requests (context,
 * continuation), a request's score is the log-likelihood of the continuation given the context, and the
 * choice with the largest score is the answer.
 * The rules are those of lm-evaluation-harness 0.4 (EleutherAI, MIT): lm_eval/tasks, lm_eval/api/task.py,
 * lm_eval/api/model.py and lm_eval/models/huggingface.py, read and written anew; scripts/check_tasks.py
 * compares every choice with it. */
#ifndef KQ_TASKS_TASKS_H
#define KQ_TASKS_TASKS_H

#include "eval/eval.h"

/* ---- what a task is, and its documents: documents.c ---- */

enum {
    KQ_TASK_MAX_LINE = 1 << 22, /* bytes of a document's line */
    KQ_TASK_MAX_CHOICES = 64,
    KQ_TASK_MAX_DOCS = 1 << 22
};

typedef struct kq_request {
    /* owned; the continuation begins with the harness's delimiter, a space */
    char *context, *continuation;
    /* code points of the choice without the delimiter: what acc_norm divides by */
    size_t choice_chars;
} kq_request;

typedef struct kq_document {
    size_t line;         /* in its file, from 1 */
    size_t offset, size; /* of that line in the file, bytes */
    size_t gold, n;      /* the right choice; number of choices (2 or more) */
    kq_request *req;     /* owned [n] */
} kq_document;

/* Built-in description of a task; static. */
typedef struct kq_task {
    const char *name;
    double version; /* of the harness's definition */
    bool acc_norm;  /* reports acc_norm beside acc */
    /* as the harness's YAML (or Python) says it, for the record */
    const char *doc_to_text, *doc_to_target, *doc_to_choice;
} kq_task;

/* NULL: no such task. */
const kq_task *kq_task_find(const char *name);
/* "arc_easy, arc_challenge, ..." */
const char *kq_task_names(void);

/* The documents of a JSON-lines file, at most `limit` (0: all); *n_file counts all that the file holds
 * (those after the limit are not parsed). Errors name file, line and field. Free with kq_documents_free. */
kq_status kq_documents_read(const kq_task *task, const char *path, size_t limit, kq_document **docs,
                            size_t *n, size_t *n_file, kq_error *err);
void kq_documents_free(kq_document *docs, size_t n);

/* ---- scoring: loglikelihood.c ---- */

/* Token ids of a request: the last n_cont of the n ids are the continuation. */
typedef struct kq_encoded {
    int32_t *ids; /* owned */
    size_t n, n_cont;
} kq_encoded;

/* The harness's rule: white space at the end of the context moves to the continuation; ids =
 * encode(context) followed by what encode(context + continuation) has beyond as many ids; the
 * tokenizer's own special tokens are added, unless the text begins with the beginning token already.
 * KQ_E_FORMAT when either part has no token. */
kq_status kq_request_encode(const kq_tokenizer *tok, const kq_request *req, kq_encoded *out, kq_error *err);

/* sum of log p(continuation token | all before), nats, and whether each was the most likely token. */
typedef struct kq_loglikelihood {
    double value;
    bool greedy;
} kq_loglikelihood;

/* A model that is ready to score requests. w is borrowed. longest: tokens of the longest request (its inputs:
 * the last token is only predicted); largest: rows of the largest document. opt: threads, isa, compute
 * and memory (KQ_E_MEMORY when that is too little). */
typedef struct kq_scorer kq_scorer;
kq_status kq_scorer_new(const kq_weights *w, size_t longest, size_t largest, const kq_eval_options *opt,
                        kq_scorer **out, kq_error *err);
void kq_scorer_free(kq_scorer *s);
/* Score n_docs documents. Document i has n_req[i] requests, which follow one another in req; their scores
 * follow one another in out. The tokens that all requests of a document begin with are computed once. Inputs
 * longer than max_length lose their beginning. The result depends on which documents are scored together in
 * its last bits only, and not on the threads. step (may be NULL) is called after each block with its share in
 * this call; nonzero stops. */
kq_status kq_scorer_run(kq_scorer *s, const kq_encoded *req, const size_t *n_req, size_t n_docs,
                        size_t max_length, kq_loglikelihood *out, int (*step)(void *ctx, double fraction),
                        void *ctx, kq_error *err);
/* Rows that a document takes: its tokens, shared beginnings counted once. */
size_t kq_document_rows(const kq_encoded *req, size_t n_req, size_t max_length);
enum { KQ_SCORER_ROWS = 8192 }; /* rows that are worth scoring in one call */

/* acc and acc_norm of one document: the answers by sum and by sum / choice_chars, ties to the first. */
typedef struct kq_answer {
    size_t pick, pick_norm;
} kq_answer;
kq_answer kq_document_answer(const kq_document *doc, const kq_loglikelihood *ll);

/* ---- results that survive an interruption: journal.c ---- */

/* FILE: a first line with the job's settings, then one line a scored document, each led by its checksum. */
typedef struct kq_journal kq_journal;
/* Without resume: start a file (KQ_E_ARG when it exists). With resume: go on with the file if it exists;
 * documents that were kept are handed to keep, in order. KQ_E_MISMATCH: the settings differ. An unfinished
 * last line is dropped; any other damage is KQ_E_FORMAT. */
kq_status kq_journal_open(const char *path, const char *settings, bool resume,
                          kq_status (*keep)(void *ctx, size_t task, size_t doc, const kq_loglikelihood *ll,
                                            size_t n, kq_error *err),
                          void *ctx, kq_journal **out, kq_error *err);
kq_status kq_journal_add(kq_journal *j, size_t task, size_t doc, const kq_loglikelihood *ll, size_t n,
                         kq_error *err);
kq_status kq_journal_sync(kq_journal *j, kq_error *err); /* everything added so far is on the disk */
void kq_journal_close(kq_journal *j, bool remove_file);  /* NULL is fine */

#endif
