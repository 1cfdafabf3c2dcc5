/* What a file is, by its first bytes: what is no text is refused by its name, with the way to make a text of
 * it. Without this, a Parquet file would be calibrated on as if its bytes were words. */
#include "text/kind.h"

#include <string.h>

#include "base/utf8.h"

#define TABLE "write its text column as JSON lines ({\"text\": ...}) first"
#define CONVERT "save its text as UTF-8 first"
#define NO_TEXT "a text, JSON lines, or either in gzip or zstd is expected"

/* Sources: each format's own specification; where it has none, file(1)'s magic. Up to four letters may
 * also begin a text ("ORCs are ..."): see is_binary. */
static const struct {
    size_t at, size;
    const char *magic, *what, *hint;
} magics[] = {
    {0, 4, "PAR1", "a Parquet file",
     "python -c 'import sys, pyarrow.parquet as p; "
     "p.read_table(sys.argv[1]).to_pandas().to_json(sys.argv[2], orient=\"records\", lines=True)' "
     "FILE out.jsonl"},
    {0, 4, "PARE", "an encrypted Parquet file", TABLE},
    {0, 6, "ARROW1", "an Arrow file", TABLE},
    {0, 4, "\xff\xff\xff\xff", "an Arrow stream (a data set's .arrow file)", TABLE},
    {0, 4, "FEA1", "a Feather file", TABLE},
    {0, 3, "ORC", "an ORC file", TABLE},
    {0, 4, "Obj\x01", "an Avro file", TABLE},
    {0, 15, "SQLite format 3", "an SQLite data base", TABLE},
    {0, 8, "\x89HDF\r\n\x1a\n", "an HDF5 file", TABLE},
    {0, 6, "\x93NUMPY", "a NumPy array", NO_TEXT},
    {0, 4, "PK\x03\x04", "a zip archive (or a docx, xlsx, epub, npz or PyTorch file, which are zip archives)",
     "unpack it first (unzip -p FILE prints what is in it)"},
    {0, 4, "PK\x05\x06", "an empty zip archive", NO_TEXT},
    {0, 6,
     "\xfd"
     "7zXZ\0",
     "an xz archive", "unpack it first (xz -d), or --text <(xz -dc FILE)"},
    {0, 3, "BZh", "a bzip2 archive", "unpack it first (bzip2 -d), or --text <(bzip2 -dc FILE)"},
    {0, 4, "\x04\x22\x4d\x18", "an lz4 archive", "unpack it first (lz4 -d), or --text <(lz4 -dc FILE)"},
    {0, 4, "LZIP", "an lzip archive", "unpack it first (lzip -d)"},
    {0, 4, "\x89LZO", "an lzop archive", "unpack it first (lzop -d)"},
    {0, 5, "\x5d\0\0\x80\0", "an lzma archive", "unpack it first (xz -d)"},
    {0, 2, "\x1f\x9d", "a file of compress (.Z)", "unpack it first (gzip -d)"},
    {0, 6, "7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"},
    {0, 4, "Rar!", "a rar archive", "unpack it first"},
    {0, 10, "\xff\x06\0\0sNaPpY", "a snappy archive", "unpack it first"},
    {257, 6, "ustar\0", "a tar archive", "unpack it first (tar -xOf FILE prints what is in it)"},
    {257, 8, "ustar  \0", "a tar archive", "unpack it first (tar -xOf FILE prints what is in it)"},
    {0, 5, "%PDF-", "a PDF document", "take its text out first (pdftotext)"},
    {0, 5, "%!PS-", "a PostScript document", "take its text out first (ps2ascii)"},
    {0, 5, "{\\rtf", "an RTF document", CONVERT},
    {0, 8, "\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document", CONVERT},
    {0, 4, "GGUF", "a GGUF model", NO_TEXT},
    {0, 4, "lmgg", "a model or imatrix in llama.cpp's old format", NO_TEXT},
    {0, 4, "tjgg", "a model in llama.cpp's old format", NO_TEXT},
    {0, 8, "_logits_", "a file of saved logits", "give it to --kld"},
    {0, 8, "\x89PNG\r\n\x1a\n", "a PNG picture", NO_TEXT},
    {0, 3, "\xff\xd8\xff", "a JPEG picture", NO_TEXT},
    {0, 4, "GIF8", "a GIF picture", NO_TEXT},
    {0, 4, "RIFF", "a RIFF file (WebP, WAV, AVI)", NO_TEXT},
    {0, 4, "II*\0", "a TIFF picture", NO_TEXT},
    {0, 4, "MM\0*", "a TIFF picture", NO_TEXT},
    {4, 4, "ftyp", "an MP4 film, or a file of the same container", NO_TEXT},
    {0, 4, "\x1a\x45\xdf\xa3", "a Matroska film", NO_TEXT},
    {0, 4, "OggS", "an Ogg file", NO_TEXT},
    {0, 4, "fLaC", "a FLAC file", NO_TEXT},
    {0, 4,
     "\x7f"
     "ELF",
     "a program or library (ELF)", NO_TEXT},
    {0, 4, "\xcf\xfa\xed\xfe", "a program or library (Mach-O)", NO_TEXT},
    {0, 4, "\xca\xfe\xba\xbe", "a program or class file", NO_TEXT},
    {0, 4, "\0asm", "a WebAssembly module", NO_TEXT},
    {0, 4, "PACK", "a Git pack", NO_TEXT},
    {0, 42, "version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS, not the file itself",
     "fetch the file with git lfs pull"},
};

