/* The reference's hidden states. Their bytes do not depend on how many sequences go through the blocks
 * together, nor on which files an interrupted run has left. kq_teacher_at_once is held to what a memory
 * allows. */
#include "temp_folder.h"

#include "base/mem.h"
#include "tune/internal.h"

enum { SEQ = 5, T = 24 };

static kq_teacher_options options(const kq_source *src, kq_weights *weights, const kq_job *job)
{
    static int32_t ids[SEQ * T];
    static const kq_common nobody;
    kq_error err;
    *weights = kq_weights_from_source(src);
    for (size_t i = 0; i < SEQ * T; i++)
        ids[i] = (int32_t)(i * 7919 % weights->cfg->vocab_size);
    kq_teacher_options o = {.weights = weights,
                            .ids = ids,
                            .n = SEQ,
                            .T = T,
                            .compute = KQ_F32,
                            .threads = 2,
                            .common = &nobody,
                            .job = job};
    check_ok(kq_isa_pick(NULL, &o.isa, &err));
    return o;
}

static kq_source *open_model(void)
{
    kq_source *src;
    kq_error err;
    check_ok(kq_source_open(KRONQ_GOLDEN_DIR "/tiny_llama3", &src, &err));
    return src;
}

static void read_all(const kq_teacher_options *o, float *x)
{
    kq_teacher *t;
    kq_error err;
    check_ok(kq_teacher_new(o, &t, &err));
    for (size_t s = 0; s < SEQ; s++)
        check_ok(kq_teacher_read(t, s, x + s * T * o->weights->cfg->d_model, &err));
    kq_teacher_free(t);
}

static void same_bytes_for_any_group(void **state)
{
    (void)state;
    kq_error err;
    kq_weights weights;
    kq_job job;
    char done[256], work[256];
    kq_source *src = open_model();
    check_ok(kq_job_open(temp_path(done, "result"), temp_path(work, "work"), "{}", false, false, &job, &err));
    kq_teacher_options o = options(src, &weights, &job);
    const size_t values = SEQ * T * weights.cfg->d_model;
    float *all = kq_alloc(values, sizeof *all), *other = kq_alloc(values, sizeof *other);
    o.at_once = SEQ;
    read_all(&o, all);
    assert_true(all[0] != all[T * weights.cfg->d_model]); /* two sequences differ */
    static const size_t at_once[] = {1, 2, 3}, removed[][2] = {{1, 4}, {0, 1}, {2, 3}};
    for (size_t i = 0; i < 3; i++) {
        for (size_t k = 0; k < 2; k++)
            kq_job_remove_file(&job, "teacher", removed[i][k], "bf16");
        o.at_once = at_once[i];
        read_all(&o, other);
        assert_memory_equal(all, other, values * sizeof *all);
    }
    kq_free(all);
    kq_free(other);
    kq_job_finish(&job);
    kq_job_close(&job);
    kq_source_close(src);
}

static void as_many_as_fit(void **state)
{
    (void)state;
    kq_weights weights;
    kq_source *src = open_model();
    kq_teacher_options o = options(src, &weights, NULL);
    o.at_once = 3;
    const size_t three = kq_teacher_memory(weights.cfg, &o);
    assert_int_equal(kq_teacher_at_once(weights.cfg, &o, 0), 1);
    assert_int_equal(kq_teacher_at_once(weights.cfg, &o, three), 3);
    assert_int_equal(kq_teacher_at_once(weights.cfg, &o, three - 1), 2);
    assert_int_equal(kq_teacher_at_once(weights.cfg, &o, (size_t)1 << 40), SEQ);
    kq_source_close(src);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bytes_for_any_group),
        cmocka_unit_test(as_many_as_fit),
    };
    return cmocka_run_group_tests(tests, temp_folder_make, temp_folder_remove);
}
