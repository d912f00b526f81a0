// tests/test_report.c - the report: names made harmless, intervals over seeds, result files, arms, tables, the page.
//
// The results in here are invented: small numbers whose means and intervals can be worked out by hand.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "eval/report_images.h"
#include "eval/report_stats.h"
#include "eval/svg.h"
#include "eval/table.h"
#include "tests/program.h"

static void expect_near(double got, double wanted, double tolerance) {
    if (!(fabs(got - wanted) <= tolerance)) fail_msg("%.12g, not %.12g", got, wanted);
}

static void expect_text(Text *t, const char *wanted) {
    assert_string_equal(t->s ? t->s : "", wanted);
    text_free(t);
}

// ---- text
static void names_are_made_harmless(void **state) {
    (void)state;
    Text t = { 0 };
    text_html(&t, "<b onclick='x'>&\"\n\x80 \xe2\x80\xae \xc3\xa9");
    expect_text(&t, "&lt;b onclick=&#39;x&#39;&gt;&amp;&quot;\xef\xbf\xbd\xef\xbf\xbd \xef\xbf\xbd \xc3\xa9");
    text_latex(&t, "a_b%c\\d{$}&#^~");
    expect_text(&t, "a\\_b\\%c\\textbackslash{}d\\{\\$\\}\\&\\#\\textasciicircum{}\\textasciitilde{}");
    text_markdown(&t, "a|b*c<d");
    expect_text(&t, "a\\|b\\*c&lt;d");
    text_csv(&t, "=1+\"2\"");
    expect_text(&t, "\" =1+\"\"2\"\"\"");
    static const char *const broken[] = { "\xc3", "\xed\xa0\x80", "\xf5\x80\x80\x80", "\xc0\xaf", "\xe2\x82" };
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        text_html(&t, broken[i]);
        for (const char *s = t.s; *s; s += 3) assert_memory_equal(s, "\xef\xbf\xbd", 3);
        text_free(&t);
    }
    char *name = name_shorten("\xc3\xa9t\xc3\xa9s de la mer", 5);
    assert_string_equal(name, "\xc3\xa9t\xc3\xa9s\xe2\x80\xa6");
    free(name);
}

static void base64_is_that_of_rfc_4648(void **state) {
    (void)state;
    static const char *const pairs[][2] = { { "", "" }, { "f", "Zg==" }, { "fo", "Zm8=" }, { "foo", "Zm9v" },
                                            { "foob", "Zm9vYg==" }, { "fooba", "Zm9vYmE=" }, { "foobar", "Zm9vYmFy" } };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        Text t = { 0 };
        text_base64(&t, (const uint8_t *)pairs[i][0], strlen(pairs[i][0]));
        expect_text(&t, pairs[i][1]);
    }
}

static void numbers_show_three_digits(void **state) {
    (void)state;
    Text t = { 0 };
    text_number(&t, -0.004, 2, "-");
    text_number(&t, -1.25, 1, "~");
    text_number(&t, NAN, 1, "-");
    expect_text(&t, "0.00~1.2-");
    assert_int_equal(decimals_for((double[]){ 123.4, 5 }, 2), 2);
    assert_int_equal(decimals_for((double[]){ 0.0123, NAN, 0 }, 3), 4);
    assert_int_equal(decimals_for((double[]){ 4321 }, 1), 0);
}

// ---- statistics: quantiles of printed tables, to their digits
static void students_quantiles_are_those_of_tables(void **state) {
    (void)state;
    static const struct { double df, q; } table[] = { { 1, 12.7062 }, { 2, 4.30265 }, { 3, 3.18245 }, { 4, 2.77645 },
                                                      { 9, 2.26216 }, { 30, 2.04227 }, { 1e9, 1.95996 } };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        expect_near(student_quantile(0.975, table[i].df), table[i].q, table[i].df == 1 ? 5e-5 : 5e-6);
    expect_near(student_quantile(0.025, 4), -2.77645, 5e-6);
    expect_near(student_quantile(0.5, 7), 0, 1e-12);
}

