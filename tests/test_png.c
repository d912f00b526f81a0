// tests/test_png.c - PNG round trips, the sheet of images, conversions of what libpng itself writes, hostile files.
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <png.h>
#include <zlib.h>
#include "core/file.h"
#include "tests/tempdir.h"

static uint64_t random_state = 0x9e3779b97f4a7c15u;

static uint8_t random_byte(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint8_t)(random_state >> 32);
}

static uint8_t *random_pixels(size_t n) {
    uint8_t *p = xmalloc(n);
    for (size_t i = 0; i < n; i++) p[i] = random_byte();
    return p;
}

static void round_trips(void **unused) {
    (void)unused;
    static const int sizes[][2] = { { 1, 1 }, { 1, 9 }, { 9, 1 }, { 32, 32 }, { 33, 7 }, { 300, 200 } };
    Error err;
    for (int s = 0; s < 6; s++) {
        for (int channels = 1; channels <= 3; channels += 2) {
            int w = sizes[s][0], h = sizes[s][1], w2, h2;
            size_t n = (size_t)w * (size_t)h * (size_t)channels;
            uint8_t *pixels = random_pixels(n), *back;
            const char *path = temp_path("trip.png");
            if (!png_write(path, pixels, w, h, channels, &err)) fail_msg("%s", err.msg);
            if (!png_read(path, channels, &back, &w2, &h2, &err)) fail_msg("%s", err.msg);
            assert_int_equal(w2, w);
            assert_int_equal(h2, h);
            assert_memory_equal(back, pixels, n);
            free(back);
            free(pixels);
        }
    }
}

static void grey_and_rgb(void **unused) {
    (void)unused;
    Error err;
    int w, h;
    uint8_t *back;
    static const uint8_t rgb[] = { 255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 255, 10, 10, 10, 1, 2, 3 };
    static const uint8_t want[] = { 76, 150, 29, 255, 10, 2 };          // Image.convert("L") of Pillow
    const char *path = temp_path("grey.png");
    assert_true(png_write(path, rgb, 3, 2, 3, &err));
    assert_true(png_read(path, 1, &back, &w, &h, &err));
    assert_memory_equal(back, want, sizeof want);
    free(back);
    assert_true(png_write(path, want, 2, 3, 1, &err));
    assert_true(png_read(path, 3, &back, &w, &h, &err));
    for (int i = 0; i < 18; i++) assert_int_equal(back[i], want[i / 3]);
    free(back);
}

static void grid(void **unused) {
    (void)unused;
    enum { W = 4, H = 3, ROWS = 2, COLS = 3 };
    Error err;
    int w, h;
    uint8_t *images[ROWS * COLS], *sheet;
    for (int i = 0; i < ROWS * COLS; i++) {
        images[i] = xmalloc(W * H * 3);
        memset(images[i], 10 * (i + 1), W * H * 3);
    }
    free(images[4]);
    images[4] = NULL;
    const char *path = temp_path("grid.png");
    assert_true(png_write_grid(path, (const uint8_t *const *)images, ROWS, COLS, W, H, 3, &err));
    assert_true(png_read(path, 3, &sheet, &w, &h, &err));
    assert_int_equal(w, COLS * (W + 2) + 2);
    assert_int_equal(h, ROWS * (H + 2) + 2);
    for (int y = 0; y < h; y++) {
        for (int x = 0; x < w; x++) {
            bool gap = x % (W + 2) < 2 || y % (H + 2) < 2;
            int i = y / (H + 2) * COLS + x / (W + 2), want = gap || i == 4 ? 0 : 10 * (i + 1);
            for (int c = 0; c < 3; c++) assert_int_equal(sheet[(y * w + x) * 3 + c], want);
        }
    }
    free(sheet);
    for (int i = 0; i < ROWS * COLS; i++) free(images[i]);
    const uint8_t *none[1] = { NULL };
    assert_false(png_write_grid(path, none, 1, 1, 16384, 10, 3, &err));
    assert_int_equal(err.code, ERR_USAGE);
    assert_false(png_write(temp_path("no/folder.png"), (const uint8_t *)"abc", 1, 1, 3, &err));
    assert_int_equal(err.code, ERR_IO);
}

// ---- what libpng writes in other types

typedef struct { int type, depth, interlace; bool transparent; } Kind;

