/* Scores requests block by block over packed documents. The engine with its key/value caches could do it too.
 * This way has three advantages: the products are as large as the memory allows, which makes f32 fast; a
 * model that does not fit into memory is scored one block at a time; and what a document's requests begin
 * with is computed once, without a cache. */
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/first_error.h"
#include "base/mem.h"
#include "base/threads.h"
#include "eval/score.h"
#include "tasks/python_text.h"
#include "tasks/tasks.h"

/* rows that go through a block together; a document with more rows goes alone */
enum { PACK_ROWS = 2048 };
/* a model whose blocks take no more bytes stays in memory between calls */
#define KEEP_BYTES ((size_t)2 << 30)

/* ---- text to ids --------------------------------------------------------------------------------------- */

/* Encode a text with the tokenizer's special tokens, or without them when the text itself begins with the
 * beginning token. */
static kq_status encode(const kq_tokenizer *tok, const char *text, size_t size, int32_t **ids, size_t *n,
                        kq_error *err)
{
    const int32_t start = kq_tokenizer_bos(tok) >= 0 ? kq_tokenizer_bos(tok) : kq_tokenizer_eos(tok);
    bool special = true;
    if (start >= 0) {
        char *written;
        size_t n_written;
        kq_status st = kq_tokenizer_decode(tok, &start, 1, false, &written, &n_written, err);
        if (st)
            return st;
        special = size < n_written || memcmp(text, written, n_written);
        kq_free(written);
    }
    return kq_tokenizer_encode(tok, text, size, special, true, ids, n, err);
}

kq_status kq_request_encode(const kq_tokenizer *tok, const kq_request *req, kq_encoded *out, kq_error *err)
{
    char *text = NULL;
    int32_t *context = NULL, *whole = NULL;
    size_t n_context, n_whole;
    *out = (kq_encoded){0};
    if (asprintf(&text, "%s%s", req->context, req->continuation) < 0)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: a request");
    kq_status st = encode(tok, text, kq_str_rstrip(req->context), &context, &n_context, err);
    if (!st)
        st = encode(tok, text, strlen(text), &whole, &n_whole, err);
    if (!st && n_context == 0)
        st = kq_fail(err, KQ_E_FORMAT, "the context of a choice is empty");
    if (!st && n_whole <= n_context)
        st = kq_fail(err, KQ_E_FORMAT, "a choice adds no token to its context");
    if (!st && !(st = kq_alloc_for((void **)&out->ids, n_whole, sizeof *out->ids, "token ids", err))) {
        memcpy(out->ids, context, n_context * sizeof *context);
        memcpy(out->ids + n_context, whole + n_context, (n_whole - n_context) * sizeof *whole);
        out->n = n_whole;
        out->n_cont = n_whole - n_context;
    }
    free(text);
    kq_free(context);
    kq_free(whole);
    return st;
}

/* ---- a document's requests as rows --------------------------------------------------------------------- */

/* The ids that the model is given: of the request's last max_length + 1 ids all but the very last, which is
 * only predicted. */
typedef struct input {
    const int32_t *ids;
    size_t n;
} input;

static input input_of(const kq_encoded *e, size_t max_length)
{
    const size_t cut = e->n > max_length + 1 ? e->n - (max_length + 1) : 0;
    return (input){e->ids + cut, e->n - cut - 1};
}

/* How many ids all n inputs share at their beginning. */
static size_t shared_prefix(const kq_encoded *req, size_t n, size_t max_length)
{
    const input first = input_of(&req[0], max_length);
    size_t shared = first.n;
    for (size_t i = 1; i < n; i++) {
        const input in = input_of(&req[i], max_length);
        size_t k = 0;
        while (k < shared && k < in.n && in.ids[k] == first.ids[k])
            k++;
        shared = k;
    }
    return shared;
}

