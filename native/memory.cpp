#include "memory.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <mutex>
#include <new>
#include <unordered_map>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace ostinato {
namespace {

constexpr int64_t kPage = 4096, kHugePage = int64_t{2} << 20;
// Memory from here on is made of blocks. (LSTM and GRU at (100, 64, 128, 128): up to 1,570 page
// faults and 3 of 20 ms a training call, by how the heap happened to lie, with blocks from 8 MiB on.)
constexpr int64_t kLarge = int64_t{128} << 10;
constexpr auto kLine = static_cast<std::align_val_t>(64);
// What may wait in all. More than that is a rare call's, whose memory the process should have back.
constexpr int64_t kWaiting = int64_t{256} << 20;

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

Blocks& blocks() {
  // Never destroyed: tensors may be freed after static objects.
  static auto* all = new Blocks;
  return *all;
}

}  // namespace

void* take_memory(int64_t bytes) {
  if (bytes >= kLarge) return blocks().take(bytes);
  return ::operator new(static_cast<size_t>(std::max<int64_t>(bytes, 1)), kLine);
}

void give_memory(void* memory, int64_t bytes) {
  if (bytes >= kLarge) {
    blocks().give(memory);
  } else {
    ::operator delete(memory, kLine);
  }
}

int64_t waiting_bytes() { return blocks().waiting(); }

}  // namespace ostinato
