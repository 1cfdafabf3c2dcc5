#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/time.h"
#include "checkpoint/checkpoint.h"
#include "cli.h"
#include "format/json.h"
#include "source/rope.h"

static json_t *describe(const kq_source *src, bool tensors)
{
    const kq_config *cfg = kq_source_config(src);
    json_t *types = json_object(), *list = json_array();
    size_t bytes = 0, elements = 0;
    for (size_t i = 0; i < kq_source_n_tensors(src); i++) {
        const kq_tensor *t = kq_source_tensor(src, i);
        const char *type = kq_dtype_name(t->dtype);
        bytes += t->size_bytes;
        elements += t->n_elem;
        json_object_set_new(types, type, json_integer(json_integer_value(json_object_get(types, type)) + 1));
        json_t *shape = json_array();
        for (size_t d = 0; d < t->rank; d++)
            json_array_append_new(shape, json_integer((json_int_t)t->shape[d]));
        json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:I}", "name", t->name, "type", type, "shape",
                                              shape, "bytes", (json_int_t)t->size_bytes));
    }
    json_t *o = json_pack(
        "{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:f, s:I, s:I, s:I, s:o}", "path",
        kq_source_path(src), "kind",
        kq_source_is_kronq(src)                    ? "kronq checkpoint"
        : kq_source_kind_of(src) == KQ_SOURCE_GGUF ? "GGUF"
                                                   : "Hugging Face folder",
        "architecture", cfg->arch == KQ_ARCH_QWEN3 ? "qwen3" : "llama", "layers", (json_int_t)cfg->n_layer,
        "d_model", (json_int_t)cfg->d_model, "heads", (json_int_t)cfg->n_head, "kv_heads",
        (json_int_t)cfg->n_kv_head, "head_dim", (json_int_t)cfg->head_dim, "d_ff", (json_int_t)cfg->d_ff,
        "vocab", (json_int_t)cfg->vocab_size, "context", (json_int_t)cfg->max_position, "tied_embeddings",
        cfg->tie_embeddings, "rope_theta", cfg->rope_theta, "tensors", (json_int_t)kq_source_n_tensors(src),
        "tensor_elements", (json_int_t)elements, "tensor_bytes", (json_int_t)bytes, "types", types);
    if (cfg->rope_scaling.kind != KQ_ROPE_PLAIN)
        json_object_set_new(o, "rope_scaling", kq_rope_to_json(cfg));
    if (kq_source_is_kronq(src)) {
        json_t *config = kq_json_again(kq_source_config_json(src));
        json_object_set(o, "quantization_config", json_object_get(config, "quantization_config"));
        json_decref(config);
    }
    if (tensors)
        json_object_set(o, "tensor_list", list);
    json_decref(list);
    return o;
}

static void print_tensors(const json_t *list)
{
    size_t i;
    json_t *t;
    json_array_foreach(list, i, t) {
        char *shape = json_dumps(json_object_get(t, "shape"), JSON_COMPACT), size[32];
        printf("%-56s %-5s %-18s %s\n", json_string_value(json_object_get(t, "name")),
               json_string_value(json_object_get(t, "type")), shape ? shape : "?",
               cli_bytes((double)json_integer_value(json_object_get(t, "bytes")), size));
        free(shape);
    }
}

