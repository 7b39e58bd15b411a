// Handing values over to a thread that waits for them: memory holds kNothing wherever nothing has been
// handed over yet, so that a value is its own signal. (A signal beside it would be another line to wait
// for: two threads, CPUs far from each other, 800 cycles more of 1,400; near each other, 350 of 650.)
#pragma once

#include <type_traits>

#include "kernels.h"
#include "tile.inc.h"

namespace ostinato::OSTINATO_ISA_NS {

// A signalling NaN, which no arithmetic gives. With this bit it's a quiet one.
template <class T>
using BitsOf = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
template <class T>
inline constexpr BitsOf<T> kNothing =
    sizeof(T) == 4 ? BitsOf<T>{0x7fa53c69} : static_cast<BitsOf<T>>(0x7ff4a53c697a53c6);
template <class T>
inline constexpr BitsOf<T> kQuiet = BitsOf<T>{1} << (sizeof(T) == 4 ? 22 : 51);

// f(i, whole, n) for n elements from the i-th on: vectors, the last of which may not be whole.
template <class T, class F>
OSTINATO_INLINE void each_vector(int64_t n, const F& f) {
  constexpr int W = Vec<T>::width;
  int64_t i = 0;
  for (; i + W <= n; i += W) f(i, true, W);
  if (i < n) f(i, false, n - i);
}

template <class T>
void hand_over(T* to, const T* from, int64_t n) {
  each_vector<T>(n, [&](int64_t i, bool whole, int64_t left) {
    const VecOf<T> v = load_part(from + i, whole, left);
    const IntOf<T> bits = to_bits(v);
    const VecOf<T> quiet = from_bits(bits | kQuiet<T>);
    store_part(to + i, select(bits == kNothing<T>, quiet, v), whole, left);
  });
}

template <class T>
int64_t receive(T* to, const T* from, int64_t n) {
  constexpr int W = Vec<T>::width;
  for (int64_t i = 0; i < n; i += W) {
    const bool whole = i + W <= n;
    const VecOf<T> v = load_part(from + i, whole, n - i);
    if (any(to_bits(v) == kNothing<T>)) return i;
    store_part(to + i, v, whole, n - i);
  }
  return n;
}

template <class T>
void withdraw(T* at, int64_t n) {
  const VecOf<T> nothing = from_bits(IntOf<T>{} + kNothing<T>);
  each_vector<T>(n, [&](int64_t i, bool whole, int64_t left) {
    store_part(at + i, nothing, whole, left);
  });
}

template <class T>
void fill_handover(Kernels<T>& kernels) {
  kernels.hand_over = hand_over<T>;
  kernels.receive = receive<T>;
  kernels.withdraw = withdraw<T>;
}

}  // namespace ostinato::OSTINATO_ISA_NS
