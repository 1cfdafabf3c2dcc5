/* Multiple-choice tasks as lm-evaluation-harness defines them. A document becomes one request for each
 * choice: a context and a continuation. The score of a request is the log-likelihood of the continuation
 * given the context, and the choice with the largest score is the answer.
 *
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
    /* code points of the choice without the delimiter; acc_norm divides by this */
    size_t choice_chars;
} kq_request;

typedef struct kq_document {
    size_t line;         /* the line of its file, counted from 1 */
    size_t offset, size; /* bytes: where that line is in the file */
    size_t gold, n;      /* the right choice; number of choices (2 or more) */
    kq_request *req;     /* owned [n] */
} kq_document;

/* The description of a task; all of them are static. */
typedef struct kq_task {
    const char *name;
    double version; /* the version of the harness's definition */
    bool acc_norm;  /* acc_norm is reported beside acc */
    /* as the harness's YAML or Python says it; results repeat these texts */
    const char *doc_to_text, *doc_to_target, *doc_to_choice;
} kq_task;

/* The task of this name; NULL: there is none. */
const kq_task *kq_task_find(const char *name);
/* "arc_easy, arc_challenge, ..." */
const char *kq_task_names(void);

/* Read the documents of a JSON-lines file, at most `limit` of them (0: all), into *docs [*n], the caller's
 * (kq_documents_free). *n_file counts all documents of the file; those after the limit are not parsed. Errors
 * name file, line and field. */
kq_status kq_documents_read(const kq_task *task, const char *path, size_t limit, kq_document **docs,
                            size_t *n, size_t *n_file, kq_error *err);
void kq_documents_free(kq_document *docs, size_t n);

/* ---- scoring: loglikelihood.c ---- */

/* Token ids of a request: the last n_cont of the n ids are the continuation. */
typedef struct kq_encoded {
    int32_t *ids; /* owned */
    size_t n, n_cont;
} kq_encoded;

/* Encode a request by the harness's rule. White space at the end of the context moves to the continuation.
 * The ids are encode(context), followed by those ids of encode(context + continuation) that are beyond that
 * length. The tokenizer's special tokens are added, unless the text begins with the beginning token already.
 * KQ_E_FORMAT: one of the two parts has no token. */
kq_status kq_request_encode(const kq_tokenizer *tok, const kq_request *req, kq_encoded *out, kq_error *err);

/* The sum of log p(token | all tokens before it) over the continuation, in nats; and whether every one of its
 * tokens was the most likely one. */
typedef struct kq_loglikelihood {
    double value;
    bool greedy;
} kq_loglikelihood;

/* A model that is ready to score requests. w is borrowed. longest: input tokens of the longest request,
 * without the last one, which is only predicted. largest: rows of the largest document (kq_document_rows). Of
 * opt only threads, isa, compute and memory are read. KQ_E_MEMORY: opt->memory is too little. */
typedef struct kq_scorer kq_scorer;
kq_status kq_scorer_new(const kq_weights *w, size_t longest, size_t largest, const kq_eval_options *opt,
                        kq_scorer **out, kq_error *err);
void kq_scorer_free(kq_scorer *s);
/* Score n_docs documents. Document i has n_req[i] requests, which follow one another in req; their scores
 * follow one another in out. The tokens that all requests of a document begin with are computed once. An
 * input longer than max_length loses its beginning. The scores do not depend on the number of threads; which
 * documents are scored together changes their last bits only. step (may be NULL) is called after each block
 * with the block's share of this call; a nonzero return stops the work with KQ_E_INTERRUPTED. */
kq_status kq_scorer_run(kq_scorer *s, const kq_encoded *req, const size_t *n_req, size_t n_docs,
                        size_t max_length, kq_loglikelihood *out, int (*step)(void *ctx, double fraction),
                        void *ctx, kq_error *err);
/* Rows that a document takes: the tokens of its requests, with their shared beginning counted once. */
size_t kq_document_rows(const kq_encoded *req, size_t n_req, size_t max_length);
enum { KQ_SCORER_ROWS = 8192 }; /* more rows in one call would not be faster */

/* The two answers to one document: the choice with the largest sum (acc), and the one with the largest
 * sum / choice_chars (acc_norm). Of equal ones the first is taken. */
typedef struct kq_answer {
    size_t pick, pick_norm;
} kq_answer;
kq_answer kq_document_answer(const kq_document *doc, const kq_loglikelihood *ll);

/* ---- results that survive an interruption: journal.c ---- */

/* A file with the job's settings in its first line, and then one line for each scored document. Each line
 * begins with its checksum. */
typedef struct kq_journal kq_journal;
/* Open a journal. Without resume a file is begun (KQ_E_ARG: it exists). With resume the file is continued if
 * it exists, and the documents in it are handed to keep, in order. KQ_E_MISMATCH: the settings differ. An
 * unfinished last line is dropped; any other damage is KQ_E_FORMAT. */
kq_status kq_journal_open(const char *path, const char *settings, bool resume,
                          kq_status (*keep)(void *ctx, size_t task, size_t doc, const kq_loglikelihood *ll,
                                            size_t n, kq_error *err),
                          void *ctx, kq_journal **out, kq_error *err);
kq_status kq_journal_add(kq_journal *j, size_t task, size_t doc, const kq_loglikelihood *ll, size_t n,
                         kq_error *err);
kq_status kq_journal_sync(kq_journal *j, kq_error *err); /* everything added so far is on the disk */
void kq_journal_close(kq_journal *j, bool remove_file);  /* NULL is fine */

#endif