size_t kq_document_rows(const kq_encoded *req, size_t n_req, size_t max_length)
{
    const size_t shared = shared_prefix(req, n_req, max_length);
    size_t rows = shared;
    for (size_t i = 0; i < n_req; i++)
        rows += input_of(&req[i], max_length).n - shared;
    return rows;
}

/* ---- the scorer ---------------------------------------------------------------------------------------- */

struct kq_scorer {
    const kq_weights *w;
    kq_model_ctx *mc;
    kq_head *head;
    const kq_kern *kern;
    kq_block *blocks; /* [n_layer] when the blocks stay in memory, else NULL */
    size_t longest, d, vocab, n_loaded;
    int threads;
};

/* One token that is to be predicted, and the row whose hidden state predicts it. */
typedef struct target {
    size_t row, request;
    int32_t id;
} target;
/* Documents that go through a block together: the segments of the rows [row0, row0 + rows). Their row numbers
 * are counted from row0. */
typedef struct pack {
    size_t row0, rows, seg0, n_seg, longest;
} pack;

typedef struct job {
    float *x;     /* [rows, d] */
    int32_t *ids; /* [rows] */
    kq_segment *seg;
    size_t n_seg;
    pack *packs;
    size_t n_pack, most_rows, longest;
    target *targets;
    size_t n_target;
    size_t rows;
} job;

void kq_scorer_free(kq_scorer *s)
{
    if (!s)
        return;
    for (size_t i = 0; s->blocks && i < s->n_loaded; i++)
        kq_block_free(&s->blocks[i]);
    kq_free(s->blocks);
    kq_head_free(s->head);
    kq_model_ctx_free(s->mc);
    kq_free(s);
}

/* How many floats one thread needs for the logits of a tile and their inputs. */
static size_t tile_slice(const kq_scorer *s)
{
    return KQ_HEAD_TILE * (s->vocab + 2 * s->d);
}

/* The peak of memory in bytes, without blocks that stay in memory: the program, the head, the hidden states
 * of a call, and either a block at work or tiles of logits. */
static size_t scorer_bytes(const kq_scorer *s, size_t largest, kq_compute compute)
{
    const kq_config *cfg = s->w->cfg;
    const size_t rows = largest > KQ_SCORER_ROWS ? largest : KQ_SCORER_ROWS,
                 packed = largest > PACK_ROWS ? largest : PACK_ROWS;
    const size_t block = kq_block_load_bytes(cfg, compute) +
                         kq_block_packed_scratch_bytes(s->mc, packed, s->longest, s->threads);
    const size_t tiles = (size_t)s->threads * tile_slice(s) * sizeof(float);
    return KQ_PROGRAM_BYTES + kq_head_bytes(cfg, compute) + rows * s->d * sizeof(float) +
           (block > tiles ? block : tiles);
}

kq_status kq_scorer_new(const kq_weights *w, size_t longest, size_t largest, const kq_eval_options *opt,
                        kq_scorer **out, kq_error *err)
{
    *out = NULL;
    kq_scorer *s = kq_calloc(1, sizeof *s);
    if (!s)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: the scorer");
    *s = (kq_scorer){.w = w,
                     .kern = kq_kern_pick(opt->isa),
                     .longest = longest,
                     .d = w->cfg->d_model,
                     .vocab = w->cfg->vocab_size};
    s->threads = opt->threads > 0 ? opt->threads : kq_processors();
    kq_status st = kq_model_ctx_new(w->cfg, opt->isa, opt->compute, longest, &s->mc, err);
    kq_mem_give_back();
    const size_t least = st ? 0 : scorer_bytes(s, largest, opt->compute);
    if (!st && opt->memory && opt->memory < least)
        st = kq_fail(err, KQ_E_MEMORY,
                     "--memory %zuM is too little: scoring these documents takes at least %zuM; fewer "
                     "--threads take less",
                     opt->memory >> 20, (least >> 20) + 1);
    if (!st)
        st = kq_head_load(s->mc, w, &s->head, err);
    const size_t keep = opt->memory && opt->memory - least < KEEP_BYTES ? opt->memory - least : KEEP_BYTES;
    if (!st && kq_block_bytes(w->cfg, opt->compute) <= keep / w->cfg->n_layer &&
        !(s->blocks = kq_calloc(w->cfg->n_layer, sizeof *s->blocks)))
        st = kq_fail(err, KQ_E_MEMORY, "out of memory: the scorer");
    if (st) {
        kq_scorer_free(s);
        return st;
    }
    *out = s;
    return KQ_OK;
}

