// core/png.c - PNG images through libpng's low-level interface, limits checked before anything is decoded.
//
// Ancillary chunks (colour profiles, texts, times) are skipped unread: they are most of libpng's attack surface and
// mean nothing to training. Transparency is dropped. Errors come back by longjmp: whatever must survive one lives in
// the struct that the caller of setjmp owns.
#ifndef CBDM_NO_PNG
#include <png.h>
#include <stdlib.h>
#include <string.h>
#include "core/file.h"

enum { SIDE_MAX = 16384, PIXELS_MAX = 1 << 26, CHUNK_BYTES = 8000000, DEFLATE_RATIO = 1032, GRID_GAP = 2 };

// Keeps libpng's reason and leaves through the setjmp of the function that called it.
NORETURN static void on_error(png_structp png, png_const_charp why) {
    char *reason = png_get_error_ptr(png);
    snprintf(reason, 128, "%s", why);
    png_longjmp(png, 1);
}

// libpng's own memory, and zlib's below it.
static png_voidp get_memory(png_structp png, png_alloc_size_t n) {
    (void)png;
    return xmalloc(n);
}
static void give_memory_back(png_structp png, png_voidp p) {
    (void)png;
    free(p);
}

static void on_warning(png_structp png, png_const_charp why) {
    (void)png, (void)why;
}

// ---- reading

typedef struct {
    const uint8_t *bytes;
    size_t n, at;               // at: of the next byte to read
    int w, h, channels;
    uint8_t *pixels;            // (h,w,channels): grey, RGB, or indices until the palette has been applied
    png_bytep *rows;            // h pointers into pixels
    png_structp png;
    png_infop info;
    char reason[128];
    bool no_memory;             // the reason is this machine's, not the file's
} Reader;

static void read_bytes(png_structp png, png_bytep out, size_t n) {
    Reader *r = png_get_io_ptr(png);
    if (n > r->n - r->at) png_error(png, "the file ends too early");
    memcpy(out, r->bytes + r->at, n);
    r->at += n;
}

static void set_limits(png_structp png) {
    png_set_user_limits(png, SIDE_MAX, SIDE_MAX);
    png_set_chunk_malloc_max(png, CHUNK_BYTES);
    png_set_chunk_cache_max(png, 1000);
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, NULL, -1);
    png_set_benign_errors(png, 0);      // what is wrong but could be shown all the same is refused
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
    png_set_crc_action(png, PNG_CRC_QUIET_USE, PNG_CRC_QUIET_USE);
    png_set_option(png, PNG_IGNORE_ADLER32, PNG_OPTION_ON);
#else
    png_set_crc_action(png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
#endif
}

NORETURN static void no_room(Reader *r) {
    r->no_memory = true;
    png_error(r->png, "its pixels do not fit in memory");
}

// Reads the header, refuses what is too large or cannot be true, and asks for 8-bit grey or RGB.
static void read_header(Reader *r) {
    png_set_read_fn(r->png, r, read_bytes);
    set_limits(r->png);
    png_read_info(r->png, r->info);
    uint32_t w = png_get_image_width(r->png, r->info), h = png_get_image_height(r->png, r->info);
    if ((uint64_t)w * h > PIXELS_MAX) png_error(r->png, "more than 2^26 pixels");
    if (png_get_rowbytes(r->png, r->info) * (uint64_t)h / DEFLATE_RATIO > r->n)
        png_error(r->png, "the file is too short for an image of its width and height");
    int type = png_get_color_type(r->png, r->info);
    png_set_strip_16(r->png);
    if (type == PNG_COLOR_TYPE_PALETTE) png_set_packing(r->png);        // a byte an index; see apply_palette
    if (type == PNG_COLOR_TYPE_GRAY) png_set_expand_gray_1_2_4_to_8(r->png);
    png_set_strip_alpha(r->png);
    png_set_interlace_handling(r->png);
    png_read_update_info(r->png, r->info);
    r->w = (int)w;
    r->h = (int)h;
    r->channels = png_get_channels(r->png, r->info);
    CHECK((r->channels == 1 || r->channels == 3) && png_get_bit_depth(r->png, r->info) == 8
          && png_get_rowbytes(r->png, r->info) == (size_t)r->w * (size_t)r->channels, "%d channels", r->channels);
}

// Replaces indices by colours. libpng could, but shows indices beyond the palette's end as black.
static void apply_palette(Reader *r) {
    png_colorp palette;
    int colors;
    size_t n = (size_t)r->w * (size_t)r->h;
    _Static_assert(sizeof *palette == 3, "a colour is three bytes");
    if (!png_get_PLTE(r->png, r->info, &palette, &colors)) png_error(r->png, "no palette");
    uint8_t *indices = r->pixels;
    for (size_t i = 0; i < n; i++)
        if (indices[i] >= colors) png_error(r->png, "a pixel whose colour is not in the palette");
    r->pixels = malloc(3 * n);
    for (size_t i = 0; i < n && r->pixels; i++) memcpy(r->pixels + 3 * i, &palette[indices[i]], 3);
    free(indices);
    if (!r->pixels) no_room(r);
    r->channels = 3;
}

