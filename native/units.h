// Units: the columns that go together in all values of a step, so that a thread can take some of them
// through a whole call, in memory of its own.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace ostinato {

struct Plan;

// Columns [begin, end) of each run of `run` columns: what one of several threads has of a value.
struct Units {
  int64_t run = 0, begin = 0, end = 0;

  Units() = default;
  // Of `count` threads' shares the one of `index`: multiples of `grain` columns, but for the last; of
  // single ones, where there are too few.
  Units(int64_t columns, int64_t grain, int64_t index, int64_t count) : run(columns) {
    if (columns < grain * count) grain = 1;
    const int64_t grains = (columns + grain - 1) / grain;
    begin = std::min(columns, grains * index / count * grain);
    end = std::min(columns, grains * (index + 1) / count * grain);
  }
  int64_t width() const { return end - begin; }
  // Side by side they take the place of so many columns.
  int64_t compact(int64_t columns) const { return columns / run * width(); }
  // f(first, among them, how many) for each run of so many columns.
  template <class F>
  void each_run(int64_t columns, const F& f) const {
    for (int64_t at = 0, own = 0; at < columns; at += run, own += width()) f(at + begin, own, width());
  }
};

// How threads that divide units share a product whose left operand is divided: each hands over what it
// has of that, and computes its own columns from all; or it computes all columns from what it has, and
// hands over the sums that are others'. Whichever is less to hand over. kNone: each has all of it.
enum class Exchange { kNone, kInputs, kSums };

struct SharedMap {
  int32_t source;  // the map of all units
  int32_t bias;  // of all units, or -1
  Exchange exchange;
  int64_t k, n;  // of all units
  // By thread: its columns; how many rows and columns it has, and all threads' columns before it.
  std::vector<Units> columns_of;
  std::vector<int64_t> rows, columns, columns_before;

  // Few columns are one product for all threads: in as many as there are threads, there would be too
  // few sums in flight.
  bool joined(int64_t panel) const { return exchange == Exchange::kSums && n <= panel; }
  // Elements that one thread hands over of each row of the left operand.
  int64_t handed(int thread) const {
    if (exchange == Exchange::kNone) return 0;
    return exchange == Exchange::kInputs ? rows[thread] : n;
  }
};

// A stream that the loop writes, by way of a buffer of the chunk: were each thread to write its columns
// of a row when it has them, what a core reads in advance would have to be taken back at each step.
struct Staged {
  int32_t stream, chunk;
};

// Looks for Plan::units.
void find_units(Plan& plan);

// What each of `count` threads runs that divide units, made once for each count and grain.
class UnitPlans {
 public:
  const std::vector<Plan>& of(const Plan& plan, int64_t count, int64_t grain);

 private:
  struct Made {
    int64_t count, grain;
    std::unique_ptr<const std::vector<Plan>> plans;
  };
  std::mutex mutex_;
  std::vector<Made> made_;
};

}  // namespace ostinato
