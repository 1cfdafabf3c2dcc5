/* Files: mapped for reading; written under a temporary name and renamed when whole. */
#ifndef KQ_BASE_FILE_H
#define KQ_BASE_FILE_H

#include "base/error.h"

/* A file mapped read-only. data is borrowed from the map and dies with kq_map_close. An empty file maps
 * to size 0, data non-NULL. */
typedef struct kq_map {
    const uint8_t *data;
    size_t size;
    char *path; /* owned */
} kq_map;
/* KQ_E_IO: missing, a folder, unreadable */
kq_status kq_map_open(const char *path, kq_map *out, kq_error *err);
/* Give back the pages of these bytes of a map: they no longer count as memory of this process. They may be
 * read again; then they come from the file. */
void kq_map_release(const void *data, size_t size);
void kq_map_close(kq_map *map); /* zeroed map is fine */

/* A file being written: PATH.tmp until kq_out_commit flushes it to the disk (fsync), renames it to PATH
 * and syncs the folder. */
typedef struct kq_out kq_out;
/* KQ_E_IO: PATH cannot be created, or is a folder, a device or a pipe, whose place a file must not take. */
kq_status kq_out_open(const char *path, kq_out **out, kq_error *err);
/* buffered; KQ_E_IO names the file and why (disk full) */
kq_status kq_out_write(kq_out *out, const void *data, size_t size, kq_error *err);
/* frees out, whether it succeeds or not */
kq_status kq_out_commit(kq_out *out, kq_error *err);
/* removes PATH.tmp, frees; NULL is fine */
void kq_out_abort(kq_out *out);

/* Whole small files. kq_file_read adds a final NUL that *size does not count; the caller frees *out with
 * kq_free. */
kq_status kq_file_read(const char *path, size_t max_size, char **out, size_t *size, kq_error *err);
/* through kq_out */
kq_status kq_file_write(const char *path, const void *data, size_t size, kq_error *err);
/* Is this the text that Git LFS leaves in the place of a file that was not downloaded? */
bool kq_is_lfs_pointer(const void *data, size_t size);
bool kq_path_exists(const char *path);
bool kq_exists_in(const char *dir, const char *name); /* DIR/NAME; takes no memory, so it cannot fail */
bool kq_path_is_dir(const char *path);
kq_status kq_mkdirs(const char *path, kq_error *err);
/* How many folders at the end of path do not exist yet; and, after kq_mkdirs has made them, removing so many
 * again, as far as they are empty. So a job that fails leaves no folders behind. */
size_t kq_missing_folders(const char *path);
void kq_remove_folders(const char *path, size_t n);
/* Remove a file, or a folder with all that is in it; links are removed, not followed. Nothing there is
 * fine. */
kq_status kq_remove_tree(const char *path, kq_error *err);
/* The last part of a path, without the folders before it ("b/" of "a/b/"). */
const char *kq_path_name(const char *path);
/* The folder of a path as a new string, the caller's (kq_free): "." of "a", "/" of "/a". */
kq_status kq_path_dir(const char *path, char **out, kq_error *err);

#endif
