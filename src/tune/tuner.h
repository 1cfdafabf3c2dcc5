/* The engine of tuning: a quantized model whose codes stay fixed, and a few real numbers beside them that are
 * trained so that its predictions come nearer to those of the original (docs/math.md, "Tuning").
 *
 * Trained are numbers of every quantized linear (kq_trained says which), of embedding and head if the caller
 * wants it, and the weights of all norms, all as factors theta that begin at 1. A step takes some sequences
 * through the model block by block and keeps every block's input; then, from the top block down, each block
 * is run again and back-propagated. In memory are the decoded weights (of all blocks, or of one:
 * kq_tuner_options.keep), one block's tuned weights, both heads and the inputs of one step. All sequences of
 * a step go through a block together, so that its products are large and every thread has work. Sums are
 * taken in an order that depends on the step alone, so that the bits are the same for every number of
 * threads. */
#ifndef KQ_TUNE_TUNER_H
#define KQ_TUNE_TUNER_H

#include "format/block_scales.h"
#include "kern/kern.h"
#include "model/model.h"

/* One linear as the student's file has it. */
typedef struct kq_trained_linear {
    kq_linear What;          /* its decoded weights in the compute type */
    kq_block_scales scales;  /* of its GGUF type; n is 0 when the file is no GGUF */
    float *offsets;          /* [m, n / scales.group]: kq_block_offsets, where scales.n is 2; else NULL */
    const kq_tensor *stored; /* the tensor of the GGUF, borrowed; NULL: none */
    size_t head_dim;         /* which its order of rows may depend on (kq_tensor_stored_row) */
} kq_trained_linear;

/* The trained numbers theta of one linear, and how they make its weights W [m, n] from the decoded ones,
 * What. A new kind of file is one more of these tables. */
typedef struct kq_trained {
    size_t (*count)(const kq_trained_linear *l); /* how many numbers; only shape and scales of l are set */
    /* Rows [row0, row0 + rows) of W. What and W are in the compute type. row: scratch, n floats. */
    void (*apply)(const kq_kern *kern, const kq_trained_linear *l, const float *theta, size_t row0,
                  size_t rows, kq_linear *W, float *row);
    /* Rows [row0, row0 + rows) of Gw [m, n] = dLoss/dW: grad [count] += dLoss/dtheta of the rows' own
     * numbers; columns [n] += what they add to the numbers of the columns, where there are such. Of embedding
     * and head some rows at a time are given: their numbers must stand row by row. */
    void (*gradient)(const kq_kern *kern, const kq_trained_linear *l, const float *theta, const float *Gw,
                     size_t row0, size_t rows, float *grad, float *columns);
    bool columns; /* theta is m numbers of the rows, then n of the columns */
} kq_trained;

/* Of a kronq checkpoint: W = diag(a) What diag(b), theta = a [m], then b [n] (eq. 100). */
extern const kq_trained kq_trained_scales;
/* Of a GGUF: a factor of the F16 numbers of every block, row by row, theta [m, n / elems, scales.n]
 * (eq. 104). */
extern const kq_trained kq_trained_blocks;

/* Where the trained numbers stand in theta. */
typedef struct kq_params {
    size_t n;          /* all of them */
    size_t *linear_at; /* owned [n_layer * KQ_N_LINEAR]; SIZE_MAX: not trained */
    size_t *norm_at;   /* owned [n_layer * KQ_N_NORM]; SIZE_MAX: there is no such norm */
    size_t *layer_at;  /* owned [n_layer + 1]: those of layer l are [layer_at[l], layer_at[l + 1]) */
    size_t final_at;   /* of the final norm [d], behind all layers */
    size_t head_at;    /* behind that; SIZE_MAX: not trained, or tied */
    size_t embed_at;   /* the last; a tied matrix is trained for both of its uses */
} kq_params;

typedef struct kq_tuner_options {
    const kq_weights *student, *teacher; /* of the same shape; borrowed, as is every pointer here */
    const kq_trained *trained;
    const uint8_t *packed; /* [n_layer], bit id set: that linear is trained */
    bool head, embedding;  /* are they trained? head is ignored where it is tied */
    kq_isa isa;
    kq_compute compute;
    int threads;
    size_t T;       /* tokens a sequence */
    size_t at_once; /* sequences a step, at most */
    bool keep;      /* keep the decoded weights of all blocks; else they are decoded again block by block */
    const int32_t *ids; /* [sequences, T] */
    /* The teacher's final hidden states [T, d] of a sequence. Called from several threads at once. */
    kq_status (*hidden)(void *ctx, size_t sequence, float *x, kq_error *err);
    void *ctx;               /* of hidden */
    const kq_common *common; /* its progress function is asked after every block whether to go on */
} kq_tuner_options;

typedef struct kq_tuner kq_tuner;
/* Everything that a tuner of these options will have in memory, in bytes. */
size_t kq_tuner_bytes(const kq_config *cfg, const kq_tuner_options *o);
/* How many numbers are trained. 0: out of memory. */
size_t kq_tuner_numbers(const kq_config *cfg, const kq_tuner_options *o);
kq_status kq_tuner_new(const kq_tuner_options *o, kq_tuner **out, kq_error *err);
void kq_tuner_free(kq_tuner *t); /* NULL is fine */

const kq_params *kq_tuner_params(const kq_tuner *t);
/* The arrays of training, [kq_params.n] each; owned by the tuner, to be read, saved and set. */
typedef struct kq_tuner_arrays {
    float *theta, *grad; /* grad: of the last kq_tuner_gradient */
    float *m, *v;        /* Adam's first and second moments */
} kq_tuner_arrays;
kq_tuner_arrays kq_tuner_state(kq_tuner *t);

/* *kl = the mean over all tokens of sequences seq [n] of KL(teacher || student), nats. n is at most at_once
 * where grad is set to its gradient, else any number. KQ_E_INTERRUPTED: the progress function asked to
 * stop. */
kq_status kq_tuner_loss(kq_tuner *t, const uint32_t *seq, size_t n, double *kl, kq_error *err);
kq_status kq_tuner_gradient(kq_tuner *t, const uint32_t *seq, size_t n, double *kl, kq_error *err);
/* Eq. 102: one step of Adam with the last gradient; step counts from 0. */
void kq_tuner_update(kq_tuner *t, double lr, size_t step);
/* Eq. 105: the learning rate at its peak for a model whose untuned KL divergence is kl (nats). */
double kq_tune_peak_rate(double kl);
/* Eq. 103: the learning rate of a step. */
double kq_tune_rate(double lr, size_t warmup, size_t step, size_t steps);

#endif
