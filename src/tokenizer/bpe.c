/* Byte pair encoding of one piece of text. At each step the pair of neighbours with the lowest rank is
 * merged, the leftmost of several equal ones first, as Hugging Face's `tokenizers` does it. Short pieces are
 * scanned, long ones use a heap, so that no text takes more than n log n steps; in a long text, pieces that
 * have been seen before are taken from a cache. */
#include <string.h>

#include "base/hash.h"
#include "tokenizer/internal.h"

enum {
    SHORT_PIECE = 32, /* up to so many symbols a scan over all pairs is faster than the heap */
    CACHE_SLOTS = 1 << 15,
    CACHE_MAX_PIECE = 48,
    CACHE_MAX_IDS = 8
};
#define NO_RANK UINT32_MAX

typedef struct cache_slot {
    uint64_t hash;
    uint32_t key_off;
    uint8_t key_size, n_id;
    int32_t id[CACHE_MAX_IDS];
} cache_slot;
struct kq_bpe_cache {
    cache_slot *slot;
    kq_buffer key;
};

/* One symbol of a long piece, in a linked list. prev and next are indices, -1 at the ends. id -1 marks a
 * symbol that was merged into its left neighbour. */
typedef struct symbol {
    int32_t id, prev, next;
} symbol;
typedef struct candidate {
    uint32_t rank, pos;
    int32_t id;
} candidate;

static const kq_merge *find_merge(const kq_tokenizer *tok, int32_t left, int32_t right)
{
    const uint64_t key = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) + 1;
    for (size_t i = kq_merge_slot(tok, key);; i = (i + 1) & tok->merge_mask) {
        if (tok->merge[i].key == key)
            return &tok->merge[i];
        if (!tok->merge[i].key)
            return NULL;
    }
}

/* Write the piece's characters as ids to dst and return their number. dst has room for `size` ids, which is
 * enough: a character gives one id at most, or one for each of its bytes. */
static size_t first_symbols(const kq_tokenizer *tok, const char *s, size_t size, int32_t *dst)
{
    size_t n = 0, unk = 0; /* unk: unknown tokens waiting to be written */
    for (size_t i = 0; i < size;) {
        size_t len = kq_utf8_size((unsigned char)s[i]);
        int32_t id;
        if (len <= 2) {
            uint32_t cp = kq_utf8_get(s + i);
            id = cp < 0x400 ? tok->char_id[cp] : kq_tok_lookup(tok, s + i, len);
        } else {
            id = kq_tok_lookup(tok, s + i, len);
        }
        if (id >= 0) {
            if (unk) {
                dst[n++] = tok->unk_id;
                unk = 0;
            }
            dst[n++] = id;
        } else {
            bool bytes = tok->byte_fallback;
            for (size_t j = 0; bytes && j < len; j++)
                bytes = tok->byte_id[(unsigned char)s[i + j]] >= 0;
            if (bytes) { /* `tokenizers` does not write a waiting unknown token first here; neither do we */
                for (size_t j = 0; j < len; j++)
                    dst[n++] = tok->byte_id[(unsigned char)s[i + j]];
            } else if (tok->unk_id >= 0) {
                if (unk && !tok->fuse_unk)
                    dst[n++] = tok->unk_id;
                unk = 1;
            }
        }
        i += len;
    }
    if (unk)
        dst[n++] = tok->unk_id;
    return n;
}

/* Merge n <= SHORT_PIECE symbols in place and return how many are left. */
static size_t merge_short(const kq_tokenizer *tok, int32_t *id, size_t n)
{
    uint32_t rank[SHORT_PIECE];
    int32_t merged[SHORT_PIECE];
    for (size_t i = 0; i + 1 < n; i++) {
        const kq_merge *m = find_merge(tok, id[i], id[i + 1]);
        rank[i] = m ? m->rank : NO_RANK;
        merged[i] = m ? m->id : -1;
    }
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best])
                best = i;
        if (rank[best] == NO_RANK)
            break;
        id[best] = merged[best];
        n--;
        memmove(id + best + 1, id + best + 2, (n - best - 1) * sizeof *id);
        if (best + 1 < n) {
            memmove(rank + best + 1, rank + best + 2, (n - best - 2) * sizeof *rank);
            memmove(merged + best + 1, merged + best + 2, (n - best - 2) * sizeof *merged);
        }
        for (size_t i = best ? best - 1 : 0; i <= best && i + 1 < n; i++) {
            const kq_merge *m = find_merge(tok, id[i], id[i + 1]);
            rank[i] = m ? m->rank : NO_RANK;
            merged[i] = m ? m->id : -1;
        }
    }
    return n;
}

static bool before(const candidate *a, const candidate *b)
{
    return a->rank < b->rank || (a->rank == b->rank && a->pos < b->pos);
}

static void sift_down(candidate *heap, size_t n, size_t i)
{
    candidate x = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(&heap[child + 1], &heap[child]))
            child++;
        if (!before(&heap[child], &x))
            break;
        heap[i] = heap[child];
    }
    heap[i] = x;
}

