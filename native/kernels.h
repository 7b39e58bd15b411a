// What one instruction set offers the time loop: a table of function pointers for each element
// type. The same sources (gemm.inc.h, pointwise.inc.h, features.inc.h) are compiled once for each
// instruction set; everything else in the engine is compiled once, for the baseline, and calls through
// this table.
#pragma once

#include <cstdint>

namespace ostinato {

// One operand of a pointwise kernel: element (r, c) is p[r * row_stride + c * col_stride].
// col_stride is 1, or 0 for one value per row; row_stride is 0 for what all rows share.
template <class T>
struct In {
  const T* p;
  int64_t row_stride;
  int64_t col_stride;
};

// Pointwise operations, in the order of the dispatch table. The names are the IR's.
enum class Op : int32_t {
  // one argument
  kCopy, kNeg, kAbs, kSign, kFloor, kReciprocal, kSqrt, kRsqrt, kExp, kExpm1, kLog, kLog1p, kSin,
  kCos, kErf, kRelu,
  // a copy to memory that isn't read soon: whole lines go past the cache
  kCopyPastCache,
  // two arguments
  kAdd, kSub, kMul, kDiv, kMax, kMin, kPow, kLt, kLe, kGt, kGe, kEq, kNe,
  // three arguments; kMulAdd is a * b + c, kNegMulAdd is c - a * b, with or without one rounding
  kWhere, kMulAdd, kNegMulAdd,
  // fused gradients, two arguments (g, y): g * y * (1 - y) and g * (1 - y * y), and for relu g
  // where y > 0, else 0
  kSigmoidGrad, kTanhGrad, kReluGrad,
  // the same of a product, three arguments (a, b, y): g = a * b
  kSigmoidGradMul, kTanhGradMul,
  // (1 - a) * b + a * c
  kMix,
  // gates: sigmoid and tanh of a, of a + b and of a * b + c; a * sigmoid(b), a * tanh(b),
  // sigmoid(a) * tanh(b), a * sigmoid(b) + c
  kSigmoid, kFirstGate = kSigmoid, kTanh, kSigmoidAdd, kTanhAdd, kSigmoidMulAdd, kTanhMulAdd,
  kMulSigmoid, kMulTanh, kMulSigmoidTanh, kMulSigmoidAdd,
  kCount
};

// A line of memory, as caches hold it.
inline constexpr int64_t kLine = 64;

// How many lines of a piece of memory are written first, from its end on, before the others from its
// beginning on, where another core writes the pieces before and after it, as rows of a step. Of a piece
// that is written upwards, or all of it downwards, lines are fetched in advance that are the other
// core's, who must take them back; so those are the own last lines. In a loop of two threads that
// write a piece each in 100 steps, far from each other, us: pieces of 512 bytes 21 upwards, 14
// downwards, 10 so, 3 if they lie apart; 1 KiB 24, 39, 8, 3; 2 KiB 58, 75, 5, 4; 4 KiB 29, 30, 7, 7; near
// each other 5, 6, 2, 2 to 24, 25, 7, 7. As many lines as were best for each size.
inline int64_t first_lines(int64_t lines) { return lines < 32 ? lines / 4 + 2 : 10; }

// Memory that will be needed soon, in runs of lines.
struct Ahead {
  struct Run {
    const char* at;
    int64_t lines;
  };
  static constexpr int kMost = 16;
  Run runs[kMost];
  int count = 0, now = 0;

  void add(const void* at, int64_t bytes) {
    if (count < kMost) runs[count++] = {static_cast<const char*>(at), (bytes + kLine - 1) / kLine};
  }
  bool empty() const { return now == count; }
  // Takes the next lines of a run, up to so many, from `at` on, and returns how many; of none, it
  // leaves `at` as it is and returns `most`.
  int64_t take(int64_t most, const char*& at) {
    if (empty()) return most;
    Run& run = runs[now];
    const int64_t lines = run.lines < most ? run.lines : most;
    at = run.at;
    run.at += lines * kLine;
    run.lines -= lines;
    if (run.lines == 0) ++now;
    return lines;
  }
};

template <class T>
struct Kernels {
  const char* isa;  // "baseline", "avx2", "avx512"
  int vector_width;  // elements of T in a vector
  int panel;  // columns of a packed panel

