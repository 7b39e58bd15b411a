// Blocks of memory as tensors, by DLPack: the memory comes back when the last tensor on it is gone,
// on whichever thread, without Python.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>

#include <functional>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "memory.h"

namespace nb = nanobind;

namespace ostinato {
namespace {

// DLManagedTensor of dlpack.h (version 0), whose layout is fixed.
struct Managed {
  nb::dlpack::dltensor tensor;
  void* context;
  void (*deleter)(Managed*);
};

struct Owned {
  Managed managed;
  std::vector<int64_t> shape, strides;
};

void give(Managed* managed) {
  give_block(managed->tensor.data);
  delete static_cast<Owned*>(managed->context);
}

// A capsule that nobody took still owns its block.
void drop(PyObject* capsule) {
  if (PyCapsule_IsValid(capsule, "dltensor") == 0) return;
  give(static_cast<Managed*>(PyCapsule_GetPointer(capsule, "dltensor")));
}

nb::object block(const std::vector<int64_t>& shape, const std::vector<int64_t>& strides,
                 bool is_double) {
  if (shape.size() != strides.size()) {
    throw std::invalid_argument("block: one stride for each size is needed");
  }
  const int64_t size = is_double ? sizeof(double) : sizeof(float);
  const int64_t elements =
      std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
  auto made = std::make_unique<Owned>(Owned{{}, shape, strides});
  nb::dlpack::dltensor& tensor = made->managed.tensor;
  tensor.data = take_block(elements * size);
  Owned* owned = made.release();  // from here on give() frees both
  tensor.device = {nb::device::cpu::value, 0};
  tensor.ndim = static_cast<int32_t>(shape.size());
  tensor.dtype = {static_cast<uint8_t>(nb::dlpack::dtype_code::Float),
                  static_cast<uint8_t>(8 * size), 1};
  tensor.shape = owned->shape.data();
  tensor.strides = owned->strides.data();
  owned->managed.context = owned;
  owned->managed.deleter = give;
  PyObject* capsule = PyCapsule_New(&owned->managed, "dltensor", drop);
  if (capsule == nullptr) {
    give(&owned->managed);
    nb::raise_python_error();
  }
  return nb::steal(capsule);
}

}  // namespace
}  // namespace ostinato

void bind_memory(nb::module_& m) {
  m.def("block", &ostinato::block, nb::arg("shape"), nb::arg("strides"), nb::arg("is_double"),
        "A DLPack capsule of new memory, not cleared; strides are in elements and leave no gaps.");
  m.def("waiting_bytes", &ostinato::waiting_bytes,
        "For tests: bytes that were given back and wait for the next block.");
}
