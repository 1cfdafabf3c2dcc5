/* kq_model: description, tokens, logits, text, chat and perplexity, against the tiny model's known shape and
 * against each other. */
#include "check.h"
#include "kronq.h"

#define MODEL KRONQ_GOLDEN_DIR "/tiny_cli/hf"
#define GGUF KRONQ_GOLDEN_DIR "/tiny_cli/model.gguf"
#define TEXT KRONQ_GOLDEN_DIR "/tiny_cli/text.txt"
enum { VOCAB = 384, CONTEXT = 512 };
static kq_error err;

#define check_near(a, b, tolerance) assert_true(fabs((a) - (double)(b)) <= (tolerance))

static kq_model *open_model(const char *path, size_t context, size_t sequences)
{
    kq_model *m;
    kq_model_options opt = kq_model_defaults();
    opt.common.threads = 1;
    opt.common.compute = "f32";
    opt.kv = "f32";
    opt.context = context;
    opt.sequences = sequences;
    check_ok(kq_model_open(path, &opt, &m, &err));
    return m;
}

static void a_model_describes_itself(void **state)
{
    (void)state;
    static const char *const path[] = {MODEL, GGUF}, *const kind[] = {"Hugging Face folder", "GGUF"};
    for (int i = 0; i < 2; i++) {
        kq_model *m = open_model(path[i], 64, 1);
        const kq_model_info *info = kq_model_get_info(m);
        assert_string_equal(info->kind, kind[i]);
        assert_string_equal(info->architecture, "llama");
        assert_int_equal(info->n_layer, 3);
        assert_int_equal(info->vocab_size, VOCAB);
        assert_int_equal(info->context, CONTEXT);
        assert_int_equal(info->n_parameters, 126400);
        check_near(info->bits, 0, 0);
        assert_null(info->quantization_json);
        assert_null(kq_model_get_engine(m));
        size_t elements = 0;
        for (size_t k = 0; k < info->n_tensors; k++)
            elements += kq_model_get_tensor(m, k)->n_elements;
        assert_int_equal(elements, info->n_parameters);
        assert_null(kq_model_get_tensor(m, info->n_tensors));
        kq_model_close(m);
    }
    kq_model *m = (kq_model *)&err;
    check_fails(kq_model_open("nowhere", NULL, &m, &err), KQ_E_IO, "nowhere");
    assert_null(m);
    kq_model_options opt = kq_model_defaults();
    opt.kv = "q8";
    check_fails(kq_model_open(MODEL, &opt, &m, &err), KQ_E_ARG, "q8");
    kq_model_close(NULL);
}

static void text_and_ids(void **state)
{
    (void)state;
    static const char text[] = "Out know the water";
    kq_model *m = open_model(MODEL, 64, 1);
    int32_t *ids;
    char *back;
    const char *bytes;
    size_t n, size, joined = 0;
    check_ok(kq_model_tokenize(m, text, strlen(text), true, true, &ids, &n, &err));
    check_ok(kq_model_detokenize(m, ids, n, true, &back, &size, &err));
    assert_string_equal(back, text);
    assert_int_equal(size, strlen(text));
    for (size_t i = 0; i < n; i++) {
        check_ok(kq_model_token_bytes(m, ids[i], &bytes, &size, &err));
        joined += kq_model_is_special(m, ids[i]) ? 0 : size;
    }
    assert_int_equal(joined, strlen(text));
    const int32_t end = kq_model_token(m, KQ_TOKEN_END);
    assert_true(end >= 0 && kq_model_ends(m, end) && kq_model_is_special(m, end));
    assert_int_equal(kq_model_token_id(m, "no such token"), -1);
    free(back);
    free(ids);
    kq_model_close(m);
}

