// Small products with state: a row-major left operand given by pointers to its rows, times a map
// packed into panels.
//
// The k products of every element are added, in the order of k, to the bias (plus what was there),
// whatever the tile: a row's bits depend neither on the other rows nor on how columns are divided.
// But for few rows of a map as it lies (dots()), whose sums are of every width-th product.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

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
  Ahead* ahead;  // null, or two lines to be asked for at each step of k
  bool past_cache = false;  // whether whole vectors are stored past the cache, of three rows or more
};

// H rows, V vectors from `column` on, of as many panels as they take. Half: of the last vector no more
// than that is needed, which takes half as long where a core has two units for halves and the two
// together for whole vectors. Whole: the last vector, or half, is full. What is read of `t` is read
// before anything is stored, since a store might change it for all that the compiler knows.
template <class T, int H, int V, bool Half, bool Whole, bool Asks = false>
OSTINATO_INLINE void gemm_tile_of(const GemmTile<T>& t) {
  static_assert(kHalves || !Half);
  constexpr int W = Vec<T>::width, N = V - Half;
  const int64_t last = t.last;
  T* const* const out = t.out;
  const int64_t column = t.column;
  const T* row[H];
  OSTINATO_UNROLLED
  for (int h = 0; h < H; ++h) row[h] = t.a[h];
  VecOf<T> acc[H][N + Half];  // with Half the last one isn't used
  HalfOf<T> half[H];
  const auto whole = [](int v) { return Half || Whole || v < N - 1; };
  OSTINATO_UNROLLED
  for (int v = 0; v < N; ++v) {
    VecOf<T> start{};
    if (t.bias) start = load_part(t.bias + column + v * W, whole(v), last);
    OSTINATO_UNROLLED
    for (int h = 0; h < H; ++h) acc[h][v] = start;
  }
  if constexpr (Half) {
    HalfOf<T> start{};
    if (t.bias) start = load_half<Whole>(t.bias + column + N * W, last);
    OSTINATO_UNROLLED
    for (int h = 0; h < H; ++h) half[h] = start;
  }
  if (t.accumulate) {
    OSTINATO_UNROLLED
    for (int h = 0; h < H; ++h) {
      const T* const from = computed(out[h] + column);
      OSTINATO_UNROLLED
      for (int v = 0; v < N; ++v) acc[h][v] = acc[h][v] + load_part(from + v * W, whole(v), last);
      if constexpr (Half) half[h] = half[h] + load_half<Whole>(from + N * W, last);
    }
  }
  const T* packed = t.packed;
  const int64_t panel_step = t.panel_step, end = t.k_begin + t.k;
  int64_t p = t.k_begin, stop = end;
  do {
    const char* line = reinterpret_cast<const char*>(packed);  // with nothing to ask for, what is there
    if constexpr (Asks) stop = p + (t.ahead->take(2 * (end - p), line) + 1) / 2;
    for (; p < stop; ++p, packed += kPanel<T>) {
      if constexpr (Asks) {
        __builtin_prefetch(line, 0, 2);
        __builtin_prefetch(line + kLine, 0, 2);
        line += 2 * kLine;
      }
      VecOf<T> right[N + Half];
      HalfOf<T> right_half;
      for (int v = 0; v < N; ++v) {
        right[v] = in_register(load(packed + v / kVectors * panel_step + v % kVectors * W));
      }
      if constexpr (Half) {
        const T* const from = packed + N / kVectors * panel_step + N % kVectors * W;
        right_half = in_register(load_half<true>(from, 0));
      }
      for (int h = 0; h < H; ++h) {
        if constexpr (N > 0) {
          const VecOf<T> left = broadcast(row[h][p]);
          for (int v = 0; v < N; ++v) acc[h][v] = fma(left, right[v], acc[h][v]);
        }
        if constexpr (Half) half[h] = fma(row[h][p] - HalfOf<T>{}, right_half, half[h]);
      }
    }
  } while (Asks && p < end);
  if constexpr (Whole && !Half && H > 2) {
    if (t.past_cache) {
      OSTINATO_UNROLLED
      for (int h = 0; h < H; ++h) {
        T* const to = computed(out[h] + column);
        OSTINATO_UNROLLED
        for (int v = 0; v < N; ++v) store_past_cache(to + v * W, acc[h][v]);
      }
      return;
    }
  }
  OSTINATO_UNROLLED
  for (int h = 0; h < H; ++h) {
    T* const to = computed(out[h] + column);
    OSTINATO_UNROLLED
    for (int v = 0; v < N; ++v) store_part(to + v * W, acc[h][v], whole(v), last);
    if constexpr (Half) store_half<Whole>(to + N * W, half[h], last);
  }
}

