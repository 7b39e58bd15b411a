// Reductions, scans and normalisation over the features of a row, and sums over rows, for the
// instruction set that is being compiled (see vec.h). fill_features() is the only entry.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels.h"
#include "pointwise.inc.h"
#include "vec.h"

namespace ostinato::OSTINATO_ISA_NS {

// ---- over features

template <class T>
struct SumOf {
  static constexpr T start = 0;
  static OSTINATO_INLINE VecOf<T> join(VecOf<T> a, VecOf<T> b) { return a + b; }
  static OSTINATO_INLINE T join(T a, T b) { return a + b; }
};

template <class T>
struct MaxOf {
  static constexpr T start = -Num<T>::inf;
  static OSTINATO_INLINE VecOf<T> join(VecOf<T> a, VecOf<T> b) { return MaxOp<T>::apply(a, b); }
  static OSTINATO_INLINE T join(T a, T b) { return a != a || a > b ? a : b; }
};

// Lane i + By of v in lane i.
template <class T, int By, int... Lane>
OSTINATO_INLINE VecOf<T> rotated(VecOf<T> v, std::integer_sequence<int, Lane...>) {
#if defined(__clang__)
  return __builtin_shufflevector(v, v, ((Lane + By) % Vec<T>::width)...);
#else
  return __builtin_shuffle(v, IntOf<T>{((Lane + By) % Vec<T>::width)...});
#endif
}

// All lanes joined, by halves: through memory it would take three times as long.
template <class T, class J, int Half = Vec<T>::width / 2>
OSTINATO_INLINE T join_lanes(VecOf<T> v) {
  if constexpr (Half == 0) {
    return v[0];
  } else {
    constexpr auto lanes = std::make_integer_sequence<int, Vec<T>::width>{};
    return join_lanes<T, J, Half / 2>(J::join(v, rotated<T, Half>(v, lanes)));
  }
}

// What is reduced: a vector of elements, or one, from the i-th on.
template <class T>
struct Elements {
  const T* p;
  OSTINATO_INLINE VecOf<T> at(int64_t i) const { return load(p + i); }
  OSTINATO_INLINE T one(int64_t i) const { return p[i]; }
};

template <class T>
struct SquaredDeviations {
  const T* p;
  T mean;
  OSTINATO_INLINE VecOf<T> at(int64_t i) const {
    const VecOf<T> a = load(p + i) - mean;
    return a * a;
  }
  OSTINATO_INLINE T one(int64_t i) const { return (p[i] - mean) * (p[i] - mean); }
};

template <class T, class J, class Source>
static OSTINATO_INLINE T reduce_run(const Source& a, int64_t m) {
  constexpr int W = Vec<T>::width;
  using V = VecOf<T>;
  if (m < W) {
    T all = J::start;
    for (int64_t i = 0; i < m; ++i) all = J::join(all, a.one(i));
    return all;
  }
  V part[4];
  for (V& v : part) v = broadcast<T>(J::start);
  int64_t i = 0;
  for (; i + 4 * W <= m; i += 4 * W) {
    for (int j = 0; j < 4; ++j) part[j] = J::join(part[j], a.at(i + j * W));
  }
  for (; i + W <= m; i += W) part[0] = J::join(part[0], a.at(i));
  T all = join_lanes<T, J>(J::join(J::join(part[0], part[1]), J::join(part[2], part[3])));
  for (; i < m; ++i) all = J::join(all, a.one(i));
  return all;
}

template <class T, class J>
static void reduce(T* d, int64_t d_stride, In<T> a, int64_t rows, int64_t groups, int64_t m) {
  for (int64_t r = 0; r < rows; ++r, d += d_stride) {
    const T* p = row_of(a, r);
    for (int64_t g = 0; g < groups; ++g) {
      if (a.col_stride) {
        d[g] = reduce_run<T, J>(Elements<T>{p + g * m}, m);
      } else {
        T all = J::start;
        for (int64_t i = 0; i < m; ++i) all = J::join(all, *p);
        d[g] = all;
      }
    }
  }
}

// Runs are added up four at a time, since one alone waits for its own last sum; in double, as
// torch does.
template <class T, bool Reverse>
static void cumsum(T* d, int64_t d_stride, In<T> a, int64_t rows, int64_t groups, int64_t m) {
  constexpr int kTogether = 4;
  const int64_t runs = rows * groups, step = a.col_stride;
  for (int64_t first = 0; first < runs; first += kTogether) {
    const int64_t n = runs - first < kTogether ? runs - first : kTogether;
    const T* from[kTogether];
    T* to[kTogether];
    double sum[kTogether] = {};
    for (int64_t j = 0; j < kTogether; ++j) {
      const int64_t run = first + (j < n ? j : 0);
      const int64_t r = run / groups, at = run % groups * m;
      from[j] = row_of(a, r) + at * step;
      to[j] = d + r * d_stride + at;
    }
    for (int64_t k = 0; k < m; ++k) {
      const int64_t i = Reverse ? m - 1 - k : k;
      if (n == kTogether) {
        for (int j = 0; j < kTogether; ++j) sum[j] += from[j][i * step];
        for (int j = 0; j < kTogether; ++j) to[j][i] = static_cast<T>(sum[j]);
      } else {
        for (int64_t j = 0; j < n; ++j) {
          sum[j] += from[j][i * step];
          to[j][i] = static_cast<T>(sum[j]);
        }
      }
    }
  }
}

template <class T>
static void expand(T* d, int64_t d_stride, In<T> a, int64_t rows, int64_t groups, int64_t m) {
  for (int64_t r = 0; r < rows; ++r, d += d_stride) {
    const T* p = row_of(a, r);
    for (int64_t g = 0; g < groups; ++g) std::fill_n(d + g * m, m, p[g * a.col_stride]);
  }
}

// ---- by mean and deviation

template <class T>
static void moments(T* d, int64_t d_stride, In<T> a, T eps, int64_t rows, int64_t groups,
                    int64_t m) {
  const T share = T(1) / static_cast<T>(m);
  const auto mean_of = [&](const auto& run) { return reduce_run<T, SumOf<T>>(run, m) * share; };
  for (int64_t g = 0; g < groups && rows > 0; ++g) {
    const T* p = a.p + g * m * a.col_stride;
    T* to = d + g;
    const auto put = [&](T mean, T variance) {
      to[0] = mean;
      to[groups] = T(1) / std::sqrt(variance + eps);
      to += d_stride;
      p += a.row_stride;
    };
    if (!a.col_stride) {
      for (int64_t r = 0; r < rows; ++r) put(*p, *p - *p);  // of equal elements: 0, or NaN
      continue;
    }
    // The next run's mean before this one's variance, since a sum takes long to come together.
    T mean = mean_of(Elements<T>{p});
    for (int64_t r = 1; r < rows; ++r) {
      const T next = mean_of(Elements<T>{p + a.row_stride});
      put(mean, mean_of(SquaredDeviations<T>{p, mean}));
      mean = next;
    }
    put(mean, mean_of(SquaredDeviations<T>{p, mean}));
  }
}

// A run's elements less its mean, over its deviation: of one mean and scale for all of them.
template <class T>
struct Normalised {
  const T* p;
  T mean, scale;
  OSTINATO_INLINE VecOf<T> at(int64_t i) const { return (load(p + i) - mean) * scale; }
  OSTINATO_INLINE T one(int64_t i) const { return (p[i] - mean) * scale; }
};

template <class T>
static void normalise(T* d, int64_t d_stride, In<T> a, In<T> moments, int64_t rows, int64_t groups,
                      int64_t m) {
  for (int64_t row = 0; row < rows; ++row, d += d_stride) {
    const T* mean = row_of(moments, row);
    for (int64_t g = 0; g < groups; ++g) {
      const Normalised<T> run{row_of(a, row) + g * m * a.col_stride, mean[g], mean[groups + g]};
      T* to = d + g * m;
      int64_t i = 0;
      if (a.col_stride) {
        constexpr int W = Vec<T>::width;
        for (; i + W <= m; i += W) store(to + i, run.at(i));
      }
      for (; i < m; ++i) to[i] = run.one(i * a.col_stride);
    }
  }
}

template <class T>
static void normalise_mul_add(T* d, int64_t d_stride, const In<T>* in, int64_t rows, int64_t groups,
                              int64_t m) {
  const int64_t a_step = in[0].col_stride, b_step = in[2].col_stride, c_step = in[3].col_stride;
  for (int64_t row = 0; row < rows; ++row, d += d_stride) {
    const T* mean = row_of(in[1], row);
    for (int64_t g = 0; g < groups; ++g) {
      const auto from = [&](const In<T>& a) { return row_of(a, row) + g * m * a.col_stride; };
      const Normalised<T> run{from(in[0]), mean[g], mean[groups + g]};
      const T *b = from(in[2]), *c = from(in[3]);
      T* to = d + g * m;
      int64_t i = 0;
      if (a_step && b_step && c_step) {
        constexpr int W = Vec<T>::width;
        for (; i + W <= m; i += W) store(to + i, fma(run.at(i), load(b + i), load(c + i)));
      }
      for (; i < m; ++i) to[i] = run.one(i * a_step) * b[i * b_step] + c[i * c_step];
    }
  }
}

// The gradient of one run in two passes, of which the second waits for the sums of the first: to = r *
// (z - mean(z) - y * mean(z * y)) with z = dy * gain, each of which may be (Flat) one number for the
// whole run, and y = t * q, where t is what the run has (Raw) less its mean, with q = r, or q = 1.
template <class T, bool Raw, bool FlatDy, bool FlatGain>
struct NormaliseGradRun {
  static constexpr int W = Vec<T>::width;
  using V = VecOf<T>;
  const T *dy, *gain, *from;
  T middle, r;
  V flat_dy, flat_gain;
  T mean, slope;  // of z, and of z * t