/* No text begins like this: it has control characters, or bytes that are no UTF-8. */
static bool is_binary(const uint8_t *h, size_t n)
{
    for (size_t i = 0; i < n;) {
        const kq_utf8 c = kq_utf8_next((const char *)h + i, n - i);
        if (c.kind == KQ_UTF8_INVALID || h[i] < 9 || (h[i] > 13 && h[i] < 32 && h[i] != 27))
            return true;
        i += c.size;
    }
    return false;
}

static bool is_letters(const char *magic, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (magic[i] < 32 || magic[i] > 126)
            return false;
    return n < 5;
}

/* MZ alone may begin a text; a program has the offset of its other header there, and NULs. */
static bool is_dos_program(const uint8_t *h, size_t n)
{
    return n >= 64 && !memcmp(h, "MZ", 2) && memchr(h, 0, 64) != NULL;
}

/* Eight bytes of length, then a JSON object. */
static bool is_safetensors(const uint8_t *h, size_t n)
{
    return n > 9 && !memcmp(h + 4, "\0\0\0\0", 4) && h[8] == '{';
}

/* Protocols 2 to 5. */
static bool is_pickle(const uint8_t *h, size_t n)
{
    return n > 2 && h[0] == 0x80 && h[1] >= 2 && h[1] <= 5;
}

kq_byte_kind kq_byte_kind_of(const uint8_t *h, size_t n, const char **what, const char **hint)
{
    *what = *hint = "";
    if (n >= 2 && h[0] == 0x1f && h[1] == 0x8b)
        return KQ_BYTES_GZIP;
    /* a frame, or one to be skipped before it */
    if (n >= 4 &&
        (!memcmp(h, "\x28\xb5\x2f\xfd", 4) || ((h[0] & 0xf0) == 0x50 && !memcmp(h + 1, "\x2a\x4d\x18", 3))))
        return KQ_BYTES_ZSTD;
    *hint = NO_TEXT;
    if (is_dos_program(h, n))
        return *what = "a program or library (Windows)", KQ_BYTES_OTHER;
    if (is_safetensors(h, n))
        return *what = "a safetensors file", KQ_BYTES_OTHER;
    if (is_pickle(h, n))
        return *what = "a Python pickle (a PyTorch checkpoint)", KQ_BYTES_OTHER;
    for (size_t i = 0; i < sizeof magics / sizeof *magics; i++)
        if (n >= magics[i].at + magics[i].size &&
            !memcmp(h + magics[i].at, magics[i].magic, magics[i].size) &&
            (!is_letters(magics[i].magic, magics[i].size) || is_binary(h, n))) {
            *what = magics[i].what;
            *hint = magics[i].hint;
            return KQ_BYTES_OTHER;
        }
    return KQ_BYTES_PLAIN;
}