// An image of 5 x 4 of the kind given; rows: 4 pointers to what libpng takes for a row.
static void write_kind(const char *path, Kind k, png_bytep *rows) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    assert_int_equal(setjmp(png_jmpbuf(png)), 0);
    png_init_io(png, f);
    png_set_IHDR(png, info, 5, 4, k.depth, k.type, k.interlace, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_color palette[4] = { { 1, 2, 3 }, { 40, 50, 60 }, { 255, 0, 9 }, { 7, 7, 7 } };
    png_byte alpha[2] = { 0, 128 };
    png_color_16 key = { .red = 1, .green = 1, .blue = 1, .gray = 1 };
    if (k.type == PNG_COLOR_TYPE_PALETTE) png_set_PLTE(png, info, palette, 4);
    if (k.transparent) png_set_tRNS(png, info, alpha, k.type == PNG_COLOR_TYPE_PALETTE ? 2 : 0, &key);
    png_set_gAMA(png, info, 0.2);           // a chunk that must change nothing
    png_write_info(png, info);
    png_write_image(png, rows);
    png_write_end(png, info);
    png_destroy_write_struct(&png, &info);
    assert_int_equal(fclose(f), 0);
}

// The value of sample c of pixel i in an image of the kind, and what 8-bit RGB it should come back as.
static unsigned sample(int i, int c, int depth) {
    return (unsigned)(i * 2731 + c * 7919 + 13) & ((1u << depth) - 1);
}

static void conversions(void **unused) {
    (void)unused;
    static const Kind kinds[] = {
        { PNG_COLOR_TYPE_GRAY, 1, 0, false }, { PNG_COLOR_TYPE_GRAY, 2, 0, false },
        { PNG_COLOR_TYPE_GRAY, 4, 1, false },
        { PNG_COLOR_TYPE_GRAY, 8, 1, true }, { PNG_COLOR_TYPE_GRAY, 16, 0, false }, { PNG_COLOR_TYPE_RGB, 8, 1, true },
        { PNG_COLOR_TYPE_RGB, 16, 1, true }, { PNG_COLOR_TYPE_GRAY_ALPHA, 8, 0, false },
        { PNG_COLOR_TYPE_GRAY_ALPHA, 16, 1, false }, { PNG_COLOR_TYPE_RGB_ALPHA, 8, 0, false },
        { PNG_COLOR_TYPE_RGB_ALPHA, 16, 0, false }, { PNG_COLOR_TYPE_PALETTE, 2, 0, false },
        { PNG_COLOR_TYPE_PALETTE, 8, 1, true }, { PNG_COLOR_TYPE_PALETTE, 4, 0, true },
    };
    static const uint8_t palette[4][3] = { { 1, 2, 3 }, { 40, 50, 60 }, { 255, 0, 9 }, { 7, 7, 7 } };
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        Kind kind = kinds[k];
        bool indexed = kind.type == PNG_COLOR_TYPE_PALETTE;
        int colors = kind.type & PNG_COLOR_MASK_COLOR && !indexed ? 3 : 1;
        int samples = colors + (kind.type & PNG_COLOR_MASK_ALPHA ? 1 : 0);
        uint8_t bytes[4][5 * 4 * 2] = { { 0 } }, *rows[4], *back;
        for (int i = 0; i < 20; i++) {
            rows[i / 5] = bytes[i / 5];
            for (int c = 0; c < samples; c++) {
                unsigned v = indexed ? sample(i, c, 2) : sample(i, c, kind.depth);
                int bit = (i % 5 * samples + c) * kind.depth;
                if (kind.depth == 16) bytes[i / 5][bit / 8] = (uint8_t)(v >> 8), bytes[i / 5][bit / 8 + 1] = (uint8_t)v;
                else bytes[i / 5][bit / 8] |= (uint8_t)(v << (8 - kind.depth - bit % 8));
            }
        }
        const char *path = temp_path("kind.png");
        write_kind(path, kind, rows);
        Error err;
        int w, h;
        if (!png_read(path, 3, &back, &w, &h, &err)) fail_msg("kind %zu: %s", k, err.msg);
        assert_true(w == 5 && h == 4);
        for (int i = 0; i < 60; i++) {
            unsigned v = indexed ? sample(i / 3, 0, 2) : sample(i / 3, i % 3 % colors, kind.depth);
            unsigned want = indexed ? palette[v][i % 3]
                          : kind.depth == 16 ? v >> 8 : v * 255 / ((1u << kind.depth) - 1);
            if (back[i] != want) fail_msg("kind %zu, pixel %d: %d, not %u", k, i / 3, back[i], want);
        }
        free(back);
    }
}

