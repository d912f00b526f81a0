// tests/test_cli.c - flags: every way to give one, every way to get one wrong, help, JSON there and back.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include "core/cli.h"
#include "core/file.h"
#include "tests/tempdir.h"

typedef struct {
    int batch, sampler;
    int64_t seed;
    double lr;
    bool flip, fuse;
    const char *out, *data, *mult;
} Config;
static const char *const samplers[] = { "ddpm", "ddim", NULL };
static const Flag flags[] = {
    { .help = "Training" },
    { "batch", "128", "images per step", FLAG_INT, offsetof(Config, batch), NULL, 1, 65536 },
    { "learning-rate", "2e-4", "of Adam", FLAG_F64, offsetof(Config, lr), NULL, 0, 1 },
    { "seed", "0", "of every draw", FLAG_I64, offsetof(Config, seed), NULL, 0, 0 },
    { "flip", "true", "mirror half of the images", FLAG_BOOL, offsetof(Config, flip), NULL, 0, 0 },
    { "fuse", "false", "rewrite the graph", FLAG_BOOL, offsetof(Config, fuse), NULL, 0, 0 },
    { .help = "Sampling" },
    { "sampler", "ddpm", "how to walk back", FLAG_ENUM, offsetof(Config, sampler), samplers, 0, 0 },
    { "out", "runs/a", "folder for the results, a name that is long enough for this text to be wrapped at the "
      "hundredth column of the terminal", FLAG_STR, offsetof(Config, out), NULL, 0, 0 },
    { "data", NULL, "data set", FLAG_STR, offsetof(Config, data), NULL, 0, 0 },
    { "channel_mult", "1,2,2,2", "channels of each level", FLAG_LIST, offsetof(Config, mult), NULL, 0, 0 },
};
enum { N = sizeof flags / sizeof flags[0], SAMPLER_ROW = 7 };

// Parses the words of line, separated by single spaces, into c (defaults first).
static bool parse(const char *line, Config *c, const char **words, int *n_words, bool *set, Error *err) {
    static char *texts[256];            // what configurations point into, kept for the tests to look at
    static int next;
    char *argv[16], *text = texts[next++ % 256] = xstrdup(line);
    int argc = 0;
    for (char *s = strtok(text, " "); s; s = strtok(NULL, " ")) argv[argc++] = s;
    cli_defaults(flags, N, c);
    return cli_parse(flags, N, c, argc, argv, words, n_words, set, err);
}

static Config good(const char *line) {
    Config c;
    Error err;
    if (!parse(line, &c, NULL, NULL, NULL, &err)) fail_msg("%s: %s", line, err.msg);
    return c;
}

static void refused(const char *line, const char *message) {
    Config c;
    Error err = { 0 };
    if (parse(line, &c, NULL, NULL, NULL, &err)) fail_msg("%s was accepted", line);
    assert_string_equal(err.msg, message);
    assert_int_equal(err.code, ERR_USAGE);
}

static void same_double(double a, double b) {
    assert_memory_equal(&a, &b, sizeof a);
}

static void defaults(void **unused) {
    (void)unused;
    Config c = good("");
    assert_int_equal(c.batch, 128);
    same_double(c.lr, 2e-4);
    assert_int_equal(c.seed, 0);
    assert_true(c.flip && !c.fuse);
    assert_int_equal(c.sampler, 0);
    assert_string_equal(c.out, "runs/a");
    assert_null(c.data);
    assert_string_equal(c.mult, "1,2,2,2");
}

static void every_form(void **unused) {
    (void)unused;
    assert_int_equal(good("--batch=7").batch, 7);
    assert_int_equal(good("--batch 7").batch, 7);
    assert_int_equal(good("--batch 7 --batch=9").batch, 9);
    assert_int_equal(good("--batch=1").batch, 1);
    assert_int_equal(good("--batch=65536").batch, 65536);
    assert_true(good("--seed=9223372036854775807").seed == INT64_MAX);
    assert_true(good("--seed -9223372036854775808").seed == INT64_MIN);
    same_double(good("--learning-rate=.5").lr, 0.5);
    same_double(good("--learning_rate 1e-3").lr, 1e-3);
    assert_false(good("--no-flip").flip);
    assert_false(good("--no_flip").flip);
    assert_false(good("--noflip").flip);
    assert_true(good("--no-flip --flip").flip);
    assert_false(good("--flip=false").flip);
    assert_true(good("--fuse=1").fuse);
    assert_true(good("--fuse=Yes").fuse);
    assert_int_equal(good("--sampler ddim").sampler, 1);
    assert_string_equal(good("--out=--odd").out, "--odd");
    assert_string_equal(good("--out=a=b").out, "a=b");
    assert_string_equal(good("--out=").out, "");
    assert_string_equal(good("--channel-mult 1,2").mult, "1,2");
}

