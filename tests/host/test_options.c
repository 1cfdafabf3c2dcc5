/* Structs of options of another version than the library's: a shorter one of an older program, a longer one
 * of a newer program, and one that was never initialised. */
#include "check.h"
#include "kronq.h"

#define MODEL KRONQ_GOLDEN_DIR "/tiny_cli/hf"
static kq_error err;

#define check_near(a, b, tolerance) assert_true(fabs((a) - (double)(b)) <= (tolerance))

static double planned_bits(const kq_quantize_options *opt)
{
    char *plan;
    double bits;
    check_ok(kq_plan(MODEL, opt, &plan, &err));
    const char *at = strstr(plan, "\"bits\": ");
    assert_non_null(at);
    bits = strtod(at + strlen("\"bits\": "), NULL);
    free(plan);
    return bits;
}

/* An older kq_quantize_options ended before `code`; the memory behind it is not the library's to read. */
static void a_shorter_struct_has_defaults_for_the_rest(void **state)
{
    (void)state;
    volatile size_t shorter = offsetof(kq_quantize_options, code); /* no business of the compiler */
    kq_quantize_options *opt = malloc(shorter);                    /* AddressSanitizer sees a byte beyond */
    kq_quantize_options_init(opt, shorter);
    assert_int_equal(opt->size, shorter);
    opt->calibration.seq_len = 32;
    opt->bits = 3;
    check_near(planned_bits(opt), 3, 0);
    opt->bits = 7;
    char *plan;
    check_fails(kq_plan(MODEL, opt, &plan, &err), KQ_E_ARG, "7");
    assert_null(plan);
    free(opt);
}

static void a_longer_struct_may_not_ask_for_what_is_not_known(void **state)
{
    (void)state;
    struct {
        kq_quantize_options known;
        uint64_t later[2];
    } opt;
    char *plan;
    memset(&opt, 0xff, sizeof opt);
    kq_quantize_options_init(&opt.known, sizeof opt);
    assert_int_equal(opt.known.size, sizeof opt);
    assert_int_equal(opt.later[0] | opt.later[1], 0);
    opt.known.calibration.seq_len = 32;
    opt.known.bits = 4;
    check_near(planned_bits(&opt.known), 4, 0);
    opt.later[1] = 1;
    check_fails(kq_plan(MODEL, &opt.known, &plan, &err), KQ_E_ARG, "newer kronq.h");
}

static void a_struct_without_a_size_is_refused(void **state)
{
    (void)state;
    kq_quantize_options opt = {.bits = 2};
    char *plan;
    check_fails(kq_plan(MODEL, &opt, &plan, &err), KQ_E_ARG, "kq_quantize_defaults()");
    memset(&opt, 0xa5, sizeof opt); /* as malloc may leave it */
    check_fails(kq_plan(MODEL, &opt, &plan, &err), KQ_E_ARG, "kq_quantize_defaults()");
}

static void null_stands_for_the_defaults(void **state)
{
    (void)state;
    kq_model *model;
    char *plan;
    check_fails(kq_plan(MODEL, NULL, &plan, &err), KQ_E_ARG,
                "--seq-len 1024"); /* the tiny model's context is 512 */
    check_ok(kq_model_open(MODEL, NULL, &model, &err));
    kq_model_close(model);
}

/* Rows of a comparison are as long as the program's kq_quantize_options. */
static void rows_of_an_older_program(void **state)
{
    (void)state;
    enum { HEAD = offsetof(kq_compare_row, options), SIZE = offsetof(kq_quantize_options, gguf_type) };
    enum { STRIDE = (HEAD + SIZE + 7) / 8 * 8 };
    volatile size_t two = 2; /* no business of the compiler */
    char *rows = calloc(two, STRIDE), *plan;
    static const double bits[] = {2, 3};
    for (int i = 0; i < 2; i++) {
        kq_compare_row *row = (void *)(rows + i * STRIDE);
        row->spec = "none";
        kq_quantize_options_init(&row->options, SIZE);
        row->options.bits = bits[i];
        row->options.calibration.method = "none";
    }
    static const char *const text[] = {KRONQ_GOLDEN_DIR "/tiny_cli/text.txt"};
    kq_compare_options opt = kq_compare_defaults();
    opt.text = text;
    opt.n_text = 1;
    check_ok(kq_compare_plan(MODEL, "nowhere", (void *)rows, 2, &opt, &plan, &err));
    assert_non_null(strstr(plan, "none-2bit-seed0"));
    assert_non_null(strstr(plan, "none-3bit-seed0"));
    free(plan);
    free(rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_shorter_struct_has_defaults_for_the_rest),
        cmocka_unit_test(a_longer_struct_may_not_ask_for_what_is_not_known),
        cmocka_unit_test(a_struct_without_a_size_is_refused),
        cmocka_unit_test(null_stands_for_the_defaults),
        cmocka_unit_test(rows_of_an_older_program),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
