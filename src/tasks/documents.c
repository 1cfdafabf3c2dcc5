/* The tasks and their documents: how the fields of a JSON line become requests. The rules are those of the
 * YAML files and Python functions of lm-evaluation-harness 0.4 (lm_eval/tasks, MIT; read and written anew).
 * scripts/check_tasks.py compares every request with the harness. */
#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "tasks/python_text.h"
#include "tasks/tasks.h"
#include "text/text.h"

/* One document that is being read, and where it is in its file, for messages. */
typedef struct reader {
    const char *path;
    size_t line;
    const json_t *doc;
    kq_error *err;
} reader;

static kq_status bad(const reader *r, const char *field, const char *what)
{
    return kq_fail(r->err, KQ_E_FORMAT, "%s: line %zu: field \"%s\" %s", r->path, r->line, field, what);
}

static kq_status get_text(const reader *r, const char *field, const char **out)
{
    const json_t *v = json_object_get(r->doc, field);
    *out = "";
    if (!json_is_string(v))
        return bad(r, field, v ? "is no string" : "is missing");
    *out = json_string_value(v);
    return KQ_OK;
}

/* Read a whole number below n, which the file may write as a number, as a string of digits, or as true or
 * false. */
static kq_status get_label(const reader *r, const char *field, size_t n, size_t *out)
{
    const json_t *v = json_object_get(r->doc, field);
    json_int_t label = -1;
    if (!v)
        return bad(r, field, "is missing");
    if (json_is_integer(v))
        label = json_integer_value(v);
    else if (json_is_boolean(v))
        label = json_is_true(v);
    else if (json_is_string(v) && json_string_length(v) == 1 && isdigit((unsigned char)*json_string_value(v)))
        label = *json_string_value(v) - '0';
    if (label < 0 || (size_t)label >= n) {
        char what[96];
        snprintf(what, sizeof what,
                 "is not one of the labels 0..%zu (documents without an answer cannot be scored)", n - 1);
        return bad(r, field, what);
    }
    *out = (size_t)label;
    return KQ_OK;
}

static kq_status get_list(const reader *r, const json_t *in, const char *key, const char *field,
                          const json_t **out)
{
    const json_t *v = json_object_get(in, key);
    *out = NULL;
    if (!json_is_array(v))
        return bad(r, field, v ? "is no list" : "is missing");
    for (size_t i = 0; i < json_array_size(v); i++)
        if (!json_is_string(json_array_get(v, i)))
            return bad(r, field, "holds something that is no string");
    if (json_array_size(v) < 2 || json_array_size(v) > KQ_TASK_MAX_CHOICES)
        return bad(r, field, "holds fewer than 2 or more than 64 entries");
    *out = v;
    return KQ_OK;
}

static kq_status start_requests(const reader *r, kq_document *doc, size_t n)
{
    doc->req = kq_calloc(n, sizeof *doc->req);
    doc->n = n;
    return doc->req ? KQ_OK : kq_fail(r->err, KQ_E_MEMORY, "%s: line %zu: out of memory", r->path, r->line);
}

/* Fill in a request. Its texts come from strdup and asprintf; kq_free frees what malloc has made. */
static kq_status set_request(const reader *r, kq_request *req, const char *context, const char *choice)
{
    req->choice_chars = kq_str_len(choice);
    req->context = strdup(context);
    if (!req->context || asprintf(&req->continuation, " %s", choice) < 0) {
        req->continuation = NULL;
        return kq_fail(r->err, KQ_E_MEMORY, "%s: line %zu: out of memory", r->path, r->line);
    }
    return KQ_OK;
}

static kq_status set_list(const reader *r, kq_document *doc, const char *context, const char *const *choice,
                          size_t n)
{
    kq_status st = start_requests(r, doc, n);
    for (size_t i = 0; i < n && !st; i++)
        st = set_request(r, &doc->req[i], context, choice[i]);
    return st;
}

static kq_status no_memory(const reader *r)
{
    return kq_fail(r->err, KQ_E_MEMORY, "%s: line %zu: out of memory", r->path, r->line);
}

/* ---- one function a family of tasks -------------------------------------------------------------------- */

/* The fields are question, choices {text, label}, answerKey. */
static kq_status read_arc(const reader *r, kq_document *doc)
{
    const char *question, *key, *choice[KQ_TASK_MAX_CHOICES];
    const json_t *choices = json_object_get(r->doc, "choices"), *texts, *labels;
    char *context = NULL;
    kq_status st;
    if ((st = get_text(r, "question", &question)) || (st = get_text(r, "answerKey", &key)))
        return st;
    if (!json_is_object(choices))
        return bad(r, "choices", choices ? "is no object" : "is missing");
    if ((st = get_list(r, choices, "text", "choices.text", &texts)) ||
        (st = get_list(r, choices, "label", "choices.label", &labels)))
        return st;
    const size_t n = json_array_size(texts);
    if (json_array_size(labels) != n)
        return bad(r, "choices.label", "has not as many entries as choices.text");
    for (doc->gold = 0; doc->gold < n && strcmp(key, json_string_value(json_array_get(labels, doc->gold)));
         doc->gold++)
        ;
    if (doc->gold == n)
        return bad(r, "answerKey", "is none of choices.label");
    for (size_t i = 0; i < n; i++)
        choice[i] = json_string_value(json_array_get(texts, i));
    if (asprintf(&context, "Question: %s\nAnswer:", question) < 0)
        return no_memory(r);
    st = set_list(r, doc, context, choice, n);
    free(context);
    return st;
}