static void words_and_set(void **unused) {
    (void)unused;
    Config c;
    Error err;
    const char *words[2];
    int n = 2;
    bool set[N];
    assert_true(parse("one --batch 3 - --no-flip -- ", &c, words, &n, set, &err));
    assert_int_equal(n, 2);
    assert_string_equal(words[0], "one");
    assert_string_equal(words[1], "-");
    for (int i = 0; i < N; i++) assert_int_equal(set[i], i == 1 || i == 4);
    n = 2;
    assert_true(parse("-- --batch", &c, words, &n, NULL, &err));
    assert_int_equal(n, 1);
    assert_string_equal(words[0], "--batch");
    n = 2;
    assert_false(parse("a b c", &c, words, &n, NULL, &err));
    assert_string_equal(err.msg, "\"c\" is one word too many: at most 2 here");
}

static void mistakes(void **unused) {
    (void)unused;
    refused("--bacth 4", "unknown flag --bacth: did you mean --batch?");
    refused("--learningrate=1", "unknown flag --learningrate: did you mean --learning-rate?");
    refused("--no-flipp", "unknown flag --no-flipp: did you mean --no-flip?");
    refused("--chan=1", "unknown flag --chan: did you mean --channel_mult?");
    refused("--xyzzy", "unknown flag --xyzzy: see --help");
    refused("-batch 4", "unknown flag --batch: did you mean --batch?");
    refused("--flagfil x", "unknown flag --flagfil: did you mean --flagfile?");
    refused("--batch", "--batch needs a value");
    refused("--batch --flip", "--batch needs a value");
    refused("--batch=", "--batch: \"\" is not a whole number");
    refused("--batch=1.5", "--batch: \"1.5\" is not a whole number");
    refused("--batch=0x10", "--batch: \"0x10\" is not a whole number");
    refused("--batch=0", "--batch: 0 is out of range: give 1 to 65536");
    refused("--batch=65537", "--batch: 65537 is out of range: give 1 to 65536");
    refused("--batch=99999999999999999999", "--batch: 99999999999999999999 is out of range: give 1 to 65536");
    refused("--seed=9223372036854775808", "--seed: 9223372036854775808 does not fit in 64 bits");
    refused("--learning-rate=1.0001", "--learning-rate: 1.0001 is out of range: give 0 to 1");
    refused("--learning-rate=-1e-9", "--learning-rate: -1e-9 is out of range: give 0 to 1");
    refused("--learning-rate=nan", "--learning-rate: \"nan\" is not a number");
    refused("--learning-rate=inf", "--learning-rate: \"inf\" is not a number");
    refused("--learning-rate=0x1", "--learning-rate: \"0x1\" is not a number");
    refused("--learning-rate=1e999", "--learning-rate: 1e999 is too large for a number");
    refused("--learning-rate=1e", "--learning-rate: \"1e\" is not a number");
    refused("--flip=maybe", "--flip: \"maybe\" is neither true nor false");
    refused("--no-flip=1", "--no-flip=1 takes no value");
    refused("--no-batch", "--no-batch: only yes/no flags have a --no- form, --batch takes a value");
    refused("--sampler=ddmi", "--sampler: \"ddmi\" is none of ddpm, ddim: did you mean ddim?");
    refused("--sampler=heun", "--sampler: \"heun\" is none of ddpm, ddim");
    refused("stray", "\"stray\" is no flag: flags begin with --, see --help");
}

