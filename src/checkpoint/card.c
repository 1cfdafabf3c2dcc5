/* Writes model cards. The text is made in memory and goes to the disk in one piece, so that an interrupted
 * run leaves the old card. The section of `kronq eval` stands between two marker lines; everything outside
 * them belongs to the user and is kept. */
#include "checkpoint/card.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "checkpoint/gguf_model_write.h"
#include "format/json.h"

enum { MAX_CARD = 16 << 20 }; /* bytes: a larger README.md is not read */

static const char begin_mark[] = "<!-- kronq eval -->", end_mark[] = "<!-- kronq eval end -->";
static const char table_head[] = "| Measured with `kronq eval` | |\n| --- | --- |\n";

/* A text in memory that stdio writes to. ferror(f): out of memory. */
typedef struct text {
    char *data;
    size_t size;
    FILE *f;
} text;

static bool text_open(text *t)
{
    *t = (text){0};
    t->f = open_memstream(&t->data, &t->size);
    return t->f != NULL;
}

/* Close the text and write it to dir/README.md. */
static kq_status text_write(text *t, const char *dir, kq_error *err)
{
    char *path = NULL;
    kq_status status = kq_path_in(&path, err, dir, "README.md");
    const bool failed = ferror(t->f) | fclose(t->f);
    if (!status)
        status = failed ? kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path)
                        : kq_file_write(path, t->data, t->size, err);
    free(t->data);
    kq_free(path);
    return status;
}

/* Write a YAML string in quotes, so that it cannot be read as a number or anything else. */
static void yaml_string(FILE *f, const char *key, const char *value)
{
    fprintf(f, "%s: \"", key);
    for (; *value; value++)
        if (*value == '"' || *value == '\\')
            fprintf(f, "\\%c", *value);
        else if ((unsigned char)*value >= ' ')
            fputc(*value, f);
    fputs("\"\n", f);
}

static const char *string(const json_t *o, const char *key, const char *otherwise)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : otherwise;
}

