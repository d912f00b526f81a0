// tests/fuzz/seeds.c - writes small well-formed files for a fuzz target to start from: seeds TARGET FOLDER
//
// Targets: safetensors, png, npy, idx, cifar, pickle, json, torch_file, manifest, classifier, features, result. An
// unknown target gets one seed of plain bytes, so that every target can run. Only zlib and libpng are used, not the
// project's own writers: a reader and a writer that share a mistake must not agree here.
#include <png.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { ROOM = 1 << 16 };                     // no seed is larger
typedef struct { uint8_t byte[ROOM]; size_t size; } Seed;

static void put(Seed *s, const void *data, size_t size) {
    if (s->size + size > ROOM) { fprintf(stderr, "seeds: a seed is larger than %d bytes\n", ROOM); exit(1); }
    memcpy(s->byte + s->size, data, size);
    s->size += size;
}
static void put_text(Seed *s, const char *text) { put(s, text, strlen(text)); }
#define PUT_LITERAL(s, text) put(s, text, sizeof text - 1)    // may hold zero bytes
static void put_byte(Seed *s, unsigned value) { put(s, &(uint8_t){ (uint8_t)value }, 1); }
static void put_little(Seed *s, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) put_byte(s, (unsigned)(value >> (8 * i)) & 255u);
}
static void put_big(Seed *s, uint32_t value) {
    for (int i = 3; i >= 0; i--) put_byte(s, value >> (8 * i) & 255u);
}
static void put_pixels(Seed *s, size_t count) {
    for (size_t i = 0; i < count; i++) put_byte(s, (unsigned)(i * 37 % 251));
}

// Writes FOLDER/NAME and empties the seed.
static void save(Seed *s, const char *folder, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(s->byte, 1, s->size, f) != s->size || fclose(f) != 0) {
        fprintf(stderr, "seeds: cannot write %s\n", path);
        exit(1);
    }
    s->size = 0;
}

static void safetensors(Seed *s, const char *folder) {
    static const char *const header[] = {
        "{\"w\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}",
        "{\"__metadata__\":{\"format\":\"pt\"},\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
        "\"b\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[4,12]},"
        "\"c\":{\"dtype\":\"U8\",\"shape\":[3,0],\"data_offsets\":[12,12]},"
        "\"d\":{\"dtype\":\"BF16\",\"shape\":[2,1,1],\"data_offsets\":[12,16]}}",
        "{}",
    };
    static const size_t body[] = { 24, 16, 0 };
    for (int i = 0; i < 3; i++) {
        size_t length = strlen(header[i]), padded = (length + 7) / 8 * 8;
        put_little(s, padded, 8);
        put_text(s, header[i]);
        for (size_t k = length; k < padded; k++) put_byte(s, ' ');
        put_pixels(s, body[i]);
        save(s, folder, i == 0 ? "one" : i == 1 ? "four" : "none");
    }
}

// One tensor's entry in `header`, zeros or ones for its values.
typedef struct { char header[12000]; Seed body; } Tensors;
static void add_tensor(Tensors *t, const char *layer, const char *part, const char *shape, int numel, bool ones) {
    size_t at = strlen(t->header), begin = t->body.size;
    for (int i = 0; i < numel; i++) put_little(&t->body, ones ? 0x3F800000u : 0, 4);
    snprintf(t->header + at, sizeof t->header - at,
             ",\"%s.%s\":{\"dtype\":\"F32\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}", layer, part, shape, begin,
             t->body.size);
}

