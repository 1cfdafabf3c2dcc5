/* st_edit OUT.safetensors OPERATION...: make a safetensors file out of others, for tests. Operations
 * work on a list of tensors, in order; PATTERN as of a shell.
 *   +FILE                  all tensors of FILE; one of a name that is there takes its place
 *   keep PATTERN           only these; drop PATTERN: all but these
 *   prefix OLD NEW         in the beginning of names
 *   copy FROM TO           the same numbers under another name
 *   add NAME TYPE N        a vector of N ones (N x 1 x ... with more dimensions: 2x3)
 *   type TYPE PATTERN      F32, F16, BF16, F64, F8_E4M3, F8_E5M2
 *   times FACTOR PATTERN   multiply the numbers, in f32, and round to the type again
 *   set PLACE VALUE PATTERN  the numbers at all, row:I, col:J or at:I:J (nan and inf are values, too)
 *   fp8 MxN TYPE PATTERN   as FP8 with a scale of TYPE (NAME_scale_inv) for each block of M rows and N
 *     columns; 0x0: one scale, a scalar */
#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/f16.h"
#include "format/dequant.h"
#include "format/safetensors_write.h"

enum { MAX = 2048 };
typedef struct tensor {
    char name[160];
    kq_dtype type;
    size_t rank, shape[4], n;
    float *x;
} tensor;
static tensor list[MAX];
static size_t n_list;

static void stop(const char *what, const char *why)
{
    fprintf(stderr, "st_edit: %s: %s\n", what, why);
    exit(2);
}

static kq_dtype type_of(const char *name)
{
    static const kq_dtype types[] = {KQ_T_F32, KQ_T_F16, KQ_T_BF16, KQ_T_F64, KQ_T_F8_E4M3, KQ_T_F8_E5M2};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!strcmp(name, kq_dtype_name(types[i])))
            return types[i];
    stop(name, "unknown type");
    return KQ_T_OTHER;
}

static tensor *place(const char *name)
{
    for (size_t i = 0; i < n_list; i++)
        if (!strcmp(list[i].name, name))
            return &list[i];
    if (n_list == MAX)
        stop(name, "too many tensors");
    list[n_list] = (tensor){0};
    snprintf(list[n_list].name, sizeof list[n_list].name, "%.159s", name);
    return &list[n_list++];
}

static void add_file(const char *path)
{
    kq_st_file *f;
    kq_error err;
    if (kq_st_open(path, &f, &err))
        stop(path, err.message);
    for (size_t i = 0; i < kq_st_n_tensors(f); i++) {
        const kq_tensor *from = kq_st_tensor(f, i);
        tensor *t = place(from->name);
        t->type = from->dtype;
        t->rank = from->rank;
        t->n = from->n_elem;
        memcpy(t->shape, from->shape, sizeof t->shape);
        t->x = realloc(t->x, (t->n + 1) * sizeof *t->x);
        kq_dequantize(from->dtype, from->data, t->n, t->x);
    }
    kq_st_close(f);
}

/* The byte of FP8 that is nearest. */
static uint8_t nearest(kq_dtype type, float x)
{
    int best = 0;
    float best_far = INFINITY;
    for (int b = 0; b < 256; b++) {
        float y;
        uint8_t byte = (uint8_t)b;
        kq_dequantize(type, &byte, 1, &y);
        if (isfinite(y) && fabsf(y - x) < best_far && signbit(y) == signbit(x)) {
            best = b;
            best_far = fabsf(y - x);
        }
    }
    return (uint8_t)best;
}

/* Numbers in the type's bytes; returns their size. */
static size_t encode(kq_dtype type, float x, uint8_t out[8])
{
    double d = x;
    uint16_t h = type == KQ_T_F16 ? kq_f32_to_f16(x) : kq_f32_to_bf16(x);
    switch (type) {
    case KQ_T_F32: memcpy(out, &x, 4); return 4;
    case KQ_T_F64: memcpy(out, &d, 8); return 8;
    case KQ_T_F16:
    case KQ_T_BF16: memcpy(out, &h, 2); return 2;
    default: *out = nearest(type, x); return 1;
    }
}

static float rounded(kq_dtype type, float x)
{
    uint8_t bytes[8];
    encode(type, x, bytes);
    kq_dequantize(type, bytes, 1, &x);
    return x;
}

static void to_fp8(tensor *t, size_t rows, size_t cols, kq_dtype scale_type)
{
    const bool one = !rows;
    rows = rows ? rows : t->shape[0];
    cols = cols ? cols : t->shape[1];
    char name[180];
    snprintf(name, sizeof name, "%.140s_scale_inv", t->name);
    tensor *s = place(name);
    s->type = scale_type;
    s->rank = one ? 0 : 2;
    s->shape[0] = (t->shape[0] + rows - 1) / rows;
    s->shape[1] = (t->shape[1] + cols - 1) / cols;
    s->n = s->shape[0] * s->shape[1];
    s->x = calloc(s->n, sizeof *s->x);
    for (size_t i = 0; i < t->n; i++) {
        float *max = &s->x[i / t->shape[1] / rows * s->shape[1] + i % t->shape[1] / cols];
        *max = fmaxf(*max, fabsf(t->x[i]));
    }
    for (size_t i = 0; i < s->n; i++)
        s->x[i] = rounded(scale_type, s->x[i] / 448);
    t->type = KQ_T_F8_E4M3;
    for (size_t i = 0; i < t->n; i++)
        t->x[i] /= s->x[i / t->shape[1] / rows * s->shape[1] + i % t->shape[1] / cols];
}