  // ---- pointwise: d(r, c) = op(in[0](r, c), ...) for r < rows, c < cols. d's columns are
  // adjacent. d may be the very same memory as an operand, never a shifted part of it.
  using PointwiseFn = void (*)(T* d, int64_t d_stride, const In<T>* in, int64_t rows, int64_t cols);
  PointwiseFn pointwise[static_cast<int>(Op::kCount)];

  // ---- over features: a's rows are `groups` runs of `m` adjacent features.
  using GroupFn = void (*)(T* d, int64_t d_stride, In<T> a, int64_t rows, int64_t groups,
                           int64_t m);
  GroupFn sum;  // d: (rows, groups)
  GroupFn amax;  // d: (rows, groups); NaN if any is NaN
  GroupFn cumsum;  // d: (rows, groups * m)
  GroupFn cumsum_reverse;  // d(j) = a(j) + a(j + 1) + ... to the end of the run
  GroupFn expand;  // a: (rows, groups); d: (rows, groups * m), each feature m times

  // ---- by mean and deviation of each run. moments: d: (rows, 2 * groups), the means, then each
  // 1 / sqrt(variance + eps), here r. normalise: d = (a - mean) * r. normalise_grad: in: dy, gain, y
  // (columns adjacent), moments; d = r * (z - mean(z) - y * mean(z * y)) with z = dy * gain. d may be
  // the very same memory as an operand as wide as it. Of what isn't normalised yet, each element as
  // it is read: normalise_mul_add: in: a, moments, b, c; d = normalise(a) * b + c.
  // normalise_grad_raw: in: dy, gain, a, moments; normalise_grad with y = normalise(a).
  void (*moments)(T* d, int64_t d_stride, In<T> a, T eps, int64_t rows, int64_t groups, int64_t m);
  void (*normalise)(T* d, int64_t d_stride, In<T> a, In<T> moments, int64_t rows, int64_t groups,
                    int64_t m);
  using NormaliseFn = void (*)(T* d, int64_t d_stride, const In<T>* in, int64_t rows,
                               int64_t groups, int64_t m);
  NormaliseFn normalise_grad, normalise_mul_add, normalise_grad_raw;

  // ---- moves: take: d(r, j) = a(r, index[j]), j < n; put: d(r, index[j]) += a(r, j), d of `width`
  // features cleared first.
  void (*take)(T* d, int64_t d_stride, In<T> a, int64_t rows, const int64_t* index, int64_t n);
  void (*put)(T* d, int64_t d_stride, In<T> a, int64_t rows, const int64_t* index, int64_t n,
              int64_t width);

  // ---- over rows: acc[c] += sum over r of a(r, c), c < cols, summed from the first row on.
  void (*sum_rows)(T* acc, In<T> a, int64_t rows, int64_t cols);
  // The same of a(r, c) * b(r, c).
  void (*sum_rows_mul)(T* acc, In<T> a, In<T> b, int64_t rows, int64_t cols);
  // And of a(r, c) * normalise(b)(r, c): in: a, b, moments; cols = groups * m.
  void (*sum_rows_mul_normalise)(T* acc, const In<T>* in, int64_t rows, int64_t groups, int64_t m);