static void intervals_are_students(void **state) {
    (void)state;
    const double a[] = { 1, 2, 3 }, b[] = { 11, 12.5, 12.5 }, c[] = { 11, 12, 13 };
    MeanInterval m = mean_interval(a, 3);
    expect_near(m.mean, 2, 1e-15);
    expect_near(m.high - 2, 4.30265 / sqrt(3), 5e-6);
    expect_near(2 - m.low, 4.30265 / sqrt(3), 5e-6);
    m = paired_interval(b, a, 3);                       // 10, 10.5, 9.5
    expect_near(m.mean, 10, 1e-14);
    expect_near(m.high - 10, 4.30265 * 0.5 / sqrt(3), 5e-6);
    m = welch_interval(c, 3, a, 3);                     // equal variances and counts: 4 degrees of freedom
    expect_near(m.high - 10, 2.77645 * sqrt(2.0 / 3), 5e-6);
    assert_true(isnan(mean_interval(a, 1).low) && mean_interval(a, 1).mean == 1 && isnan(mean_interval(a, 0).mean));
}

// ---- axes
static void ticks_are_round_and_cover(void **state) {
    (void)state;
    double t[SVG_TICKS];
    assert_int_equal(svg_ticks(0.3, 97, 5, t), 6);
    for (int i = 0; i < 6; i++) expect_near(t[i], 20 * i, 1e-12);
    int n = svg_ticks(-0.013, 0.02, 4, t);
    expect_near(t[0], -0.02, 1e-15);
    expect_near(t[n - 1], 0.02, 1e-15);
    n = svg_ticks(5, 5, 5, t);
    assert_true(n >= 2 && t[0] <= 5 && t[n - 1] >= 5);
    for (int i = -30; i < 30; i++) {
        double low = pow(1.7, i), high = low * (1 + (i + 31) % 7);
        n = svg_ticks(low, high * 1.01, 5, t);
        assert_true(n >= 2 && n <= SVG_TICKS && t[0] <= low * (1 + 1e-9) && t[n - 1] >= high * (1 - 1e-9));
    }
    char text[32];
    svg_tick_text(-0.02, 0.01, text);
    assert_string_equal(text, "\xe2\x88\x92" "0.02");
    svg_tick_text(20000, 5000, text);
    assert_string_equal(text, "20k");
}

// ---- results
static const char hostile[] = "<script>alert(1)</script>";

// A result of two classes: class 0 frequent, class 1 rare. caller frees.
static char *result_json(double fid, double omega, const char *protocol, const char *more) {
    return xasprintf("{\"format\": \"cbdm-eval-1\", \"protocol\": \"%s\", \"title\": \"t\", \"extractor\": "
                     "{\"name\": \"e\", \"sha256\": \"ab\"}, \"generated\": {\"count\": 100, \"omega\": %g}, "
                     "\"reference\": {\"source\": \"r\", \"count\": 50, \"digest\": \"cd\"}, \"class_names\": "
                     "[\"%s\", \"b_1\"], \"train_counts\": [900, 10], \"groups\": {\"rule\": \"1,0,1\", \"many\": "
                     "[0], \"medium\": [], \"few\": [1]}, \"overall\": {\"n_gen\": 100, \"fid\": %.17g, \"kid\": "
                     "null}, \"per_class\": [{\"fid\": %.17g}, {\"fid\": %.17g}], \"per_group\": {\"many\": "
                     "{\"fid\": 1}, \"few\": {\"fid\": 2}}, \"confusion\": [[9, 1], [3, 7]], \"warnings\": "
                     "[\"%s\"]%s}\n", protocol, omega, hostile, fid, fid - 1, fid + 1,
                     hostile, more);
}

static Result *parse(const char *text, Error *err) { return result_parse(text, strlen(text), "FILE", err); }

static void results_are_read(void **state) {
    (void)state;
    Error err;
    char *text = result_json(5, 1.5, "tf", ", \"unknown\": [{\"a\": 1}], \"copy\": 3, \"nearest\": {\"copy_rate\": "
                             "0.5, \"pairs\": [{\"class\": 1, \"sample\": 7, \"train\": 3, \"distance\": 0.25}]}");
    Result *r = parse(text, &err);
    if (!r) fail_msg("%s", err.msg);
    assert_string_equal(r->protocol, "tf");
    assert_string_equal(r->class_names[0], hostile);
    assert_true(r->classes == 2 && r->omega == 1.5 && r->all.fid.value == 5 && isnan(r->all.kid.value));
    assert_true(r->per_class[1].fid.value == 6 && r->group_of[0] == GROUP_MANY && r->group_of[1] == GROUP_FEW);
    assert_true(r->confusion[2] == 3 && r->n_pairs == 1 && r->pairs[0].train == 3 && r->copy_all == 0.5);
    assert_true(isnan(r->steps) && !r->fidelity.per_class && r->n_warnings == 1);
    result_free(r);
    free(text);
}

