// exp, tanh and the like on vectors, for float and double. Whole range: infinities, NaN, signed
// zeros and denormal arguments and results are right; small arguments keep relative accuracy.
//
// Largest error in ULP, tested against higher precision on every instruction set
// (tests/native/test_vecmath.py reads the same table from ops.cpp and checks this one against it):
//
//   function    float   double
//   exp         1.5     1.5
//   expm1       2.0     2.5
//   log         1.5     1.5
//   log1p       2.0     2.0
//   sin         2.0     1.5
//   cos         2.0     1.5
//   tanh        3.0     3.0
//   sigmoid     2.5     2.5
//   erf         1.5     2.0
//   pow         1.0     1.0
//   rsqrt       1.5     1.5
//
// pow, and sin and cos of huge arguments (Num::trig_bound), call the C library for each lane.
#pragma once

#include <math.h>

#include "vec.h"
#include "vecmath_constants.h"

namespace ostinato::OSTINATO_ISA_NS {

// The C library's functions for some or all lanes. Out of line: rare or slow, and not to swell the
// kernels. `which` holds -1 in the lanes to be done.
static __attribute__((noinline)) void each_lane(float* y, const float* x, const int32_t* which,
                                                float (*f)(float)) {
  for (int i = 0; i < Vec<float>::width; ++i) {
    if (which[i]) y[i] = f(x[i]);
  }
}
static __attribute__((noinline)) void each_lane(double* y, const double* x, const int64_t* which,
                                                double (*f)(double)) {
  for (int i = 0; i < Vec<double>::width; ++i) {
    if (which[i]) y[i] = f(x[i]);
  }
}
static __attribute__((noinline)) void pow_lanes(float* a, const float* b) {
  for (int i = 0; i < Vec<float>::width; ++i) a[i] = ::powf(a[i], b[i]);
}
static __attribute__((noinline)) void pow_lanes(double* a, const double* b) {
  for (int i = 0; i < Vec<double>::width; ++i) a[i] = ::pow(a[i], b[i]);
}

template <class T>
struct Math {
  using N = Num<T>;
  using V = VecOf<T>;
  using I = IntOf<T>;
  using U = typename Vec<T>::U;

  // ---- parts

  static OSTINATO_INLINE V all(T x) { return broadcast<T>(x); }

  static OSTINATO_INLINE V abs(V x) { return from_bits(to_bits(x) & ~N::sign); }
  static OSTINATO_INLINE V minus_abs(V x) { return from_bits(to_bits(x) | N::sign); }
  // Sets x's sign bit where s has it: for x of s's sign, or a zero.
  static OSTINATO_INLINE V or_sign(V x, V s) {
    return from_bits(to_bits(x) | (to_bits(s) & N::sign));
  }
  static OSTINATO_INLINE V with_sign(V x, V s) {
#if defined(__AVX512F__)
    // 0xca: where the first has a 1 the second, else the third
    return (V)_mm512_ternarylogic_epi64((__m512i)(I{} + N::sign), (__m512i)s, (__m512i)x, 0xca);
#else
    return from_bits((to_bits(x) & ~N::sign) | (to_bits(s) & N::sign));
#endif
  }

  // c[K] + c[K + Step] z + c[K + 2 Step] z^2 + ...
  template <int K, int Step, int Count>
  static OSTINATO_INLINE V chain(V z, const T (&c)[Count]) {
    if constexpr (K + Step >= Count) {
      return all(c[K]);
    } else {
      return fma(z, chain<K + Step, Step>(z, c), all(c[K]));
    }
  }
  // The polynomial c at x, even and odd powers apart, which halves the latency; z is x * x.
  template <int Count>
  static OSTINATO_INLINE V poly(V x, V z, const T (&c)[Count]) {
    return fma(x, chain<1, 2>(z, c), chain<0, 2>(z, c));
  }

