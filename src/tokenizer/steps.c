/* Two things that all parts of an encoding do: adding ids, and asking whether the caller wants to stop. */
#include "tokenizer/internal.h"

kq_status kq_tok_ids_add(kq_tok_ids *ids, int32_t id, kq_error *err)
{
    if (ids->size >= ids->cap || !ids->data) {
        void *block = ids->data;
        kq_status status =
            kq_grow(&block, &ids->cap, ids->size, ids->size + 1, sizeof id, "the tokenizer", err);
        if (status)
            return status;
        ids->data = block;
    }
    ids->data[ids->size++] = id;
    return KQ_OK;
}

kq_status kq_tok_check_stop(kq_tok_scratch *s, kq_error *err)
{
    s->steps = 0;
    return s->stop && s->stop(s->ctx)
               ? kq_fail(err, KQ_E_INTERRUPTED,
                         "the text is not tokenized to its end: the caller asked to stop")
               : KQ_OK;
}
