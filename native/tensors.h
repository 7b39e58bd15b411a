// PyTorch's tensors seen from C++ without its headers: through the table of C functions that its
// tensor type offers (DLPack's exchange interface, dlpack.h 1.x, `__dlpack_c_exchange_api__`).
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>

namespace ostinato {

// A tensor's memory, valid as long as the tensor.
struct TensorView {
  void* data;
  int32_t ndim;
  const int64_t* shape;
  const int64_t* strides;  // in elements
};

// Takes the table's capsule; throws std::invalid_argument if it is of another major version.
void use_tensor_table(nanobind::handle capsule);

// `tensor` must be a torch.Tensor; raises what PyTorch raises where one can't be described so.
TensorView view_tensor(nanobind::handle tensor);

}  // namespace ostinato