static void logits_do_not_depend_on_pieces(void **state)
{
    (void)state;
    enum { N = 24 };
    int32_t ids[N];
    kq_model *m = open_model(MODEL, 32, 2);
    float *whole = malloc(N * VOCAB * sizeof *whole), *pieces = malloc(N * VOCAB * sizeof *pieces);
    for (int i = 0; i < N; i++)
        ids[i] = (i * 37 + 11) % VOCAB;
    check_ok(kq_model_logits(m, ids, N, whole, &err));
    assert_int_equal(kq_model_length(m, 0), N);
    const kq_engine_info *engine = kq_model_get_engine(m);
    assert_int_equal(engine->context, 32);
    assert_string_equal(engine->compute, "f32");
    assert_string_equal(engine->weights, "f32");
    check_near(engine->bits, 32, 0);
    check_ok(kq_model_append(m, 1, ids, 7, 7, pieces, &err));
    check_ok(kq_model_append(m, 1, ids + 7, 5, 0, NULL, &err));
    kq_model_truncate(m, 1, 9);
    check_ok(kq_model_append(m, 1, ids + 9, N - 9, N - 9, pieces + 9 * VOCAB, &err));
    assert_memory_equal(whole, pieces, 7 * VOCAB * sizeof *whole);
    assert_memory_equal(whole + 9 * VOCAB, pieces + 9 * VOCAB, (N - 9) * VOCAB * sizeof *whole);
    check_fails(kq_model_append(m, 2, ids, 1, 1, pieces, &err), KQ_E_ARG, "sequence 2");
    check_fails(kq_model_append(m, 1, ids, 9, 1, pieces, &err), KQ_E_ARG, "do not fit");
    assert_int_equal(kq_model_length(m, 1), N);
    ids[3] = VOCAB;
    check_fails(kq_model_logits(m, ids, N, whole, &err), KQ_E_ARG, "vocabulary");
    free(whole);
    free(pieces);
    kq_model_close(m);
}

/* ---- text ---- */

static kq_generation *generate(kq_model *m, const int32_t *ids, size_t n, const kq_generation_options *opt)
{
    kq_generation *g;
    check_ok(kq_model_generate(m, ids, n, opt, &g, &err));
    return g;
}

static void a_cache_changes_no_answer(void **state)
{
    (void)state;
    kq_model *m = open_model(MODEL, 64, 1), *fresh = open_model(MODEL, 64, 1);
    kq_generation_options opt = kq_generation_defaults();
    opt.n_max = 10;
    opt.temperature = 1;
    opt.seed = 7;
    int32_t ids[40] = {0};
    for (int i = 0; i < 12; i++)
        ids[i] = (i * 29 + 5) % VOCAB;
    kq_generation *a = generate(m, ids, 12, &opt);
    assert_int_equal(a->n_prompt, 12);
    assert_int_equal(a->n_prompt_run, 12);
    assert_true(a->n_ids > 0 && a->n_ids <= 10);
    memcpy(ids + 12, a->ids, a->n_ids * sizeof *ids); /* the next turn: the answer, and something new */
    const size_t n = 12 + a->n_ids + 2;
    ids[n - 2] = 17, ids[n - 1] = 18;
    opt.n_max = 0; /* nothing is made, and the cache forgets what differs */
    kq_generation_free(generate(m, ids, 9, &opt));
    assert_int_equal(kq_model_length(m, 0), 9);
    opt.n_max = 10;
    kq_generation *b = generate(m, ids, n, &opt), *c = generate(fresh, ids, n, &opt);
    assert_int_equal(b->n_prompt_run, n - 9);
    assert_int_equal(c->n_prompt_run, n);
    assert_int_equal(b->n_ids, c->n_ids);
    assert_memory_equal(b->ids, c->ids, b->n_ids * sizeof *ids);
    assert_string_equal(b->text, c->text);
    ids[4]++; /* another beginning */
    kq_generation *d = generate(m, ids, n, &opt);
    assert_int_equal(d->n_prompt_run, n - 4);
    check_ok(kq_model_load(m, 80, &err)); /* a larger cache is a new one */
    assert_int_equal(kq_model_length(m, 0), 0);
    assert_int_equal(kq_model_get_engine(m)->context, 80);
    kq_generation_free(a), kq_generation_free(b), kq_generation_free(c), kq_generation_free(d);
    kq_model_close(m);
    kq_model_close(fresh);
}

