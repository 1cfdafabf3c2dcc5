/* The arena of a run, its bounds, and the way out of it. Bounds are checked where memory is taken and where
 * text is walked, so that a hostile template or message cannot make any function slow or large. */
#include "pyvalue/run.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

enum { BLOCK = 64 << 10, POLL = 1 << 15 /* steps, about a thousandth of a second */ };
typedef struct py_block {
    struct py_block *next;
    size_t size, used;
} py_block;

void kq_py_fail(py_run *r, kq_status status, const char *format, ...)
{
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    r->status = kq_fail(r->err, status, "%s, line %d: %s", r->name, r->line, text);
    longjmp(r->out, 1);
}

void kq_py_spend(py_run *r, size_t steps)
{
    if (r->steps < steps)
        kq_py_fail(r, KQ_E_ARG, "the template takes more than %d steps", KQ_PY_MAX_STEPS);
    const size_t before = r->steps;
    r->steps -= steps;
    if (r->stop && before / POLL != r->steps / POLL && r->stop(r->stop_ctx))
        kq_py_fail(r, KQ_E_INTERRUPTED, "stopped");
}

void *kq_py_alloc(py_run *r, size_t n, size_t size)
{
    py_arena *a = r->arena;
    if (!kq_mul_size(n, size, &size) || size > KQ_PY_MAX_MEMORY)
        kq_py_fail(r, KQ_E_ARG, "the template needs more than %d MB", KQ_PY_MAX_MEMORY >> 20);
    size = (size + 15) & ~(size_t)15;
    if (!a->head || a->head->size - a->head->used < size) {
        const size_t block = size > BLOCK / 4 ? size : BLOCK;
        if (a->used + block > KQ_PY_MAX_MEMORY)
            kq_py_fail(r, KQ_E_ARG, "the template needs more than %d MB", KQ_PY_MAX_MEMORY >> 20);
        py_block *b = kq_alloc(1, sizeof *b + 16 + block);
        if (!b)
            kq_py_fail(r, KQ_E_MEMORY, "out of memory");
        *b = (py_block){.size = block};
        a->used += block;
        if (block == BLOCK || !a->head) {
            b->next = a->head;
            a->head = b;
        } else { /* a block for one large value is put behind the block that is being filled */
            b->next = a->head->next;
            a->head->next = b;
            b->used = size;
            kq_py_spend(r, size / 64);
            return memset((char *)(b + 1) + 8, 0, size);
        }
    }
    char *p = (char *)(a->head + 1) + 8 + a->head->used;
    a->head->used += size;
    kq_py_spend(r, size / 64);
    return memset(p, 0, size);
}

void kq_py_grow(py_run *r, void *block, size_t *cap, size_t n, size_t size)
{
    if (n < *cap)
        return;
    const size_t bigger = *cap ? 2 * *cap : 4;
    void *old, *new = kq_py_alloc(r, bigger, size);
    memcpy(&old, block, sizeof old);
    if (n)
        memcpy(new, old, n * size);
    memcpy(block, &new, sizeof new);
    *cap = bigger;
}

void kq_py_arena_free(py_arena *a)
{
    for (py_block *b = a->head; b;) {
        py_block *next = b->next;
        kq_free(b);
        b = next;
    }
    kq_free(a);
}

void kq_py_enter(py_run *r)
{
    if (++r->value_depth > KQ_PY_MAX_VALUE_DEPTH)
        kq_py_fail(r, KQ_E_ARG, "more than %d lists and objects within each other", KQ_PY_MAX_VALUE_DEPTH);
    py_tick(r);
}
