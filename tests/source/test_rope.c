/* A GGUF's rotary embedding against llama.cpp's own arithmetic, written out here from ggml's ops.cpp
 * (rope_yarn, ggml_rope_cache_init) and llama_context's constructor. */
#include <math.h>

#include "base/mem.h"
#include "format/bytes.h"
#include "source/gguf_model.h"
#include "source/rope.h"

enum { HD = 64, HALF = HD / 2 };
static kq_error err;

typedef struct setting {
    const char *arch, *type;                /* type NULL: no key */
    float factor, scale_linear, attn, base; /* 0: no key */
    uint32_t context, original;             /* original 0: no key */
    const float *divisor;                   /* rope_freqs.weight; NULL: none */
    const char *other;                      /* another key, of value 3.5 */
} setting;

static void kv_arch(bytes *b, const char *arch, const char *key, float x)
{
    char name[96];
    snprintf(name, sizeof name, "%s.%s", arch, key);
    kv_f32(b, name, x);
}

static void kv_size(bytes *b, const char *arch, const char *key, uint32_t x)
{
    char name[96];
    snprintf(name, sizeof name, "%s.%s", arch, key);
    kv_u32(b, name, x);
}

static kq_status configure(setting s, kq_config *cfg)
{
    static const struct {
        const char *key;
        uint32_t value;
    } sizes[] = {{"block_count", 1},          {"embedding_length", 256}, {"feed_forward_length", 64},
                 {"attention.head_count", 4}, {"vocab_size", 10},        {"rope.dimension_count", HD}};
    bytes b = {0};
    kq_gguf *g;
    char name[96];
    gguf_header(&b, s.divisor != NULL,
                9 + (s.type != NULL) + (s.factor != 0) + (s.scale_linear != 0) + (s.attn != 0) +
                    (s.original != 0) + (s.other != NULL));
    kv_str(&b, "general.architecture", s.arch);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        kv_size(&b, s.arch, sizes[i].key, sizes[i].value);
    kv_size(&b, s.arch, "context_length", s.context);
    kv_arch(&b, s.arch, "attention.layer_norm_rms_epsilon", 1e-5f);
    if (s.base != 0)
        kv_arch(&b, s.arch, "rope.freq_base", s.base);
    else
        kv_u32(&b, "filler", 0);
    if (s.type) {
        snprintf(name, sizeof name, "%s.rope.scaling.type", s.arch);
        kv_str(&b, name, s.type);
    }
    if (s.factor != 0)
        kv_arch(&b, s.arch, "rope.scaling.factor", s.factor);
    if (s.scale_linear != 0)
        kv_arch(&b, s.arch, "rope.scale_linear", s.scale_linear);
    if (s.attn != 0)
        kv_arch(&b, s.arch, "rope.scaling.attn_factor", s.attn);
    if (s.original)
        kv_size(&b, s.arch, "rope.scaling.original_context_length", s.original);
    if (s.other)
        kv_arch(&b, s.arch, s.other, 3.5f);
    if (s.divisor) {
        gguf_info(&b, "rope_freqs.weight", 1, (const uint64_t[]){HALF}, 0, 0);
        pad_to(&b, 32);
        put(&b, s.divisor, HALF * 4);
    }
    b.p[16] = (uint8_t)(9 + (s.type != NULL) + (s.factor != 0) + (s.scale_linear != 0) + (s.attn != 0) +
                        (s.original != 0) + (s.other != NULL) + 1);
    check_ok(kq_gguf_open_memory(b.p, b.n, "x.gguf", &g, &err));
    err.message[0] = 0;
    kq_status status = kq_gguf_config(g, cfg, &err);
    kq_gguf_close(g);
    free(b.p);
    return status;
}

static float corr_dim(int n_ctx_orig, float n_rot, float base)
{
    return HD * logf((float)n_ctx_orig / (n_rot * 2 * (float)M_PI)) / (2 * logf(base));
}