// The part that libpng may leave by longjmp. False: r->reason tells why.
static bool decode(Reader *r) {
    if (setjmp(png_jmpbuf(r->png))) return false;
    read_header(r);
    size_t stride = (size_t)r->w * (size_t)r->channels;
    r->pixels = malloc(stride * (size_t)r->h);
    r->rows = malloc(sizeof *r->rows * (size_t)r->h);
    if (!r->pixels || !r->rows) no_room(r);
    for (int y = 0; y < r->h; y++) r->rows[y] = r->pixels + stride * (size_t)y;
    png_read_image(r->png, r->rows);
    png_read_end(r->png, NULL);
    if (png_get_color_type(r->png, r->info) == PNG_COLOR_TYPE_PALETTE) apply_palette(r);
    return true;
}

// (n,from) to (n,to) channels. Grey of RGB is the luma of ITU-R 601 in 16-bit fixed point, as Pillow has it.
static uint8_t *convert(const uint8_t *in, size_t n, int from, int to) {
    uint8_t *out = xmalloc(n * (size_t)to);
    for (size_t i = 0; i < n; i++) {
        if (from == 1) memset(out + 3 * i, in[i], 3);
        else out[i] = (uint8_t)((19595u * in[3 * i] + 38470u * in[3 * i + 1] + 7471u * in[3 * i + 2] + 32768u) >> 16);
    }
    return out;
}

bool png_parse(const uint8_t *bytes, size_t n, const char *where, int channels, uint8_t **pixels, int *w, int *h,
               Error *err) {
    CHECK(channels == 1 || channels == 3, "%d channels", channels);
    if (n < 8 || png_sig_cmp(bytes, 0, 8) != 0)
        return error_set(err, ERR_FILE, "%s: no PNG image: it does not begin as one", where);
    Reader r = { .bytes = bytes, .n = n };
    r.png = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, r.reason, on_error, on_warning, NULL, get_memory,
                                     give_memory_back);
    if (r.png) r.info = png_create_info_struct(r.png);
    bool made = r.png && r.info, ok = made && decode(&r);
    png_destroy_read_struct(&r.png, &r.info, NULL);
    free(r.rows);
    if (!ok) {
        free(r.pixels);
        if (!made) return error_set(err, ERR_MEMORY, "%s: libpng cannot be started", where);
        if (r.no_memory) return error_set(err, ERR_MEMORY, "%s: %s", where, r.reason);
        return error_set(err, ERR_FILE, "%s: bad PNG image at offset %zu: %s", where, r.at, r.reason);
    }
    if (r.channels != channels) {
        uint8_t *converted = convert(r.pixels, (size_t)r.w * (size_t)r.h, r.channels, channels);
        free(r.pixels);
        r.pixels = converted;
    }
    *pixels = r.pixels;
    *w = r.w;
    *h = r.h;
    return true;
}

bool png_read(const char *path, int channels, uint8_t **pixels, int *w, int *h, Error *err) {
    uint8_t *bytes;
    size_t n, limit = (size_t)1 << 30;      // 2^26 pixels of 16-bit RGBA take 2^29 bytes when stored
    if (!file_read(path, limit, &bytes, &n, err)) return false;
    bool ok = png_parse(bytes, n, path, channels, pixels, w, h, err);
    free(bytes);
    return ok;
}

// ---- writing

static void write_bytes(png_structp png, png_bytep bytes, size_t n) {
    file_write(png_get_io_ptr(png), bytes, n);      // a failure is kept for file_commit
}

typedef struct { uint8_t *bytes; size_t n, room; } Memory;

static void append_bytes(png_structp png, png_bytep bytes, size_t n) {
    Memory *m = png_get_io_ptr(png);
    if (m->n + n > m->room) m->bytes = xrealloc(m->bytes, m->room = 2 * (m->n + n));
    memcpy(m->bytes + m->n, bytes, n);
    m->n += n;
}

static void flush_nothing(png_structp png) {
    (void)png;
}

