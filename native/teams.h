// Who runs a call's rows: teams of threads, the memory of each, and what they do together before and
// after the loop.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "cache.h"
#include "division.h"
#include "kept.h"
#include "kernels.h"
#include "plan.h"
#include "pool.h"
#include "scratch.h"

namespace ostinato {

template <class T>
struct Team;

template <class T>
int64_t bytes_of(const Map& m) {
  return m.groups * m.k * m.n * static_cast<int64_t>(sizeof(T));
}

template <class T>
struct Shared {  // by all threads of the call
  const Plan& plan;
  const Call& call;
  const Kernels<T>& kernels;
  std::vector<T>& consts;
  const KeptRows& kept;
  T* zeros = nullptr;  // as wide as the widest stream
  int threads = 1;
  int64_t chunks = 1;  // as many as any team has
  std::vector<Team<T>>& teams;

  bool unpacked(size_t i) const {
    const Map& m = plan.maps[i];
    return stays_unpacked(m.in_loop ? call.steps : chunks, call.rows * call.steps, bytes_of<T>(m), m.k,
                          call.maps[i].k_stride);
  }
  bool unpacked(const SharedMap& m) const {
    return m.exchange == Exchange::kNone && unpacked(static_cast<size_t>(m.source));
  }
};

// What is handed over lies in as many places in turn: while one turn's is made, others may still read
// the last one's, and that of two turns before is withdrawn, two turns before it's wanted again.
inline constexpr int kTurns = 4;
// Bytes between these places, and between them and what is the team's own: what another core reads in
// advance of them is none of these.
inline constexpr int64_t kApart = 4096;

template <class T>
struct Team {
  const Plan* plan = nullptr;  // the call's, or where teams divide units, this one's
  int index = 0;
  int64_t begin = 0, rows = 0;  // of the batch
  int members = 1;
  bool relay = false;  // member 0 runs the loop, the others what is hoisted and deferred
  int64_t chunk_steps = 1, chunk_rows = 0;
  bool own_maps = false;  // packed for this team alone
  std::vector<T*> packed;  // by map
  std::vector<T*> carry[2];
  std::vector<T*> step, chunk;
  std::vector<T*> outers;
  // Where teams divide units: biases by map; rows of what is handed over to others, by turns, of what was
  // received from them, and of sums before they are handed over.
  std::vector<T*> biases;
  T* handed[kTurns] = {};
  int64_t handed_size = 0;
  T* received = nullptr;
  T* sums = nullptr;
  std::unique_ptr<Barrier> barrier, helpers;  // of all members; in a relay, of all but member 0

  // Chunks whose buffers are in use at once: in a relay the loop's and another one.
  int64_t chunks() const { return relay ? 2 : 1; }

