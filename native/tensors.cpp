#include "tensors.h"

#include <algorithm>
#include <functional>
#include <new>
#include <numeric>
#include <stdexcept>
#include <string>

#include "memory.h"

namespace nb = nanobind;

namespace ostinato {
namespace {

// DLManagedTensorVersioned, whose layout is fixed for a major version.
struct Managed {
  uint32_t major, minor;
  void* context;
  void (*deleter)(Managed*);
  uint64_t flags;
  nb::dlpack::dltensor tensor;
};

// The beginning of DLPackExchangeAPI, likewise.
struct Table {
  uint32_t major, minor;
  Table* older;
  void* allocate;
  void* managed_from_object;
  int (*managed_to_object)(Managed* tensor, void** object);
  int (*view_of_object)(void* object, nb::dlpack::dltensor* out);
};

constexpr uint32_t kMajor = 1;

const Table* table = nullptr;

const Table& functions() {
  if (table == nullptr) throw std::logic_error("use_tensor_table() comes first");
  return *table;
}

// What a tensor of ours needs lies in one block: this, shape and strides, and up to kSmall bytes of
// elements. (An LSTM's training call at T = B = 1 took 85 us with five blocks a tensor and vectors
// that grow one by one, and takes 79.)
struct Owned {
  Managed managed;
  int64_t room;   // of this block
  int64_t apart;  // bytes of elements that have a block of their own, or 0
};
constexpr int64_t kSmall = int64_t{16} << 10, kLine = 64;

void give(Managed* managed) {
  auto* owned = static_cast<Owned*>(managed->context);
  if (owned->apart > 0) give_memory(managed->tensor.data, owned->apart);
  give_memory(owned, owned->room);
}

int64_t product(const int64_t* begin, const int64_t* end) {
  return std::accumulate(begin, end, int64_t{1}, std::multiplies<>());
}

std::string text(Extents shape) {
  std::string found;
  for (int64_t n : shape) found += (found.empty() ? "" : ", ") + std::to_string(n);
  return "(" + found + ")";
}

[[noreturn]] void no_memory(int64_t bytes, Extents shape) {
  PyErr_Format(PyExc_MemoryError,
               "no memory for %lld bytes, a tensor %s of the time loop; use shorter sequences, "
               "smaller batches, or no gradients",
               static_cast<long long>(bytes), text(shape).c_str());
  nb::raise_python_error();
}

}  // namespace

int64_t TensorView::elements() const { return product(shape, shape + ndim); }

bool TensorView::contiguous() const {
  int64_t next = 1;
  for (int32_t i = ndim - 1; i >= 0; --i) {
    if (shape[i] != 1 && strides[i] != next) return elements() == 0;
    next *= shape[i];
  }
  return true;
}

bool TensorView::as_made() const {
  int64_t next = 1;
  for (int32_t i = ndim - 1; i >= 0; --i) {
    if (strides[i] != next) return false;
    next *= shape[i];
  }
  return true;
}

void use_tensor_table(nb::handle capsule) {
  auto* found = static_cast<Table*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (found == nullptr) nb::raise_python_error();
  while (found != nullptr && found->major != kMajor) found = found->older;
  if (found == nullptr || found->view_of_object == nullptr ||
      found->managed_to_object == nullptr) {
    throw std::invalid_argument("PyTorch's tensors don't offer DLPack's exchange interface 1");
  }
  table = found;
}

TensorView view_tensor(nb::handle tensor) {
  nb::dlpack::dltensor view;
  if (functions().view_of_object(tensor.ptr(), &view) != 0) nb::raise_python_error();
  if (view.data == nullptr && product(view.shape, view.shape + view.ndim) > 0) {
    PyErr_Format(PyExc_RuntimeError, "a tensor of shape %s has no memory: its storage was freed, or it only stands for zeros",
                 text({view.shape, static_cast<size_t>(view.ndim)}).c_str());
    nb::raise_python_error();
  }
  return {static_cast<char*>(view.data) + view.byte_offset, view.ndim, view.shape, view.strides,
          view.device.device_type == nb::device::cpu::value, view.dtype};
}

NewTensor new_tensor(Extents shape, Extents strides, bool is_double) {
  const Table& f = functions();
  const size_t dims = shape.size();
  const int64_t size = is_double ? sizeof(double) : sizeof(float);
  const int64_t bytes = size * product(shape.data(), shape.data() + dims);
  const int64_t needed = static_cast<int64_t>(sizeof(Owned) + 2 * dims * sizeof(int64_t));
  const int64_t head = (needed + kLine - 1) / kLine * kLine;
  const bool small = bytes <= kSmall;
  const int64_t room = head + (small ? bytes : 0);
  char* block = static_cast<char*>(take_memory(room));
  auto* owned = new (block) Owned{{}, room, small ? 0 : bytes};
  auto* extents = reinterpret_cast<int64_t*>(owned + 1);
  std::copy(shape.begin(), shape.end(), extents);
  std::copy(strides.begin(), strides.end(), extents + dims);
  if (strides.empty()) {
    int64_t next = 1;
    for (size_t i = dims; i-- > 0; next *= shape[i]) extents[dims + i] = next;
  }
  void* data = block + head;
  if (!small) {
    try {
      data = take_memory(bytes);
    } catch (const std::bad_alloc&) {
      give_memory(block, room);
      no_memory(bytes, shape);
    }
  }
  Managed& managed = owned->managed;
  managed.major = kMajor;
  managed.context = owned;
  managed.deleter = give;
  managed.tensor.data = data;
  managed.tensor.device = {nb::device::cpu::value, 0};
  managed.tensor.ndim = static_cast<int32_t>(dims);
  managed.tensor.dtype = {static_cast<uint8_t>(nb::dlpack::dtype_code::Float),
                          static_cast<uint8_t>(8 * size), 1};
  managed.tensor.shape = extents;
  managed.tensor.strides = extents + dims;
  void* object = nullptr;
  if (f.managed_to_object(&managed, &object) != 0) nb::raise_python_error();
  return {nb::steal(static_cast<PyObject*>(object)), data};
}

}  // namespace ostinato
