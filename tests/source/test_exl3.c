/* EXL3 folders: the golden one (scripts/exl3.py made it, and decoded it in numpy) bit for bit, and folders
 * that are refused, each with the file, the tensor, what was found and what was expected. */
#include <sys/stat.h>

#include "base/f16.h"
#include "base/mem.h"
#include "format/exl3.h"
#include "format/safetensors_write.h"
#include "mutate.h"
#include "source/source.h"
#include "temp_folder.h"

#define GOLDEN KRONQ_GOLDEN_DIR "/exl3"
#define Q0 "model.layers.0.self_attn.q_proj"

static kq_error err;

/* ---- the golden folder ---- */

static void golden_weights(void **s)
{
    (void)s;
    kq_source *src;
    kq_st_file *want;
    bool code[KQ_N_CODE] = {false};
    unsigned bits = 0;
    check_ok(kq_source_open(GOLDEN, &src, &err));
    check_ok(kq_st_open(KRONQ_GOLDEN_DIR "/exl3.safetensors", &want, &err));
    assert_int_equal(kq_st_n_tensors(want), 15);
    for (size_t i = 0; i < kq_st_n_tensors(want); i++) {
        const kq_tensor *w = kq_st_tensor(want, i), *t = kq_source_find(src, w->name);
        assert_non_null(t);
        assert_true(t->dtype == KQ_T_EXL3 && t->rank == 2 && t->n_elem == w->n_elem);
        code[t->exl3->code] = true;
        bits |= 1u << t->exl3->bits;
        float *x = malloc(t->n_elem * sizeof *x), *some = malloc(t->n_elem * sizeof *some);
        check_ok(kq_source_read_f32(src, t, 0, t->shape[0], x, &err));
        for (size_t j = 0; j < t->n_elem; j++) {
            const uint16_t got = kq_f32_to_f16(x[j]),
                           expected = (uint16_t)(w->data[2 * j] | w->data[2 * j + 1] << 8);
            if (got != expected)
                fail_msg("%s: weight %zu is %04x, numpy has %04x", w->name, j, got, expected);
        }
        check_ok(kq_source_read_f32(src, t, 5, t->shape[0] - 7, some, &err));
        assert_memory_equal(some, x + 5 * t->shape[1], (t->shape[0] - 7) * t->shape[1] * sizeof *x);
        free(x);
        free(some);
    }
    assert_true(code[KQ_MUL1] && code[KQ_MCG] && code[KQ_3INST] && bits == 0x1fe);
    assert_false(kq_source_config(src)->tie_embeddings); /* although config.json says so */
    kq_st_close(want);
    kq_source_close(src);
}

/* ---- folders that are refused ---- */

/* What is done to one tensor of the golden file. */
typedef struct change {
    const char *name;
    bool drop, copy; /* left out; kept, and a copy of it is added */
    const char *as;  /* its new name, or that of the copy */
    kq_dtype dtype;  /* its new type, where rank is set */
    size_t rank, shape[3];
    uint16_t half; /* the number that the first element becomes; 0: it stays */
} change;

static void declare(kq_st_writer *w, const kq_tensor *t, const change *c)
{
    const bool changed = c && !c->copy && c->rank;
    check_ok(kq_st_writer_declare(w, c && !c->copy && c->as ? c->as : t->name, changed ? c->dtype : t->dtype,
                                  changed ? c->rank : t->rank, changed ? c->shape : t->shape, &err));
}

static size_t bytes_of(const kq_tensor *t, const change *c)
{
    size_t n = t->size_bytes;
    if (c && !c->copy && c->rank) {
        n = c->dtype == KQ_T_F32 || c->dtype == KQ_T_I32 ? 4 : 2;
        for (size_t i = 0; i < c->rank; i++)
            n *= c->shape[i];
    }
    return n;
}