typedef struct listener {
    char text[400];
    size_t size;
    int calls, stop_at;
} listener;

static int hear(void *ctx, const char *text, size_t size)
{
    listener *l = ctx;
    assert_true(l->size + size < sizeof l->text);
    memcpy(l->text + l->size, text, size);
    l->size += size;
    return ++l->calls == l->stop_at;
}

static void an_answer_ends(void **state)
{
    (void)state;
    kq_model *m = open_model(MODEL, 64, 1);
    listener all = {.calls = 0}, some = {.stop_at = 2};
    kq_generation_options opt = kq_generation_defaults();
    kq_generation *g;
    opt.n_max = 1000;
    opt.temperature = 0;
    opt.emit = hear;
    opt.ctx = &all;
    check_ok(kq_model_complete(m, "the water", &opt, &g, &err));
    assert_int_equal(g->text_size, all.size);
    assert_memory_equal(g->text, all.text, all.size);
    assert_true(g->end == KQ_END_TOKEN || g->n_prompt + g->n_ids == 64); /* no further than the context */
    char stop[2] = {g->text[g->text_size / 2], 0};
    const char *const stops[] = {stop};
    const size_t before = (size_t)(strchr(g->text, *stop) - g->text);
    kq_generation_free(g);
    opt.ctx = &some;
    check_ok(kq_model_complete(m, "the water", &opt, &g, &err));
    assert_int_equal(g->end, KQ_END_CALLER);
    assert_int_equal(some.calls, 2);
    kq_generation_free(g);
    if ((unsigned char)*stop < 128) { /* a whole character */
        opt.emit = NULL;
        opt.stop = stops;
        opt.n_stop = 1;
        check_ok(kq_model_complete(m, "the water", &opt, &g, &err));
        assert_int_equal(g->end, KQ_END_STOP);
        assert_int_equal(g->text_size, before);
        kq_generation_free(g);
    }
    check_ok(kq_model_complete(m, "the", &opt, NULL, &err));
    int32_t ids[CONTEXT] = {0};
    check_fails(kq_model_generate(m, ids, 0, &opt, &g, &err), KQ_E_ARG, "empty");
    check_fails(kq_model_generate(m, ids, 64, &opt, &g, &err), KQ_E_ARG, "context is 64");
    check_fails(kq_model_generate(m, ids, CONTEXT, &opt, &g, &err), KQ_E_ARG, "the prompt has 512 tokens");
    assert_null(g);
    kq_model_close(m);
}

/* The tiny model with a template of its own, or with none. */
static void make_model(const char *dir, const char *template)
{
    char command[600];
    snprintf(command, sizeof command, "rm -rf %s && cp -r %s %s && rm %s/tokenizer_config.json", dir, MODEL,
             dir, dir);
    assert_int_equal(system(command), 0);
    if (!template)
        return;
    snprintf(command, sizeof command, "%s/chat_template.jinja", dir);
    FILE *f = fopen(command, "w");
    assert_non_null(f);
    fputs(template, f);
    fclose(f);
}

