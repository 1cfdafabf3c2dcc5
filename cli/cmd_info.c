/* kronq info: shows what a model holds, and how much memory, disk and time quantizing it would take. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

/* o[key] = the value that the text says; nothing without a text. */
static void set_json(json_t *o, const char *key, const char *text)
{
    if (text)
        json_object_set_new(o, key, json_loads(text, JSON_DECODE_ANY, NULL));
}

static json_t *describe(const kq_model *model, bool with_tensors)
{
    const kq_model_info *m = kq_model_get_info(model);
    json_t *types = json_object(), *list = json_array();
    for (size_t i = 0; i < m->n_tensors; i++) {
        const kq_tensor_info *t = kq_model_get_tensor(model, i);
        json_object_set_new(types, t->type,
                            json_integer(json_integer_value(json_object_get(types, t->type)) + 1));
        json_t *shape = json_array();
        for (size_t d = 0; d < t->rank; d++)
            json_array_append_new(shape, json_integer((json_int_t)t->shape[d]));
        json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:I}", "name", t->name, "type", t->type,
                                              "shape", shape, "bytes", (json_int_t)t->bytes));
    }
    json_t *o = json_pack(
        "{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:f, s:I, s:I, s:I, s:o}", "path",
        m->path, "kind", m->kind, "architecture", m->architecture, "layers", (json_int_t)m->n_layer,
        "d_model", (json_int_t)m->d_model, "heads", (json_int_t)m->n_head, "kv_heads",
        (json_int_t)m->n_kv_head, "head_dim", (json_int_t)m->head_dim, "d_ff", (json_int_t)m->d_ff, "vocab",
        (json_int_t)m->vocab_size, "context", (json_int_t)m->context, "tied_embeddings", m->tied_embeddings,
        "rope_theta", m->rope_theta, "tensors", (json_int_t)m->n_tensors, "tensor_elements",
        (json_int_t)m->tensor_elements, "tensor_bytes", (json_int_t)m->tensor_bytes, "types", types);
    set_json(o, "rope_scaling", m->rope_scaling_json);
    set_json(o, "quantization_config", m->quantization_json);
    if (with_tensors)
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
    char *text, a[32], b[32], d[32];
    static const char *const stages[] = {"forward",  "backward", "factors", "targets",
                                         "rounding", "tuning",   "total"};
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
    printf("%-9s %9s %9s %7s %9s %9s %9s %9s %9s %9s %9s\n", "gradients", "memory", "disk", "at once",
           "forward", "backward", "factors", "targets", "rounding", "tuning", "total");
    json_array_foreach(json_object_get(o, "ways"), i, way) {
        const json_t *s = json_object_get(way, "seconds");
        printf("%-9s %9s %9s %7.0f ", word(way, "gradients"), cli_bytes(real(way, "memory_bytes"), a),
               cli_bytes(real(way, "disk_bytes"), b), real(way, "sequences_at_once"));
        for (size_t k = 0; k < sizeof stages / sizeof *stages; k++)
            printf(k ? " %9s" : "%9s", cli_duration(real(s, stages[k]), d));
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

/* What quantizing the model would take, or why that cannot be said (it has no tokenizer): the rest is still
 * worth knowing. context: the model's, or 0. */
static void add_plan(cli *c, json_t *o, size_t context)
{
    kq_error err;
    char *text = NULL;
    c->q.calibration.text = NULL;
    if (context && c->q.calibration.seq_len > context)
        c->q.calibration.seq_len = context;
    if (kq_plan(c->model, &c->q, &text, &err)) {
        json_object_set_new(o, "plan_error", json_string(err.message));
        return;
    }
    json_t *plan = json_loads(text, 0, NULL);
    json_object_del(plan, "modules");
    json_object_set_new(o, "plan", plan);
    free(text);
}

static void print_object(const char *key, json_t *value)
{
    const char *name;
    json_t *member;
    printf("%s:\n", key);
    json_object_foreach(value, name, member) {
        char *text = json_dumps(member, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(6));
        printf("  %-22s %.100s%s\n", name, text ? text : "?", text && strlen(text) > 100 ? " ..." : "");
        free(text);
    }
}

static void print_all(json_t *o)
{
    const char *key;
    json_t *value;
    json_object_foreach(o, key, value) {
        if (!strcmp(key, "tensor_list")) {
            print_tensors(value);
        } else if (json_is_object(value)) {
            print_object(key, value);
        } else {
            char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
            printf("%-24s %s\n", key, text ? text : "?");
            free(text);
        }
    }
}

int cmd_info(int argc, char **argv)
{
    cli c;
    int exit_status = cli_parse(
        &c, argc, argv, "info MODEL [--tensors | --plan] [--json]",
        "What a model file holds; and for one that is not quantized, what quantizing it would take.\n"
        "All options but --tensors and --json go with --plan.\n\n"
        "  kronq info --plan llama-2-7b/ --memory 24G");
    if (exit_status >= 0)
        return exit_status;
    if (c.plan)
        return print_ways(&c);
    kq_error err;
    kq_model *model;
    kq_model_options opt = kq_model_defaults();
    opt.common.isa = "ref"; /* nothing is computed, so that with a wrong KRONQ_ISA only the plan is missing */
    if (kq_model_open(c.model, &opt, &model, &err))
        return cli_fail(&err);
    json_t *o = describe(model, c.tensors);
    if (!kq_model_get_info(model)->quantization_json)
        add_plan(&c, o, kq_model_get_info(model)->context);
    if (c.json) {
        char *text = json_dumps(o, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
        puts(text ? text : "{}");
        free(text);
    } else {
        print_all(o);
    }
    json_decref(o);
    kq_model_close(model);
    return EXIT_OK;
}
