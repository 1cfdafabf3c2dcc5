/* Matrix products in f32 and bf16 through OpenBLAS and oneDNN. Neither library alone will do: OpenBLAS has no
 * bf16 and cannot be held to an instruction set once it is loaded, oneDNN is slower on small products. Both
 * are held to one thread a call, because their own threading changes the last bits with the number of
 * threads. */
#include "kern/gemm.h"

#include <cblas.h>
#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/f16.h"
#include "base/first_error.h"
#include "base/mem.h"

/* ---- run-once state ------------------------------------------------------------------------------------ */

enum { INIT_NONE, INIT_RUNNING, INIT_DONE };
static atomic_int init_state;
/* Written once by the thread that wins init_state, read only after INIT_DONE was seen (acquire). */
static kq_isa the_isa;
/* The caller asked for less than the machine has: OpenBLAS cannot be held back, oneDNN can. */
static bool f32_through_dnnl;
static bool bf16_through_dnnl;
static dnnl_engine_t engine;
static pthread_key_t cache_key;
static bool have_key;

static void cache_free(void *cache);

/* An OpenBLAS built on OpenMP and oneDNN both take as many threads as omp_get_max_threads() says,
 * whatever was set before, unless they are called in a parallel region. The number belongs to the
 * calling task alone, so this disturbs no other thread. */
int kq_one_thread_begin(void)
{
    int n = omp_get_max_threads();
    if (n != 1)
        omp_set_num_threads(1);
    return n;
}

void kq_one_thread_end(int n)
{
    if (n != 1)
        omp_set_num_threads(n);
}

void kq_kern_init(kq_isa isa)
{
    int expected = INIT_NONE;
    if (!atomic_compare_exchange_strong(&init_state, &expected, INIT_RUNNING)) {
        while (atomic_load_explicit(&init_state, memory_order_acquire) != INIT_DONE)
            sched_yield();
        return;
    }
    kq_isa best = kq_isa_best();
    if (isa > best)
        isa = best;
    the_isa = isa;
    f32_through_dnnl = isa < KQ_ISA_AVX512 && isa < best;
    int n = omp_get_max_threads();
    openblas_set_num_threads(1);
    omp_set_num_threads(n);
    if (isa == KQ_ISA_REF)
        dnnl_set_max_cpu_isa(dnnl_cpu_isa_sse41);
    else if (isa == KQ_ISA_AVX2)
        dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx2);
    else if (isa == KQ_ISA_AVX512)
        dnnl_set_max_cpu_isa(
            dnnl_cpu_isa_avx512_core_bf16); /* AVX512_BF16 where the processor has it; no AMX */
    have_key = pthread_key_create(&cache_key, cache_free) == 0;
    if (dnnl_engine_create(&engine, dnnl_cpu, 0) != dnnl_success)
        engine = NULL;
    bf16_through_dnnl = engine && have_key && isa >= KQ_ISA_AVX512;
    atomic_store_explicit(&init_state, INIT_DONE, memory_order_release);
}

static inline void ensure_init(void)
{
    if (atomic_load_explicit(&init_state, memory_order_acquire) != INIT_DONE)
        kq_kern_init(kq_isa_best());
}

kq_compute kq_compute_best(kq_isa isa)
{
    return isa >= KQ_ISA_AMX ? KQ_BF16 : KQ_F32;
}

kq_status kq_compute_pick(const char *name, kq_isa isa, kq_compute *out, kq_error *err)
{
    if (name && strcmp(name, "f32") && strcmp(name, "bf16"))
        return kq_fail(err, KQ_E_ARG, "--compute %s is unknown; use f32 or bf16", name);
    *out = !name ? kq_compute_best(isa) : strcmp(name, "bf16") ? KQ_F32 : KQ_BF16;
    return KQ_OK;
}

/* ---- f32 ----------------------------------------------------------------------------------------------- */