// The smallest network that eval/classifier knows: 8 layers, 4 channels, one class of grey images.
static void classifier(Seed *s, const char *folder) {
    static const char *const layer[] = { "", "layer1.0.", "layer1.0.", "layer2.0.", "layer2.0.", "layer3.0.",
                                         "layer3.0." };
    static const int c_in[] = { 1, 4, 4, 4, 8, 8, 16 }, c_out[] = { 4, 4, 4, 8, 8, 16, 16 };
    static Tensors t;
    snprintf(t.header, sizeof t.header, "{\"__metadata__\":{\"format\":\"cbdm-classifier-1\",\"config\":"
             "\"{\\\"depth\\\":8,\\\"width\\\":4,\\\"classes\\\":1,\\\"height\\\":8,\\\"image-width\\\":8,"
             "\\\"channels\\\":1}\"}");
    for (int i = 0; i < 7; i++) {
        char conv[32], norm[32], filter[32], vector[16];
        snprintf(conv, sizeof conv, "%sconv%d", layer[i], i ? 2 - i % 2 : 1);
        snprintf(norm, sizeof norm, "%sbn%d", layer[i], i ? 2 - i % 2 : 1);
        snprintf(filter, sizeof filter, "[%d,%d,3,3]", c_out[i], c_in[i]);
        snprintf(vector, sizeof vector, "[%d]", c_out[i]);
        add_tensor(&t, conv, "weight", filter, 9 * c_out[i] * c_in[i], false);
        add_tensor(&t, norm, "weight", vector, c_out[i], true);
        add_tensor(&t, norm, "bias", vector, c_out[i], false);
        add_tensor(&t, norm, "running_mean", vector, c_out[i], false);
        add_tensor(&t, norm, "running_var", vector, c_out[i], true);
    }
    add_tensor(&t, "linear", "weight", "[1,16]", 16, true);
    add_tensor(&t, "linear", "bias", "[1]", 1, false);
    add_tensor(&t, "input", "mean", "[1]", 1, false);
    add_tensor(&t, "input", "std", "[1]", 1, true);
    put_little(s, strlen(t.header) + 1, 8);
    put_text(s, t.header);
    put_text(s, "}");
    put(s, t.body.byte, t.body.size);
    save(s, folder, "resnet8");
}

static void npy(Seed *s, const char *folder) {
    static const struct { const char *name, *dict; size_t body; int version; } file[] = {
        { "f4",      "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", 24, 1 },
        { "u1",      "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2, 2, 3), }", 24, 1 },
        { "i8",      "{'descr': '<i8', 'fortran_order': False, 'shape': (4,), }", 32, 2 },
        { "f8",      "{'descr': '<f8', 'fortran_order': False, 'shape': (), }", 8, 1 },
        { "fortran", "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 2), }", 16, 1 },
        { "big",     "{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }", 8, 1 },
    };
    for (size_t i = 0; i < sizeof file / sizeof *file; i++) {
        int bytes = file[i].version == 1 ? 2 : 4;
        size_t length = strlen(file[i].dict) + 1, fixed = 8 + (size_t)bytes;
        size_t padded = (fixed + length + 63) / 64 * 64 - fixed;
        PUT_LITERAL(s, "\x93NUMPY");
        put_byte(s, (unsigned)file[i].version);
        put_byte(s, 0);
        put_little(s, padded, bytes);
        put_text(s, file[i].dict);
        for (size_t k = length; k < padded; k++) put_byte(s, ' ');
        put_byte(s, '\n');
        put_pixels(s, file[i].body);
        save(s, folder, file[i].name);
    }
}

// An IDX file: two zero bytes, type 8 (u8), number of dimensions, each as a big-endian word, the data.
static void idx(Seed *s, const char *folder) {
    put_big(s, 0x00000803u);
    put_big(s, 3);
    put_big(s, 4);
    put_big(s, 5);
    put_pixels(s, 60);
    Seed zipped = { .size = ROOM };
    z_stream z = { .next_in = s->byte, .avail_in = (uInt)s->size, .next_out = zipped.byte, .avail_out = ROOM };
    if (deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK) exit(1);
    if (deflate(&z, Z_FINISH) != Z_STREAM_END) exit(1);
    zipped.size = z.total_out;
    deflateEnd(&z);
    save(s, folder, "images");
    save(&zipped, folder, "images.gz");
    put_big(s, 0x00000801u);
    put_big(s, 6);
    put_pixels(s, 6);
    save(s, folder, "labels");
}

// CIFAR records: one label byte (CIFAR-10) or a coarse and a fine one (CIFAR-100), then 3072 bytes R, G, B.
static void cifar(Seed *s, const char *folder) {
    for (int labels = 1; labels <= 2; labels++) {
        for (int image = 0; image < 2; image++) {
            for (int k = 0; k < labels; k++) put_byte(s, (unsigned)(image + 3 * k));
            put_pixels(s, 3072);
        }
        save(s, folder, labels == 1 ? "ten" : "hundred");
    }
}

