// Where the rows of what forward keeps for backward lie in memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "plan.h"

namespace ostinato {

// In blocks, one for each of forward's teams, and in a block step by step. Were all rows of a step side
// by side, the piece of one thread would lie between those of another, and what that one's core reads
// in advance would have to be taken back at each step: two threads, CPUs far from each other and near
// each other, training, LSTM at (T, B, I, H) = (100, 32, 32, 8) 0.72 and 0.96 of the time, at (100, 32,
// 100, 32) 0.81 and 0.97. Backward may have other teams than forward, after another number of threads
// was set, say: then a team's rows may lie in several blocks.
class KeptRows {
 public:
  // `bounds`: of the blocks' rows, from 0 to all of them. The memory goes from call to call.
  void set(const Call& call, const std::vector<int64_t>& bounds) {
    const size_t count = bounds.size() - 1;
    blocks_.clear();
    before_.resize(call.uniform ? 0 : count * call.active.size());
    int64_t* next = before_.data();
    int64_t start = 0;
    for (size_t b = 0; b < count; ++b) {
      const int64_t begin = bounds[b], end = bounds[b + 1];
      blocks_.push_back({begin, end, start, call.uniform ? nullptr : next});
      if (call.uniform) {
        start += call.steps * (end - begin);
        continue;
      }
      int64_t before = 0;
      for (int64_t active : call.active) {
        *next++ = before;
        before += std::clamp<int64_t>(active - begin, 0, end - begin);
      }
      start += before;
    }
  }

  void release_if_large() {
    if (before_.size() > kRemembered) std::vector<int64_t>().swap(before_);
  }

  struct Block {
    int64_t begin, end;  // rows of the batch
    int64_t start;  // where its first row lies
    const int64_t* before;  // by step: its rows of all steps before; null: the same at each

    // Where a row lies at step u.
    int64_t at(int64_t u, int64_t row) const {
      return start + (before != nullptr ? before[u] : u * (end - begin)) + row - begin;
    }
  };

  // The block of a row. (Of bounds that are the same, all but the last are those of empty blocks.)
  const Block& block(int64_t row) const {
    const auto after = std::upper_bound(blocks_.begin() + 1, blocks_.end(), row,
                                        [](int64_t r, const Block& b) { return r < b.begin; });
    return *(after - 1);
  }

 private:
  static constexpr size_t kRemembered = size_t{1} << 16;

  std::vector<Block> blocks_;
  std::vector<int64_t> before_;  // of all blocks
};

}  // namespace ostinato