/* The dnnl_sgemm of oneDNN versions before April 2026 points the stack pointer at its workspace on the
 * heap while it multiplies (`mov rsp, [rsp+68h]` when k is above 84 in 2.6.3's
 * jit_avx512_common_gemm_f32, and in jit_avx_gemm_f32;
 * https://github.com/uxlfoundation/oneDNN/issues/4845). A signal handler that runs then writes its frame
 * over whatever the heap holds before the workspace. So no handler may run: every signal waits until the
 * product is done, a few milliseconds at most. The system call is made directly because pthread_sigmask
 * leaves out the two signals that glibc keeps to itself, and setuid in another thread sends one of them.
 * The signals that a fault raises are left alone: blocked, they would end the process unseen by a
 * debugger's or a crash reporter's handler, which runs on a stack of its own. Cost: 0.2 us a product,
 * 0.1% to 2% of the large ones' 10 us to 6 ms; that is less than OpenBLAS would cost (see gemm_f32). The
 * other kernels of oneDNN that kronq uses keep to the stack (bf16: brgemm, AMX and the copying gemm;
 * read in their dumped code). */
static uint64_t hold_signals(void)
{
#define BIT(number) (UINT64_C(1) << ((number)-1))
    const uint64_t all =
        ~(BIT(SIGSEGV) | BIT(SIGBUS) | BIT(SIGFPE) | BIT(SIGILL) | BIT(SIGTRAP) | BIT(SIGSYS));
#undef BIT
    uint64_t before = 0;
    syscall(SYS_rt_sigprocmask, SIG_BLOCK, &all, &before, sizeof all);
    return before;
}

static void release_signals(uint64_t before)
{
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, sizeof before);
}

/* C [m, n] = alpha op(A) op(B) + beta C. */
typedef struct sgemm {
    bool ta, tb;
    size_t m, n, k;
    float alpha, beta;
    const float *A, *B;
    float *C;
    size_t lda, ldb, ldc;
} sgemm;

/* False: oneDNN refused it. */
static bool sgemm_by_dnnl(const sgemm *g)
{
    const uint64_t signals = hold_signals();
    const dnnl_status_t st = dnnl_sgemm(
        g->ta ? 'T' : 'N', g->tb ? 'T' : 'N', (dnnl_dim_t)g->m, (dnnl_dim_t)g->n, (dnnl_dim_t)g->k, g->alpha,
        g->A, (dnnl_dim_t)g->lda, g->B, (dnnl_dim_t)g->ldb, g->beta, g->C, (dnnl_dim_t)g->ldc);
    release_signals(signals);
    return st == dnnl_success;
}

static void gemm_f32(const sgemm *g)
{
    if (g->m == 0 || g->n == 0)
        return;
    /* Measured in GFLOP/s, oneDNN against OpenBLAS 0.3.21, at the model's shapes:
     *     Ice Lake         1024 x 1536 x 576                160        131
     *                      128 x 1024 x 64              115-135         75
     *                      64 x 64 x 64                  50-100     70-150
     *                      24 x 1536 x 576, B transposed     34         76
     *     Sapphire Rapids  256 x 512 x 576                  198        170
     *     (signals held)   128 x 1024 x 64                  198        140
     *                      256 x 512 x 4096                 175        160
     *                      64 x 192 x 64                160-190    115-197 */
    const bool large = g->m >= 48 && g->m * g->n >= 96 * 96;
    if ((f32_through_dnnl || large) && sgemm_by_dnnl(g))
        return;
    cblas_sgemm(CblasRowMajor, g->ta ? CblasTrans : CblasNoTrans, g->tb ? CblasTrans : CblasNoTrans,
                (blasint)g->m, (blasint)g->n, (blasint)g->k, g->alpha, g->A, (blasint)g->lda, g->B,
                (blasint)g->ldb, g->beta, g->C, (blasint)g->ldc);
}