static double real(const json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

/* base: the model of which these weights are a quantized version; "": unknown. qc: the quantization_config;
 * NULL: the weights are not quantized. */
static void front_matter(FILE *f, const kq_about *about, const char *base, const json_t *qc)
{
    fputs("---\n", f);
    if (kq_is_repository(base))
        fprintf(f, "base_model: %s\nbase_model_relation: quantized\n", base);
    else
        fputs("# base_model: owner/name (the hub's name of the original; fill it in before uploading)\n", f);
    yaml_string(f, "model_name", about->name);
    if (*about->license)
        yaml_string(f, "license", about->license);
    fputs("library_name: transformers\npipeline_tag: text-generation\n", f);
    fprintf(f, "quantized_by: kronq %s\ntags:\n- kronq\n- quantized\n", kq_version());
    if (real(qc, "bits_average") > 0)
        fputs("- mixed-precision\n", f);
    else if (qc)
        fprintf(f, "- %d-bit\n", (int)json_integer_value(json_object_get(qc, "bits")));
    fputs("---\n\n", f);
}

/* "2", or "2.498 (mixed)" where modules differ. */
static const char *bits_words(const json_t *qc, char buf[48])
{
    const double average = real(qc, "bits_average");
    if (average > 0)
        snprintf(buf, 48, "%.4g (mixed)", average);
    else
        snprintf(buf, 48, "%lld", (long long)json_integer_value(json_object_get(qc, "bits")));
    return buf;
}

static void method_rows(FILE *f, const json_t *qc)
{
    const json_t *cal = json_object_get(qc, "calibration"), *names = json_object_get(cal, "text"), *name;
    size_t i;
    fprintf(f, "| Curvature factors | `%s` |\n", string(qc, "method", "none"));
    if (!cal)
        return;
    fprintf(f, "| Calibration | %.0f tokens in sequences of %.0f, ", real(cal, "tokens"),
            real(cal, "seq_len"));
    if (json_is_array(names)) {
        fputs("of ", f);
        json_array_foreach(names, i, name)
            fprintf(f, "%s`%s`", i ? ", " : "", json_string_value(name) ? json_string_value(name) : "?");
    } else {
        fputs("sampled from the original model itself (no data set)", f);
    }
    fputs(" |\n", f);
}

/* What `kronq tune` has trained after the rounding; nothing where it has not. */
static void tuned_row(FILE *f, const json_t *tuned)
{
    if (!tuned)
        return;
    fprintf(f,
            "| Tuned after rounding | scales of rows and columns and norms, %.0f steps on %.0f tokens; KL "
            "divergence on held-out text %.4f before, %.4f after |\n",
            real(tuned, "steps"), real(tuned, "tokens"), real(tuned, "kld_before"), real(tuned, "kld_after"));
}

static void figure_rows(FILE *f, const kq_card_facts *facts)
{
    if (isfinite(facts->relative_mse))
        fprintf(f, "| Relative error of the weights | %.4f |\n", facts->relative_mse);
    if (isfinite(facts->predicted_loss))
        fprintf(f, "| Predicted rise of the loss | %.4f nats a token (second order) |\n",
                facts->predicted_loss);
}

kq_status kq_card_quantized(const kq_source *src, const json_t *qc, const kq_card_facts *facts,
                            const char *dir, kq_error *err)
{
    char bits[48];
    const size_t left = json_array_size(json_object_get(qc, "modules_to_not_convert"));
    kq_about about;
    text t;
    kq_source_about(src, &about);
    if (!text_open(&t))
        return kq_fail(err, KQ_E_MEMORY, "%s/README.md: out of memory", dir);
    FILE *f = t.f;
    bits_words(qc, bits);
    front_matter(f, &about, about.repository, qc);
    fprintf(f, "# %s, %s bits a weight, by kronq\n\n", about.name, bits);
    fprintf(f,
            "%s quantized to %s bits a weight with kronq %s: trellis-coded weights, rounded with the "
            "curvature of the loss on "
            "both sides of every weight matrix.\n\n",
            about.name, bits, kq_version());
    fprintf(f, "| | |\n| --- | --- |\n| Base model | %s |\n",
            *about.repository ? about.repository : about.name);
    fprintf(f, "| Size | %.1f MB; %.3f bits a quantized weight, %.3f bits a parameter of the whole file |\n",
            (double)facts->file_bytes / 1e6, real(qc, "bpw"), real(qc, "bpw_file"));
    fprintf(f, "| Parameters | %.1f million; %zu linears quantized", (double)facts->n_parameters / 1e6,
            json_object_size(json_object_get(qc, "module_bits")));
    if (left > 1) /* lm_head is always in the list */
        fprintf(f, ", %zu kept in 16 bits", left - 1);
    fprintf(f, "; embedding in %.0f bits |\n", real(qc, "embed_bits"));
    fprintf(f, "| Code | `%s`, trellis of %.0f state bits, tiles of 16x16 |\n", string(qc, "code", "?"),
            real(qc, "L"));
    method_rows(f, qc);
    fprintf(f, "| Seed | %.0f |\n", real(qc, "seed"));
    tuned_row(f, json_object_get(qc, "tuned"));
    figure_rows(f, facts);
    if (real(qc, "forecast_kld") > 0)
        fprintf(f, "| Forecast of the KL divergence | %.4f nats a token, made before rounding |\n",
                real(qc, "forecast_kld"));
    fprintf(f, "\nMade with\n\n    %s\n\n## Quality\n\n", facts->command);
    fprintf(f,
            "%s\nNothing measured yet: `kronq eval THIS_FOLDER --ppl text.txt --card` writes its figures "
            "here.\n%s\n\n",
            begin_mark, end_mark);
    fputs(
        "## Use\n\nWith kronq:\n\n    kronq run THIS_FOLDER -p \"Why is the sky blue?\" --chat\n\n"
        "With transformers, through kronq's plug-in (`pip install ./python` in kronq's source):\n\n"
        "```python\nimport kronq  # makes transformers know the format\nfrom transformers import "
        "AutoModelForCausalLM, AutoTokenizer\n\n"
        "model = AutoModelForCausalLM.from_pretrained(\"THIS_FOLDER\", dtype=\"auto\", device_map=\"auto\")\n"
        "tokenizer = AutoTokenizer.from_pretrained(\"THIS_FOLDER\")\n"
        "inputs = tokenizer(\"The capital of France is\", return_tensors=\"pt\").to(model.device)\n"
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=20)[0], "
        "skip_special_tokens=True))\n```\n\n"
        "Anywhere else, as ordinary weights (the same quality, but 16 or 8 bits a weight in size):\n\n"
        "    kronq export THIS_FOLDER --to bf16 -o FOLDER                 # any Hugging Face program, no "
        "kronq needed\n"
        "    kronq export THIS_FOLDER --to gguf --type Q8_0 -o MODEL.gguf # llama.cpp, ollama, LM Studio\n",
        f);
    return text_write(&t, dir, err);
}

