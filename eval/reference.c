// eval/reference.c - features of real images, extracted once and kept under what they depend on.
#include "eval/reference.h"
#include <stdlib.h>
#include <string.h>

char *reference_cache_folder(void) {
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (cache && *cache == '/') return xasprintf("%s/cbdm", cache);      // relative ones do not count, by the XDG rules
    return home && *home ? xasprintf("%s/.cache/cbdm", home) : NULL;
}

// The file of these features; "1" counts up when the same images come to give other features. Caller frees; NULL:
// there is no cache.
static char *cache_path(const Extractor *e, const char *digest, Protocol p) {
    char *folder = reference_cache_folder(), *path = NULL;
    if (folder && *digest)
        path = xasprintf("%s/features-1-%.32s-%s-%.32s.safetensors", folder, digest, protocol_names[p], e->hash);
    free(folder);
    return path;
}

// What the cache holds, if it is what these images would give.
static bool read_cache(const char *path, const Extractor *e, const ImageSet *s, Features *out) {
    Error err = { 0 };
    if (!path || !file_exists(path)) return false;
    if (!features_read(path, "", "", out, &err)) {
        log_warn("%s; the features are extracted anew", err.msg);
        return false;
    }
    if (out->n == s->n && out->dim == e->dim && out->classes == e->classes && !out->label == !s->label) return true;
    log_warn("%s holds features of other images; they are extracted anew", path);
    features_free(out);
    return false;
}

static bool write_cache(const char *path, const Extractor *e, const char *digest, Protocol p, const Features *f) {
    static const char *const keys[] = { "protocol", "extractor", "weights_sha256", "images_digest" };
    const char *values[] = { protocol_names[p], e->name, e->hash, digest };
    Error err = { 0 };
    char *folder = reference_cache_folder();
    bool ok = dir_make(folder, &err) && features_write(path, f, keys, values, 4, &err);
    if (ok) log_info("kept in %s", path);
    else log_warn("the features are not kept for later: %s", err.msg);
    free(folder);
    return ok;
}

// Extracted and written; then what is mapped from the file, which takes no memory of its own, takes the table's place.
// There is never more than one copy: where the file is gone at once, the images are extracted again.
static void extract(Extractor *e, const ImageSet *s, const char *path, const char *digest, Protocol p, Features *out) {
    log_info("features of %lld images of %s by the %s", (long long)s->n, s->name, e->name);
    extractor_table(e, s, protocol_quantises(p), out);
    if (!path || features_broken(out) >= 0 || !write_cache(path, e, digest, p, out)) return;
    features_free(out);
    if (!read_cache(path, e, s, out)) extract(e, s, NULL, digest, p, out);
}

bool reference_features(Extractor *e, const ImageSet *s, const char *digest, Protocol p, Features *out, Error *err) {
    if (!extractor_check(e, s, err)) return false;
    char *path = cache_path(e, digest, p);
    if (!read_cache(path, e, s, out)) extract(e, s, path, digest, p, out);
    free(path);
    return true;
}