template <class T, int H, int V>
void gemm_tile(const GemmTile<T>& t) {
  constexpr int64_t W = Vec<T>::width;
  if (t.last == W) {
    if constexpr (V == kVectors) {
      if (t.ahead != nullptr) return gemm_tile_of<T, H, V, false, true, true>(t);
    }
    return gemm_tile_of<T, H, V, false, true>(t);
  }
  if constexpr (kHalves) {
    if (t.last == W / 2) return gemm_tile_of<T, H, V, true, true>(t);
    if (t.last < W / 2) return gemm_tile_of<T, H, V, true, false>(t);
  }
  gemm_tile_of<T, H, V, false, false>(t);
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

// From so many bytes on a map isn't found in L2 at the next step. Its blocks are asked for while the
// tiles of the block before are at work: otherwise a block's first tile waits for all of it, and the
// others for nothing. LSTM at H = 512, 32 rows, inference, beside other programs: 0.90 to 0.96 of the
// time on one thread, 0.84 to 0.99 on two.
inline constexpr int64_t kFarMap = int64_t{512} << 10;

// Bytes of the smallest first-level cache that processors with wide vectors have.
inline constexpr int64_t kLevel1 = int64_t{32} << 10;

// What a product is of. Read once and written into a tile's description field by field: a copy of
// that would wait for the stores before it.
template <class T>
struct Product {
  const T* const* a;
  int64_t rows;
  int64_t k;
  const T* packed;
  T* const* out;
  const T* bias;
  bool accumulate;
  Ahead* ahead;
  bool past_cache;
  bool far;  // as large as kFarMap says
};

// All rows, for the `width` columns of the panel that begins at `column`. `next` is the panel whose
// turn comes then, or null.
template <class T>
void gemm_panel(const Product<T>& p, int64_t column, int64_t width, const T* next) {
  constexpr int64_t W = Vec<T>::width;
  const int64_t vectors = (width + W - 1) / W;
  GemmTile<T> t;
  t.k_begin = 0;
  t.packed = p.packed + column * p.k;
  t.panel_step = 0;  // there is one panel
  t.column = column;
  t.bias = p.bias;
  t.accumulate = p.accumulate;
  t.last = width - (vectors - 1) * W;
  const Split tiles(p.rows, max_height(vectors));
  const auto& fn = kGemmTiles<T>.fn[vectors - 1];
  do {
    t.k = smaller(kInnerBlock, p.k - t.k_begin);
    t.past_cache = p.past_cache && t.k_begin + t.k == p.k;
    t.a = p.a;
    t.out = p.out;
    const int64_t left = p.k - t.k_begin - t.k;
    const T* const block = left > 0 ? t.packed + t.k * kPanel<T> : next;
    const int64_t share = smaller(kInnerBlock, left > 0 ? left : p.k) * kPanel<T> / tiles.count;
    for (int64_t i = 0; i < tiles.count; ++i) {
      const int64_t height = tiles.height(i);
      Ahead of_map;
      t.ahead = nullptr;
      if (p.ahead != nullptr && !p.ahead->empty()) {
        t.ahead = p.ahead;
      } else if (p.far && block != nullptr) {
        of_map.add(block + i * share, share * static_cast<int64_t>(sizeof(T)));
        t.ahead = &of_map;
      }
      fn[height - 1](t);
      t.a += height;
      t.out += height;
    }
    t.packed += t.k * kPanel<T>;
    t.k_begin += t.k;
    t.bias = nullptr;
    t.accumulate = true;
  } while (t.k_begin < p.k);
}

// H rows, `count` times the columns of P whole panels, from n_begin on or, descending, back to there.
// In one function, since what a call costs shows beside so small a product.
template <class T, int H, int P>
void gemm_few_rows(const Product<T>& p, int64_t n_begin, int64_t count, bool descending) {
  constexpr int64_t stride = P * kPanel<T>;
  GemmTile<T> t;
  t.a = p.a;
  t.k_begin = 0;
  t.k = p.k;
  t.panel_step = kPanel<T> * p.k;
  t.out = p.out;
  t.bias = p.bias;
  t.accumulate = p.accumulate;
  t.last = Vec<T>::width;
  t.column = n_begin + (descending ? (count - 1) * stride : 0);
  t.packed = p.packed + t.column * p.k;
  const int64_t step = descending ? -stride : stride, packed_step = step * p.k;
  for (int64_t i = 0; i < count; ++i) {
    gemm_tile_of<T, H, kVectors * P, false, true>(t);
    t.column += step;
    t.packed += packed_step;
  }
}

// H rows, and at the end of the map a panel and some of the next one's columns, at once: with those
// alone there would be too few sums in flight.
template <class T, int H>
void gemm_panel_and_part(const Product<T>& p, int64_t column, int64_t width) {
  constexpr int64_t W = Vec<T>::width;
  using Fn = void (*)(const GemmTile<T>&);
  static constexpr auto fn = []<int... V>(std::integer_sequence<int, V...>) {
    return std::array<Fn, kVectors>{gemm_tile<T, H, kVectors + 1 + V>...};
  }(std::make_integer_sequence<int, kVectors>{});
  const int64_t vectors = (width + W - 1) / W;
  const GemmTile<T> t{p.a,   0,    p.k,    p.packed + column * p.k, kPanel<T> * p.k,
                      p.out, column, p.bias, p.accumulate,            width - (vectors - 1) * W,
                      nullptr};
  fn[vectors - kVectors - 1](t);
}

template <class T>
void gemm(const T* const* a, int64_t rows, int64_t k, const T* packed, int64_t n_begin,
          int64_t n_end, T* const* out, const T* bias, bool accumulate, bool descending,
          Ahead* ahead, bool past_cache) {
  constexpr int64_t panel = kPanel<T>;
  if (rows <= 0) return;
  const bool far = k * (n_end - n_begin) * static_cast<int64_t>(sizeof(T)) > kFarMap;
  const Product<T> p{a, rows, k, packed, out, bias, accumulate, ahead, past_cache, far};
  if (rows > 2) {
    const int64_t count = (n_end - n_begin + panel - 1) / panel;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t column = n_begin + (descending ? count - 1 - i : i) * panel;
      const T* next = i + 1 == count ? nullptr : packed + (column + (descending ? -panel : panel)) * k;
      gemm_panel(p, column, smaller(panel, n_end - column), next);
    }
    return;
  }
  // One or two rows keep too few sums in flight with one panel of few steps: two at once. One row
  // takes 0.96 of the time so at H = 32 (LSTM, inference); at 64, where two panels just fill a small
  // first-level cache, so that going back and forth finds little of them there, 1.03; from 128 on
  // the same.
  const bool large = k * panel * static_cast<int64_t>(sizeof(T)) > kLevel1 / 3;
  const bool one = rows == 1 && kVectors >= 4 && large;
  const auto fn = one         ? gemm_few_rows<T, 1, 1>
                  : rows == 1 ? gemm_few_rows<T, 1, 2>
                              : gemm_few_rows<T, 2, 2>;
  int64_t count = (n_end - n_begin) / panel / (one ? 1 : 2);
  if (one && count > 0 && (n_end - n_begin) % panel != 0) --count;
  const int64_t rest = n_begin + count * (one ? panel : 2 * panel);
  const auto run_rest = [&] {
    if (n_end - rest > panel) {
      (rows == 1 ? gemm_panel_and_part<T, 1> : gemm_panel_and_part<T, 2>)(p, rest, n_end - rest);
    } else if (n_end > rest) {
      gemm_panel<T>(p, rest, n_end - rest, nullptr);
    }
  };
  if (descending) run_rest();
  if (count > 0) fn(p, n_begin, count, descending);
  if (!descending) run_rest();
}

