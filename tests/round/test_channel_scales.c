/* Channel scales: what eq. 68 says of them, what they gain where rows and columns differ in size, and that
 * losses are still those of the original basis. */
#include "hyb.h"
#include "base/f16.h"
#include "base/mem.h"

enum { M = 80, N = 50 };

/* Weights whose rows and columns differ in size by up to e^2 and e^3, and factors whose diagonals differ. */
static void uneven(float **W, float **H_in, float **H_out)
{
    *W = normal(M * N, "scales"), *H_in = spd(N, "scales in"), *H_out = spd(M, "scales out");
    for (size_t i = 0; i < M; i++)
        for (size_t j = 0; j < N; j++)
            (*W)[i * N + j] *= expf(2 * sinf((float)i) + 3 * sinf((float)(j * j)));
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < N; j++)
            (*H_in)[i * N + j] *= expf(sinf((float)(3 * i)) + sinf((float)(3 * j)));
}

static kq_packed rounded(const float *W, const float *H_in, const float *H_out, kq_channel_scales how,
                         kq_round_report *r)
{
    kq_packed p;
    const kq_round_options opt = {.sigma_reg = 0.1, .seed = 3, .threads = 2, .channel_scales = how};
    check_ok(
        kq_round_linear(hyb, &(kq_round_input){"scales", W, M, N, H_in, H_out, true}, &opt, &p, r, &err));
    return p;
}

/* The columns are settled last: b_j^2 is (sum of W_ij^2 / a_i^2)^p / H_jj^q times one number. */
static void test_formula(void **state)
{
    (void)state;
    static const struct {
        kq_channel_scales how;
        double p, q;
    } cases[] = {{KQ_CHANNEL_SCALES_RMS, 1, 0}, {KQ_CHANNEL_SCALES_CURVATURE, 0.75, 0.25}};
    float *W, *H_in, *H_out;
    uneven(&W, &H_in, &H_out);
    for (size_t c = 0; c < 2; c++) {
        kq_packed p = rounded(W, H_in, H_out, cases[c].how, NULL);
        double ratio = 0, log_b = 0, log_a = 0;
        for (size_t j = 0; j < N; j++) {
            double sum = 0;
            for (size_t i = 0; i < M; i++)
                sum += (double)W[i * N + j] * W[i * N + j] / ((double)p.sv[i] * p.sv[i]);
            const double b2 = (double)p.su[j] * p.su[j],
                         r = pow(sum, cases[c].p) / pow(H_in[j * (N + 1)], cases[c].q) / b2;
            ratio = j ? ratio : r;
            check_number(r / ratio, 1, 3e-3); /* half floats */
            log_b += log(b2);
        }
        for (size_t i = 0; i < M; i++)
            log_a += log((double)p.sv[i] * p.sv[i]);
        check_number(exp(log_b / N), 1, 1e-2);
        check_number(exp(log_a / M), 1, 1e-2);
        for (size_t i = 0; i < M + N; i++) {
            const float s = i < M ? p.sv[i] : p.su[i - M];
            assert_true(kq_f16_to_f32(kq_f32_to_f16(s)) == s);
        }
        kq_packed_free(&p);
    }
    kq_free(W), kq_free(H_in), kq_free(H_out);
}

/* Scales gain where sizes differ. The reported loss is the true one, and the forecast knows the scales. */
static void test_gain(void **state)
{
    (void)state;
    float *W, *H_in, *H_out, *E = kq_alloc(M * N, sizeof *E);
    uneven(&W, &H_in, &H_out);
    double loss[3], e;
    check_ok(kq_trellis_error(hyb, &e, &err));
    for (int how = KQ_CHANNEL_SCALES_NONE; how <= KQ_CHANNEL_SCALES_CURVATURE; how++) {
        kq_round_report r;
        kq_forecast f;
        const kq_round_options opt = {
            .sigma_reg = 0.1, .seed = 3, .threads = 2, .channel_scales = (kq_channel_scales)how};
        kq_packed p = rounded(W, H_in, H_out, (kq_channel_scales)how, &r);
        check_ok(
            kq_forecast_linear(&(kq_round_input){"scales", W, M, N, H_in, H_out, false}, &opt, &f, &err));
        check_ok(kq_unround_linear(hyb, &p, E, 1, &err));
        for (size_t i = 0; i < M * N; i++)
            E[i] = W[i] - E[i];
        loss[how] = 0.5 * quadratic(E, M, N, H_in, H_out);
        check_number(r.predicted_loss / loss[how], 1, 1e-3);
        print_message("scales %d: loss %.4g, forecast %.4g\n", how, loss[how], kq_forecast_loss(&f, e));
        assert_true(fabs(log(loss[how] / kq_forecast_loss(&f, e))) < 0.5);
        kq_packed_free(&p);
    }
    assert_true(loss[1] < loss[0] && loss[2] < 0.3 * loss[0]);
    kq_free(W), kq_free(H_in), kq_free(H_out), kq_free(E);
}

/* A side without a factor, a row of zeros, and no scales at all: signs alone. */
static void test_signs_alone(void **state)
{
    (void)state;
    float *W, *H_in, *H_out;
    uneven(&W, &H_in, &H_out);
    kq_packed none = rounded(W, H_in, H_out, KQ_CHANNEL_SCALES_NONE, NULL),
              one = rounded(W, H_in, NULL, KQ_CHANNEL_SCALES_CURVATURE, NULL);
    for (size_t i = 0; i < M; i++)
        assert_true(fabsf(none.sv[i]) == 1 && none.sv[i] == one.sv[i]);
    for (size_t j = 0; j < N; j++)
        assert_true(fabsf(none.su[j]) == 1 && (one.su[j] < 0) == (none.su[j] < 0));
    memset(W + 5 * N, 0, N * sizeof *W);
    H_in[7 * (N + 1)] = 0;
    kq_packed zero = rounded(W, H_in, H_out, KQ_CHANNEL_SCALES_CURVATURE, NULL);
    assert_true(zero.sv[5] == none.sv[5] && zero.su[7] == none.su[7]);
    kq_channel_scales how;
    check_fails(kq_channel_scales_parse("sinkhorn", &how, &err), KQ_E_ARG,
                "--channel-scales sinkhorn: expected");
    kq_packed_free(&none), kq_packed_free(&one), kq_packed_free(&zero);
    kq_free(W), kq_free(H_in), kq_free(H_out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_formula), cmocka_unit_test(test_gain),
                                       cmocka_unit_test(test_signs_alone)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
