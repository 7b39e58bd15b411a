// Packing a map into panels, from any strides.
#pragma once

#include <utility>

#include "tile.inc.h"

namespace ostinato::OSTINATO_ISA_NS {

// Lanes First, First + 1, ... of a and b in turn: a0 b0 a1 b1 ... from First on.
template <class T, int First, int... Lane>
OSTINATO_INLINE VecOf<T> interleave(VecOf<T> a, VecOf<T> b, std::integer_sequence<int, Lane...>) {
  constexpr int W = Vec<T>::width;
#if defined(__clang__)
  return __builtin_shufflevector(a, b, (First + Lane / 2 + Lane % 2 * W)...);
#else
  return __builtin_shuffle(a, b, IntOf<T>{(First + Lane / 2 + Lane % 2 * W)...});
#endif
}

// Transposes a square of vectors. Interleaving the first half of them with the second rotates the
// bits of (vector, lane) by one; as many times as a lane has bits, it swaps the two.
template <class T>
OSTINATO_INLINE void transpose(VecOf<T>* v) {
  constexpr int W = Vec<T>::width;
  constexpr auto lanes = std::make_integer_sequence<int, W>{};
  for (int step = 1; step < W; step *= 2) {
    VecOf<T> next[W];
    for (int i = 0; i < W / 2; ++i) {
      next[2 * i] = interleave<T, 0>(v[i], v[i + W / 2], lanes);
      next[2 * i + 1] = interleave<T, W / 2>(v[i], v[i + W / 2], lanes);
    }
    for (int i = 0; i < W; ++i) v[i] = next[i];
  }
}

// `width` columns, and zeros after them up to `room`, of a panel; elements lie next to one another along
// k: by squares (3 times as fast as element by element, measured).
template <class T>
OSTINATO_INLINE void pack_columns(T* packed, const T* w, int64_t n_stride, int64_t k, int64_t width,
                                  int64_t room) {
  constexpr int W = Vec<T>::width;
  for (int64_t p = 0; p < k; p += W) {
    const int64_t steps = smaller(W, k - p);
    for (int64_t c = 0; c < room; c += W) {
      VecOf<T> square[W];
      for (int i = 0; i < W; ++i) {
        square[i] = VecOf<T>{};
        if (c + i < width) square[i] = load_part(w + (c + i) * n_stride + p, steps == W, steps);
      }
      transpose<T>(square);
      T* const to = packed + p * kPanel<T> + c;
      if (room - c >= W) {
        for (int i = 0; i < W; ++i) {
          if (i < steps) store(to + i * kPanel<T>, square[i]);
        }
      } else {
        for (int i = 0; i < steps; ++i) store(to + i * kPanel<T>, square[i], room - c);
      }
    }
  }
}

// The same where elements lie next to one another along n.
template <class T>
OSTINATO_INLINE void pack_rows(T* packed, const T* w, int64_t k_stride, int64_t k, int64_t width,
                               int64_t room) {
  constexpr int W = Vec<T>::width;
  for (int64_t p = 0; p < k; ++p, packed += kPanel<T>, w += k_stride) {
    for (int64_t c = 0; c < room; c += W) {
      const int64_t left = width - c;
      const VecOf<T> columns = left >= W ? load(w + c) : load(w + c, left > 0 ? left : 0);
      store_part(packed + c, columns, room - c >= W, room - c);
    }
  }
}

template <class T>
void pack(T* packed, const T* w, int64_t k_stride, int64_t n_stride, int64_t k, int64_t n,
          int64_t first, int64_t k_all) {
  constexpr int64_t panel = kPanel<T>;
  for (int64_t j = 0, width; j < n; j += width, first += width) {
    const int64_t room = panel - first % panel;
    width = smaller(room, n - j);
    T* const to = packed + first / panel * panel * k_all + first % panel;
    const T* const from = w + j * n_stride;
    if (k_stride == 1 && room == panel) {  // by itself, as a loop of so many
      pack_columns(to, from, n_stride, k, width, panel);
    } else if (k_stride == 1) {
      pack_columns(to, from, n_stride, k, width, room);
    } else if (n_stride == 1) {
      pack_rows(to, from, k_stride, k, width, room);
    } else {
      for (int64_t p = 0; p < k; ++p) {
        for (int64_t c = 0; c < room; ++c) {
          to[p * panel + c] = c < width ? from[p * k_stride + c * n_stride] : T(0);
        }
      }
    }
  }
}

}  // namespace ostinato::OSTINATO_ISA_NS
