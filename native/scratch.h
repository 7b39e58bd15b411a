// Memory that a call needs for itself.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>

namespace ostinato {

// Memory for one call, taken from a buffer that the calling thread keeps for its next call.
class Scratch {
 public:
  template <class T>
  T* take(int64_t elements) {
    const int64_t bytes = (elements * static_cast<int64_t>(sizeof(T)) + 127) / 64 * 64;
    used_ += bytes;
    return base_ ? reinterpret_cast<T*>(base_ + used_ - bytes) : nullptr;
  }
  // The same sequence of take() calls is made twice: to count, then to hand out.
  void begin_count() {
    base_ = nullptr;
    used_ = 0;
  }
  void begin_take() {
    if (used_ > capacity_) {
      buffer_.reset();
      capacity_ = 0;
      buffer_.reset(static_cast<char*>(::operator new(static_cast<size_t>(used_), kAlign)));
      capacity_ = used_;
    }
    base_ = buffer_.get();
    used_ = 0;
  }
  void poison() const {
    const double nan = std::numeric_limits<double>::signaling_NaN();
    // A double's NaN is a NaN in both of its halves read as floats, too, if both have one.
    uint64_t bits;
    std::memcpy(&bits, &nan, 8);
    bits |= 0x7fa00000u;
    for (int64_t i = 0; i + 8 <= capacity_; i += 8) std::memcpy(buffer_.get() + i, &bits, 8);
  }
  void release_if_large() {
    if (capacity_ > kKeep) {
      buffer_.reset();
      capacity_ = 0;
    }
  }

 private:
  static constexpr std::align_val_t kAlign{64};
  static constexpr int64_t kKeep = int64_t{64} << 20;
  struct Free {
    void operator()(char* p) const { ::operator delete(p, kAlign); }
  };
  std::unique_ptr<char, Free> buffer_;
  char* base_ = nullptr;
  int64_t capacity_ = 0, used_ = 0;
};

}  // namespace ostinato