static void job_free(job *j)
{
    kq_free(j->x);
    kq_free(j->ids);
    kq_free(j->seg);
    kq_free(j->packs);
    kq_free(j->targets);
}

/* Lay n requests of one document into rows from `row` on (the pack begins at row0). What all of them begin
 * with takes rows only once. */
static void add_document(job *j, const kq_encoded *req, size_t n, size_t request0, size_t max_length,
                         const pack *p, size_t *row)
{
    const size_t shared = shared_prefix(req, n, max_length), prefix = *row;
    memcpy(j->ids + prefix, input_of(&req[0], max_length).ids, shared * sizeof *j->ids);
    if (shared)
        j->seg[j->n_seg++] = (kq_segment){.row = prefix - p->row0, .n = shared};
    *row += shared;
    for (size_t i = 0; i < n; i++) {
        const input in = input_of(&req[i], max_length);
        const size_t own = in.n - shared;
        memcpy(j->ids + *row, in.ids + shared, own * sizeof *j->ids);
        if (own)
            j->seg[j->n_seg++] = (kq_segment){
                .row = *row - p->row0, .n = own, .prefix_row = prefix - p->row0, .prefix_n = shared};
        for (size_t t = 0; t < req[i].n_cont; t++) {
            const size_t at = in.n - req[i].n_cont + t;
            j->targets[j->n_target++] = (target){.row = at < shared ? prefix + at : *row + at - shared,
                                                 .request = request0 + i,
                                                 .id = req[i].ids[req[i].n - req[i].n_cont + t]};
        }
        *row += own;
    }
}

static int by_row(const void *a, const void *b)
{
    const target *x = a, *y = b;
    return x->row != y->row           ? (x->row < y->row ? -1 : 1)
           : x->request != y->request ? (x->request < y->request ? -1 : 1)
                                      : 0;
}

static kq_status job_new(const kq_scorer *s, const kq_encoded *req, const size_t *n_req, size_t n_docs,
                         size_t max_length, job *j, kq_error *err)
{
    size_t n_requests = 0, n_target = 0, row = 0;
    *j = (job){0};
    for (size_t i = 0, r = 0; i < n_docs; r += n_req[i++]) {
        j->rows += kq_document_rows(req + r, n_req[i], max_length);
        n_requests += n_req[i];
        for (size_t k = 0; k < n_req[i]; k++) {
            n_target += req[r + k].n_cont;
            if (req[r + k].n_cont > max_length || input_of(&req[r + k], max_length).n > s->longest)
                return kq_fail(err, KQ_E_ARG,
                               "a choice of %zu tokens does not fit the model's context of %zu",
                               req[r + k].n_cont, max_length);
        }
    }
    kq_status st = kq_alloc_for((void **)&j->x, j->rows, s->d * sizeof *j->x, "hidden states", err);
    if (!st)
        st = kq_alloc_for((void **)&j->ids, j->rows, sizeof *j->ids, "token ids", err);
    if (!st)
        st = kq_alloc_for((void **)&j->seg, n_requests + n_docs, sizeof *j->seg, "segments", err);
    if (!st)
        st = kq_alloc_for((void **)&j->packs, n_docs, sizeof *j->packs, "packs", err);
    if (!st)
        st = kq_alloc_for((void **)&j->targets, n_target, sizeof *j->targets, "targets", err);
    if (st)
        return st;
    for (size_t i = 0, r = 0; i < n_docs; r += n_req[i++]) {
        const size_t rows = kq_document_rows(req + r, n_req[i], max_length);
        pack *p = j->n_pack ? &j->packs[j->n_pack - 1] : NULL;
        if (!p || p->rows + rows > PACK_ROWS) {
            p = &j->packs[j->n_pack++];
            *p = (pack){.row0 = row, .seg0 = j->n_seg};
        }
        add_document(j, req + r, n_req[i], r, max_length, p, &row);
        p->rows += rows;
        p->n_seg = j->n_seg - p->seg0;
        for (size_t k = 0; k < n_req[i]; k++) {
            const size_t n = input_of(&req[r + k], max_length).n;
            if (n > p->longest)
                p->longest = n;
        }
        if (p->rows > j->most_rows)
            j->most_rows = p->rows;
        if (p->longest > j->longest)
            j->longest = p->longest;
    }
    qsort(j->targets, j->n_target, sizeof *j->targets, by_row);
    return KQ_OK;
}