// The dictionary of a CIFAR python archive, protocol 2: one image as a numpy array of 1 x 3072 bytes, and its labels.
static void pickle(Seed *s, const char *folder) {
    PUT_LITERAL(s, "\x80\x02}q\x01(U\x04""data");
    put_text(s, "cnumpy.core.multiarray\n_reconstruct\nq\x02""cnumpy\nndarray\nq\x03");
    PUT_LITERAL(s, "K\x00\x85U\x01""b\x87R(K\x01K\x01M\x00\x0c\x86");
    put_text(s, "cnumpy\ndtype\n");
    PUT_LITERAL(s, "U\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN");
    PUT_LITERAL(s, "J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x00\x0c\x00\x00");
    put_pixels(s, 3072);
    PUT_LITERAL(s, "tbU\x0b""fine_labels]K\x05""aU\x06labels](K\x01K\x02""eu.");
    save(s, folder, "dictionary");
    PUT_LITERAL(s, "\x80\x03}q\x00(X\x06\x00\x00\x00labelsq\x01]q\x02(K\x07M\x00\x01""eC\x04""datah\x02u.");
    save(s, folder, "protocol3");
    put_text(s, "(dp1\nS'labels'\np2\n(lp3\nI5\naI7\nas.");
    save(s, folder, "protocol0");
}

// One tensor (2,2) of 6 floats from element 2 on, in a dictionary of a dictionary. Legacy storages have a sixth fact.
static void put_torch_object(Seed *s, bool legacy) {
    PUT_LITERAL(s, "\x80\x02}X\x0a\0\0\0state_dictccollections\nOrderedDict\nq\x01)RX\x01\0\0\0wctorch._utils\n"
                   "_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0" "0X\x03\0\0\0cpuK\x06");
    if (legacy) PUT_LITERAL(s, "N");
    PUT_LITERAL(s, "tQK\x02K\x02K\x02\x86K\x02K\x01\x86\x89h\x01)RtRss.");
}

// A stored member behind what s holds; its entry goes to `directory`.
static void put_member(Seed *s, Seed *directory, const char *name, const Seed *data) {
    size_t at = s->size;
    uint32_t crc = (uint32_t)crc32(0, data->byte, (uInt)data->size);
    put_little(s, 0x04034b50, 4);
    put_little(directory, 0x02014b50, 4);
    put_little(directory, 20, 2);                // made by
    for (int i = 0; i < 2; i++) {                // the fields that both have
        Seed *to = i ? directory : s;
        put_little(to, 20, 2);
        put_little(to, 0, 8);                    // flags, method, time, date
        put_little(to, crc, 4);
        put_little(to, data->size, 4);
        put_little(to, data->size, 4);
        put_little(to, strlen(name), 2);
        put_little(to, 0, 2);
    }
    put_little(directory, 0, 10);                // comment, disk, attributes
    put_little(directory, at, 4);
    put_text(s, name);
    put_text(directory, name);
    put(s, data->byte, data->size);
}

// Both layouts of torch.save.
static void torch_file(Seed *s, const char *folder) {
    static Seed object, storage, order, directory;
    put_torch_object(&object, false);
    put_pixels(&storage, 24);
    put_text(&order, "little");
    put_member(s, &directory, "archive/data.pkl", &object);
    put_member(s, &directory, "archive/byteorder", &order);
    put_member(s, &directory, "archive/data/0", &storage);
    size_t start = s->size;
    put(s, directory.byte, directory.size);
    put_little(s, 0x06054b50, 4);
    put_little(s, 0, 4);
    put_little(s, 3, 2);
    put_little(s, 3, 2);
    put_little(s, directory.size, 4);
    put_little(s, start, 4);
    put_little(s, 0, 2);
    save(s, folder, "zip");
    PUT_LITERAL(s, "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03."
                   "\x80\x02}X\x0d\0\0\0little_endian\x88s.");
    put_torch_object(s, true);
    PUT_LITERAL(s, "\x80\x02]X\x01\0\0\0" "0a.");
    put_little(s, 6, 8);
    put_pixels(s, 24);
    save(s, folder, "legacy");
}

static void json(Seed *s, const char *folder) {
    put_text(s, "{\"a\": 3, \"b\": -4000000000, \"c\": 1.5e-3, \"d\": true, \"e\": \"y\"}");
    save(s, folder, "configuration");
    put_text(s, "[null, {\"x\": [1, -0.25, 1E+9]}, [], {}, \"\\u00e9\\ud83d\\ude00\\n\\\\\"]");
    save(s, folder, "values");
    put_text(s, "\"a \\\"quoted\\\" \\u0041\\t\"");
    save(s, folder, "string");
}

static void manifest(Seed *s, const char *folder) {
    put_text(s, "{\"index\": 0, \"number\": 7, \"label\": 2, \"class\": \"owl\", \"file\": \"002/000007.png\", "
             "\"omega\": 1.5, \"sampler\": \"ddim\", \"checkpoint\": \"ab\"}\n{\"number\": 8, \"label\": -1, \"file\": "
             "\"none/000008.png\"}\n");
    save(s, folder, "manifest");
    put_text(s, "{\"path\": \"r/step-000000400.safetensors\", \"checkpoint\": \"ab\", \"class_counts\": "
             "[80, 8], \"seed\": 7, \"omega\": [0, 1.5], \"sampler\": \"ddim\", \"steps\": 25, "
             "\"machine\": {\"threads\": 1}}\n");
    save(s, folder, "settings");
}