/* The fields are goal, sol1, sol2, label. */
static kq_status read_piqa(const reader *r, kq_document *doc)
{
    const char *goal, *sol[2];
    char *context = NULL;
    kq_status st;
    if ((st = get_text(r, "goal", &goal)) || (st = get_text(r, "sol1", &sol[0])) ||
        (st = get_text(r, "sol2", &sol[1])) || (st = get_label(r, "label", 2, &doc->gold)))
        return st;
    if (asprintf(&context, "Question: %s\nAnswer:", goal) < 0)
        return no_memory(r);
    st = set_list(r, doc, context, sol, 2);
    free(context);
    return st;
}

/* The fields are passage, question, label. */
static kq_status read_boolq(const reader *r, kq_document *doc)
{
    static const char *const answer[] = {"no", "yes"};
    const char *passage, *question;
    char *context = NULL;
    kq_status st;
    if ((st = get_text(r, "passage", &passage)) || (st = get_text(r, "question", &question)) ||
        (st = get_label(r, "label", 2, &doc->gold)))
        return st;
    if (asprintf(&context, "%s\nQuestion: %s?\nAnswer:", passage, question) < 0)
        return no_memory(r);
    st = set_list(r, doc, context, answer, 2);
    free(context);
    return st;
}

/* The fields are activity_label, ctx_a, ctx_b, endings, label. */
static kq_status read_hellaswag(const reader *r, kq_document *doc)
{
    const char *activity, *ctx_a, *ctx_b;
    const json_t *endings;
    char *capital = NULL, *context = NULL;
    kq_status st;
    if ((st = get_text(r, "activity_label", &activity)) || (st = get_text(r, "ctx_a", &ctx_a)) ||
        (st = get_text(r, "ctx_b", &ctx_b)) || (st = get_list(r, r->doc, "endings", "endings", &endings)) ||
        (st = get_label(r, "label", json_array_size(endings), &doc->gold)) ||
        (st = kq_str_capitalize(ctx_b, &capital, r->err)))
        return st;
    const int made = asprintf(&context, "%s: %s %s", activity, ctx_a, capital);
    kq_free(capital);
    if (made < 0)
        return no_memory(r);
    kq_hellaswag_clean(context);
    st = start_requests(r, doc, json_array_size(endings));
    for (size_t i = 0; i < doc->n && !st; i++) {
        char *ending = strdup(json_string_value(json_array_get(endings, i)));
        if (!ending) {
            st = no_memory(r);
            break;
        }
        kq_hellaswag_clean(ending);
        st = set_request(r, &doc->req[i], context, ending);
        free(ending);
    }
    free(context);
    return st;
}

/* The fields are sentence (with a blank, "_"), option1, option2, answer. Each option takes the place of the
 * blank in the context, and what follows the blank is the continuation. */
static kq_status read_winogrande(const reader *r, kq_document *doc)
{
    const char *sentence, *option[2], *answer, *blank;
    kq_status st;
    if ((st = get_text(r, "sentence", &sentence)) || (st = get_text(r, "option1", &option[0])) ||
        (st = get_text(r, "option2", &option[1])) || (st = get_text(r, "answer", &answer)))
        return st;
    if (!(blank = strchr(sentence, '_')))
        return bad(r, "sentence", "has no blank \"_\"");
    if (strcmp(answer, "1") && strcmp(answer, "2"))
        return bad(r, "answer", "is neither \"1\" nor \"2\" (documents without an answer cannot be scored)");
    doc->gold = *answer == '2';
    char *rest = strdup(blank + 1);
    if (!rest)
        return no_memory(r);
    kq_str_strip(rest);
    st = start_requests(r, doc, 2);
    for (size_t i = 0; i < 2 && !st; i++) {
        char *context = NULL;
        if (asprintf(&context, "%.*s%s", (int)(blank - sentence), sentence, option[i]) < 0) {
            st = no_memory(r);
            break;
        }
        st = set_request(r, &doc->req[i], context, rest);
        /* in the harness the contexts are this task's choices; acc_norm is not reported for it */
        doc->req[i].choice_chars = kq_str_len(context);
        free(context);
    }
    free(rest);
    return st;
}

/* ---- the table ----------------------------------------------------------------------------------------- */