/* cos and sin of pair i at position t, as llama.cpp has them. */
static void llama_rope(setting s, int t, double c[HALF], double sn[HALF])
{
    const float base = s.base != 0 ? s.base : 10000.0f,
                factor_key = s.factor != 0 ? s.factor : s.scale_linear;
    const bool yarn = s.type && !strcmp(s.type, "yarn"), none = s.type && !strcmp(s.type, "none");
    const float freq_scale = none || factor_key == 0 ? 1.0f : 1.0f / factor_key, ext = yarn ? 1.0f : 0.0f;
    float attn = 1.0f;
    if (ext != 0) {
        const float f = 1.0f / freq_scale;
        attn = f <= 1.0f ? 1.0f : 0.1f * logf(f) + 1.0f;
        attn *= 1.0f / (1.0f + 0.1f * logf(f));
    }
    attn *= s.attn != 0 ? s.attn : 1.0f;
    const int orig = s.original ? (int)s.original : (int)s.context;
    const float start = fmaxf(0, floorf(corr_dim(orig, 32, base))),
                end = fminf(HD - 1, ceilf(corr_dim(orig, 1, base)));
    for (int i = 0; i < HALF; i++) {
        const double extrap =
            (double)t * pow((double)base, -2.0 * i / HD) / (s.divisor ? (double)s.divisor[i] : 1.0);
        double theta = (double)freq_scale * extrap, m = (double)attn;
        if (ext != 0) {
            const double y = (i - (double)start) / fmax(0.001, (double)(end - start)),
                         mix = 1 - fmin(1, fmax(0, y));
            theta = theta * (1 - mix) + extrap * mix;
            m *= 1.0 + 0.1 * log(1.0 / (double)freq_scale);
        }
        c[i] = cos(theta) * m;
        sn[i] = sin(theta) * m;
    }
}

static void as_llama(setting s)
{
    kq_config cfg;
    float f[HALF];
    double c[HALF], sn[HALF];
    check_ok(configure(s, &cfg));
    kq_rope_frequencies(&cfg, f);
    for (int t = 0; t < 500; t += 37) {
        llama_rope(s, t, c, sn);
        for (int i = 0; i < HALF; i++) {
            const double a = kq_rope_attention(&cfg), x = a * cos(t * (double)f[i]),
                         y = a * sin(t * (double)f[i]);
            if (!(fabs(x - c[i]) < 1e-4 * a) || !(fabs(y - sn[i]) < 1e-4 * a)) /* f32 angles up to 500 rad */
                fail_msg("%s, type %s, factor %g, pair %d at %d: %g %g, llama.cpp has %g %g", s.arch,
                         s.type ? s.type : "-", (double)s.factor, i, t, x, y, c[i], sn[i]);
        }
    }
    /* what a config.json says of it gives the same frequencies */
    json_t *root =
        json_pack("{s:f,s:o}", "rope_theta", cfg.rope_theta, "rope_scaling", kq_rope_to_json(&cfg));
    kq_config again = cfg;
    float g[HALF];
    assert_non_null(root);
    check_ok(kq_rope_from_json(&(kq_json_node){.value = root, .file = "config.json"}, &again, &err));
    json_decref(root);
    kq_rope_frequencies(&again, g);
    assert_true(fabs(kq_rope_attention(&again) - kq_rope_attention(&cfg)) < 1e-6 &&
                again.max_position == cfg.max_position);
    for (int i = 0; i < HALF; i++)
        assert_true(fabs((double)(g[i] - f[i])) <= 2e-7 * (double)f[i]);
}

static float llama3_divisor(int i, float base, double factor, double low, double high, double original)
{
    const double wave = 2 * M_PI * pow((double)base, 2.0 * i / HD);
    if (wave < original / high)
        return 1;
    if (wave > original / low)
        return (float)factor;
    const double smooth = (original / wave - low) / (high - low);
    return (float)(1 / ((1 - smooth) / factor + smooth));
}

