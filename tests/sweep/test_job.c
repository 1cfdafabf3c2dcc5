/* An unfinished piece of work on disk: its settings, its lock, its sealed parts. */
#include "sweep/common.h"
#include "sweep/seal.h"

static void job_life(void **state)
{
    (void)state;
    kq_error err;
    kq_job a, b;
    char done[256], work[256], path[300], *made;
    temp_path(done, "result");
    temp_path(work, "result.work");
    const char *settings = "{\"bits\": 2, \"deep\": {\"tol\": 0.1, \"name\": \"x\"}}";

    check_ok(kq_job_open(done, work, settings, false, false, &a, &err));
    assert_true(!a.complete && kq_path_is_dir(work));
    check_fails(kq_job_open(done, work, settings, true, false, &b, &err), KQ_E_IO,
                "another kronq is at work");
    kq_job_close(&a);
    assert_true(!kq_path_exists(work)); /* nothing in it was worth keeping */

    check_ok(kq_job_open(done, work, settings, false, false, &a, &err));
    check_ok(kq_job_path(&a, "block", 3, "bin", &made, &err));
    snprintf(path, sizeof path, "%s", made);
    kq_free(made);
    assert_non_null(strstr(path, "result.work/block-00003.bin"));
    temp_write(path, "work");
    kq_job_close(&a);
    kq_job_close(&a); /* twice is fine */
    assert_true(kq_path_exists(path));
    check_fails(kq_job_open(done, work, settings, false, false, &b, &err), KQ_E_ARG, "--resume continues it");
    check_fails(kq_job_open(done, work, "{\"bits\": 3, \"deep\": {\"tol\": 0.1, \"name\": \"x\"}}", true,
                            false, &b, &err),
                KQ_E_MISMATCH, "started with bits 2, now it is 3");
    check_fails(kq_job_open(done, work, "{\"bits\": 2, \"deep\": {\"tol\": 0.2, \"name\": \"x\"}}", true,
                            false, &b, &err),
                KQ_E_MISMATCH, "started with deep.tol 0.1");
    check_fails(kq_job_open(done, work, "{\"bits\": 2, \"deep\": {\"tol\": 0.1}}", true, false, &b, &err),
                KQ_E_MISMATCH, "started with deep.name \"x\", now without");
    check_fails(kq_job_open(done, work,
                            "{\"bits\": 2, \"more\": 1, \"deep\": {\"tol\": 0.1, \"name\": \"x\"}}", true,
                            false, &b, &err),
                KQ_E_MISMATCH, "more absent");
    assert_true(kq_path_exists(path));
    /* without --resume the message tells what differs; --fresh discards the work, and nothing that is
     * not kronq's */
    check_fails(kq_job_open(done, work, "{\"bits\": 4, \"deep\": {\"tol\": 0.1, \"name\": \"x\"}}", false,
                            false, &b, &err),
                KQ_E_ARG,
                "started with bits 2, now it is 4; --resume with the same settings continues it, --fresh "
                "discards it");
    char foreign[400];
    snprintf(foreign, sizeof foreign, "%s/notes.txt", work);
    temp_write(foreign, "mine");
    check_ok(kq_job_open(done, work, "{\"bits\": 4}", false, true, &a, &err));
    assert_true(!kq_path_exists(path) && kq_path_exists(foreign));
    temp_write(path, "work");
    kq_job_close(&a);
    check_ok(kq_job_open(done, work, settings, true, true, &a, &err));
    assert_true(!kq_path_exists(path));
    unlink(foreign);
    temp_write(path, "work");
    kq_job_close(&a);
    check_ok(kq_job_open(done, work, settings, true, false, &a, &err));
    assert_true(kq_path_exists(path));
    temp_write(done, "done");
    kq_job_finish(&a);
    kq_job_close(&a);
    assert_true(!kq_path_exists(work));
    check_fails(kq_job_open(done, work, settings, false, false, &b, &err), KQ_E_ARG, "exists already");
    check_ok(kq_job_open(done, work, settings, true, false, &b, &err));
    assert_true(b.complete && b.lock < 0 && !kq_path_exists(work));
    kq_job_close(&b);
    /* --fresh does not touch results */
    check_fails(kq_job_open(done, work, settings, false, true, &b, &err), KQ_E_ARG, "exists already");
    unlink(done);

    /* folders that were made go when nothing stays in them; a folder that is the user's is none to work in */
    char deep[280], above[256];
    snprintf(deep, sizeof deep, "%s/b/c.work", temp_path(above, "a"));
    check_ok(kq_job_open(done, deep, settings, false, false, &a, &err));
    assert_int_equal(a.made, 3);
    kq_job_close(&a);
    assert_true(!kq_path_exists(above));
    check_ok(kq_mkdirs(deep, &err));
    snprintf(foreign, sizeof foreign, "%s/notes.txt", deep);
    temp_write(foreign, "mine");
    check_fails(kq_job_open(done, deep, settings, false, true, &a, &err), KQ_E_ARG,
                "files that are not kronq's");
    assert_true(kq_path_exists(foreign));

    /* what died before its settings were written cannot be trusted */
    check_ok(kq_mkdirs(work, &err));
    snprintf(path, sizeof path, "%s/block-00000.bin", work);
    temp_write(path, "stale");
    check_ok(kq_job_open(done, work, settings, true, false, &a, &err));
    assert_true(!kq_path_exists(path));
    temp_write(path, "work");
    kq_job_close(&a);
    snprintf(path, sizeof path, "%s/job.json", work);
    temp_write(path, "{\"bits\": 2,");
    check_fails(kq_job_open(done, work, settings, true, false, &a, &err), KQ_E_FORMAT, "job.json");
}

static void seals(void **state)
{
    (void)state;
    kq_error err;
    char path[256], seal[256];
    temp_path(path, "sealed");
    temp_write(path, "some bytes that matter");
    check_ok(kq_seal_write(path, &err));
    assert_true(kq_path_exists(temp_path(seal, "sealed.seal")));
    check_ok(kq_seal_check(path, &err));
    for (long at = 0; at < 22; at++) {
        flip(path, at);
        check_fails(kq_seal_check(path, &err), KQ_E_FORMAT, "sealed: is damaged");
        flip(path, at);
    }
    check_ok(kq_seal_check(path, &err));
    assert_int_equal(truncate(path, 21), 0);
    check_fails(kq_seal_check(path, &err), KQ_E_FORMAT, "damaged");
    unlink(path);
    check_fails(kq_seal_check(path, &err), KQ_E_IO, "sealed");
}

int main(void)
{
    kq_kern_init(kq_isa_best());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(job_life),
        cmocka_unit_test(seals),
    };
    return cmocka_run_group_tests(tests, temp_folder_make, temp_folder_remove);
}