// ---- hostile files

typedef struct { uint8_t bytes[1 << 16]; size_t n; } File;

static void put_u32(uint8_t *p, uint32_t v) {
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> (24 - 8 * i));
}

static void put_chunk(File *f, const char *type, const uint8_t *data, uint32_t n) {
    assert_true(f->n + n + 12 <= sizeof f->bytes);
    uint8_t *p = f->bytes + f->n;
    put_u32(p, n);
    memcpy(p + 4, type, 4);
    if (n) memcpy(p + 8, data, n);
    put_u32(p + 8 + n, (uint32_t)crc32(0, p + 4, n + 4));
    f->n += n + 12;
}

static void put_start(File *f, uint32_t w, uint32_t h, int depth, int type) {
    uint8_t header[13] = { [8] = (uint8_t)depth, [9] = (uint8_t)type };
    memcpy(f->bytes, "\x89PNG\r\n\x1a\n", 8);
    f->n = 8;
    put_u32(header, w);
    put_u32(header + 4, h);
    put_chunk(f, "IHDR", header, 13);
}

// IDAT of `raw` zero bytes, then IEND.
static void put_zeros(File *f, size_t raw) {
    uint8_t *zeros = xcalloc(raw, 1), *packed = xmalloc(compressBound(raw));
    uLongf n = compressBound(raw);
    assert_int_equal(compress2(packed, &n, zeros, raw, 9), Z_OK);
    put_chunk(f, "IDAT", packed, (uint32_t)n);
    put_chunk(f, "IEND", NULL, 0);
    free(packed);
    free(zeros);
}

// Parses a copy in a block of its own, so that AddressSanitizer sees a step beyond its end.
static bool accepted(const uint8_t *bytes, size_t n, Error *err) {
    uint8_t *copy = memcpy(xmalloc(n), bytes, n), *pixels;
    int w, h;
    bool ok = png_parse(copy, n, "hostile", 3, &pixels, &w, &h, err);
    free(copy);
    if (ok) free(pixels);
    return ok;
}

static void refused(const File *f, const char *part) {
    Error err = { 0 };
    bool ok = accepted(f->bytes, f->n, &err);
    if (part && ok) fail_msg("what should say \"%s\" was accepted", part);
    if (!part && !ok) fail_msg("refused: %s", err.msg);
    if (part && !strstr(err.msg, part)) fail_msg("\"%s\", not \"%s\"", err.msg, part);
    if (part) assert_int_equal(err.code, ERR_FILE);
}

static void headers_that_lie(void **unused) {
    (void)unused;
    static File f;
    put_start(&f, 4, 4, 8, 2);
    put_zeros(&f, 4 * 13);
    refused(&f, NULL);                                  // the pattern itself is sound
    static const struct { uint32_t w, h; int depth, type; } bad[] = {
        { 0, 4, 8, 2 }, { 4, 0, 8, 2 }, { 16385, 1, 8, 0 }, { 1, 16385, 8, 0 }, { 0x80000000u, 4, 8, 2 },
        { 0xffffffffu, 0xffffffffu, 16, 6 }, { 4, 4, 3, 2 }, { 4, 4, 8, 1 }, { 4, 4, 8, 7 }, { 4, 4, 16, 3 },
        { 4, 4, 0, 0 },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        put_start(&f, bad[i].w, bad[i].h, bad[i].depth, bad[i].type);
        put_zeros(&f, 4 * 13);
        refused(&f, "bad PNG image");
    }
    put_start(&f, 16384, 16384, 1, 0);                  // each side is legal
    put_zeros(&f, 4 * 13);
    refused(&f, "more than 2^26 pixels");
    put_start(&f, 8192, 8192, 8, 2);                    // legal too, but no hundred bytes can hold it
    put_zeros(&f, 4 * 13);
    refused(&f, "too short for an image of its width and height");
    put_start(&f, 4, 5, 8, 2);                          // one row more than there is
    put_zeros(&f, 4 * 13);
    refused(&f, "bad PNG image");
}

