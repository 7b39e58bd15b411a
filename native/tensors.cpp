#include "tensors.h"

#include <stdexcept>

namespace nb = nanobind;

namespace ostinato {
namespace {

// The beginning of DLPackExchangeAPI, whose layout is fixed for a major version.
struct Table {
  uint32_t major, minor;
  Table* older;
  void* allocate;
  void* managed_from_object;
  void* managed_to_object;
  int (*view_of_object)(void* object, nb::dlpack::dltensor* out);
};

constexpr uint32_t kMajor = 1;

const Table* table = nullptr;

}  // namespace

void use_tensor_table(nb::handle capsule) {
  auto* found = static_cast<Table*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (found == nullptr) nb::raise_python_error();
  while (found != nullptr && found->major != kMajor) found = found->older;
  if (found == nullptr || found->view_of_object == nullptr) {
    throw std::invalid_argument("PyTorch's tensors don't offer DLPack's exchange interface 1");
  }
  table = found;
}

TensorView view_tensor(nb::handle tensor) {
  if (table == nullptr) throw std::logic_error("use_tensor_table() comes first");
  nb::dlpack::dltensor view;
  if (table->view_of_object(tensor.ptr(), &view) != 0) nb::raise_python_error();
  return {static_cast<char*>(view.data) + view.byte_offset, view.ndim, view.shape, view.strides};
}

}  // namespace ostinato