/* The head's bits, and how its rows and the embedding's are kept. */
static const char *head_words(const json_t *qc, char buf[48])
{
    const long long bits = (long long)json_integer_value(json_object_get(qc, "head_bits"));
    snprintf(buf, 48, bits < 16 ? "head in %lld bits" : "head in 16 bits", bits);
    return buf;
}

kq_status kq_card_exl3(const kq_source *src, const json_t *qc, const kq_card_facts *facts, const char *dir,
                       kq_error *err)
{
    char bits[48], head[48];
    const json_t *own = json_object_get(qc, "kronq"), *given = json_object_get(qc, "bits");
    kq_about about;
    text t;
    kq_source_about(src, &about);
    json_t *numbers = json_pack("{s:O}", json_is_integer(given) ? "bits" : "bits_average", given);
    if (!text_open(&t) || !numbers) {
        json_decref(numbers);
        return kq_fail(err, KQ_E_MEMORY, "%s/README.md: out of memory", dir);
    }
    FILE *f = t.f;
    bits_words(numbers, bits);
    front_matter(f, &about, about.repository, numbers);
    json_decref(numbers);
    fprintf(f, "# %s, EXL3 at %s bits a weight, by kronq\n\n", about.name, bits);
    fprintf(f,
            "%s in EXL3, the format of exllamav3, at %s bits a weight: rounded by kronq %s straight onto its "
            "grid, with the curvature of the loss on both sides of every weight matrix.\n\n",
            about.name, bits, kq_version());
    fprintf(f, "| | |\n| --- | --- |\n| Base model | %s |\n",
            *about.repository ? about.repository : about.name);
    fprintf(f, "| Size | %.1f MB; %.3f bits a parameter of the whole file |\n",
            (double)facts->file_bytes / 1e6, 8.0 * (double)facts->file_bytes / (double)facts->n_parameters);
    fprintf(f, "| Parameters | %.1f million; %s, embedding in 16 bits |\n", (double)facts->n_parameters / 1e6,
            head_words(qc, head));
    fprintf(f, "| Code | `%s` |\n", string(qc, "codebook", "?"));
    method_rows(f, json_object_get(own, "factors"));
    fprintf(f, "| Seed | %.0f |\n", real(own, "seed"));
    figure_rows(f, facts);
    fprintf(f, "\nMade with\n\n    %s\n\n## Quality\n\n", facts->command);
    fprintf(f,
            "%s\nNothing measured yet: `kronq eval THIS_FOLDER --ppl text.txt --card` writes its figures "
            "here.\n%s\n\n",
            begin_mark, end_mark);
    fputs("## Use\n\nWith exllamav3 on an NVIDIA GPU (TabbyAPI serves it):\n\n"
          "```python\nfrom exllamav3 import Cache, Config, Generator, Model, Tokenizer\n\n"
          "config = Config.from_directory(\"THIS_FOLDER\")\nmodel = Model.from_config(config)\n"
          "cache = Cache(model, max_num_tokens=4096)\nmodel.load()\n"
          "generator = Generator(model, cache, Tokenizer.from_config(config))\n"
          "print(generator.generate(\"The capital of France is\", max_new_tokens=20))\n```\n\n"
          "With kronq, without a GPU:\n\n    kronq run THIS_FOLDER -p \"Why is the sky blue?\" --chat\n",
          f);
    return text_write(&t, dir, err);
}