static void result(Seed *s, const char *folder) {
    put_text(s, "{\"format\": \"cbdm-eval-1\", \"protocol\": \"tf\", \"extractor\": {\"name\": \"e\", \"sha256\": "
             "null}, \"generated\": {\"count\": 4, \"omega\": 1.5}, \"class_names\": [\"a\", \"b\"], \"train_counts\": "
             "[9, 1], \"groups\": {\"rule\": \"1,0,1\", \"many\": [0], \"few\": [1]}, \"options\": {\"seed\": 0}, "
             "\"overall\": {\"n_gen\": 4, \"fid\": 2.5, \"fid_interval\": [2, 3], \"pr5\": {\"recall\": 0.5}}, "
             "\"per_class\": [{\"fid\": 1}, {\"fid\": null}], \"per_group\": {\"few\": {\"kid\": 1e-3}}}");
    save(s, folder, "numbers");
    put_text(s, "{\"format\": \"cbdm-eval-1\", \"per_class_fid\": [1, 2], \"label_fidelity\": {\"per_class\": [1, "
             "0.5], \"per_group\": {\"few\": 0.5}, \"all\": 0.75}, \"confusion\": [[2, 0], [1, 1]], \"borrowed\": [0, "
             "0.5], \"nearest\": {\"copy_rate\": 0, \"pairs\": [{\"class\": 1, \"sample\": 3, \"train\": 7, "
             "\"distance\": 0.5}]}, \"downstream\": [{\"train\": \"lt\", \"loss\": \"plain\", \"per_class\": [1, 0], "
             "\"all\": 0.5}], \"inception_score\": {\"mean\": 2, \"std\": 0.1}, \"warnings\": [\"few\"]}");
    save(s, folder, "labels");
}

static void png_append(png_structp png, png_bytep data, png_size_t size) { put(png_get_io_ptr(png), data, size); }
static void png_flush_nothing(png_structp png) { (void)png; }
static void png_fail(png_structp png, png_const_charp what) {
    (void)png;
    fprintf(stderr, "seeds: libpng: %s\n", what);
    exit(1);
}

static void png(Seed *s, const char *folder) {
    static const struct { const char *name; int color, depth, interlace; } file[] = {
        { "rgb", PNG_COLOR_TYPE_RGB, 8, 0 },         { "gray", PNG_COLOR_TYPE_GRAY, 8, 0 },
        { "gray1", PNG_COLOR_TYPE_GRAY, 1, 0 },      { "rgba", PNG_COLOR_TYPE_RGB_ALPHA, 8, 0 },
        { "rgb16", PNG_COLOR_TYPE_RGB, 16, 0 },      { "interlaced", PNG_COLOR_TYPE_RGB, 8, 1 },
        { "palette", PNG_COLOR_TYPE_PALETTE, 8, 0 },
    };
    enum { W = 5, H = 3 };
    uint8_t row[W * 8];
    for (size_t i = 0; i < sizeof row; i++) row[i] = (uint8_t)(i * 53 % 4);     // below the palette's size
    for (size_t i = 0; i < sizeof file / sizeof *file; i++) {
        png_structp p = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, png_fail, NULL);
        png_infop info = png_create_info_struct(p);
        if (!p || !info) exit(1);
        png_set_write_fn(p, s, png_append, png_flush_nothing);
        png_set_IHDR(p, info, W, H, file[i].depth, file[i].color, file[i].interlace ? PNG_INTERLACE_ADAM7 : 0, 0, 0);
        static const png_color palette[4] = { { 0, 0, 0 }, { 255, 0, 0 }, { 0, 255, 0 }, { 9, 9, 255 } };
        if (file[i].color == PNG_COLOR_TYPE_PALETTE) png_set_PLTE(p, info, palette, 4);
        png_write_info(p, info);
        for (int pass = png_set_interlace_handling(p); pass > 0; pass--)
            for (int y = 0; y < H; y++) png_write_row(p, row);
        png_write_end(p, info);
        png_destroy_write_struct(&p, &info);
        save(s, folder, file[i].name);
    }
}

