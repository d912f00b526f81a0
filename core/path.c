// core/path.c - names of files and folders, and the lines of a text.
#include "core/path.h"

#include <string.h>
#include <sys/stat.h>

bool path_is_folder(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool path_is_file(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

char *path_join(const char *folder, const char *name) {
    return xasprintf("%s%s%s", folder, text_ends_with(folder, "/") ? "" : "/", name);
}

char *path_base(const char *path) {
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') end--;
    size_t begin = end;
    while (begin > 0 && path[begin - 1] != '/') begin--;
    if (begin == end && end > 0) begin--;        // the root
    return xasprintf("%.*s", (int)(end - begin), path + begin);
}

bool text_ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

bool text_line(const char **at, const char *end, const char **line, size_t *n) {
    if (*at >= end) return false;
    const char *stop = memchr(*at, '\n', (size_t)(end - *at));
    *line = *at;
    *n = (size_t)((stop ? stop : end) - *at);
    *at += *n + (stop != NULL);
    return true;
}