static void foreign_results_are_refused_by_offset(void **state) {
    (void)state;
    static const struct { const char *text, *why; } bad[] = {
        { "{\"format\": \"other\"}", "offset 0: format" },
        { "{\"format\": \"cbdm-eval-1\", \"a\": 1, \"a\": 2}", "offset 38: a member named twice" },
        { "{\"format\": \"cbdm-eval-1\", ", "offset 26" },
        { "{\"format\": \"cbdm-eval-1\", \"class_names\": [\"x\"], \"train_counts\": [1, 2]}", "offset 64: "
          "train_counts: 2 values, 1 classes" },
        { "{\"format\": \"cbdm-eval-1\", \"overall\": {\"fid\": \"5\"}}", "fid: a number is expected" },
        { "{\"format\": \"cbdm-eval-1\", \"overall\": {\"fid\": 1e999}}", "a number out of range" },
        { "{\"format\": \"cbdm-eval-1\", \"class_names\": [\"x\"], \"groups\": {\"few\": [1]}}",
          "no number of a class" },
        { "{\"format\": \"cbdm-eval-1\", \"class_names\": [\"x\"], \"groups\": {\"few\": [0, 0]}}",
          "a class named twice" },
        { "{\"format\": \"cbdm-eval-1\", \"class_names\": [\"x\"], \"confusion\": [[1, 2]]}", "2 values, 1 classes" },
        { "{\"format\": \"cbdm-eval-1\", \"class_names\": [\"x\"], \"nearest\": {\"pairs\": [{\"class\": 0, "
          "\"sample\": -1, \"train\": 0}]}}", "sample: a whole number is expected" },
        { "{\"format\": \"cbdm-eval-1\", \"train_counts\": [-1]}", "not negative" },
        { "[[[[[[[[[[[[[[[[[[[[", "nested too deep" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Error err = { 0 };
        assert_null(parse(bad[i].text, &err));
        assert_int_equal(err.code, ERR_FILE);
        if (strncmp(err.msg, "FILE: ", 6) != 0 || !strstr(err.msg, bad[i].why))
            fail_msg("%s: %s", bad[i].text, err.msg);
    }
}

static void results_of_other_protocols_differ(void **state) {
    (void)state;
    Error err;
    char *a = result_json(5, 0, "tf", ""), *b = result_json(9, 1, "tf", ", \"options\": {\"bootstrap\": 7}"),
         *c = result_json(5, 0, "clean", ""), *d = result_json(5, 0, "tf", ", \"options\": {\"seed\": 7}");
    const char *texts[] = { a, b, c, d };
    Result *r[4];
    for (int i = 0; i < 4; i++) assert_non_null(r[i] = parse(texts[i], &err));
    assert_null(result_differs(r[0], r[1]));                     // resamples change no number
    char *protocol = result_differs(r[0], r[2]), *options = result_differs(r[0], r[3]);
    assert_string_equal(protocol, "the protocol: tf and clean");
    assert_non_null(strstr(options, "options"));
    char *e = result_protocol(r[0]), *of_classifier;
    r[0]->extractor = "classifier resnet32";
    of_classifier = result_protocol(r[0]);
    assert_null(strstr(e, "not resized"));
    assert_non_null(strstr(of_classifier, "Protocol tf (images not resized); features of classifier resnet32"));
    free(e);
    free(of_classifier);
    free(protocol);
    free(options);
    for (int i = 0; i < 4; i++) result_free(r[i]);
    free(a);
    free(b);
    free(c);
    free(d);
}

// ---- runs
static void write_text(const char *name, const char *text) { write_bytes(name, text, strlen(text)); }

static void write_run(const char *name, int seed, double tau, double fid0, double fid1) {
    char path[256], text[512];
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s%s", name, i ? "/eval" : "");
        assert_true(dir_make(temp_path(path), NULL));
    }
    snprintf(path, sizeof path, "%s/config.json", name);
    snprintf(text, sizeof text, "{\"tau\": %g, \"seed\": %d, \"log-every\": %d, \"lr\": 0.001}\n", tau, seed, seed + 1);
    write_text(path, text);
    snprintf(path, sizeof path, "%s/stats.jsonl", name);
    write_text(path, "{\"step\": 1, \"loss\": 1.5, \"denoising\": 1.5, \"balancing\": 0, \"grad_norm\": 2}\n"
               "{\"step\": 2, \"loss\": 0.5, \"denoising\": 0.4, \"balancing\": 0.1, \"grad_norm\": 1}\n"
               "{\"step\": 2, \"probe\": \"held_out\", \"denoising_by_class\": [0.5, null], "
               "\"denoising_by_tenth_of_t\": [1]}\n"
               "{\"step\": 2, \"eval\": {\"fidelity\": [1, 0, 0.5], "
               "\"per_group\": {\"few\": {\"fidelity\": 0.25}}}}\nnonsense\n[1]\n{\"step\": 3, \"lo");
    for (int i = 0; i < 2; i++) {
        char *json = result_json(i ? fid1 : fid0, i ? 1.5 : 0, "tf", "");
        snprintf(path, sizeof path, "%s/eval/w%d.json", name, i);
        write_text(path, json);
        free(json);
    }
}

