/* What the program says when it ends: error messages on one line, and exit statuses. The check that outputs
 * can be written is here too; it is made before the work begins. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"

enum { MOST_LINE = 4096 }; /* bytes: a longer message is cut */

static const char *resumable; /* what continues the command at work: "the same command with --resume" */

void cli_say(const char *format, ...)
{
    char line[MOST_LINE];
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    for (char *at = line; *at; at++)
        if ((unsigned char)*at < ' ' || *at == 127)
            *at = '?';
    fprintf(stderr, "%s%s\n", line, n >= (int)sizeof line ? " ..." : "");
}

/* 0, or the reason why the file cannot be written: an errno. */
static int why_unwritable(const char *path, const char *folder)
{
    struct stat st;
    const bool there = !stat(path, &st);
    if (there && S_ISDIR(st.st_mode))
        return EISDIR;
    if (!access(folder, F_OK) && !(stat(folder, &st) == 0 && S_ISDIR(st.st_mode)))
        return ENOTDIR;
    return access(there ? path : folder, W_OK) ? errno : 0;
}

int cli_check_output(const char *path)
{
    if (!path)
        return -1;
    const char *slash = strrchr(path, '/');
    char *folder = slash ? strndup(path, (size_t)(slash - path) + (slash == path)) : strdup(".");
    const int why = folder ? why_unwritable(path, folder) : ENOMEM;
    free(folder);
    if (!why)
        return -1;
    cli_say("kronq: %s: cannot be written: %s", path, strerror(why));
    return EXIT_FAILED;
}

void cli_resumable(const char *how)
{
    resumable = how;
}

int cli_fail(const kq_error *err)
{
    cli_progress_end();
    const bool hint = err->status == KQ_E_INTERRUPTED && resumable;
    cli_say("kronq: %s%s%s%s", err->message, hint ? "; " : "", hint ? resumable : "",
            hint ? " continues" : "");
    return err->status == KQ_E_ARG ? EXIT_USAGE : EXIT_FAILED;
}

void cli_print_costs(const json_t *report)
{
    const char *key;
    json_t *value;
    char peak[32], planned[32];
    json_object_foreach(json_object_get(report, "seconds"), key, value)
        fprintf(stderr, "  %-10s %8.1f s\n", key, json_number_value(value));
    fprintf(stderr, "peak memory %s (planned %s; gradients: %s)\n",
            cli_bytes(json_number_value(json_object_get(report, "peak_rss_bytes")), peak),
            cli_bytes(json_number_value(json_object_get(report, "planned_bytes")), planned),
            json_string_value(json_object_get(report, "gradients")));
}

int cli_missing(const char *command, const char *option)
{
    cli_say("kronq %s: %s is missing; see kronq %s --help", command, option, command);
    return EXIT_USAGE;
}
