/* The frame of everything that computes with values: an arena that holds all of them, a budget of steps, and
 * one way out. Every value of a run lies in the arena, which is freed when the run ends: nothing is freed
 * before, and an error leaves by longjmp to the setjmp of the run's owner. This keeps the code of values free
 * of clean-up and of checks of results. */
#ifndef KQ_PYVALUE_RUN_H
#define KQ_PYVALUE_RUN_H

#include <setjmp.h>

#include "base/error.h"

/* Bounds of a run; passing one is an error, KQ_E_ARG. */
enum {
    /* steps: a node that is run, a value that is made, and 64 bytes that are copied or searched count one
     * each; so many steps take one to three seconds */
    KQ_PY_MAX_STEPS = 50000000,
    KQ_PY_MAX_MEMORY = 256 << 20, /* bytes of all values of one run */
    KQ_PY_MAX_OUTPUT = 32 << 20,  /* bytes of any one string */
    KQ_PY_MAX_VALUE_DEPTH = 200   /* lists and objects within each other */
};

typedef struct py_arena {
    struct py_block *head;
    size_t used; /* bytes of all blocks */
} py_arena;

/* The owner fills in err, arena, name, steps and stop, and calls setjmp(run.out); after a longjmp, status and
 * *err say why. */
typedef struct py_run {
    jmp_buf out;
    kq_error *err;
    kq_status status;
    py_arena *arena;
    const char *name;        /* of the template, for messages */
    int line;                /* where the run is in it, for messages */
    size_t steps;            /* left */
    bool (*stop)(void *ctx); /* asked about every thousandth of a second; true ends the run; may be NULL */
    void *stop_ctx;
    int value_depth; /* lists and objects around the value that is being walked */
} py_run;

/* Leave the run with "NAME, line N: message". */
void kq_py_fail(py_run *r, kq_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4), noreturn));
#define py_type_error(r, ...) kq_py_fail(r, KQ_E_ARG, __VA_ARGS__)
/* n elements of `size` bytes from the arena, cleared to zero. */
void *kq_py_alloc(py_run *r, size_t n, size_t size);
/* *block (a pointer to a pointer) afterwards holds at least n + 1 elements; the first n are kept. */
void kq_py_grow(py_run *r, void *block, size_t *cap, size_t n, size_t size);
void kq_py_arena_free(py_arena *a);
/* Count steps. Fails when none are left, and when the owner wants to stop. */
void kq_py_spend(py_run *r, size_t steps);
static inline void py_tick(py_run *r)
{
    kq_py_spend(r, 1);
}
/* Go one level deeper into a value, and back. Too many levels fail. */
void kq_py_enter(py_run *r);
static inline void py_leave(py_run *r)
{
    r->value_depth--;
}

#endif
