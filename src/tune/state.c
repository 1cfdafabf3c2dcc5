/* The state of unfinished tuning as a file of five records, which replaces the one before by a rename: its
 * few numbers and the losses, then each array of trained numbers. A GGUF has millions of those, so that no
 * copy of them all is made. Checksums are those of a spill. */
#include <string.h>

#include "base/mem.h"
#include "sweep/spill.h"
#include "tune/internal.h"

enum { HEADER = 40, RECORDS = 5 }; /* three u64, two f64 */

static size_t record_bytes(const kq_tune_state *s)
{
    const size_t first = HEADER + (s->steps + 2 * s->watches) * sizeof(double),
                 array = s->n_params * sizeof(float);
    return first > array ? first : array;
}

/* Copy the first record's members to it, or from it. */
static void transfer(kq_tune_state *z, char *record, bool save)
{
    const struct {
        void *p;
        size_t bytes;
    } parts[] = {{&z->step, 8},
                 {&z->best_step, 8},
                 {&z->n_watched, 8},
                 {&z->best_kl, 8},
                 {&z->untuned_kl, 8},
                 {z->loss, z->steps * sizeof(double)},
                 {z->watched_kl, z->watches * sizeof(double)},
                 {z->watched_step, z->watches * sizeof(double)}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        memcpy(save ? (void *)record : parts[i].p, save ? parts[i].p : (void *)record, parts[i].bytes);
        record += parts[i].bytes;
    }
}

/* Write all records, or read them, through one buffer. */
static kq_status pass_records(kq_spill *f, kq_tune_state *s, bool save, kq_error *err)
{
    float *const arrays[RECORDS - 1] = {s->theta, s->m, s->v, s->best};
    const size_t bytes = s->n_params * sizeof(float);
    char *record = kq_calloc(record_bytes(s), 1);
    kq_status st = record ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: the state of tuning");
    for (size_t i = 0; i < RECORDS && !st; i++) {
        if (save && i)
            memcpy(record, arrays[i - 1], bytes);
        else if (save)
            transfer(s, record, true);
        st = save ? kq_spill_write(f, i, record, err) : kq_spill_read(f, i, record, err);
        if (!st && !save && i)
            memcpy(arrays[i - 1], record, bytes);
        else if (!st && !save)
            transfer(s, record, false);
    }
    kq_free(record);
    return st;
}

size_t kq_tune_state_bytes(size_t n_params)
{
    return RECORDS * n_params * sizeof(float);
}

kq_status kq_tune_state_save(const kq_job *job, const kq_tune_state *s, kq_error *err)
{
    char *path = NULL;
    kq_spill *f = NULL;
    kq_tune_state same = *s;
    kq_status st = kq_job_path(job, "state", 0, "bin", &path, err);
    if (!st && !(st = kq_spill_create(path, RECORDS, record_bytes(s), &f, err))) {
        if (!(st = pass_records(f, &same, true, err)))
            st = kq_spill_commit(f, err);
        else
            kq_spill_close(f);
    }
    kq_free(path);
    return st;
}

kq_status kq_tune_state_load(const kq_job *job, kq_tune_state *s, bool *found, kq_error *err)
{
    char *path = NULL;
    kq_spill *f = NULL;
    *found = kq_job_has_file(job, "state", 0, "bin");
    if (!*found)
        return KQ_OK;
    kq_status st = kq_job_path(job, "state", 0, "bin", &path, err);
    if (!st && !(st = kq_spill_open(path, RECORDS, record_bytes(s), &f, err)))
        st = pass_records(f, s, false, err);
    if (!st && (s->step > s->steps || s->n_watched > s->watches))
        st = kq_fail(err, KQ_E_FORMAT, "%s: is damaged; --fresh discards the unfinished work and starts anew",
                     path);
    kq_spill_close(f);
    kq_free(path);
    return st;
}
