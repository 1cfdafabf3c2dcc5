/* The scheduler over a model that can be written down: its logits are a function of everything a slot
 * holds, so an answer that came from a mixed-up slot, a wrong prefix or a lost token is a different
 * answer. Expected values are computed here, one sequence at a time. */
#include "check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/time.h"
#include "eval/score.h"
#include "serve/batch.h"

enum { V = 384, T = 96, SLOTS = 3, END = 2 };

/* A step waits at the gate while it is not open. So a test can submit queries while an earlier one is surely
 * at work, however busy the machine is. */
enum { OPEN, CLOSED, HOLDS_A_STEP };

typedef struct toy {
    int32_t ids[SLOTS][T];
    size_t n[SLOTS];
    size_t steps, rows_max, delay_us;
    int32_t poison; /* a step with this id fails; -1: none */
    atomic_int gate;
    /* NULL, or: the gate closes when this query is done, and other_done says how many sequences of the other
     * query were done before the last step of this one */
    const kq_query *watched, *other;
    size_t other_done;
} toy;

static void gate_wait(toy *t)
{
    int expected = CLOSED;
    atomic_compare_exchange_strong(&t->gate, &expected, HOLDS_A_STEP);
    while (atomic_load(&t->gate) != OPEN)
        usleep(200);
}

static void wait_for_a_step(toy *t)
{
    while (atomic_load(&t->gate) != HOLDS_A_STEP)
        usleep(200);
}

/* Logits after ids [n]: pseudo-random in [0, 4), with the end token likely now and then. */
static void toy_logits(const int32_t *ids, size_t n, float *out)
{
    uint64_t h = 1469598103934665603u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (uint64_t)(ids[i] + 1)) * 1099511628211u;
    for (size_t j = 0; j < V; j++) {
        uint64_t x = (h ^ j * 0x9E3779B97F4A7C15u) * 0xBF58476D1CE4E5B9u;
        out[j] = (float)((x >> 40) % 4096) / 1024.0f;
    }
    out[END] = h % 16 == 0 ? 9.0f : -9.0f;
    out[0] = -9.0f; /* the document end */
}

static void toy_truncate(void *ctx, size_t s, size_t n)
{
    toy *t = ctx;
    assert_true(s < SLOTS);
    t->n[s] = t->n[s] < n ? t->n[s] : n;
}

static kq_status toy_copy(void *ctx, size_t from, size_t to, size_t n, kq_error *err)
{
    toy *t = ctx;
    (void)err;
    assert_true(from < SLOTS && to < SLOTS && from != to && n <= t->n[from]);
    memcpy(t->ids[to], t->ids[from], n * sizeof t->ids[0][0]);
    t->n[to] = n;
    return KQ_OK;
}

static kq_status toy_run(void *ctx, const kq_engine_piece *p, size_t n, kq_error *err)
{
    toy *t = ctx;
    size_t rows = 0;
    gate_wait(t);
    if (t->watched && !t->watched->done)
        t->other_done = t->other->n_done;
    else if (t->watched) {
        t->watched = NULL;
        atomic_store(&t->gate, CLOSED);
        gate_wait(t);
    }
    for (size_t i = 0; i < n; i++) {
        assert_true(p[i].slot < SLOTS && p[i].n >= 1 && p[i].n_logits <= p[i].n &&
                    t->n[p[i].slot] + p[i].n <= T);
        for (size_t k = 0; k < i; k++)
            assert_true(p[k].slot != p[i].slot);
        for (size_t k = 0; k < p[i].n; k++)
            if (p[i].ids[k] == t->poison)
                return kq_fail(err, KQ_E_NUMERIC, "poison");
        rows += p[i].n;
    }
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < p[i].n; k++) {
            size_t s = p[i].slot;
            t->ids[s][t->n[s]++] = p[i].ids[k];
            if (k + p[i].n_logits >= p[i].n)
                toy_logits(t->ids[s], t->n[s], p[i].logits + (k + p[i].n_logits - p[i].n) * V);
        }
    t->steps++;
    t->rows_max = rows > t->rows_max ? rows : t->rows_max;
    if (t->delay_us)
        usleep((unsigned)t->delay_us);
    return KQ_OK;
}