static kq_status run_blocks(kq_scorer *s, job *j, int (*step)(void *ctx, double fraction), void *ctx,
                            kq_error *err)
{
    const size_t n_layer = s->w->cfg->n_layer,
                 bytes = kq_block_packed_scratch_bytes(s->mc, j->most_rows, j->longest, s->threads);
    void *scratch;
    kq_status st = kq_alloc_for(&scratch, bytes, 1, "activations", err);
    if (!st)
        st = kq_head_embed(s->head, j->ids, j->rows, j->x, err);
    for (size_t layer = 0; layer < n_layer && !st; layer++) {
        kq_block once = {0}, *b = s->blocks ? &s->blocks[layer] : &once;
        if (!s->blocks || layer >= s->n_loaded) {
            st = kq_block_load(s->mc, s->w, layer, b, err);
            s->n_loaded += s->blocks && !st;
        }
        for (size_t i = 0; i < j->n_pack && !st; i++) {
            const pack *p = &j->packs[i];
            st = kq_block_forward_packed(
                s->mc, b, j->x + p->row0 * s->d,
                &(kq_packing){
                    .T = p->rows, .seg = j->seg + p->seg0, .n_seg = p->n_seg, .longest = p->longest},
                scratch, s->threads, err);
        }
        kq_block_free(&once);
        if (!st && step && step(ctx, (double)(layer + 1) / (double)(n_layer + 1)))
            st = kq_fail(err, KQ_E_INTERRUPTED, "evaluation stopped on request");
    }
    kq_free(scratch);
    return st;
}

/* Compute the logits of the rows that predict something, a tile at a time. lp [n_target]: the log-probability
 * of each target; hit [n_target]: was it the most likely token? */
