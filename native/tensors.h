// PyTorch's tensors seen and made from C++ without its headers: through the table of C functions
// that its tensor type offers (DLPack's exchange interface, dlpack.h 1.x,
// `__dlpack_c_exchange_api__`).
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <span>
#include <vector>

namespace ostinato {

using Shape = std::vector<int64_t>;
using Extents = std::span<const int64_t>;  // a shape, or strides in elements, of the caller's

// A tensor's memory, valid as long as the tensor.
struct TensorView {
  void* data;
  int32_t ndim;
  const int64_t* shape;
  const int64_t* strides;  // in elements
  bool on_cpu;
  nanobind::dlpack::dtype dtype;

  int64_t last() const { return shape[ndim - 1]; }
  int64_t elements() const;
  bool contiguous() const;
  // Whether strides are those that a new tensor has, those of dimensions with one element too.
  bool as_made() const;
};

// A new tensor, and its memory.
struct NewTensor {
  nanobind::object object;
  void* data;
};

// Takes the table's capsule; throws std::invalid_argument if it is of another major version.
void use_tensor_table(nanobind::handle capsule);

// `tensor` must be a torch.Tensor; raises what PyTorch raises where one can't be described so, and
// RuntimeError where its elements are nowhere (freed storage, zeros that stand for themselves).
TensorView view_tensor(nanobind::handle tensor);

// A tensor without gaps in memory of the engine's own, not cleared; `strides` are in elements,
// empty: contiguous. It goes back when the last tensor on it is gone, on whichever thread.
// Raises MemoryError.
NewTensor new_tensor(Extents shape, Extents strides, bool is_double);

}  // namespace ostinato