static void keys(void **state)
{
    (void)state;
    const char *const archs[] = {"llama", "qwen3"};
    for (int i = 0; i < 2; i++) {
        const char *a = archs[i];
        as_llama((setting){.arch = a, .context = 4096});
        as_llama((setting){.arch = a, .type = "none", .factor = 4, .context = 4096});
        as_llama((setting){.arch = a, .type = "linear", .factor = 4, .context = 4096, .base = 1e6f});
        as_llama((setting){.arch = a, .factor = 2.5f, .context = 4096}); /* no type: linear */
        as_llama((setting){.arch = a, .scale_linear = 8, .context = 4096});
        /* the newer key counts */
        as_llama((setting){.arch = a, .factor = 2, .scale_linear = 8, .context = 4096});
        as_llama((setting){
            .arch = a, .type = "yarn", .factor = 4, .context = 131072, .original = 32768, .base = 1e6f});
        /* the original context: the context */
        as_llama((setting){.arch = a, .type = "yarn", .factor = 4, .context = 512});
        as_llama((setting){.arch = a, .type = "yarn", .factor = 0.5f, .context = 512, .original = 256});
        /* no factor: 1 */
        as_llama((setting){.arch = a, .type = "yarn", .context = 512, .original = 256});
        as_llama((setting){
            .arch = a, .type = "yarn", .factor = 4, .attn = 1.25f, .context = 512, .original = 128});
        as_llama((setting){.arch = a, .type = "linear", .factor = 2, .attn = 0.75f, .context = 512});
        as_llama((setting){.arch = a, .attn = 1.5f, .context = 512});
        /* not read */
        as_llama((setting){.arch = a,
                           .type = "yarn",
                           .factor = 4,
                           .context = 512,
                           .original = 128,
                           .other = "rope.scaling.yarn_beta_fast"});
    }
}

static void tables(void **state)
{
    (void)state;
    static const struct {
        float base;
        double factor, low, high, original;
        bool told;
    } cases[] = {{5e5f, 8, 1, 4, 8192, true},     {5e5f, 32, 1, 4, 8192, true},
                 {5e5f, 8, 1, 4, 4096, true},     {1e4f, 16, 1, 4, 333, true},
                 {5e5f, 2.5, 1, 4, 131072, true}, {5e5f, 8, 2, 8, 8192, false},
                 {5e5f, 8, 1, 1.001, 8192, true}, {1e4f, 8, 1, 4, 1 << 20, false}};
    kq_config cfg;
    float d[HALF];
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        for (int i = 0; i < HALF; i++)
            d[i] = llama3_divisor(i, cases[k].base, cases[k].factor, cases[k].low, cases[k].high,
                                  cases[k].original);
        const setting s = {.arch = "llama", .base = cases[k].base, .context = 512, .divisor = d};
        as_llama(s);
        check_ok(configure(s, &cfg));
        if (cases[k].told && cases[k].high == 4)
            assert_true(cfg.rope_scaling.kind == KQ_ROPE_LLAMA3 &&
                        cfg.rope_scaling.factor == cases[k].factor &&
                        (double)cfg.rope_scaling.original_max_position == cases[k].original);
    }
    for (int i = 0; i < HALF; i++)
        d[i] = 1.0f + 0.37f * (float)(i * i % 7); /* no llama3's */
    as_llama((setting){.arch = "llama", .context = 512, .divisor = d});
    as_llama((setting){.arch = "llama", .context = 512, .divisor = d, .attn = 1.5f});
    as_llama((setting){.arch = "llama", .context = 512, .divisor = d, .type = "linear", .factor = 4});
    as_llama((setting){
        .arch = "llama", .context = 512, .divisor = d, .type = "yarn", .factor = 4, .original = 128});
    check_ok(configure((setting){.arch = "llama", .context = 512, .divisor = d}, &cfg));
    assert_int_equal(cfg.rope_scaling.kind, KQ_ROPE_TABLE);
}

static void refusals(void **state)
{
    (void)state;
    kq_config cfg;
    check_fails(configure((setting){.arch = "llama", .type = "longrope", .context = 512}, &cfg),
                KQ_E_UNSUPPORTED, "\"longrope\"");
    check_fails(configure((setting){.arch = "llama", .type = "Linear", .context = 512}, &cfg),
                KQ_E_UNSUPPORTED, "\"Linear\"");
    check_fails(configure((setting){.arch = "llama", .factor = -2, .context = 512}, &cfg), KQ_E_FORMAT,
                "factor");
    check_fails(configure((setting){.arch = "llama", .factor = NAN, .context = 512}, &cfg), KQ_E_FORMAT,
                "factor");
    check_fails(configure((setting){.arch = "llama", .factor = INFINITY, .context = 512}, &cfg), KQ_E_FORMAT,
                "factor");
    check_fails(configure((setting){.arch = "llama", .attn = -1, .context = 512}, &cfg), KQ_E_FORMAT, "attn");
    check_fails(
        configure((setting){.arch = "llama", .type = "yarn", .factor = 4, .base = 1, .context = 512}, &cfg),
        KQ_E_FORMAT, "yarn");
}

