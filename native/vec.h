// Vectors of the instruction set that is being compiled, by the compilers' vector extensions:
// + - * / and comparisons work on them, `mask ? a : b` selects by lane, a comparison gives an
// integer vector of 0 and -1. Everything lies in the instruction set's own namespace and is
// inlined, so that the linker cannot give one set's code to another.
//
// A translation unit defines OSTINATO_ISA_NS before it includes this.
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#ifndef OSTINATO_ISA_NS
#error "define OSTINATO_ISA_NS, the namespace of this instruction set"
#endif

#define OSTINATO_INLINE inline __attribute__((always_inline))

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are passed to inlined functions only
#endif

namespace ostinato::OSTINATO_ISA_NS {

#if defined(__AVX512F__)
#define OSTINATO_VEC_BYTES 64
#elif defined(__AVX2__)
#define OSTINATO_VEC_BYTES 32
#else
#define OSTINATO_VEC_BYTES 16
#endif

// The vector of T: F its elements, Half half as many, I and U signed and unsigned integers of the same
// size as F's.
template <class T>
struct Vec;

template <>
struct Vec<float> {
  typedef float F __attribute__((vector_size(OSTINATO_VEC_BYTES)));
  typedef float Half __attribute__((vector_size(OSTINATO_VEC_BYTES / 2)));
  typedef int32_t I __attribute__((vector_size(OSTINATO_VEC_BYTES)));
  typedef uint32_t U __attribute__((vector_size(OSTINATO_VEC_BYTES)));
  static constexpr int width = OSTINATO_VEC_BYTES / 4;
};

template <>
struct Vec<double> {
  typedef double F __attribute__((vector_size(OSTINATO_VEC_BYTES)));
  typedef double Half __attribute__((vector_size(OSTINATO_VEC_BYTES / 2)));
  typedef int64_t I __attribute__((vector_size(OSTINATO_VEC_BYTES)));
  typedef uint64_t U __attribute__((vector_size(OSTINATO_VEC_BYTES)));
  static constexpr int width = OSTINATO_VEC_BYTES / 8;
};

template <class T>
using VecOf = typename Vec<T>::F;
template <class T>
using IntOf = typename Vec<T>::I;
template <class T>
using HalfOf = typename Vec<T>::Half;

using VecF = VecOf<float>;
using VecD = VecOf<double>;
using IntF = IntOf<float>;
using IntD = IntOf<double>;

// ---- bits

OSTINATO_INLINE IntF to_bits(VecF v) { return (IntF)v; }
OSTINATO_INLINE IntD to_bits(VecD v) { return (IntD)v; }
OSTINATO_INLINE VecF from_bits(IntF v) { return (VecF)v; }
OSTINATO_INLINE VecD from_bits(IntD v) { return (VecD)v; }

// ---- memory; nothing need be aligned

template <class T>
OSTINATO_INLINE VecOf<T> load(const T* p) {
  VecOf<T> v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

template <class T>
OSTINATO_INLINE void store(T* p, VecOf<T> v) {
  __builtin_memcpy(p, &v, sizeof(v));
}

// Past the cache, where the processor can: to memory aligned to the vector's size. Other threads may see
// it after fence_past_cache() (cache.h) alone.
template <class T>
OSTINATO_INLINE void store_past_cache(T* p, VecOf<T> v) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), (__m512i)v);
#elif defined(__AVX2__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)v);
#elif defined(__SSE2__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), (__m128i)v);
#else
  store(p, v);
#endif
}

template <class T>
OSTINATO_INLINE VecOf<T> broadcast(T x) {
  return x - VecOf<T>{};  // x - 0 is x for every x, -0 and NaN too
}

