/* What files are taken for, and the documents in them. The right documents are what Python's json and
 * codecs make of the same bytes. */
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "base/file.h"
#include "base/mem.h"
#include "text/text.h"

#include "check.h"
#include "temp_folder.h"

#define N(s) (s), sizeof(s) - 1

static void write_file(const char *name, const void *data, size_t size)
{
    kq_error err;
    check_ok(kq_file_write(name, data, size, &err));
}

/* Documents, each followed by '|'. */
typedef struct gathered {
    char text[4096];
    size_t n;
    size_t stop_at;
} gathered;

static kq_status gather(void *ctx, const kq_text_document *doc, bool *enough, kq_error *err)
{
    gathered *g = ctx;
    (void)err;
    const size_t left = sizeof g->text - g->n, n = left < 2 ? 0 : doc->size < left - 2 ? doc->size : left - 2;
    memcpy(g->text + g->n, doc->text, n);
    g->n += n;
    if (left >= 2)
        g->text[g->n++] = '|';
    *enough = g->stop_at && g->n >= g->stop_at;
    return KQ_OK;
}

static const kq_text_how whole = {.reach = SIZE_MAX};

static kq_status read_bytes(const char *name, const void *data, size_t size, const kq_text_how *how,
                            gathered *g, kq_text_info *info, kq_error *err)
{
    write_file(name, data, size);
    *g = (gathered){.stop_at = g->stop_at};
    return kq_text_read(name, how, gather, g, info, err);
}

