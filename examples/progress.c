/* Quantize a model with a progress bar. Ctrl-C stops the work, and the same command continues it:
 *
 *     progress MODEL OUT [TEXT...]
 *
 * The library calls `show` now and then. When `show` returns a nonzero value, the work stops at the next
 * step. Finished blocks stay in OUT, and opt.resume continues from there. */
#include <kronq.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static volatile sig_atomic_t stop;

static void on_signal(int number)
{
    stop = number;
}

typedef struct bar {
    char stage[64];
    time_t start; /* when the stage began */
} bar;

static int show(void *ctx, const char *stage, double fraction, const char *note)
{
    bar *b = ctx;
    if (note)
        fprintf(stderr, "\r\033[K%s\n", note);
    if (strcmp(b->stage, stage)) {
        snprintf(b->stage, sizeof b->stage, "%s", stage);
        b->start = time(NULL);
    }
    const double left = fraction > 0 ? difftime(time(NULL), b->start) * (1 - fraction) / fraction : 0;
    fprintf(stderr, "\r\033[K%-12s [%-30.*s] %3.0f%%  %.0f s left", stage, (int)(30 * fraction),
            "##############################", 100 * fraction, left);
    return stop;
}

int main(int argc, char **argv)
{
    kq_error err;
    bar b = {0};
    if (argc < 3) {
        fprintf(stderr, "usage: progress MODEL OUT [TEXT...]\n");
        return 2;
    }
    signal(SIGINT, on_signal);
    kq_quantize_options opt = kq_quantize_defaults();
    opt.common.progress = show;
    opt.common.ctx = &b;
    opt.calibration.text = (const char *const *)argv + 3;
    opt.calibration.n_text = (size_t)argc - 3;
    opt.calibration.tokens = 16384;
    opt.calibration.seq_len = 256;
    opt.resume = true; /* also for the first run, when there is nothing to continue */
    const kq_status status = kq_quantize(argv[1], argv[2], &opt, NULL, &err);
    fprintf(stderr, "\n%s\n", status ? err.message : "done"); /* after a stop the same command continues */
    return status == KQ_E_INTERRUPTED ? 130 : status != KQ_OK;
}
