/* The fuzzer's function over the templates and expressions of the golden files and tens of thousands of
 * mutations of them, always the same ones. */
#include "check.h"

#include <dirent.h>

#include "base/file.h"
#include "base/mem.h"
#include "fuzz_jinja.c"
#include "mutate.h"

enum { ROUNDS = 20000, CAP = 16384, SEEDS = 4000 };

static char *seed[SEEDS];
static size_t seed_size[SEEDS], n_seeds;

static void add_seed(const char *text, size_t size)
{
    if (n_seeds == SEEDS || size >= CAP / 2)
        return;
    seed[n_seeds] = malloc(size + 1);
    memcpy(seed[n_seeds], text, size);
    seed_size[n_seeds++] = size;
}

static void load_seeds(void)
{
    char path[600], *text;
    size_t size, i;
    kq_error err;
    json_t *c;
    DIR *d = opendir(KRONQ_GOLDEN_DIR "/chat");
    assert_non_null(d);
    char names[200][64];
    size_t n = 0;
    for (struct dirent *e; (e = readdir(d)) && n < 200;)
        if (strstr(e->d_name, ".jinja"))
            snprintf(names[n++], sizeof names[0], "%.63s", e->d_name);
    closedir(d);
    qsort(names, n, sizeof names[0], (int (*)(const void *, const void *))strcmp);
    for (i = 0; i < n; i++) {
        snprintf(path, sizeof path, "%s/chat/%.63s", KRONQ_GOLDEN_DIR, names[i]);
        check_ok(kq_file_read(path, 1 << 20, &text, &size, &err));
        for (int k = 0; k < 12; k++) /* as often as the many short ones together */
            add_seed(text, size);
        kq_free(text);
    }
    json_t *all = json_load_file(KRONQ_GOLDEN_DIR "/chat/expressions.json", 0, NULL);
    json_array_foreach(json_object_get(all, "cases"), i, c)
        add_seed(json_string_value(json_array_get(c, 0)), json_string_length(json_array_get(c, 0)));
    json_decref(all);
    assert_true(n_seeds > 3000);
}

/* clang-format off */
static const char *const word[] = {
    "{{", "}}", "{%", "%}", "{#", "#}", "-%}", "{%-", "{% endfor %}", "{% else %}", "{% raw %}",
    "{% endraw %}", "**", "*", "~", "|", "(", ")", "[", "]", "[::-1]", "[1:]", " is ", " not ", " in ",
    " if ", " else ", "loop", "messages", "tools", "namespace()", "range(99999)", "99999999999", "'",
    "\"", "\\", "\\u12", "\\x", "|tojson(indent=3)", "|join", "|map('upper')", "|sort", "|list",
    ".items()", ".split('')", ".replace('', 'ab')", "* 100000", "\xc3\xa4", "\xf0\x9f\x98\x80",
    "{% set x %}", "{% endset %}", "{% macro f() %}", "{{ f() }}", "{% endmacro %}", "caller()",
    ".__class__", "0x10", "1e999", "{% for x in messages %}",
};
/* clang-format on */

static void mutated(void **state)
{
    (void)state;
    static const mutations how = {.letters = "0123456789,:[]{}\"\\-e. %|~+*/()'",
                                  .word = word,
                                  .n_word = sizeof word / sizeof *word,
                                  .least = 1};
    static uint8_t buf[CAP];
    kq_rng rng = kq_rng_stream(1, "templates");
    for (int i = 0; i < ROUNDS; i++) {
        const size_t which = kq_rng_u64(&rng) % n_seeds;
        memcpy(buf, seed[which], seed_size[which]);
        LLVMFuzzerTestOneInput(buf, seed_size[which] ? mutate(&rng, buf, seed_size[which], CAP, &how) : 0);
    }
}

int main(void)
{
    load_seeds();
    const struct CMUnitTest tests[] = {cmocka_unit_test(mutated)};
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    for (size_t i = 0; i < n_seeds; i++)
        free(seed[i]);
    return failed;
}
