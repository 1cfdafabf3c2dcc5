/* The tiny models and what PyTorch computed with them (scripts/make_tiny_models.py). */
#ifndef KQ_TESTS_GOLDEN_H
#define KQ_TESTS_GOLDEN_H

#include "check.h"

#include "base/mem.h"
#include "format/safetensors_write.h"
#include "model/model.h"

static const char *const families[] = {"llama2", "llama3", "qwen3", "yarn"};
enum { N_FAMILIES = 4, MAX_LAYERS = 2 };

typedef struct golden {
    kq_source *src;
    kq_st_file *file;
    kq_weights w;
    const int32_t *ids;
    const float *nll;
    size_t T;
} golden;

static inline const kq_tensor *golden_tensor(const golden *g, const char *name)
{
    const kq_tensor *t = kq_st_find(g->file, name);
    if (!t)
        fail_msg("golden file has no %s", name);
    return t;
}

static inline const float *golden_f32(const golden *g, const char *name)
{
    return (const float *)(const void *)golden_tensor(g, name)->data;
}

static inline void golden_open(golden *g, const char *family)
{
    char path[512];
    kq_error err;
    snprintf(path, sizeof path, "%s/tiny_%s", KRONQ_GOLDEN_DIR, family);
    check_ok(kq_source_open(path, &g->src, &err));
    snprintf(path, sizeof path, "%s/tiny_%s.safetensors", KRONQ_GOLDEN_DIR, family);
    check_ok(kq_st_open(path, &g->file, &err));
    g->w = kq_weights_from_source(g->src);
    g->ids = (const int32_t *)(const void *)golden_tensor(g, "ids")->data;
    g->nll = golden_f32(g, "nll");
    g->T = golden_tensor(g, "ids")->shape[0];
}

static inline void golden_close(golden *g)
{
    kq_st_close(g->file);
    kq_source_close(g->src);
}

/* The instruction set of this run: KRONQ_ISA, else the best. */
static inline kq_isa test_isa(void)
{
    kq_isa isa;
    kq_error err;
    check_ok(kq_isa_pick(NULL, &isa, &err));
    return isa;
}

static inline double cosine(const float *a, const float *b, size_t n)
{
    double ab = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < n; i++)
        ab += (double)a[i] * b[i], aa += (double)a[i] * a[i], bb += (double)b[i] * b[i];
    return ab / sqrt(aa * bb);
}

static inline int run_or_skip(int (*run)(void))
{
    kq_isa isa;
    kq_error err;
    if (kq_isa_pick(NULL, &isa, &err) != KQ_OK) {
        printf("SKIP: %s\n", err.message);
        return 77;
    }
    return run();
}

#endif
