/* One pass over the calibration text that yields the Kronecker factors of every selected linear, block by
 * block (docs/math.md, "Factors").
 *
 * Methods that need gradients: a forward pass keeps every block's input (bf16, spilled to the work
 * folder); then from the top block down each block is recomputed, back-propagated, and its weight
 * gradients of all samples (bf16) are held while its factors are found, in memory or on disk, or made
 * again for every product (sweep_gradients.c, sweep_store.c). Methods over tokens (sweep_tokens.c) keep
 * sums only, and go over a block's tokens once a half step.
 * `input-only`: one forward pass. At any moment one block's weights and statistics are in memory.
 * Interrupted, the work folder holds enough to go on: a block whose result is done is not factored
 * again. */
#ifndef KQ_SWEEP_SWEEP_H
#define KQ_SWEEP_SWEEP_H

#include "fisher/fisher.h"
#include "kronq.h"
#include "model/model.h"
#include "sweep/job.h"

/* One set of factors that a sweep yields. Several of them share the forward pass, the loss and the
 * backward pass; each takes the samples it wants. */
typedef struct kq_sweep_estimate {
    const kq_factor_options *factor; /* method and its settings; borrowed */
    /* a sample is the sum of `batch` sequences: D = n_seq * draws / batch */
    size_t batch;
    size_t n_seq;        /* sequences it looks at ... */
    const uint32_t *seq; /* ... [n_seq], ascending, of the sweep's; NULL: all of them */
    void *ctx;           /* what `linear` gets for it; NULL: the sweep's */
} kq_sweep_estimate;

/* Where a block's gradients are between two products. Memory and disk give the same bytes; so does
 * stream, unless chunk_bytes is set. */
typedef enum kq_gradient_way { KQ_WAY_MEMORY, KQ_WAY_DISK, KQ_WAY_STREAM } kq_gradient_way;

typedef struct kq_sweep {
    const kq_weights *weights;
    const int32_t *ids; /* [n_seq, T]; NULL for the method none */
    size_t n_seq, T;
    /* [n_seq] a number that stands for each sequence, by which its labels are drawn; NULL: its index */
    const uint32_t *window;
    const kq_sweep_estimate *estimates; /* [n_estimates]; the method none stands alone */
    size_t n_estimates;
    /* next tokens drawn from the model's own distribution (the true Fisher), not the text's */
    bool sampled_labels;
    size_t draws; /* sampled labels: this many a sequence, from one forward pass; else 1 */
    kq_isa isa;
    kq_compute compute;
    int threads;
    int workers; /* sequences worked on at once, each with its own scratch; 0: threads */
    kq_gradient_way way;
    size_t chunk_bytes;  /* kq_factor_options.chunk_bytes of every estimate */
    size_t stream_bytes; /* stream: estimates whose scratch fits this advance together; 0: all */
    /* for the plan: bytes that `linear` needs while it is called, beyond the factors ... */
    size_t receiver_peak;
    size_t receiver_kept; /* ... and that it keeps until the block is handed out */
    uint64_t seed;        /* of sampled labels */
    /* input-only, alone: `linear` gets H_in [n], the diagonal of sum_t x_t x_t^T alone, not divided by D */
    bool diagonal;
    const uint8_t *selected;               /* [n_layer] bit id set: factors of that linear are selected */
    const kq_job *job;                     /* the work folder for spills */
    void *ctx;                             /* what the functions below get */
    bool (*done)(void *ctx, size_t layer); /* the block's result is on disk already */
    /* Factors of one linear; NULL stands for the identity, of a linear without gradient (report->lack)
     * too. Called once for every estimate and selected linear, block by block. */
    kq_status (*linear)(void *ctx, size_t layer, kq_linear_id id, const float *H_in, const float *H_out,
                        const kq_factor_report *report, kq_error *err);
    /* all of a block's linears were handed out, for all estimates */
    kq_status (*block)(void *ctx, size_t layer, kq_error *err);
    const kq_common *common; /* whose progress function is told how far it is; NULL: nobody's */
} kq_sweep;

typedef struct kq_sweep_report {
    double forward_s, backward_s, factor_s, callback_s; /* wall time by stage */
    /* mean nats a token of the calibration text; NaN when not computed */
    double nll;
} kq_sweep_report;

kq_status kq_sweep_run(const kq_sweep *s, kq_sweep_report *report, kq_error *err);
/* Tell s->common what share of a stage is done (stage NULL: only ask). Nonzero: stop. */
int kq_sweep_tell(const kq_sweep *s, const char *stage, double fraction);

/* Peak bytes a sweep is expected to need in memory (without the mapped model file), and on disk for
 * spills. */
void kq_sweep_plan(const kq_config *cfg, const kq_sweep *s, size_t *memory_bytes, size_t *disk_bytes);

#endif
