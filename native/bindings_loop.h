// Runs of a plan on tensors, for the bindings; outside of autograd.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <vector>

namespace ostinato {

// A sequence of tensors, of which some run is an argument.
struct Tensors {
  PyObject* const* items;
  size_t count;

  size_t size() const { return count; }
  nanobind::handle operator[](size_t i) const { return items[i]; }
  Tensors after(size_t n) const { return {items + n, count - n}; }
  Tensors first(size_t n) const { return {items, n}; }

  // Of a list or tuple, good while that lives.
  static Tensors of(nanobind::handle sequence);
};

// What has come of a run, in the order of results: a tuple, or the items of one.
using Results = std::vector<nanobind::object>;

nanobind::object tuple_of(Results&& objects);

// How many states the plan of `code` carries along (ostinato/engine/code.py).
size_t count_states(nanobind::handle code);

// The output, what is kept or None, and the final states. `sources`: what the program's statics are
// cut from. `room`: rows that can be kept, -1: as many as there are. Raises InputError for a source
// that doesn't fit the plan, ValueError for the rest.
Results run_forward(nanobind::handle code, nanobind::handle course, nanobind::handle x,
                    Tensors state, Tensors sources, int64_t room = -1);

// The gradients of x, states and sources, None for what the plan leaves out. A gradient that comes,
// `dy` or one of `dfinal`, may be None: zeros. Raises as run_forward().
Results run_backward(nanobind::handle code, nanobind::handle course, nanobind::handle x,
                     nanobind::handle y, nanobind::handle kept, Tensors state, Tensors sources,
                     nanobind::handle dy, Tensors dfinal);

}  // namespace ostinato