#define ARC "Question: {{question}}\nAnswer:", "{{choices.label.index(answerKey)}}", "{{choices.text}}"
static const struct {
    kq_task task;
    kq_status (*read)(const reader *r, kq_document *doc);
} tasks[] = {
    {{"arc_easy", 1.0, true, ARC}, read_arc},
    {{"arc_challenge", 1.0, true, ARC}, read_arc},
    {{"piqa", 1.0, true, "Question: {{goal}}\nAnswer:", "label", "{{[sol1, sol2]}}"}, read_piqa},
    {{"boolq", 2.0, false, "{{passage}}\nQuestion: {{question}}?\nAnswer:", "label", "[\"no\", \"yes\"]"},
     read_boolq},
    {{"hellaswag", 1.0, true, "{{query}}", "{{label}}", "choices"}, read_hellaswag},
    {{"winogrande", 1.0, false, "preprocess_winogrande.doc_to_text", "preprocess_winogrande.doc_to_target",
      "preprocess_winogrande.doc_to_choice"},
     read_winogrande},
};

const kq_task *kq_task_find(const char *name)
{
    for (size_t i = 0; i < sizeof tasks / sizeof *tasks; i++)
        if (!strcmp(tasks[i].task.name, name))
            return &tasks[i].task;
    return NULL;
}

const char *kq_task_names(void)
{
    return "arc_easy, arc_challenge, piqa, boolq, hellaswag, winogrande";
}

/* ---- files --------------------------------------------------------------------------------------------- */

void kq_documents_free(kq_document *docs, size_t n)
{
    for (size_t i = 0; docs && i < n; i++) {
        for (size_t k = 0; docs[i].req && k < docs[i].n; k++) {
            free(docs[i].req[k].context);
            free(docs[i].req[k].continuation);
        }
        kq_free(docs[i].req);
    }
    kq_free(docs);
}

static kq_status read_line(const kq_task *task, const char *path, const char *text, kq_document *doc,
                           kq_error *err)
{
    json_error_t je;
    if (doc->size > KQ_TASK_MAX_LINE)
        return kq_fail(err, KQ_E_FORMAT, "%s: line %zu: %zu bytes, at most %d are sensible for a document",
                       path, doc->line, doc->size, KQ_TASK_MAX_LINE);
    json_t *o = json_loadb(text, doc->size, JSON_REJECT_DUPLICATES, &je);
    if (!o)
        return kq_fail(err, KQ_E_FORMAT, "%s: line %zu: %s", path, doc->line, je.text);
    const reader r = {.path = path, .line = doc->line, .doc = o, .err = err};
    kq_status st = KQ_OK;
    if (!json_is_object(o))
        st = kq_fail(err, KQ_E_FORMAT, "%s: line %zu: not a JSON object", path, doc->line);
    for (size_t i = 0; i < sizeof tasks / sizeof *tasks && !st; i++)
        if (&tasks[i].task == task)
            st = tasks[i].read(&r, doc);
    json_decref(o);
    return st;
}

kq_status kq_documents_read(const kq_task *task, const char *path, size_t limit, kq_document **docs,
                            size_t *n, size_t *n_file, kq_error *err)
{
    char *data;
    size_t size, cap = 0, line = 1;
    *docs = NULL;
    *n = *n_file = 0;
    kq_status st = kq_text_load(path, KQ_TEXT_MOST_DOCUMENT, &data, &size, err);
    if (st)
        return st;
    for (size_t at = 0; at < size && !st; line++) {
        const char *nl = memchr(data + at, '\n', size - at);
        const size_t end = nl ? (size_t)(nl - data) : size, start = at;
        bool blank = true;
        at = end + 1;
        for (size_t i = start; i < end && blank; i++)
            blank = data[i] == ' ' || data[i] == '\t' || data[i] == '\r';
        if (blank)
            continue;
        if (++*n_file > KQ_TASK_MAX_DOCS)
            st = kq_fail(err, KQ_E_FORMAT, "%s: more than %d documents", path, KQ_TASK_MAX_DOCS);
        if (st || (limit && *n == limit))
            continue;
        if (*n == cap) {
            const size_t more = cap ? 2 * cap : 256;
            kq_document *grown = kq_calloc(more, sizeof *grown);
            if (!grown) {
                st = kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
                break;
            }
            if (*n)
                memcpy(grown, *docs, *n * sizeof *grown);
            kq_free(*docs);
            *docs = grown;
            cap = more;
        }
        kq_document *doc = &(*docs)[(*n)++];
        *doc = (kq_document){.line = line, .offset = start, .size = end - start};
        st = read_line(task, path, data + start, doc, err);
    }
    if (!st && !*n)
        st = kq_fail(err, KQ_E_FORMAT, "%s: holds no document", path);
    kq_free(data);
    if (st) {
        kq_documents_free(*docs, *n);
        *docs = NULL;
    }
    return st;
}
