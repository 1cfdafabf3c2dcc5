/* Files: whole or not there, also on a full disk; paths; folders removed. */
#include "check.h"
#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include "base/hash.h"
#include "base/mem.h"
#include "temp_folder.h"

static void test_file_round_trip(void **state)
{
    (void)state;
    kq_error err = {0};
    char path[256], tmp[300];
    temp_path(path, "a.bin");
    snprintf(tmp, sizeof tmp, "%s.tmp", path);
    /* pieces around the size of a write buffer, so that every path through it is met */
    static const size_t pieces[] = {1, 0, 7, (1 << 20) - 9, 1, 1 << 20, (3 << 20) + 5, 2};
    size_t total = 0;
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
        total += pieces[i];
    uint8_t *data = malloc(total);
    assert_non_null(data);
    for (size_t i = 0; i < total; i++)
        data[i] = (uint8_t)(i * 2654435761u >> 13);
    kq_out *out;
    check_ok(kq_out_open(path, &out, &err));
    size_t at = 0;
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; at += pieces[i], i++)
        check_ok(kq_out_write(out, data + at, pieces[i], &err));
    assert_false(kq_path_exists(path)); /* not before it is whole */
    assert_true(kq_path_exists(tmp));
    check_ok(kq_out_commit(out, &err));
    assert_true(kq_path_exists(path));
    assert_false(kq_path_exists(tmp));

    kq_map map;
    check_ok(kq_map_open(path, &map, &err));
    assert_int_equal(map.size, total);
    assert_memory_equal(map.data, data, total);
    assert_string_equal(map.path, path);
    kq_map_close(&map);
    kq_map_close(&map); /* zeroed by the first */
    free(data);

    /* replaced as a whole; and an aborted writer leaves the old file alone and nothing beside it */
    check_ok(kq_file_write(path, "second", 6, &err));
    check_ok(kq_out_open(path, &out, &err));
    check_ok(kq_out_write(out, "third", 5, &err));
    kq_out_abort(out);
    kq_out_abort(NULL);
    assert_false(kq_path_exists(tmp));
    char *text;
    size_t size = 0;
    check_ok(kq_file_read(path, 6, &text, &size, &err));
    assert_int_equal(size, 6);
    assert_string_equal(text, "second"); /* the NUL behind it included */
    kq_free(text);
    check_fails(kq_file_read(path, 5, &text, &size, &err), KQ_E_FORMAT, "a.bin");
    assert_int_equal(unlink(path), 0);
}

static void test_file_refused(void **state)
{
    (void)state;
    kq_error err = {0};
    kq_map map;
    char path[256], *text;
    size_t size = 1;
    temp_path(path, "missing");
    check_fails(kq_map_open(path, &map, &err), KQ_E_IO, "missing");
    assert_non_null(strstr(err.message, strerror(ENOENT)));
    check_fails(kq_map_open(temp_folder, &map, &err), KQ_E_IO, "folder");
    check_fails(kq_map_open("/dev/null", &map, &err), KQ_E_IO, "/dev/null");
    check_fails(kq_map_open("", &map, &err), KQ_E_IO, "");
    check_fails(kq_file_read(path, 100, &text, &size, &err), KQ_E_IO, "missing");
    temp_path(path, "empty");
    check_ok(kq_file_write(path, "", 0, &err));
    check_ok(kq_map_open(path, &map, &err));
    assert_int_equal(map.size, 0);
    assert_non_null(map.data);
    kq_map_close(&map);
    check_ok(kq_file_read(path, 0, &text, &size, &err));
    assert_int_equal(size, 0);
    assert_string_equal(text, "");
    kq_free(text);
    assert_int_equal(unlink(path), 0);
    kq_out *out;
    temp_path(path, "no/such/folder/x");
    check_fails(kq_out_open(path, &out, &err), KQ_E_IO, "no/such/folder/x");
    temp_path(path, "is_folder"); /* the target is a folder: the rename fails, the temporary goes */
    assert_int_equal(mkdir(path, 0777), 0);
    check_fails(kq_file_write(path, "x", 1, &err), KQ_E_IO, "is_folder");
    assert_int_equal(rmdir(path), 0);
}

