// Small products with state: a row-major left operand given by pointers to its rows, times a map
// packed into panels.
//
// The k products of every element are added, in the order of k, to the bias (plus what was there),
// whatever the tile: a row's bits depend neither on the other rows nor on how columns are divided.
#pragma once

#include "kernels.h"
#include "outer.inc.h"
#include "pack.inc.h"
#include "tile.inc.h"

namespace ostinato::OSTINATO_ISA_NS {

template <class T>
struct GemmTile {
  const T* const* a;
  int64_t k_begin;
  int64_t k;
  const T* packed;  // at k_begin
  int64_t panel_step;  // to the next panel
  T* const* out;
  int64_t column;
  const T* bias;  // null, or that of all columns
  bool accumulate;
  int64_t last;  // elements of the last vector
};

// H rows, from `column` on V vectors in each of P panels (more than one only of whole panels). Whole:
// so is the last vector. What is read of `t` is read before anything is stored, since a store might
// change it for all that the compiler knows.
template <class T, int H, int V, int P, bool Whole>
OSTINATO_INLINE void gemm_tile_of(const GemmTile<T>& t) {
  constexpr int W = Vec<T>::width, N = V * P;
  const int64_t last = t.last;
  T* const* const out = t.out;
  const int64_t column = t.column;
  const T* row[H];
  OSTINATO_UNROLLED
  for (int h = 0; h < H; ++h) row[h] = t.a[h];
  VecOf<T> acc[H][N];
  OSTINATO_UNROLLED
  for (int v = 0; v < N; ++v) {
    VecOf<T> start{};
    if (t.bias) start = load_part(t.bias + column + v * W, Whole || v < N - 1, last);
    OSTINATO_UNROLLED
    for (int h = 0; h < H; ++h) acc[h][v] = start;
  }
  if (t.accumulate) {
    OSTINATO_UNROLLED
    for (int h = 0; h < H; ++h) {
      const T* const from = computed(out[h] + column);
      OSTINATO_UNROLLED
      for (int v = 0; v < N; ++v) {
        acc[h][v] = acc[h][v] + load_part(from + v * W, Whole || v < N - 1, last);
      }
    }
  }
  const T* packed = t.packed;
  const int64_t panel_step = t.panel_step, end = t.k_begin + t.k;
  for (int64_t p = t.k_begin; p < end; ++p, packed += kPanel<T>) {
    VecOf<T> right[N];
    for (int v = 0; v < N; ++v) {
      right[v] = in_register(load(packed + v / V * panel_step + v % V * W));
    }
    for (int h = 0; h < H; ++h) {
      const VecOf<T> left = broadcast(row[h][p]);
      for (int v = 0; v < N; ++v) acc[h][v] = fma(left, right[v], acc[h][v]);
    }
  }
  OSTINATO_UNROLLED
  for (int h = 0; h < H; ++h) {
    T* const to = computed(out[h] + column);
    OSTINATO_UNROLLED
    for (int v = 0; v < N; ++v) store_part(to + v * W, acc[h][v], Whole || v < N - 1, last);
  }
}

template <class T, int H, int V, int P = 1>
void gemm_tile(const GemmTile<T>& t) {
  if (t.last == Vec<T>::width) {
    gemm_tile_of<T, H, V, P, true>(t);
  } else {
    gemm_tile_of<T, H, V, P, false>(t);
  }
}

// The tile functions: fn[vectors - 1][height - 1].
template <class T>
struct GemmTiles {
  using Fn = void (*)(const GemmTile<T>&);
  Fn fn[kVectors][kTallest];
};

template <class T, int V, int H>
constexpr void fill_gemm_tiles(GemmTiles<T>& tiles) {
  tiles.fn[V - 1][H - 1] = gemm_tile<T, H, V>;
  if constexpr (H > 1) {
    fill_gemm_tiles<T, V, H - 1>(tiles);
  } else if constexpr (V > 1) {
    fill_gemm_tiles<T, V - 1, max_height(V - 1)>(tiles);
  }
}

template <class T>
constexpr GemmTiles<T> make_gemm_tiles() {
  GemmTiles<T> tiles{};
  fill_gemm_tiles<T, kVectors, max_height(kVectors)>(tiles);
  return tiles;
}

template <class T>
inline constexpr GemmTiles<T> kGemmTiles = make_gemm_tiles<T>();

// Steps of k at a time: a panel's block (128 KiB with AVX-512) stays in L2 for all tiles of rows.
// 512 against 128: 3 to 8 % faster from k = 1024 on; smaller blocks fit L1, but each one reads and
// writes out.
inline constexpr int64_t kInnerBlock = 512;

// Bytes of the smallest first-level cache that processors with wide vectors have.
inline constexpr int64_t kLevel1 = int64_t{32} << 10;

// All rows, for the columns of one panel.
template <class T>
void gemm_panel(GemmTile<T> t, int64_t rows, int64_t k, int64_t width) {
  constexpr int64_t W = Vec<T>::width;
  const T* const* const a = t.a;
  T* const* const out = t.out;
  const int64_t vectors = (width + W - 1) / W;
  t.last = width - (vectors - 1) * W;
  const Split tiles(rows, max_height(vectors));
  do {
    t.k = smaller(kInnerBlock, k - t.k_begin);
    for (int64_t first = 0, i = 0; i < tiles.count; first += tiles.height(i++)) {
      t.a = a + first;
      t.out = out + first;
      kGemmTiles<T>.fn[vectors - 1][tiles.height(i) - 1](t);
    }
    t.packed += t.k * kPanel<T>;
    t.k_begin += t.k;
    t.bias = nullptr;
    t.accumulate = true;
  } while (t.k_begin < k);
}

template <class T>
void gemm(const T* const* a, int64_t rows, int64_t k, const T* packed, int64_t n_begin,
          int64_t n_end, T* const* out, const T* bias, bool accumulate, bool descending) {
  constexpr int64_t panel = kPanel<T>;
  if (rows <= 0) return;
  // One or two rows keep too few sums in flight with one panel: two at once. But of a map that a small
  // first-level cache doesn't hold, two panels may just fill that, and then going back and forth finds
  // little of them there: LSTM, one row, H = 64, inference, takes 0.97 of the time with one at a time;
  // at H = 32 1.06, at 256 1.02.
  const int64_t panel_bytes = k * panel * static_cast<int64_t>(sizeof(T));
  const bool half_of_level1 = panel_bytes > kLevel1 / 3 && panel_bytes <= kLevel1 / 2;
  const bool one = kVectors >= 4 && half_of_level1 && n_end - n_begin > 2 * panel;
  const bool few = rows <= 2 && !one;
  const int64_t stride = few ? 2 * panel : panel;
  const int64_t panels = (n_end - n_begin + panel - 1) / panel;
  const int64_t count = few ? (panels + 1) / 2 : panels;
  for (int64_t i = 0; i < count; ++i) {
    int64_t j = n_begin + (descending ? count - 1 - i : i) * stride;
    const int64_t end = smaller(n_end, j + stride);
    const auto tile = [&] {
      return GemmTile<T>{a,   0, k,    packed + j * k, panel * k,
                         out, j, bias, accumulate,     Vec<T>::width};
    };
    if (few && end - j == stride) {
      const auto fn = rows == 1 ? gemm_tile<T, 1, kVectors, 2> : gemm_tile<T, 2, kVectors, 2>;
      fn(tile());
      continue;
    }
    for (; j < end; j += panel) gemm_panel(tile(), rows, k, smaller(panel, end - j));
  }
}

template <class T>
void fill_gemm(Kernels<T>& kernels) {
  kernels.vector_width = Vec<T>::width;
  kernels.panel = kPanel<T>;
  kernels.pack = pack<T>;
  kernels.gemm = gemm<T>;
  kernels.outer = outer<T>;
  kernels.outer_scratch = outer_scratch<T>;
}

}  // namespace ostinato::OSTINATO_ISA_NS
