/* Cutting texts into sequences of calibration, the same ones whatever else is cut from them: windows.h. */
#include "text/windows.h"

#include <string.h>

#include "base/mem.h"

void kq_windows_free(kq_windows *w)
{
    kq_free(w->ids);
    kq_free(w->number);
    json_decref(w->report);
    *w = (kq_windows){0};
}

void kq_windows_pick(const kq_windows *w, size_t count, uint32_t *seq)
{
    const size_t step = w->of ? w->of / count : 1;
    for (size_t i = 0, at = 0; i < count; i++) {
        while (w->number[at] != i * step)
            at++;
        seq[i] = (uint32_t)at;
    }
}

/* Copy the windows that one of the counts takes out of the text's ids. */
static kq_status copy_windows(const kq_text_ids *list, const size_t *counts, size_t n_counts, size_t seq_len,
                              kq_windows *out, kq_error *err)
{
    uint8_t *taken = kq_calloc(out->of, 1);
    if (!taken)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: %zu windows of text", out->of);
    for (size_t c = 0; c < n_counts; c++)
        for (size_t i = 0; i < counts[c]; i++)
            taken[i * (out->of / counts[c])] = 1;
    for (size_t i = 0; i < out->of; i++)
        out->n += taken[i];
    kq_status status = kq_alloc_for((void **)&out->ids, out->n * seq_len, sizeof *out->ids, "token ids", err);
    if (!status)
        status = kq_alloc_for((void **)&out->number, out->n, sizeof *out->number, "windows", err);
    for (size_t i = 0, at = 0; i < out->of && !status; i++) {
        if (!taken[i])
            continue;
        memcpy(out->ids + at * seq_len, list->ids + i * seq_len, seq_len * sizeof *out->ids);
        out->number[at++] = (uint32_t)i;
    }
    kq_free(taken);
    return status;
}

/* As much of the texts as `most` windows of seq_len tokens need. */
static kq_status encode(const kq_text_how *how, const char *const *files, size_t n_files, size_t most,
                        size_t seq_len, kq_text_ids *list, kq_error *err)
{
    size_t n_tokens;
    if (!kq_mul_size(most, seq_len, &n_tokens))
        return kq_fail(err, KQ_E_ARG, "%zu sequences of %zu tokens are too many", most, seq_len);
    kq_text_how h = *how;
    h.reach = kq_text_reach(n_tokens);
    return kq_text_encode(files, n_files, &h, n_tokens, false, false, list, err);
}

kq_status kq_text_count_windows(const kq_text_how *how, const char *const *files, size_t n_files, size_t most,
                                size_t seq_len, size_t *n, kq_error *err)
{
    kq_text_ids list;
    kq_status status = encode(how, files, n_files, most, seq_len, &list, err);
    if (status)
        return status;
    *n = list.n / seq_len < most ? list.n / seq_len : most;
    kq_text_ids_free(&list);
    return KQ_OK;
}

kq_status kq_text_windows(const kq_text_how *how, const char *const *files, size_t n_files,
                          const size_t *counts, size_t n_counts, size_t seq_len, kq_windows *out,
                          kq_error *err)
{
    size_t most = 0;
    *out = (kq_windows){0};
    for (size_t c = 0; c < n_counts; c++)
        most = counts[c] > most ? counts[c] : most;
    kq_text_ids list;
    kq_status status = encode(how, files, n_files, most, seq_len, &list, err);
    if (status)
        return status;
    out->of = list.n / seq_len;
    if (out->of < most || out->of > UINT32_MAX)
        status = kq_fail(err, KQ_E_ARG,
                         "%s%s: %zu tokens make %zu whole sequences of %zu, %zu are asked for; give more "
                         "--text or fewer --tokens",
                         kq_text_shown(files[0]), n_files > 1 ? " and the other texts" : "", list.n, out->of,
                         seq_len, most);
    if (!status)
        status = copy_windows(&list, counts, n_counts, seq_len, out, err);
    if (status)
        kq_windows_free(out);
    else
        out->report = json_incref(list.report);
    kq_text_ids_free(&list);
    return status;
}