// A .npy of version 1.0; a value is a small whole number, as a float or not.
static void put_array(Seed *s, const char *descr, const char *shape, int count) {
    char dict[128];
    int length = snprintf(dict, sizeof dict, "{'descr': '%s', 'fortran_order': False, 'shape': %s, }", descr, shape);
    int padded = (10 + length + 1 + 63) / 64 * 64 - 10;
    PUT_LITERAL(s, "\x93NUMPY\x01\x00");
    put_little(s, (uint64_t)padded, 2);
    put_text(s, dict);
    for (int k = length; k < padded - 1; k++) put_byte(s, ' ');
    put_byte(s, '\n');
    for (int i = 0; i < count; i++) {
        double d = i % 3 == 0;
        float f = (float)d;
        uint64_t bits = (uint64_t)(i % 3);
        if (descr[1] == 'f' && descr[2] == '8') memcpy(&bits, &d, 8);
        if (descr[1] == 'f' && descr[2] == '4') bits = 0, memcpy(&bits, &f, 4);
        put_little(s, bits, descr[2] - '0');
    }
}

// Tables of features: a bare array, an archive of all parts, statistics, a safetensors file.
static void features(Seed *s, const char *folder) {
    static const struct { const char *archive, *name, *descr, *shape; int count; } member[] = {
        { "table", "features.npy", "<f4", "(3, 3)", 9 },  { "table", "labels.npy", "<i8", "(3,)", 3 },
        { "table", "probs.npy", "<f8", "(3, 3)", 9 },     { "statistics", "mu.npy", "<f8", "(1,)", 1 },
        { "statistics", "sigma.npy", "<f8", "(1, 1)", 1 },
    };
    put_array(s, "<f8", "(2, 2)", 4);
    save(s, folder, "bare");
    static Seed one, directory;
    for (size_t first = 0; first < sizeof member / sizeof *member;) {
        size_t i = first;
        directory.size = 0;
        for (; i < sizeof member / sizeof *member && strcmp(member[i].archive, member[first].archive) == 0; i++) {
            one.size = 0;
            put_array(&one, member[i].descr, member[i].shape, member[i].count);
            size_t at = s->size;
            for (int central = 0; central < 2; central++) {           // local header, then the entry of the directory
                Seed *to = central ? &directory : s;
                put_little(to, central ? 0x02014b50 : 0x04034b50, 4);
                put_little(to, 20, central ? 4 : 2);                    // versions
                put_little(to, 0, 8);                                   // flags, stored, time
                put_little(to, crc32(0, one.byte, (uInt)one.size), 4);
                put_little(to, one.size, 4);
                put_little(to, one.size, 4);
                put_little(to, strlen(member[i].name), 2);
                put_little(to, 0, 2);
                if (central) put_little(to, 0, 8), put_little(to, 0, 2), put_little(to, at, 4);
                put_text(to, member[i].name);
                if (!central) put(to, one.byte, one.size);
            }
        }
        size_t at = s->size;
        put(s, directory.byte, directory.size);
        put_little(s, 0x06054b50, 4);
        put_little(s, 0, 4);
        put_little(s, i - first, 2);
        put_little(s, i - first, 2);
        put_little(s, directory.size, 4);
        put_little(s, at, 4);
        put_little(s, 0, 2);
        save(s, folder, member[first].archive);
        first = i;
    }
    static const char header[] = "{\"features\":{\"dtype\":\"F16\",\"shape\":[2,2],\"data_offsets\":[0,8]},"
                                 "\"labels\":{\"dtype\":\"I32\",\"shape\":[2],\"data_offsets\":[8,16]}}";
    put_little(s, sizeof header - 1, 8);
    PUT_LITERAL(s, header);
    put_little(s, 0x3c003c003c00, 8);
    put_little(s, 1, 8);
    save(s, folder, "safetensors");
}

int main(int argc, char **argv) {
    static const struct { const char *target; void (*write)(Seed *, const char *); } table[] = {
        { "safetensors", safetensors }, { "png", png }, { "npy", npy }, { "idx", idx }, { "cifar", cifar },
        { "pickle", pickle }, { "json", json }, { "torch_file", torch_file }, { "manifest", manifest },
        { "classifier", classifier },
        { "features", features },
        { "result", result },
    };
    static Seed seed;
    if (argc != 3) { fprintf(stderr, "usage: seeds TARGET FOLDER\n"); return 2; }
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(table[i].target, argv[1]) == 0) { table[i].write(&seed, argv[2]); return 0; }
    put_pixels(&seed, 64);
    save(&seed, argv[2], "bytes");
    return 0;
}
