/* Instruction sets: their names, and what the environment may take away. */
#include "check.h"
#include "base/isa.h"
#include "temp_folder.h"

static void test_isa(void **state)
{
    (void)state;
    kq_error err = {0};
    kq_isa best = kq_isa_best(), isa;
    assert_int_equal(kq_isa_best(), best);
    const char *had = getenv("KRONQ_ISA");
    char *saved = had ? strdup(had) : NULL;
    for (int i = KQ_ISA_REF; i <= KQ_ISA_AMX; i++) {
        const char *name = kq_isa_name((kq_isa)i);
        if (i <= (int)best) {
            check_ok(kq_isa_pick(name, &isa, &err));
            assert_int_equal(isa, i);
            setenv("KRONQ_ISA", name, 1);
            check_ok(kq_isa_pick(NULL, &isa, &err));
            assert_int_equal(isa, i);
            check_ok(kq_isa_pick("ref", &isa, &err)); /* a name given goes before the environment */
            assert_int_equal(isa, KQ_ISA_REF);
        } else {
            check_fails(kq_isa_pick(name, &isa, &err), KQ_E_UNSUPPORTED, name);
        }
    }
    check_fails(kq_isa_pick("sse9", &isa, &err), KQ_E_ARG, "sse9");
    check_fails(kq_isa_pick("AVX2", &isa, &err), KQ_E_ARG, "AVX2");
    setenv("KRONQ_ISA", "fast", 1);
    check_fails(kq_isa_pick(NULL, &isa, &err), KQ_E_ARG, "KRONQ_ISA");
    unsetenv("KRONQ_ISA");
    check_ok(kq_isa_pick(NULL, &isa, &err));
    assert_int_equal(isa, best);
    if (saved)
        setenv("KRONQ_ISA", saved, 1);
    free(saved);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_isa),
    };
    return cmocka_run_group_tests(tests, temp_folder_make, temp_folder_remove);
}