  OSTINATO_INLINE V z(int64_t i) const {
    return (FlatDy ? flat_dy : load(dy + i)) * (FlatGain ? flat_gain : load(gain + i));
  }
  OSTINATO_INLINE V t(int64_t i) const { return Raw ? load(from + i) - middle : load(from + i); }
  OSTINATO_INLINE T one_z(int64_t i) const {
    return dy[FlatDy ? 0 : i] * gain[FlatGain ? 0 : i];
  }
  OSTINATO_INLINE T one_t(int64_t i) const { return Raw ? from[i] - middle : from[i]; }

  OSTINATO_INLINE void sum(int64_t m) {
    if constexpr (FlatDy) flat_dy = broadcast<T>(*dy);
    if constexpr (FlatGain) flat_gain = broadcast<T>(*gain);
    // Each in two parts, so that an addition needn't wait for the last.
    V sums[2] = {}, products[2] = {};
    int64_t i = 0;
    for (; i + 2 * W <= m; i += 2 * W) {
      for (int j = 0; j < 2; ++j) {
        const V a = z(i + j * W);
        sums[j] += a;
        products[j] = fma(a, t(i + j * W), products[j]);
      }
    }
    for (; i + W <= m; i += W) {
      const V a = z(i);
      sums[0] += a;
      products[0] = fma(a, t(i), products[0]);
    }
    mean = join_lanes<T, SumOf<T>>(sums[0] + sums[1]);
    slope = join_lanes<T, SumOf<T>>(products[0] + products[1]);
    for (; i < m; ++i) {
      mean += one_z(i);
      slope += one_z(i) * one_t(i);
    }
    mean /= static_cast<T>(m);
    slope /= static_cast<T>(m);
  }

