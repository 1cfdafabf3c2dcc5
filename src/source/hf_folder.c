/* Which of a folder's files and tensors count, decided as transformers decides it: a folder that transformers
 * loads means the same model here, whatever else lies in it. */
#include "source/hf_folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "base/warn.h"
#include "format/dequant.h"
#include "source/generation_config.h"
#include "format/json.h"
#include "source/tensors.h"

enum {
    MAX_CONFIG = 16 << 20,
    MAX_INDEX = 512 << 20,
    MAX_SHARD = 4096,
    NAME_CAP = sizeof *((kq_hf_folder *)0)->name
};

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end);
}

/* ---- the files ---- */

/* Only a plain name may come from an index or config.json: no folder, no way up. (A symbolic link is
 * fine: download caches are made of them, and what it leads to must be a well-formed safetensors file
 * like any other.) */
static bool plain_name(const char *name)
{
    return *name && strlen(name) < 256 && !strpbrk(name, "/\\") && strcmp(name, ".") && strcmp(name, "..");
}

static kq_status open_file(kq_hf_folder *f, const char *dir, const char *name, kq_error *err)
{
    char *path;
    kq_status status = kq_path_in(&path, err, dir, "%s", name);
    if (!status && !(status = kq_st_open(path, &f->file[f->n_file], err)))
        f->n_file++;
    kq_free(path);
    return status;
}

static int compare_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Every file of the weight map once, in the order of their names. */
static kq_status open_shards(kq_hf_folder *f, const char *dir, json_t *map, const char *path, kq_error *err)
{
    const char *tensor, **names;
    json_t *value;
    size_t n = 0;
    kq_status status = kq_alloc_for((void **)&names, json_object_size(map), sizeof *names, "the index", err);
    if (status)
        return status;
    json_object_foreach(map, tensor, value) {
        const char *name = json_string_value(value);
        if (!name || !plain_name(name)) {
            status = kq_fail(err, KQ_E_FORMAT,
                             "%s: weight_map sends %.200s to \"%.200s\", expected a file of the same folder",
                             path, tensor, name ? name : "(no string)");
            goto out;
        }
        if (!n || strcmp(name, names[n - 1]))
            names[n++] = name;
    }
    qsort(names, n, sizeof *names, compare_text);
    for (size_t i = 0; i < n && !status; i++) {
        if (i && !strcmp(names[i], names[i - 1]))
            continue;
        if (f->n_file == MAX_SHARD)
            status = kq_fail(err, KQ_E_UNSUPPORTED, "%s: names more than %d files", path, MAX_SHARD);
        else if (!kq_exists_in(dir, names[i]))
            status =
                kq_fail(err, KQ_E_IO,
                        "%s: names %s, which is not there (is the download complete, is the index stale?)",
                        path, names[i]);
        else
            status = open_file(f, dir, names[i], err);
    }
out:
    kq_free(names);
    return status;
}

/* *map: the index's weight_map, for messages; the caller decrefs *root. */
static kq_status open_index(kq_hf_folder *f, const char *dir, const char *name, json_t **root, json_t **map,
                            kq_error *err)
{
    char *path;
    kq_status status = kq_path_in(&path, err, dir, "%s", name);
    if (!status && !(status = kq_json_read(path, MAX_INDEX, root, err))) {
        *map = json_object_get(*root, "weight_map");
        status = json_is_object(*map) && json_object_size(*map)
                     ? open_shards(f, dir, *map, path, err)
                     : kq_fail(err, KQ_E_FORMAT, "%s: weight_map is missing or empty", path);
    }
    kq_free(path);
    return status;
}

/* The first file of the folder, in the order of names, that ends so; found is empty when there is none. */
static void first_ending(const char *dir, const char *end, char found[256])
{
    *found = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));)
        if (ends_with(e->d_name, end) && strlen(e->d_name) < 256 && (!*found || strcmp(e->d_name, found) < 0))
            strcpy(found, e->d_name);
    if (d)
        closedir(d);
}