void kq_gemm_f32(bool ta, bool tb, size_t m, size_t n, size_t k, float alpha, const float *A, size_t lda,
                 const float *B, size_t ldb, float beta, float *C, size_t ldc)
{
    ensure_init();
    const sgemm g = {.ta = ta,
                     .tb = tb,
                     .m = m,
                     .n = n,
                     .k = k,
                     .alpha = alpha,
                     .beta = beta,
                     .A = A,
                     .B = B,
                     .C = C,
                     .lda = lda,
                     .ldb = ldb,
                     .ldc = ldc};
    int threads = kq_one_thread_begin();
    gemm_f32(&g);
    kq_one_thread_end(threads);
}

/* The tiles of C. They depend on the shape alone, and are so large that packing A and B anew for each costs
 * little. */
typedef struct tiling {
    size_t tm, tn, cols, n;
} tiling;
static tiling tiling_of(size_t m, size_t n)
{
    tiling g = {.tm = 256, .tn = m <= 64 ? 128 : 512};
    g.cols = (n + g.tn - 1) / g.tn;
    g.n = (m + g.tm - 1) / g.tm * g.cols;
    return g;
}

void kq_gemm_f32_tiled(bool ta, bool tb, size_t m, size_t n, size_t k, float alpha, const float *A,
                       size_t lda, const float *B, size_t ldb, float beta, float *C, size_t ldc, int threads)
{
    ensure_init();
    tiling g = tiling_of(m, n);
    if (omp_in_parallel() || threads < 1)
        threads = 1;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
    for (size_t i = 0; i < g.n; i++) {
        size_t r = i / g.cols * g.tm, c = i % g.cols * g.tn;
        size_t h = m - r < g.tm ? m - r : g.tm, w = n - c < g.tn ? n - c : g.tn;
        kq_gemm_f32(ta, tb, h, w, k, alpha, ta ? A + r : A + r * lda, lda, tb ? B + c * ldb : B + c, ldb,
                    beta, C + r * ldc + c, ldc);
    }
}

kq_isa kq_kern_isa(void)
{
    ensure_init();
    return the_isa;
}

/* ---- bf16 ---------------------------------------------------------------------------------------------- */

/* What a primitive of oneDNN is made for: the key of the cache. */
typedef struct shape {
    size_t m, n, k, lda, ldb, ldc;
    bool ta, tb, accumulate;
} shape;

typedef struct entry {
    shape key;
    dnnl_primitive_t prim;
    dnnl_memory_t a, b, c, pad; /* handles are set at every call */
    size_t pad_bytes;
    size_t used; /* the cache's clock when it was last used */
} entry;

/* Primitives that a thread keeps. A model has about a dozen shapes for each sequence length (attention is in
 * f32). */
enum { CACHE_N = 64 };

typedef struct cache {
    dnnl_stream_t stream;
    void *pad;
    size_t pad_bytes, clock;
    entry e[CACHE_N];
} cache;

static _Thread_local cache *my_cache; /* owned by cache_key: freed when its thread ends */

static void entry_free(entry *e)
{
    if (e->prim)
        dnnl_primitive_destroy(e->prim);
    if (e->a)
        dnnl_memory_destroy(e->a);
    if (e->b)
        dnnl_memory_destroy(e->b);
    if (e->c)
        dnnl_memory_destroy(e->c);
    if (e->pad)
        dnnl_memory_destroy(e->pad);
    memset(e, 0, sizeof *e);
}

static void cache_free(void *arg)
{
    cache *c = arg;
    for (size_t i = 0; i < CACHE_N; i++)
        entry_free(&c->e[i]);
    if (c->stream)
        dnnl_stream_destroy(c->stream);
    kq_free(c->pad);
    kq_free(c);
    my_cache = NULL;
}

static cache *cache_get(void)
{
    if (my_cache)
        return my_cache;
    cache *c = kq_calloc(1, sizeof *c);
    if (!c)
        return NULL;
    if (dnnl_stream_create(&c->stream, engine, dnnl_stream_default_flags) != dnnl_success ||
        pthread_setspecific(cache_key, c) != 0) {
        cache_free(c);
        return NULL;
    }
    return my_cache = c;
}

