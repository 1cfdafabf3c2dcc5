/* The program kronq. It prepares the process, finds the command that is meant (cmd_*.c) and checks at the end
 * that all output has arrived. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "cli.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *about;
} commands[] = {
    {"quantize", cmd_quantize, "quantize a model to 2, 3 or 4 bits a weight"},
    {"tune", cmd_tune, "train the scales and norms of a quantized model by distillation"},
    {"calibrate", cmd_calibrate, "find the curvature factors only, to round from them later"},
    {"imatrix", cmd_imatrix, "make an importance matrix for llama.cpp's llama-quantize"},
    {"eval", cmd_eval, "perplexity, and KL divergence to the original"},
    {"compare", cmd_compare, "quantize in several ways and measure each: one table"},
    {"report", cmd_report, "draw a comparison: one HTML page"},
    {"run", cmd_run, "let a model speak"},
    {"serve", cmd_serve, "answer over HTTP as OpenAI's API does: completions, chat, scores of prompts"},
    {"export", cmd_export,
     "write the weights as an ordinary model: a Hugging Face folder in bf16, or a GGUF for llama.cpp"},
    {"bench", cmd_bench, "tokens a second"},
    {"info", cmd_info, "what a model file holds, and what quantizing it would take"},
    {"selfcheck", cmd_selfcheck, "compare every kernel that this processor can run with plain C"},
    {0},
};

static void usage(FILE *to)
{
    fprintf(
        to,
        "kronq %s: quantize language models to 2-4 bits per weight, guided by the curvature of the loss\n\n"
        "usage: kronq COMMAND MODEL [options]\n\n",
        kq_version());
    for (size_t i = 0; commands[i].name; i++)
        fprintf(to, "  kronq %-10s %s\n", commands[i].name, commands[i].about);
    fprintf(to, "\nMODEL is a Hugging Face folder, a .gguf file, a kronq checkpoint or an EXL3 folder, "
                "everywhere; report takes a DIR, selfcheck nothing.\n"
                "`kronq help COMMAND` or `kronq COMMAND --help` explains a command. Of an option given twice "
                "the last counts. Try:\n\n"
                "  kronq quantize model.gguf -o out --bits 2\n"
                "  kronq eval out --ppl text.txt --kld model.gguf\n"
                "  kronq run out -p \"Why is the sky blue?\" --chat\n");
}

/* Fill the places of a closed stdin, stdout or stderr. Otherwise the next file that is opened would get the
 * number, and what is printed would end up in that file. Reading and writing them still fails. */
static void hold_standard_streams(void)
{
    int fd;
    do
        fd = open("/dev/null", O_PATH);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd > STDERR_FILENO)
        close(fd);
}

/* Check that what was printed has arrived. A full disk, or a reader that has left, is a failure. */
static int finish_stdout(int status)
{
    const bool failed = ferror(stdout), unwritten = fflush(stdout) != 0;
    if (!failed && !unwritten)
        return status;
    fprintf(stderr, "kronq: standard output cannot be written%s%s\n", unwritten ? ": " : "",
            unwritten ? strerror(errno) : "");
    return status == EXIT_OK ? EXIT_FAILED : status;
}

/* Set variables of the environment that the user has not set, and start the program again, once. This is
 * needed because two libraries read the environment when they are loaded, before main. OpenBLAS reads which
 * kernels it uses, and --isa must hold it to a lower instruction set. OpenMP reads what idle threads do. By
 * default they spin, which takes the processor from others on a shared machine: one stage of rounding took
 * 215 s instead of 13 s beside other jobs. */
static void set_environment(int argc, char **argv)
{
    const char *name = getenv("KRONQ_ISA");
    bool again = false;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--isa") && i + 1 < argc)
            name = argv[i + 1];
        else if (!strncmp(argv[i], "--isa=", 6))
            name = argv[i] + 6;
    }
    const char *core = kq_openblas_core(name);
    if (core && !getenv("OPENBLAS_CORETYPE"))
        again = !setenv("OPENBLAS_CORETYPE", core, 1);
    if (!getenv("OMP_WAIT_POLICY"))
        again = !setenv("OMP_WAIT_POLICY", "passive", 1) || again;
    if (again)
        /* where the program cannot start itself again, it works all the same */
        execv("/proc/self/exe", argv);
}

/* The index of a command in the table; the number of commands when there is none of this name. */
static size_t find(const char *name)
{
    size_t i = 0;
    while (commands[i].name && strcmp(name, commands[i].name))
        i++;
    return i;
}

static const char *command_name(const void *list, size_t i)
{
    (void)list;
    return commands[i].name;
}

static int unknown(const char *word)
{
    const char *meant = *word == '-' ? NULL : cli_nearest(word, command_name, NULL);
    if (*word == '-')
        cli_say("kronq: %s: a command comes first, options after it; `kronq --help` lists the commands",
                word);
    else if (!meant && !access(word, F_OK))
        cli_say("kronq: unknown command %s; a command comes before the model, as in `kronq info %s`; `kronq "
                "--help` lists them",
                word, word);
    else
        cli_say("kronq: unknown command %s%s%s%s; `kronq --help` lists them", word,
                meant ? "; did you mean " : "", meant ? meant : "", meant ? "?" : "");
    return EXIT_USAGE;
}

static int help(const char *command)
{
    char name[32], option[] = "--help", *argv[] = {name, option, NULL};
    const size_t at = find(command);
    if (!commands[at].name)
        return unknown(command);
    snprintf(name, sizeof name, "%s", command);
    return finish_stdout(commands[at].run(2, argv));
}

/* Every command with its options, as JSON: what scripts/make_man.py reads. */
static int help_json(void)
{
    char name[32], option[] = "--help-json", *argv[] = {name, option, NULL};
    printf("{\"version\": \"%s\", \"commands\": [\n", kq_version());
    for (size_t i = 0; commands[i].name; i++) {
        snprintf(name, sizeof name, "%s", commands[i].name);
        printf("%s{\"summary\": \"%s\", \"help\":\n", i ? ",\n" : "", commands[i].about);
        commands[i].run(2, argv);
        printf("}");
    }
    puts("\n]}");
    return finish_stdout(EXIT_OK);
}

int main(int argc, char **argv)
{
    /* after it has started itself again, ps and top would call the process "exe" */
    prctl(PR_SET_NAME, "kronq");
    hold_standard_streams();
    /* writing to a closed pipe, or beyond a limit of file sizes, shall be an error and not end the program */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    if (argc < 2) {
        usage(stderr);
        return EXIT_USAGE;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        if (argc > 2)
            return strcmp(argv[2], "--json") ? help(argv[2]) : help_json();
        usage(stdout);
        return finish_stdout(EXIT_OK);
    }
    if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V") || !strcmp(argv[1], "version")) {
        printf("kronq %s\n", kq_version());
        return finish_stdout(EXIT_OK);
    }
    const size_t at = find(argv[1]);
    if (!commands[at].name)
        return unknown(argv[1]);
    if (argc == 3 && !strcmp(argv[2], "help") && access("help", F_OK))
        return help(argv[1]);
    set_environment(argc, argv);
    cli_signals_begin();
    kq_set_warning_handler(cli_warning, NULL);
    const int status = finish_stdout(commands[at].run(argc - 1, argv + 1));
    cli_stop_at_once(); /* end by the signal itself, so that a loop of a shell ends too */
    return status;
}
