#include "memory.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <iterator>
#include <map>
#include <mutex>
#include <new>
#include <unordered_map>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace ostinato {
namespace {

constexpr int64_t kPage = 4096, kHugePage = int64_t{2} << 20;
// Memory from here on is made of blocks. (LSTM and GRU at (100, 64, 128, 128): up to 1,570 page
// faults and 3 of 20 ms a training call, by how the heap happened to lie, with blocks from 8 MiB on.)
constexpr int64_t kLarge = int64_t{128} << 10;
constexpr int64_t kLine = 64;
// What may wait in all. More than that is a rare call's, whose memory the process should have back.
constexpr int64_t kWaiting = int64_t{256} << 20, kSmallWaiting = int64_t{4} << 20;

std::align_val_t alignment(int64_t size) {
  return static_cast<std::align_val_t>(size >= 2 * kHugePage ? kHugePage : kPage);
}

class Blocks {
 public:
  void* take(int64_t bytes) {
    const int64_t page = bytes >= 2 * kHugePage ? kHugePage : kPage;
    const int64_t size = (bytes + page - 1) / page * page;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const auto found = waiting_.lower_bound(size);
      if (found != waiting_.end() && found->first <= 2 * size) {
        void* block = found->second;
        waiting_bytes_ -= found->first;
        waiting_.erase(found);
        return block;
      }
      // Blocks that are too small make room, so that the process doesn't grow by sizes that change.
      release(waiting_bytes_ - size);
    }
    void* block = ::operator new(static_cast<size_t>(size), alignment(size));
#if defined(__linux__)
    // One fault for 2 MiB rather than 512. Where the system has no such pages, nothing changes.
    if (size >= 2 * kHugePage) madvise(block, static_cast<size_t>(size), MADV_HUGEPAGE);
#endif
    const std::lock_guard<std::mutex> lock(mutex_);
    size_of_[block] = size;
    return block;
  }

  void give(void* block) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const int64_t size = size_of_.at(block);
    waiting_.emplace(size, block);
    waiting_bytes_ += size;
    release(kWaiting);
  }

  int64_t waiting() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return waiting_bytes_;
  }

 private:
  // Frees the largest blocks until no more than `bytes` wait.
  void release(int64_t bytes) {
    while (!waiting_.empty() && waiting_bytes_ > bytes) {
      const auto largest = std::prev(waiting_.end());
      waiting_bytes_ -= largest->first;
      size_of_.erase(largest->second);
      ::operator delete(largest->second, alignment(largest->first));
      waiting_.erase(largest);
    }
  }

  std::mutex mutex_;
  std::multimap<int64_t, void*> waiting_;
  std::unordered_map<void*, int64_t> size_of_;
  int64_t waiting_bytes_ = 0;
};

// Memory below kLarge: what was given back waits for the next of its size, in whole lines. Where
// another thread is at the lists, or was when the process was forked, the heap serves. (An LSTM's
// weight gradients at H = 8 take 1,024 bytes; from about there on the C library first tidies up all
// small blocks that were freed, which then have to be made anew: 1.3 of 79 us of a training call.)
class Lists {
 public:
  void* take(int64_t lines) {
    void* found = nullptr;
    if (!taken_.test_and_set(std::memory_order_acquire)) {
      Waiting*& first = first_[static_cast<size_t>(lines)];
      if (first != nullptr) {
        found = std::exchange(first, first->next);
        waiting_bytes_ -= lines * kLine;
      }
      taken_.clear(std::memory_order_release);
    }
    if (found != nullptr) return found;
    return ::operator new(static_cast<size_t>(lines * kLine), std::align_val_t{kLine});
  }

  void give(void* memory, int64_t lines) {
    if (taken_.test_and_set(std::memory_order_acquire)) return free(memory);
    // Sizes that nobody asks for any more mustn't keep others from waiting.
    if (waiting_bytes_ + lines * kLine > kSmallWaiting) release();
    Waiting*& first = first_[static_cast<size_t>(lines)];
    first = new (memory) Waiting{first};
    waiting_bytes_ += lines * kLine;
    taken_.clear(std::memory_order_release);
  }

  int64_t waiting() {
    while (taken_.test_and_set(std::memory_order_acquire)) {
    }
    const int64_t found = waiting_bytes_;
    taken_.clear(std::memory_order_release);
    return found;
  }

 private:
  struct Waiting {
    Waiting* next;
  };

  static void free(void* memory) { ::operator delete(memory, std::align_val_t{kLine}); }

  void release() {
    for (Waiting*& first : first_) {
      while (first != nullptr) free(std::exchange(first, first->next));
    }
    waiting_bytes_ = 0;
  }

  std::atomic_flag taken_;
  std::array<Waiting*, kLarge / kLine + 1> first_{};
  int64_t waiting_bytes_ = 0;
};

// Never destroyed: tensors may be freed after static objects.
Blocks& blocks() {
  static auto* all = new Blocks;
  return *all;
}

Lists& lists() {
  static auto* all = new Lists;
  return *all;
}

int64_t lines_of(int64_t bytes) { return (bytes + kLine - 1) / kLine; }

}  // namespace

void* take_memory(int64_t bytes) {
  return bytes >= kLarge ? blocks().take(bytes) : lists().take(lines_of(bytes));
}

void give_memory(void* memory, int64_t bytes) {
  bytes >= kLarge ? blocks().give(memory) : lists().give(memory, lines_of(bytes));
}

int64_t waiting_bytes() { return blocks().waiting(); }

int64_t small_waiting_bytes() { return lists().waiting(); }

}  // namespace ostinato