// One tile of rows finds a small block in the first-level cache; more take turns at a larger one, as in
// gemm_panel().
template <class T>
inline constexpr int64_t kBlockRoom = std::max(kBlockSteps<T>, kInnerBlock) * kPanel<T>;

// Halves added to one another, from lanes that lie By apart on, until there are sums in N lanes.
template <class T, int By, int N, int... Lane>
OSTINATO_INLINE VecOf<T> fold(VecOf<T> v, std::integer_sequence<int, Lane...> lanes) {
  if constexpr (By < N) {
    return v;
  } else {
#if defined(__clang__)
    const VecOf<T> other = __builtin_shufflevector(v, v, ((Lane + By) % Vec<T>::width)...);
#else
    const VecOf<T> other = __builtin_shuffle(v, IntOf<T>{((Lane + By) % Vec<T>::width)...});
#endif
    return fold<T, By / 2, N>(v + other, lanes);
  }
}

// Lane i is the sum of the lanes of v[i], i < N, a power of two. Pairs are interleaved and their halves
// added, which leaves half as many vectors, and at last one that has lanes of all.
template <class T, int N, int Left = N>
OSTINATO_INLINE VecOf<T> sum_lanes(VecOf<T>* v) {
  constexpr int W = Vec<T>::width, n = Left / 2;
  constexpr auto lanes = std::make_integer_sequence<int, W>{};
  if constexpr (Left == 1) {
    return fold<T, W / 2, N>(v[0], lanes);
  } else {
    OSTINATO_UNROLLED
    for (int i = 0; i < n; ++i) {
      v[i] = interleave<T, 0>(v[i], v[i + n], lanes) + interleave<T, W / 2>(v[i], v[i + n], lanes);
    }
    return sum_lanes<T, N, n>(v);
  }
}

