// Hooks for the tests of the memory that results lie in.
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include "memory.h"
#include "tensors.h"

namespace nb = nanobind;

void bind_memory(nb::module_& m) {
  m.def(
      "new_tensor",
      [](const ostinato::Shape& shape, const ostinato::Shape& strides, bool is_double) {
        return ostinato::new_tensor(shape, strides, is_double).object;
      },
      nb::arg("shape"), nb::arg("strides"), nb::arg("is_double"),
      "For tests: a tensor as results are; strides are in elements, empty: contiguous.");
  m.def("waiting_bytes", &ostinato::waiting_bytes,
        "For tests: bytes that were given back and wait for the next large tensor.");
  m.def("small_waiting_bytes", &ostinato::small_waiting_bytes,
        "For tests: likewise, for the next small tensor of the same size.");
}