// The first n elements (0 <= n <= width); memory past them is not touched, lanes past them are 0.
#if defined(__AVX512F__)
OSTINATO_INLINE VecF load(const float* p, int64_t n) {
  return (VecF)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1u), p);
}
OSTINATO_INLINE VecD load(const double* p, int64_t n) {
  return (VecD)_mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1u), p);
}
OSTINATO_INLINE void store(float* p, VecF v, int64_t n) {
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1u), (__m512)v);
}
OSTINATO_INLINE void store(double* p, VecD v, int64_t n) {
  _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1u), (__m512d)v);
}
#elif defined(__AVX2__)
OSTINATO_INLINE __m256i first_lanes_f32(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
OSTINATO_INLINE __m256i first_lanes_f64(int64_t n) {
  return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
}
OSTINATO_INLINE VecF load(const float* p, int64_t n) {
  return (VecF)_mm256_maskload_ps(p, first_lanes_f32(n));
}
OSTINATO_INLINE VecD load(const double* p, int64_t n) {
  return (VecD)_mm256_maskload_pd(p, first_lanes_f64(n));
}
OSTINATO_INLINE void store(float* p, VecF v, int64_t n) {
  _mm256_maskstore_ps(p, first_lanes_f32(n), (__m256)v);
}
OSTINATO_INLINE void store(double* p, VecD v, int64_t n) {
  _mm256_maskstore_pd(p, first_lanes_f64(n), (__m256d)v);
}
#else
OSTINATO_INLINE VecF load(const float* p, int64_t n) {
  VecF v{};
  for (int i = 0; i < Vec<float>::width; ++i) {
    if (i < n) v[i] = p[i];
  }
  return v;
}
OSTINATO_INLINE VecD load(const double* p, int64_t n) {
  VecD v{};
  for (int i = 0; i < Vec<double>::width; ++i) {
    if (i < n) v[i] = p[i];
  }
  return v;
}
OSTINATO_INLINE void store(float* p, VecF v, int64_t n) {
  for (int i = 0; i < Vec<float>::width; ++i) {
    if (i < n) p[i] = v[i];
  }
}
OSTINATO_INLINE void store(double* p, VecD v, int64_t n) {
  for (int i = 0; i < Vec<double>::width; ++i) {
    if (i < n) p[i] = v[i];
  }
}
#endif

// Halves of vectors, for rows that fill no more than that: the first n <= width / 2 elements of one, or
// of two rows in one vector. (A vector that is half empty costs as much as a full one.)
#if defined(__AVX512DQ__) && defined(__AVX512VL__)
inline constexpr bool kHalves = true;

template <bool Whole, class T>
OSTINATO_INLINE HalfOf<T> load_half(const T* p, int64_t n) {
  const auto mask = (__mmask8)((1u << n) - 1u);
  if constexpr (Whole) {
    return (HalfOf<T>)_mm256_loadu_pd((const double*)p);
  } else if constexpr (sizeof(T) == 4) {
    return (HalfOf<T>)_mm256_maskz_loadu_ps(mask, p);
  } else {
    return (HalfOf<T>)_mm256_maskz_loadu_pd(mask, p);
  }
}
template <bool Whole, class T>
OSTINATO_INLINE void store_half(T* p, HalfOf<T> v, int64_t n) {
  const auto mask = (__mmask8)((1u << n) - 1u);
  if constexpr (Whole) {
    _mm256_storeu_pd((double*)p, (__m256d)v);
  } else if constexpr (sizeof(T) == 4) {
    _mm256_mask_storeu_ps(p, mask, (__m256)v);
  } else {
    _mm256_mask_storeu_pd(p, mask, (__m256d)v);
  }
}

template <bool Whole, class T>
OSTINATO_INLINE VecOf<T> load_halves(const T* p, const T* q, int64_t n) {
  const __m512d low = _mm512_castpd256_pd512((__m256d)load_half<Whole>(p, n));
  return (VecOf<T>)_mm512_maskz_insertf64x4(0xff, low, (__m256d)load_half<Whole>(q, n), 1);
}
template <bool Whole, class T>
OSTINATO_INLINE void store_halves(T* p, T* q, VecOf<T> v, int64_t n) {
  store_half<Whole>(p, (HalfOf<T>)_mm512_maskz_extractf64x4_pd(0xf, (__m512d)v, 0), n);
  store_half<Whole>(q, (HalfOf<T>)_mm512_maskz_extractf64x4_pd(0xf, (__m512d)v, 1), n);
}

OSTINATO_INLINE HalfOf<float> fma(HalfOf<float> a, HalfOf<float> b, HalfOf<float> c) {
  return (HalfOf<float>)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
OSTINATO_INLINE HalfOf<double> fma(HalfOf<double> a, HalfOf<double> b, HalfOf<double> c) {
  return (HalfOf<double>)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
}
#else
inline constexpr bool kHalves = false;
#endif

// ---- arithmetic

// a * b + c, with one rounding where the instruction set has that.
#if defined(__AVX512F__)
OSTINATO_INLINE VecF fma(VecF a, VecF b, VecF c) {
  return (VecF)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
OSTINATO_INLINE VecD fma(VecD a, VecD b, VecD c) {
  return (VecD)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
}
#elif defined(__AVX2__) && defined(__FMA__)
OSTINATO_INLINE VecF fma(VecF a, VecF b, VecF c) {
  return (VecF)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
OSTINATO_INLINE VecD fma(VecD a, VecD b, VecD c) {
  return (VecD)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
}
#elif defined(__ARM_NEON) && defined(__aarch64__)
OSTINATO_INLINE VecF fma(VecF a, VecF b, VecF c) {
  return (VecF)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
OSTINATO_INLINE VecD fma(VecD a, VecD b, VecD c) {
  return (VecD)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
}
#else
OSTINATO_INLINE VecF fma(VecF a, VecF b, VecF c) { return a * b + c; }
OSTINATO_INLINE VecD fma(VecD a, VecD b, VecD c) { return a * b + c; }
#endif

#if defined(__FMA__) || (defined(__ARM_NEON) && defined(__aarch64__))
inline constexpr bool kHasFma = true;
#else
inline constexpr bool kHasFma = false;
#endif

// The smaller or larger by lane; b where either is NaN. One instruction, which compilers don't
// always find for `a < b ? a : b`.
#if defined(__AVX512F__)
OSTINATO_INLINE VecF min(VecF a, VecF b) {
  return (VecF)_mm512_maskz_min_ps(0xffff, (__m512)a, (__m512)b);
}
OSTINATO_INLINE VecD min(VecD a, VecD b) {
  return (VecD)_mm512_maskz_min_pd(0xff, (__m512d)a, (__m512d)b);
}
OSTINATO_INLINE VecF max(VecF a, VecF b) {
  return (VecF)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b);
}
OSTINATO_INLINE VecD max(VecD a, VecD b) {
  return (VecD)_mm512_maskz_max_pd(0xff, (__m512d)a, (__m512d)b);
}
#elif defined(__AVX2__)
OSTINATO_INLINE VecF min(VecF a, VecF b) { return (VecF)_mm256_min_ps((__m256)a, (__m256)b); }
OSTINATO_INLINE VecD min(VecD a, VecD b) { return (VecD)_mm256_min_pd((__m256d)a, (__m256d)b); }
OSTINATO_INLINE VecF max(VecF a, VecF b) { return (VecF)_mm256_max_ps((__m256)a, (__m256)b); }
OSTINATO_INLINE VecD max(VecD a, VecD b) { return (VecD)_mm256_max_pd((__m256d)a, (__m256d)b); }
#elif defined(__SSE2__)
OSTINATO_INLINE VecF min(VecF a, VecF b) { return (VecF)_mm_min_ps((__m128)a, (__m128)b); }
OSTINATO_INLINE VecD min(VecD a, VecD b) { return (VecD)_mm_min_pd((__m128d)a, (__m128d)b); }
OSTINATO_INLINE VecF max(VecF a, VecF b) { return (VecF)_mm_max_ps((__m128)a, (__m128)b); }
OSTINATO_INLINE VecD max(VecD a, VecD b) { return (VecD)_mm_max_pd((__m128d)a, (__m128d)b); }
#else
OSTINATO_INLINE VecF min(VecF a, VecF b) { return a < b ? a : b; }
OSTINATO_INLINE VecD min(VecD a, VecD b) { return a < b ? a : b; }
OSTINATO_INLINE VecF max(VecF a, VecF b) { return a > b ? a : b; }
OSTINATO_INLINE VecD max(VecD a, VecD b) { return a > b ? a : b; }
#endif

OSTINATO_INLINE VecF select(IntF mask, VecF a, VecF b) { return mask ? a : b; }
OSTINATO_INLINE VecD select(IntD mask, VecD a, VecD b) { return mask ? a : b; }

// Whether any lane of a mask is set.
#if defined(__AVX512DQ__)
OSTINATO_INLINE bool any(IntF mask) { return _mm512_movepi32_mask((__m512i)mask) != 0; }
OSTINATO_INLINE bool any(IntD mask) { return _mm512_movepi64_mask((__m512i)mask) != 0; }
#elif defined(__AVX2__)
OSTINATO_INLINE bool any(IntF mask) { return _mm256_movemask_ps((__m256)mask) != 0; }
OSTINATO_INLINE bool any(IntD mask) { return _mm256_movemask_pd((__m256d)mask) != 0; }
#elif defined(__SSE2__)
OSTINATO_INLINE bool any(IntF mask) { return _mm_movemask_ps((__m128)mask) != 0; }
OSTINATO_INLINE bool any(IntD mask) { return _mm_movemask_pd((__m128d)mask) != 0; }
#else
OSTINATO_INLINE bool any(IntF mask) {
  bool found = false;
  for (int i = 0; i < Vec<float>::width; ++i) found |= mask[i] != 0;
  return found;
}
OSTINATO_INLINE bool any(IntD mask) {
  bool found = false;
  for (int i = 0; i < Vec<double>::width; ++i) found |= mask[i] != 0;
  return found;
}
#endif

// (The unmasked 512-bit intrinsics of some compilers warn of their own undefined operand.)
#if defined(__AVX512F__)
OSTINATO_INLINE VecF sqrt(VecF a) { return (VecF)_mm512_maskz_sqrt_ps(0xffff, (__m512)a); }
OSTINATO_INLINE VecD sqrt(VecD a) { return (VecD)_mm512_maskz_sqrt_pd(0xff, (__m512d)a); }
#elif defined(__AVX2__)
OSTINATO_INLINE VecF sqrt(VecF a) { return (VecF)_mm256_sqrt_ps((__m256)a); }
OSTINATO_INLINE VecD sqrt(VecD a) { return (VecD)_mm256_sqrt_pd((__m256d)a); }
#elif defined(__SSE2__)
OSTINATO_INLINE VecF sqrt(VecF a) { return (VecF)_mm_sqrt_ps((__m128)a); }
OSTINATO_INLINE VecD sqrt(VecD a) { return (VecD)_mm_sqrt_pd((__m128d)a); }
#else
OSTINATO_INLINE VecF sqrt(VecF a) {
  for (int i = 0; i < Vec<float>::width; ++i) a[i] = __builtin_sqrtf(a[i]);
  return a;
}
OSTINATO_INLINE VecD sqrt(VecD a) {
  for (int i = 0; i < Vec<double>::width; ++i) a[i] = __builtin_sqrt(a[i]);
  return a;
}
#endif

}  // namespace ostinato::OSTINATO_ISA_NS