static void bodies_that_lie(void **unused) {
    (void)unused;
    static File f;
    put_start(&f, 4, 4, 8, 2);
    put_zeros(&f, 20u << 20);                           // a zip bomb: 20 MB where 52 bytes are due
    refused(&f, "bad PNG image");
    put_start(&f, 4, 4, 8, 2);                          // no IDAT
    put_chunk(&f, "IEND", NULL, 0);
    refused(&f, "bad PNG image");
    put_start(&f, 4, 4, 8, 2);                          // IDAT that is not deflate
    put_chunk(&f, "IDAT", (const uint8_t *)"garbage garbage", 15);
    put_chunk(&f, "IEND", NULL, 0);
    refused(&f, "bad PNG image");
    put_start(&f, 4, 4, 8, 3);                          // a palette image without palette
    put_zeros(&f, 4 * 5);
    refused(&f, "bad PNG image");
    put_start(&f, 4, 4, 8, 2);                          // a chunk that one must understand and cannot
    put_chunk(&f, "QqQQ", NULL, 0);
    put_zeros(&f, 4 * 13);
    refused(&f, "bad PNG image");
    put_start(&f, 4, 4, 8, 2);                          // a length beyond the file
    put_zeros(&f, 4 * 13);
    put_u32(f.bytes + 33, 0x7fffffff);
    refused(&f, "bad PNG image");
    put_start(&f, 4, 4, 8, 2);                          // a filter type that does not exist
    uint8_t raw[52] = { 9 }, packed[128];
    uLongf n = sizeof packed;
    assert_int_equal(compress(packed, &n, raw, sizeof raw), Z_OK);
    put_chunk(&f, "IDAT", packed, (uint32_t)n);
    put_chunk(&f, "IEND", NULL, 0);
    refused(&f, "bad PNG image");
    memcpy(f.bytes, "\x89PNX", 4);
    refused(&f, "no PNG image");
    f.n = 0;
    refused(&f, "no PNG image");
    put_start(&f, 4, 4, 8, 2);                          // pixels beyond the end of the palette
    f.bytes[25] = 3;
    put_u32(f.bytes + 29, (uint32_t)crc32(0, f.bytes + 12, 17));
    put_chunk(&f, "PLTE", (const uint8_t *)"\1\2\3", 3);
    memset(raw, 0, sizeof raw);
    for (int i = 1; i < 5; i++) raw[i] = 200;
    n = sizeof packed;
    assert_int_equal(compress(packed, &n, raw, 20), Z_OK);
    put_chunk(&f, "IDAT", packed, (uint32_t)n);
    put_chunk(&f, "IEND", NULL, 0);
    refused(&f, "bad PNG image");
}

// Texts and profiles are skipped, whatever they hold; thousands of them cost nothing but their bytes.
static void ancillary_chunks(void **unused) {
    (void)unused;
    static File f;
    put_start(&f, 4, 4, 8, 2);
    put_chunk(&f, "iCCP", (const uint8_t *)"broken profile", 14);
    put_chunk(&f, "gAMA", (const uint8_t *)"\0\0\0\0\0\0\0", 7);
    for (int i = 0; i < 3000; i++) put_chunk(&f, "tEXt", (const uint8_t *)"k\0v", 3);
    put_zeros(&f, 4 * 13);
    refused(&f, NULL);
    f.bytes[33 + 8] ^= 1;                               // but their CRC must be right
    refused(&f, "bad PNG image");
}

static void truncations_and_bit_flips(void **unused) {
    (void)unused;
    Error err;
    uint8_t *pixels = random_pixels(16 * 16 * 3), *bytes, *back;
    size_t n;
    int w, h;
    const char *path = temp_path("damage.png");
    assert_true(png_write(path, pixels, 16, 16, 3, &err));
    assert_true(file_read(path, 1 << 20, &bytes, &n, &err));
    for (size_t cut = 0; cut < n; cut++)
        if (accepted(bytes, cut, &err)) fail_msg("%zu bytes of %zu were accepted", cut, n);
    for (size_t bit = 0; bit < 8 * n; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        // A flip may turn a chunk's type into one that is skipped only where its CRC matches: never.
        if (png_parse(bytes, n, "flip", 3, &back, &w, &h, &err)) fail_msg("bit %zu flipped was accepted", bit);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    assert_true(accepted(bytes, n, &err));
    free(bytes);
    free(pixels);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trips),
        cmocka_unit_test(grey_and_rgb),
        cmocka_unit_test(grid),
        cmocka_unit_test(conversions),
        cmocka_unit_test(headers_that_lie),
        cmocka_unit_test(bodies_that_lie),
        cmocka_unit_test(ancillary_chunks),
        cmocka_unit_test(truncations_and_bit_flips),
    };
    return cmocka_run_group_tests(tests, tempdir_make, tempdir_remove);
}