#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t mem_desc;
#define MD(x) (x)
#define MD_NULL NULL
static dnnl_status_t md_make(mem_desc *md, size_t rows, size_t cols, size_t s0, size_t s1,
                             dnnl_data_type_t type)
{
    dnnl_dims_t dims = {(dnnl_dim_t)rows, (dnnl_dim_t)cols}, strides = {(dnnl_dim_t)s0, (dnnl_dim_t)s1};
    return dnnl_memory_desc_create_with_strides(md, 2, dims, type, strides);
}
static void md_free(mem_desc md)
{
    if (md)
        dnnl_memory_desc_destroy(md);
}
static size_t md_size(const_dnnl_memory_desc_t md)
{
    return md ? dnnl_memory_desc_get_size(md) : 0;
}
#else
typedef dnnl_memory_desc_t mem_desc;
#define MD(x) (&(x))
#define MD_NULL \
    {           \
        0       \
    }
static dnnl_status_t md_make(mem_desc *md, size_t rows, size_t cols, size_t s0, size_t s1,
                             dnnl_data_type_t type)
{
    dnnl_dims_t dims = {(dnnl_dim_t)rows, (dnnl_dim_t)cols}, strides = {(dnnl_dim_t)s0, (dnnl_dim_t)s1};
    return dnnl_memory_desc_init_by_strides(md, 2, dims, type, strides);
}
#define md_free(md) ((void)0)
static size_t md_size(const dnnl_memory_desc_t *md)
{
    return md ? dnnl_memory_desc_get_size(md) : 0;
}
#endif

static dnnl_status_t entry_make(entry *e, const shape *s)
{
    mem_desc a = MD_NULL, b = MD_NULL, c = MD_NULL;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t ops = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_status_t st;

    /* op(A) [m, k] with the strides it has as stored; a transposed operand is the same bytes with its
     * strides exchanged. */
    if ((st = md_make(&a, s->m, s->k, s->ta ? 1 : s->lda, s->ta ? s->lda : 1, dnnl_bf16)) != dnnl_success ||
        (st = md_make(&b, s->k, s->n, s->tb ? 1 : s->ldb, s->tb ? s->ldb : 1, dnnl_bf16)) != dnnl_success ||
        (st = md_make(&c, s->m, s->n, s->ldc, 1, dnnl_f32)) != dnnl_success ||
        (st = dnnl_primitive_attr_create(&attr)) != dnnl_success ||
        (st = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user)) != dnnl_success)
        goto out;
    if (s->accumulate) {
        if ((st = dnnl_post_ops_create(&ops)) != dnnl_success)
            goto out;
#if DNNL_VERSION_MAJOR >= 3
        st = dnnl_post_ops_append_sum(ops, 1.0f, 0, dnnl_f32);
#else
        st = dnnl_post_ops_append_sum(ops, 1.0f);
#endif
        if (st != dnnl_success || (st = dnnl_primitive_attr_set_post_ops(attr, ops)) != dnnl_success)
            goto out;
    }
#if DNNL_VERSION_MAJOR >= 3
    st = dnnl_matmul_primitive_desc_create(&pd, engine, a, b, NULL, c, attr);
#else
    dnnl_matmul_desc_t d;
    st = dnnl_matmul_desc_init(&d, &a, &b, NULL, &c);
    if (st == dnnl_success)
        st = dnnl_primitive_desc_create(&pd, &d, attr, engine, NULL);