  // a / b to about 0.6 ULP for b in [0.5, 2] and |a| <= 1. By Newton, with AVX-512 in float: 2^-14 from
  // vrcp14ps and one step on the quotient, where vdivps is slow (kernels_f32_newton).
  template <bool Newton>
  static OSTINATO_INLINE V ratio(V a, V b) {
#if defined(__AVX512F__)
    if constexpr (Newton && sizeof(T) == 4) {
      const V inverse = (V)_mm512_maskz_rcp14_ps(0xffff, (__m512)b);
      const V q = a * inverse;
      return fma(fma(-q, b, a), inverse, q);
    }
#endif
    return a / b;
  }

  // x = n log(2) + r with |r| <= log(2) / 2: 2^n's exponent in the low bits of t, n as a number,
  // and p = expm1(r). |n| must be below 2^11 (2^9 for float). TwoParts: r as exact as if log(2) were.
  struct Reduced {
    V t, n, p;
  };
  template <bool TwoParts = true>
  static OSTINATO_INLINE Reduced reduce(V x) {
    const V t = fma(x, all(N::log2e), all(N::biased));
    const V n = t - N::biased;
    V r;
    if constexpr (TwoParts) {
      r = fma(n, all(-N::ln2_lo), fma(n, all(-N::ln2_hi), x));
    } else {
      r = fma(n, all(-(N::ln2_hi + N::ln2_lo)), x);
    }
    const V z = r * r;
    return {t, n, fma(z, poly(r, z, N::exp_q), r)};
  }
  // 2^(n + shift), which must be a normal number.
  static OSTINATO_INLINE V power(V t, int shift) {
    const auto offset = (typename N::Int)shift * ((typename N::Int)1 << N::mantissa);
    return from_bits((to_bits(t) << N::mantissa) + offset);
  }

  // ---- functions

