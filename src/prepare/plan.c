/* Plans memory and disk. A plan is the sum of what the code will allocate, and every figure comes from the
 * room that allocates it. To choose a way of keeping gradients, the ways are tried from the fastest to the
 * smallest. */
#include "prepare/plan.h"

#include "base/mem.h"
#include "base/text.h"
#include "generate/self_text.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

/* Free bytes on the file system of path. Where path does not exist yet, it is that of the nearest folder
 * above it. Infinity: it is not known. */
static kq_status free_bytes(const char *path, double *out, kq_error *err)
{
    struct statvfs v;
    char *folder;
    kq_status status = kq_format(&folder, err, "%s", path);
    if (status)
        return status;
    bool found = !statvfs(folder, &v);
    for (char *slash; !found && (slash = strrchr(folder, '/'));) {
        const bool root = slash == folder;
        slash[root] = 0; /* "/" keeps its slash */
        found = !statvfs(folder, &v);
        if (root)
            break;
    }
    if (!found && !strchr(folder, '/'))
        found = !statvfs(".", &v);
    kq_free(folder);
    /* some file systems have no blocks to count */
    *out = found && v.f_blocks ? (double)v.f_bavail * (double)v.f_frsize : INFINITY;
    return KQ_OK;
}

kq_status kq_check_disk(const char *path, size_t needed, kq_error *err)
{
    double bytes;
    char free_text[32], needed_text[32];
    kq_status status = free_bytes(path, &bytes, err);
    if (status || bytes >= (double)needed)
        return status;
    return kq_fail(err, KQ_E_IO, "%s: %s free, about %s needed for block inputs and the result", path,
                   kq_bytes_text(bytes, free_text), kq_bytes_text((double)needed, needed_text));
}

/* Bytes of the largest tensor: no more of the mapped model file is resident at a time. Where only the
 * configuration is known, it is the embedding in bf16. */
static size_t largest_tensor(const kq_prepared *p)
{
    size_t largest = p->src ? 0 : 2 * p->cfg->vocab_size * p->cfg->d_model;
    for (size_t i = 0; p->src && i < kq_source_n_tensors(p->src); i++)
        largest = kq_source_tensor(p->src, i)->size_bytes > largest ? kq_source_tensor(p->src, i)->size_bytes
                                                                    : largest;
    return largest;
}

/* What is in memory at every time: the largest tensor of the mapped file, the program, and the ids. */
static size_t always(const kq_prepared *p)
{
    return largest_tensor(p) + KQ_PROGRAM_BYTES +
           2 * p->n_seq * p->opt->calibration.seq_len * sizeof(int32_t);
}

size_t kq_plan_writing_room(const kq_prepared *p)
{
    const size_t limit = p->opt->memory;
    return !limit ? 0 : limit > always(p) ? limit - always(p) : 1;
}

static size_t writing_bytes(const kq_prepared *p)
{
    return kq_self_text_bytes(p->cfg, p->n_seq, p->opt->calibration.seq_len, kq_plan_writing_room(p));
}

void kq_plan_sweep(const kq_prepared *p, const kq_sweep *s, size_t *memory_bytes, size_t *disk_bytes)
{
    size_t source = largest_tensor(p);
    kq_sweep_plan(p->cfg, s, memory_bytes, disk_bytes);
    if (p->n_seq && !p->opt->calibration.n_text) {
        /* the whole model is in memory while it writes its text, and is freed afterwards */
        const size_t writing = writing_bytes(p);
        *memory_bytes = writing > *memory_bytes ? writing : *memory_bytes;
    }
    struct stat st;
    if (p->opt->factors && !stat(p->opt->factors, &st)) /* a factor file is mapped as a whole */
        source += (size_t)st.st_size;
    *memory_bytes += source + KQ_PROGRAM_BYTES + 2 * s->n_seq * s->T * sizeof(int32_t);
}

const char *kq_gradient_way_name(kq_gradient_way way)
{
    static const char *const names[] = {
        [KQ_WAY_MEMORY] = "memory", [KQ_WAY_DISK] = "disk", [KQ_WAY_STREAM] = "stream"};
    return names[way];
}

const char *kq_plan_words(const kq_prepared *p, const kq_sweep *s, char buf[160])
{
    /* by kq_gradient_way */
    static const char *const where[] = {"in memory", "on disk", "kept nowhere, made again for every product"};
    bool any = false;
    for (size_t i = 0; i < s->n_estimates; i++)
        any = any || kq_method_needs(s->estimates[i].factor->method) == KQ_NEEDS_GRADIENTS;
    buf[0] = 0;
    if (any && !p->opt->factors)
        snprintf(buf, 160, "; a block's gradients %s, %d sequence%s at once", where[s->way],
                 s->workers ? s->workers : s->threads,
                 (s->workers ? s->workers : s->threads) == 1 ? "" : "s");
    return buf;
}

/* One way of running the sweep, which may fit into the memory or not. */
typedef struct setup {
    kq_gradient_way way;
    int workers;
    size_t chunk_bytes, stream_bytes;
} setup;

/* Set the sweep up as u says. Returns its peak of memory in bytes; *disk: bytes of disk. */
static size_t set_up(const kq_prepared *p, kq_sweep *s, const setup *u, size_t *disk)
{
    size_t memory;
    s->way = u->way;
    s->workers = u->workers;
    s->chunk_bytes = u->chunk_bytes;
    s->stream_bytes = u->stream_bytes;
    kq_plan_sweep(p, s, &memory, disk);
    return memory;
}