typedef struct fixture {
    toy t;
    kq_tokenizer *tok;
    kq_config cfg;
    kq_batch *b;
} fixture;

static void start(fixture *f, size_t rows, size_t max_queries)
{
    kq_error err;
    f->t = (toy){.poison = -1};
    f->cfg = (kq_config){.vocab_size = V, .eos_id = {END}, .n_eos = 1};
    check_ok(kq_tokenizer_open_file(KRONQ_GOLDEN_DIR "/tiny_cli/hf/tokenizer.json", &f->tok, &err));
    const kq_batch_options opt = {.stepper = {.ctx = &f->t,
                                              .n_slots = SLOTS,
                                              .max_T = T,
                                              .vocab_size = V,
                                              .truncate = toy_truncate,
                                              .copy = toy_copy,
                                              .run = toy_run},
                                  .tok = f->tok,
                                  .cfg = &f->cfg,
                                  .kern = kq_kern_pick(KQ_ISA_REF),
                                  .rows = rows,
                                  .max_queries = max_queries};
    check_ok(kq_batch_new(&opt, &f->b, &err));
}

static void *stop(void *ctx)
{
    fixture *f = ctx;
    kq_batch_free(f->b);
    kq_tokenizer_close(f->tok);
    return NULL;
}

/* A query of n_prompt prompts [n] each. */
static kq_query *query_of(const int32_t *ids, const size_t *n, size_t n_prompt, size_t max_tokens)
{
    kq_query *j = kq_query_new();
    assert_non_null(j);
    j->prompt = kq_calloc(n_prompt, sizeof *j->prompt);
    j->n_prompt = n_prompt;
    for (size_t i = 0; i < n_prompt; i++) {
        j->prompt[i].ids = kq_alloc(n[i], sizeof *ids);
        j->prompt[i].n = n[i];
        memcpy(j->prompt[i].ids, ids, n[i] * sizeof *ids);
        ids += n[i];
    }
    j->request =
        (kq_api_request){.n = 1, .max_tokens = max_tokens, .sampling = {.temperature = 0, .top_p = 1}};
    return j;
}

static void finish(fixture *f, kq_query *j)
{
    for (bool done = false; !done; usleep(200)) {
        kq_batch_lock(f->b);
        done = j->done;
        kq_batch_unlock(f->b);
    }
}

/* What a query's sequences must be, one at a time. */
static void check_query(const kq_query *j)
{
    float row[V];
    assert_false(j->failed || j->cancelled);
    for (size_t i = 0; i < j->n_seq; i++) {
        const kq_sequence *s = &j->seq[i];
        int32_t ids[T];
        size_t n = s->n_prompt, at = 0;
        const size_t k = (size_t)j->request.n_top;
        memcpy(ids, s->prompt, n * sizeof *ids);
        if (j->score_prompt) {
            assert_true(isnan(s->score[0].logprob));
            for (at = 1; at < n; at++) {
                toy_logits(ids, at, row);
                kq_row_stats st = kq_row_score(kq_kern_pick(KQ_ISA_REF), row, V);
                assert_int_equal(s->score[at].id, ids[at]);
                assert_true(s->score[at].logprob == (double)row[ids[at]] - st.lse);
                if (k)
                    assert_true(s->top[at * k].id == st.top &&
                                s->top[at * k].logprob == (double)st.max - st.lse);
                for (size_t t = 1; t < k; t++)
                    assert_true(s->top[at * k + t].logprob <= s->top[at * k + t - 1].logprob);
            }
        }
        size_t made = 0;
        kq_finish how = KQ_FINISH_LENGTH;
        while (made < s->max_tokens) {
            toy_logits(ids, n, row);
            kq_row_stats st = kq_row_score(kq_kern_pick(KQ_ISA_REF), row, V);
            if (st.top == END) {
                how = KQ_FINISH_STOP;
                if (j->request.logprobs) /* the end token has its entry too */
                    assert_true(s->end_scored && s->n_score == at + made + 1 &&
                                s->score[at + made].id == END);
                break;
            }
            assert_true(made < s->n_made);
            assert_int_equal(s->made[made], st.top);
            if (j->request.logprobs)
                assert_true(s->score[at + made].id == st.top &&
                            s->score[at + made].logprob == (double)st.max - st.lse);
            ids[n++] = st.top;
            made++;
        }
        assert_int_equal(s->n_made, made);
        assert_int_equal(s->finish, how);
    }
}