static void nearest(void **unused) {
    (void)unused;
    static const char *const verbs[] = { "train", "sample", "eval", "data", "check", "bench" };
    assert_string_equal(cli_nearest("trian", verbs, 6), "train");
    assert_string_equal(cli_nearest("sampel", verbs, 6), "sample");
    assert_string_equal(cli_nearest("samp", verbs, 6), "sample");
    assert_string_equal(cli_nearest("evla", verbs, 6), "eval");
    assert_null(cli_nearest("frobnicate", verbs, 6));
    assert_null(cli_nearest("", verbs, 6));
    assert_null(cli_nearest("x", verbs, 6));
    char longest[300];
    memset(longest, 't', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    assert_null(cli_nearest(longest, verbs, 6));
}

static void flag_files(void **unused) {
    (void)unused;
    Error err;
    Config c;
    const char *path = temp_path("flags.txt"), *inner = temp_path("inner.txt");
    assert_true(file_write_text(inner, "--seed=5\n", &err));
    char *line = xasprintf("# a comment\n// another\n\n  --batch=12 \r\n--out some where\n--no-flip\n--flagfile=%s\n"
                           "--learning_rate=1e-3", inner);
    assert_true(file_write_text(path, line, &err));
    free(line);
    line = xasprintf("--batch=1 --flagfile=%s --seed=6", path);
    c = good(line);
    free(line);
    assert_int_equal(c.batch, 12);
    assert_string_equal(c.out, "some where");
    assert_false(c.flip);
    assert_int_equal(c.seed, 6);
    same_double(c.lr, 1e-3);
    // The published configurations repeat a list's name; what the command line says replaces the list.
    assert_true(file_write_text(inner, "--channel_mult=1\n--noflip\n--channel_mult=2\n--channel_mult=4\n", &err));
    line = xasprintf("--flagfile=%s", inner);
    assert_string_equal(good(line).mult, "1,2,4");
    free(line);
    line = xasprintf("--channel_mult=9 --flagfile=%s", inner);
    assert_string_equal(good(line).mult, "1,2,4");
    free(line);
    line = xasprintf("--flagfile=%s --flagfile=%s --channel-mult=3 --channel-mult=5,6", inner, inner);
    assert_string_equal(good(line).mult, "5,6");
    free(line);
    static const char *const bad[][2] = {
        { "--batch=1\n--bacth=2\n", ":2: unknown flag --bacth: did you mean --batch?" },
        { "batch=1\n", ":1: \"batch=1\" is no flag: one --name=value a line" },
        { "--batch\n", ":1: --batch needs a value" },
        { "--flip yes\n", ":1: --flip takes no value after a space" },
    };
    line = xasprintf("--flagfile %s", path);
    for (int i = 0; i < 4; i++) {
        assert_true(file_write_text(path, bad[i][0], &err));
        assert_false(parse(line, &c, NULL, NULL, NULL, &err));
        if (strncmp(err.msg, path, strlen(path)) != 0) fail_msg("%s", err.msg);
        assert_string_equal(err.msg + strlen(path), bad[i][1]);
    }
    assert_true(file_write_text(path, line, &err));                     // names itself
    assert_false(parse(line, &c, NULL, NULL, NULL, &err));
    assert_int_equal(err.code, ERR_USAGE);
    FileWriter *w = file_create(path, &err);
    file_write(w, "--batch=1\0\n", 11);
    assert_true(file_commit(w, &err));
    assert_false(parse(line, &c, NULL, NULL, NULL, &err));
    assert_non_null(strstr(err.msg, "NUL"));
    free(line);
    assert_false(parse("--flagfile=/no/such/file", &c, NULL, NULL, NULL, &err));
    assert_int_equal(err.code, ERR_FILE);
    assert_non_null(strstr(err.msg, "/no/such/file"));
}

// What cli_help prints; caller frees.
static char *help_text(void) {
    const char *path = temp_path("help.txt");
    Error err;
    uint8_t *text;
    size_t n;
    fflush(stdout);
    int saved = dup(STDOUT_FILENO);
    assert_non_null(freopen(path, "w", stdout));
    cli_help(flags, N, "cbdm train [--flag=value ...]", "Trains a model on a\nlong-tailed data set.");
    fflush(stdout);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    assert_true(file_read(path, 1 << 20, &text, &n, &err));
    return (char *)text;
}

static void help(void **unused) {
    (void)unused;
    static const char want[] =
        "usage: cbdm train [--flag=value ...]\n"
        "\n"
        "Trains a model on a\n"
        "long-tailed data set.\n"
        "\n"
        "Training\n"
        "  --batch N            images per step (1 to 65536, default 128)\n"
        "  --learning-rate X    of Adam (0 to 1, default 2e-4)\n"
        "  --seed N             of every draw (default 0)\n"
        "  --[no-]flip          mirror half of the images (default on)\n"
        "  --[no-]fuse          rewrite the graph (default off)\n"
        "\n"
        "Sampling\n"
        "  --sampler ddpm|ddim  how to walk back (default ddpm)\n"
        "  --out TEXT           folder for the results, a name that is long enough for this text to be\n"
        "                       wrapped at the hundredth column of the terminal (default runs/a)\n"
        "  --data TEXT          data set\n"
        "  --channel_mult LIST  channels of each level (default 1,2,2,2)\n"
        "\n"
        "  --flagfile FILE      more flags from a file, one a line, # begins a comment\n"
        "  --help               this text\n";
    char *text = help_text();
    assert_string_equal(text, want);
    free(text);
    char *yes[] = { "--batch", "3", "--help" }, *no[] = { "--", "--help" }, *brief[] = { "-h" };
    assert_true(cli_wants_help(3, yes));
    assert_true(cli_wants_help(1, brief));
    assert_false(cli_wants_help(2, no));
    assert_false(cli_wants_help(0, NULL));
}

static void json_both_ways(void **unused) {
    (void)unused;
    Config c = good("--batch=3 --seed=9007199254740993 --learning-rate=0.1 --no-flip --sampler=ddim");
    c.out = "a \"quoted\" \\ path\n\x01 \xc3\xa9";
    char *json = cli_json(flags, N, &c);
    assert_string_equal(json, "{\"batch\": 3, \"learning-rate\": 0.1, \"seed\": 9007199254740993, \"flip\": false, "
                        "\"fuse\": false, \"sampler\": \"ddim\", "
                        "\"out\": \"a \\\"quoted\\\" \\\\ path\\u000a\\u0001 \xc3\xa9\", "
                        "\"data\": null, \"channel_mult\": \"1,2,2,2\"}");
    Config back;
    Error err;
    cli_defaults(flags, N, &back);
    if (!cli_from_json(flags, N, &back, json, "here", &err)) fail_msg("%s", err.msg);
    assert_string_equal(back.out, c.out);
    assert_string_equal(back.mult, c.mult);
    assert_null(back.data);
    assert_true(back.seed == c.seed && back.batch == 3 && !back.flip && back.sampler == 1);
    same_double(back.lr, 0.1);
    char *again = cli_json(flags, N, &back);
    assert_string_equal(again, json);
    free(again);
    free(json);
}

static void doubles_keep_every_digit(void **unused) {
    (void)unused;
    static const double values[] = { 0, 1, 0.1, 1.0 / 3, 2e-4, 1e-300, 123456789.123456789, 0.99999999999999989 };
    for (int i = 0; i < 8; i++) {
        Config c = { .lr = values[i] };
        char *text = cli_text(&flags[2], &c);
        same_double(strtod(text, NULL), values[i]);
        free(text);
    }
    Config c = { .lr = 2e-4 };
    char *text = cli_text(&flags[2], &c);
    assert_string_equal(text, "0.0002");
    free(text);
}

static void hostile_json(void **unused) {
    (void)unused;
    static const char *const bad[][2] = {
        { "", "expected an object" },
        { "[]", "expected an object" },
        { "{\"batch\": 3", "expected a comma" },
        { "{\"batch\": 3,}", "expected a string" },
        { "{\"batch\": 3} x", "something follows" },
        { "{\"batch\": \"3\"}", "\"batch\" must be a number" },
        { "{\"batch\": true}", "\"true\" is not a whole number" },
        { "{\"batch\": null}", "may not be null" },
        { "{\"batch\": [3]}", "expected a number" },
        { "{\"batch\": 0}", "out of range: give 1 to 65536" },
        { "{\"out\": 3}", "\"out\" must be a string" },
        { "{\"sampler\": 1}", "\"sampler\" must be a string" },
        { "{\"sampler\": \"heun\"}", "is none of" },
        { "{\"flip\": 2}", "neither true nor false" },
        { "{\"bacth\": 3}", "unknown flag --bacth: did you mean --batch?" },
        { "{\"batch\" 3}", "expected a colon" },
        { "{\"out\": \"\\u0000\"}", "NUL" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        Config c;
        Error err = { 0 };
        cli_defaults(flags, N, &c);
        if (cli_from_json(flags, N, &c, bad[i][0], "run.json", &err)) fail_msg("%s was accepted", bad[i][0]);
        bool named = strncmp(err.msg, "run.json: ", 10) == 0;
        if (!named || !strstr(err.msg, bad[i][1])) fail_msg("%s: %s", bad[i][0], err.msg);
        assert_int_equal(err.code, ERR_FILE);
    }
    char *large = xasprintf("%*s{}", 9 << 20, "");
    Config c;
    Error err = { 0 };
    cli_defaults(flags, N, &c);
    assert_false(cli_from_json(flags, N, &c, large, "run.json", &err));
    assert_non_null(strstr(err.msg, "more than a configuration"));
    free(large);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),
        cmocka_unit_test(every_form),
        cmocka_unit_test(words_and_set),
        cmocka_unit_test(mistakes),
        cmocka_unit_test(nearest),
        cmocka_unit_test(flag_files),
        cmocka_unit_test(help),
        cmocka_unit_test(json_both_ways),
        cmocka_unit_test(doubles_keep_every_digit),
        cmocka_unit_test(hostile_json),
    };
    return cmocka_run_group_tests(tests, tempdir_make, tempdir_remove);
}