/* Write src_model/, the golden folder with a change. */
static void write_changed(const change *c)
{
    static uint8_t room[1 << 18];
    kq_st_file *f;
    kq_st_writer *w;
    char *text;
    size_t size;
    mkdir("exl3_model", 0777);
    check_ok(kq_file_read(GOLDEN "/config.json", 1 << 20, &text, &size, &err));
    check_ok(kq_file_write("exl3_model/config.json", text, size, &err));
    kq_free(text);
    check_ok(kq_st_open(GOLDEN "/model.safetensors", &f, &err));
    check_ok(kq_st_writer_new("exl3_model/model.safetensors", &w, &err));
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < kq_st_n_tensors(f); i++) {
            const kq_tensor *t = kq_st_tensor(f, i);
            const change *mine = !strcmp(t->name, c->name) ? c : NULL;
            const size_t n = bytes_of(t, mine);
            if (mine && mine->drop)
                continue;
            assert_true(n <= sizeof room);
            memset(room, 0, sizeof room);
            memcpy(room, t->data, n < t->size_bytes ? n : t->size_bytes);
            if (mine && mine->half)
                memcpy(room, &mine->half, 2);
            if (!pass)
                declare(w, t, mine);
            else
                check_ok(kq_st_writer_data(w, room, n, &err));
            if (mine && mine->copy && !pass)
                check_ok(kq_st_writer_declare(w, mine->as, t->dtype, t->rank, t->shape, &err));
            else if (mine && mine->copy)
                check_ok(kq_st_writer_data(w, room, n, &err));
        }
    check_ok(kq_st_writer_finish(w, &err));
    kq_st_close(f);
}

static void refused(change c, kq_status status, const char *words)
{
    kq_source *src = NULL;
    write_changed(&c);
    check_fails(kq_source_open("exl3_model", &src, &err), status, words);
    assert_null(src);
    assert_non_null(strstr(err.message, "exl3_model"));
}

static void refused_folders(void **s)
{
    (void)s;
    /* q_proj has 1 bit and code mul1; k_proj mcg; v_proj 3inst */
    refused((change){Q0 ".trellis", .drop = true}, KQ_E_FORMAT, Q0 ".trellis is missing");
    refused((change){Q0 ".suh", .drop = true}, KQ_E_FORMAT, Q0 ".suh is missing");
    refused((change){Q0 ".svh", .drop = true}, KQ_E_FORMAT, Q0 ".svh is missing");
    refused((change){Q0 ".trellis", .dtype = KQ_T_I16, .rank = 3, .shape = {8, 7, 16}}, KQ_E_SHAPE,
            Q0 ".trellis is I16 [8, 7, 16], expected I16 [8, 8, 16 K] with K from 1 to 8");
    refused((change){Q0 ".trellis", .dtype = KQ_T_I16, .rank = 3, .shape = {8, 8, 20}}, KQ_E_SHAPE,
            "is I16 [8, 8, 20], expected");
    refused((change){Q0 ".trellis", .dtype = KQ_T_I16, .rank = 3, .shape = {8, 8, 40}}, KQ_E_UNSUPPORTED,
            "40 words a tile, which are 2.5 bits a weight");
    refused((change){Q0 ".trellis", .dtype = KQ_T_I16, .rank = 3, .shape = {8, 8, 144}}, KQ_E_SHAPE,
            "is I16 [8, 8, 144], expected");
    refused((change){Q0 ".trellis", .dtype = KQ_T_F16, .rank = 3, .shape = {8, 8, 16}}, KQ_E_SHAPE,
            "is F16 [8, 8, 16], expected I16");
    refused((change){Q0 ".trellis", .dtype = KQ_T_I16, .rank = 2, .shape = {64, 16}}, KQ_E_SHAPE,
            "is I16 [64, 16], expected");
    refused((change){Q0 ".suh", .dtype = KQ_T_F16, .rank = 1, .shape = {64}}, KQ_E_SHAPE,
            Q0 ".suh is F16 [64], expected F16 [128]");
    refused((change){Q0 ".svh", .dtype = KQ_T_F32, .rank = 1, .shape = {128}}, KQ_E_SHAPE,
            Q0 ".svh is F32 [128], expected F16 [128]");
    refused((change){Q0 ".suh", .half = 0x7e01}, KQ_E_NUMERIC, Q0 ".suh[0] is NaN");
    refused((change){Q0 ".svh", .half = 0xfc00}, KQ_E_NUMERIC, Q0 ".svh[0] is Inf");
    refused((change){Q0 ".mul1", .copy = true, .as = Q0 ".mcg"}, KQ_E_FORMAT, "both there");
    refused((change){Q0 ".suh", .as = Q0 ".su"}, KQ_E_UNSUPPORTED, Q0 ".su: packed signs");
    refused((change){Q0 ".svh", .copy = true, .as = Q0 ".bias"}, KQ_E_UNSUPPORTED, Q0 ".bias: layers with");
    refused((change){"model.embed_tokens.weight", .copy = true, .as = Q0 ".weight"}, KQ_E_FORMAT, "twice");
    refused((change){"lm_head.trellis", .dtype = KQ_T_I16, .rank = 3, .shape = {8, 16, 96}}, KQ_E_SHAPE,
            "lm_head.trellis is I16 [8, 16, 96], expected I16 [8, 24, 16 K]");
    refused((change){"model.layers.1.mlp.down_proj.trellis", .as = "model.layers.2.mlp.down_proj.trellis"},
            KQ_E_FORMAT, "model.layers.1.mlp.down_proj.trellis is missing");
}

