/* What the tests of sweeps, factor files and whole runs share. */
#ifndef KQ_TESTS_SWEEP_COMMON_H
#define KQ_TESTS_SWEEP_COMMON_H

#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/f16.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "check.h"
#include "checkpoint/checkpoint.h"
#include "kern/gemm.h"
#include "kronq.h"
#include "factors/file.h"
#include "factors/part.h"
#include "sweep/job.h"
#include "sweep/spill.h"
#include "sweep/sweep.h"
#include "text/windows.h"
#include "temp_folder.h"

static inline void flip(const char *path, long at)
{
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, at, SEEK_SET), 0);
    int c = fgetc(f);
    assert_int_equal(fseek(f, at, SEEK_SET), 0);
    fputc(c ^ 4, f);
    assert_int_equal(fclose(f), 0);
}

static inline bool never_done(void *ctx, size_t layer)
{
    (void)ctx, (void)layer;
    return false;
}

/* H_in and H_out of every linear, kept as the sweep hands them out. */
typedef struct kept {
    float *in[3][KQ_N_LINEAR], *out[3][KQ_N_LINEAR];
    kq_config cfg;
} kept;

static inline kq_status keep_factors(void *ctx, size_t layer, kq_linear_id id, const float *H_in,
                                     const float *H_out, const kq_factor_report *r, kq_error *err)
{
    kept *k = ctx;
    size_t m, n;
    (void)r, (void)err;
    kq_linear_shape(&k->cfg, id, &m, &n);
    k->in[layer][id] = kq_alloc(n * n, sizeof(float));
    memcpy(k->in[layer][id], H_in, n * n * sizeof(float));
    if (H_out) {
        k->out[layer][id] = kq_alloc(m * m, sizeof(float));
        memcpy(k->out[layer][id], H_out, m * m * sizeof(float));
    }
    return KQ_OK;
}

static inline kq_status block_kept(void *ctx, size_t layer, kq_error *err)
{
    (void)ctx, (void)layer, (void)err;
    return KQ_OK;
}

/* Both unit traces: the largest difference over the largest entry. */
static inline double apart(const float *a, const float *b, size_t n)
{
    double ta = 0, tb = 0, most = 0, worst = 0;
    for (size_t i = 0; i < n; i++) {
        ta += a[i * n + i];
        tb += b[i * n + i];
    }
    for (size_t i = 0; i < n * n; i++) {
        most = fmax(most, fabs(b[i] / tb));
        worst = fmax(worst, fabs(a[i] / ta - b[i] / tb));
    }
    return worst / most;
}

static inline void free_kept(kept *k)
{
    for (int l = 0; l < 3; l++)
        for (int id = 0; id < KQ_N_LINEAR; id++) {
            kq_free(k->in[l][id]);
            kq_free(k->out[l][id]);
        }
    memset(k, 0, sizeof *k);
}

static inline int stop_at(void *ctx, const char *stage, double fraction, const char *note)
{
    (void)stage, (void)fraction, (void)note;
    return --*(int *)ctx <= 0;
}

static inline kq_quantize_options small(const char *const *text)
{
    kq_quantize_options o = kq_quantize_defaults();
    o.common.threads = 2;
    o.common.compute = "f32";
    o.calibration.text = text;
    o.calibration.n_text = 1;
    o.calibration.tokens = 256;
    o.calibration.seq_len = 32;
    o.embed_bits = 8; /* rounding the rows to a trellis takes longer than all the rest */
    o.tune = "none";
    return o;
}

#endif
