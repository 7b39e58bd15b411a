// Products of threads that divide units (units.h): what they hand over to one another, and when.
#pragma once

#include <atomic>
#include <cstdint>

#include "kernels.h"
#include "places.h"
#include "plan.h"
#include "spin.h"
#include "teams.h"

namespace ostinato {

// As one thread runs them. All threads run the same ones, in the same order.
template <class T>
class UnitProducts {
 public:
  UnitProducts(const Shared<T>& shared, const Worker<T>& worker, const Places<T>& places)
      : plan_(*worker.team->plan), k_(shared.kernels), shared_(shared), worker_(worker),
        team_(*worker.team), places_(places) {}

  // Of the rows of steps [from, to). While others hand over their part, what needs none of it is
  // computed.
  void run(const Instr& instr, int64_t from, int64_t to, bool descending, Ahead* ahead) {
    descending_ = descending;
    const SharedMap& map = plan_.shared_maps[instr.id];
    const int64_t rows = places_.count(from, to);
    if (rows == 0) return;
    T* const* const a = places_.point(instr.a, from, to, worker_.a_rows);
    T* const* const out = places_.point(instr.out, from, to, worker_.out_rows);
    if (map.exchange == Exchange::kSums) return by_sums(instr, map, rows, a, out);
    const T* packed = team_.packed[instr.id];
    if (packed == nullptr) return run_unpacked(instr, map, rows, a, out);
    const bool all = map.exchange == Exchange::kNone;
    if (!all) hand_over_inputs(map, rows, a);
    const int64_t k = map.rows[team_.index], n = map.columns[team_.index];
    multiply(rows, a, k, packed, n, out, team_.biases[instr.id], instr.accumulate, ahead);
    if (all) return;
    receive_inputs(map, rows);
    multiply(rows, worker_.part_rows, map.k - k, packed + packed_size(k_.panel, k, n), n, out, nullptr,
             true, ahead);
  }

 private:
  // This thread's columns of each run, of a map that stays unpacked.
  void run_unpacked(const Instr& instr, const SharedMap& map, int64_t rows, const T* const* a,
                    T* const* out) {
    const MatrixArg& arg = shared_.call.maps[map.source];
    const T* const bias = team_.biases[instr.id];
    map.columns_of[team_.index].each_run(map.n, [&](int64_t first, int64_t at, int64_t n) {
      for (int64_t i = 0; i < rows; ++i) worker_.part_rows[i] = out[i] + at;
      k_.gemm_once(a, rows, map.k, static_cast<const T*>(arg.base) + first * arg.n_stride, arg.k_stride,
                   arg.n_stride, 0, n, worker_.part_rows, bias == nullptr ? nullptr : bias + at,
                   instr.accumulate, false, worker_.block);
    });
  }

  void multiply(int64_t rows, const T* const* a, int64_t k, const T* packed, int64_t n, T* const* out,
                const T* bias, bool accumulate, Ahead* ahead) {
    k_.gemm(a, rows, k, packed, 0, n, out, bias, accumulate, descending_, ahead, false);
  }

  void hand_over_inputs(const SharedMap& map, int64_t rows, const T* const* a) {
    const int64_t k = map.rows[team_.index];
    T* const to = next_turn(rows * k);
    for (int64_t i = 0; i < rows; ++i) k_.hand_over(to + i * k, a[i], k);
  }

  void receive_inputs(const SharedMap& map, int64_t rows) {
    const int64_t k = map.k - map.rows[team_.index];
    T* to = team_.received;
    for (const Team<T>& other : shared_.teams) {
      if (&other == &team_) continue;
      const T* const from = other.handed[turn_ % kTurns];
      const int64_t part = map.rows[other.index];
      if (part == k) {
        receive(to, from, rows * k);
      } else {
        for (int64_t i = 0; i < rows; ++i) receive(to + i * k, from + i * part, part);
      }
      to += part;
    }
    end_turn();
    Places<T>::spread(team_.received, k, rows, worker_.part_rows);
  }

