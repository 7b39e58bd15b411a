// Zeros where a row has no step: in results that aren't packed, from its length on.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "plan.h"

namespace ostinato {

// All threads of a call clear together, each as it ends its own rows: those of short rows would
// otherwise have most of the padding as well.
template <class T>
class Padding {
 public:
  Padding(const Plan& plan, const Call& call) : plan_(plan), call_(call) {
    if (call.uniform || call.packed) return;
    length_.resize(static_cast<size_t>(call.rows));
    int64_t idle = 0;
    for (int64_t row = 0; row < call.rows; ++row) {
      length_[call.order.empty() ? row : call.order[row]] = call.length[row];
      idle += call.steps - call.length[row];
    }
    int64_t widths = 0;
    for (int32_t id : plan.results) widths += plan.streams[id].width;
    past_cache_ = idle * widths * static_cast<int64_t>(sizeof(T)) >= kPastCache;
  }

  void clear() {
    if (length_.empty()) return;
    const int64_t steps = call_.steps, blocks = (steps + kBlock - 1) / kBlock;
    const auto count = static_cast<int64_t>(plan_.results.size()) * blocks;
    for (int64_t i = next_++; i < count; i = next_++) {
      const int32_t id = plan_.results[i / blocks];
      const int64_t first = i % blocks * kBlock;
      clear_block(call_.streams[id], plan_.streams[id].width, first,
                  std::min(steps, first + kBlock));
    }
  }

 private:
  static constexpr int64_t kBlock = 64;  // steps
  static constexpr int64_t kPastCache = int64_t{4} << 20;

  // What lies side by side is cleared at once.
  void clear_block(const StreamArg& arg, int64_t width, int64_t first, int64_t last) const {
    T* base = static_cast<T*>(arg.base);
    if (arg.time_stride == width) {
      for (int64_t b = 0; b < call_.rows; ++b) {
        const int64_t from = std::max(first, length_[b]);
        if (from < last) zero(base + b * arg.row_stride + from * width, (last - from) * width);
      }
      return;
    }
    const bool adjacent = arg.row_stride == width;
    for (int64_t t = first; t < last; ++t) {
      int64_t b = 0;
      while (b < call_.rows) {
        const int64_t begin = b;
        while (b < call_.rows && length_[b] <= t && (adjacent || b == begin)) ++b;
        if (b > begin) {
          zero(base + t * arg.time_stride + begin * arg.row_stride, (b - begin) * width);
        } else {
          ++b;
        }
      }
    }
  }

  void zero(T* p, int64_t count) const {
    char* at = reinterpret_cast<char*>(p);
    char* const end = reinterpret_cast<char*>(p + count);
#if defined(__SSE2__)
    if (past_cache_) {
      // Lines that are written whole and not read first: 0.9 ms less for 25 MB, of 13.4 ms.
      while (at < end && reinterpret_cast<uintptr_t>(at) % 64 != 0) *at++ = 0;
      const __m128i zeros = _mm_setzero_si128();
      for (; at + 64 <= end; at += 64) {
        for (int i = 0; i < 4; ++i) _mm_stream_si128(reinterpret_cast<__m128i*>(at) + i, zeros);
      }
    }
#endif
    std::memset(at, 0, static_cast<size_t>(end - at));
  }

  const Plan& plan_;
  const Call& call_;
  std::vector<int64_t> length_;  // by the caller's row
  bool past_cache_ = false;
  std::atomic<int64_t> next_{0};
};

}  // namespace ostinato