#endif
    if (st != dnnl_success || (st = dnnl_primitive_create(&e->prim, pd)) != dnnl_success)
        goto out;
    e->pad_bytes = md_size(dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0));
    if ((st = dnnl_memory_create(&e->a, MD(a), engine, DNNL_MEMORY_NONE)) != dnnl_success ||
        (st = dnnl_memory_create(&e->b, MD(b), engine, DNNL_MEMORY_NONE)) != dnnl_success ||
        (st = dnnl_memory_create(&e->c, MD(c), engine, DNNL_MEMORY_NONE)) != dnnl_success)
        goto out;
    if (e->pad_bytes)
        st = dnnl_memory_create(&e->pad, dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0),
                                engine, DNNL_MEMORY_NONE);
    e->key = *s;
out:
    if (pd)
        dnnl_primitive_desc_destroy(pd);
    if (ops)
        dnnl_post_ops_destroy(ops);
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    md_free(a);
    md_free(b);
    md_free(c);
    if (st != dnnl_success)
        entry_free(e);
    return st;
}

static bool shape_same(const shape *a, const shape *b)
{
    return a->m == b->m && a->n == b->n && a->k == b->k && a->lda == b->lda && a->ldb == b->ldb &&
           a->ldc == b->ldc && a->ta == b->ta && a->tb == b->tb && a->accumulate == b->accumulate;
}

/* The primitive of this shape: found, or made in place of the one unused for longest. */
static dnnl_status_t cache_find(cache *c, const shape *s, entry **out)
{
    entry *old = &c->e[0];
    for (size_t i = 0; i < CACHE_N; i++) {
        entry *e = &c->e[i];
        if (e->prim && shape_same(&e->key, s)) {
            e->used = ++c->clock;
            *out = e;
            return dnnl_success;
        }
        if (e->used < old->used)
            old = e;
    }
    entry_free(old);
    dnnl_status_t st = entry_make(old, s);
    if (st != dnnl_success)
        return st;
    old->used = ++c->clock;
    *out = old;
    return dnnl_success;
}

/* Without bf16 in hardware or in oneDNN: widen both operands and multiply in f32, a panel of at most 256
 * columns of k at a time. */
static kq_status gemm_bf16_by_f32(const shape *s, const uint16_t *A, const uint16_t *B, float *C,
                                  kq_error *err)
{
    enum { PANEL = 256 };
    float *a = NULL, *b = NULL;
    size_t kp = s->k < PANEL ? s->k : PANEL;
    kq_status st = kq_alloc_for((void **)&a, s->m * kp, sizeof *a, "bf16 product", err);
    if (st == KQ_OK)
        st = kq_alloc_for((void **)&b, s->n * kp, sizeof *b, "bf16 product", err);
    if (st != KQ_OK)
        goto out;
    for (size_t k0 = 0; k0 < s->k || k0 == 0; k0 += PANEL) {
        size_t kn = s->k - k0 < PANEL ? s->k - k0 : PANEL;
        size_t a_rows = s->ta ? kn : s->m, a_cols = s->ta ? s->m : kn, b_rows = s->tb ? s->n : kn,
               b_cols = s->tb ? kn : s->n;
        for (size_t i = 0; i < a_rows; i++)
            kq_bf16_to_f32_n(A + (s->ta ? (k0 + i) * s->lda : i * s->lda + k0), a + i * a_cols, a_cols);
        for (size_t i = 0; i < b_rows; i++)
            kq_bf16_to_f32_n(B + (s->tb ? i * s->ldb + k0 : (k0 + i) * s->ldb), b + i * b_cols, b_cols);
        gemm_f32(&(sgemm){.ta = s->ta,
                          .tb = s->tb,
                          .m = s->m,
                          .n = s->n,
                          .k = kn,
                          .alpha = 1,
                          .beta = s->accumulate || k0 > 0 ? 1.0f : 0.0f,
                          .A = a,
                          .B = b,
                          .C = C,
                          .lda = a_cols,
                          .ldb = b_cols,
                          .ldc = s->ldc});
    }
out:
    kq_free(a);
    kq_free(b);
    return st;
}

