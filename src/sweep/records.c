/* Block inputs and gradients, spilled: one file a layer, one record a sequence and draw. Inputs are stored in
 * bf16, which halves their share of the disk; gradients stay f32, because each is read, passed through a
 * block and written again once a layer. */
#include "sweep/records.h"

#include "base/f16.h"
#include "base/mem.h"

static const struct {
    const char *stem, *suffix;
    size_t width;
} kinds[] = {[KQ_REC_INPUT] = {"input", "bf16", 2}, [KQ_REC_GRAD] = {"grad", "f32", 4}};

static kq_status path_of(const kq_sweeper *w, kq_record_kind kind, size_t layer, char **out, kq_error *err)
{
    return kq_job_path(w->s->job, kinds[kind].stem, layer, kinds[kind].suffix, out, err);
}

static size_t count_of(const kq_sweeper *w, kq_record_kind kind)
{
    return kind == KQ_REC_INPUT ? w->s->n_seq : w->n_rec;
}

bool kq_records_there(const kq_sweeper *w, kq_record_kind kind, size_t layer)
{
    return kq_job_has_file(w->s->job, kinds[kind].stem, layer, kinds[kind].suffix);
}

void kq_records_drop(const kq_sweeper *w, kq_record_kind kind, size_t layer)
{
    kq_job_remove_file(w->s->job, kinds[kind].stem, layer, kinds[kind].suffix);
}

kq_status kq_records_open(const kq_sweeper *w, kq_record_kind kind, size_t layer, kq_spill **out,
                          kq_error *err)
{
    char *path;
    kq_status status = path_of(w, kind, layer, &path, err);
    if (!status)
        status = kq_spill_open(path, count_of(w, kind), kinds[kind].width * w->record, out, err);
    kq_free(path);
    return status;
}

kq_status kq_records_create(const kq_sweeper *w, kq_record_kind kind, size_t layer, kq_spill **out,
                            kq_error *err)
{
    char *path;
    kq_status status = path_of(w, kind, layer, &path, err);
    if (!status)
        status = kq_spill_create(path, count_of(w, kind), kinds[kind].width * w->record, out, err);
    kq_free(path);
    return status;
}

kq_status kq_records_finish(kq_spill *f, kq_status status, kq_error *err)
{
    if (!status && f)
        return kq_spill_commit(f, err);
    kq_spill_close(f);
    return status;
}

kq_status kq_records_read_input(const kq_sweeper *w, kq_sweep_worker *k, kq_spill *in, size_t seq,
                                kq_error *err)
{
    kq_status status = kq_spill_read(in, seq, k->half, err);
    if (!status)
        kq_bf16_to_f32_n(k->half, k->x, w->record);
    return status;
}

kq_status kq_records_write_input(const kq_sweeper *w, kq_sweep_worker *k, kq_spill *out, size_t seq,
                                 kq_error *err)
{
    kq_f32_to_bf16_n(k->x, k->half, w->record);
    return kq_spill_write(out, seq, k->half, err);
}

kq_status kq_sweep_embed(kq_sweeper *w, kq_error *err)
{
    kq_spill *out;
    if (kq_records_there(w, KQ_REC_INPUT, 0))
        return KQ_OK;
    kq_status status = kq_records_create(w, KQ_REC_INPUT, 0, &out, err);
    if (status)
        return status;
    for (size_t i = 0; i < w->s->n_seq && !status; i++)
        if (!(status = kq_head_embed(w->head, w->s->ids + i * w->s->T, w->s->T, w->w->x, err)))
            status = kq_records_write_input(w, w->w, out, i, err);
    return kq_records_finish(out, status, err);
}