static void a_conversation_computes_only_what_is_new(void **state)
{
    (void)state;
    char *prompt;
    make_model("chat_model", NULL);
    kq_model *m = open_model("chat_model", 0, 1);
    kq_message turns[3] = {{"user", "the water"}, {"assistant", NULL}, {"user", "of the"}};
    kq_generation *g, *h;
    check_fails(kq_model_check_chat(m, NULL, &err), KQ_E_UNSUPPORTED, "template");
    check_fails(kq_model_chat(m, turns, 1, NULL, NULL, &g, &err), KQ_E_UNSUPPORTED, "template");
    assert_null(g);
    kq_model_close(m);
    make_model("chat_model", "{% for m in messages %}[{{ m.role }}: {{ m.content }}]{% endfor %}"
                             "{% if mood is defined %}{{ mood }}{% endif %}");
    m = open_model("chat_model", 0, 1);
    check_ok(kq_model_check_chat(m, NULL, &err));
    static const char *const mood[] = {"mood=calm"};
    kq_chat_options chat = kq_chat_defaults();
    chat.argument = mood;
    chat.n_argument = 1;
    check_ok(kq_model_chat_prompt(m, turns, 1, &chat, &prompt, &err));
    assert_string_equal(prompt, "[user: the water]calm");
    free(prompt);
    kq_generation_options opt = kq_generation_defaults();
    opt.n_max = 8;
    check_ok(kq_model_chat(m, turns, 1, NULL, &opt, &g, &err));
    assert_int_equal(kq_model_get_engine(m)->context, CONTEXT);
    turns[1].content = g->text;
    check_ok(kq_model_chat(m, turns, 3, NULL, &opt, &h, &err));
    assert_true(h->n_prompt_run <= h->n_prompt - g->n_prompt);
    turns[0].content = "\xff";
    check_fails(kq_model_chat_prompt(m, turns, 1, NULL, &prompt, &err), KQ_E_ARG, "UTF-8");
    kq_generation_free(g);
    kq_generation_free(h);
    kq_model_close(m);
    assert_int_equal(system("rm -rf chat_model"), 0);
}

/* ---- server ---- */

/* What requests leave in the caches is nothing that a later call may build upon. */
static void a_model_is_its_owners_again_after_a_server(void **state)
{
    (void)state;
    kq_model *m = open_model(MODEL, 64, 2);
    kq_serve_options opt = kq_serve_defaults();
    kq_generation_options few = kq_generation_defaults();
    kq_server *server;
    kq_generation *g;
    bool loopback = false;
    static const int32_t ids[6] = {5, 6, 7, 8, 9, 10};
    static const char *const wrong[] = {"https://a.example/"};
    few.n_max = 2;
    kq_generation_free(generate(m, ids, 6, &few));
    opt.port = 0;
    check_ok(kq_serve_check(&opt, &loopback, &err));
    assert_true(loopback);
    check_ok(kq_serve(m, &opt, &server, &err));
    assert_true(kq_server_port(server) > 0);
    assert_true(kq_server_stop(server, NULL, NULL));
    g = generate(m, ids, 6, &few);
    assert_int_equal(g->n_prompt_run, 6);
    kq_generation_free(g);
    opt.cors = wrong;
    opt.n_cors = 1;
    check_fails(kq_serve_check(&opt, NULL, &err), KQ_E_ARG, "https://a.example/");
    check_fails(kq_serve(m, &opt, &server, &err), KQ_E_ARG, "origin");
    assert_null(server);
    kq_model_close(m);
}

/* ---- measures ---- */

