/* The state of unfinished tuning as one record of one file, which replaces the one before by a rename. Its
 * checksum is that of a spill. */
#include <string.h>

#include "base/mem.h"
#include "sweep/spill.h"
#include "tune/internal.h"

enum { HEADER = 40 }; /* three u64, two f64 */

static size_t record_bytes(const kq_tune_state *s)
{
    return HEADER + 4 * s->n_params * sizeof(float) + (s->steps + 2 * s->watches) * sizeof(double);
}

/* Copy every member to the record, or from it. */
static void transfer(const kq_tune_state *s, kq_tune_state *to, char *record, bool save)
{
    kq_tune_state *z = save ? (kq_tune_state *)(uintptr_t)s : to;
    const struct {
        void *p;
        size_t bytes;
    } parts[] = {{&z->step, 8},
                 {&z->best_step, 8},
                 {&z->n_watched, 8},
                 {&z->best_kl, 8},
                 {&z->untuned_kl, 8},
                 {z->theta, z->n_params * sizeof(float)},
                 {z->m, z->n_params * sizeof(float)},
                 {z->v, z->n_params * sizeof(float)},
                 {z->best, z->n_params * sizeof(float)},
                 {z->loss, z->steps * sizeof(double)},
                 {z->watched_kl, z->watches * sizeof(double)},
                 {z->watched_step, z->watches * sizeof(double)}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        memcpy(save ? (void *)record : parts[i].p, save ? parts[i].p : (void *)record, parts[i].bytes);
        record += parts[i].bytes;
    }
}

kq_status kq_tune_state_save(const kq_job *job, const kq_tune_state *s, kq_error *err)
{
    char *path = NULL, *record = NULL;
    kq_spill *f = NULL;
    kq_status st = kq_job_path(job, "state", 0, "bin", &path, err);
    if (!st)
        st = kq_alloc_for((void **)&record, record_bytes(s), 1, "the state of tuning", err);
    if (!st && !(st = kq_spill_create(path, 1, record_bytes(s), &f, err))) {
        transfer(s, NULL, record, true);
        if (!(st = kq_spill_write(f, 0, record, err)))
            st = kq_spill_commit(f, err);
        else
            kq_spill_close(f);
    }
    kq_free(record);
    kq_free(path);
    return st;
}

kq_status kq_tune_state_load(const kq_job *job, kq_tune_state *s, bool *found, kq_error *err)
{
    char *path = NULL, *record = NULL;
    kq_spill *f = NULL;
    *found = kq_job_has_file(job, "state", 0, "bin");
    if (!*found)
        return KQ_OK;
    kq_status st = kq_job_path(job, "state", 0, "bin", &path, err);
    if (!st)
        st = kq_alloc_for((void **)&record, record_bytes(s), 1, "the state of tuning", err);
    if (!st && !(st = kq_spill_open(path, 1, record_bytes(s), &f, err)))
        st = kq_spill_read(f, 0, record, err);
    if (!st)
        transfer(s, s, record, false);
    if (!st && (s->step > s->steps || s->n_watched > s->watches))
        st = kq_fail(err, KQ_E_FORMAT, "%s: is damaged; --fresh discards the unfinished work and starts anew",
                     path);
    kq_spill_close(f);
    kq_free(record);
    kq_free(path);
    return st;
}