/* Is dir/model.safetensors a link? It leads nowhere, then: what is there was opened. */
static bool is_broken_link(const char *dir)
{
    char to[2];
    const int fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    const bool link = fd >= 0 && readlinkat(fd, "model.safetensors", to, sizeof to) > 0;
    if (fd >= 0)
        close(fd);
    return link;
}

static kq_status no_weights(const char *dir, kq_error *err)
{
    static const char *const others[] = {"pytorch_model.bin",
                                         "pytorch_model.bin.index.json",
                                         "consolidated.safetensors",
                                         "consolidated.00.pth",
                                         "tf_model.h5",
                                         "flax_model.msgpack"};
    char other[256];
    if (is_broken_link(dir))
        return kq_fail(
            err, KQ_E_IO,
            "%s/model.safetensors: is a link to a file that is not there (is the download complete?)", dir);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (kq_exists_in(dir, others[i]))
            return kq_fail(
                err, KQ_E_UNSUPPORTED,
                "%s: holds %s, but no model.safetensors, which kronq reads; transformers writes one: "
                "AutoModelForCausalLM.from_pretrained(FOLDER, dtype=\"auto\").save_pretrained(NEW_FOLDER)",
                dir, others[i]);
    first_ending(dir, ".safetensors", other);
    if (*other)
        return kq_fail(err, KQ_E_IO,
                       "%s: holds %s, but neither model.safetensors nor model.safetensors.index.json, which "
                       "would name it "
                       "(is the download complete?)",
                       dir, other);
    return kq_fail(err, KQ_E_IO,
                   "%s: holds neither model.safetensors nor model.safetensors.index.json (kronq reads no "
                   "other weight files)",
                   dir);
}

/* An index beside the single file is not used. Worth saying, unless it names that very file everywhere. */
static kq_status warn_of_index(const char *dir, const char *index, const char *single, kq_error *err)
{
    char *path;
    const char *tensor;
    json_t *root = NULL, *value;
    if (!kq_exists_in(dir, index))
        return KQ_OK;
    kq_status status = kq_path_in(&path, err, dir, "%s", index);
    if (status)
        return status;
    bool names_single = !kq_json_read(path, MAX_INDEX, &root, NULL);
    json_object_foreach(json_object_get(root, "weight_map"), tensor, value)
        names_single = names_single && json_is_string(value) && !strcmp(json_string_value(value), single);
    if (!names_single)
        kq_warn("%s: %s is not used, because %s lies beside it", dir, index, single);
    json_decref(root);
    kq_free(path);
    return KQ_OK;
}

static kq_status open_files(kq_hf_folder *f, const char *dir, json_t **root, json_t **map, kq_error *err)
{
    static const char single[] = "model.safetensors", index[] = "model.safetensors.index.json";
    const char *named = f->storage.weights_file;
    kq_status status = kq_alloc_for((void **)&f->file, MAX_SHARD, sizeof *f->file, "the file table", err);
    if (status)
        return status;
    if (*named && (!plain_name(named) ||
                   !(ends_with(named, ".safetensors") || ends_with(named, ".safetensors.index.json"))))
        return kq_fail(err, KQ_E_FORMAT,
                       "%s/config.json: transformers_weights is \"%s\", expected a file NAME.safetensors or "
                       "NAME.safetensors.index.json "
                       "of the same folder",
                       dir, named);
    if (*named)
        return ends_with(named, ".json") ? open_index(f, dir, named, root, map, err)
                                         : open_file(f, dir, named, err);
    if (kq_exists_in(dir, single)) {
        status = warn_of_index(dir, index, single, err);
        return status ? status : open_file(f, dir, single, err);
    }
    return kq_exists_in(dir, index) ? open_index(f, dir, index, root, map, err) : no_weights(dir, err);
}

/* ---- the tensors of all files ---- */

typedef struct stored {
    const kq_tensor *t;
    size_t file;
} stored;