/* Forty queries of up to six prompts with common beginnings, scored or not, at once on three slots, for
 * several sizes of a step. */
static void everything_at_once(void **state)
{
    (void)state;
    for (size_t rows = 4; rows <= 64; rows *= 4) {
        fixture f;
        kq_query *query[40];
        kq_rng rng = kq_rng_stream(rows, "queries");
        start(&f, rows, 100);
        for (size_t i = 0; i < 40; i++) {
            int32_t ids[6 * T];
            size_t n[6], n_prompt = kq_rng_u64(&rng) % 6 + 1, at = 0;
            for (size_t p = 0; p < n_prompt; p++) {
                const size_t same = kq_rng_u64(&rng) % 60;
                n[p] = same + kq_rng_u64(&rng) % 20 + 1;
                for (size_t k = 0; k < n[p]; k++)
                    ids[at++] = k < same ? (int32_t)(k * 7 % 300 + 10 + kq_rng_u64(&rng) % 64 / 63)
                                         : (int32_t)(kq_rng_u64(&rng) % (V - 3) + 3);
            }
            query[i] = query_of(ids, n, n_prompt, kq_rng_u64(&rng) % 12);
            query[i]->score_prompt = kq_rng_u64(&rng) % 2;
            query[i]->request.logprobs = query[i]->score_prompt || kq_rng_u64(&rng) % 2;
            query[i]->request.n_top = query[i]->request.logprobs ? (int)(kq_rng_u64(&rng) % 4) : 0;
            kq_api_error e;
            assert_true(kq_batch_submit(f.b, query[i], &e));
        }
        size_t reused = 0;
        for (size_t i = 0; i < 40; i++) {
            finish(&f, query[i]);
            check_query(query[i]);
            for (size_t k = 0; k < query[i]->n_seq; k++)
                reused += query[i]->seq[k].n_reused;
            kq_query_release(f.b, query[i]);
        }
        printf("rows %zu: %zu steps of at most %zu rows, %zu prompt tokens reused\n", rows, f.t.steps,
               f.t.rows_max, reused);
        assert_true(f.t.rows_max <= (rows < SLOTS + 1 ? SLOTS + 1 : rows));
        assert_true(reused > 0);
        stop(&f);
    }
}

/* Several answers to one prompt: the prompt is run once, and their draws differ and can be repeated. */
static void several_answers(void **state)
{
    (void)state;
    fixture f;
    int32_t ids[80];
    const size_t n = 80;
    int32_t first[3][8] = {{0}};
    for (int i = 0; i < 80; i++)
        ids[i] = i + 20;
    start(&f, 32, 10);
    for (int round = 0; round < 2; round++) {
        kq_query *j = query_of(ids, &n, 1, 8);
        kq_api_error e;
        j->request.n = 3;
        j->request.ignore_eos = true;
        j->request.sampling = (kq_sampling){.temperature = 1.5, .top_p = 1, .seed = 11};
        assert_true(kq_batch_submit(f.b, j, &e));
        finish(&f, j);
        for (int i = 0; i < 3; i++) {
            assert_int_equal(j->seq[i].n_made, 8);
            if (round)
                assert_memory_equal(first[i], j->seq[i].made, sizeof first[i]);
            memcpy(first[i], j->seq[i].made, sizeof first[i]);
        }
        assert_true(memcmp(first[0], first[1], sizeof first[0]) &&
                    memcmp(first[1], first[2], sizeof first[0]));
        if (!round)
            assert_true(j->seq[0].n_reused + j->seq[1].n_reused + j->seq[2].n_reused >= 2 * (79 - 32));
        kq_query_release(f.b, j);
    }
    stop(&f);
}