  static OSTINATO_INLINE V exp(V x) {
    const Reduced a = reduce(min(all(N::exp_max), max(all(N::exp_min), x)));
    return scale(a.p + T(1), a);
  }
  // y * 2^n, with one rounding if that is denormal.
  static OSTINATO_INLINE V scale(V y, const Reduced& a) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) {
      return (V)_mm512_maskz_scalef_ps(0xffff, (__m512)y, (__m512)a.n);
    } else {
      return (V)_mm512_maskz_scalef_pd(0xff, (__m512d)y, (__m512d)a.n);
    }
#else
    const I down = a.n < T(0);
    return y * select(down, power(a.t, N::split), power(a.t, -N::split)) *
           select(down, all(N::split_down), all(N::split_up));
#endif
  }
  // The same for n <= 0.
  static OSTINATO_INLINE V scale_down(V y, const Reduced& a) {
#if defined(__AVX512F__)
    return scale(y, a);
#else
    return y * power(a.t, N::split) * N::split_down;
#endif
  }

  static OSTINATO_INLINE V expm1(V x) {
    const V c = min(all(N::exp_max), max(all(N::expm1_min), x));
    const Reduced a = reduce(c);
    const V s = power(a.t, -1);
    const V half = fma(s, a.p, s - T(0.5));  // of the result: 2^n may be infinite
    return or_sign(select(a.n == T(0), a.p, half + half), x);
  }

  // tanh(x) = -u / (u + 2) for u = expm1(-2 |x|).
  template <bool Newton = false>
  static OSTINATO_INLINE V tanh(V x) {
    const V minus = minus_abs(x);
    // With a fused multiply-add log(2) in one part: what that loses grows with -n, but u's sensitivity
    // is 2^n.
    const Reduced a = reduce<!kHasFma>(max(all(-2 * N::tanh_max), minus + minus));
    const V s = power(a.t, 0);
    const V u = fma(s, a.p, s - T(1));
    return with_sign(ratio<Newton>(u, u + T(2)), x);
  }

  // 1 / (1 + z) or z / (1 + z) for z = exp(-|x|), so that nothing overflows or cancels.
  template <bool Newton = false>
  static OSTINATO_INLINE V sigmoid(V x) {
    const Reduced a = reduce(max(all(N::exp_min), minus_abs(x)));
    const V z = scale_down(a.p + T(1), a);
    return ratio<Newton>(select(to_bits(x) < 0, z, all(T(1))), z + T(1));
  }

  // u = 2^k m with m in [sqrt(1/2), sqrt(2)); u normal.
  struct Split {
    V k, m;
  };
  static OSTINATO_INLINE Split split(V u) {
    const I ix = to_bits(u) + (N::one - N::sqrt_half);
    const I k = (I)((U)ix >> N::mantissa) - (N::one >> N::mantissa);
    const auto low = ((typename N::Int)1 << N::mantissa) - 1;
    return {from_bits(k + N::round_bits) - N::round, from_bits((ix & low) + N::sqrt_half)};
  }
  // k log(2) + log(1 + f) + c.
  static OSTINATO_INLINE V log_sum(V k, V f, V c) {
    const V s = f / (f + T(2));
    const V z = s * s;
    const V half = T(0.5) * f * f;
    const V tail = fma(s, fma(z, poly(z, z * z, N::log_p), half), fma(k, all(N::ln2_lo), c));
    return fma(k, all(N::ln2_hi), f - (half - tail));
  }
  // What log is outside (0, inf), for u in place of the computed y.
  static OSTINATO_INLINE V log_special(V y, V u) {
    y = select(u < N::inf, y, u);  // infinity and NaN stay
    y = select(u == T(0), all(-N::inf), y);
    return select(u < T(0), all(N::nan), y);
  }

  static OSTINATO_INLINE V log(V x) {
    const I tiny = x < N::min_normal;
    const Split a = split(select(tiny, x * N::up, x));
    const V k = a.k - select(tiny, all(N::log_up), V{});
    return log_special(log_sum(k, a.m - T(1), V{}), x);
  }

  static OSTINATO_INLINE V log1p(V x) {
    const V u = x + T(1);
    const Split a = split(u);
    const V lost = select(u >= T(2), T(1) - (u - x), x - (u - T(1))) / u;  // log(1+x) - log(u)
    const I near = a.k == T(0);
    const V y = log_sum(a.k, select(near, x, a.m - T(1)), select(near, V{}, lost));
    return or_sign(log_special(y, u), select(u < T(0), V{}, x));
  }

  // erf(x) is odd; from 1 on it is -expm1(log(1 - erf(x))).
  static OSTINATO_INLINE V erf(V x) {
    const V a = abs(x);
    const V z = a * a;
    const V low = fma(a, poly(z, z * z, N::erf_p), a);
    const V d = min(all(N::erf_max), a) - T(1);
    const V high = expm1(poly(d, d * d, N::erfc_q));
    return with_sign(select(a < T(1), low, high), x);
  }

  static OSTINATO_INLINE V rsqrt(V x) { return T(1) / sqrt(x); }

  static OSTINATO_INLINE V pow(V x, V y) {
    T a[Vec<T>::width], b[Vec<T>::width];
    store(a, x);
    store(b, y);
    pow_lanes(a, b);
    return load(static_cast<const T*>(a));
  }

  using Libm = T (*)(T);
  static OSTINATO_INLINE V sin(V x) {
    if constexpr (sizeof(T) == 4) {
      return trig<0>(x, ::sinf);
    } else {
      return trig<0>(x, static_cast<Libm>(::sin));
    }
  }
  static OSTINATO_INLINE V cos(V x) {
    if constexpr (sizeof(T) == 4) {
      return trig<1>(x, ::cosf);
    } else {
      return trig<1>(x, static_cast<Libm>(::cos));
    }
  }

  // sin(x + Quarter pi / 2)
  template <int Quarter>
  static OSTINATO_INLINE V trig(V x, Libm libm) {
    const I far = ~(abs(x) <= N::trig_bound);
    V r, rest;
    I quarter;
    quarters(select(far, V{}, x), r, rest, quarter);
    quarter += Quarter;
    const V z = r * r;
    const V half = T(0.5) * z;
    const V s = r + fma(r * z, poly(z, z * z, N::sin_s), fma(-half, rest, rest));
    const V w = T(1) - half;
    const V lost = (T(1) - w) - half;
    const V c = w + fma(z * z, poly(z, z * z, N::cos_c), fma(-r, rest, lost));
    V y = select((quarter & 1) != 0, c, s);
    y = select((quarter & 2) != 0, -y, y);
    if constexpr (Quarter == 0) y = select(x == T(0), x, y);
    if (__builtin_expect(any(far), 0)) {
      alignas(OSTINATO_VEC_BYTES) T out[Vec<T>::width], in[Vec<T>::width];
      alignas(OSTINATO_VEC_BYTES) typename N::Int which[Vec<T>::width];
      store(out, y);
      store(in, x);
      __builtin_memcpy(which, &far, sizeof(far));
      each_lane(out, in, which, libm);
      y = load(static_cast<const T*>(out));
    }
    return y;
  }

  // x = n pi / 2 + r + rest, |r| <= pi / 4, and n's low bits.
  static OSTINATO_INLINE void quarters(VecD x, VecD& r, VecD& rest, IntD& quarter) {
    using D = Num<double>;
    const VecD t = fma(x, broadcast<double>(D::two_over_pi), broadcast<double>(D::round));
    const VecD n = t - D::round;
    // The products with the 33-bit parts are exact, so is the first difference.
    const VecD a = x - n * D::half_pi[0];
    VecD lost_b, lost_c;
    const VecD b = difference(a, n * D::half_pi[1], lost_b);
    const VecD c = difference(b, n * D::half_pi[2], lost_c);
    const VecD low = (lost_b + lost_c) - n * D::half_pi[3];
    r = c + low;
    rest = (c - r) + low;
    quarter = to_bits(t);
  }
  // a - b, and what its rounding lost.
  static OSTINATO_INLINE VecD difference(VecD a, VecD b, VecD& lost) {
    const VecD d = a - b;
    const VecD back = d - a;
    lost = (a - (d - back)) - (b + back);
    return d;
  }
  // For float in double, where two parts of pi / 2 are enough.
  static OSTINATO_INLINE void quarters(VecF x, VecF& r, VecF& rest, IntF& quarter) {
    using D = Num<double>;
    typedef float Half __attribute__((vector_size(OSTINATO_VEC_BYTES / 2)));
    Half half[2], n_half[2];
    __builtin_memcpy(half, &x, sizeof(x));
    for (int i = 0; i < 2; ++i) {
      const VecD wide = __builtin_convertvector(half[i], VecD);
      const VecD t = fma(wide, broadcast<double>(D::two_over_pi), broadcast<double>(D::round));
      const VecD n = t - D::round;
      const VecD b = (wide - n * D::half_pi[0]) - n * D::half_pi_rest;
      half[i] = __builtin_convertvector(b, Half);
      n_half[i] = __builtin_convertvector(n, Half);
    }
    VecF n;
    __builtin_memcpy(&r, half, sizeof(r));
    __builtin_memcpy(&n, n_half, sizeof(n));
    rest = VecF{};
    quarter = to_bits(n + Num<float>::round);
  }

  static OSTINATO_INLINE V floor(V x) {
#if defined(__AVX512F__)
    constexpr int kDown = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
    if constexpr (sizeof(T) == 4) {
      return (V)_mm512_maskz_roundscale_ps(0xffff, (__m512)x, kDown);
    } else {
      return (V)_mm512_maskz_roundscale_pd(0xff, (__m512d)x, kDown);
    }
#else
    const V a = abs(x);
    const V nearest = with_sign((a + N::integers) - N::integers, x);
    const V down = nearest - select(nearest > x, all(T(1)), V{});
    return select(a < N::integers, down, x);
#endif
  }

  static OSTINATO_INLINE V sign(V x) {  // 0 for NaN, as torch.sign
    return select(x > T(0), all(T(1)), select(x < T(0), all(T(-1)), V{}));
  }
};

}  // namespace ostinato::OSTINATO_ISA_NS
