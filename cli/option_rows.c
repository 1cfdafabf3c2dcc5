/* Which rows of the two tables a command takes: the library's (kronq.h, "Settings by name") and the program's
 * own (own_options.c), in the order in which help shows them. */
#include <stdio.h>
#include <string.h>

#include "cli.h"

/* The takers of settings (bits of kq_taker) that each command may turn out to be. */
static const struct {
    const char *command;
    unsigned takers;
} commands[] = {
    {"quantize", KQ_FOR_QUANTIZE | KQ_FOR_QUANTIZE_GGUF | KQ_FOR_QUANTIZE_EXL3},
    {"tune", KQ_FOR_TUNE},
    {"calibrate", KQ_FOR_CALIBRATE},
    {"imatrix", KQ_FOR_IMATRIX},
    {"eval", KQ_FOR_EVAL_TEXT | KQ_FOR_EVAL_TASKS},
    {"compare", KQ_FOR_COMPARE_TEXTS | KQ_FOR_COMPARE_TASKS},
    {"report", KQ_FOR_REPORT},
    {"run", KQ_FOR_RUN},
    {"serve", KQ_FOR_SERVE},
    {"export", KQ_FOR_EXPORT_FOLDER | KQ_FOR_EXPORT_GGUF},
    {"bench", KQ_FOR_BENCH},
    {"info", KQ_FOR_INFO | KQ_FOR_PLAN_WAYS},
    {"selfcheck", KQ_FOR_SELFCHECK},
};

unsigned cli_takers_of(const char *command)
{
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (!strcmp(commands[i].command, command))
            return commands[i].takers;
    return 0;
}

const char *cli_option_name(const kq_setting *option, char buf[64])
{
    snprintf(buf, 64, "%s", option->name);
    for (char *at = buf; *at; at++)
        *at = *at == '_' ? '-' : *at;
    return buf;
}

/* First the program's own options without a heading, then the library's, then the program's others. */
const kq_setting *cli_option_at(const cli *c, size_t i)
{
    size_t n_own, n_library;
    const kq_setting *own = cli_own_options(&n_own), *library = kq_settings(&n_library);
    for (size_t k = 0; k < 2 * n_own + n_library; k++) {
        const bool first = k < n_own, last = k >= n_own + n_library;
        const kq_setting *s = first ? &own[k] : last ? &own[k - n_own - n_library] : &library[k - n_own];
        if (!(s->takers & c->takers) || (first && s->group) || (last && !s->group))
            continue;
        if (!i--)
            return s;
    }
    return NULL;
}

const kq_setting *cli_option(const cli *c, const char *name)
{
    const kq_setting *s;
    for (size_t i = 0; (s = cli_option_at(c, i)); i++)
        if (!strcmp(s->name, name))
            return s;
    return NULL;
}
