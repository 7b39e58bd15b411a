// Pointwise kernels and moves for the instruction set that is being compiled (see vec.h).
// fill_pointwise() is the only entry.
#pragma once

#include <cstddef>
#include <utility>

#include "kernels.h"
#include "tile.inc.h"
#include "vec.h"
#include "vecmath.h"

namespace ostinato::OSTINATO_ISA_NS {

// ---- the operations: one vector of results from vectors of operands

#define OSTINATO_OP1(Name, expression)                  \
  template <class T>                                    \
  struct Name {                                         \
    using V = VecOf<T>;                                 \
    using M = Math<T>;                                  \
    static constexpr int arity = 1;                     \
    static OSTINATO_INLINE V apply(V a) { return expression; } \
  };
#define OSTINATO_OP2(Name, expression)                       \
  template <class T>                                         \
  struct Name {                                              \
    using V = VecOf<T>;                                      \
    using M = Math<T>;                                       \
    static constexpr int arity = 2;                          \
    static OSTINATO_INLINE V apply(V a, V b) { return expression; } \
  };
#define OSTINATO_OP3(Name, expression)                            \
  template <class T>                                              \
  struct Name {                                                   \
    using V = VecOf<T>;                                           \
    using M = Math<T>;                                            \
    static constexpr int arity = 3;                               \
    static OSTINATO_INLINE V apply(V a, V b, V c) { return expression; } \
  };

OSTINATO_OP1(CopyOp, a)
OSTINATO_OP1(NegOp, -a)
OSTINATO_OP1(AbsOp, M::abs(a))
OSTINATO_OP1(SignOp, M::sign(a))
OSTINATO_OP1(FloorOp, M::floor(a))
OSTINATO_OP1(ReciprocalOp, T(1) / a)
OSTINATO_OP1(SqrtOp, sqrt(a))
OSTINATO_OP1(RsqrtOp, M::rsqrt(a))
OSTINATO_OP1(ExpOp, M::exp(a))
OSTINATO_OP1(Expm1Op, M::expm1(a))
OSTINATO_OP1(LogOp, M::log(a))
OSTINATO_OP1(Log1pOp, M::log1p(a))
OSTINATO_OP1(SinOp, M::sin(a))
OSTINATO_OP1(CosOp, M::cos(a))
OSTINATO_OP1(ErfOp, M::erf(a))
OSTINATO_OP1(ReluOp, max(V{}, a))

OSTINATO_OP2(AddOp, a + b)
OSTINATO_OP2(SubOp, a - b)
OSTINATO_OP2(MulOp, a * b)
OSTINATO_OP2(DivOp, a / b)
OSTINATO_OP2(MaxOp, select(a != a, a, max(a, b)))
OSTINATO_OP2(MinOp, select(a != a, a, min(a, b)))
OSTINATO_OP2(PowOp, M::pow(a, b))
OSTINATO_OP2(LtOp, select(a < b, M::all(1), V{}))
OSTINATO_OP2(LeOp, select(a <= b, M::all(1), V{}))
OSTINATO_OP2(GtOp, select(a > b, M::all(1), V{}))
OSTINATO_OP2(GeOp, select(a >= b, M::all(1), V{}))
OSTINATO_OP2(EqOp, select(a == b, M::all(1), V{}))
OSTINATO_OP2(NeOp, select(a != b, M::all(1), V{}))
OSTINATO_OP2(SigmoidGradOp, a * b * (T(1) - b))
OSTINATO_OP2(TanhGradOp, a * fma(-b, b, M::all(1)))
OSTINATO_OP2(ReluGradOp, select(b > T(0), a, V{}))

OSTINATO_OP3(WhereOp, select(a != T(0), b, c))
OSTINATO_OP3(MulAddOp, fma(a, b, c))
OSTINATO_OP3(NegMulAddOp, fma(-a, b, c))
OSTINATO_OP3(SigmoidGradMulOp, SigmoidGradOp<T>::apply(a * b, c))
OSTINATO_OP3(TanhGradMulOp, TanhGradOp<T>::apply(a * b, c))
OSTINATO_OP3(MixOp, fma(a, c, (T(1) - a) * b))

#undef OSTINATO_OP1
#undef OSTINATO_OP2
#undef OSTINATO_OP3

// What gates are made of: by division or by Newton's method (vecmath.h). Each is large, so that there
// is no type for each mode of the operands: one for whole rows, and gate_of_values() for all others.
#define OSTINATO_GATE(Name, count, parameters, expression)                                        \
  template <class T, bool Newton>                                                                 \
  struct Name {                                                                                   \
    using V = VecOf<T>;                                                                           \
    static constexpr int arity = count;                                                           \
    static constexpr bool is_gate = true;                                                         \
    static OSTINATO_INLINE V sigmoid(V x) { return Math<T>::template sigmoid<Newton>(x); }        \
    static OSTINATO_INLINE V tanh(V x) { return Math<T>::template tanh<Newton>(x); }              \
    static OSTINATO_INLINE V apply parameters { return expression; }                              \
  };

OSTINATO_GATE(SigmoidOp, 1, (V a), sigmoid(a))
OSTINATO_GATE(TanhOp, 1, (V a), tanh(a))
OSTINATO_GATE(SigmoidAddOp, 2, (V a, V b), sigmoid(a + b))
OSTINATO_GATE(TanhAddOp, 2, (V a, V b), tanh(a + b))
OSTINATO_GATE(SigmoidMulAddOp, 3, (V a, V b, V c), sigmoid(fma(a, b, c)))
OSTINATO_GATE(TanhMulAddOp, 3, (V a, V b, V c), tanh(fma(a, b, c)))
OSTINATO_GATE(MulSigmoidOp, 2, (V a, V b), a * sigmoid(b))
OSTINATO_GATE(MulTanhOp, 2, (V a, V b), a * tanh(b))
OSTINATO_GATE(MulSigmoidTanhOp, 2, (V a, V b), sigmoid(a) * tanh(b))
OSTINATO_GATE(MulSigmoidAddOp, 3, (V a, V b, V c), fma(a, sigmoid(b), c))

#undef OSTINATO_GATE

template <class F>
concept Gate = F::is_gate;

// ---- the loops

// Vectors go four at a time, since each one's operations wait for one another: runs of four along
// a row, and what is left of many rows down the rows. All loads of four come before their stores, so
// that d may be one of the operands.

// One row of an operand: a run of elements, or (Flat) one value for the whole row.
template <class T, bool Flat>
struct RowOf {
  const T* p;
  VecOf<T> value;
  OSTINATO_INLINE RowOf(const In<T>& in, int64_t r) : p(in.p + r * in.row_stride) {
    if constexpr (Flat) value = broadcast<T>(*p);
  }
  OSTINATO_INLINE VecOf<T> at(int64_t c) const {
    if constexpr (Flat) return value;
    else return load(p + c);
  }
  OSTINATO_INLINE VecOf<T> at(int64_t c, int64_t n) const {
    if constexpr (Flat) return value;
    else return load(p + c, n);
  }
};

// d[0..cols) from the rows' elements.
template <class T, class F, class... Rows>
OSTINATO_INLINE void one_row(T* d, int64_t cols, const Rows&... rows) {
  constexpr int W = Vec<T>::width;
  int64_t c = 0;
  for (; c + 4 * W <= cols; c += 4 * W) {
    const VecOf<T> v0 = F::apply(rows.at(c)...);
    const VecOf<T> v1 = F::apply(rows.at(c + W)...);
    const VecOf<T> v2 = F::apply(rows.at(c + 2 * W)...);
    const VecOf<T> v3 = F::apply(rows.at(c + 3 * W)...);
    store(d + c, v0);
    store(d + c + W, v1);
    store(d + c + 2 * W, v2);
    store(d + c + 3 * W, v3);
  }
  for (; c + W <= cols; c += W) store(d + c, F::apply(rows.at(c)...));
  if (c < cols) store(d + c, F::apply(rows.at(c, cols - c)...), cols - c);
}

template <class T, class F, bool... Flat>
struct Rows {
  template <class... At>
  static OSTINATO_INLINE void run(T* d, int64_t d_stride, const In<T>* in, int64_t rows,
                                  int64_t cols, At... at) {
    for (int64_t r = 0; r < rows; ++r, d += d_stride) {
      one_row<T, F>(d, cols, RowOf<T, Flat>(in[at], r)...);
    }
  }
};

// Takes into the type which operands are one value a row; bit i of `flat` stands for operand i. Of a
// gate none may be.
template <class T, class F, bool... Flat>
static OSTINATO_INLINE void by_mode(T* d, int64_t d_stride, const In<T>* in, int64_t rows,
                                    int64_t cols, unsigned flat) {
  constexpr int done = sizeof...(Flat);
  if constexpr (done < F::arity) {
    if constexpr (!Gate<F>) {
      if (flat >> done & 1u) return by_mode<T, F, Flat..., true>(d, d_stride, in, rows, cols, flat);
    }
    by_mode<T, F, Flat..., false>(d, d_stride, in, rows, cols, flat);
  } else if constexpr (F::arity == 1) {
    Rows<T, F, Flat...>::run(d, d_stride, in, rows, cols, 0);
  } else if constexpr (F::arity == 2) {
    Rows<T, F, Flat...>::run(d, d_stride, in, rows, cols, 0, 1);
  } else {
    Rows<T, F, Flat...>::run(d, d_stride, in, rows, cols, 0, 1, 2);
  }
}

// An operand as seen from one column: a vector in each row; of one that is `flat` always the same one,
// in `same`.
template <class T>
struct Down {
  const T* p;
  int64_t stride, step;  // to the next row, and to the next vector of the same row