static int compare_stored(const void *a, const void *b)
{
    const stored *s = a, *t = b;
    int order = strcmp(s->t->name, t->t->name);
    return order ? order : s->file < t->file ? -1 : s->file > t->file;
}

/* Every name once, from the last file that holds it. *all is sorted by name; kq_free it. */
static kq_status merge(const kq_hf_folder *f, const json_t *map, stored **all, size_t *n, kq_error *err)
{
    size_t total = 0, kept = 0, n_other = 0;
    const kq_tensor *other = NULL; /* the first that comes from another file than the index says */
    for (size_t i = 0; i < f->n_file; i++)
        total += kq_st_n_tensors(f->file[i]);
    kq_status status = kq_alloc_for((void **)all, total, sizeof **all, "the tensor table", err);
    if (status)
        return status;
    for (size_t i = 0, at = 0; i < f->n_file; i++)
        for (size_t j = 0; j < kq_st_n_tensors(f->file[i]); j++)
            (*all)[at++] = (stored){kq_st_tensor(f->file[i], j), i};
    qsort(*all, total, sizeof **all, compare_stored);
    for (size_t i = 0; i < total; i++) {
        const kq_tensor *t = (*all)[i].t;
        if (i + 1 < total && !strcmp(t->name, (*all)[i + 1].t->name))
            continue;
        const char *named = json_string_value(json_object_get(map, t->name));
        if (i && !strcmp(t->name, (*all)[i - 1].t->name) && named && strcmp(named, kq_path_name(t->file)) &&
            !n_other++)
            other = t;
        (*all)[kept++] = (*all)[i];
    }
    if (other)
        kq_warn("%s: %.200s is taken from this file, the last in the order of names that holds it, as "
                "transformers does, although the index names %s "
                "(the first of %zu such tensors)",
                other->file, other->name, json_string_value(json_object_get(map, other->name)), n_other);
    *n = kept;
    return KQ_OK;
}

/* ---- what the architecture has a place for ---- */

/* Does the architecture have a tensor of this name? The head may be stored although it is tied. */
static bool is_known(const kq_config *cfg, const char *name)
{
    return kq_model_tensor_find(cfg, name, NULL) || !strcmp(name, "lm_head.weight");
}

/* The name of its place: as it is, without a "model." too many, or with one that was missing (written to
 * room). NULL: there is no place. */
static const char *placed_name(const kq_config *cfg, const char *name, char room[NAME_CAP])
{
    if (!strncmp(name, "model.", 6) && is_known(cfg, name + 6))
        return name + 6;
    if (is_known(cfg, name))
        return name;
    if (strlen(name) + 7 > NAME_CAP)
        return NULL;
    snprintf(room, NAME_CAP, "model.%s", name);
    return is_known(cfg, room) ? room : NULL;
}

/* ---- FP8 ---- */

static const char scale_end[] = "_scale_inv";

static bool is_fp8(kq_dtype t)
{
    return t == KQ_T_F8_E4M3 || t == KQ_T_F8_E5M2;
}

/* "x.weight" of "x.weight_scale_inv", with the prefix in order, into matrix. False: another name. */
static bool scaled_name(const kq_config *cfg, const char *name, char matrix[NAME_CAP])
{
    char stem[NAME_CAP], room[NAME_CAP];
    if (!ends_with(name, scale_end) || strlen(name) >= NAME_CAP)
        return false;
    snprintf(stem, sizeof stem, "%.*s", (int)(strlen(name) - strlen(scale_end)), name);
    const char *placed = placed_name(cfg, stem, room);
    if (placed)
        snprintf(matrix, NAME_CAP, "%s", placed);
    return placed != NULL;
}

static kq_tensor *find(const kq_hf_folder *f, const char *name)
{
    for (size_t i = 0; i < f->n; i++)
        if (!strcmp(f->tensor[i].name, name))
            return &f->tensor[i];
    return NULL;
}

static int compare_name(const void *a, const void *b)
{
    return strcmp(((const kq_tensor *)a)->name, ((const kq_tensor *)b)->name);
}

