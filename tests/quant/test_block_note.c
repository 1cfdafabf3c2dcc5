/* The line of progress of a finished block: one a block, with sums over its linears. */
#include "quant/block_note.h"

#include <math.h>
#include <string.h>

#include "check.h"

static char line[300];
static int n_lines, answer;

static int hear(void *ctx, const char *stage, double fraction, const char *note)
{
    (void)ctx, (void)stage, (void)fraction;
    snprintf(line, sizeof line, "%s", note);
    n_lines++;
    return answer;
}

static const kq_common common = {.progress = hear};

static void gives(kq_block_note *b, size_t layer, const char *expected)
{
    kq_error err;
    n_lines = 0;
    check_ok(kq_block_note_give(b, layer, &common, &err));
    assert_int_equal(n_lines, 1);
    assert_string_equal(line, expected);
}

static void rounded(void **state)
{
    (void)state;
    kq_block_note b = {.seconds = 3.44};
    kq_block_note_factors(&b, &(kq_factor_report){.residual = 9}, false);
    kq_block_note_rounded(&b, 10, 10, 0.08, 0.001);
    kq_block_note_factors(&b, &(kq_factor_report){.lack = KQ_LACK_GRADIENT}, false);
    kq_block_note_rounded(&b, 30, 10, 0.04, 0);
    gives(
        &b, 12,
        "block 12: 2 linears, relative error 0.05, predicted loss 0.001 nats/token, 1 with identity factors "
        "[3.4 s]");
    kq_block_note_factors(&b, &(kq_factor_report){.converged = true},
                          false); /* nothing is left of block 12 */
    kq_block_note_rounded(&b, 10, 10, 0.5, NAN);
    gives(&b, 11, "block 11: 1 linear, relative error 0.5 [0.0 s]");
}

static void factors_alone(void **state)
{
    (void)state;
    kq_block_note b = {0};
    kq_block_note_factors(&b, &(kq_factor_report){.residual = 2e-3, .converged = false}, true);
    kq_block_note_factors(&b, &(kq_factor_report){.residual = 5e-4, .converged = true}, true);
    gives(&b, 0, "block 0: 2 linears, residual at most 2.0e-03 (1 NOT converged) [0.0 s]");
}

static void stopped_and_empty(void **state)
{
    (void)state;
    kq_error err;
    kq_block_note b = {0};
    n_lines = 0;
    check_ok(kq_block_note_give(&b, 3, &common, &err));
    assert_int_equal(n_lines, 0);
    answer = 1;
    kq_block_note_factors(&b, &(kq_factor_report){0}, false);
    assert_int_equal(kq_block_note_give(&b, 3, &common, &err), KQ_E_INTERRUPTED);
    answer = 0;
    check_ok(kq_block_note_give(&b, 3, &(kq_common){0}, &err)); /* nobody listens */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rounded), cmocka_unit_test(factors_alone),
                                       cmocka_unit_test(stopped_and_empty)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