kq_status kq_card_exported(const kq_source *src, const char *dir, size_t file_bytes, kq_error *err)
{
    json_t *config = kq_source_is_kronq(src) ? kq_json_again(kq_source_config_json(src)) : NULL;
    const json_t *qc = json_object_get(config, "quantization_config");
    char bits[48];
    kq_about about;
    text t;
    kq_source_about(src, &about);
    bits_words(qc, bits);
    if (!text_open(&t)) {
        json_decref(config);
        return kq_fail(err, KQ_E_MEMORY, "%s/README.md: out of memory", dir);
    }
    FILE *f = t.f;
    const char *base = qc ? about.base_model : about.repository;
    front_matter(f, &about, base, qc);
    if (qc)
        fprintf(f,
                "# %s, quantized to %s bits a weight, stored in bf16\n\nThe weights of a kronq checkpoint of "
                "%s bits a weight, dequantized: "
                "an ordinary model with the quality of the quantized one, for programs that do not know its "
                "format and for research (\"fake quantization\"). It is no "
                "smaller than the original.\n\n",
                about.name, bits, bits);
    else
        fprintf(f, "# %s in bf16\n\nWritten by kronq %s from a model that is not quantized by it.\n\n",
                about.name, kq_version());
    fprintf(f, "| | |\n| --- | --- |\n| Base model | %s |\n| Size | %.1f MB |\n", *base ? base : about.name,
            (double)file_bytes / 1e6);
    if (qc) {
        fprintf(f, "| Quantized to | %s bits a weight, code `%s` |\n", bits, string(qc, "code", "?"));
        method_rows(f, qc);
        fprintf(f, "| Seed | %.0f |\n", real(qc, "seed"));
    }
    fprintf(f,
            "\n## Quality\n\n%s\nNothing measured yet: `kronq eval THIS_FOLDER --ppl text.txt --card` writes "
            "its figures here.\n%s\n\n",
            begin_mark, end_mark);
    fputs("## Use\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
          "model = AutoModelForCausalLM.from_pretrained(\"THIS_FOLDER\", dtype=\"auto\")\n"
          "tokenizer = AutoTokenizer.from_pretrained(\"THIS_FOLDER\")\n```\n\n"
          "or `kronq run THIS_FOLDER -p \"Why is the sky blue?\" --chat`.\n",
          f);
    json_decref(config);
    return text_write(&t, dir, err);
}

/* ---- figures ---- */

static void cell(FILE *f, const char *s)
{
    for (; *s; s++)
        fputc(*s == '|' || *s == '\n' || *s == '\r' ? ' ' : *s, f);
}

/* Write the new section: every row of the old section (NULL: there is none) but that of `what`, and then the
 * new row. */
static void section(FILE *f, const char *old, const char *old_end, const char *what, const char *value)
{
    text row;
    fprintf(f, "%s\n%s", begin_mark, table_head);
    if (!text_open(&row))
        return;
    fputs("| ", row.f);
    cell(row.f, what);
    fputs(" |", row.f);
    fclose(row.f);
    const size_t heads = 2; /* the first two rows are the table's head */
    size_t n = 0;
    for (const char *line = old; line && line < old_end;) {
        const char *next = memchr(line, '\n', (size_t)(old_end - line));
        next = next ? next + 1 : old_end;
        if (*line == '|' && n++ >= heads &&
            ((size_t)(next - line) < row.size || strncmp(line, row.data, row.size)))
            fwrite(line, 1, (size_t)(next - line), f);
        line = next;
    }
    fprintf(f, "%s ", row.data);
    cell(f, value);
    fprintf(f, " |\n%s", end_mark);
    free(row.data);
}

kq_status kq_card_add_figure(const char *dir, const char *what, const char *value, kq_error *err)
{
    char *path = NULL, *old = NULL;
    size_t size = 0;
    text t;
    kq_status status = kq_path_in(&path, err, dir, "README.md");
    if (!status && kq_path_exists(path))
        status = kq_file_read(path, MAX_CARD, &old, &size, err);
    if (!status && !text_open(&t))
        status = kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    kq_free(path);
    if (status) {
        kq_free(old);
        return status;
    }
    const char *begin = old ? strstr(old, begin_mark) : NULL, *end = begin ? strstr(begin, end_mark) : NULL;
    if (end) {
        fwrite(old, 1, (size_t)(begin - old), t.f);
        section(t.f, begin + strlen(begin_mark), end, what, value);
        const char *rest = end + strlen(end_mark);
        fwrite(rest, 1, size - (size_t)(rest - old), t.f);
    } else {
        if (old)
            fwrite(old, 1, size, t.f);
        fputs(size && old[size - 1] != '\n' ? "\n\n" : size ? "\n" : "", t.f);
        section(t.f, NULL, NULL, what, value);
        fputc('\n', t.f);
    }
    kq_free(old);
    return text_write(&t, dir, err);
}
