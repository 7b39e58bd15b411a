// Memory that a call needs for itself.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <vector>

namespace ostinato {

// Memory taken from a buffer that lasts from call to call.
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
  int64_t capacity() const { return capacity_; }

 private:
  static constexpr std::align_val_t kAlign{64};
  struct Free {
    void operator()(char* p) const { ::operator delete(p, kAlign); }
  };
  std::unique_ptr<char, Free> buffer_;
  char* base_ = nullptr;
  int64_t capacity_ = 0, used_ = 0;
};

// Memory for one call on several threads, which the calling thread keeps for its next call: what all
// share, and each one's own. Forward and backward lay theirs out differently; in one buffer for all,
// lines that one thread has written would be another's in the next call, and cross the chip.
class Scratches {
 public:
  Scratch& shared() { return shared_; }
  Scratch& of(int thread) { return own_[static_cast<size_t>(thread)]; }

  // `allocate` takes what it needs, the same each time it is called.
  template <class F>
  void lay_out(int threads, bool poison, const F& allocate) {
    if (own_.size() < static_cast<size_t>(threads)) own_.resize(static_cast<size_t>(threads));
    shared_.begin_count();
    for (Scratch& own : own_) own.begin_count();
    allocate();
    shared_.begin_take();
    for (Scratch& own : own_) own.begin_take();
    if (poison) {
      shared_.poison();
      for (const Scratch& own : own_) own.poison();
    }
    allocate();
  }
  void release_if_large() {
    int64_t all = shared_.capacity();
    for (const Scratch& own : own_) all += own.capacity();
    if (all <= kKeep) return;
    shared_ = Scratch();
    own_.clear();
  }

 private:
  static constexpr int64_t kKeep = int64_t{64} << 20;
  Scratch shared_;
  std::vector<Scratch> own_;
};

}  // namespace ostinato
