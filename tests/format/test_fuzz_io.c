/* Both readers on tens of thousands of mutated files, always the same ones: any answer is right, but
 * memory errors are not (run it under the address sanitizer; buffers are exactly sized). What is
 * accepted must be readable to its last byte. */
#include "format/gguf.h"
#include "format/safetensors_write.h"

#include "format/bytes.h"
#include "mutate.h"

enum { ROUNDS = 20000 };

static volatile unsigned sink;

static void touch(const uint8_t *data, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sink += data[i];
}

static const mutations how = {.letters = "0123456789,:[]{}\"\\-e. ", .numbers = true, .least = 1};

static void one_gguf(const uint8_t *data, size_t n)
{
    kq_gguf *g;
    kq_error err;
    if (kq_gguf_open_memory(data, n, "fuzz.gguf", &g, &err))
        return;
    for (size_t i = 0; i < kq_gguf_n_kv(g); i++) {
        const kq_gguf_kv *kv = kq_gguf_kv_at(g, i);
        for (size_t j = 0; j <= kv->n && j < 100; j++) {
            const char *text;
            size_t len;
            int64_t v;
            double d;
            if (kq_gguf_str(kv, j, &text, &len))
                touch((const uint8_t *)text, len);
            sink += kq_gguf_int(kv, j, &v);
            sink += kq_gguf_f64(kv, j, &d);
        }
    }
    for (size_t i = 0; i < kq_gguf_n_tensors(g); i++)
        touch(kq_gguf_tensor_at(g, i)->data, kq_gguf_tensor_at(g, i)->size_bytes);
    kq_gguf_close(g);
}

static void one_safetensors(const uint8_t *data, size_t n)
{
    kq_st_file *f;
    kq_error err;
    if (kq_st_open_memory(data, n, "fuzz.safetensors", &f, &err))
        return;
    for (size_t i = 0; i < kq_st_n_tensors(f); i++)
        touch(kq_st_tensor(f, i)->data, kq_st_tensor(f, i)->size_bytes);
    kq_st_close(f);
}

static void run(const bytes *seed, const char *label, void (*one)(const uint8_t *, size_t))
{
    kq_rng rng = kq_rng_stream(1, label);
    for (int i = 0; i < ROUNDS; i++) {
        uint8_t *work = exact(seed, seed->n);
        bytes changed = {.p = work, .n = mutate(&rng, work, seed->n, seed->n, &how)};
        uint8_t *copy = exact(&changed, changed.n);
        one(copy, changed.n);
        free(copy);
        free(work);
    }
}

static void gguf(void **s)
{
    (void)s;
    bytes b = {0};
    gguf_header(&b, 3, 4);
    kv_str(&b, "general.architecture", "llama");
    kv_u32(&b, "general.alignment", 32);
    put_string(&b, "list");
    put32(&b, 9);
    put32(&b, 8);
    put64(&b, 2);
    put_string(&b, "ab");
    put_string(&b, "");
    put_string(&b, "ints");
    put32(&b, 9);
    put32(&b, 5);
    put64(&b, 2);
    put64(&b, 7);
    gguf_info(&b, "a", 2, (const uint64_t[]){32, 2}, 2, 0);
    gguf_info(&b, "b", 1, (const uint64_t[]){4}, 0, 64);
    gguf_info(&b, "c", 1, (const uint64_t[]){256}, 22, 96); /* one block of IQ2_S */
    pad_to(&b, 32);
    put(&b, NULL, 96 + 82);
    run(&b, "gguf", one_gguf);
    free(b.p);
}

static void safetensors(void **s)
{
    (void)s;
    bytes b = {0};
    st_file(
        &b,
        "{\"__metadata__\":{\"k\":\"v\"},\"a\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[0,8]},"
        "\"b\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[8,14]}} ",
        NULL, 14);
    run(&b, "safetensors", one_safetensors);
    free(b.p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(gguf), cmocka_unit_test(safetensors)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
