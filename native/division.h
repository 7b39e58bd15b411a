// How many threads a call takes, and what each of them does.
#pragma once

#include <algorithm>
#include <cstdint>

#include "plan.h"

namespace ostinato {

// Threads divide columns where a thread would have fewer rows than this, or where the loop's maps
// are larger than a core's cache and there are few rows to use each load of them for: at H = 512
// and 16 rows a thread, 260 against 246 GFLOP/s.
inline constexpr int64_t kTeamRows = 4, kTeamRowsLarge = 32;
inline constexpr int64_t kLargeBytes = int64_t{2} << 20;
// A step with less work than this (rows times bytes of the loop's maps) isn't worth two barriers:
// one row and two threads win 15 % at 256 KiB and lose 20 % at 64 KiB.
inline constexpr int64_t kTeamBytes = int64_t{192} << 10;

// Before that comes a relay, where the loop's maps are smaller than this: two threads, LSTM at
// (T, B, H) = (100, 4, 64), (100, 7, 64), (256, 2, 128) 0.72 to 0.80 of the time that columns take; at
// (256, 1, 192) 1.00 in training, 1.16 in inference.
inline constexpr int64_t kRelayBytes = int64_t{512} << 10;
// In multiply-adds, of which a core does some 50 to 100 in a nanosecond: a thread must have so much
// to do to be worth waking (5 to 9 us), and a relay so much that runs beside the loop.
inline constexpr int64_t kThreadWork = int64_t{3} << 18, kRelayWork = int64_t{1} << 22;

struct Teams {
  int64_t count = 1, members = 1;
  bool relay = false;
};

// `loop_bytes`: of the maps that the loop reads at each step.
inline Teams divide(const Plan& plan, const Call& call, int64_t loop_bytes) {
  const int64_t asked = std::max<int64_t>(1, call.threads);
  if (call.division == Division::kRows) return {asked, 1, false};
  if (call.division == Division::kColumns) return {1, asked, false};
  if (call.division == Division::kRelay) return {1, asked, asked > 1};

  const int64_t last = call.steps - 1;
  const int64_t row_steps = last < 0 ? 0 : call.offset[last] + call.active[last];
  const int64_t beside = row_steps * (plan.work[kPre] + plan.work[kPost]);
  const int64_t work = beside + row_steps * plan.work[kLoop];
  const int64_t threads = std::clamp<int64_t>(work / kThreadWork, 1, asked);
  const int64_t enough = loop_bytes > kLargeBytes ? kTeamRowsLarge : kTeamRows;
  if (threads == 1 || call.rows >= enough * threads) return {threads, 1, false};
  const int64_t teams = std::clamp<int64_t>(call.rows / kTeamRows, 1, threads);
  if (loop_bytes < kRelayBytes && threads / teams > 1 && beside >= kRelayWork * teams) {
    return {teams, threads / teams, true};
  }
  if (loop_bytes * call.rows >= kTeamBytes) return {1, threads, false};
  return {teams, 1, false};
}

}  // namespace ostinato
