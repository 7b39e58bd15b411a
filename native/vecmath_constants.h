// The constants of vecmath.h.
#pragma once

#include <cstdint>

#include "vec.h"

namespace ostinato::OSTINATO_ISA_NS {

// Constants of a type. Adding `round` to a small number leaves it, rounded to an integer, in the
// low bits; adding `biased`, the same plus the exponent's bias. ln2_hi has trailing zeros, so that
// a multiple of it is exact without an fma. Polynomials are minimax fits, lowest power first.
template <class T>
struct Num;

template <>
struct Num<float> {
  using Int = int32_t;
  using UInt = uint32_t;
  static constexpr int mantissa = 23;
  static constexpr Int sign = INT32_MIN, one = 0x3f800000, sqrt_half = 0x3f3504f3;
  static constexpr Int round_bits = 0x4b400000, inf_bits = 0x7f800000;
  static constexpr float inf = __builtin_inff(), nan = __builtin_nanf("");
  static constexpr float round = 0x1.8p23f, integers = 0x1p23f;  // from here on all are integers
  static constexpr float biased = round + 127;
  static constexpr float min_normal = 0x1p-126f, up = 0x1p24f, log_up = 24;
  static constexpr float log2e = 0x1.715476p+0f, ln2_hi = 0x1.62e4p-1f, ln2_lo = 0x1.7f7d1cp-20f;
  static constexpr float exp_min = -104, exp_max = 89;  // 0 and infinity from here on
  static constexpr float expm1_min = -30, tanh_max = 10;  // -1 and 1 from here on
  // 2^n = 2^(n +- split) * 2^-+split, each normal for every n of exp
  static constexpr int split = 64;
  static constexpr float split_down = 0x1p-64f, split_up = 0x1p64f;
  // (expm1(r) - r) / r^2 for |r| <= log(2) / 2
  static constexpr float exp_q[] = {0x1.fffffep-2f, 0x1.5554bp-3f, 0x1.555672p-5f, 0x1.1227bap-7f,
                                    0x1.6bed76p-10f};
  // (log((1 + s) / (1 - s)) / s - 2) / s^2 in powers of s^2, |s| <= 0.172
  static constexpr float log_p[] = {0x1.555554p-1f, 0x1.999c26p-2f, 0x1.23d3ep-2f, 0x1.f13ae6p-3f};
  // (sin(r) / r - 1) / r^2 and (cos(r) - 1 + r^2 / 2) / r^4 in powers of r^2, |r| <= pi / 4
  static constexpr float sin_s[] = {-0x1.555556p-3f, 0x1.111176p-7f, -0x1.a05bb6p-13f,
                                    0x1.7cd4d2p-19f};
  static constexpr float cos_c[] = {0x1.55554ap-5f, -0x1.6c0c1ap-10f, 0x1.99e0f2p-16f};
  static constexpr float trig_bound = 0x1p20f;
  // erf(x) / x - 1 in powers of x^2, |x| <= 1; log(1 - erf(x)) in powers of x - 1 for 1 <= x <=
  // erf_max; erf is 1 from there on
  static constexpr float erf_p[] = {0x1.06eba8p-3f,  -0x1.812740p-2f,  0x1.ce2d4ep-4f,
                                    -0x1.b7fe54p-6f, 0x1.542b9ap-8f, -0x1.a4f564p-11f,
                                    0x1.4bf040p-14f};
  static constexpr float erf_max = 4;
  static constexpr float erfc_q[] = {-0x1.d97fc0p+0f, -0x1.51c9b0p+1f,  -0x1.afabbcp-1f,
                                     -0x1.547ceep-5f, 0x1.4933aep-7f,   -0x1.07b612p-9f,
                                     0x1.2f9628p-12f, -0x1.6bd360p-16f};
};

template <>
struct Num<double> {
  using Int = int64_t;
  using UInt = uint64_t;
  static constexpr int mantissa = 52;
  static constexpr Int sign = INT64_MIN, one = 0x3ff0000000000000, sqrt_half = 0x3fe6a09e667f3bcd;
  static constexpr Int round_bits = 0x4338000000000000, inf_bits = 0x7ff0000000000000;
  static constexpr double inf = __builtin_inf(), nan = __builtin_nan("");
  static constexpr double round = 0x1.8p52, integers = 0x1p52;
  static constexpr double biased = round + 1023;
  static constexpr double min_normal = 0x1p-1022, up = 0x1p54, log_up = 54;
  static constexpr double log2e = 0x1.71547652b82fep+0, ln2_hi = 0x1.62e42feep-1,
                          ln2_lo = 0x1.a39ef35793c76p-33;
  static constexpr double exp_min = -746, exp_max = 710;
  static constexpr double expm1_min = -60, tanh_max = 22;
  static constexpr int split = 128;
  static constexpr double split_down = 0x1p-128, split_up = 0x1p128;
  static constexpr double exp_q[] = {
      0x1p-1,                0x1.5555555555559p-3,  0x1.555555555553ep-5,  0x1.111111110f6c3p-7,
      0x1.6c16c16c1f0d1p-10, 0x1.a01a01afde351p-13, 0x1.a01a017bbb8b8p-16, 0x1.71ddf861f6fc4p-19,
      0x1.27e53626fa562p-22, 0x1.af5eab7d94cb2p-26, 0x1.1ee8b6eebea5bp-29};
  static constexpr double log_p[] = {
      0x1.5555555555593p-1, 0x1.999999997f98dp-2, 0x1.2492494234757p-2, 0x1.c71c51ccb2a75p-3,
      0x1.74664c97a5ac1p-3, 0x1.39a03826f5b07p-3, 0x1.2f15ca528459ap-3};
  static constexpr double sin_s[] = {
      -0x1.5555555555549p-3,  0x1.111111110f89cp-7,   -0x1.a01a019c14146p-13,
      0x1.71de3578da82ap-19, -0x1.ae5e66895c4c3p-26, 0x1.5d92f583f75efp-33};
  static constexpr double cos_c[] = {
      0x1.555555555554cp-5,   -0x1.6c16c16c15218p-10, 0x1.a01a019cbe2d5p-16,
      -0x1.27e4f81188ab6p-22, 0x1.1ee9f05860ee9p-29,  -0x1.8fb09b05a47bap-37};
  static constexpr double trig_bound = 0x1p20;
  // 2 / pi, and pi / 2 in three parts of 33 bits and one of 53
  static constexpr double two_over_pi = 0x1.45f306dc9c883p-1;
  static constexpr double half_pi[] = {0x1.921fb544p+0, 0x1.0b4611a6p-34, 0x1.3198a2ep-69,
                                       0x1.b839a252049c1p-104};
  static constexpr double half_pi_rest = 0x1.0b4611a626331p-34;  // half_pi without its first part
  static constexpr double erf_p[] = {
      0x1.06eba8214db68p-3,  -0x1.812746b0379c1p-2,  0x1.ce2f21a040f8dp-4,  -0x1.b82ce31203e43p-6,
      0x1.565bccfa4c753p-8,  -0x1.c02db066d4316p-11, 0x1.f9a2be488a921p-14, -0x1.f4ca821d0c5ddp-17,
      0x1.b981bffe2e7b9p-20, -0x1.5c124e415ba5bp-23, 0x1.d76432f95acb4p-27, -0x1.ac7d62c406074p-31};
  static constexpr double erf_max = 6;
  static constexpr double erfc_q[] = {
      -0x1.d97fbf27aa2a1p+0,  -0x1.51c9b0006c23cp+1,  -0x1.afabc11a2902fp-1,
      -0x1.5477f09c8fd25p-5,  0x1.48c9d406a9330p-7,   -0x1.033f68e85fc09p-9,
      0x1.f1b483c506834p-13,  0x1.b8c4889f5a2b3p-16,  -0x1.c76982758e90bp-16,
      0x1.419443522e668p-17,  -0x1.101956bfd083ap-19, 0x1.dddd75b8cd7e9p-24,
      0x1.03686f83b4298p-23,  -0x1.16e17032534b9p-24, 0x1.5c0533e04e652p-26,
      -0x1.34a5b5fdb22e8p-28, 0x1.8c1857abda61dp-31,  -0x1.5ffb6303178a3p-34,
      0x1.8421b95537276p-38,  -0x1.8fa2b306e5dacp-43};
};

}  // namespace ostinato::OSTINATO_ISA_NS
