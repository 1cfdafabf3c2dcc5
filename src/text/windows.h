/* A text cut into sequences of calibration (docs/math.md, "Fisher information": samples).
 *
 * Which windows a calibration takes depends on its own number of sequences only, so that several calibrations
 * can share one reading of the text and each has the sequences that it would have alone. */
#ifndef KQ_TEXT_WINDOWS_H
#define KQ_TEXT_WINDOWS_H

#include "text/text.h"

/* Windows of a text, each once, in the order of the text; or sequences that the model wrote. */
typedef struct kq_windows {
    int32_t *ids;     /* owned [n, seq_len] */
    uint32_t *number; /* owned [n]: which window of the text each is */
    size_t n;
    size_t of;      /* whole windows in what was read of the text; 0: the model wrote the sequences */
    json_t *report; /* owned: what the texts turned out to be (kq_text_ids); NULL: the model wrote them */
} kq_windows;

/* Encode the files' documents, joined by kq_text_encode, and cut them into whole windows of seq_len tokens. A
 * count takes the windows i * floor(windows / count), i < count; *out gets every window that one of the
 * counts [n_counts] takes. The texts are read as far as kq_text_reach says of the largest count; how->reach
 * is not used. KQ_E_ARG: the text is empty or too short. */
kq_status kq_text_windows(const kq_text_how *how, const char *const *files, size_t n_files,
                          const size_t *counts, size_t n_counts, size_t seq_len, kq_windows *out,
                          kq_error *err);
/* *n = how many whole windows of seq_len tokens the texts have, but no more than `most`. KQ_E_ARG: the text
 * is empty. */
kq_status kq_text_count_windows(const kq_text_how *how, const char *const *files, size_t n_files, size_t most,
                                size_t seq_len, size_t *n, kq_error *err);
void kq_windows_free(kq_windows *w);
/* The windows that a count, one of those that w was made for, takes: their indices in w, seq [count]. */
void kq_windows_pick(const kq_windows *w, size_t count, uint32_t *seq);

#endif