/* One scale of weight_block_size [block_rows, block_cols] (0: of the whole matrix) goes to its matrix. */
static kq_status attach_scale(const kq_storage *storage, kq_tensor *t, const kq_tensor *scale, kq_error *err)
{
    if (!is_fp8(t->dtype))
        return kq_fail(err, KQ_E_UNSUPPORTED, "%s: %s has an FP8 scale, but its type is %s", t->file, t->name,
                       kq_dtype_name(t->dtype));
    if (scale->dtype != KQ_T_F32 && scale->dtype != KQ_T_BF16 && scale->dtype != KQ_T_F16)
        return kq_fail(err, KQ_E_UNSUPPORTED,
                       "%s: the FP8 scales %.200s have type %s, kronq reads F32, BF16 and F16", scale->file,
                       scale->name,
                       scale->dtype == KQ_T_OTHER ? "F8_E8M0 or another that is not known"
                                                  : kq_dtype_name(scale->dtype));
    if (t->rank != 2)
        return KQ_OK; /* the caller refuses its shape */
    const size_t rows = storage->block_rows ? storage->block_rows : t->shape[0],
                 cols = storage->block_cols ? storage->block_cols : t->shape[1];
    const size_t m = rows ? t->shape[0] / rows + (t->shape[0] % rows != 0) : 0,
                 n = cols ? t->shape[1] / cols + (t->shape[1] % cols != 0) : 0;
    if (scale->n_elem != m * n || (scale->n_elem != 1 && (scale->rank != 2 || scale->shape[0] != m)))
        return kq_fail(err, KQ_E_SHAPE,
                       "%s: the FP8 scales %.200s are %zu numbers, blocks of [%zu, %zu] of a matrix [%zu, "
                       "%zu] need [%zu, %zu] "
                       "(wrong weight_block_size?)",
                       scale->file, scale->name, scale->n_elem, rows, cols, t->shape[0], t->shape[1], m, n);
    t->scale = scale;
    t->block_rows = rows;
    t->block_cols = cols;
    return KQ_OK;
}

/* Every FP8 matrix gets its scale; without a quantization_config FP8 numbers are plain numbers, as in
 * transformers. */
static kq_status attach_scales(kq_hf_folder *f, kq_error *err)
{
    kq_status status = KQ_OK;
    qsort(f->tensor, f->n, sizeof *f->tensor, compare_name);
    for (size_t i = 0; i < f->n_scale && !status; i++) {
        char matrix[NAME_CAP];
        kq_tensor *t = NULL;
        if (scaled_name(&f->cfg, f->scale[i].name, matrix))
            t = bsearch(&(kq_tensor){.name = matrix}, f->tensor, f->n, sizeof *f->tensor, compare_name);
        if (t && !f->storage.fp8)
            status = kq_fail(err, KQ_E_UNSUPPORTED,
                             "%s: %s has FP8 scales, but config.json has no quantization_config that says "
                             "how they are meant",
                             t->file, t->name);
        else if (t)
            status = attach_scale(&f->storage, t, &f->scale[i], err);
    }
    for (size_t i = 0; i < f->n && !status; i++)
        if (f->storage.fp8 && is_fp8(f->tensor[i].dtype) && !f->tensor[i].scale && f->tensor[i].rank == 2)
            status = kq_fail(err, KQ_E_SHAPE, "%s: %s is FP8 (%s), but its scales %s%s are missing",
                             f->tensor[i].file, f->tensor[i].name, kq_dtype_name(f->tensor[i].dtype),
                             f->tensor[i].name, scale_end);
    return status;
}

/* ---- choosing ---- */

/* What has no place: how many, and the first of them. */
typedef struct unused {
    size_t n, n_bias;
    const kq_tensor *first, *first_bias, *scale;
} unused;