  OSTINATO_INLINE Down(const In<T>& in, int64_t first, bool flat, T* same)
      : p(in.p + first), stride(in.row_stride), step(Vec<T>::width) {
    if (!flat) return;
    store(same, broadcast<T>(*in.p));
    p = same;
    stride = step = 0;
  }
  template <int Each, bool Whole>
  OSTINATO_INLINE VecOf<T> at(int64_t row, int64_t n) const {
    const T* const from = p + row * stride;
    if constexpr (Each == 2) return load_halves<Whole>(from, from + stride, n);
    else return load_part(from, Whole, n);
  }
};

// n elements of each row: of `Each` rows in a vector, which is full or (Each == 2) whose halves are
// if they are whole. Returns how many rows that doesn't divide by are left.
template <class T, class F, int Each, bool Whole, class... Operands>
OSTINATO_INLINE int64_t down_rows(T* d, int64_t d_stride, int64_t rows, int64_t n,
                                  Operands... in) {
  const auto put = [&](int64_t row, VecOf<T> v) {
    T* const to = d + row * d_stride;
    if constexpr (Each == 2) store_halves<Whole>(to, to + d_stride, v, n);
    else store_part(to, v, Whole, n);
  };
  constexpr int four = 4 * Each;
  for (; rows >= four; rows -= four, d += four * d_stride, ((in.p += four * in.stride), ...)) {
    const VecOf<T> v0 = F::apply(in.template at<Each, Whole>(0, n)...);
    const VecOf<T> v1 = F::apply(in.template at<Each, Whole>(Each, n)...);
    const VecOf<T> v2 = F::apply(in.template at<Each, Whole>(2 * Each, n)...);
    const VecOf<T> v3 = F::apply(in.template at<Each, Whole>(3 * Each, n)...);
    put(0, v0);
    put(Each, v1);
    put(2 * Each, v2);
    put(3 * Each, v3);
  }
  for (; rows >= Each; rows -= Each, d += Each * d_stride, ((in.p += Each * in.stride), ...)) {
    put(0, F::apply(in.template at<Each, Whole>(0, n)...));
  }
  return rows;
}

// The last columns, fewer than a vector: of two rows at once where a vector has room for them.
template <class T, class F, class... Operands>
OSTINATO_INLINE void down_last(T* d, int64_t d_stride, int64_t rows, int64_t n, Operands... in) {
  constexpr int64_t half = Vec<T>::width / 2;
  if constexpr (kHalves) {
    if (n <= half && rows > 1) {
      const int64_t left = n == half ? down_rows<T, F, 2, true>(d, d_stride, rows, n, in...)
                                     : down_rows<T, F, 2, false>(d, d_stride, rows, n, in...);
      d += (rows - left) * d_stride;
      ((in.p += (rows - left) * in.stride), ...);
      rows = left;
    }
  }
  down_rows<T, F, 1, false>(d, d_stride, rows, n, in...);
}

template <class T, class F, class... Operands>
OSTINATO_INLINE void down_columns(T* d, int64_t d_stride, int64_t rows, int64_t cols,
                                  Operands... in) {
  constexpr int W = Vec<T>::width;
  for (; cols >= W; cols -= W, d += W, ((in.p += in.step), ...)) {
    down_rows<T, F, 1, true>(d, d_stride, rows, W, in...);
  }
  if (cols > 0) down_last<T, F>(d, d_stride, rows, cols, in...);
}

// The columns from `first` on. Bit i of `flat`: operand i is one value, which becomes a vector. (A type
// for each mode of the operands would double the module.)
template <class T, class F, size_t... At>
static void columns(T* d, int64_t d_stride, const In<T>* in, int64_t rows, int64_t first,
                    int64_t cols, unsigned flat, std::index_sequence<At...>) {
  T same[F::arity][Vec<T>::width];
  down_columns<T, F>(d + first, d_stride, rows, cols - first,
                     Down<T>(in[At], first, flat >> At & 1u, same[At])...);
}

// A gate of which operands are one value a row: each row as so many rows of a vector each.
template <class T, class F>
static void gate_of_values(T* d, int64_t d_stride, const In<T>* in, int64_t rows, int64_t cols,
                           unsigned flat) {
  constexpr int64_t W = Vec<T>::width;
  constexpr auto all = std::make_index_sequence<F::arity>();
  const int64_t whole = cols / W, rest = cols % W;
  for (int64_t r = 0; r < rows; ++r, d += d_stride) {
    In<T> row[F::arity];
    for (int i = 0; i < F::arity; ++i) {
      row[i].p = in[i].p + r * in[i].row_stride;
      row[i].row_stride = W;
    }
    if (whole > 0) columns<T, F>(d, W, row, whole, 0, W, flat, all);
    if (rest == 0) continue;
    for (int i = 0; i < F::arity; ++i) row[i].p += flat >> i & 1u ? 0 : whole * W;
    columns<T, F>(d + whole * W, W, row, 1, 0, rest, flat, all);
  }
}

template <class T, class F>
static void pointwise(T* d, int64_t d_stride, const In<T>* in, int64_t rows, int64_t cols) {
  if (rows == 0 || cols == 0) return;
  bool one = d_stride == cols || rows == 1;  // whether the rows are one long row
  bool down = rows >= 4;  // whether what is left of a row goes down the rows
  unsigned flat = 0;
  // Field by field: an operand copied as a whole waits for the stores that have just written it.
  for (int i = 0; i < F::arity; ++i) {
    // A column: its elements may as well be adjacent as the same for the row.
    const bool adjacent = cols == 1 ? in[i].row_stride == 1 : in[i].col_stride != 0;
    flat |= adjacent ? 0u : 1u << i;
    one = one && (rows == 1 || in[i].row_stride == (adjacent ? cols : 0));
    // A value of its own for each row has no vector that goes for all rows.
    down = down && (adjacent || in[i].row_stride == 0);
  }
  if (one) {
    cols *= rows;
    rows = 1;
    down = false;
  }
  if constexpr (Gate<F>) {
    if (flat != 0) return gate_of_values<T, F>(d, d_stride, in, rows, cols, flat);
  }
  const int64_t along = down ? cols - cols % (4 * Vec<T>::width) : cols;
  if (along > 0) by_mode<T, F>(d, d_stride, in, rows, along, flat);
  if (along < cols) {
    columns<T, F>(d, d_stride, in, rows, along, cols, flat, std::make_index_sequence<F::arity>());
  }
}

// ---- moves

// Adjacent memory goes in the order that first_lines() tells of: a step's output is such memory.
template <class T>
static void copy(T* d, int64_t d_stride, const In<T>* in, int64_t rows, int64_t cols) {
  constexpr int64_t W = Vec<T>::width, line = kLine / static_cast<int64_t>(sizeof(T));
  if (in->col_stride == 0 || in->row_stride != cols || d_stride != cols) {
    return pointwise<T, CopyOp<T>>(d, d_stride, in, rows, cols);
  }
  const T* const from = in->p;
  const int64_t all = rows * cols, last = smaller(first_lines(all / line) * line, all);
  const int64_t begin = all - last, rest = last % W;
  int64_t left = all - rest;
  if (rest > 0) store(d + left, load(from + left, rest), rest);
  for (; left > begin; left -= W) store(d + left - W, load(from + left - W));
  one_row<T, CopyOp<T>>(d, begin, RowOf<T, false>(*in, 0));
}

// The same, whole lines past the cache.
template <class T>
static void copy_past_cache(T* d, int64_t d_stride, const In<T>* in, int64_t rows, int64_t cols) {
  constexpr int64_t W = Vec<T>::width, line = kLine / static_cast<int64_t>(sizeof(T));
  const int64_t all = rows * cols;
  const int64_t before = static_cast<int64_t>(-reinterpret_cast<uintptr_t>(d) % kLine / sizeof(T));
  const bool adjacent = in->col_stride != 0 && in->row_stride == cols && d_stride == cols;
  if (!adjacent || all < before + line) return copy<T>(d, d_stride, in, rows, cols);
  const RowOf<T, false> from(*in, 0);
  one_row<T, CopyOp<T>>(d, before, from);
  int64_t c = before;
  for (; c + line <= all; c += line) {
    OSTINATO_UNROLLED
    for (int64_t v = 0; v < line; v += W) store_past_cache(d + c + v, from.at(c + v));
  }
  one_row<T, CopyOp<T>>(d + c, all - c, RowOf<T, false>({from.p + c, 0, 1}, 0));
}

template <class T>
static OSTINATO_INLINE const T* row_of(const In<T>& a, int64_t r) {
  return a.p + r * a.row_stride;
}

template <class T>
static void take(T* d, int64_t d_stride, In<T> a, int64_t rows, const int64_t* index, int64_t n) {
  for (int64_t r = 0; r < rows; ++r, d += d_stride) {
    const T* p = row_of(a, r);
    for (int64_t j = 0; j < n; ++j) d[j] = p[index[j] * a.col_stride];
  }
}

template <class T>
static void put(T* d, int64_t d_stride, In<T> a, int64_t rows, const int64_t* index, int64_t n,
                int64_t width) {
  for (int64_t r = 0; r < rows; ++r, d += d_stride) {
    const T* p = row_of(a, r);
    for (int64_t j = 0; j < width; ++j) d[j] = 0;
    for (int64_t j = 0; j < n; ++j) d[index[j]] += p[j * a.col_stride];
  }
}

// ---- the table

template <class T, bool Newton>
static void fill_gates(Kernels<T>& k) {
  const auto set = [&](Op op, auto fn) { k.pointwise[static_cast<int>(op)] = fn; };
  set(Op::kSigmoid, pointwise<T, SigmoidOp<T, Newton>>);
  set(Op::kTanh, pointwise<T, TanhOp<T, Newton>>);
  set(Op::kSigmoidAdd, pointwise<T, SigmoidAddOp<T, Newton>>);
  set(Op::kTanhAdd, pointwise<T, TanhAddOp<T, Newton>>);
  set(Op::kSigmoidMulAdd, pointwise<T, SigmoidMulAddOp<T, Newton>>);
  set(Op::kTanhMulAdd, pointwise<T, TanhMulAddOp<T, Newton>>);
  set(Op::kMulSigmoid, pointwise<T, MulSigmoidOp<T, Newton>>);
  set(Op::kMulTanh, pointwise<T, MulTanhOp<T, Newton>>);
  set(Op::kMulSigmoidTanh, pointwise<T, MulSigmoidTanhOp<T, Newton>>);
  set(Op::kMulSigmoidAdd, pointwise<T, MulSigmoidAddOp<T, Newton>>);
}

template <class T, template <class> class... F>
static void fill_ops(typename Kernels<T>::PointwiseFn* table) {
  static_assert(sizeof...(F) == static_cast<int>(Op::kFirstGate));
  const typename Kernels<T>::PointwiseFn all[] = {pointwise<T, F<T>>...};
  for (size_t i = 0; i < sizeof...(F); ++i) table[i] = all[i];
}

// Sets k's vector_width, `pointwise`, `take` and `put`.
template <class T>
void fill_pointwise(Kernels<T>& k) {
  k.vector_width = Vec<T>::width;
  // in the order of Op; copies have functions of their own
  fill_ops<T, CopyOp, NegOp, AbsOp, SignOp, FloorOp, ReciprocalOp, SqrtOp, RsqrtOp, ExpOp, Expm1Op,
           LogOp, Log1pOp, SinOp, CosOp, ErfOp, ReluOp, CopyOp, AddOp, SubOp, MulOp,
           DivOp, MaxOp, MinOp, PowOp, LtOp, LeOp, GtOp, GeOp, EqOp, NeOp, WhereOp, MulAddOp,
           NegMulAddOp, SigmoidGradOp, TanhGradOp, ReluGradOp, SigmoidGradMulOp, TanhGradMulOp,
           MixOp>(k.pointwise);
  fill_gates<T, false>(k);
  k.pointwise[static_cast<int>(Op::kCopy)] = copy<T>;
  k.pointwise[static_cast<int>(Op::kCopyPastCache)] = copy_past_cache<T>;
  k.take = take<T>;
  k.put = put<T>;
}

}  // namespace ostinato::OSTINATO_ISA_NS