/* A request with many prompts does not keep a later one waiting until it is through. */
static void fairness(void **state)
{
    (void)state;
    fixture f;
    int32_t ids[40 * 8], two[4] = {5, 6, 7, 8};
    size_t n[40], four = 4;
    for (int i = 0; i < 40 * 8; i++)
        ids[i] = 3 + i % 380;
    for (int i = 0; i < 40; i++)
        n[i] = 8;
    start(&f, 64, 10);
    atomic_store(&f.t.gate, CLOSED);
    kq_query *big = query_of(ids, n, 40, 30), *small = query_of(two, &four, 1, 5);
    kq_api_error e;
    big->request.ignore_eos = small->request.ignore_eos = true;
    assert_true(kq_batch_submit(f.b, big, &e));
    wait_for_a_step(&f.t);
    f.t.watched = small, f.t.other = big;
    assert_true(kq_batch_submit(f.b, small, &e));
    atomic_store(&f.t.gate, OPEN);
    finish(&f, small);
    wait_for_a_step(&f.t);
    printf("%zu of 40 were through\n", f.t.other_done);
    assert_true(f.t.other_done <= SLOTS); /* those that had the slots already */
    kq_query_cancel(big);
    atomic_store(&f.t.gate, OPEN);
    finish(&f, big);
    assert_true(big->cancelled && !big->failed);
    kq_query_release(f.b, big);
    kq_query_release(f.b, small);
    stop(&f);
}

static void limits(void **state)
{
    (void)state;
    fixture f;
    int32_t ids[3] = {5, 6, 7}, bad[3] = {5, 100, 7};
    size_t n = 3;
    kq_api_error e;
    start(&f, 16, 2);
    f.t.delay_us = 2000;
    kq_query *a = query_of(ids, &n, 1, 90), *b = query_of(ids, &n, 1, 90), *c = query_of(ids, &n, 1, 1);
    a->request.ignore_eos = b->request.ignore_eos = true;
    atomic_store(&f.t.gate, CLOSED);
    assert_true(kq_batch_submit(f.b, a, &e));
    wait_for_a_step(&f.t);
    b->deadline_s = kq_now_s() + 0.03;
    assert_true(kq_batch_submit(f.b, b, &e));
    assert_false(kq_batch_submit(f.b, c, &e)); /* the queue is full */
    assert_int_equal(e.http, 429);
    atomic_store(&f.t.gate, OPEN);
    finish(&f, b); /* its time is up */
    assert_true(b->failed && b->error.http == 503 && !strcmp(b->error.code, "timeout"));
    finish(&f, a);
    check_query(&(kq_query){.n_seq = 0});
    assert_int_equal(a->seq[0].n_made, 90);
    /* one that spoils a step spoils it for itself only */
    f.t.delay_us = 0;
    f.t.poison = 100;
    kq_query *p = query_of(bad, &n, 1, 4), *q = query_of(ids, &n, 1, 4);
    assert_true(kq_batch_submit(f.b, p, &e));
    assert_true(kq_batch_submit(f.b, q, &e));
    finish(&f, p);
    finish(&f, q);
    assert_true(p->failed && p->error.http == 500);
    check_query(q);
    kq_batch_stats s = kq_batch_statistics(f.b);
    assert_true(s.queries == 0 && s.active == 0 && s.waiting == 0 && s.queries_failed == 2 &&
                s.queries_done == 2);
    kq_query_release(f.b, a), kq_query_release(f.b, b), kq_query_release(f.b, c), kq_query_release(f.b, p),
        kq_query_release(f.b, q);
    stop(&f);
}

/* Ending with a query at work cancels it, and refuses what comes from then on. */
static void ending(void **state)
{
    (void)state;
    fixture f;
    int32_t ids[3] = {5, 6, 7};
    size_t n = 3;
    kq_api_error e;
    start(&f, 16, 2);
    atomic_store(&f.t.gate, CLOSED);
    kq_query *last = query_of(ids, &n, 1, 90), *full = query_of(ids, &n, 1, 1),
             *late = query_of(ids, &n, 1, 1);
    assert_true(kq_batch_submit(f.b, last, &e));
    wait_for_a_step(&f.t);
    assert_true(kq_batch_submit(f.b, full, &e)); /* the queue is full, until the ending begins */
    kq_batch_lock(f.b);
    last->refs++; /* as a connection would hold it: freed below */
    kq_batch_unlock(f.b);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, stop, &f), 0);
    do {
        usleep(200);
        assert_false(kq_batch_submit(f.b, late, &e));
    } while (e.http == 429);
    assert_int_equal(e.http, 503);
    kq_query_release(f.b, full), kq_query_release(f.b, late);
    atomic_store(&f.t.gate, OPEN);
    pthread_join(thread, NULL);
    assert_true(last->done && last->cancelled);
    kq_query_free(last);
}