static void leave_out(const kq_hf_folder *f, const kq_tensor *t, unused *u)
{
    static const char *const fp8_activations[] = {".activation_scale", ".input_scale"};
    if (strstr(t->name, "rotary_emb.inv_freq"))
        return; /* a table that transformers computes itself */
    for (size_t i = 0; i < 2; i++)
        if (f->storage.fp8 && ends_with(t->name, fp8_activations[i]))
            return; /* of the inputs, which stay in full precision here */
    if (ends_with(t->name, ".weight_scale"))
        u->scale = t;
    const bool bias = ends_with(t->name, "_proj.bias");
    u->first = u->first && !bias ? u->first : bias ? u->first : t;
    u->first_bias = u->first_bias ? u->first_bias : bias ? t : NULL;
    u->n += !bias;
    u->n_bias += bias;
}

static void warn_unused(const unused *u)
{
    if (u->n)
        kq_warn("%s: %zu stored tensor%s not part of the architecture and not used, as in transformers: the "
                "first is %.200s",
                u->first->file, u->n, u->n > 1 ? "s are" : " is", u->first->name);
    if (u->n_bias)
        kq_warn("%s: %zu stored bias%s not used, as in transformers, because config.json sets no "
                "attention_bias or mlp_bias: the first is %.200s",
                u->first_bias->file, u->n_bias, u->n_bias > 1 ? "es are" : " is", u->first_bias->name);
}

/* The linear of the architecture whose EXL3 tensors begin at all[i], which are neighbours in the order of
 * names: it goes to f->tensor, and *i becomes the index of the last of them. *taken is false where all[i] is
 * no such tensor. */
static kq_status take_exl3(kq_hf_folder *f, const stored *all, size_t n, size_t *i, bool *taken,
                           char room[NAME_CAP], kq_error *err)
{
    char name[NAME_CAP];
    kq_model_tensor place;
    kq_exl3_parts parts = {0};
    const char *first = all[*i].t->name;
    const size_t len = kq_exl3_module(first);
    *taken = false;
    if (!len || len + sizeof ".weight" > sizeof name)
        return KQ_OK;
    snprintf(name, sizeof name, "%.*s.weight", (int)len, first);
    const char *placed = placed_name(&f->cfg, name, room);
    if (!placed || !kq_model_tensor_find(&f->cfg, placed, &place) || place.rank != 2)
        return KQ_OK;
    *taken = true;
    for (size_t j = *i; j < n && !strncmp(all[j].t->name, first, len + 1); j++)
        if (kq_exl3_module(all[j].t->name) == len && kq_exl3_take(&parts, all[j].t))
            *i = j;
    if (placed != room)
        snprintf(room, NAME_CAP, "%s", placed);
    return kq_exl3_linear(&f->exl3, &parts, room, place.rows, place.cols, &f->tensor[f->n++], err);
}

/* exllamav3 stores a head of its own even where config.json ties it to the embedding. */
static void untie_exl3_head(kq_hf_folder *f, const stored *all, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(all[i].t->name, "lm_head.trellis"))
            f->cfg.tie_embeddings = false;
}

