// tests/test_classifier_data.c - what a classifier is trained on, and how fast: crops, mirrors, orders, learning rates.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include "eval/classifier_impl.h"

static void augmentation_is_a_pure_function(void **state) {
    (void)state;
    ClassifierRecipe r = classifier_recipe;
    enum { N = 4000 };
    int64_t place[81] = { 0 }, mirrored = 0, moved = 0;
    for (int i = 0; i < N; i++) {
        Augment a = classifier_draw(&r, 3, i), b = classifier_draw(&r, 3, i), other = classifier_draw(&r, 4, i);
        assert_memory_equal(&a, &b, sizeof a);
        assert_true(abs(a.dy) <= 4 && abs(a.dx) <= 4);
        place[(a.dy + 4) * 9 + a.dx + 4]++;
        mirrored += a.mirror;
        moved += a.dy != other.dy || a.dx != other.dx || a.mirror != other.mirror;
    }
    // six standard deviations of a binomial: sqrt(4000 / 4) = 32 and sqrt(4000 / 81) = 7
    assert_in_range(mirrored, N / 2 - 190, N / 2 + 190);
    for (int i = 0; i < 81; i++) assert_in_range(place[i], N / 81 - 43 > 0 ? N / 81 - 43 : 0, N / 81 + 43);
    assert_in_range(moved, N - N / 162 - 60, N);
    r.flip = false;
    r.crop_pad = 0;
    Augment none = classifier_draw(&r, 3, 1);
    assert_true(none.dx == 0 && none.dy == 0 && !none.mirror);
}

// A 2 x 3 image of one channel: moved, mirrored, black beyond its edges, normalised.
static void prepared_pixels_are_where_they_belong(void **state) {
    (void)state;
    ClassifierConfig c = { .height = 2, .width = 3, .channels = 1 };
    const float image[] = { 51, 102, 153, 204, 255, 0 }, mean[] = { 0.5f }, std[] = { 0.25f };
    static const struct { Augment a; float want[6]; } cases[] = {
        { { 0, 0, false }, { 51, 102, 153, 204, 255, 0 } }, { { 0, 0, true }, { 153, 102, 51, 0, 255, 204 } },
        { { 1, 0, false }, { 204, 255, 0, 0, 0, 0 } },      { { 0, -1, false }, { 0, 51, 102, 0, 204, 255 } },
        { { -1, 1, true }, { 0, 0, 0, 0, 153, 102 } },
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        float out[6];
        classifier_prepare(image, &c, mean, std, cases[k].a, out);
        for (int i = 0; i < 6; i++)
            if (out[i] != (cases[k].want[i] / 255.0f - 0.5f) / 0.25f)
                fail_msg("case %zu, pixel %d: %g", k, i, (double)out[i]);
    }
}

static void an_epoch_holds_every_image_once(void **state) {
    (void)state;
    enum { N = 1000 };
    int64_t order[3][N], seen[N] = { 0 }, stay = 0;
    for (int i = 0; i < 3; i++) classifier_shuffle(7, i == 2 ? 1 : 0, N, order[i]);
    assert_memory_equal(order[0], order[1], sizeof order[0]);
    for (int i = 0; i < N; i++) {
        assert_in_range(order[2][i], 0, N - 1);
        assert_int_equal(seen[order[2][i]]++, 0);
        stay += order[0][i] == order[2][i];
    }
    assert_in_range(stay, 0, 12);                  // one expected, of a distribution next to Poisson's: 2e-10 beyond
}

static void statistics_of_channels(void **state) {
    (void)state;
    const uint8_t a[2 * 2 * 3] = { 0, 255, 7, 255, 255, 7, 0, 255, 7, 255, 255, 7 };
    ImageSet s[2] = { { .n = 1, .height = 1, .width = 2, .channels = 3, .u8 = a, .name = "a" },
                      { .n = 1, .height = 1, .width = 2, .channels = 3, .u8 = a + 6, .name = "b" } };
    float mean[3], std[3];
    classifier_statistics(s, 2, mean, std);
    assert_true(mean[0] == 0.5f && std[0] == 0.5f && mean[1] == 1.0f && mean[2] == (float)(7 / 255.0));
    assert_true(std[1] == (float)(1 / 255.0) && std[2] == std[1]);      // of one colour: never divided by zero
}

static void learning_rates(void **state) {
    (void)state;
    ClassifierRecipe r = classifier_recipe;
    enum { N = 12800 };                            // 100 steps an epoch, 20,000 in all
    assert_int_equal(classifier_steps(&r, N), 20000);
    const struct { int64_t step; double lr; } want[] = {
        { 0, 0.1 / 500 }, { 249, 0.05 }, { 499, 0.1 }, { 500, 0.1 }, { 15999, 0.1 }, { 16000, 1e-3 }, { 17999, 1e-3 },
        { 18000, 1e-5 }, { 19999, 1e-5 } };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++)
        assert_true(fabs(classifier_lr(&r, N, want[i].step) - want[i].lr) <= 1e-15);
    r.epochs = 2;                                  // warm-up is a tenth: 20 steps
    assert_true(fabs(classifier_lr(&r, N, 0) - 0.1 / 20) <= 1e-15 && classifier_lr(&r, N, 20) == 0.1);
    r.epochs = 1e-3;
    assert_int_equal(classifier_steps(&r, 10), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(augmentation_is_a_pure_function),
        cmocka_unit_test(prepared_pixels_are_where_they_belong),
        cmocka_unit_test(an_epoch_holds_every_image_once),
        cmocka_unit_test(statistics_of_channels),
        cmocka_unit_test(learning_rates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