  void by_sums(const Instr& instr, const SharedMap& map, int64_t rows, const T* const* a,
               T* const* out) {
    const int64_t k = map.rows[team_.index], n = map.columns[team_.index];
    T* const handed = next_turn(rows * map.n);
    const bool joined = map.joined(k_.panel);
    if (joined) {
      Places<T>::spread(team_.sums, map.n, rows, worker_.part_rows);
      multiply(rows, a, k, team_.packed[instr.id], map.n, worker_.part_rows, nullptr, false, nullptr);
    }
    const T* packed = team_.packed[instr.id];
    const T* own = packed;
    for (const Team<T>& other : shared_.teams) {
      const int64_t before = map.columns_before[other.index], columns = map.columns[other.index];
      if (&other == &team_) {
        own = packed;
      } else if (joined) {
        for (int64_t i = 0; i < rows; ++i) {
          k_.hand_over(handed + rows * before + i * columns, team_.sums + i * map.n + before, columns);
        }
      } else {
        Places<T>::spread(team_.sums, columns, rows, worker_.part_rows);
        multiply(rows, a, k, packed, columns, worker_.part_rows, nullptr, false, nullptr);
        k_.hand_over(handed + rows * before, team_.sums, rows * columns);
      }
      packed += packed_size(k_.panel, k, columns);
    }
    const int64_t before = map.columns_before[team_.index];
    const T* const bias = team_.biases[instr.id];
    if (!joined) {
      multiply(rows, a, k, own, n, out, bias, instr.accumulate, nullptr);
    } else {
      for (int64_t i = 0; i < rows; ++i) {
        combine(instr.accumulate ? Op::kAdd : Op::kCopy, out[i], team_.sums + i * map.n + before, n);
        if (bias != nullptr) combine(Op::kAdd, out[i], bias, n);
      }
    }
    for (const Team<T>& other : shared_.teams) {
      if (&other == &team_) continue;
      receive(team_.received, other.handed[turn_ % kTurns] + rows * before, rows * n);
      for (int64_t i = 0; i < rows; ++i) {
        combine(Op::kAdd, out[i], team_.received + i * n, n);
      }
    }
    end_turn();
  }

  // To a row a copy or the sum of another one.
  void combine(Op op, T* to, const T* from, int64_t n) const {
    const In<T> in[] = {{from, 0, 1}, {to, 0, 1}};
    k_.pointwise[static_cast<int>(op)](to, 0, in, 1, n);
  }

  // Where to hand over so many elements.
  T* next_turn(int64_t size) {
    ++turn_;
    handed_[turn_ % kTurns] = size;
    std::atomic_thread_fence(std::memory_order_release);  // after what was withdrawn before
    return team_.handed[turn_ % kTurns];
  }

  // All others have handed over this turn, after they had received all that was handed over before.
  void end_turn() {
    const auto old = (turn_ + kTurns / 2) % kTurns;
    k_.withdraw(team_.handed[old], handed_[old]);
  }

  void receive(T* to, const T* from, int64_t n) {
    int64_t done = 0;
    const auto received = [&] {
      done += k_.receive(to + done, from + done, n - done);
      return done == n;
    };
    // It often comes within what a look at the clock takes.
    bool all = false;
    for (int i = 0; i < kPausesPerLook && !all; ++i) all = received();
    if (!all) spin_until(received);
    std::atomic_thread_fence(std::memory_order_acquire);
  }

  const Plan& plan_;
  const Kernels<T>& k_;
  const Shared<T>& shared_;
  const Worker<T>& worker_;
  const Team<T>& team_;
  const Places<T>& places_;
  bool descending_ = false;
  // How often something was handed over, and how much the last times.
  int64_t turn_ = 0;
  int64_t handed_[kTurns] = {};
};

}  // namespace ostinato
