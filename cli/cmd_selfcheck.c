/* kronq selfcheck: every kernel of this processor against plain C. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

/* Print a line for each room, in the order of the report: how many kernels it has, and the largest error as a
 * share of what is allowed. A kernel that must give the same bits (bound 0) has no such share; any error is a
 * failure. */
static void print_rooms(const json_t *checks)
{
    const json_t *entry;
    size_t i;
    const char *before = "";
    printf("%-10s %8s  %-14s %s\n", "room", "kernels", "error / bound", "ok");
    json_array_foreach(checks, i, entry) {
        const char *room = json_string_value(json_object_get(entry, "room"));
        if (!strcmp(room, before))
            continue;
        before = room;
        size_t kernels = 0;
        double largest = 0;
        bool ok = true;
        const json_t *e;
        size_t k;
        json_array_foreach(checks, k, e) {
            if (strcmp(json_string_value(json_object_get(e, "room")), room))
                continue;
            const double error = json_number_value(json_object_get(e, "error")),
                         bound = json_number_value(json_object_get(e, "bound"));
            const double share = bound > 0 ? error / bound : 0;
            kernels++;
            largest = share > largest ? share : largest;
            ok = ok && json_is_true(json_object_get(e, "ok"));
        }
        printf("%-10s %8zu  %-14.2g %s\n", room, kernels, largest, ok ? "yes" : "NO");
    }
}

static int print_report(const cli *c, const char *text)
{
    if (c->json) {
        puts(text);
        return EXIT_OK;
    }
    if (c->quiet)
        return EXIT_OK;
    json_error_t wrong;
    json_t *report = json_loads(text, 0, &wrong);
    if (!report) {
        cli_say("kronq selfcheck: the report cannot be read: %s", wrong.text);
        return EXIT_FAILED;
    }
    print_rooms(json_object_get(report, "checks"));
    if (!json_integer_value(json_object_get(report, "failed")))
        printf("%lld kernels up to %s: each computes what plain C does\n",
               (long long)json_integer_value(json_object_get(report, "checked")),
               json_string_value(json_object_get(report, "isa")));
    json_decref(report);
    return EXIT_OK;
}

int cmd_selfcheck(int argc, char **argv)
{
    cli c;
    int status = cli_parse(&c, argc, argv, "selfcheck [options]",
                           "Compare every kernel of every instruction set that this processor has with plain "
                           "C, on random inputs: a second\n"
                           "or two. A wrong compiler flag, a broken library or a faulty processor shows "
                           "here, before it spoils a model.\n"
                           "The exit status is 1 when a kernel differs. `error / bound` is the largest error "
                           "as a share of what rounding\n"
                           "explains; above 1 is a difference.\n\n"
                           "  kronq selfcheck\n"
                           "  kronq selfcheck --isa avx2 --json");
    if (status >= 0)
        return status;
    kq_error err;
    char *text = NULL;
    cli_progress(&c, &c.q.common);
    const kq_status result = kq_selfcheck(&c.q.common, &text, &err);
    cli_progress_end();
    status = text ? print_report(&c, text) : EXIT_OK;
    free(text);
    return result ? cli_fail(&err) : status;
}
