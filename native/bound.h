// A plan, and where a call's tensors belong in it; for the bindings.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "plan.h"
#include "tensors.h"

namespace ostinato {

// What stands behind a stream: one of the tensors that lie in memory step by step; columns of what
// forward keeps; another stream one step back, and before the first step an initial state.
enum class Behind { kTensor, kKept, kInitial };

// The tensors that lie in memory step by step.
enum : int { kX, kY, kDy, kDx, kStreamed };

struct StreamSource {
  Behind behind;
  int64_t first;  // which tensor; first column; which state
  int64_t width;  // of kept columns
};

// A tensor that statics are cut from.
struct Source {
  std::string name;
  Shape shape;
  // Of its gradient, which is put together from those of its statics. Gaps: elements that no gradient
  // belongs to. Overlaps: some that several do.
  bool wanted = false, has_gaps = false, has_overlaps = false;
};

// Where a static lies in its source: from the element at `starts` on along `dims`, one for each of
// its own dimensions; -1: it has one element.
struct Cut {
  int64_t source;
  std::vector<int64_t> starts, dims;
  // Derived: whether it is all of its source; its place and strides in a source without gaps, as a
  // gradient is, and whether its elements follow one another there.
  bool whole = false;
  int64_t place = 0;
  Shape strides;
  bool together = false;

  int64_t offset(const int64_t* strides) const {
    return std::inner_product(starts.begin(), starts.end(), strides, int64_t{0});
  }
  Shape strides_in(const int64_t* strides) const {
    Shape found;
    for (int64_t dim : dims) found.push_back(dim < 0 ? 1 : strides[dim]);
    return found;
  }
};

// A plan, and where a call's tensors belong in it (ostinato/engine/code.py).
struct Bound {
  Plan plan;
  std::vector<StreamSource> streams;
  std::vector<int64_t> vectors;  // statics
  std::vector<std::pair<int64_t, bool>> maps;  // statics, and whether transposed
  std::vector<bool> outers;  // whether transposed
  std::vector<Shape> statics;
  std::vector<Source> sources;
  std::vector<Cut> cuts;  // by static
  // By static: which results (sums, then weight gradients) its gradient is the sum of; none: it has
  // no gradient.
  std::vector<std::vector<int64_t>> gradients;
  // Derived: of each streamed tensor, -1 for those that the plan doesn't have; of what is kept,
  // up to the last column that the plan knows.
  int64_t widths[kStreamed] = {-1, -1, -1, -1};
  int64_t kept_width = 0;
};

// Works out what is derived of cuts, and how the gradients of statics fill those of their sources.
void see_cuts(Bound& bound);

inline int64_t elements(const Shape& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

}  // namespace ostinato