static size_t draw(size_t n)
{
    static uint64_t seed = 12;
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (size_t)(seed >> 33) % n;
}

/* Strange values everywhere: what is read has finite frequencies and a positive attention factor. */
static void strange_values(void **state)
{
    (void)state;
    static const char *const keys[] = {
        "rope_type",        "type",        "factor",          "original_max_position_embeddings",
        "attention_factor", "beta_fast",   "beta_slow",       "mscale",
        "mscale_all_dim",   "truncate",    "low_freq_factor", "high_freq_factor",
        "short_factor",     "long_factor", "rope_theta",      "partial_rotary_factor"};
    static const char *const values[] = {"0",
                                         "1",
                                         "-1",
                                         "2",
                                         "4.0",
                                         "0.5",
                                         "1e300",
                                         "1e-300",
                                         "-1e300",
                                         "5e-324",
                                         "9223372036854775807",
                                         "-0.0",
                                         "null",
                                         "true",
                                         "false",
                                         "\"\"",
                                         "\"4\"",
                                         "\"yarn\"",
                                         "[]",
                                         "{}",
                                         "[1,2,3,4]",
                                         "[1,0,1,1]",
                                         "[1,-1,1,1]",
                                         "[1,\"x\",1,1]",
                                         "128",
                                         "8192",
                                         "32",
                                         "1.5"};
    static const char *const types[] = {"default", "llama3", "linear", "dynamic", "yarn", "longrope", "su"};
    size_t n_ok = 0;
    for (int round = 0; round < 20000; round++) {
        json_t *rope = json_object(), *root = json_object();
        json_object_set_new(rope, "rope_type", json_string(types[draw(7)]));
        for (size_t k = draw(9) + 2; k-- > 0;)
            json_object_set_new(rope, keys[draw(14) + 2],
                                json_loads(values[draw(28)], JSON_DECODE_ANY, NULL));
        if (!draw(8))
            json_object_set_new(rope, keys[draw(2)], json_loads(values[draw(28)], JSON_DECODE_ANY, NULL));
        json_object_set_new(root, draw(2) ? "rope_scaling" : "rope_parameters", rope);
        if (!draw(4))
            json_object_set_new(root, draw(2) ? "rope_theta" : keys[3],
                                json_loads(values[draw(28)], JSON_DECODE_ANY, NULL));
        kq_config cfg = {.n_layer = 1,
                         .d_model = 32,
                         .n_head = 4,
                         .n_kv_head = 4,
                         .head_dim = 8,
                         .d_ff = 8,
                         .vocab_size = 9,
                         .max_position = 512,
                         .bos_id = -1};
        if (!kq_rope_from_json(&(kq_json_node){.value = root, .file = "config.json"}, &cfg, &err) &&
            !kq_config_check(&cfg, "config.json", &err)) {
            float f[4];
            kq_rope_frequencies(&cfg, f);
            assert_true(kq_rope_attention(&cfg) > 0 && isfinite(kq_rope_attention(&cfg)));
            for (int i = 0; i < 4; i++)
                if (!isfinite(f[i])) {
                    char *text = json_dumps(root, 0);
                    fail_msg("%s: frequency %d is %g", text, i, (double)f[i]);
                }
            json_t *again = kq_rope_to_json(&cfg);
            assert_non_null(again);
            json_decref(again);
            n_ok++;
        }
        json_decref(root);
    }
    assert_true(n_ok > 500); /* the draw is not all refusals */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(keys), cmocka_unit_test(tables),
                                       cmocka_unit_test(refusals), cmocka_unit_test(strange_values)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