static void write_out(const char *path)
{
    kq_st_writer *w;
    kq_error err;
    kq_status status = kq_st_writer_new(path, &w, &err);
    if (!status)
        status = kq_st_writer_meta(w, "format", "pt", &err);
    for (size_t i = 0; i < n_list && !status; i++)
        status = kq_st_writer_declare(w, list[i].name, list[i].type, list[i].rank, list[i].shape, &err);
    for (size_t i = 0; i < n_list && !status; i++) {
        uint8_t *bytes = malloc(8 * list[i].n + 8);
        size_t n = 0;
        for (size_t j = 0; j < list[i].n; j++)
            n += encode(list[i].type, list[i].x[j], bytes + n);
        status = kq_st_writer_data(w, bytes, n, &err);
        free(bytes);
    }
    if (status || kq_st_writer_finish(w, &err))
        stop(path, err.message);
}

static bool matches(const char *pattern, const tensor *t)
{
    return !fnmatch(pattern, t->name, 0);
}

static void filter(const char *pattern, bool keep)
{
    size_t n = 0;
    for (size_t i = 0; i < n_list; i++)
        if (matches(pattern, &list[i]) == keep)
            list[n++] = list[i];
        else
            free(list[i].x);
    n_list = n;
}

static void add_ones(const char *name, const char *type, const char *dims)
{
    tensor *t = place(name);
    t->type = type_of(type);
    t->n = 1;
    for (char *end = (char *)dims; *end; end += *end == 'x') {
        t->shape[t->rank] = strtoul(end, &end, 10);
        t->n *= t->shape[t->rank++];
    }
    t->x = malloc(t->n * sizeof *t->x);
    for (size_t i = 0; i < t->n; i++)
        t->x[i] = 1;
}

static void set_numbers(tensor *t, const char *where, float value)
{
    const size_t cols = t->rank == 2 ? t->shape[1] : t->n;
    size_t i = 0, j = 0;
    const bool all = !strcmp(where, "all"), row = sscanf(where, "row:%zu", &i) == 1,
               col = sscanf(where, "col:%zu", &j) == 1;
    if (!all && !row && !col && sscanf(where, "at:%zu:%zu", &i, &j) != 2)
        stop(where, "unknown place");
    for (size_t k = 0; k < t->n; k++)
        if (all || ((col || k / cols == i) && (row || k % cols == j)))
            t->x[k] = value;
}

/* One operation; returns how many arguments it took. */
static int operate(char **a, int left)
{
    const char *op = a[0];
    int takes = *op == '+'                                                       ? 1
                : !strcmp(op, "keep") || !strcmp(op, "drop")                     ? 2
                : !strcmp(op, "add") || !strcmp(op, "fp8") || !strcmp(op, "set") ? 4
                                                                                 : 3;
    if (left < takes)
        stop(op, "arguments are missing");
    if (*op == '+')
        add_file(op + 1);
    else if (takes == 2)
        filter(a[1], *op == 'k');
    else if (!strcmp(op, "add"))
        add_ones(a[1], a[2], a[3]);
    else if (!strcmp(op, "copy")) {
        tensor *from = place(a[1]), *to = place(a[2]);
        memcpy((char *)to + sizeof to->name, (char *)from + sizeof from->name, sizeof *to - sizeof to->name);
        to->x = malloc(to->n * sizeof *to->x);
        memcpy(to->x, from->x, to->n * sizeof *to->x);
    } else {
        const size_t n = n_list;
        char *cols = NULL;
        for (size_t i = 0; i < n; i++) {
            tensor *t = &list[i];
            if (!strcmp(op, "prefix") && !strncmp(t->name, a[1], strlen(a[1]))) {
                char name[160];
                snprintf(name, sizeof name, "%.60s%.90s", a[2], t->name + strlen(a[1]));
                memcpy(t->name, name, sizeof name);
            } else if (!strcmp(op, "type") && matches(a[2], t)) {
                t->type = type_of(a[1]);
            } else if (!strcmp(op, "times") && matches(a[2], t)) {
                for (size_t j = 0; j < t->n; j++)
                    t->x[j] *= strtof(a[1], NULL);
            } else if (!strcmp(op, "set") && matches(a[3], t)) {
                set_numbers(t, a[1], strtof(a[2], NULL));
            } else if (!strcmp(op, "fp8") && matches(a[3], t) && t->rank == 2) {
                size_t rows = strtoul(a[1], &cols, 10);
                to_fp8(t, rows, strtoul(cols + 1, NULL, 10), type_of(a[2]));
            }
        }
        if (strcmp(op, "prefix") && strcmp(op, "type") && strcmp(op, "times") && strcmp(op, "set") &&
            strcmp(op, "fp8"))
            stop(op, "unknown operation");
    }
    return takes;
}

int main(int argc, char **argv)
{
    if (argc < 3)
        stop("usage", "st_edit OUT.safetensors OPERATION...");
    for (int i = 2; i < argc;)
        i += operate(argv + i, argc - i);
    write_out(argv[1]);
    for (size_t i = 0; i < n_list; i++)
        free(list[i].x);
    return 0;
}
