/* Spill files: what comes back, and how damage is noticed. */
#include "sweep/common.h"

static void spill_round_trip_and_damage(void **state)
{
    (void)state;
    kq_error err;
    kq_spill *s;
    char path[256], tmp[300];
    uint8_t record[3][100], back[100];
    temp_path(path, "spill");
    snprintf(tmp, sizeof tmp, "%s.tmp", path);
    for (int i = 0; i < 300; i++)
        record[i / 100][i % 100] = (uint8_t)(i * 7);
    check_ok(kq_spill_create(path, 3, 100, &s, &err));
    for (size_t i = 3; i-- > 0;)
        check_ok(kq_spill_write(s, i, record[i], &err));
    assert_true(!kq_path_exists(path)); /* not before all is written */
    check_ok(kq_spill_commit(s, &err));
    assert_true(kq_path_exists(path) && !kq_path_exists(tmp));
    check_ok(kq_spill_open(path, 3, 100, &s, &err));
    for (size_t i = 0; i < 3; i++) {
        check_ok(kq_spill_read(s, i, back, &err));
        assert_memory_equal(back, record[i], 100);
    }
    kq_spill_close(s);
    check_fails(kq_spill_open(path, 4, 100, &s, &err), KQ_E_FORMAT, "324 bytes, expected 432");
    check_fails(kq_spill_open("nowhere", 3, 100, &s, &err), KQ_E_IO, "nowhere");
    for (long at = 108; at < 216; at += 9) { /* any byte of record 1, its checksum included */
        flip(path, at);
        check_ok(kq_spill_open(path, 3, 100, &s, &err));
        check_ok(kq_spill_read(s, 0, back, &err));
        check_fails(kq_spill_read(s, 1, back, &err), KQ_E_FORMAT, "record 1 is damaged");
        check_ok(kq_spill_read(s, 2, back, &err));
        kq_spill_close(s);
        flip(path, at);
    }
    /* records that changed places are found out too */
    check_ok(kq_spill_create(path, 2, 100, &s, &err));
    check_ok(kq_spill_write(s, 0, record[0], &err));
    kq_spill_close(s); /* not committed: gone, and the old file is as it was */
    assert_true(!kq_path_exists(tmp));
    check_ok(kq_spill_open(path, 3, 100, &s, &err));
    kq_spill_close(s);
    char *data;
    size_t size;
    check_ok(kq_file_read(path, 1000, &data, &size, &err));
    char swapped[324];
    memcpy(swapped, data + 108, 108);
    memcpy(swapped + 108, data, 108);
    memcpy(swapped + 216, data + 216, 108);
    kq_free(data);
    check_ok(kq_file_write(path, swapped, sizeof swapped, &err));
    check_ok(kq_spill_open(path, 3, 100, &s, &err));
    check_fails(kq_spill_read(s, 0, back, &err), KQ_E_FORMAT, "damaged");
    kq_spill_close(s);
}

int main(void)
{
    kq_kern_init(kq_isa_best());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spill_round_trip_and_damage),
    };
    return cmocka_run_group_tests(tests, temp_folder_make, temp_folder_remove);
}