  // Rows that an operand has in all: of the chunks' buffers, of both that hold what is carried.
  int64_t list_rows(Space space) const {
    if (space == Space::kChunk) return chunk_rows * chunks();
    return space == Space::kStep ? rows : 2 * rows;
  }
};

template <class T>
struct Worker {
  Team<T>* team = nullptr;
  int index = 0;  // among the call's threads
  int member = 0;  // of the team
  T* tile = nullptr;
  std::vector<T*> stream_scratch;
  std::vector<T*> sums;
  std::vector<T**> lists;  // pointers to rows, as Places finds them
  T** a_rows = nullptr;  // room for as many as a product has
  T** out_rows = nullptr;
  T** part_rows = nullptr;
  T* outer_scratch = nullptr;
  T* block = nullptr;  // of a map that stays unpacked
};

// The vectors of a call, which the calling thread keeps for its next one: in a small call making them
// shows. Each is filled anew.
template <class T>
struct Roster {
  std::vector<T> consts;
  KeptRows kept;
  std::vector<Team<T>> teams;
  std::vector<Worker<T>> workers;
};

// Bounds of teams that each take rows up to a cost of `limit`; fewer than `teams` + 1 if they can't
// take all. Rows are in order of falling length, so a team has as many steps as its first row.
inline std::vector<int64_t> rows_within(const Call& call, int64_t teams, int64_t limit) {
  std::vector<int64_t> bounds{0};
  int64_t row = 0;
  for (int64_t t = 0; t < teams && row < call.rows; ++t) {
    // A step costs its rows, and the reading of the maps, which is worth about another (measured:
    // 0.5 to 1.5, LSTM and GRU, H = 64 to 256).
    int64_t cost = call.length[row];
    while (row < call.rows && cost + call.length[row] <= limit) cost += call.length[row++];
    bounds.push_back(row);
  }
  if (row < call.rows) return {};
  bounds.resize(static_cast<size_t>(teams) + 1, call.rows);
  return bounds;
}

// Rows of each team: bounds such that the most costly team costs as little as can be.
inline std::vector<int64_t> divide_rows(const Call& call, int64_t teams) {
  std::vector<int64_t> bounds{0};
  if (call.uniform) {
    for (int64_t t = 1; t <= teams; ++t) bounds.push_back(call.rows * t / teams);
    return bounds;
  }
  const int64_t longest = call.rows > 0 ? call.length[0] : 0;
  int64_t low = 0, high = longest;
  for (int64_t n : call.length) high += n;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (rows_within(call, teams, middle).empty()) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return rows_within(call, teams, high);
}

// Rows of hoisted and deferred products of many rows. LSTM, one thread. On a core with 2 MiB
// of level-2 cache, H = 128 and 256: 128 rows 129 and 134 GFLOP/s, 256 rows 126 and 123, 1024 rows
// 120 and 121; where nothing is kept for backward 256 rows take 0.92 to 0.98 of 128 rows' time from
// H = 256 on and 0.95 to 1.02 below. With 1 MiB they take 1.00 to 1.03 of it, and at H = 512 32 rows
// 0.96 to 0.98: there the chunk's buffers had better take no more than a part of the cache. Where the
// weight gradients don't fit into it, each chunk reads and writes them again, and 128 rows lose (105
// GFLOP/s against 114 at H = 512).
inline constexpr int64_t kChunkRows = 128, kChunkRowsLarge = 256, kChunkRowsLeast = 32;

template <class T>
int64_t chunk_rows(const Plan& plan) {
  int64_t gradient_bytes = 0, row_bytes = 1;
  for (const Map& m : plan.outers) gradient_bytes += bytes_of<T>(m);
  for (int64_t width : plan.chunk) row_bytes += width * static_cast<int64_t>(sizeof(T));
  const bool roomy = level2_bytes() >= int64_t{2} << 20;
  if (gradient_bytes > kLargeBytes || (roomy && !plan.backward && !plan.keeps)) return kChunkRowsLarge;
  if (roomy) return kChunkRows;
  return std::clamp(level2_bytes() / 4 / row_bytes, kChunkRowsLeast, kChunkRows);
}

// In a relay, where there are at least two chunks: each is another barrier, and another sum to the
// weight gradients. 64 rows take 0.79 of one thread's time, 32 rows 0.82 (LSTM, one row, H = 64). One
// row on one thread takes 0.97 to 1.01 of the time that it takes with 128.
inline constexpr int64_t kFewRows = 64;

// Up to so many bytes of maps each team packs for itself, though all pack the same: what another core
// has packed comes from its cache. Two threads, CPUs far from each other, inference: Elman network, H =
// 32, 0.91 of the time, LSTM at 64 0.97, 128 0.98, 256 0.994, with T = 5 0.82 to 0.86.
inline constexpr int64_t kOwnMapBytes = int64_t{2} << 20;

// Elements of a map as it is packed for one of the teams that divide units: its columns, the rows that
// are its own ones before the others'; or its rows, for each team's columns, or for all.
inline int64_t packed_units(const SharedMap& map, int me, int64_t panel) {
  if (map.exchange == Exchange::kNone) return packed_size(panel, map.k, map.columns[me]);
  if (map.joined(panel)) return packed_size(panel, map.rows[me], map.n);
  int64_t size = 0;
  if (map.exchange == Exchange::kInputs) {
    size = packed_size(panel, map.rows[me], map.columns[me]);
    return size + packed_size(panel, map.k - map.rows[me], map.columns[me]);
  }
  for (int64_t columns : map.columns) size += packed_size(panel, map.rows[me], columns);
  return size;
}

template <class T>
void pack_units(const Shared<T>& shared, const Team<T>& team) {
  const Plan& plan = *team.plan;
  const int64_t panel = shared.kernels.panel;
  const int me = team.index, teams = static_cast<int>(shared.teams.size());
  for (T* handed : team.handed) shared.kernels.withdraw(handed, team.handed_size);
  for (size_t i = 0; i < plan.maps.size(); ++i) {
    const SharedMap& map = plan.shared_maps[i];
    const MatrixArg& arg = shared.call.maps[map.source];
    // One team's rows (-1: all) and one's columns, from (row, column) on of a part with k_all rows.
    const auto pack = [&](T* part, int64_t k_all, int rows_of, int64_t row, int columns_of,
                          int64_t column) {
      map.columns_of[columns_of].each_run(map.n, [&](int64_t j, int64_t j_at, int64_t n) {
        const auto pack_rows = [&](int64_t p, int64_t p_at, int64_t k) {
          shared.kernels.pack(part + (row + p_at) * panel,
                              static_cast<const T*>(arg.base) + p * arg.k_stride + j * arg.n_stride,
                              arg.k_stride, arg.n_stride, k, n, column + j_at, k_all);
        };
        if (rows_of < 0) return pack_rows(0, 0, map.k);
        plan.shares[rows_of].each_run(map.k, pack_rows);
      });
    };
    T* part = team.packed[i];
    const int64_t own_rows = map.rows[me];
    if (map.exchange == Exchange::kNone) {
      if (part != nullptr) pack(part, map.k, -1, 0, me, 0);
    } else if (map.exchange == Exchange::kInputs) {
      pack(part, own_rows, me, 0, me, 0);
      part += packed_size(panel, own_rows, map.columns[me]);
      int64_t row = 0;
      for (int t = 0; t < teams; ++t) {
        if (t == me) continue;
        pack(part, map.k - own_rows, t, row, me, 0);
        row += map.rows[t];
      }
    } else {
      const bool joined = map.joined(panel);
      for (int t = 0; t < teams; ++t) {
        pack(part, own_rows, me, 0, t, joined ? map.columns_before[t] : 0);
        if (!joined) part += packed_size(panel, own_rows, map.columns[t]);
      }
    }
    if (map.bias < 0) continue;
    const T* bias = static_cast<const T*>(shared.call.vectors[map.bias]);
    map.columns_of[me].each_run(map.n, [&](int64_t column, int64_t at, int64_t n) {
      std::copy(bias + column, bias + column + n, team.biases[i] + at);
    });
  }
}

// Divided among all threads, or among the team's where it has maps of its own; but of a relay's maps
// those of the loop are for those who run it, the first members of the teams, since nobody else reads
// them.
template <class T>
void pack_maps(const Shared<T>& shared, const Worker<T>& worker) {
  const int64_t panel = shared.kernels.panel;
  const Team<T>& team = *worker.team;
  if (team.plan->own.run > 0) return pack_units(shared, team);
  for (size_t i = 0; i < shared.plan.maps.size(); ++i) {
    const Map& m = shared.plan.maps[i];
    if (shared.unpacked(i)) continue;
    const MatrixArg& arg = shared.call.maps[i];
    const int64_t panels = (m.n + panel - 1) / panel;
    const int64_t each = team.relay && m.in_loop ? team.members : 1;
    if (worker.member % each != 0) continue;
    const int64_t index = (team.own_maps ? worker.member : worker.index) / each;
    const int64_t count = (team.own_maps ? team.members : shared.threads) / each;
    const int64_t begin = panels * index / count * panel;
    const int64_t end = std::min(m.n, panels * (index + 1) / count * panel);
    if (begin >= end) continue;
    for (int64_t g = 0; g < m.groups; ++g) {
      shared.kernels.pack(team.packed[i] + g * packed_size(panel, m.k, m.n) + begin * m.k,
                          static_cast<const T*>(arg.base) + g * arg.group_stride +
                              begin * arg.n_stride,
                          arg.k_stride, arg.n_stride, m.k, end - begin, 0, m.k);
    }
  }
}

// Sums what teams and threads gathered apart, in a fixed order.
template <class T>
void reduce(const Shared<T>& shared, std::vector<Team<T>>& teams, std::vector<Worker<T>>& workers,
            int worker) {
  const Plan& own = *workers[worker].team->plan;
  if (own.own.run > 0) {  // all that there is to sum is in place but for sums over rows
    for (size_t i = 0; i < own.sums.size(); ++i) {
      T* to = static_cast<T*>(shared.call.sums[i]);
      own.own.each_run(shared.plan.sums[i], [&](int64_t first, int64_t at, int64_t n) {
        const T* from = workers[worker].sums[i] + at;
        std::copy(from, from + n, to + first);
      });
    }
    return;
  }
  for (size_t i = 0; i < shared.plan.outers.size(); ++i) {
    const Map& m = shared.plan.outers[i];
    const int64_t size = m.groups * m.k * m.n;
    const int64_t lo = size * worker / shared.threads, hi = size * (worker + 1) / shared.threads;
    T* to = teams[0].outers[i];
    for (size_t t = 1; t < teams.size(); ++t) {
      const T* from = teams[t].outers[i];
      for (int64_t j = lo; j < hi; ++j) to[j] += from[j];
    }
  }
  if (worker != 0) return;
  for (size_t i = 0; i < shared.plan.sums.size(); ++i) {
    T* to = static_cast<T*>(shared.call.sums[i]);
    const int64_t width = shared.plan.sums[i];
    std::copy(workers[0].sums[i], workers[0].sums[i] + width, to);
    for (size_t w = 1; w < workers.size(); ++w) {
      for (int64_t j = 0; j < width; ++j) to[j] += workers[w].sums[i][j];
    }
  }
}

template <class T>
void allocate_units(Scratch& scratch, const Shared<T>& shared, Team<T>& team) {
  const Plan& plan = *team.plan;
  const int64_t rows = std::max(team.rows, team.chunk_rows);
  int64_t most_handed = 0, most_received = 0, most_sums = 0;
  team.biases.resize(plan.maps.size());
  for (size_t i = 0; i < plan.maps.size(); ++i) {
    const SharedMap& map = plan.shared_maps[i];
    const int64_t size = packed_units(map, team.index, shared.kernels.panel);
    team.packed[i] = shared.unpacked(map) ? nullptr : scratch.take<T>(size);
    team.biases[i] = map.bias < 0 ? nullptr : scratch.take<T>(plan.maps[i].n);
    most_handed = std::max(most_handed, map.handed(team.index));
    most_received = std::max(most_received, map.exchange == Exchange::kInputs ? map.k * rows : map.n);
    if (map.exchange == Exchange::kSums) most_sums = std::max(most_sums, map.n);
  }
  team.handed_size = most_handed * rows;
  for (T*& handed : team.handed) {
    scratch.take<char>(kApart);
    handed = scratch.take<T>(team.handed_size);
  }
  scratch.take<char>(kApart);
  team.received = scratch.take<T>(most_received);
  team.sums = scratch.take<T>(most_sums * rows);
}

template <class T>
void allocate(Scratches& scratches, Shared<T>& shared, std::vector<Team<T>>& teams,
              std::vector<Worker<T>>& workers) {
  const Plan& plan = shared.plan;
  int64_t widest = 1, outer = 0;
  for (const Stream& s : plan.streams) widest = std::max(widest, s.width);
  // Room for values of so many columns each. (No push_back: in a small call growing vectors shows.)
  const auto take_all = [](Scratch& scratch, std::vector<T*>& to,
                           const std::vector<int64_t>& widths, int64_t rows) {
    to.resize(widths.size());
    for (size_t i = 0; i < to.size(); ++i) to[i] = scratch.take<T>(widths[i] * rows);
  };
  shared.zeros = scratches.shared().take<T>(widest);
  for (size_t t = 0; t < teams.size(); ++t) {
    Team<T>& team = teams[t];
    const Plan& plan = *team.plan;
    Scratch& scratch = scratches.of(static_cast<int>(t) * team.members);
    team.packed.resize(plan.maps.size());
    if (plan.own.run > 0) {
      allocate_units(scratch, shared, team);
    } else {
      for (size_t i = 0; i < plan.maps.size(); ++i) {
        const Map& m = plan.maps[i];
        if (shared.unpacked(i)) {
          team.packed[i] = nullptr;
        } else if (t > 0 && !team.own_maps) {
          team.packed[i] = teams[0].packed[i];
        } else {
          team.packed[i] = scratch.take<T>(m.groups * packed_size(shared.kernels.panel, m.k, m.n));
        }
      }
    }
    for (auto& carry : team.carry) take_all(scratch, carry, plan.carry, team.rows);
    take_all(scratch, team.step, plan.step, team.rows);
    take_all(scratch, team.chunk, plan.chunk, team.chunk_rows * team.chunks());
    team.outers.resize(plan.outers.size());
    for (size_t i = 0; i < plan.outers.size(); ++i) {
      const Map& m = plan.outers[i];
      team.outers[i] = t == 0 || plan.own.run > 0 ? static_cast<T*>(shared.call.outers[i].base)
                              : scratch.take<T>(m.groups * m.k * m.n);
      outer = std::max(outer, shared.kernels.outer_scratch(team.chunk_rows, m.k, m.n));
    }
  }
  for (size_t w = 0; w < workers.size(); ++w) {
    Worker<T>& worker = workers[w];
    Scratch& scratch = scratches.of(static_cast<int>(w));
    const Plan& plan = *worker.team->plan;
    // A tile has at most kTileElements in all, or one row.
    worker.tile = scratch.take<T>(std::max(plan.tile_width, kTileElements));
    worker.stream_scratch.resize(plan.streams.size());
    for (size_t i = 0; i < plan.streams.size(); ++i) {
      worker.stream_scratch[i] = scratch.take<T>(plan.streams[i].width * worker.team->rows);
    }
    take_all(scratch, worker.sums, plan.sums, 1);
    const int64_t rows = std::max(worker.team->chunk_rows, worker.team->rows);
    worker.lists.resize(plan.lists.size());
    for (size_t i = 0; i < plan.lists.size(); ++i) {
      worker.lists[i] = scratch.take<T*>(worker.team->list_rows(plan.lists[i].space));
    }
    worker.a_rows = scratch.take<T*>(rows);
    worker.out_rows = scratch.take<T*>(rows);
    worker.part_rows = scratch.take<T*>(rows);
    worker.outer_scratch = scratch.take<T>(outer);
    worker.block = scratch.take<T>(shared.kernels.block_room);
  }
}

}  // namespace ostinato