// Two arms of two seeds. FIDs of a: 4, 6 at omega 0; 8, 10 at 1.5. Of b: 4.1, 6.3; 1, 2.
static int write_runs(void **state) {
    if (tempdir_make(state) != 0) return -1;
    write_run("a-s0", 0, 0, 4, 8);
    write_run("a-s1", 1, 0, 6, 10);
    write_run("b-s0", 0, 1, 4.1, 1);
    write_run("b-s1", 1, 1, 6.3, 2);
    return 0;
}

static void read_runs(RunSet *runs, EntrySet *entries) {
    const char *paths[] = { temp_path("a-s0"), temp_path("a-s1"), temp_path("b-s0"), temp_path("b-s1") };
    Error err;
    if (!run_set_read(paths, 4, NULL, 0, NULL, 0, runs, &err)) fail_msg("%s", err.msg);
    if (!entries_of(runs, NULL, 0, entries, &err)) fail_msg("%s", err.msg);
}

static void runs_are_read(void **state) {
    (void)state;
    RunSet s;
    EntrySet e;
    read_runs(&s, &e);
    const Run *r = &s.run[0];
    assert_int_equal(r->series[SERIES_LOSS].n, 2);
    assert_true(r->series[SERIES_DENOISING].value[1] == 0.4 && r->bad_lines == 3 && r->n_results == 2);
    assert_true(r->probe[PROBE_HELD_OUT].classes == 2 && isnan(r->probe[PROBE_HELD_OUT].by_class[1]));
    assert_int_equal(r->evals.n, 1);
    assert_true(r->evals.value[EVAL_FIDELITY][0] == 0.5 && r->evals.value[EVAL_FIDELITY_FEW][0] == 0.25);
    entries_free(&e);
    run_set_free(&s);
}

static void seeds_make_an_arm(void **state) {
    (void)state;
    RunSet s;
    EntrySet e;
    read_runs(&s, &e);
    assert_int_equal(s.n_arms, 2);
    assert_string_equal(s.arm[0].name, "a");
    assert_true(s.arm[0].n == 2 && s.run[2].arm == 1 && e.n == 4 && e.families == 1);
    assert_string_equal(e.entry[1].label, "a, \xcf\x89=1.5");
    assert_true(e.entry[0].n == 2 && e.entry[0].run[1]->seed == 1);
    entries_free(&e);
    run_set_free(&s);
    const char *files[] = { temp_path("a-s0/eval/w0.json"), temp_path("a-s0/eval/w1.json"),
                            temp_path("b-s0/eval/w0.json") };
    const char *names[] = { "x", "x" };
    Error err;
    if (!run_set_read(files, 3, names, 2, NULL, 0, &s, &err)) fail_msg("%s", err.msg);
    assert_true(s.n == 2 && s.run[0].n_results == 2 && s.run[1].seed == 0 && s.n_arms == 1);
    run_set_free(&s);
}

// ---- tables
static bool make(const RunSet *s, const EntrySet *e, const char *metric, Where w, bool strict, Table *out, Error *err) {
    static const Metric *m;
    static Where part;
    m = metric_find(metric);
    part = w;
    return table_make(s, e, 0, &m, 1, &part, 1, strict, out, err);
}

