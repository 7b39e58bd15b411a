// Weight gradients: g(v, u) += sum over r of left[r][v] * right[r][u], by register tiles of g, over
// a block of rows at a time. Vectors run along u; left is broadcast.
#pragma once

#include "tile.inc.h"

namespace ostinato::OSTINATO_ISA_NS {

template <class T>
struct OuterTile {
  const T* const* left;
  int64_t v;  // the tile's first element in a row of left
  const T* const* right;
  int64_t u;  // the tile's first element in a row of right
  const T* panel;  // or, packed, right from u on
  int64_t rows;
  T* g;  // at (v, u)
  int64_t stride;  // from g(v, u) to g(v + 1, u)
  int64_t last;  // elements of the last vector
  bool fetch;  // g is asked for in advance
};

// What is read of `t` is read before anything is stored (gemm_tile_of()).
template <class T, int H, int V, bool Packed, bool Whole>
OSTINATO_INLINE void outer_tile_of(const OuterTile<T>& t) {
  constexpr int W = Vec<T>::width;
  const int64_t rows = t.rows, first = t.v, u = t.u, last = t.last;
  const T* const* lefts = t.left;
  const T* const* rights = t.right;
  VecOf<T> acc[H][V];
  OSTINATO_UNROLLED
  for (int h = 0; h < H; ++h) {
    OSTINATO_UNROLLED
    for (int v = 0; v < V; ++v) acc[h][v] = VecOf<T>{};
  }
  T* g = t.g;
  const int64_t stride = t.stride;
  if (t.fetch) {
    OSTINATO_UNROLLED
    for (int h = 0; h < H; ++h) {
      OSTINATO_UNROLLED
      for (int v = 0; v < V; ++v) __builtin_prefetch(g + h * stride + v * W, 1);
    }
  }
  const T* panel = t.panel;
  for (int64_t r = 0; r < rows; ++r, panel += kPanel<T>) {
    const T* from = Packed ? panel : rights[r] + u;
    VecOf<T> right[V];
    OSTINATO_UNROLLED
    for (int v = 0; v < V; ++v) {
      right[v] = in_register(load_part(from + v * W, Packed || Whole || v < V - 1, last));
    }
    const T* left = computed(lefts[r] + first);
    for (int h = 0; h < H; ++h) {
      const VecOf<T> x = broadcast(left[h]);
      for (int v = 0; v < V; ++v) acc[h][v] = fma(x, right[v], acc[h][v]);
    }
  }
  OSTINATO_UNROLLED
  for (int h = 0; h < H; ++h, g += stride) {
    OSTINATO_UNROLLED
    for (int v = 0; v < V; ++v) {
      const bool whole = Whole || v < V - 1;
      store_part(g + v * W, acc[h][v] + load_part(g + v * W, whole, last), whole, last);
    }
  }
}

template <class T, int H, int V, bool Packed>
void outer_tile(const OuterTile<T>& t) {
  if (t.last == Vec<T>::width) {
    outer_tile_of<T, H, V, Packed, true>(t);
  } else {
    outer_tile_of<T, H, V, Packed, false>(t);
  }
}

// The tile functions: fn[packed][vectors - 1][height - 1].
template <class T>
struct OuterTiles {
  using Fn = void (*)(const OuterTile<T>&);
  Fn fn[2][kVectors][kTallest];
};

template <class T, int V, int H>
constexpr void fill_outer_tiles(OuterTiles<T>& tiles) {
  tiles.fn[0][V - 1][H - 1] = outer_tile<T, H, V, false>;
  tiles.fn[1][V - 1][H - 1] = outer_tile<T, H, V, true>;
  if constexpr (H > 1) {
    fill_outer_tiles<T, V, H - 1>(tiles);
  } else if constexpr (V > 1) {
    fill_outer_tiles<T, V - 1, max_height(V - 1)>(tiles);
  }
}

template <class T>
constexpr OuterTiles<T> make_outer_tiles() {
  OuterTiles<T> tiles{};
  fill_outer_tiles<T, kVectors, max_height(kVectors)>(tiles);
  return tiles;
}

template <class T>
inline constexpr OuterTiles<T> kOuterTiles = make_outer_tiles<T>();

// Rows at a time: each block reads and writes all of g once. 256 against 128 gains 1 to 2 points of
// peak at (512 rows, k 64, n 256) and no more than the noise at the other sizes measured.
inline constexpr int64_t kRowBlock = 256;
// Elements of left at a time, so that its copy stays in L2.
inline constexpr int64_t kLeftBlock = 256;
// With more panels than this, left's rows are copied next to one another first: rows a power of two
// apart fall into the same few sets of L1. At (256, 512, 2048) with left 2048 wide: 75 % of peak
// without, 84 % with; with left 512 wide it makes no difference.
inline constexpr int64_t kCopyLeftFrom = 4;
// With more tiles than this beside one another, right's columns are packed first.
inline constexpr int64_t kPackRightFrom = 2;
// Bytes of g that no second-level cache holds: a tile would wait for its part of g at its end. At
// (256, 512, 2048) 92 % of the peak with it, 83 % without; smaller ones lose 2 % by it.
inline constexpr int64_t kFetchFrom = int64_t{1} << 20;

// Adds a tile that was computed the wrong way round: corner(h, c) goes to g(h, c), of any strides.
template <class T>
void add_corner(const T* corner, int64_t height, int64_t width, T* g, int64_t v_stride,
                int64_t u_stride) {
  for (int64_t h = 0; h < height; ++h) {
    for (int64_t c = 0; c < width; ++c) {
      g[h * v_stride + c * u_stride] += corner[h * kPanel<T> + c];
    }
  }
}

// One block of rows and of left, against all of right.
template <class T>
struct OuterBlock {
  const T* const* left;
  int64_t lefts;
  const T* const* right;
  int64_t rights;
  int64_t rows;
  T* g;
  int64_t v_stride, u_stride;
  bool transposed;  // u is not g's unit stride: tiles go through `corner`
  bool fetch;
  T* corner;
  T* panel;