/* The fingerprint sees every tensor of a linear. */
static void fingerprint(void **s)
{
    (void)s;
    static const change c[] = {{.name = "none"},
                               {Q0 ".suh", .half = 0x3c00},
                               {Q0 ".svh", .half = 0x3c00},
                               {Q0 ".trellis", .half = 0x1234},
                               {Q0 ".mul1", .drop = true}};
    char hex[5][33];
    for (int i = 0; i < 5; i++) {
        kq_source *src;
        write_changed(&c[i]);
        check_ok(kq_source_open("exl3_model", &src, &err));
        check_ok(kq_source_fingerprint(src, hex[i], &err));
        kq_source_close(src);
        for (int j = 0; j < i; j++)
            assert_string_not_equal(hex[i], hex[j]);
    }
}

/* ---- mutated folders: any answer is right, but memory errors are not ---- */

static void read_all(void)
{
    kq_source *src;
    if (kq_source_open("exl3_model", &src, &err))
        return;
    for (size_t i = 0; i < kq_source_n_tensors(src); i++) {
        const kq_tensor *t = kq_source_tensor(src, i);
        float *x = malloc(t->n_elem * sizeof *x + 1);
        (void)kq_source_read_f32(src, t, 0, t->rank ? t->shape[0] : 1, x, &err);
        free(x);
    }
    kq_source_close(src);
}

static void mutated(void **s)
{
    (void)s;
    enum { ROUNDS = 200 };
    static const mutations how = {.letters = "0123456789,:[]{}\"I16F32.trelsuhvmcg", .numbers = true};
    kq_rng rng = kq_rng_stream(1, "exl3 folders");
    write_changed(&(change){.name = "none"});
    char *file;
    size_t size;
    uint64_t header;
    check_ok(kq_file_read("exl3_model/model.safetensors", 1 << 20, &file, &size, &err));
    memcpy(&header, file, 8);
    uint8_t *work = malloc(size);
    for (int i = 0; i < ROUNDS; i++) {
        memcpy(work, file, size);
        /* the header keeps its length: changes past its end fall into the data */
        for (uint64_t k = kq_rng_u64(&rng) % 3 + 1; k; k--)
            (void)mutate_once(&rng, work + 8, header + 64, header + 64, &how);
        check_ok(kq_file_write("exl3_model/model.safetensors", work, size, &err));
        read_all();
    }
    free(work);
    kq_free(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(golden_weights), cmocka_unit_test(refused_folders),
                                       cmocka_unit_test(fingerprint), cmocka_unit_test(mutated)};
    return cmocka_run_group_tests(tests, temp_folder_enter, temp_folder_leave);
}