static void cells_are_means_with_t_intervals(void **state) {
    (void)state;
    RunSet s;
    EntrySet e;
    Table t;
    Error err;
    read_runs(&s, &e);
    assert_true(make(&s, &e, "fid", (Where){ OF_ALL, 0 }, true, &t, &err));
    const Cell *c = table_cell(&t, 0, 0, 0);
    expect_near(c->mean, 5, 1e-14);
    expect_near(c->high - c->mean, 12.7062, 5e-5);              // 4 and 6: standard error 1, 1 degree of freedom
    assert_true(c->n == 2 && c->interval == INTERVAL_SEEDS);
    // Lines: a 0, a 1.5, b 0, b 1.5. The best is b 1.5 with 1 and 2. Paired differences from it: a 0: 3, 4 (half-width
    // 6.35: tied); a 1.5: 7, 8 (6.35: worse); b 0: 3.1, 4.3 (7.6: tied).
    static const Mark wanted[] = { MARK_TIED, MARK_NONE, MARK_TIED, MARK_BEST };
    assert_memory_equal(t.mark, wanted, sizeof wanted);
    char *caption = table_caption(&t, "bold", "in italics");
    static const char *const parts[] = { "Protocol tf", "100 generated", "digest cd", "95% t-interval over 2 seeds",
                                         "Bold: best", "in italics: not significantly worse at 5%", "paired t-test" };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!strstr(caption, parts[i])) fail_msg("no \"%s\" in %s", parts[i], caption);
    free(caption);
    table_free(&t);
    entries_free(&e);
    run_set_free(&s);
}

static void incomplete_cells_are_refused(void **state) {
    (void)state;
    RunSet s;
    EntrySet e;
    Table t;
    Error err;
    read_runs(&s, &e);
    assert_false(make(&s, &e, "kid", (Where){ OF_ALL, 0 }, true, &t, &err));
    assert_non_null(strstr(err.msg, "run a-s0 has no kid of all"));
    table_free(&t);
    assert_true(make(&s, &e, "kid", (Where){ OF_ALL, 0 }, false, &t, &err));
    assert_true(isnan(table_cell(&t, 0, 0, 0)->mean) && t.mark[0] == MARK_NONE);
    table_free(&t);
    entries_free(&e);
    run_set_free(&s);
    program_expect(ERR_USAGE, "report a-s0 a-s1/eval/w0.json --table csv --metric fid");
    expect_in_stderr("run a-s1 has no result for the line \"a, \xcf\x89=1.5\"");
    program_expect(0, "report a-s0 a-s1/eval/w0.json --table csv --metric fid --rows all --omega 0 --out one.csv");
}

static void formats_hold_the_numbers(void **state) {
    (void)state;
    size_t n;
    program_expect(0, "report a-s0 a-s1 b-s0 b-s1 --table csv --metric fid --rows all,few,b_1 --out t.csv");
    char *csv = (char *)read_bytes("t.csv", &n);
    assert_non_null(strstr(csv, "\n\"b, \xcf\x89=1.5\",fid,\"all\",1.5,"));
    assert_non_null(strstr(csv, "\n\"a, \xcf\x89=0\",fid,\"few\",2,2,2,t over seeds,2,best,"));      // all lines: 2
    assert_non_null(strstr(csv, "\n\"a, \xcf\x89=0\",fid,\"b_1\",6,"));
    free(csv);
    program_expect(0, "report a-s0 a-s1 b-s0 b-s1 --table latex --metric fid --rows all,b_1 --out t.tex");
    char *tex = (char *)read_bytes("t.tex", &n);
    assert_non_null(strstr(tex, "b, $\\omega$=1.5 & {\\boldmath $1.50 \\pm 6.35$} & "));
    assert_non_null(strstr(tex, "\\underline{$5.00 \\pm 12.71$}"));
    assert_non_null(strstr(tex, "b\\_1"));
    free(tex);
    program_expect(0, "report a-s0 a-s1 b-s0 b-s1 --table md --metric fid --rows all --out t.md");
    char *md = (char *)read_bytes("t.md", &n);
    assert_non_null(strstr(md, "| **1.50 \xc2\xb1 6.35** |"));
    free(md);
}