/* List what is tried, the fastest first: memory; disk; disk with fewer sequences at once; stream with all
 * estimates at once and full chunks; stream with smaller chunks; stream with fewer estimates at once. */
static size_t list_setups(const kq_sweep *s, bool by_hand, kq_gradient_way hand, size_t limit, setup list[64])
{
    size_t n = 0;
    const int all = s->threads > 0 ? s->threads : 1;
    for (int workers = all; workers >= 1; workers = workers > 1 ? (workers + 1) / 2 : 0) {
        if (workers == all && (!by_hand || hand == KQ_WAY_MEMORY))
            list[n++] = (setup){KQ_WAY_MEMORY, workers, 0, 0};
        if (!by_hand || hand == KQ_WAY_DISK)
            list[n++] = (setup){KQ_WAY_DISK, workers, 0, 0};
        if (by_hand && hand == KQ_WAY_MEMORY && workers != all)
            list[n++] = (setup){KQ_WAY_MEMORY, workers, 0, 0};
    }
    for (int workers = all; workers >= 1 && (!by_hand || hand == KQ_WAY_STREAM);
         workers = workers > 1 ? (workers + 1) / 2 : 0) {
        static const size_t chunks[] = {0, (size_t)24 << 20, (size_t)6 << 20};
        for (size_t c = 0; c < 3; c++)
            list[n++] = (setup){KQ_WAY_STREAM, workers, chunks[c], 0};
        for (size_t part = 2; part <= 4; part++)
            list[n++] = (setup){KQ_WAY_STREAM, workers, chunks[2], limit / part};
        list[n++] = (setup){KQ_WAY_STREAM, workers, chunks[2], 1};
        if (n > 64 - 9)
            break;
    }
    return n;
}

/* --memory is too little for every setup that was tried. */
static kq_status refuse_memory(const kq_prepared *p, kq_gradient_way best, size_t least, kq_error *err)
{
    const size_t limit = p->opt->memory;
    const kq_needs needs = p->opt->factors ? KQ_NEEDS_NOTHING : kq_method_needs(p->factor.method);
    const bool gradients = needs == KQ_NEEDS_GRADIENTS,
               writes = needs != KQ_NEEDS_NOTHING && !p->opt->calibration.n_text;
    const size_t writing = writes ? writing_bytes(p) : 0;
    return kq_fail(err, KQ_E_MEMORY, "--memory %zuM is too little: this takes at least %zuM%s%s%s",
                   limit >> 20, (least >> 20) + 1, gradients ? " (--gradients " : "",
                   gradients ? kq_gradient_way_name(best) : "",
                   writing > limit ? "); give --text: the model that writes its own is whole in memory"
                   : gradients     ? "); a shorter --seq-len takes less"
                                   : "");
}

kq_status kq_plan_settle(const kq_prepared *p, kq_sweep *s, const char *dir, size_t more_disk,
                         size_t *memory_bytes, size_t *disk_bytes, kq_error *err)
{
    const char *name = p->opt->gradients;
    const size_t limit = p->opt->memory;
    double room = INFINITY;
    const bool has_choice = kq_method_needs(p->factor.method) != KQ_NEEDS_NOTHING && !p->opt->factors;
    setup list[64], best = {0};
    kq_gradient_way asked = KQ_WAY_MEMORY;
    size_t least = SIZE_MAX, disk = 0;
    while (name && asked <= KQ_WAY_STREAM && strcmp(name, kq_gradient_way_name(asked)))
        asked++;
    if (asked > KQ_WAY_STREAM)
        return kq_fail(err, KQ_E_ARG, "--gradients %s is unknown; use memory, disk or stream", name);
    kq_status status = dir ? free_bytes(dir, &room, err) : KQ_OK;
    if (status)
        return status;
    kq_mem_give_back();
    const size_t n = has_choice ? list_setups(s, name != NULL, asked, limit, list) : 1;
    if (!has_choice)
        list[0] = (setup){asked, s->threads > 0 ? s->threads : 1, 0, 0};
    bool found = false;
    for (size_t i = 0; i < n && !found; i++) {
        const size_t memory = set_up(p, s, &list[i], &disk);
        const bool fits_memory = !limit || memory <= limit,
                   fits_disk = name || list[i].way != KQ_WAY_DISK || (double)(disk + more_disk) <= room;
        found = fits_memory && fits_disk;
        if (found || memory < least)
            best = list[i];
        least = memory < least ? memory : least;
    }
    *memory_bytes = set_up(p, s, &best, disk_bytes);
    *disk_bytes += more_disk;
    /* kq_check_disk reports a disk that is too small */
    return found || !limit || *memory_bytes <= limit ? KQ_OK : refuse_memory(p, best.way, least, err);
}

void kq_plan_kept_factors(const kq_prepared *p, size_t *block_bytes, size_t *all_bytes)
{
    *block_bytes = *all_bytes = 0;
    for (size_t l = 0; l < p->cfg->n_layer; l++) {
        size_t block = 0;
        for (int id = 0; id < KQ_N_LINEAR; id++) {
            size_t m, n;
            kq_linear_shape(p->cfg, (kq_linear_id)id, &m, &n);
            block += p->selected[l] >> id & 1 ? 2 * (m * (m + 1) + n * (n + 1)) : 0;
        }
        *block_bytes = block > *block_bytes ? block : *block_bytes;
        *all_bytes += block;
    }
}
