/* What a host program may do wrong, and what may go wrong under it: calls out of a callback, NULL where a
 * text text belongs, numbers out of range, memory that is not there. Each ends with an error that names the
 * cause, and leaves a model that works. */
#include <locale.h>

#include "check.h"
#include "kronq.h"

#define MODEL KRONQ_GOLDEN_DIR "/tiny_cli/hf"
#define GGUF KRONQ_GOLDEN_DIR "/tiny_cli/model.gguf"
static kq_error err;

static const int32_t prompt[6] = {5, 6, 7, 8, 9, 10};

static kq_model *open_model(const char *path)
{
    kq_model *m;
    kq_model_options opt = kq_model_defaults();
    opt.common.threads = 1;
    opt.context = 64;
    check_ok(kq_model_open(path, &opt, &m, &err));
    return m;
}

static kq_generation_options greedy(size_t n_max)
{
    kq_generation_options opt = kq_generation_defaults();
    opt.n_max = n_max;
    opt.temperature = 0;
    return opt;
}

/* ---- calls out of a callback ---- */

typedef struct place {
    kq_model *other;
    locale_t expected;
    int calls, elsewhere;
} place;

static int where(void *ctx, const char *text, size_t size)
{
    (void)text, (void)size;
    place *p = ctx;
    char *back;
    size_t n;
    p->calls++;
    p->elsewhere += uselocale((locale_t)0) != p->expected;
    check_ok(kq_model_detokenize(p->other, prompt, 1, false, &back, &n, &err));
    p->elsewhere += uselocale((locale_t)0) != p->expected;
    free(back);
    return 0;
}

static void a_call_out_of_emit_leaves_the_locale(void **state)
{
    (void)state;
    kq_model *m = open_model(MODEL);
    place here = {.other = open_model(GGUF), .expected = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0)};
    assert_true(here.expected != (locale_t)0);
    const locale_t before = uselocale(here.expected);
    kq_generation_options opt = greedy(6);
    opt.emit = where;
    opt.ctx = &here;
    check_ok(kq_model_generate(m, prompt, 6, &opt, NULL, &err));
    assert_true(here.calls > 1);
    assert_int_equal(here.elsewhere, 0);
    assert_true(uselocale(before) == here.expected);
    freelocale(here.expected);
    kq_model_close(here.other);
    kq_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_call_out_of_emit_leaves_the_locale),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
