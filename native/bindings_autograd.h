// Runs of a program that autograd sees, for the bindings.
#pragma once

#include <nanobind/nanobind.h>

#include "bindings_loop.h"

namespace ostinato {

inline void append(Results& to, Tensors tensors) {
  for (size_t i = 0; i < tensors.size(); ++i) to.push_back(nanobind::borrow(tensors[i]));
}

// (output, (final states)), differentiable with respect to x, state and sources. `plain`: torch.func
// has nothing to do with this call, which has been looked at. Raises as run_forward().
nanobind::object run(nanobind::handle program, nanobind::handle course, Tensors sources,
                     nanobind::handle x, Tensors state, bool plain);

}  // namespace ostinato
