/* Queries: what a request needs while it is answered. All memory of an answer is allocated before the query
 * is submitted, so that the model thread never fails half way for want of it (text excepted, which has no
 * bound). */
#include "serve/query.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

kq_query *kq_query_new(void)
{
    kq_query *q = kq_calloc(1, sizeof *q);
    if (q)
        q->refs = 1;
    return q;
}

void kq_query_free_sequences(kq_query *q)
{
    for (size_t i = 0; i < q->n_seq; i++) {
        kq_text_clear(&q->seq[i].text);
        kq_free(q->seq[i].score);
        kq_free(q->seq[i].top);
        kq_free(q->seq[i].made);
        kq_free(q->seq[i].made_from);
        kq_free(q->seq[i].seen);
        kq_free(q->seq[i].count);
    }
    kq_free(q->seq);
    q->seq = NULL;
    q->n_seq = 0;
}

void kq_query_free(kq_query *q)
{
    kq_query_free_sequences(q);
    for (size_t i = 0; i < q->n_prompt; i++) {
        kq_free(q->prompt[i].text);
        kq_free(q->prompt[i].ids);
        kq_free(q->prompt[i].offset);
    }
    kq_free(q->prompt);
    kq_api_request_clear(&q->request);
    kq_free(q);
}

static bool penalizes(const kq_sampling *s)
{
    return s->repetition_penalty > 0 && s->repetition_penalty != 1;
}
static bool counts(const kq_api_request *r)
{
    return r->frequency_penalty != 0 || r->presence_penalty != 0;
}

static int by_id(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* What the penalties of a sequence need, so that a token costs them no more than the different ones
 * before it. */
static bool make_penalties(const kq_api_request *r, const kq_prompt *p, kq_sequence *s)
{
    if (counts(r) && !(s->count = kq_alloc(s->max_tokens, sizeof *s->count)))
        return false;
    if (!penalizes(&r->sampling))
        return true;
    if (!(s->seen = kq_alloc(p->n + s->max_tokens, sizeof *s->seen)))
        return false;
    memcpy(s->seen, p->ids, p->n * sizeof *s->seen);
    qsort(s->seen, p->n, sizeof *s->seen, by_id);
    for (size_t i = 0; i < p->n; i++)
        if (!i || s->seen[i] != s->seen[s->n_seen - 1])
            s->seen[s->n_seen++] = s->seen[i];
    return true;
}

void kq_sequence_note_token(kq_sequence *s, int32_t id)
{
    size_t i = 0;
    while (s->seen && i < s->n_seen && s->seen[i] != id)
        i++;
    if (s->seen && i == s->n_seen)
        s->seen[s->n_seen++] = id;
    for (i = 0; s->count && i < s->n_count && s->count[i].id != id;)
        i++;
    if (s->count && i == s->n_count)
        s->count[s->n_count++] = (struct kq_count){id, 0};
    if (s->count)
        s->count[i].n++;
}

/* Allocate what the answer of s is written into. */
static bool make_room(const kq_query *q, const kq_prompt *p, kq_sequence *s)
{
    const kq_api_request *r = &q->request;
    const size_t scores = (q->score_prompt ? p->n : 0) + (r->logprobs ? s->max_tokens : 0);
    s->score = kq_alloc(scores, sizeof *s->score);
    s->top = kq_alloc(scores * (size_t)r->n_top, sizeof *s->top);
    s->made = kq_alloc(s->max_tokens, sizeof *s->made);
    s->made_from = kq_alloc(s->max_tokens, sizeof *s->made_from);
    return s->score && s->top && s->made && s->made_from && make_penalties(r, p, s);
}

static bool make_sequence(const kq_query *q, const kq_tokenizer *tok, size_t max_T, size_t index,
                          kq_sequence *s)
{
    const kq_api_request *r = &q->request;
    const kq_prompt *p = &q->prompt[index / r->n];
    kq_error err;
    *s = (kq_sequence){.index = index,
                       .prompt = p->ids,
                       .n_prompt = p->n,
                       .max_tokens = r->max_tokens,
                       .sent_text = SIZE_MAX};
    if (s->max_tokens > max_T - p->n) /* kq_query_fits has checked the rest; this is "as many as fit" */
        s->max_tokens = max_T - p->n;
    /* the last token of a prompt is run only for what follows it */
    s->feed = s->max_tokens ? p->n : q->score_prompt ? p->n - 1 : 0;
    s->rng = kq_rng_stream(r->sampling.seed + index, "serve");
    if (!make_room(q, p, s) || kq_text_begin(&s->text, tok, p->ids, p->n, &err))
        return false;
    if (q->score_prompt)
        s->score[s->n_score++] = (kq_score){p->ids[0], NAN};
    return true;
}

bool kq_query_make_sequences(kq_query *q, const kq_tokenizer *tok, size_t max_T, kq_api_error *e)
{
    const size_t n = q->n_prompt * q->request.n;
    bool ok = (q->seq = kq_calloc(n, sizeof *q->seq)) != NULL;
    while (ok && q->n_seq < n) {
        ok = make_sequence(q, tok, max_T, q->n_seq, &q->seq[q->n_seq]);
        q->n_seq++; /* a sequence that failed has what was allocated, too */
    }
    if (ok)
        return true;
    kq_query_free_sequences(q);
    return kq_api_no_memory(e);
}

/* The model thread looks at give_up before every step, and it only sleeps when there is no query. */
void kq_query_cancel(kq_query *q)
{
    atomic_store(&q->give_up, true);
}