static void protocols_do_not_mix(void **state) {
    (void)state;
    char *json = result_json(5, 0, "clean", "");
    write_text("clean.json", json);
    free(json);
    program_expect(ERR_USAGE, "report a-s0/eval/w0.json clean.json --table md --metric fid");
    expect_in_stderr("may not stand in one table: they differ in the protocol");
    program_expect(0, "report a-s0/eval/w0.json clean.json --out two.html");
    size_t n;
    char *html = (char *)read_bytes("two.html", &n);
    assert_non_null(strstr(html, "Results measured in other ways"));
    free(html);
}

static void mistakes_are_named(void **state) {
    (void)state;
    program_expect(ERR_USAGE, "report");
    program_expect(ERR_USAGE, "report a-s0");
    expect_in_stderr("--out");
    program_expect(ERR_FILE, "report nowhere --out x.html");
    expect_in_stderr("nowhere: no such run folder");
    program_expect(ERR_USAGE, "report a-s0 --table md --metric fidd");
    expect_in_stderr("fidd is not known; did you mean fid");
    program_expect(ERR_USAGE, "report a-s0 --table md --rows rare");
    program_expect(ERR_USAGE, "report a-s0 b-s0 --table md --metric fid --omega 0,2");
    expect_in_stderr("--omega 2: no result is of this guidance strength; there are 0, 1.5\n");
    program_expect(ERR_USAGE, "report a-s0 --omega 7 --out x.html");
    assert_false(file_exists(temp_path("x.html")));
    program_expect(ERR_USAGE, "report a-s0 b-s0 --names a --out x.html");
    program_expect(ERR_FILE, "report a-s0 --samples b-s0 --out x.html");
    program_expect(ERR_USAGE, "report --compare a,b");
    write_text("a-s0/torn.json", "{\"format\": ");
    program_expect(ERR_FILE, "report a-s0 --out x.html");
    expect_in_stderr("a-s0/torn.json: not read: at offset 11");
    remove(temp_path("a-s0/torn.json"));
}

// ---- the page
static int count(const char *text, const char *part) {
    int n = 0;
    for (const char *at = text; (at = strstr(at, part)); at++) n++;
    return n;
}

// Four images of a class, side 4; every pixel of image i is 10 i + 1.
static void write_samples(const char *run, const char *class) {
    char path[256];
    snprintf(path, sizeof path, "%s/samples/000", run);
    assert_true(dir_make(temp_path(path), NULL));
    for (int i = 0; i < 4; i++) {
        uint8_t pixels[16];
        memset(pixels, 10 * i + 1, sizeof pixels);
        snprintf(path, sizeof path, "%s/samples/000/%06d.png", run, 2 * i);
        assert_true(png_write(temp_path(path), pixels, 4, 4, 1, NULL));
    }
    snprintf(path, sizeof path, "%s/samples/manifest.jsonl", run);
    char *line = xasprintf("{\"label\": 0, \"class\": \"%s\", \"omega\": 1.5}\n", class);
    write_text(path, line);
    free(line);
}

static void the_page_is_whole_and_harmless(void **state) {
    (void)state;
    write_samples("b-s0", hostile);
    program_expect(0, "report a-s0 a-s1 b-s0 b-s1 --out page.html --svg figures --title <i>x</i>");
    size_t n;
    char *html = (char *)read_bytes("page.html", &n);
    static const char *const ids[] = { "summary", "differences", "classes", "guidance", "confusion", "samples",
                                       "training", "denoising", "while-training", "protocol", "configuration" };
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        char *section = xasprintf("<section id=\"%s\">", ids[i]), *link = xasprintf("href=\"#%s\"", ids[i]);
        if (!strstr(html, section) || !strstr(html, link)) fail_msg("no section %s", ids[i]);
        free(section);
        free(link);
    }
    assert_null(strstr(html, "<script"));
    assert_null(strstr(html, "<i>x"));
    assert_non_null(strstr(html, "&lt;script&gt;alert(1)"));
    int namespaces = count(html, "xmlns=\"http://www.w3.org/2000/svg\"");
    assert_int_equal(count(html, "http"), namespaces + count(html, "http-equiv"));
    assert_int_equal(count(html, "src=\""), count(html, "src=\"data:image/png;base64,"));
    assert_int_equal(count(html, "<img "), 1);
    assert_int_equal(count(html, "<details>"), count(html, "</details>"));
    assert_int_equal(count(html, "<div"), count(html, "</div>"));
    assert_non_null(strstr(html, "12 lines of stats.jsonl"));    // 3 of each run
    free(html);
    char *svg = (char *)read_bytes("figures/fid-per-class.svg", &n);
    assert_non_null(strstr(svg, "<style>"));
    assert_null(strstr(svg, "<script"));
    free(svg);
}