/* ---- text and stop strings ---- */

static void text_is(kq_tokenizer *tok, const char *input, const char *const *stops, size_t n_stop,
                    const char *want, bool stopped)
{
    kq_error err;
    int32_t *ids;
    size_t n;
    kq_text t;
    const char *stop[4];
    size_t safe = 0;
    for (size_t i = 0; i < n_stop; i++)
        stop[i] = stops[i];
    check_ok(kq_tokenizer_encode(tok, input, strlen(input), false, false, &ids, &n, &err));
    check_ok(kq_text_begin(&t, tok, NULL, 0, &err));
    for (size_t i = 0; i < n; i++) {
        check_ok(kq_text_add(&t, tok, ids[i], stop, n_stop, &err));
        assert_true(t.safe >= safe && t.safe <= t.size); /* nothing is taken back */
        assert_true(t.safe <= strlen(want) && !memcmp(t.data ? t.data : "", want, t.safe));
        safe = t.safe;
    }
    check_ok(kq_text_end(&t, stop, n_stop, &err));
    if (t.size != strlen(want) || memcmp(t.data ? t.data : "", want, t.size) || t.stopped != stopped ||
        t.safe != t.size)
        fail_msg("\"%s\": \"%.*s\", expected \"%s\"", input, (int)t.size, t.data ? t.data : "", want);
    kq_text_clear(&t);
    kq_free(ids);
}

static void texts(void **state)
{
    (void)state;
    kq_error err;
    kq_tokenizer *tok;
    check_ok(kq_tokenizer_open_file(KRONQ_GOLDEN_DIR "/tiny_cli/hf/tokenizer.json", &tok, &err));
    text_is(tok, "the cat sat on the mat", NULL, 0, "the cat sat on the mat", false);
    text_is(tok, "the cat sat on the mat", (const char *const[]){"sat"}, 1, "the cat ", true);
    text_is(tok, "the cat sat on the mat", (const char *const[]){"mat", "on the"}, 2, "the cat sat ", true);
    text_is(tok, "ababac", (const char *const[]){"abac"}, 1, "ab", true);
    text_is(tok, "ababab", (const char *const[]){"abac"}, 1, "ababab", false);
    text_is(tok, "x\n\ny", (const char *const[]){"\n\n"}, 1, "x", true);
    text_is(tok, "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80!", NULL, 0,
            "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80!", false);
    text_is(tok, "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80!", (const char *const[]){"\xf0\x9f\x98\x80"}, 1,
            "caf\xc3\xa9 \xe2\x82\xac ", true);
    text_is(tok, "stop", (const char *const[]){"stop"}, 1, "", true);
    text_is(tok, "a", (const char *const[]){"ab"}, 1, "a", false);
    /* broken characters become U+FFFD, also at the end */
    kq_text t;
    check_ok(kq_text_begin(&t, tok, NULL, 0, &err));
    check_ok(kq_text_bytes(&t,
                           "a\xff"
                           "b\xe2\x82",
                           5, &err));
    assert_int_equal(t.size, 5);
    check_ok(kq_text_end(&t, NULL, 0, &err));
    assert_int_equal(t.size, 8);
    assert_memory_equal(t.data,
                        "a\xEF\xBF\xBD"
                        "b\xEF\xBF\xBD",
                        8);
    kq_text_clear(&t);
    kq_tokenizer_close(tok);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts),           cmocka_unit_test(everything_at_once),
        cmocka_unit_test(several_answers), cmocka_unit_test(fairness),
        cmocka_unit_test(limits),          cmocka_unit_test(ending)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
