/* Calibration text -> sequences of token ids (docs/math.md, "Fisher information": samples). */
#ifndef KQ_TEXT_WINDOWS_H
#define KQ_TEXT_WINDOWS_H

#include "text/text.h"

/* Sequences of calibration: windows of the text, each once, in its order. */
typedef struct kq_windows {
    int32_t *ids;     /* owned, [n, seq_len] */
    uint32_t *number; /* owned, [n]: which window of the text */
    /* `of` whole windows are in what was read; 0: text of the model's own, of which the first ones are
     * taken */
    size_t n, of;
    json_t *report; /* owned: kq_text_ids' of the texts; NULL: text of the model's own */
} kq_windows;

/* The files' documents as kq_text_encode joins them, read as far as kq_text_reach says of the largest
 * count (how->reach is not looked at). Of the whole windows of seq_len tokens in them, window i *
 * floor(windows / count) is taken for i < count: every window that one of the counts takes. KQ_E_ARG:
 * empty or too short a text. */
kq_status kq_text_windows(const kq_text_how *how, const char *const *files, size_t n_files,
                          const size_t *counts, size_t n_counts, size_t seq_len, kq_windows *out,
                          kq_error *err);
void kq_windows_free(kq_windows *w);
/* The windows that this count takes: their indices in w, seq [count]. count: one of those w was made for. */
void kq_windows_pick(const kq_windows *w, size_t count, uint32_t *seq);

#endif