static void sift_up(candidate *heap, size_t i)
{
    candidate x = heap[i];
    for (; i && before(&x, &heap[(i - 1) / 2]); i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = x;
}

/* Merge the n symbols of a long piece with a heap of candidate pairs, in O(n log n) steps. An entry whose
 * pair has changed since it was pushed is skipped when it is taken out: the symbol at its position has become
 * longer, so that the pair cannot give the same token. At most 3n entries are ever pushed: n - 1 at first,
 * and two for each merge. */
static kq_status merge_long(const kq_tokenizer *tok, symbol *sym, size_t n, kq_tok_scratch *scratch,
                            kq_error *err)
{
    kq_status status =
        kq_grow(&scratch->heap, &scratch->cap_heap, 0, 3 * n, sizeof(candidate), "the tokenizer", err);
    if (status)
        return status;
    candidate *heap = scratch->heap;
    size_t n_heap = 0;
    for (size_t i = 0; i + 1 < n; i++) {
        const kq_merge *m = find_merge(tok, sym[i].id, sym[i + 1].id);
        if (m)
            heap[n_heap++] = (candidate){m->rank, (uint32_t)i, m->id};
    }
    for (size_t i = n_heap / 2; i-- > 0;)
        sift_down(heap, n_heap, i);
    while (n_heap) {
        candidate top = heap[0];
        if ((status = kq_tok_steps(scratch, 1, err)))
            return status;
        heap[0] = heap[--n_heap];
        if (n_heap)
            sift_down(heap, n_heap, 0);
        symbol *left = &sym[top.pos];
        if (left->id < 0 || left->next < 0)
            continue;
        symbol *right = &sym[left->next];
        const kq_merge *m = find_merge(tok, left->id, right->id);
        if (!m || m->id != top.id)
            continue;
        left->id = top.id;
        right->id = -1;
        left->next = right->next;
        if (right->next >= 0)
            sym[right->next].prev = (int32_t)top.pos;
        if (left->prev >= 0 && (m = find_merge(tok, sym[left->prev].id, left->id))) {
            heap[n_heap] = (candidate){m->rank, (uint32_t)left->prev, m->id};
            sift_up(heap, n_heap++);
        }
        if (left->next >= 0 && (m = find_merge(tok, left->id, sym[left->next].id))) {
            heap[n_heap] = (candidate){m->rank, top.pos, m->id};
            sift_up(heap, n_heap++);
        }
    }
    return KQ_OK;
}

kq_status kq_bpe_piece(const kq_tokenizer *tok, const char *s, size_t size, kq_tok_scratch *scratch,
                       kq_tok_ids *ids, kq_error *err)
{
    cache_slot *slot = NULL;
    uint64_t hash = 0;
    if (!size)
        return KQ_OK;
    kq_status status = kq_tok_steps(scratch, size, err);
    if (status)
        return status;
    if (tok->ignore_merges) {
        int32_t id = kq_tok_lookup(tok, s, size);
        if (id >= 0)
            return kq_tok_ids_add(ids, id, err);
    }
    if (scratch->cache && size <= CACHE_MAX_PIECE) {
        hash = kq_hash64(s, size, 0) | 1;
        slot = &scratch->cache->slot[hash >> 49 & (CACHE_SLOTS - 1)];
        if (slot->hash == hash && slot->key_size == size &&
            !memcmp(scratch->cache->key.data + slot->key_off, s, size)) {
            for (size_t i = 0; i < slot->n_id; i++) {
                if ((status = kq_tok_ids_add(ids, slot->id[i], err)))
                    return status;
            }
            return KQ_OK;
        }
    }
    size_t bytes;
    if (size > INT32_MAX / 4 || !kq_mul_size(size, sizeof(int32_t) + sizeof(symbol), &bytes))
        return kq_fail(err, KQ_E_ARG, "%s: a piece of %zu bytes is too long to tokenize in one go", tok->path,
                       size);
    if ((status = kq_grow(&scratch->bpe, &scratch->cap_bpe, 0, bytes, 1, "the tokenizer", err)))
        return status;
    int32_t *id = scratch->bpe;
    size_t n = first_symbols(tok, s, size, id), start = ids->size;
    if (n <= SHORT_PIECE) {
        n = merge_short(tok, id, n);
        for (size_t i = 0; i < n; i++)
            if ((status = kq_tok_ids_add(ids, id[i], err)))
                return status;
    } else {
        symbol *sym = (symbol *)(id + size);
        for (size_t i = 0; i < n; i++)
            sym[i] = (symbol){id[i], (int32_t)i - 1, i + 1 < n ? (int32_t)i + 1 : -1};
        if ((status = merge_long(tok, sym, n, scratch, err)))
            return status;
        for (int32_t i = 0; i >= 0; i = sym[i].next)
            if ((status = kq_tok_ids_add(ids, sym[i].id, err)))
                return status;
    }
    n = ids->size - start;
    if (slot && !slot->hash && n <= CACHE_MAX_IDS && scratch->cache->key.size < UINT32_MAX / 2) {
        size_t off = scratch->cache->key.size;
        if ((status = kq_buffer_add(&scratch->cache->key, s, size, err)))
            return status;
        *slot = (cache_slot){
            .hash = hash, .key_off = (uint32_t)off, .key_size = (uint8_t)size, .n_id = (uint8_t)n};
        memcpy(slot->id, ids->data + start, n * sizeof *slot->id);
    }
    return KQ_OK;
}

kq_status kq_bpe_cache_new(kq_tok_scratch *scratch, kq_error *err)
{
    struct kq_bpe_cache *cache = kq_calloc(1, sizeof *cache);
    if (cache)
        cache->slot = kq_calloc(CACHE_SLOTS, sizeof *cache->slot);
    if (!cache || !cache->slot) {
        kq_free(cache);
        return kq_fail(err, KQ_E_MEMORY, "out of memory: the tokenizer's word cache");
    }
    scratch->cache = cache;
    return KQ_OK;
}

void kq_bpe_cache_free(struct kq_bpe_cache *cache)
{
    if (!cache)
        return;
    kq_free(cache->slot);
    kq_free(cache->key.data);
    kq_free(cache);
}