// The sums of the lanes of N vectors, each by halves.
template <class T, int N>
OSTINATO_INLINE void sum_each(VecOf<T>* v, T* to) {
  constexpr int W = Vec<T>::width, n = std::bit_floor(static_cast<unsigned>(N < W ? N : W));
  const VecOf<T> sums = sum_lanes<T, n>(v);
  __builtin_memcpy(to, &sums, n * sizeof(T));
  if constexpr (N > n) sum_each<T, N - n>(v + n, to + n);
}

// What is multiplied by columns of a map whose elements lie next to one another along k.
template <class T>
struct DotTile {
  const T* const* a;
  int64_t k;
  const T* w;  // the first column
  int64_t n_stride;
  T* const* out;
  int64_t column;
  const T* bias;  // null, or that of all columns
  bool accumulate;
  int64_t ahead;  // 0, or elements from each one to what is asked for when it's read
};

// H rows times C columns, which are read as they lie, with nothing to turn round. A vector of sums for
// each of both, added up at their ends.
template <class T, int H, int C>
void dot_tile(const DotTile<T>& t) {
  constexpr int W = Vec<T>::width;
  const T* row[H];
  OSTINATO_UNROLLED
  for (int h = 0; h < H; ++h) row[h] = t.a[h];
  VecOf<T> sums[H * C];
  OSTINATO_UNROLLED
  for (int i = 0; i < H * C; ++i) sums[i] = VecOf<T>{};
  const int64_t k = t.k;
  const auto add = [&]<bool Asks>(int64_t p, bool whole, std::bool_constant<Asks>)
                       __attribute__((always_inline)) {
    VecOf<T> left[H];
    OSTINATO_UNROLLED
    for (int h = 0; h < H; ++h) left[h] = in_register(load_part(row[h] + p, whole, k - p));
    OSTINATO_UNROLLED
    for (int c = 0; c < C; ++c) {
      const T* const from = t.w + c * t.n_stride + p;
      const VecOf<T> right = in_register(load_part(from, whole, k - p));
      if constexpr (Asks) __builtin_prefetch(from + t.ahead, 0, 2);
      OSTINATO_UNROLLED
      for (int h = 0; h < H; ++h) sums[h * C + c] = fma(left[h], right, sums[h * C + c]);
    }
  };
  int64_t p = 0;
  if (t.ahead != 0) {
    for (; p + W <= k; p += W) add(p, true, std::true_type());
  } else {
    for (; p + W <= k; p += W) add(p, true, std::false_type());
  }
  if (p < k) add(p, false, std::false_type());
  T total[H * C];
  sum_each<T, H * C>(sums, total);
  typedef T Columns __attribute__((vector_size(C * sizeof(T))));
  const auto load_columns = [](const T* from) __attribute__((always_inline)) {
    Columns columns;
    __builtin_memcpy(&columns, from, sizeof(columns));
    return columns;
  };
  Columns bias{};
  if (t.bias) bias = load_columns(t.bias + t.column);
  OSTINATO_UNROLLED
  for (int h = 0; h < H; ++h) {
    T* const to = t.out[h] + t.column;
    const Columns start = t.accumulate ? bias + load_columns(to) : bias;
    const Columns sum = start + load_columns(total + h * C);
    __builtin_memcpy(to, &sum, sizeof(sum));
  }
}

// Columns at once: streams that a core reads in advance, and sums in flight. One row of maps of 1 to 8 MiB,
// GB/s: 85 to 100 with four, 78 to 92 with eight, 53 to 89 with sixteen, 50 to 75 with two.
inline constexpr int kDots = 4;
inline constexpr int kDotRows = kAccumulators / kDots;

