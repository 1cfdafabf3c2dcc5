/* A folder for the files of one test program. It is empty when the tests begin and removed when they are
 * over. Each program has a folder of its own in the working folder, so that two programs never meet.
 *
 *     return cmocka_run_group_tests(tests, temp_folder_make, temp_folder_remove); */
#ifndef KQ_TESTS_TEMP_FOLDER_H
#define KQ_TESTS_TEMP_FOLDER_H

#include <unistd.h>

#include "base/file.h"
#include "check.h"

static char temp_folder[32];

static inline int temp_folder_make(void **state)
{
    (void)state;
    snprintf(temp_folder, sizeof temp_folder, "test.XXXXXX");
    return mkdtemp(temp_folder) ? 0 : 1;
}

static inline int temp_folder_remove(void **state)
{
    (void)state;
    return kq_remove_tree(temp_folder, NULL) ? 1 : 0;
}

/* The two functions for tests that work inside the folder. */
static inline int temp_folder_enter(void **state)
{
    return temp_folder_make(state) || chdir(temp_folder);
}

static inline int temp_folder_leave(void **state)
{
    return chdir("..") || temp_folder_remove(state);
}

/* The path FOLDER/name, into path. */
static inline const char *temp_path(char path[256], const char *name)
{
    snprintf(path, 256, "%s/%s", temp_folder, name);
    return path;
}

/* Write a text to a file, which is made anew. */
static inline void temp_write(const char *path, const char *text)
{
    kq_error err;
    check_ok(kq_file_write(path, text, strlen(text), &err));
}

#endif