  OSTINATO_INLINE void write(T* to, int64_t m) const {
    const T by = -(Raw ? slope * r * r : slope) * r, less = -mean * r;
    const V bys = broadcast<T>(by), rs = broadcast<T>(r), lesses = broadcast<T>(less);
    int64_t i = 0;
    for (; i + W <= m; i += W) store(to + i, fma(t(i), bys, fma(z(i), rs, lesses)));
    for (; i < m; ++i) to[i] = one_t(i) * by + (one_z(i) * r + less);
  }
};

template <class T, bool Raw, bool FlatDy, bool FlatGain>
static void normalise_grad_rows(T* d, int64_t d_stride, const In<T>* in, int64_t rows,
                                int64_t groups, int64_t m) {
  using Run = NormaliseGradRun<T, Raw, FlatDy, FlatGain>;
  // The sums of the next run before this one is written: they take long to come together.
  Run last{};
  T* to = nullptr;
  for (int64_t row = 0; row < rows; ++row, d += d_stride) {
    const T* mean = row_of(in[3], row);
    for (int64_t g = 0; g < groups; ++g) {
      Run run;
      run.dy = row_of(in[0], row) + (FlatDy ? 0 : g * m);
      run.gain = row_of(in[1], row) + (FlatGain ? 0 : g * m);
      run.from = row_of(in[2], row) + g * m;
      run.middle = mean[g];
      run.r = mean[groups + g];
      run.sum(m);
      if (to != nullptr) last.write(to, m);
      last = run;
      to = d + g * m;
    }
  }
  if (to != nullptr) last.write(to, m);
}

template <class T, bool Raw>
static void normalise_grad(T* d, int64_t d_stride, const In<T>* in, int64_t rows, int64_t groups,
                           int64_t m) {
  const bool flat_dy = in[0].col_stride == 0, flat_gain = in[1].col_stride == 0;
  const auto of = flat_dy ? (flat_gain ? normalise_grad_rows<T, Raw, true, true>
                                       : normalise_grad_rows<T, Raw, true, false>)
                          : (flat_gain ? normalise_grad_rows<T, Raw, false, true>
                                       : normalise_grad_rows<T, Raw, false, false>);
  of(d, d_stride, in, rows, groups, m);
}

// ---- over rows

// What is summed: a vector of elements of row r from column c on, the last of n elements.
template <class T>
static OSTINATO_INLINE VecOf<T> elements(const In<T>& a, int64_t r, int64_t c) {
  return a.col_stride ? load(row_of(a, r) + c) : broadcast<T>(*row_of(a, r));
}

template <class T>
static OSTINATO_INLINE VecOf<T> elements(const In<T>& a, int64_t r, int64_t c, int64_t n) {
  return a.col_stride ? load(row_of(a, r) + c, n) : broadcast<T>(*row_of(a, r));
}

template <class T>
struct RowElements {
  In<T> a;
  template <class... At>
  OSTINATO_INLINE VecOf<T> at(At... at) const { return elements(a, at...); }
};

template <class T>
struct RowProducts {
  In<T> a, b;
  template <class... At>
  OSTINATO_INLINE VecOf<T> at(At... at) const { return elements(a, at...) * elements(b, at...); }
};

// a * normalise(b), of one group.
template <class T>
struct RowNormalisedProducts {
  In<T> a, b;
  const T *mean, *scale;  // of the first row
  int64_t stride;
  template <class... At>
  OSTINATO_INLINE VecOf<T> at(int64_t r, At... at) const {
    return elements(a, r, at...) * ((elements(b, r, at...) - mean[r * stride]) * scale[r * stride]);
  }
};

// Columns c..c + Count vectors.
template <class T, int Count, class Source>
static OSTINATO_INLINE void sum_block(T* acc, const Source& a, int64_t rows, int64_t c) {
  constexpr int W = Vec<T>::width;
  VecOf<T> sum[Count] = {};
  for (int64_t r = 0; r < rows; ++r) {
    for (int j = 0; j < Count; ++j) sum[j] += a.at(r, c + j * W);
  }
  for (int j = 0; j < Count; ++j) store(acc + c + j * W, load(acc + c + j * W) + sum[j]);
}

template <class T, class Source>
static OSTINATO_INLINE void sum_over_rows(T* acc, const Source& a, int64_t rows, int64_t cols) {
  constexpr int W = Vec<T>::width;
  int64_t c = 0;
  for (; c + 8 * W <= cols; c += 8 * W) sum_block<T, 8>(acc, a, rows, c);
  for (; c + 2 * W <= cols; c += 2 * W) sum_block<T, 2>(acc, a, rows, c);
  for (; c + W <= cols; c += W) sum_block<T, 1>(acc, a, rows, c);
  if (const int64_t n = cols - c; n > 0) {
    VecOf<T> sum{};
    for (int64_t r = 0; r < rows; ++r) sum += a.at(r, c, n);
    store(acc + c, load(static_cast<const T*>(acc + c), n) + sum, n);
  }
}

template <class T>
static void sum_rows(T* acc, In<T> a, int64_t rows, int64_t cols) {
  sum_over_rows(acc, RowElements<T>{a}, rows, cols);
}

template <class T>
static void sum_rows_mul(T* acc, In<T> a, In<T> b, int64_t rows, int64_t cols) {
  sum_over_rows(acc, RowProducts<T>{a, b}, rows, cols);
}

template <class T>
static void sum_rows_mul_normalise(T* acc, const In<T>* in, int64_t rows, int64_t groups,
                                   int64_t m) {
  for (int64_t g = 0; g < groups; ++g) {
    const auto from = [&](In<T> a) {
      a.p += g * m * a.col_stride;
      return a;
    };
    const T* mean = in[2].p + g;
    sum_over_rows(acc + g * m,
                  RowNormalisedProducts<T>{from(in[0]), from(in[1]), mean, mean + groups,
                                           in[2].row_stride},
                  rows, m);
  }
}

// Sets k's members from `sum` to `normalise_grad_raw`, and the sums over rows.
template <class T>
void fill_features(Kernels<T>& k) {
  k.sum = reduce<T, SumOf<T>>;
  k.amax = reduce<T, MaxOf<T>>;
  k.cumsum = cumsum<T, false>;
  k.cumsum_reverse = cumsum<T, true>;
  k.expand = expand<T>;
  k.moments = moments<T>;
  k.normalise = normalise<T>;
  k.normalise_mul_add = normalise_mul_add<T>;
  k.normalise_grad = normalise_grad<T, false>;
  k.normalise_grad_raw = normalise_grad<T, true>;
  k.sum_rows = sum_rows<T>;
  k.sum_rows_mul = sum_rows_mul<T>;
  k.sum_rows_mul_normalise = sum_rows_mul_normalise<T>;
}

}  // namespace ostinato::OSTINATO_ISA_NS