static bool encode(png_structp png, png_infop info, png_rw_ptr put, void *to, const uint8_t *pixels, int w, int h,
                   int channels) {
    if (setjmp(png_jmpbuf(png))) return false;
    png_set_write_fn(png, to, put, flush_nothing);
    png_set_IHDR(png, info, (uint32_t)w, (uint32_t)h, 8, channels == 1 ? PNG_COLOR_TYPE_GRAY : PNG_COLOR_TYPE_RGB,
                 PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_write_info(png, info);
    for (int y = 0; y < h; y++) png_write_row(png, pixels + (size_t)y * (size_t)w * (size_t)channels);
    png_write_end(png, info);
    return true;
}

// Encodes to a file or to memory, by put; false with what is wrong. where: for the message.
static bool write_image(const char *where, png_rw_ptr put, void *to, const uint8_t *pixels, int w, int h, int channels,
                        Error *err) {
    char reason[128] = "libpng cannot be started";
    png_structp png = png_create_write_struct_2(PNG_LIBPNG_VER_STRING, reason, on_error, on_warning, NULL, get_memory,
                                                give_memory_back);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    bool ok = info && encode(png, info, put, to, pixels, w, h, channels);
    png_destroy_write_struct(&png, &info);
    return ok || error_set(err, ERR_IO, "%s: not written: %s", where, reason);
}

uint8_t *png_encode(const uint8_t *pixels, int w, int h, int channels, size_t *n, Error *err) {
    CHECK(w > 0 && h > 0 && (channels == 1 || channels == 3), "%d x %d of %d channels", w, h, channels);
    Memory m = { 0 };
    if (!write_image("PNG in memory", append_bytes, &m, pixels, w, h, channels, err)) {
        free(m.bytes);
        return NULL;
    }
    *n = m.n;
    return m.bytes;
}

bool png_write(const char *path, const uint8_t *pixels, int w, int h, int channels, Error *err) {
    CHECK(w > 0 && h > 0 && (channels == 1 || channels == 3), "%s: %d x %d of %d channels", path, w, h, channels);
    if (w > SIDE_MAX || h > SIDE_MAX || (int64_t)w * h > PIXELS_MAX)
        return error_set(err, ERR_USAGE, "%s: an image of %d x %d is more than 16384 a side or 2^26 pixels: make it "
                         "smaller", path, w, h);
    FileWriter *file = file_create(path, err);
    if (!file) return false;
    if (write_image(path, write_bytes, file, pixels, w, h, channels, err)) return file_commit(file, err);
    file_abandon(file);
    return false;
}

bool png_write_grid(const char *path, const uint8_t *const *images, int rows, int cols, int w, int h, int channels,
                    Error *err) {
    CHECK(rows > 0 && cols > 0 && w > 0 && h > 0, "%d x %d images of %d x %d", rows, cols, h, w);
    int64_t sheet_w = (int64_t)cols * (w + GRID_GAP) + GRID_GAP, sheet_h = (int64_t)rows * (h + GRID_GAP) + GRID_GAP;
    if (sheet_w > SIDE_MAX || sheet_h > SIDE_MAX || sheet_w * sheet_h > PIXELS_MAX)
        return error_set(err, ERR_USAGE, "%s: a sheet of %lld x %lld pixels is more than 16384 a side or 2^26 pixels: "
                         "ask for fewer rows or columns", path, (long long)sheet_w, (long long)sheet_h);
    size_t row = (size_t)w * (size_t)channels, stride = (size_t)sheet_w * (size_t)channels;
    uint8_t *sheet = xcalloc((size_t)sheet_h, stride);
    for (int i = 0; i < rows * cols; i++) {
        if (!images[i]) continue;
        size_t top = (size_t)(i / cols) * (size_t)(h + GRID_GAP) + GRID_GAP;
        size_t left = (size_t)(i % cols) * (size_t)(w + GRID_GAP) + GRID_GAP;
        for (int y = 0; y < h; y++)
            memcpy(sheet + (top + (size_t)y) * stride + left * (size_t)channels, images[i] + (size_t)y * row, row);
    }
    bool ok = png_write(path, sheet, (int)sheet_w, (int)sheet_h, channels, err);
    free(sheet);
    return ok;
}
#else
#include "core/file.h"

static bool no_png(const char *path, Error *err) {
    return error_set(err, ERR_USAGE, "%s: this build has no PNG: install libpng-dev, zlib1g-dev; run cmake again",
                     path);
}
bool png_write(const char *path, const uint8_t *pixels, int w, int h, int channels, Error *err) {
    (void)pixels, (void)w, (void)h, (void)channels;
    return no_png(path, err);
}
uint8_t *png_encode(const uint8_t *pixels, int w, int h, int channels, size_t *n, Error *err) {
    (void)pixels, (void)w, (void)h, (void)channels, (void)n;
    no_png("PNG in memory", err);
    return NULL;
}
bool png_parse(const uint8_t *bytes, size_t n, const char *where, int channels, uint8_t **pixels, int *w, int *h,
               Error *err) {
    (void)bytes, (void)n, (void)channels, (void)pixels, (void)w, (void)h;
    return no_png(where, err);
}
bool png_read(const char *path, int channels, uint8_t **pixels, int *w, int *h, Error *err) {
    (void)channels, (void)pixels, (void)w, (void)h;
    return no_png(path, err);
}
bool png_write_grid(const char *path, const uint8_t *const *images, int rows, int cols, int w, int h, int channels,
                    Error *err) {
    (void)images, (void)rows, (void)cols, (void)w, (void)h, (void)channels;
    return no_png(path, err);
}
#endif