  void run() const {
    constexpr int64_t W = Vec<T>::width;
    for (int64_t u = 0; u < rights; u += kPanel<T>) {
      const int64_t width = smaller(kPanel<T>, rights - u), vectors = (width + W - 1) / W;
      const int64_t last = width - (vectors - 1) * W;
      const Split tiles(lefts, max_height(vectors));
      const bool packed = tiles.count > kPackRightFrom;
      for (int64_t r = 0; packed && r < rows; ++r) {
        const T* from = right[r] + u;
        T* to = panel + r * kPanel<T>;
        for (int64_t v = 0; v < vectors - 1; ++v) store(to + v * W, load(from + v * W));
        store(to + (vectors - 1) * W, load_part(from + (vectors - 1) * W, last == W, last));
      }
      for (int64_t v = 0, i = 0; i < tiles.count; v += tiles.height(i++)) {
        const int64_t height = tiles.height(i);
        T* at = g + v * v_stride + u * u_stride;
        if (transposed) {
          for (int64_t c = 0; c < height * kPanel<T>; ++c) corner[c] = 0;
        }
        const OuterTile<T> tile{left, v, right, u, panel, rows, transposed ? corner : at,
                                transposed ? kPanel<T> : v_stride, last,
                                fetch && !transposed};
        kOuterTiles<T>.fn[packed][vectors - 1][height - 1](tile);
        if (transposed) add_corner(corner, height, width, at, v_stride, u_stride);
      }
    }
  }
};

template <class T>
int64_t outer_scratch(int64_t rows, int64_t k, int64_t n) {
  const int64_t widest = smaller(k > n ? k : n, kLeftBlock);
  return kTallest * kPanel<T> +
         smaller(rows, kRowBlock) * (kPanel<T> + widest + 2 * Vec<T>::width);
}

template <class T>
void outer(const T* const* a, const T* const* dz, int64_t rows, int64_t k, int64_t n, T* g,
           int64_t n_stride, int64_t k_stride, T* scratch) {
  constexpr int64_t W = Vec<T>::width;
  // Vectors run along g's unit stride, unless that would leave a third of their lanes empty.
  const int64_t unit = n_stride == 1 ? n : k, other = n_stride == 1 ? k : n;
  const int64_t empty = (unit + W - 1) / W * W - unit;
  const bool transposed = 2 * empty >= unit && other > unit;
  const bool along_n = (n_stride == 1) != transposed;
  const T* const* left = along_n ? a : dz;
  const T* const* right = along_n ? dz : a;
  const int64_t lefts = along_n ? k : n, rights = along_n ? n : k;
  const int64_t v_stride = along_n ? k_stride : n_stride;
  const int64_t u_stride = along_n ? n_stride : k_stride;

  const bool fetch = k * n * static_cast<int64_t>(sizeof(T)) > kFetchFrom;
  T* const corner = scratch;
  T* const panel = corner + kTallest * kPanel<T>;
  T* const copy = panel + smaller(rows, kRowBlock) * kPanel<T>;
  const T* left_rows[kRowBlock];
  for (int64_t r0 = 0; r0 < rows; r0 += kRowBlock) {
    const int64_t block = smaller(kRowBlock, rows - r0);
    for (int64_t v0 = 0; v0 < lefts; v0 += kLeftBlock) {
      const int64_t width = smaller(kLeftBlock, lefts - v0);
      const int64_t copy_stride = (width + W - 1) / W * W + W;  // no power of two either
      for (int64_t r = 0; r < block; ++r) {
        left_rows[r] = left[r0 + r] + v0;
        if (rights > kCopyLeftFrom * kPanel<T>) {
          T* const to = copy + r * copy_stride;
          __builtin_memcpy(to, left_rows[r], width * sizeof(T));
          left_rows[r] = to;
        }
      }
      OuterBlock<T>{left_rows, width, right + r0, rights, block, g + v0 * v_stride, v_stride,
                    u_stride, transposed, fetch, corner, panel}
          .run();
    }
  }
}

}  // namespace ostinato::OSTINATO_ISA_NS