static void perplexity_is_that_of_eval(void **state)
{
    (void)state;
    enum { WINDOW = 48, N = 4 };
    kq_model *m = open_model(MODEL, 0, 1);
    kq_eval_text_options opt = kq_eval_text_defaults();
    char *json, *text;
    opt.common.compute = "f32";
    opt.common.threads = 1;
    opt.ctx = WINDOW;
    opt.chunks = N;
    check_ok(kq_eval_text(MODEL, GGUF, TEXT, &opt, &json, &err));
    kq_eval_result *read, *own;
    check_ok(kq_eval_result_read(json, &read, &err));
    assert_int_equal(read->windows, N);
    assert_true(read->has_reference && !read->llama_cpp && read->ctx == WINDOW &&
                !strcmp(read->text, "text.txt"));
    assert_true(read->kld > 0 && read->top1 <= 1 && read->kld_max >= read->kld_median);
    FILE *f = fopen(TEXT, "rb");
    text = calloc(1, 20000);
    const size_t size = fread(text, 1, 19999, f);
    fclose(f);
    int32_t *ids;
    size_t n;
    check_ok(kq_model_tokenize(m, text, size, true, true, &ids, &n, &err));
    check_ok(kq_model_perplexity(m, ids, N * WINDOW + 3, WINDOW, &own, &err));
    assert_int_equal(own->windows, N);
    assert_int_equal(own->tokens, read->tokens);
    check_near(own->ppl, read->ppl, 1e-7 * read->ppl);
    assert_false(own->has_reference);
    assert_true(isnan(own->kld));
    kq_eval_result_free(own);
    check_fails(kq_model_perplexity(m, ids, n, CONTEXT + 1, &own, &err), KQ_E_ARG, "context is 512");
    assert_null(own);
    check_fails(kq_model_perplexity(m, ids, WINDOW - 1, WINDOW, &own, &err), KQ_E_ARG, "window");
    check_fails(kq_eval_result_read("{}", &own, &err), KQ_E_FORMAT, "no result");
    check_fails(kq_eval_result_read("no JSON", &own, &err), KQ_E_FORMAT, "no result");
    kq_eval_result_free(read);
    free(json);
    free(text);
    free(ids);
    kq_model_close(m);
}

static void a_report_as_a_struct(void **state)
{
    (void)state;
    kq_quantize_options opt = kq_quantize_defaults();
    kq_quantize_result *r;
    char *json;
    opt.calibration.method = "none";
    opt.bits = 3;
    opt.only = "layers\\.1\\..*[kv]_proj";
    assert_int_equal(system("rm -rf quantized"), 0);
    check_ok(kq_quantize(MODEL, "quantized", &opt, &json, &err));
    check_ok(kq_quantize_result_read(json, &r, &err));
    assert_false(r->complete);
    check_near(r->bits, 3, 0);
    assert_int_equal(r->n_modules, 2);
    assert_int_equal(r->n_weights, 4096);
    assert_true(isnan(r->predicted_loss) && r->relative_mse > 0 && r->seconds > 0 && r->bpw > 3);
    assert_string_equal(r->module[1]->name, "model.layers.1.self_attn.v_proj");
    assert_int_equal(r->module[1]->rows, 32);
    assert_int_equal(r->module[1]->columns, 64);
    assert_null(r->module[1]->type);
    kq_quantize_result_free(r);
    free(json);
    kq_model *m = open_model("quantized", 64, 1);
    assert_string_equal(kq_model_get_info(m)->kind, "kronq checkpoint");
    check_near(kq_model_get_info(m)->bits, 3, 0);
    assert_non_null(strstr(kq_model_get_info(m)->quantization_json, "\"mul1\""));
    kq_model_close(m);
    opt.resume = true;
    check_ok(kq_quantize(MODEL, "quantized", &opt, &json, &err));
    check_ok(kq_quantize_result_read(json, &r, &err));
    assert_true(r->complete);
    kq_quantize_result_free(r);
    free(json);
    check_fails(kq_quantize_result_read("{\"bpw\": 2}", &r, &err), KQ_E_FORMAT, "no report");
    assert_int_equal(system("rm -rf quantized"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_model_describes_itself),
        cmocka_unit_test(text_and_ids),
        cmocka_unit_test(logits_do_not_depend_on_pieces),
        cmocka_unit_test(a_cache_changes_no_answer),
        cmocka_unit_test(an_answer_ends),
        cmocka_unit_test(a_conversation_computes_only_what_is_new),
        cmocka_unit_test(a_model_is_its_owners_again_after_a_server),
        cmocka_unit_test(perplexity_is_that_of_eval),
        cmocka_unit_test(a_report_as_a_struct),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