static void a_sheet_is_a_name_and_no_path(void **state) {
    (void)state;
    uint8_t pixels[16] = { 0 };
    assert_true(png_write(temp_path("outside.png"), pixels, 4, 4, 1, NULL));
    char *json = result_json(5, 0, "tf", ", \"nearest\": {\"sheet\": \"../../outside.png\", \"pairs\": [{\"class\": 0, "
                             "\"sample\": 0, \"train\": 0, \"distance\": 0}]}");
    write_run("c-s0", 0, 2, 1, 2);
    write_text("c-s0/eval/w0.json", json);
    free(json);
    program_expect(0, "report c-s0 --out sheet.html");
    size_t n;
    char *html = (char *)read_bytes("sheet.html", &n);
    assert_int_equal(count(html, "<img "), 0);
    assert_non_null(strstr(html, "training images are not at hand"));
    free(html);
}

static void sheets_are_cut_into_rows(void **state) {
    (void)state;
    enum { SIDE = 3, COLUMNS = 16, CLASSES = 2 };
    uint8_t cells[CLASSES * COLUMNS][SIDE * SIDE];
    const uint8_t *images[CLASSES * COLUMNS] = { NULL };
    for (int i = 0; i < CLASSES * COLUMNS; i++) memset(cells[i], i + 1, sizeof cells[i]);
    for (int i = 0; i < 3; i++) images[i] = cells[i], images[COLUMNS + i] = cells[COLUMNS + i];
    assert_true(png_write_grid(temp_path("sheet.png"), images, CLASSES, COLUMNS, SIDE, SIDE, 1, NULL));
    ImageRow row = { 0 };
    sheet_of_class(temp_path("sheet.png"), CLASSES, 1, 2, &row);
    assert_true(row.n == 2 && row.w == SIDE && row.h == SIDE);
    for (int i = 0; i < SIDE * SIDE * 3; i++) assert_int_equal(row.rgb[1][i], COLUMNS + 2);
    image_row_free(&row);
    sheet_of_class(temp_path("sheet.png"), CLASSES, 0, 16, &row);
    assert_int_equal(row.n, 3);                                  // empty cells are left out
    image_row_free(&row);
    sheet_of_class(temp_path("sheet.png"), 3, 0, 16, &row);      // of another number of classes: not cut
    assert_int_equal(row.n, 0);
}

static void pngs_in_memory_are_those_of_files(void **state) {
    (void)state;
    uint8_t pixels[5 * 4 * 3], *file, *memory;
    for (size_t i = 0; i < sizeof pixels; i++) pixels[i] = (uint8_t)(i * 37);
    size_t n_file, n_memory;
    Error err;
    assert_true(png_write(temp_path("x.png"), pixels, 5, 4, 3, &err));
    file = read_bytes("x.png", &n_file);
    memory = png_encode(pixels, 5, 4, 3, &n_memory, &err);
    assert_int_equal(n_file, n_memory);
    assert_memory_equal(file, memory, n_file);
    free(file);
    free(memory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_made_harmless), cmocka_unit_test(base64_is_that_of_rfc_4648),
        cmocka_unit_test(numbers_show_three_digits), cmocka_unit_test(students_quantiles_are_those_of_tables),
        cmocka_unit_test(intervals_are_students), cmocka_unit_test(ticks_are_round_and_cover),
        cmocka_unit_test(results_are_read), cmocka_unit_test(foreign_results_are_refused_by_offset),
        cmocka_unit_test(results_of_other_protocols_differ), cmocka_unit_test(runs_are_read),
        cmocka_unit_test(seeds_make_an_arm), cmocka_unit_test(cells_are_means_with_t_intervals),
        cmocka_unit_test(incomplete_cells_are_refused), cmocka_unit_test(formats_hold_the_numbers),
        cmocka_unit_test(protocols_do_not_mix), cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(the_page_is_whole_and_harmless), cmocka_unit_test(a_sheet_is_a_name_and_no_path),
        cmocka_unit_test(sheets_are_cut_into_rows), cmocka_unit_test(pngs_in_memory_are_those_of_files),
    };
    return cmocka_run_group_tests(tests, write_runs, tempdir_remove);
}