static void documents(void **state)
{
    (void)state;
    static const struct {
        const char *name, *data;
        size_t size;
        const char *format, *encoding, *documents;
    } cases[] = {
        {"a.txt", N("Go her.\nSo two.\r\n"), "text", "UTF-8", "Go her.\nSo two.\r\n|"},
        {"a.txt", N("\xef\xbb\xbfGo"), "text", "UTF-8", "Go|"},
        {"a.txt", N("\xff\xfeG\0o\0\n\0\xe9\0\x34\xd8\x1e\xdd"), "text", "UTF-16LE",
         "Go\n\xc3\xa9\xf0\x9d\x84\x9e|"},
        {"a.txt", N("\xfe\xff\0G\0o\xd8\x34\xdd\x1e"), "text", "UTF-16BE", "Go\xf0\x9d\x84\x9e|"},
        {"a.txt", N("\xff\xfe\0\0G\0\0\0\x1e\xd1\x01\0"), "text", "UTF-32LE", "G\xf0\x9d\x84\x9e|"},
        {"a.txt", N("\0\0\xfe\xff\0\0\0G\0\x01\xd1\x1e"), "text", "UTF-32BE", "G\xf0\x9d\x84\x9e|"},
        {"a.txt", N("\xfe\xff\0{\0\"\0t\0e\0x\0t\0\"\0:\0\"\0x\0\"\0}"), "JSON", "UTF-16BE", "x|"},
        /* prose and code that begins like JSON */
        {"a.txt", N("{ int x; }\n"), "text", "UTF-8", "{ int x; }\n|"},
        {"a.txt", N("{% raw %}"), "text", "UTF-8", "{% raw %}|"},
        {"a.txt", N("[Music]\n"), "text", "UTF-8", "[Music]\n|"},
        {"a.txt", N("[1] Smith"), "text", "UTF-8", "[1] Smith|"},
        {"a.txt", N("[[link]]"), "text", "UTF-8", "[[link]]|"},
        {"a.txt", N("\"Go,\" she said.\n"), "text", "UTF-8", "\"Go,\" she said.\n|"},
        {"a.txt", N("\"Go\"\nshe said.\n"), "text", "UTF-8", "\"Go\"\nshe said.\n|"},
        {"a.txt", N("ORCs and PACKs, BZh"), "text", "UTF-8", "ORCs and PACKs, BZh|"},
        {"a.txt", N("PAR1 is a magic"), "text", "UTF-8", "PAR1 is a magic|"},
        {"a.txt", N("MZ"), "text", "UTF-8", "MZ|"},
        {"a.txt", N(" \n"), "text", "UTF-8", " \n|"},
        /* JSON lines */
        {"a.jsonl", N("{\"text\": \"a\"}\r\n\r\n  {\"id\": 3, \"text\": \"b\\u00e9\"}\n\n"), "JSON lines",
         "UTF-8", "a|b\xc3\xa9|"},
        {"a.json", N("{\"text\": \"a\"}\n{\"text\": \"\"}"), "JSON lines", "UTF-8", "a||"},
        {"a.jsonl",
         N("{\"text\": \"a\", \"text\": \"b\", \"n\": NaN, \"m\": 123456789012345678901234567890}\n"),
         "JSON lines", "UTF-8", "b|"},
        {"a.jsonl", N("{\"text\": \"\\ud83d\\udca9 \\ud83d.\"}\n"), "JSON lines", "UTF-8",
         "\xf0\x9f\x92\xa9 \xef\xbf\xbd.|"},
        {"a.jsonl", N("\"a\"\n\"b{\"\n"), "JSON lines", "UTF-8", "a|b{|"},
        {"a.jsonl", N("\xef\xbb\xbf\n{\"text\": \"a\"}\n"), "JSON lines", "UTF-8", "a|"},
        {"a.jsonl", N("{\"text\":\"}]\\\"{[\"}\n"), "JSON lines", "UTF-8", "}]\"{[|"},
        {"a.jsonl", N("{\"prompt\": \"a \", \"completion\": \"b\"}\n"), "JSON lines", "UTF-8", "a b|"},
        /* JSON */
        {"a.json", N("[{\"text\": \"a\"}, \"b\"\n, {\"text\": \"c\"}]\n"), "JSON", "UTF-8", "a|b|c|"},
        {"a.json", N("[\n]\n[\"a\"]"), "JSON", "UTF-8", "a|"},
        {"a.json", N("{\n \"text\": \"a\\n}\"\n}\n{\"text\":\n\"b\"}"), "JSON", "UTF-8", "a\n}|b|"},
        {"a.json", N("[\"a\"]\n[\"b\"]\n"), "JSON", "UTF-8", "a|b|"},
        /* conversations: without a tokenizer their text is empty */
        {"a.json",
         N("[{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}]"),
         "JSON", "UTF-8", "|"},
        {"a.json",
         N("[[{\"role\": \"user\", \"content\": \"a\"}], [{\"from\": \"human\", \"value\": \"a\"}]]"), "JSON",
         "UTF-8", "||"},
        {"a.jsonl",
         N("{\"messages\": [{\"role\": \"user\", \"content\": null}], \"tools\": null}\n{\"conversations\": "
           "[{\"from\": \"gpt\", \"value\": \"x\"}]}\n"),
         "JSON lines", "UTF-8", "||"},
        {"a.jsonl",
         N("{\"text\": null, \"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"tools\": "
           "\"[{}]\"}\n"),
         "JSON lines", "UTF-8", "|"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kq_error err;
        kq_text_info info;
        gathered g = {0};
        if (read_bytes(cases[i].name, cases[i].data, cases[i].size, &whole, &g, &info, &err))
            fail_msg("case %zu: %s", i, err.message);
        if (g.n != strlen(cases[i].documents) || memcmp(g.text, cases[i].documents, g.n) ||
            strcmp(info.encoding, cases[i].encoding) || !info.whole)
            fail_msg("case %zu: \"%.*s\" (%s)", i, (int)g.n, g.text, info.encoding);
        if (strcmp(info.format, cases[i].format) &&
            !(info.documents == 1 && strncmp(info.format, "JSON", 4) == 0 &&
              strncmp(cases[i].format, "JSON", 4) == 0))
            fail_msg("case %zu: taken for %s", i, info.format);
    }
}

static void refusals(void **state)
{
    (void)state;
    static const struct {
        const char *name, *data;
        size_t size;
        kq_status status;
        const char *words;
    } cases[] = {
        {"a.txt", N(""), KQ_E_ARG, "a.txt: holds no text"},
        {"a.jsonl", N("\n \n"), KQ_E_FORMAT, "a.jsonl: is named as JSON"},
        {"a.json", N("[]"), KQ_E_ARG, "holds no text"},
        {"a.txt", N("ab\ncd\0"), KQ_E_UNSUPPORTED, "line 2, byte 5: a NUL byte"},
        {"a.txt", N("G\0o\0 \0h\0e\0r\0 \0s\0o\0 \0t\0w\0o\0"), KQ_E_UNSUPPORTED,
         "UTF-16 without a byte order mark, by its look; convert it first (iconv -f UTF-16LE"},
        {"a.txt", N("caf\xe9 noir"), KQ_E_FORMAT, "line 1, byte 3: 0xE9 is no UTF-8, by its look Latin-1"},
        {"a.txt", N("\x82\xb1\x82\xf1"), KQ_E_FORMAT, "byte 0: 0x82 is no UTF-8; convert"},
        {"a.txt", N("ab\xe2\x82"), KQ_E_FORMAT, "line 1, byte 2: the file ends within a character"},
        {"a.txt", N("ab\xed\xa0\x80"), KQ_E_FORMAT, "0xED is no UTF-8"},
        {"a.txt", N("\xff\xfeG\0\x34\xd8G\0"), KQ_E_FORMAT, "byte 4: 0xD834 is no character of UTF-16LE"},
        {"a.txt", N("\xff\xfeG\0o"), KQ_E_FORMAT, "ends within a character"},
        {"a.txt", N("\xff\xfe\0\0G\0\0\0\0\0\x11\0"), KQ_E_FORMAT, "0x110000 is no character of UTF-32LE"},
        {"a.jsonl", N("hello\n"), KQ_E_FORMAT, "line 1 is \"hello\""},
        {"a.jsonl.gz", N("hello\n"), KQ_E_FORMAT, "is named as JSON"},
        {"a.jsonl", N("{\"text\": \"a\"}\n{\"text\": \"b\n{\"text\": \"c\"}\n"), KQ_E_FORMAT,
         "a.jsonl: line 2: not valid JSON"},
        {"a.jsonl", N("{\"text\": \"b\n{\"text\": \"c\"}\n"), KQ_E_FORMAT, "line 1: not valid JSON"},
        {"a.jsonl", N("{\"text\": \"a\"}\n\n{\"text\": \"b\"} x\n"), KQ_E_FORMAT, "line 3: not valid JSON"},
        {"a.jsonl", N("{\"text\": \"a\"}\n{'text': 'b'}\n"), KQ_E_FORMAT, "line 2: not valid JSON"},
        {"a.jsonl", N("{\"text\": \"a\"}\n3\n"), KQ_E_FORMAT, "line 2: found 3, a document (a string"},
        {"a.jsonl", N("{\"text\": \"a\"}\n[\"b\"]\n"), KQ_E_UNSUPPORTED,
         "line 2: found a list that is no conversation, a document (a string"},
        {"a.jsonl", N("{\"id\": 1, \"body\": \"b\"}\n"), KQ_E_FORMAT,
         "line 1 has no \"text\" string, \"messages\" or \"conversations\"; it has id, body;"},
        {"a.jsonl", N("{\"text\": [\"b\"]}\n"), KQ_E_FORMAT,
         "line 1: key \"text\": found a list, a string is expected"},
        {"a.jsonl", N("{\"text\": null}\n"), KQ_E_FORMAT,
         "line 1: key \"text\": found null, a string is expected"},
        {"a.jsonl", N("{}\n"), KQ_E_FORMAT, "line 1 has no"},
        {"a.json", N("[{\"text\": \"a\"},\n {\"text\": \"b\"}\n"), KQ_E_FORMAT,
         "the list that begins in line 1 has no end"},
        {"a.json", N("[{\"text\": \"a\"}\n {\"text\": \"b\"}]\n"), KQ_E_FORMAT,
         "line 2: a comma or ] is expected"},
        {"a.json", N("[{\"text\": \"a\"},\n]\n"), KQ_E_FORMAT, "line 2: not valid JSON"},
        {"a.json", N("{\n\"text\": \"a\",\n\"b\": x}\n"), KQ_E_FORMAT, "a.json: line 3: not valid JSON"},
        {"a.jsonl", N("{\"messages\": []}\n"), KQ_E_FORMAT,
         "line 1: key \"messages\": found an empty list, a list of messages is expected"},
        {"a.jsonl", N("{\"messages\": [{\"role\": \"user\"}, 3]}\n"), KQ_E_FORMAT, "entry 1 of \"messages\""},
        {"a.jsonl", N("{\"conversations\": [{\"from\": \"alien\", \"value\": \"x\"}]}\n"), KQ_E_UNSUPPORTED,
         "is from \"alien\""},
        {"a.jsonl", N("{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"tools\": {}}\n"),
         KQ_E_FORMAT, "key \"tools\": found an object, a list is expected"},
        {"a.jsonl", N("{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"tools\": \"[\"}\n"),
         KQ_E_FORMAT, "line 1"},
        {"a", N("PAR1\x15\x04\x15\x10"), KQ_E_UNSUPPORTED, "a: is a Parquet file, no text"},
        {"a", N("ARROW1\0\0"), KQ_E_UNSUPPORTED, "is an Arrow file"},
        {"a", N("\xff\xff\xff\xff\x10\0\0\0"), KQ_E_UNSUPPORTED, "is an Arrow stream"},
        {"a.txt", N("PK\x03\x04\x14\0"), KQ_E_UNSUPPORTED, "is a zip archive"},
        {"a",
         N("\xfd"
           "7zXZ\0\0\x04"),
         KQ_E_UNSUPPORTED, "is an xz archive"},
        {"a", N("BZh91AY&SY\x01\x02"), KQ_E_UNSUPPORTED, "is a bzip2 archive"},
        {"a", N("%PDF-1.7\n"), KQ_E_UNSUPPORTED, "is a PDF document"},
        {"a", N("{\\rtf1 x}"), KQ_E_UNSUPPORTED, "is an RTF document"},
        {"a", N("GGUF\x03\0\0\0"), KQ_E_UNSUPPORTED, "is a GGUF model"},
        {"a", N("\x18\0\0\0\0\0\0\0{\"a\":"), KQ_E_UNSUPPORTED, "is a safetensors file"},
        {"a", N("\x80\x04\x95\x10"), KQ_E_UNSUPPORTED, "is a Python pickle"},
        {"a", N("\x89PNG\r\n\x1a\n"), KQ_E_UNSUPPORTED, "is a PNG picture"},
        {"a",
         N("\x7f"
           "ELF\x02"),
         KQ_E_UNSUPPORTED, "is a program or library"},
        {"a.jsonl", N("version https://git-lfs.github.com/spec/v1\n"), KQ_E_UNSUPPORTED,
         "is a pointer of Git LFS"},
        {"a.gz", N("\x1f\x8b\x08"), KQ_E_FORMAT, "the gzip archive is cut short"},
        {"a.gz", N("\x1f\x8b\x07\0\0\0\0\0\0\0\0\0"), KQ_E_FORMAT, "the gzip archive is damaged"},
        {"a.zst", N("\x28\xb5\x2f\xfd"), KQ_E_FORMAT, "the zstd archive is cut short"},
        {"a.zst", N("\x28\xb5\x2f\xfd\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0"), KQ_E_FORMAT,
         "the zstd archive is damaged"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kq_error err;
        kq_text_info info;
        gathered g = {0};
        const kq_status status =
            read_bytes(cases[i].name, cases[i].data, cases[i].size, &whole, &g, &info, &err);
        if (status != cases[i].status || !strstr(err.message, cases[i].words))
            fail_msg("case %zu: status %d (want %d), \"%s\" (want \"%s\")", i, status, cases[i].status,
                     status ? err.message : g.text, cases[i].words);
    }
    kq_error err;
    check_fails(kq_text_read(".", &whole, NULL, NULL, NULL, &err), KQ_E_IO, ".: is a folder");
    check_fails(kq_text_read("nothing", &whole, NULL, NULL, NULL, &err), KQ_E_IO, "nothing: No such file");
    const kq_text_how xml = {.reach = SIZE_MAX, .options.format = "xml"},
                      json = {.reach = SIZE_MAX, .options.format = "json"},
                      text = {.reach = SIZE_MAX, .options.format = "text"};
    gathered g = {0};
    kq_text_info info;
    check_fails(read_bytes("a", N("x"), &xml, &g, &info, &err), KQ_E_ARG, "--text-format xml");
    check_fails(read_bytes("a", N("{ int x; }"), &json, &g, &info, &err), KQ_E_FORMAT,
                "line 1: not valid JSON");
    check_ok(read_bytes("a.jsonl", N("{\"text\": \"a"), &text, &g, &info, &err));
    assert_string_equal(g.text, "{\"text\": \"a|");
    const kq_text_how spelled = {.reach = SIZE_MAX, .options.spell_special = true};
    check_fails(read_bytes("a.json", N("{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}"),
                           &spelled, &g, &info, &err),
                KQ_E_ARG, "line 1: is a conversation");
}

static size_t gzipped(const char *in, size_t n, uint8_t *out, size_t cap)
{
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (Bytef *)(uintptr_t)in;
    z.avail_in = (uInt)n;
    z.next_out = out;
    z.avail_out = (uInt)cap;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    deflateEnd(&z);
    return z.total_out;
}

/* Members and frames one after another, padding, skippable frames, a cut at every byte, an archive in an
 * archive. */
static void archives(void **state)
{
    (void)state;
    static const char text[] = "{\"text\": \"Go her so two sound some but two long over number\"}\n";
    uint8_t one[400], two[1200];
    kq_error err;
    kq_text_info info;
    gathered g = {0};
    const size_t n = sizeof text - 1;
    for (int zstd = 0; zstd < 2; zstd++) {
        const size_t m =
            zstd ? ZSTD_compress(one, sizeof one, text, n, 3) : gzipped(text, n, one, sizeof one);
        check_ok(read_bytes("a.bin", one, m, &whole, &g, &info, &err));
        assert_string_equal(info.packing, zstd ? "zstd" : "gzip");
        assert_int_equal(info.documents, 1);
        assert_int_equal(info.bytes, n);
        for (size_t cut = 4; cut < m; cut++)
            check_fails(read_bytes("a.bin", one, cut, &whole, &g, &info, &err), KQ_E_FORMAT, "is cut short");
        memcpy(two, one, m);
        memcpy(two + m, one, m);
        check_ok(read_bytes("a.bin", two, 2 * m, &whole, &g, &info, &err));
        assert_int_equal(info.documents, 2);
        check_fails(read_bytes("a.bin", two, 2 * m - 3, &whole, &g, &info, &err), KQ_E_FORMAT,
                    "is cut short");
        memcpy(two + m, "junk", 4);
        check_fails(read_bytes("a.bin", two, m + 4, &whole, &g, &info, &err), KQ_E_FORMAT, "damaged");
        const size_t k = gzipped((const char *)one, m, two, sizeof two);
        check_fails(read_bytes("a.bin", two, k, &whole, &g, &info, &err), KQ_E_UNSUPPORTED,
                    "is packed twice");
    }
    size_t m = gzipped(text, n, two, 400);
    memset(two + m, 0, 600);
    check_ok(read_bytes("a.gz", two, m + 600, &whole, &g, &info, &err)); /* as on tapes */
    memcpy(two, "\x53\x2a\x4d\x18\x03\0\0\0abc", 11);
    m = ZSTD_compress(two + 11, 400, text, n, 3);
    check_ok(read_bytes("a.zst", two, 11 + m, &whole, &g, &info, &err));
    assert_int_equal(info.documents, 1);
    m = gzipped(N("%PDF-1.7\n"), two, 400);
    check_fails(read_bytes("a.gz", two, m, &whole, &g, &info, &err), KQ_E_UNSUPPORTED,
                "is a PDF document in a gzip archive");
    m = gzipped(N(""), two, 400);
    check_fails(read_bytes("a.gz", two, m, &whole, &g, &info, &err), KQ_E_ARG, "holds no text");
}

/* Megabytes of lines in a few kilobytes: what is asked for is read, in little memory. */
static void bombs(void **state)
{
    (void)state;
    enum { LINE = 4096, MEGABYTES = 64 };
    char line[LINE];
    kq_error err;
    kq_text_info info;
    gzFile f = gzopen("bomb.jsonl.gz", "wb9");
    memset(line, 'a', sizeof line);
    memcpy(line, "{\"text\": \"", 10);
    memcpy(line + LINE - 3, "\"}\n", 3);
    for (int i = 0; i < MEGABYTES * 256; i++)
        assert_int_equal(gzwrite(f, line, LINE), LINE);
    gzclose(f);
    gathered g = {0};
    const kq_text_how some = {.reach = 1 << 20};
    const bool fresh = kq_peak_rss_reset();
    const size_t before = kq_peak_rss_bytes();
    check_ok(kq_text_read("bomb.jsonl.gz", &some, gather, &g, &info, &err));
    assert_int_equal(info.documents, (1 << 20) / LINE);
    assert_false(info.whole);
    g = (gathered){.stop_at = 10};
    check_ok(kq_text_read("bomb.jsonl.gz", &whole, gather, &g, &info, &err));
    assert_int_equal(info.documents, 1);
    if (fresh)
        assert_true(kq_peak_rss_bytes() - before < 8u << 20);
    unlink("bomb.jsonl.gz");
}

/* A plain text ends at a line end, or between two characters. */
static void reaches(void **state)
{
    (void)state;
    kq_error err;
    kq_text_info info;
    gathered g = {0};
    const kq_text_how ten = {.reach = 10};
    check_ok(read_bytes("a.txt", N("one\ntwo\nthree\nfour\n"), &ten, &g, &info, &err));
    assert_string_equal(g.text, "one\ntwo\n|");
    assert_false(info.whole);
    check_ok(read_bytes("a.txt", N("nine sp \xe2\x82\xac and more"), &ten, &g, &info, &err));
    assert_string_equal(g.text, "nine sp |");
    check_ok(read_bytes("a.txt", N("0123456789"), &ten, &g, &info, &err));
    assert_true(info.whole);
    check_ok(read_bytes("a.jsonl", N("{\"text\": \"1\"}\n{\"text\": \"2\"}\n"), &ten, &g, &info, &err));
    assert_string_equal(g.text, "1|");
    assert_int_equal(kq_text_reach(131072), 16 << 20);
    assert_int_equal(kq_text_reach(1 << 20), 32 << 20);
    assert_true(kq_text_reach(SIZE_MAX) == SIZE_MAX);
}

/* A pipe read twice gives the same, within kq_text_keep; the hash follows the text. */
static void pipes(void **state)
{
    (void)state;
    kq_error err;
    kq_text_info info;
    gathered g = {0};
    char path[64], hex[4][33];
    int fd[2];
    assert_int_equal(pipe(fd), 0);
    assert_int_equal(write(fd[1], "{\"text\": \"a\"}\n{\"text\": \"b\"}\n", 28), 28);
    close(fd[1]);
    snprintf(path, sizeof path, "/dev/fd/%d", fd[0]);
    assert_string_equal(kq_text_name(path), "pipe");
    kq_text_keep();
    kq_text_keep();
    for (int i = 0; i < 2; i++) {
        kq_hash *h = kq_hash_new();
        check_ok(kq_text_hash(path, &whole, true, h, &info, &err));
        kq_hash_finish(h, hex[i]);
        g = (gathered){0};
        check_ok(kq_text_read(path, &whole, gather, &g, &info, &err));
        assert_string_equal(g.text, "a|b|");
    }
    kq_text_forget();
    g = (gathered){0};
    check_ok(kq_text_read(path, &whole, gather, &g, &info, &err));
    kq_text_forget();
    check_fails(kq_text_read(path, &whole, gather, &g, &info, &err), KQ_E_ARG, "holds no text");
    close(fd[0]);
    assert_string_equal(hex[0], hex[1]);
    /* the same bytes in a file, packed, and changed */
    uint8_t packed[200];
    const char *const other = "{\"text\": \"a\"}\n{\"text\": \"c\"}\n";
    write_file("a.jsonl", other, 28);
    write_file("b.jsonl.gz", packed, gzipped(other, 28, packed, sizeof packed));
    for (int i = 1; i < 4; i++) {
        kq_hash *h = kq_hash_new();
        write_file("c.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\"}\n", 28);
        check_ok(kq_text_hash(i == 1   ? "a.jsonl"
                              : i == 2 ? "b.jsonl.gz"
                                       : "c.jsonl",
                              &whole, false, h, &info, &err));
        kq_hash_finish(h, hex[i]);
    }
    assert_string_equal(hex[1], hex[2]);
    assert_string_not_equal(hex[1], hex[3]);
    char *text;
    size_t size;
    check_ok(kq_text_load("b.jsonl.gz", 100, &text, &size, &err));
    assert_int_equal(size, 28);
    assert_string_equal(text, other);
    kq_free(text);
    check_fails(kq_text_load("b.jsonl.gz", 27, &text, &size, &err), KQ_E_ARG, "the most that is read");
}

static int never(void *ctx, const char *stage, double fraction, const char *note)
{
    (void)stage, (void)fraction, (void)note;
    return ++*(int *)ctx > 1;
}

/* Waiting for a pipe ends when the caller's progress function says so. */
static void stops(void **state)
{
    (void)state;
    kq_error err;
    char path[64];
    int fd[2], asked = 0;
    const kq_common common = {.progress = never, .ctx = &asked};
    const kq_text_how how = {.reach = SIZE_MAX, .common = &common};
    assert_int_equal(pipe(fd), 0);
    snprintf(path, sizeof path, "/dev/fd/%d", fd[0]);
    check_fails(kq_text_read(path, &how, NULL, NULL, NULL, &err), KQ_E_INTERRUPTED, "stopped while waiting");
    close(fd[0]);
    close(fd[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(documents), cmocka_unit_test(refusals),
                                       cmocka_unit_test(archives),  cmocka_unit_test(bombs),
                                       cmocka_unit_test(reaches),   cmocka_unit_test(pipes),
                                       cmocka_unit_test(stops)};
    return cmocka_run_group_tests(tests, temp_folder_enter, temp_folder_leave);
}
