/* kronq: the program. Commands are in cmd_*.c; this finds the one that is meant. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/isa.h"
#include "cli.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *about;
} commands[] = {
    {"quantize", cmd_quantize, "quantize a model to 2, 3 or 4 bits a weight"},
    {"calibrate", cmd_calibrate, "find the curvature factors only, to round from them later"},
    {"eval", cmd_eval, "perplexity, and KL divergence to the original"},
    {"run", cmd_run, "let a model speak"},
    {"info", cmd_info, "what a model file holds, and what quantizing it would take"},
};

static void usage(FILE *to)
{
    fprintf(to, "kronq %s: quantize language models to 2-4 bits per weight, guided by the curvature of the loss\n\n"
                "usage: kronq COMMAND MODEL [options]\n\n", kq_version());
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        fprintf(to, "  kronq %-10s %s\n", commands[i].name, commands[i].about);
    fprintf(to, "\nMODEL is a Hugging Face folder, a .gguf file or a kronq checkpoint, everywhere.\n"
                "`kronq COMMAND --help` explains a command. Try:\n\n"
                "  kronq quantize model.gguf -o out --bits 2\n"
                "  kronq eval out --ppl text.txt --kld model.gguf\n"
                "  kronq run out -p \"Why is the sky blue?\" --chat\n");
}

/* OpenBLAS chooses its kernels when it is loaded; to hold it to a lower instruction set it must be told before. So: set its variable and
 * start again. Without --isa or KRONQ_ISA nothing happens. */
static void hold_blas_to_isa(int argc, char **argv)
{
    const char *name = getenv("KRONQ_ISA");
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--isa") && i + 1 < argc)
            name = argv[i + 1];
        else if (!strncmp(argv[i], "--isa=", 6))
            name = argv[i] + 6;
    }
    kq_isa isa;
    if (!name || getenv("OPENBLAS_CORETYPE") || kq_isa_pick(name, &isa, NULL) || isa == kq_isa_best())
        return;
    static const char *const core[] = {[KQ_ISA_REF] = "Prescott", [KQ_ISA_AVX2] = "Haswell", [KQ_ISA_AVX512] = "SkylakeX", [KQ_ISA_AMX] = "SapphireRapids"};
    setenv("OPENBLAS_CORETYPE", core[isa], 1);
    execv("/proc/self/exe", argv);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        usage(stderr);
        return EXIT_USAGE;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        usage(stdout);
        return EXIT_OK;
    }
    if (!strcmp(argv[1], "--version")) {
        printf("kronq %s\n", kq_version());
        return EXIT_OK;
    }
    hold_blas_to_isa(argc, argv);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (!strcmp(argv[1], commands[i].name))
            return commands[i].run(argc - 1, argv + 1);
    fprintf(stderr, "kronq: unknown command %s; `kronq --help` lists them\n", argv[1]);
    return EXIT_USAGE;
}
