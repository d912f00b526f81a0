// tests/fuzz/fuzz_json.c - any text as JSON and as a configuration; strings that are read survive quoting.
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include "core/cli.h"
#include "core/file.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

typedef struct { int a, e; int64_t b; double c; bool d; } Config;
static const char *const choices[] = { "x", "y", NULL };
static const Flag flags[] = {
    { "a", "1", "", FLAG_INT, offsetof(Config, a), NULL, -5, 100 },
    { "b", "1", "", FLAG_I64, offsetof(Config, b), NULL, 0, 0 },
    { "c", "1", "", FLAG_F64, offsetof(Config, c), NULL, 0, 0 },
    { "d", "true", "", FLAG_BOOL, offsetof(Config, d), NULL, 0, 0 },
    { "e", "x", "", FLAG_ENUM, offsetof(Config, e), choices, 0, 0 },
};

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    JsonReader r;
    json_start(&r, (const char *)bytes, n);
    char *s = json_peek(&r) == '"' ? json_string(&r) : NULL;
    if (s) {
        char *quoted = json_quote(s);
        json_start(&r, quoted, strlen(quoted));
        char *back = json_string(&r);
        CHECK(back && strcmp(back, s) == 0 && json_end(&r), "%s", quoted);
        free(back);
        free(quoted);
        free(s);
    }
    json_start(&r, (const char *)bytes, n);
    bool legal = json_skip(&r) && json_end(&r);
    CHECK(legal == !r.why && r.at >= r.begin && r.at <= r.end, "at %td of %zu", r.at - r.begin, n);
    Config config;
    Error err;
    char *text = memcpy(xcalloc(n + 1, 1), bytes, n);
    cli_defaults(flags, 5, &config);
    if (cli_from_json(flags, 5, &config, text, "fuzz", &err)) {
        char *json = cli_json(flags, 5, &config);
        CHECK(cli_from_json(flags, 5, &config, json, "again", &err), "%s: %s", json, err.msg);
        free(json);
    }
    free(text);
    return 0;
}