  // ---- matrix products. A map of k inputs and n outputs is packed into ceil(n / panel) panels;
  // panel j holds columns [j * panel, (j + 1) * panel), k rows of `panel` elements, zeros past n.
  // Element (i, j) of the map is w[i * k_stride + j * n_stride]. These may be columns from `first` on
  // of a packed map that has others before them, and the first k of `k_all` rows that `packed` has.
  void (*pack)(T* packed, const T* w, int64_t k_stride, int64_t n_stride, int64_t k, int64_t n,
               int64_t first, int64_t k_all);
  // out[i][0..n) = (accumulate ? out[i] : 0) + bias + a[i][0..k) * map, for i < rows; a[i], out[i]
  // point at rows; bias may be null. Only columns [n_begin, n_end) are touched; n_begin is a
  // multiple of panel. `descending`: the last columns first. `ahead`: null, or what to ask memory for
  // while it computes. `past_cache`: results may be stored past the cache; rows begin with a line.
  void (*gemm)(const T* const* a, int64_t rows, int64_t k, const T* packed, int64_t n_begin,
               int64_t n_end, T* const* out, const T* bias, bool accumulate, bool descending,
               Ahead* ahead, bool past_cache);
  // The same of a map as it lies in memory, packed block by block as it is read, which is less work
  // where nothing reads it again; or as reads_as_it_lies() says, in sums of every width-th product.
  // room: block_room elements, 64-byte aligned.
  void (*gemm_once)(const T* const* a, int64_t rows, int64_t k, const T* w, int64_t k_stride,
                    int64_t n_stride, int64_t n_begin, int64_t n_end, T* const* out, const T* bias,
                    bool accumulate, bool past_cache, T* room);
  int64_t block_room;
  // g(j, i) += sum over r of dz[r][j] * a[r][i] for j < n, i < k; g(j, i) = g[j * n_stride + i *
  // k_stride], one of the two strides is 1. scratch: outer_scratch(rows, k, n) elements, 64-byte
  // aligned. A zero row in `a` may be any pointer to k zeros.
  void (*outer)(const T* const* a, const T* const* dz, int64_t rows, int64_t k, int64_t n, T* g,
                int64_t n_stride, int64_t k_stride, T* scratch);
  int64_t (*outer_scratch)(int64_t rows, int64_t k, int64_t n);

  // ---- from thread to thread. hand_over: copies to memory that another thread looks at. receive: from
  // there, up to where nothing has been handed over yet; returns how many. withdraw: as if nothing had
  // been handed over.
  void (*hand_over)(T* to, const T* from, int64_t n);
  int64_t (*receive)(T* to, const T* from, int64_t n);
  void (*withdraw)(T* at, int64_t n);
};

// Whether gemm_once() reads a map as it lies. For each row and column it then adds up the lanes of a vector
// of sums, which takes as long as packing a column of 5 elements, or less: a map of (k, 4 k) beside packing
// it by blocks, AVX-512, one row, 4, 16 and 32 at k = 64 0.40, 0.60, 1.09 and 1.32 of the time, at 128 0.35,
// 0.42, 0.81 and 0.99, at 256 0.35, 0.38, 0.71 and 0.90, at 512 0.30, 0.36, 0.70 and 0.84.
inline constexpr int64_t kElementsForLanes = 5;

inline bool reads_as_it_lies(int64_t rows, int64_t k, int64_t k_stride) {
  return k_stride == 1 && rows * kElementsForLanes <= k;
}

inline int64_t packed_size(int64_t panel, int64_t k, int64_t n) {
  return (n + panel - 1) / panel * panel * k;
}

// The tables, one definition per instruction set (isa_baseline.cpp, isa_avx2.cpp, isa_avx512.cpp).
namespace isa_baseline {
const Kernels<float>& kernels_f32();
const Kernels<double>& kernels_f64();
}  // namespace isa_baseline
namespace isa_avx2 {
const Kernels<float>& kernels_f32();
const Kernels<double>& kernels_f64();
}  // namespace isa_avx2
namespace isa_avx512 {
const Kernels<float>& kernels_f32();
const Kernels<double>& kernels_f64();
// Whose tanh and sigmoid divide by Newton's method, four multiply-adds. Where these go one a cycle and
// a division beside four of them (AMD Zen 4), tanh takes 16.1 cycles a vector by it and 13.8 by
// division; where two go in a cycle (Intel) it was measured twice as fast as division.
const Kernels<float>& kernels_f32_newton();
}  // namespace isa_avx512

// Chosen at import: the best that the machine has, or what OSTINATO_ISA names (isa.cpp).
// select_isa throws std::invalid_argument with the list of available names.
const char* const* available_isas(int* count);
void select_isa(const char* name);
template <class T>
const Kernels<T>& kernels();  // of the selected instruction set
template <class T>
const Kernels<T>& kernels_of(const char* name);  // of the one named; throws as select_isa does. For
// tests also "avx512/division" and "avx512/newton", of which "avx512" is one.

}  // namespace ostinato
