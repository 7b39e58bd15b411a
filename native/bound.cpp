#include "bound.h"

namespace ostinato {
namespace {

// Whether elements in memory follow one another, the last dimension's first.
bool without_gaps(const Shape& shape, const Shape& strides) {
  int64_t next = 1;
  for (size_t i = shape.size(); i-- > 0; next *= shape[i]) {
    if (shape[i] != 1 && strides[i] != next) return false;
  }
  return true;
}

Shape contiguous_strides(const Shape& shape) {
  Shape strides(shape.size());
  int64_t next = 1;
  for (size_t i = shape.size(); i-- > 0; next *= shape[i]) strides[i] = next;
  return strides;
}

// Whether two statics have an element of their source in common.
bool meet(const Bound& bound, size_t one, size_t other) {
  const auto within = [&](size_t i, size_t dim) {
    const Cut& cut = bound.cuts[i];
    const auto at = std::find(cut.dims.begin(), cut.dims.end(), static_cast<int64_t>(dim));
    return at == cut.dims.end() ? 1 : bound.statics[i][at - cut.dims.begin()];
  };
  for (size_t dim = 0; dim < bound.cuts[one].starts.size(); ++dim) {
    const int64_t a = bound.cuts[one].starts[dim], b = bound.cuts[other].starts[dim];
    if (a >= b + within(other, dim) || b >= a + within(one, dim)) return false;
  }
  return true;
}

}  // namespace

void see_cuts(Bound& bound) {
  for (size_t i = 0; i < bound.cuts.size(); ++i) {
    Cut& cut = bound.cuts[i];
    const Shape &shape = bound.statics[i], &source = bound.sources[cut.source].shape;
    const Shape strides = contiguous_strides(source);
    cut.place = cut.offset(strides.data());
    cut.strides = cut.strides_in(strides.data());
    cut.together = without_gaps(shape, cut.strides);
    cut.whole = shape == source && cut.together;
  }
  std::vector<int64_t> filled(bound.sources.size(), 0);
  for (size_t i = 0; i < bound.cuts.size(); ++i) {
    if (bound.gradients[i].empty()) continue;
    const int64_t source = bound.cuts[i].source;
    filled[source] += elements(bound.statics[i]);
    bound.sources[source].wanted = true;
    for (size_t j = 0; j < i; ++j) {
      if (bound.cuts[j].source == source && !bound.gradients[j].empty() && meet(bound, i, j)) {
        bound.sources[source].has_overlaps = true;
      }
    }
  }
  for (size_t s = 0; s < filled.size(); ++s) {
    bound.sources[s].has_gaps = filled[s] < elements(bound.sources[s].shape);
  }
}

}  // namespace ostinato
