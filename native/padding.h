// Zeros where a row has no step: in results that aren't packed, from its length on.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <vector>

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
    for (int64_t row = 0; row < call.rows; ++row) {
      length_[call.order.empty() ? row : call.order[row]] = call.length[row];
    }
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

  static void zero(T* p, int64_t count) {
    std::memset(p, 0, static_cast<size_t>(count) * sizeof(T));
  }

  const Plan& plan_;
  const Call& call_;
  std::vector<int64_t> length_;  // by the caller's row
  std::atomic<int64_t> next_{0};
};

}  // namespace ostinato
