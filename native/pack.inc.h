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
// k: by squares (3 times as fast as element by element, measured). What lies `ahead` elements on is
// asked for.
template <class T>
OSTINATO_INLINE void pack_columns(T* packed, const T* w, int64_t n_stride, int64_t k, int64_t width,
                                  int64_t room, int64_t ahead) {
  constexpr int W = Vec<T>::width;
  for (int64_t p = 0; p < k; p += W) {
    const int64_t steps = smaller(W, k - p);
    for (int64_t c = 0; c < room; c += W) {
      VecOf<T> square[W];
      for (int i = 0; i < W; ++i) {
        square[i] = VecOf<T>{};
        if (c + i >= width) continue;
        const T* const from = w + (c + i) * n_stride + p;
        square[i] = load_part(from, steps == W, steps);
        __builtin_prefetch(from + ahead, 0, 2);
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
                               int64_t room, int64_t ahead) {
  constexpr int W = Vec<T>::width;
  for (int64_t p = 0; p < k; ++p, packed += kPanel<T>, w += k_stride) {
    for (int64_t c = 0; c < room; c += W) {
      const int64_t left = width - c;
      const VecOf<T> columns = left >= W ? load(w + c) : load(w + c, left > 0 ? left : 0);
      store_part(packed + c, columns, room - c >= W, room - c);
      __builtin_prefetch(w + c + ahead, 0, 2);
    }
  }
}

// Columns of one panel, of which others may be there already.
template <class T>
void pack_panel(T* packed, const T* w, int64_t k_stride, int64_t n_stride, int64_t k, int64_t width,
                int64_t room, int64_t ahead) {
  constexpr int64_t panel = kPanel<T>;
  if (k_stride == 1 && room == panel) {  // by itself, as a loop of so many
    pack_columns(packed, w, n_stride, k, width, panel, ahead);
  } else if (k_stride == 1) {
    pack_columns(packed, w, n_stride, k, width, room, ahead);
  } else if (n_stride == 1) {
    pack_rows(packed, w, k_stride, k, width, room, ahead);
  } else {
    for (int64_t p = 0; p < k; ++p) {
      for (int64_t c = 0; c < room; ++c) {
        packed[p * panel + c] = c < width ? w[p * k_stride + c * n_stride] : T(0);
      }
    }
  }
}

// Bytes of a panel's block in which the next one is asked for.
inline constexpr int64_t kBlockBytes = int64_t{16} << 10;
template <class T>
inline constexpr int64_t kBlockSteps = kBlockBytes / (kPanel<T> * static_cast<int64_t>(sizeof(T)));

// How far it is from a block of `steps` steps of k to the next one: further on in the same columns, or
// to the next panel's first; 0 after the last.
template <class T>
int64_t to_next_block(int64_t p, int64_t steps, int64_t k, bool last_panel, int64_t k_stride,
                      int64_t n_stride) {
  if (p + steps < k) return steps * k_stride;
  return last_panel ? 0 : kPanel<T> * n_stride - p * k_stride;
}

template <class T>
void pack(T* packed, const T* w, int64_t k_stride, int64_t n_stride, int64_t k, int64_t n,
          int64_t first, int64_t k_all) {
  constexpr int64_t panel = kPanel<T>;
  for (int64_t j = 0, width; j < n; j += width, first += width) {
    const int64_t room = panel - first % panel;
    width = smaller(room, n - j);
    T* const to = packed + first / panel * panel * k_all + first % panel;
    for (int64_t p = 0; p < k; p += kBlockSteps<T>) {
      const int64_t steps = smaller(kBlockSteps<T>, k - p);
      pack_panel(to + p * panel, w + j * n_stride + p * k_stride, k_stride, n_stride, steps, width, room,
                 to_next_block<T>(p, steps, k, j + width == n, k_stride, n_stride));
    }
  }
}

}  // namespace ostinato::OSTINATO_ISA_NS
