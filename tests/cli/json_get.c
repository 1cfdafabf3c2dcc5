/* json_get FILE PATH...: print the values at PATHs ("seconds/total"; "." is the whole) of a JSON file,
 * one a line. Exit status 1 when the file is not JSON, or a path is not there. "-" reads standard input. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
    json_error_t err;
    if (argc < 2)
        return 2;
    json_t *root = strcmp(argv[1], "-")
                       ? json_load_file(argv[1], JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &err)
                       : json_loadf(stdin, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &err);
    if (!root) {
        fprintf(stderr, "%s:%d: %s\n", argv[1], err.line, err.text);
        return 1;
    }
    for (int i = 2; i < argc; i++) {
        json_t *at = root;
        if (strcmp(argv[i], ".")) {
            for (char *key = strtok(argv[i], "/"); key; key = strtok(NULL, "/")) {
                at = json_is_array(at) ? json_array_get(at, (size_t)atoi(key)) : json_object_get(at, key);
                if (!at) {
                    fprintf(stderr, "%s: no %s\n", argv[1], key);
                    return 1;
                }
            }
        }
        if (json_is_string(at)) {
            puts(json_string_value(at));
        } else {
            char *text = json_dumps(at, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(12));
            puts(text);
            free(text);
        }
    }
    json_decref(root);
    return 0;
}
