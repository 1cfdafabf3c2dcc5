/* One sweep over the calibration text, which yields the Kronecker factors of every selected linear, block by
 * block (docs/math.md, "Factors").
 *
 * Methods that need gradients: a forward pass keeps every block's input (bf16, spilled to the work folder).
 * Then, from the top block down, each block is run again and back-propagated. The weight gradients of all its
 * samples (bf16) are kept while its factors are found: in memory, on disk, or made again for every product
 * (store.h). Methods over tokens keep sums only, and go over a block's tokens once a half step (tokens.h).
 * `input-only` needs one forward pass. At any moment one block's weights and statistics are in memory. When a
 * sweep was interrupted, the work folder holds enough to go on: a block whose result is done is not factored
 * again. */
#ifndef KQ_SWEEP_SWEEP_H
#define KQ_SWEEP_SWEEP_H

#include "fisher/fisher.h"
#include "kronq.h"
#include "model/model.h"
#include "sweep/job.h"

/* One set of factors that a sweep yields. Several of them share the forward pass, the loss and the backward
 * pass; each has its own samples. */
typedef struct kq_sweep_estimate {
    const kq_factor_options *factor; /* method and its settings; borrowed */
    size_t batch;        /* a sample is the sum of this many sequences: D = n_seq * draws / batch */
    size_t n_seq;        /* sequences that it uses: ... */
    const uint32_t *seq; /* ... [n_seq], ascending, of the sweep's; NULL: all of them. Borrowed */
    void *ctx;           /* what `linear` gets for this estimate; NULL: the sweep's */
} kq_sweep_estimate;

/* Where a block's gradients are between two products. Memory and disk give the same bytes; stream (kept
 * nowhere, made again for every product) gives them too, unless chunk_bytes is set. */
typedef enum kq_gradient_way { KQ_WAY_MEMORY, KQ_WAY_DISK, KQ_WAY_STREAM } kq_gradient_way;

typedef struct kq_sweep {
    const kq_weights *weights; /* everything that is a pointer here is borrowed */
    const int32_t *ids;        /* [n_seq, T]; NULL for the method none */
    size_t n_seq, T;
    const uint32_t *window; /* [n_seq] a sequence's number, by which its labels are drawn; NULL: its index */
    const kq_sweep_estimate *estimates; /* [n_estimates]; the method none stands alone */
    size_t n_estimates;
    bool sampled_labels; /* next tokens are drawn from the model's own distribution (the true Fisher) */
    size_t draws;        /* sampled labels: this many a sequence, from one forward pass; else 1 */
    kq_isa isa;
    kq_compute compute;
    int threads;
    int workers; /* sequences worked on at once, each with its own scratch; 0: threads */
    kq_gradient_way way;
    size_t chunk_bytes;   /* kq_factor_options.chunk_bytes of every estimate */
    size_t stream_bytes;  /* stream: estimates whose scratch fits this advance together; 0: all */
    size_t receiver_peak; /* for the plan: bytes that `linear` needs while it runs, beyond the factors, ... */
    size_t receiver_kept; /* ... and bytes that it keeps until `block` is called */
    uint64_t seed;        /* of sampled labels */
    /* only for input-only as the one estimate: `linear` gets H_in [n], the diagonal of sum_t x_t x_t^T, not
     * divided by D */
    bool diagonal;
    const uint8_t *selected; /* [n_layer] bit id set: factors of that linear are selected */
    const kq_job *job;       /* the work folder for spills */
    /* The receiver of the factors. No two of its functions run at a time. */
    void *ctx;                             /* what the functions below get */
    bool (*done)(void *ctx, size_t layer); /* is the block's result on disk already? */
    /* Take the factors of one linear: H_in [n, n] and H_out [m, m], borrowed for the call. NULL: the
     * identity, also where a linear has no gradient or input (report->lack). Called once for every estimate
     * and selected linear, block by block. */
    kq_status (*linear)(void *ctx, size_t layer, kq_linear_id id, const float *H_in, const float *H_out,
                        const kq_factor_report *report, kq_error *err);
    /* Take the factor H_in [d, d] of the rows of the head or the embedding (eq. 141, 142), borrowed for the
     * call; NULL: not wanted. Called once for every estimate where a method needs gradients: for the head
     * after the loss, for the embedding before layer 0's `block`, and only when layer 0 is selected. */
    kq_status (*rows)(void *ctx, bool head, const float *H_in, kq_error *err);
    /* All of a block's linears were handed out, for all estimates. */
    kq_status (*block)(void *ctx, size_t layer, kq_error *err);
    const kq_common *common; /* its progress function hears how far the sweep is; NULL: nobody does */
} kq_sweep;

typedef struct kq_sweep_report {
    double forward_s, backward_s, factor_s, callback_s; /* wall time by stage; callback_s: in `linear` */
    double nll; /* mean nats a token of the calibration text; NaN when it was not computed */
} kq_sweep_report;

/* Run it. KQ_E_INTERRUPTED: the progress function asked to stop; KQ_E_NUMERIC: the loss or a factor is not
 * finite (the message names the linear); KQ_E_FORMAT: a record in the work folder is damaged; KQ_E_IO,
 * KQ_E_MEMORY; and what the receiver's functions return. */
kq_status kq_sweep_run(const kq_sweep *s, kq_sweep_report *report, kq_error *err);
/* Give s->common's progress function the share of a stage that is done; stage NULL: only ask it. Nonzero:
 * stop. */
int kq_sweep_progress(const kq_sweep *s, const char *stage, double fraction);

/* The peak of bytes that a sweep is expected to need in memory (without the mapped model file), and on disk
 * for its spills. */
void kq_sweep_plan(const kq_config *cfg, const kq_sweep *s, size_t *memory_bytes, size_t *disk_bytes);

#endif
