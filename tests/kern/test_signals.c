/* A signal handler of the host program runs on a stack of its thread, at whatever moment of a product the
 * signal comes. (With the signals let through 60% of the handlers of the f32 products run on the heap.)
 *
 * A thread can have two stacks: its own, and an alternate one (sigaltstack) for the handlers that ask for it.
 * kronq sets up no alternate stack, but AddressSanitizer gives one to every thread. glibc's handler of its
 * own signal, which setgid sends, asks for it. So a handler of this test that interrupts glibc's handler runs
 * on the alternate stack, and that is as it should be. */
#include "check.h"

#include <errno.h>
#include <omp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/time.h"
#include "kern/gemm.h"

enum { THREADS = 2, SIDE = 512 };

static pthread_t worker[THREADS];
static atomic_int n_worker;
static atomic_size_t handled;
static atomic_bool finished;

typedef struct span {
    const char *low, *high;
} span;
static _Thread_local span own_stack, alternate_stack; /* the second is empty where the thread has none */

static bool inside(span stack, const char *frame)
{
    return frame >= stack.low && frame < stack.high;
}

/* The process ends at once when the heap is damaged: nothing that follows would be sure to end. The system
 * call is made directly. Before a call of _exit, as before every function that does not return,
 * AddressSanitizer takes a lock of the thread; a second signal to the same thread would wait for that lock
 * for ever. */
static void on_signal(int number)
{
    (void)number;
    const int before = errno;
    const char *frame = __builtin_frame_address(0);
    atomic_fetch_add(&handled, 1);
    if (!inside(own_stack, frame) && !inside(alternate_stack, frame)) {
        static const char what[] = "FAILED: a signal handler ran on memory that is no stack of its thread\n";
        syscall(SYS_exit_group, write(STDERR_FILENO, what, sizeof what - 1) ? 1 : 2);
    }
    errno = before;
}

static void register_thread(void)
{
    pthread_attr_t a;
    void *low;
    size_t size;
    stack_t alternate;
    if (pthread_getattr_np(pthread_self(), &a) || pthread_attr_getstack(&a, &low, &size) ||
        sigaltstack(NULL, &alternate))
        abort();
    pthread_attr_destroy(&a);
    own_stack = (span){low, (char *)low + size};
    if (!(alternate.ss_flags & SS_DISABLE))
        alternate_stack = (span){alternate.ss_sp, (char *)alternate.ss_sp + alternate.ss_size};
    worker[atomic_fetch_add(&n_worker, 1)] = pthread_self();
}

/* Signals to one thread after another; now and then glibc's own, which setgid sends to every thread. */
static void *send(void *unused)
{
    (void)unused;
    kq_rng rng = kq_rng_stream(7, "signals");
    for (size_t i = 0; !atomic_load(&finished); i++) {
        pthread_kill(worker[i % THREADS], i % 3 ? SIGPROF : SIGALRM);
        if (i % 64 == 0 && setgid(getgid()))
            abort();
        const struct timespec pause = {.tv_nsec = 20000 + (long)(kq_rng_u64(&rng) % 60000)};
        nanosleep(&pause, NULL);
    }
    return NULL;
}

/* Rounds of products until so many signals were handled: at least one round, at most a minute (the machine
 * may be busy). */
static void products(bool bf16, size_t signals)
{
    kq_error err;
    const size_t n = SIDE * 3 * SIDE;
    float *A = kq_alloc(n, 4), *B = kq_alloc(n, 4), *C = kq_alloc(n, 4);
    uint16_t *a = kq_calloc(n, 2);
    kq_rng rng = kq_rng_stream(1, "products");
    for (size_t i = 0; i < n; i++)
        A[i] = B[i] = (float)kq_rng_normal(&rng);
    const double end = kq_now_s() + 60;
    do {
        for (int t = 0; t < 8; t++) {
            const bool ta = t & 1, tb = t & 2,
                       few = t & 4; /* few rows of f32: OpenBLAS multiplies, not oneDNN */
            const size_t m = few ? 24 : SIDE, k = t % 4 == 3 ? 64 : 3 * SIDE, lda = ta ? m : k,
                         ldb = tb ? k : SIDE;
            if (bf16)
                check_ok(kq_gemm_bf16_tiled(ta, tb, m, SIDE, k, a, lda, a, ldb, few, C, SIDE, THREADS, &err));
            else
                kq_gemm_f32_tiled(ta, tb, m, SIDE, k, 1, A, lda, B, ldb, few, C, SIDE, THREADS);
        }
    } while (atomic_load(&handled) < signals && kq_now_s() < end);
    kq_free(A), kq_free(B), kq_free(C), kq_free(a);
}

static void run(bool bf16)
{
    pthread_t sender;
    atomic_store(&handled, 0), atomic_store(&finished, false);
    if (pthread_create(&sender, NULL, send, NULL))
        fail_msg("no thread");
    products(bf16, 300);
    atomic_store(&finished, true);
    pthread_join(sender, NULL);
    print_message("%zu signals\n", atomic_load(&handled));
    assert_true(atomic_load(&handled) >= 300);
}

static void test_f32(void **state)
{
    (void)state;
    run(false);
}

static void test_bf16(void **state)
{
    (void)state;
    run(true);
}

/* What was blocked stays blocked, and what was not is let through. */
static void test_mask(void **state)
{
    (void)state;
    sigset_t blocked, before, after;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &blocked, &before);
    pthread_sigmask(SIG_BLOCK, NULL, &before);
    products(false, 0);
    pthread_sigmask(SIG_BLOCK, NULL, &after);
    for (int i = 1; i < SIGRTMAX; i++)
        if (sigismember(&before, i) != sigismember(&after, i))
            fail_msg("signal %d", i);
    assert_int_equal(sigismember(&after, SIGUSR2), 1);
    assert_int_equal(sigismember(&after, SIGINT), 0);
}

int main(void)
{
    kq_isa isa;
    kq_error err;
    if (kq_isa_pick(NULL, &isa, &err)) {
        print_message("SKIP: %s\n", err.message);
        return 77;
    }
    kq_kern_init(isa);
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGPROF, &action, NULL);
    sigaction(SIGALRM, &action, NULL);
#pragma omp parallel num_threads(THREADS)
    register_thread();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_f32), cmocka_unit_test(test_bf16),
                                       cmocka_unit_test(test_mask)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
