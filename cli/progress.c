/* Shows progress on stderr. On a terminal it is one line that is rewritten. In a log there is a line when a
 * stage ends, and when nothing was shown for a minute. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

static bool line_open; /* a rewritten line is on the screen */

static struct {
    char stage[64];
    double start_s, start_fraction, shown_s;
} now;

static void clock_text(double s, char buf[32])
{
    if (s >= 3600)
        snprintf(buf, 32, "%d:%02d:%02d", (int)(s / 3600), (int)(s / 60) % 60, (int)s % 60);
    else
        snprintf(buf, 32, "%d:%02d", (int)(s / 60), (int)s % 60);
}

void cli_progress_end(void)
{
    if (line_open)
        fputs("\r\033[K", stderr);
    line_open = false;
}

static int show(void *ctx, const char *stage, double fraction, const char *note)
{
    cli *c = ctx;
    if (cli_stop_asked())
        return 1;
    if (c->quiet)
        return 0;
    if (c->fitted_seq_len)
        fprintf(stderr,
                "sequences of %zu tokens: the model's context is shorter than the default of --seq-len\n",
                c->fitted_seq_len);
    c->fitted_seq_len = 0;
    const double t = cli_now_s();
    const bool terminal = isatty(STDERR_FILENO);
    if (note) {
        cli_progress_end();
        fprintf(stderr, "%s\n", note);
        /* in a log a note also shows that the work goes on, so that the minute begins anew */
        now.shown_s = terminal ? 0 : t;
    }
    if (note || !stage) /* a note does not change the stage */
        return 0;
    if (strcmp(now.stage, stage)) {
        snprintf(now.stage, sizeof now.stage, "%s", stage);
        now.start_s = t;
        now.start_fraction = fraction;
        now.shown_s = terminal ? 0 : t;
    }
    if (fraction < 1 && t - now.shown_s < (terminal ? 0.2 : 60))
        return 0;
    now.shown_s = t;
    char elapsed[32], eta[32] = "?";
    clock_text(t - now.start_s, elapsed);
    const double advance = fraction - now.start_fraction;
    if (advance > 0.005)
        clock_text((t - now.start_s) * (1 - fraction) / advance, eta);
    fprintf(stderr, "%s%-14s %5.1f%%  elapsed %s, ETA %s%s", terminal ? "\r\033[K" : "", stage,
            100 * fraction, elapsed, eta, terminal ? "" : "\n");
    line_open = terminal;
    fflush(stderr);
    return 0;
}

/* Show each warning once, above the line of progress. Warnings that were shown are kept as hashes, at most
 * 256; after that, a repeated warning is shown again. */
void cli_warning(void *ctx, const char *message)
{
    static uint64_t said[256];
    static size_t n;
    (void)ctx;
    uint64_t hash = 0xcbf29ce484222325; /* FNV-1a */
    for (const char *c = message; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 0x100000001b3;
    for (size_t i = 0; i < n && i < 256; i++)
        if (said[i] == hash)
            return;
    said[n++ % 256] = hash;
    cli_progress_end();
    fprintf(stderr, "kronq: warning: %s\n", message);
}

void cli_warn(const char *format, ...)
{
    char message[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    for (char *c = message; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 127)
            *c = '?';
    cli_warning(NULL, message);
}

void cli_progress(cli *c, kq_common *common)
{
    common->progress = show;
    common->ctx = c;
    cli_stop_gently("kronq: stopping at the next step; Ctrl-C again ends it at once");
}
