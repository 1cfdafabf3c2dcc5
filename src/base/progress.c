/* The guard before a caller's progress function. It remembers the stage and the wish to stop, so that no
 * other file has to. */
#include "base/progress.h"

#include <stdio.h>

#include "base/locale.h"

static int guarded(void *ctx, const char *stage, double fraction, const char *note)
{
    kq_progress *p = ctx;
    if (p->stopped)
        return 1;
    if (stage && stage != p->stage) {
        snprintf(p->stage, sizeof p->stage, "%s", stage);
        p->fraction = fraction >= 0 && fraction <= 1 ? fraction : fraction > 1;
    }
    const locale_t ours = kq_locale_host();
    p->stopped = p->to->progress(p->to->ctx, p->stage, p->fraction, note) != 0;
    uselocale(ours);
    return p->stopped;
}

kq_common kq_progress_guard(const kq_common *common, kq_progress *p)
{
    kq_common c = *common;
    *p = (kq_progress){.to = common, .stage = "preparing"};
    if (c.progress) {
        c.progress = guarded;
        c.ctx = p;
    }
    return c;
}

kq_status kq_progress_note(const kq_common *common, const char *line, kq_error *err)
{
    return common->progress && common->progress(common->ctx, NULL, 0, line)
               ? kq_fail(err, KQ_E_INTERRUPTED, "stopped on request (%s)", line)
               : KQ_OK;
}

kq_status kq_progress_ask(const kq_common *common, const char *what, kq_error *err)
{
    if (common->progress && common->progress(common->ctx, NULL, 0, NULL))
        return kq_fail(err, KQ_E_INTERRUPTED, "stopped after %s", what);
    return KQ_OK;
}
