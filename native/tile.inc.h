// What both matrix products share: the shape of register tiles, the panel, and loads of a vector's
// first elements.
#pragma once

#include "vec.h"

namespace ostinato::OSTINATO_ISA_NS {

// A tile is `height` rows x up to kVectors vectors of accumulators; each step adds the product of
// one broadcast element a row with one run of the right operand. As many accumulators as registers
// allow, with room for a run and a broadcast, and enough to cover the latency of a multiply-add.
// Measured with AVX-512, 6 x 4 against 8 x 3: 4 to 7 points of peak ahead at (rows, k, n) =
// (32, 256, 1024) and (16, 100, 300), 3 behind at (16, 512, 2048), whose map doesn't fit L2, level
// or mixed elsewhere. 6 x 4 it is, also because few sizes are a multiple of 48.
#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int kVectors = 4, kAccumulators = 24;
#elif defined(__AVX2__)
inline constexpr int kVectors = 2, kAccumulators = 12;
#else
inline constexpr int kVectors = 3, kAccumulators = 12;
#endif

// Each row of a tile takes a general register for its pointer, and there are 16.
inline constexpr int kTallest = kAccumulators < 12 ? kAccumulators : 12;

// The most rows of a tile of so many vectors.
constexpr int max_height(int64_t vectors) {
  const int height = kAccumulators / static_cast<int>(vectors);
  return height < kTallest ? height : kTallest;
}

// Columns of a packed panel.
template <class T>
inline constexpr int64_t kPanel = kVectors * Vec<T>::width;

OSTINATO_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// `total` rows as the fewest tiles of at most `most`, of nearly equal heights: 16 = 6 + 5 + 5. Few
// rows go without the divisions, which would take as long as their products.
struct Split {
  int64_t count;
  int64_t low;
  int64_t taller;

  OSTINATO_INLINE Split(int64_t total, int64_t most)
      : count(total <= most ? 1 : (total + most - 1) / most),
        low(count == 1 ? total : total / count),
        taller(total - low * count) {}
  OSTINATO_INLINE int64_t height(int64_t i) const { return low + (i < taller); }
};

// Accumulators stay in registers only if every loop over them is unrolled. GCC leaves loops with
// branches in them alone, and then all of a tile goes through the stack at its beginning and end.
#define OSTINATO_UNROLLED _Pragma("GCC unroll 24")

// A vector, or if it isn't whole its first n elements.
template <class T>
OSTINATO_INLINE VecOf<T> load_part(const T* p, bool whole, int64_t n) {
  return whole ? load(p) : load(p, n);
}

template <class T>
OSTINATO_INLINE void store_part(T* p, VecOf<T> v, bool whole, int64_t n) {
  if (whole) {
    store(p, v);
  } else {
    store(p, v, n);
  }
}

// Keeps a loaded value in a register: GCC otherwise folds the load into each use of it, which in
// tiles of 1 to 3 rows reads every line that many times (half the speed at 3 rows, measured).
template <class V>
OSTINATO_INLINE V in_register(V value) {
#if defined(__AVX512F__)
  __asm__("" : "+v"(value));
#elif defined(__SSE2__)
  __asm__("" : "+x"(value));
#elif defined(__aarch64__)
  __asm__("" : "+w"(value));
#endif
  return value;
}

// Keeps a pointer a pointer: of p[0], p[1], ... GCC otherwise makes an index each, for which it hasn't
// registers (12 rows and 2 vectors of a weight gradient: 91 GFLOP/s of 117, and 111 with this).
template <class T>
OSTINATO_INLINE T* computed(T* p) {
  __asm__("" : "+r"(p));
  return p;
}

}  // namespace ostinato::OSTINATO_ISA_NS