static kq_status gemm_bf16(const shape *s, const uint16_t *A, const uint16_t *B, float *C, kq_error *err)
{
    if (!bf16_through_dnnl || s->k == 0)
        return gemm_bf16_by_f32(s, A, B, C, err);
    cache *c = cache_get();
    if (!c)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: cache of bf16 products");
    entry *e;
    dnnl_status_t st = cache_find(c, s, &e);
    if (st == dnnl_unimplemented)
        return gemm_bf16_by_f32(s, A, B, C, err);
    if (st == dnnl_success && e->pad_bytes > c->pad_bytes) {
        kq_free(c->pad);
        c->pad_bytes = 0;
        c->pad = kq_alloc(e->pad_bytes, 1);
        if (!c->pad)
            return kq_fail(err, KQ_E_MEMORY, "out of memory: bf16 product needs %zu bytes", e->pad_bytes);
        c->pad_bytes = e->pad_bytes;
    }
    if (st == dnnl_success) {
        dnnl_exec_arg_t args[4] = {{DNNL_ARG_SRC, e->a},
                                   {DNNL_ARG_WEIGHTS, e->b},
                                   {DNNL_ARG_DST, e->c},
                                   {DNNL_ARG_SCRATCHPAD, e->pad}};
        if ((st = dnnl_memory_set_data_handle(e->a, (void *)(uintptr_t)A)) == dnnl_success &&
            (st = dnnl_memory_set_data_handle(e->b, (void *)(uintptr_t)B)) == dnnl_success &&
            (st = dnnl_memory_set_data_handle(e->c, C)) == dnnl_success &&
            (!e->pad || (st = dnnl_memory_set_data_handle(e->pad, c->pad)) == dnnl_success))
            st = dnnl_primitive_execute(e->prim, c->stream, e->pad ? 4 : 3, args);
        if (st == dnnl_success)
            st = dnnl_stream_wait(c->stream);
    }
    if (st != dnnl_success)
        return kq_fail(err, st == dnnl_out_of_memory ? KQ_E_MEMORY : KQ_E_NUMERIC,
                       "oneDNN: bf16 product %zu x %zu x %zu failed (status %d)", s->m, s->n, s->k, (int)st);
    return KQ_OK;
}

kq_status kq_gemm_bf16(bool ta, bool tb, size_t m, size_t n, size_t k, const uint16_t *A, size_t lda,
                       const uint16_t *B, size_t ldb, bool accumulate, float *C, size_t ldc, kq_error *err)
{
    if (m == 0 || n == 0)
        return KQ_OK;
    ensure_init();
    shape s = {.m = m,
               .n = n,
               .k = k,
               .lda = lda,
               .ldb = ldb,
               .ldc = ldc,
               .ta = ta,
               .tb = tb,
               .accumulate = accumulate};
    int threads = kq_one_thread_begin();
    kq_status st = gemm_bf16(&s, A, B, C, err);
    kq_one_thread_end(threads);
    return st;
}

kq_status kq_gemm_bf16_tiled(bool ta, bool tb, size_t m, size_t n, size_t k, const uint16_t *A, size_t lda,
                             const uint16_t *B, size_t ldb, bool accumulate, float *C, size_t ldc,
                             int threads, kq_error *err)
{
    ensure_init();
    tiling g = tiling_of(m, n);
    if (omp_in_parallel() || threads < 1)
        threads = 1;
    kq_first_error first = KQ_FIRST_ERROR;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
    for (size_t i = 0; i < g.n; i++) {
        size_t r = i / g.cols * g.tm, c = i % g.cols * g.tn;
        size_t h = m - r < g.tm ? m - r : g.tm, w = n - c < g.tn ? n - c : g.tn;
        kq_error e;
        if (!kq_first_error_skip(&first, i))
            kq_first_error_note(&first, i,
                                kq_gemm_bf16(ta, tb, h, w, k, ta ? A + r : A + r * lda, lda,
                                             tb ? B + c * ldb : B + c, ldb, accumulate, C + r * ldc + c, ldc,
                                             &e),
                                &e);
    }
    return kq_first_error_get(&first, err);
}
