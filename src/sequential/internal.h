/* Inside the room: the two streams, and the block at work. */
#ifndef KQ_SEQUENTIAL_INTERNAL_H
#define KQ_SEQUENTIAL_INTERNAL_H

#include "sequential/sequential.h"
#include "sweep/spill.h"

/* The two streams; record 2 s + stream of a file is sequence s. */
enum { KQ_ORIGINAL = 0, KQ_ROUNDED, KQ_N_STREAM };

/* Linears of a block that have the same input are one step; their order is that of kq_linear_id. */
enum { KQ_STEP_QKV = 0, KQ_STEP_O, KQ_STEP_GATE_UP, KQ_STEP_DOWN, KQ_NO_STEP };

/* Sums over the tokens for one step (eq. 162), x the original's input and z the rounded model's. */
typedef struct kq_moments {
    int step; /* KQ_NO_STEP: none are there */
    size_t n; /* inputs */
    float *C; /* [n, n]: Cholesky factor of sum w z z^T + ridge, LAPACK's upper one */
    float *D; /* [n, n]: sum w (x - z) z^T */
    float *R; /* [d, n]: sum w (h - k) z^T of the two residual streams; o and down only */
} kq_moments;

struct kq_sequential {
    kq_sequential_options o;
    const kq_config *cfg;
    kq_model_ctx *mc;
    bool begun;    /* the streams are there */
    int32_t *ids;  /* owned copy */
    size_t layer;  /* where they are: the input of this block */
    size_t record; /* values of a sequence's hidden states, T d */
    size_t group;  /* sequences that are in memory at once; does not depend on the machine */
    kq_spill *in;  /* the streams before the block; NULL: not open */
    bool loaded;   /* block[] is there */
    kq_block block[KQ_N_STREAM];
    kq_moments moments;
    float *x[KQ_N_STREAM];        /* [group, T, widest input] */
    float *residual[KQ_N_STREAM]; /* [group, T, d] */
    /* What is summed, in bf16 where products are: of x[0], x[1] and residual[0]. */
    uint16_t *half[KQ_N_STREAM], *half_residual;
    float **hidden; /* [threads]: [T, d] */
    void **scratch; /* [threads] */
};

/* Bring the streams to the input of block `layer`, and load it. */
kq_status kq_streams_go_to(kq_sequential *s, size_t layer, kq_error *err);
/* Both streams through the block at work, into the files of the next one. */
kq_status kq_streams_advance(kq_sequential *s, kq_error *err);

/* The sums for a step of the block at work, unless they are there. */
kq_status kq_moments_of_step(kq_sequential *s, int step, kq_error *err);

#endif