/* The tensors that have a place, under the name of that place; scales go to f->scale. */
static kq_status choose(kq_hf_folder *f, const stored *all, size_t n, kq_error *err)
{
    size_t n_name = 0;
    char room[NAME_CAP];
    unused u = {0};
    kq_status status;
    if ((status = kq_alloc_for((void **)&f->tensor, n, sizeof *f->tensor, "the tensor table", err)) ||
        (status = kq_alloc_for((void **)&f->scale, n, sizeof *f->scale, "the tensor table", err)) ||
        (status = kq_alloc_for((void **)&f->name, n, sizeof *f->name, "the tensor names", err)))
        return status;
    if (f->storage.exl3) {
        untie_exl3_head(f, all, n);
        if ((status = kq_exl3_set_open(&f->exl3, n, err)))
            return status;
    }
    for (size_t i = 0; i < n; i++) {
        bool taken = false;
        if (f->storage.exl3 && (status = take_exl3(f, all, n, &i, &taken, f->name[n_name], err)))
            return status;
        if (taken) {
            n_name++;
            continue;
        }
        const kq_tensor *t = all[i].t;
        const char *placed = f->storage.kronq ? t->name : placed_name(&f->cfg, t->name, room);
        if (!placed && ends_with(t->name, scale_end)) {
            f->scale[f->n_scale++] = *t;
        } else if (!placed) {
            leave_out(f, t, &u);
        } else {
            if (placed == room)
                placed = memcpy(f->name[n_name++], room, sizeof room);
            f->tensor[f->n] = *t;
            f->tensor[f->n++].name = placed;
        }
    }
    for (size_t i = 0; i < f->n && u.scale; i++)
        if (is_fp8(f->tensor[i].dtype))
            return kq_fail(err, KQ_E_UNSUPPORTED,
                           "%s: %s is FP8 with scales of another form (%.200s); kronq reads weight_scale_inv",
                           f->tensor[i].file, f->tensor[i].name, u.scale->name);
    warn_unused(&u);
    return attach_scales(f, err);
}

/* The index may name a tensor that is stored nowhere. Nobody misses it when the architecture has no
 * place for it, or a head that is tied. */
static kq_status check_index(const kq_hf_folder *f, const json_t *map, const char *dir, kq_error *err)
{
    const char *name;
    json_t *value;
    char room[NAME_CAP];
    json_object_foreach((json_t *)map, name, value) {
        const char *placed = placed_name(&f->cfg, name, room);
        if (placed &&
            !bsearch(&(kq_tensor){.name = placed}, f->tensor, f->n, sizeof *f->tensor, compare_name) &&
            !(f->cfg.tie_embeddings &&
              (!strcmp(placed, "lm_head.weight") || !strcmp(placed, "model.embed_tokens.weight"))))
            return kq_fail(
                err, KQ_E_SHAPE,
                "%s: the index says that %.200s is in %s, but it is in none of the files (stale index?)", dir,
                name, json_string_value(value));
    }
    return KQ_OK;
}

/* ---- the head ---- */

/* Do two tensors of one shape hold the same numbers? A type that is no number: no. */
static bool same_numbers(const kq_tensor *a, const kq_tensor *b)
{
    enum { CHUNK = 4096 };
    float x[CHUNK], y[CHUNK];
    size_t elems_a, elems_b, bytes_a, bytes_b;
    if (a->dtype == b->dtype)
        return a->size_bytes == b->size_bytes && !memcmp(a->data, b->data, a->size_bytes);
    if (!kq_dtype_block(a->dtype, &elems_a, &bytes_a) || !kq_dtype_block(b->dtype, &elems_b, &bytes_b) ||
        elems_a != 1 || elems_b != 1)
        return false;
    for (size_t i = 0; i < a->n_elem; i += CHUNK) {
        size_t n = a->n_elem - i < CHUNK ? a->n_elem - i : CHUNK;
        if (!kq_dequantize(a->dtype, a->data + i * bytes_a, n, x) ||
            !kq_dequantize(b->dtype, b->data + i * bytes_b, n, y) || memcmp(x, y, n * sizeof *x))
            return false;
    }
    return true;
}

/* config.json ties the head to the embedding: what is stored decides. */
static void settle_head(kq_hf_folder *f)
{
    kq_tensor *embed = find(f, "model.embed_tokens.weight"), *head = find(f, "lm_head.weight");
    if (!f->cfg.tie_embeddings || f->storage.kronq || !head)
        return;
    if (!embed) {
        head->name = "model.embed_tokens.weight";
        return;
    }
    bool same = head->n_elem == embed->n_elem && same_numbers(head, embed);
    kq_map_release(head->data, head->size_bytes);
    kq_map_release(embed->data, embed->size_bytes);
    if (same) {
        *head = f->tensor[--f->n];
        return;
    }
    kq_warn("%s: lm_head.weight differs from the embedding, although tie_word_embeddings is true: they are "
            "not tied, as in transformers",
            head->file);
    f->cfg.tie_embeddings = false;
}