static kq_status run_head(const kq_scorer *s, const job *j, double *lp, bool *hit, kq_error *err)
{
    /* tile t has the targets tile[t] .. tile[t + 1] - 1, which belong to at most KQ_HEAD_TILE rows */
    size_t *tile, n_tile = 0, rows = 0;
    kq_status st = kq_alloc_for((void **)&tile, j->n_target + 1, sizeof *tile, "tiles", err);
    if (st)
        return st;
    for (size_t i = 0; i < j->n_target; i++) {
        const bool fresh = !i || j->targets[i].row != j->targets[i - 1].row;
        if (!i || (fresh && rows == KQ_HEAD_TILE)) {
            tile[n_tile++] = i;
            rows = 0;
        }
        rows += fresh;
    }
    tile[n_tile] = j->n_target;
    const size_t slice = tile_slice(s);
    const int threads = n_tile < (size_t)s->threads ? (int)n_tile : s->threads;
    float *scratch;
    if ((st = kq_alloc_for((void **)&scratch, (size_t)threads, slice * sizeof *scratch, "tiles of logits",
                           err))) {
        kq_free(tile);
        return st;
    }
    kq_first_error f = KQ_FIRST_ERROR;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (size_t t = 0; t < n_tile; t++) {
        float *x = scratch + (size_t)omp_get_thread_num() * slice, *norm = x + KQ_HEAD_TILE * s->d,
              *logits = norm + KQ_HEAD_TILE * s->d;
        kq_row_stats row = {0};
        kq_error e = {0};
        size_t n = 0, last = SIZE_MAX;
        if (kq_first_error_skip(&f, t))
            continue;
        for (size_t i = tile[t]; i < tile[t + 1]; i++)
            if (j->targets[i].row != last) {
                last = j->targets[i].row;
                memcpy(x + n++ * s->d, j->x + last * s->d, s->d * sizeof *x);
            }
        kq_status mine = kq_head_logits(s->head, x, n, logits, norm, 1, &e);
        n = 0;
        last = SIZE_MAX;
        for (size_t i = tile[t]; i < tile[t + 1] && !mine; i++) {
            if (j->targets[i].row != last) {
                last = j->targets[i].row;
                row = kq_row_score(s->kern, logits + n++ * s->vocab, s->vocab);
            }
            const size_t id = (size_t)j->targets[i].id;
            if (id >= s->vocab)
                mine = kq_fail(&e, KQ_E_ARG, "token %zu is outside the vocabulary of %zu", id, s->vocab);
            else if (!isfinite(lp[i] = (double)logits[(n - 1) * s->vocab + id] - row.lse))
                mine = kq_fail(&e, KQ_E_NUMERIC, "the logits hold NaN or Inf");
            hit[i] = !mine && row.top == (int32_t)id;
        }
        kq_first_error_note(&f, t, mine, &e);
    }
    st = kq_first_error_get(&f, err);
    kq_free(scratch);
    kq_free(tile);
    return st;
}

kq_status kq_scorer_run(kq_scorer *s, const kq_encoded *req, const size_t *n_req, size_t n_docs,
                        size_t max_length, kq_loglikelihood *out, int (*step)(void *ctx, double fraction),
                        void *ctx, kq_error *err)
{
    job j;
    double *lp = NULL;
    bool *hit = NULL;
    size_t n = 0;
    kq_status st = job_new(s, req, n_req, n_docs, max_length, &j, err);
    if (!st)
        st = kq_alloc_for((void **)&lp, j.n_target, sizeof *lp, "scores", err);
    if (!st)
        st = kq_alloc_for((void **)&hit, j.n_target, sizeof *hit, "scores", err);
    if (!st && !(st = run_blocks(s, &j, step, ctx, err)))
        st = run_head(s, &j, lp, hit, err);
    if (!st) {
        for (size_t i = 0; i < n_docs; i++)
            n += n_req[i];
        for (size_t i = 0; i < n; i++)
            out[i] = (kq_loglikelihood){.greedy = true};
        /* targets are sorted by row, so that the tokens of a request come in their order */
        for (size_t i = 0; i < j.n_target; i++) {
            out[j.targets[i].request].value += lp[i];
            out[j.targets[i].request].greedy &= hit[i];
        }
        if (step && step(ctx, 1))
            st = kq_fail(err, KQ_E_INTERRUPTED, "evaluation stopped on request");
    }
    kq_free(lp);
    kq_free(hit);
    job_free(&j);
    return st;
}

kq_answer kq_document_answer(const kq_document *doc, const kq_loglikelihood *ll)
{
    kq_answer a = {0};
    for (size_t i = 1; i < doc->n; i++) {
        if (ll[i].value > ll[a.pick].value)
            a.pick = i;
        if (ll[i].value / (double)doc->req[i].choice_chars >
            ll[a.pick_norm].value / (double)doc->req[a.pick_norm].choice_chars)
            a.pick_norm = i;
    }
    return a;
}