static void test_disk_full(void **state)
{
    (void)state;
    kq_error err = {0};
    char path[256], tmp[300];
    temp_path(path, "big");
    snprintf(tmp, sizeof tmp, "%s.tmp", path);
    size_t size = 3 << 20;
    char *data = calloc(size, 1);
    assert_non_null(data);
    check_ok(kq_file_write(path, "old", 3, &err));

    /* the temporary is in truth a device without room */
    if (access("/dev/full", W_OK) == 0) {
        for (size_t n = 10; n <= size;
             n += size - 10) { /* found while buffering's last flush, and in the first large write */
            assert_int_equal(symlink("/dev/full", tmp), 0);
            check_fails(kq_file_write(path, data, n, &err), KQ_E_IO, "big");
            assert_non_null(strstr(err.message, strerror(ENOSPC)));
            assert_int_not_equal(access(tmp, F_OK), 0);
        }
    }
    /* a file that may grow to 1 MB and no further */
    struct rlimit was, limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    limit = was;
    limit.rlim_cur = 1 << 20;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    kq_status st = kq_file_write(path, data, size, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
    signal(SIGXFSZ, handler);
    free(data);
    assert_int_equal(st, KQ_E_IO);
    assert_non_null(strstr(err.message, strerror(EFBIG)));
    assert_int_not_equal(access(tmp, F_OK), 0);

    char *text;
    check_ok(kq_file_read(path, 10, &text, &size, &err)); /* the old one is still there, whole */
    assert_string_equal(text, "old");
    kq_free(text);
    assert_int_equal(unlink(path), 0);
}

static void test_paths(void **state)
{
    (void)state;
    kq_error err = {0};
    char path[256], deep[300];
    temp_path(path, "p");
    snprintf(deep, sizeof deep, "%s/q//r/", path);
    check_ok(kq_mkdirs(deep, &err));
    check_ok(kq_mkdirs(deep, &err)); /* again: nothing to do */
    assert_true(kq_path_is_dir(deep));
    snprintf(deep, sizeof deep, "%s/q/r/file", path);
    check_ok(kq_file_write(deep, "x", 1, &err));
    assert_true(kq_path_exists(deep));
    assert_false(kq_path_is_dir(deep));
    check_fails(kq_mkdirs(deep, &err), KQ_E_IO, "file");
    strcat(deep, "/below");
    check_fails(kq_mkdirs(deep, &err), KQ_E_IO, "file");
    snprintf(deep, sizeof deep, "%s/q/r/file", path);
    assert_int_equal(unlink(deep), 0);
    snprintf(deep, sizeof deep, "%s/q/r", path);
    assert_int_equal(rmdir(deep), 0);
    snprintf(deep, sizeof deep, "%s/q", path);
    assert_int_equal(rmdir(deep), 0);
    assert_int_equal(rmdir(path), 0);
}

/* A tree goes whole; what a link in it points at stays. */
static void test_remove_tree(void **state)
{
    (void)state;
    kq_error err = {0};
    char path[256], kept[256], name[300];
    temp_path(path, "tree");
    temp_path(kept, "kept");
    check_ok(kq_file_write(kept, "x", 1, &err));
    snprintf(name, sizeof name, "%s/a/b", path);
    check_ok(kq_mkdirs(name, &err));
    strcat(name, "/file");
    check_ok(kq_file_write(name, "x", 1, &err));
    snprintf(name, sizeof name, "%s/link", path);
    assert_int_equal(symlink("../kept", name), 0);
    snprintf(name, sizeof name, "%s/a/up", path);
    assert_int_equal(symlink("../..", name), 0);
    check_ok(kq_remove_tree(path, &err));
    assert_false(kq_path_exists(path));
    assert_true(kq_path_exists(kept));
    check_ok(kq_remove_tree(path, &err)); /* nothing there */
    check_ok(kq_remove_tree(kept, &err)); /* a file */
    assert_false(kq_path_exists(kept));
}

static void test_hash(void **state)
{
    (void)state;
    char hex[33], other[33];
    /* the XXH3 of nothing, as the xxHash project publishes it */
    kq_hash *h = kq_hash_new();
    assert_non_null(h);
    kq_hash_finish(h, hex);
    assert_string_equal(hex, "99aa06d3014798d86001c324468d497f");
    assert_int_equal(kq_hash64("", 0, 0), 0x2d06800538d394c2u);
    assert_true(kq_hash64("", 0, 1) != kq_hash64("", 0, 0));

    /* pieces or whole, the same; one bit changed, or a byte moved over a boundary: another */
    uint8_t data[1000];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 37);
    h = kq_hash_new();
    assert_non_null(h);
    kq_hash_add(h, data, sizeof data);
    kq_hash_finish(h, hex);
    h = kq_hash_new();
    assert_non_null(h);
    for (size_t i = 0, n = 1; i<sizeof data; i += n, n = n * 2> sizeof data - i ? sizeof data - i : n * 2)
        kq_hash_add(h, data + i, n > sizeof data - i ? sizeof data - i : n);
    kq_hash_finish(h, other);
    assert_string_equal(hex, other);
    data[999] ^= 1;
    h = kq_hash_new();
    assert_non_null(h);
    kq_hash_add(h, data, sizeof data);
    kq_hash_finish(h, other);
    assert_string_not_equal(hex, other);
}

/* A finished file is renamed over its name; a device or a pipe there would be gone. */
static void test_no_file_takes_a_pipes_place(void **state)
{
    (void)state;
    kq_error err;
    char path[256];
    struct stat st;
    temp_path(path, "pipe");
    assert_int_equal(mkfifo(path, 0666), 0);
    check_fails(kq_file_write(path, "x", 1, &err), KQ_E_IO, "is a device or a pipe");
    assert_true(!stat(path, &st) && S_ISFIFO(st.st_mode));
    check_fails(kq_file_write("/dev/null", "x", 1, &err), KQ_E_IO, "is a device or a pipe");
    assert_true(!stat("/dev/null", &st) && S_ISCHR(st.st_mode));
    check_fails(kq_file_write(temp_folder, "x", 1, &err), KQ_E_IO, "is a folder");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file_round_trip),
        cmocka_unit_test(test_file_refused),
        cmocka_unit_test(test_no_file_takes_a_pipes_place),
        cmocka_unit_test(test_disk_full),
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_remove_tree),
        cmocka_unit_test(test_hash),
    };
    return cmocka_run_group_tests(tests, temp_folder_make, temp_folder_remove);
}