/* ---- the folder ---- */

/* Files by their names, as they were opened; in each the order of its bytes. */
static int compare_position(const void *a, const void *b)
{
    const kq_tensor *s = a, *t = b;
    int order = strcmp(s->file, t->file);
    return order ? order : s->data != t->data ? (s->data < t->data ? -1 : 1) : strcmp(s->name, t->name);
}

/* generation_config.json, where it is a JSON object, says what ends an answer; config.json does where
 * there is no such file. */
static kq_status read_generation_config(kq_hf_folder *f, const char *dir, kq_error *err)
{
    kq_generation_config gen;
    kq_status status = kq_generation_config_read(dir, f->cfg.vocab_size, &gen, err);
    if (status || !gen.exists)
        return status;
    if (!gen.n_eos && f->cfg.n_eos)
        kq_warn("%s/generation_config.json names no eos_token_id: those of config.json do not end an answer, "
                "as in transformers (the tokenizer's own does)",
                dir);
    memcpy(f->cfg.eos_id, gen.eos_id, sizeof gen.eos_id);
    f->cfg.n_eos = gen.n_eos;
    return KQ_OK;
}

static kq_status no_config(const char *dir, kq_error *err)
{
    char gguf[256];
    first_ending(dir, ".gguf", gguf);
    if (*gguf)
        return kq_fail(err, KQ_E_IO, "%s: has no config.json, but holds %s: give the file itself, %s/%s", dir,
                       gguf, dir, gguf);
    return kq_fail(
        err, KQ_E_IO,
        "%s: has no config.json (a Hugging Face model folder, or a finished kronq checkpoint, has one)%s",
        dir, kq_exists_in(dir, "snapshots") ? "; in a download cache give the folder inside snapshots/" : "");
}

static kq_status read_config(kq_hf_folder *f, const char *dir, kq_error *err)
{
    char *path;
    size_t size;
    if (kq_exists_in(dir, "adapter_config.json"))
        return kq_fail(err, KQ_E_UNSUPPORTED,
                       "%s: holds an adapter (adapter_config.json), which kronq does not apply; merge it "
                       "into its model first "
                       "(PEFT's merge_and_unload)",
                       dir);
    if (!kq_exists_in(dir, "config.json"))
        return no_config(dir, err);
    kq_status status = kq_path_in(&path, err, dir, "config.json");
    if (!status && !(status = kq_file_read(path, MAX_CONFIG, &f->config_json, &size, err)))
        status = kq_config_from_json(f->config_json, size, path, &f->cfg, &f->storage, err);
    kq_free(path);
    return status ? status : read_generation_config(f, dir, err);
}

kq_status kq_hf_folder_open(const char *dir, kq_hf_folder *f, kq_error *err)
{
    json_t *root = NULL, *map = NULL;
    stored *all = NULL;
    size_t n = 0;
    *f = (kq_hf_folder){0};
    kq_status status = read_config(f, dir, err);
    if (!status && !(status = open_files(f, dir, &root, &map, err)) &&
        !(status = merge(f, map, &all, &n, err)) && !(status = choose(f, all, n, err)) &&
        !(status = f->storage.kronq ? KQ_OK : check_index(f, map, dir, err)))
        settle_head(f);
    if (!status)
        qsort(f->tensor, f->n, sizeof *f->tensor, compare_position);
    json_decref(root);
    kq_free(all);
    if (status)
        kq_hf_folder_close(f);
    return status;
}

void kq_hf_folder_close(kq_hf_folder *f)
{
    for (size_t i = 0; i < f->n_file; i++)
        kq_st_close(f->file[i]);
    kq_free(f->file);
    kq_free(f->config_json);
    kq_free(f->tensor);
    kq_free(f->scale);
    kq_free(f->name);
    kq_exl3_set_close(&f->exl3);
    *f = (kq_hf_folder){0};
}