// Of more bytes, which come from memory, the next columns are asked for: 32 MiB at 44 GB/s instead of 29,
// though what the third-level cache holds is read at 80 instead of 90.
inline constexpr int64_t kDotsAsk = int64_t{4} << 20;

// dots[height - 1]: so many rows, kDots columns; last: one column.
template <class T>
struct DotTiles {
  using Fn = void (*)(const DotTile<T>&);
  Fn dots[kDotRows], last[kDotRows];
};

template <class T, int... H>
constexpr DotTiles<T> make_dot_tiles(std::integer_sequence<int, H...>) {
  return {{dot_tile<T, H + 1, kDots>...}, {dot_tile<T, H + 1, 1>...}};
}

template <class T>
inline constexpr DotTiles<T> kDotTiles = make_dot_tiles<T>(std::make_integer_sequence<int, kDotRows>{});

template <class T>
void dots(const T* const* a, int64_t rows, int64_t k, const T* w, int64_t n_stride, int64_t n_begin,
          int64_t n_end, T* const* out, const T* bias, bool accumulate) {
  const Split tiles(rows, kDotRows);
  const bool asks = (n_end - n_begin) * k * static_cast<int64_t>(sizeof(T)) > kDotsAsk;
  DotTile<T> t;
  t.k = k;
  t.n_stride = n_stride;
  t.bias = bias;
  t.accumulate = accumulate;
  for (int64_t j = n_begin, columns; j < n_end; j += columns) {
    columns = n_end - j >= kDots ? kDots : 1;
    const auto& fn = columns == kDots ? kDotTiles<T>.dots : kDotTiles<T>.last;
    t.a = a;
    t.out = out;
    t.w = w + j * n_stride;
    t.column = j;
    t.ahead = asks && n_end - j > kDots ? kDots * n_stride : 0;
    for (int64_t i = 0; i < tiles.count; ++i) {
      const int64_t height = tiles.height(i);
      fn[height - 1](t);
      t.a += height;
      t.out += height;
    }
  }
}

template <class T>
void gemm_once(const T* const* a, int64_t rows, int64_t k, const T* w, int64_t k_stride,
               int64_t n_stride, int64_t n_begin, int64_t n_end, T* const* out, const T* bias,
               bool accumulate, bool past_cache, T* room) {
  constexpr int64_t W = Vec<T>::width, panel = kPanel<T>;
  if (rows <= 0) return;
  if (reads_as_it_lies(rows, k, k_stride)) {
    return dots<T>(a, rows, k, w, n_stride, n_begin, n_end, out, bias, accumulate);
  }
  GemmTile<T> t;
  t.packed = room;
  t.panel_step = 0;
  t.ahead = nullptr;
  for (int64_t column = n_begin; column < n_end; column += panel) {
    const int64_t width = smaller(panel, n_end - column), vectors = (width + W - 1) / W;
    const Split tiles(rows, max_height(vectors));
    const auto& fn = kGemmTiles<T>.fn[vectors - 1];
    const int64_t most = tiles.count > 1 ? kInnerBlock : kBlockSteps<T>;
    const T* const from = w + column * n_stride;
    t.column = column;
    t.last = width - (vectors - 1) * W;
    t.bias = bias;
    t.accumulate = accumulate;
    t.k_begin = 0;
    do {
      t.k = smaller(most, k - t.k_begin);
      t.past_cache = past_cache && t.k_begin + t.k == k;
      pack_panel(room, from + t.k_begin * k_stride, k_stride, n_stride, t.k, width, panel,
                 to_next_block<T>(t.k_begin, t.k, k, column + width == n_end, k_stride, n_stride));
      t.a = a;
      t.out = out;
      for (int64_t i = 0; i < tiles.count; ++i) {
        const int64_t height = tiles.height(i);
        fn[height - 1](t);
        t.a += height;
        t.out += height;
      }
      t.k_begin += t.k;
      t.bias = nullptr;
      t.accumulate = true;
    } while (t.k_begin < k);
  }
}

template <class T>
void fill_gemm(Kernels<T>& kernels) {
  kernels.vector_width = Vec<T>::width;
  kernels.panel = kPanel<T>;
  kernels.pack = pack<T>;
  kernels.gemm = gemm<T>;
  kernels.gemm_once = gemm_once<T>;
  kernels.block_room = kBlockRoom<T>;
  kernels.outer = outer<T>;
  kernels.outer_scratch = outer_scratch<T>;
}

}  // namespace ostinato::OSTINATO_ISA_NS
