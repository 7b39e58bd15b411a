// How many threads a call takes, and what each of them does.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cache.h"
#include "kernels.h"
#include "plan.h"

namespace ostinato {

// Threads divide columns where a thread would have fewer rows than this, or where the loop's maps
// are larger than a core's cache, which a thread's share of them isn't, and there are few rows to use
// each load of them for: LSTM, H = 512 and 16 rows a thread, 260 against 246 GFLOP/s on a core with 2
// MiB. With 1 MiB rows take 0.995 of the time forward, 0.96 to 0.99 where CPUs are far from each other.
// Backward each team has weight gradients of its own. Of vast maps they cost more than what threads
// pass to one another for columns: LSTM and GRU at H = 1024 and 2048, 64 and 128 rows, two threads,
// 0.93 to 0.98 of the time with 20 to 80 steps, 0.70 to 0.99 with fewer; with 256 rows 1.07, and at H =
// 512 (4 MiB) 0.99 to 1.03. Forward columns take 0.98 to 1.03 of it.
inline constexpr int64_t kTeamRows = 4, kTeamRowsLarge = 32, kTeamRowsVast = 128;
inline constexpr int64_t kLargeBytes = int64_t{2} << 20;
// A step with less work than this (rows times bytes of the loop's maps) isn't worth two barriers:
// one row and two threads win 15 % at 256 KiB and lose 20 % at 64 KiB.
inline constexpr int64_t kTeamBytes = int64_t{192} << 10;

// With few rows threads divide units instead, where each has a vector of them, and the maps that a
// step reads (all, where none is the loop's) are as large as this, in inference times rows. AMD EPYC,
// two threads, CPUs near each other and far from each other, against a relay or columns, inference of
// one row, T = 256: LSTM and GRU at H = 64 0.83 and 0.86, 0.83 and 0.92, Elman network at 128 0.80
// and 0.93, at 96 0.96, GRU and LSTM at 48 near 1.09 and 1.05. Training: LSTM and GRU at H = 64 1.01
// and 1.15, 0.97 and 1.04, GRU at 96 0.94 and 0.94, LSTM, GRU and Elman network at 128 0.86 and 0.91,
// 0.89 and 0.91, 0.91 and 0.99, at 256 0.96 and 0.89, 0.95 and 0.86, 0.85 and 0.95; LSTM with four
// rows at 128 0.82 and 0.91, at 64 0.97 and 1.17. Near, where no product is in the loop: IndRNN and
// minGRU at 256, inference 0.66 and 0.64, training 0.72 and 0.68, at 64 1.00 to 1.11. With 32 rows at
// H = 512 columns are better: LSTM, training 1.05.
inline constexpr int64_t kUnitsBytes = int64_t{48} << 10, kUnitsBytesTraining = int64_t{96} << 10;

// Before that comes a relay, where the loop's maps are smaller than this: two threads, LSTM at
// (T, B, H) = (100, 4, 64), (100, 7, 64), (256, 2, 128) 0.72 to 0.80 of the time that columns take; at
// (256, 1, 192) 1.00 in training, 1.16 in inference.
inline constexpr int64_t kRelayBytes = int64_t{512} << 10;
// In multiply-adds, of which a core does some 50 to 100 in a nanosecond: a thread must have so much
// to do to be worth waking (5 to 9 us), and a relay so much that runs beside the loop, in all and for
// each element that crosses from one core to another. Two threads against one, one row, T = 256, CPUs
// near each other and far from each other (AMD EPYC), inference: Elman network, GRU and LSTM at H = 64
// 0.82 and 0.95, 0.80 and 0.91, 0.79 and 0.94, LSTM at H = 48 0.82 and 0.95, at 32 0.86 and 1.01;
// training: at H = 64 0.84 and 1.08, 0.76 and 0.94, 0.72 and 0.90, Elman network and LSTM at H = 48
// 0.89 and 1.26, 0.77 and 0.94, LSTM at H = 32, far, 1.15 to 1.20 with T = 256 and with 1,000.
inline constexpr int64_t kThreadWork = int64_t{3} << 18;
inline constexpr int64_t kRelayWork = int64_t{1} << 20, kRelayWorkBackward = int64_t{3} << 20;
inline constexpr int64_t kRelayWorkEach = 40;

// A map that a single product reads is packed block by block as it is read; so is a vast one, which the
// third-level cache doesn't hold beside others', for each of so few. Packed as a whole it would be
// written to memory and read from there again. One row, two threads, inference, on a busy machine: one
// step of an LSTM at H = 512 and 1024 0.31 and 0.22 of the time, four steps at 1024 0.46, eight 0.7 and
// with as many uses 0.8; four steps at 512, by blocks, 1.3 to 1.4.
inline constexpr int64_t kFewUses = 4, kVastMap = int64_t{8} << 20;

// Nor is it packed for few uses that read it as it lies, or for some more if a core's own caches don't
// hold it. Against packing, one row, inference, one thread and two: four steps of an LSTM at H = 64, 256
// and 512 1.00 and 0.98, 0.76 and 0.85, 0.65 and 0.78, eight 1.05 and 1.04, 0.91 and 1.14, 0.85 and 0.95,
// of an Elman network at 1024 0.74 and 0.79.
inline constexpr int64_t kUsesAsItLies = 4, kUsesOfFarMap = 8, kFarFromCore = int64_t{2} << 20;

// `uses`: products of a map of k inputs and so many bytes; `rows`: that they have in all.
inline bool stays_unpacked(int64_t uses, int64_t rows, int64_t bytes, int64_t k, int64_t k_stride) {
  if (uses <= 1 || (uses <= kFewUses && bytes >= kVastMap)) return true;
  const int64_t most = bytes >= kFarFromCore ? kUsesOfFarMap : kUsesAsItLies;
  return uses <= most && reads_as_it_lies(rows, k, k_stride);
}

// What it takes to read a byte of a map and pack it, in multiply-adds.
inline constexpr int64_t kByteWork = 2;

struct Teams {
  int64_t count = 1, members = 1;
  Division divided = Division::kRows;  // by teams rows, or units; or by members columns, or a relay
};

// `loop_bytes`: of the maps that the loop reads at each step; `map_bytes`: of all; `loop_packed`: whether
// any of the loop's is packed; `vector`: elements of a vector.
inline Teams divide(const Plan& plan, const Call& call, int64_t loop_bytes, int64_t map_bytes,
                    bool loop_packed, int64_t vector) {
  const int64_t asked = std::max<int64_t>(1, call.threads);
  const bool has_units = asked > 1 && asked <= plan.most_unit_threads;
  if (call.division == Division::kRows) return {asked, 1};
  if (call.division == Division::kUnits && has_units) return {asked, 1, Division::kUnits};
  if (call.division == Division::kColumns || call.division == Division::kUnits) {
    return {1, asked, Division::kColumns};
  }
  if (call.division == Division::kRelay) return {1, asked, Division::kRelay};

  const int64_t beside_each = plan.work[kPre] + plan.work[kPost];
  const int64_t beside = call.row_steps * beside_each;
  const int64_t work =
      beside + call.row_steps * plan.work[kLoop] + (call.row_steps > 0 ? map_bytes * kByteWork : 0);
  const int64_t threads = std::clamp<int64_t>(work / kThreadWork, 1, asked);
  const bool shares_fit = loop_bytes <= level2_bytes() * threads;
  const bool large = loop_bytes > kLargeBytes && (plan.backward || shares_fit);
  const bool vast = loop_bytes >= kVastMap && plan.backward;
  const int64_t enough = vast ? kTeamRowsVast : large ? kTeamRowsLarge : kTeamRows;
  if (threads == 1 || call.rows >= enough * threads) return {threads, 1};
  const int64_t unit_bytes = loop_bytes > 0 ? loop_bytes : map_bytes;
  const bool many_units = plan.backward || plan.keeps ? unit_bytes >= kUnitsBytesTraining
                                                      : unit_bytes * call.rows >= kUnitsBytes;
  const bool has_vectors = plan.units >= vector * threads && threads <= plan.most_unit_threads;
  // (Units are for the loop's maps that lie packed, each thread's part in its own order.)
  const bool suits_units = loop_bytes > 0 ? loop_packed : call.steps > 1;
  if (suits_units && call.rows < kTeamRows * threads && many_units && has_vectors) {
    return {threads, 1, Division::kUnits};
  }
  const int64_t teams = std::clamp<int64_t>(call.rows / kTeamRows, 1, threads);
  const int64_t relay_work = plan.backward ? kRelayWorkBackward : kRelayWork;
  if (loop_bytes < kRelayBytes && threads / teams > 1 && beside >= relay_work * teams &&
      beside_each >= kRelayWorkEach * plan.crossing) {
    return {teams, threads / teams, Division::kRelay};
  }
  const int64_t step_bytes = call.steps == 1 ? map_bytes : loop_bytes;
  if (step_bytes * call.rows >= kTeamBytes) return {1, threads, Division::kColumns};
  return {teams, 1};
}

}  // namespace ostinato