static double real(const json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

static const char *word(const json_t *o, const char *key)
{
    return json_string_value(json_object_get(o, key));
}

static int print_ways(const cli *c)
{
    kq_error err;
    char *text, a[32], b[32], d[32], e[32];
    if (kq_plan_ways(c->model, &c->q, &text, &err))
        return cli_fail(&err);
    if (c->json) {
        puts(text);
        free(text);
        return EXIT_OK;
    }
    json_t *o = json_loads(text, 0, NULL), *way, *m = json_object_get(o, "measured");
    size_t i;
    free(text);
    printf("%s: %.2f G parameters; method %s, %.0f tokens in sequences of %.0f; %.4g bits, result about %s\n",
           c->model, real(o, "parameters") / 1e9, word(o, "method"), real(o, "calibration_tokens"),
           real(o, "seq_len"), real(o, "bits"), cli_bytes(real(o, "result_bytes"), a));
    printf("%-10s %10s %10s %9s %10s %10s %10s %10s %10s\n", "gradients", "memory", "disk", "at once",
           "forward", "backward", "factors", "rounding", "total");
    json_array_foreach(json_object_get(o, "ways"), i, way) {
        const json_t *s = json_object_get(way, "seconds");
        printf("%-10s %10s %10s %9.0f %10s ", word(way, "gradients"), cli_bytes(real(way, "memory_bytes"), a),
               cli_bytes(real(way, "disk_bytes"), b), real(way, "sequences_at_once"),
               kq_duration(real(s, "forward"), d));
        printf("%10s %10s %10s %10s", kq_duration(real(s, "backward"), a), kq_duration(real(s, "factors"), b),
               kq_duration(real(s, "rounding"), d), kq_duration(real(s, "total"), e));
        if (json_is_string(json_object_get(way, "refused")))
            printf("  %s", word(way, "refused"));
        printf("\n");
    }
    printf("Text at hand (--text); without, the model writes its own, whole in memory: %s.\n",
           cli_bytes(real(o, "self_text_bytes"), a));
    printf("Times: counted arithmetic over what this machine showed just now (%s, %s, %.0f threads): %.0f "
           "GFLOP/s in products, %.0f in the\n"
           "factor step, "
           "%.0f tiles a second, as if nothing else ran on it. Reading and writing files is not counted.\n",
           word(o, "isa"), word(o, "compute"), real(o, "threads"), real(m, "gemm_gflops"),
           real(m, "factor_gflops"), real(m, "tiles_per_second"));
    json_decref(o);
    return EXIT_OK;
}

int cmd_info(int argc, char **argv)
{
    cli c;
    int exit_status = cli_parse(
        &c, argc, argv, "info MODEL [--tensors | --plan] [--json]",
        "What a model file holds; and for one that is not quantized, what quantizing it would take.\n\n"
        "  kronq info --plan llama-2-7b/ --memory 24G");
    if (exit_status >= 0)
        return exit_status;
    if (c.plan)
        return print_ways(&c);
    kq_error err;
    kq_model_file *f;
    if (kq_model_file_open(c.model, KQ_ISA_REF, &f, &err))
        return cli_fail(&err);
    const kq_source *src = kq_model_file_source(f);
    json_t *o = describe(src, c.tensors);
    if (!kq_source_is_kronq(src)) {
        char *plan = NULL;
        c.q.calibration.text = NULL;
        if (c.q.calibration.seq_len > kq_source_config(src)->max_position &&
            kq_source_config(src)->max_position)
            c.q.calibration.seq_len = kq_source_config(src)->max_position;
        if (kq_plan(c.model, &c.q, &plan, &err)) { /* no tokenizer, say: the rest is still worth knowing */
            json_object_set_new(o, "plan_error", json_string(err.message));
        } else {
            json_t *p = json_loads(plan, 0, NULL);
            json_object_del(p, "modules");
            json_object_set_new(o, "plan", p);
            free(plan);
        }
    }
    if (c.json) {
        char *text = json_dumps(o, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
        puts(text ? text : "{}");
        free(text);
    } else {
        const char *key;
        json_t *value;
        json_object_foreach(o, key, value) {
            if (!strcmp(key, "tensor_list")) {
                print_tensors(value);
                continue;
            }
            if (json_is_object(value)) {
                json_t *sub;
                const char *name;
                printf("%s:\n", key);
                json_object_foreach(value, name, sub) {
                    char *text = json_dumps(sub, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(6));
                    printf("  %-22s %.100s%s\n", name, text ? text : "?",
                           text && strlen(text) > 100 ? " ..." : "");
                    free(text);
                }
                continue;
            }
            char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
            printf("%-24s %s\n", key, text ? text : "?");
            free(text);
        }
    }
    json_decref(o);
    kq_model_file_close(f);
    return EXIT_OK;
}
