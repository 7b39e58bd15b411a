// Python's view of plans: decode once, run many times on the memory of a call's tensors.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "loop.h"
#include "tensors.h"

namespace nb = nanobind;

namespace ostinato {
namespace {

// What stands behind a stream: one of the tensors that lie in memory step by step; columns of what
// forward keeps; another stream one step back, and before the first step an initial state.
enum class Source { kTensor, kKept, kInitial };

struct StreamSource {
  Source source;
  int64_t first;  // which tensor; first column; which state
  int64_t width;  // of kept columns
};

// A plan, and where a call's tensors belong in it (ostinato/engine/code.py).
struct Bound {
  Plan plan;
  std::vector<StreamSource> streams;
  std::vector<int64_t> vectors;  // statics
  std::vector<std::pair<int64_t, bool>> maps;  // statics, and whether transposed
  std::vector<bool> outers;  // whether transposed
};

// One argument of a call that is a list or tuple of tensors.
class Tensors {
 public:
  Tensors(nb::handle list, const char* what)
      : held_(nb::steal(PySequence_Fast(list.ptr(), "tensors must come as a sequence"))),
        what_(what) {
    if (!held_.is_valid()) nb::raise_python_error();
  }
  int64_t size() const { return PySequence_Fast_GET_SIZE(held_.ptr()); }
  nb::handle operator[](int64_t i) const {
    if (i >= size()) throw std::invalid_argument(std::string("call: too few ") + what_);
    return PySequence_Fast_GET_ITEM(held_.ptr(), i);
  }
  void require(size_t count) const {
    if (size() != static_cast<int64_t>(count)) {
      throw std::invalid_argument(std::string("call: wrong number of ") + what_);
    }
  }

 private:
  nb::object held_;
  const char* what_;
};

// Vectors that aren't contiguous, copied for the call.
using Copies = std::vector<std::vector<char>>;

// How many of `falling` are above each of 0, 1, ... `count` - 1. Of lengths it gives the rows that
// are running at each step; of those it gives the lengths.
std::vector<int64_t> count_above(const std::vector<int64_t>& falling, int64_t count) {
  std::vector<int64_t> above;
  auto n = static_cast<int64_t>(falling.size());
  for (int64_t bound = 0; bound < count; ++bound) {
    while (n > 0 && falling[n - 1] <= bound) --n;
    above.push_back(n);
  }
  return above;
}

// The engine's rows: in order of falling length.
void set_rows(Call& call, const int64_t* batch_sizes, const int64_t* lengths) {
  call.uniform = batch_sizes == nullptr && lengths == nullptr;
  if (call.uniform) {
    call.active.assign(static_cast<size_t>(call.steps), call.rows);
    call.length.assign(static_cast<size_t>(call.rows), call.steps);
    return;
  }
  if (batch_sizes != nullptr) {
    call.active.assign(batch_sizes, batch_sizes + call.steps);
    call.length = count_above(call.active, call.rows);
    return;
  }
  call.length.assign(lengths, lengths + call.rows);
  if (!std::is_sorted(call.length.begin(), call.length.end(), std::greater<>())) {
    call.order.resize(call.length.size());
    std::iota(call.order.begin(), call.order.end(), int64_t{0});
    std::stable_sort(call.order.begin(), call.order.end(),
                     [&](int64_t a, int64_t b) { return lengths[a] > lengths[b]; });
    for (size_t i = 0; i < call.order.size(); ++i) call.length[i] = lengths[call.order[i]];
  }
  call.active = count_above(call.length, call.steps);
}

const void* contiguous(const TensorView& v, int64_t size, Copies& copies) {
  const int64_t count = v.ndim == 0 ? 1 : v.shape[0];
  const int64_t stride = v.ndim == 0 ? 1 : v.strides[0];
  if (stride == 1 || count == 1) return v.data;
  std::vector<char>& copy = copies.emplace_back(static_cast<size_t>(count * size));
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(&copy[static_cast<size_t>(i * size)],
                static_cast<const char*>(v.data) + i * stride * size, static_cast<size_t>(size));
  }
  return copy.data();
}

// Strides of group, feature in and feature out.
template <class Arg>
Arg matrix(const TensorView& v, bool transposed) {
  Arg arg{};
  arg.base = v.data;
  arg.group_stride = v.ndim == 3 ? v.strides[0] : 0;
  arg.k_stride = v.strides[v.ndim - (transposed ? 1 : 2)];
  arg.n_stride = v.strides[v.ndim - (transposed ? 2 : 1)];
  return arg;
}

struct Arguments {
  nb::object reset, batch_sizes, lengths, tensors, kept, initial, entering, leaving, statics, sums,
      outers;
};

Call read_call(const Bound& bound, bool is_double, const std::vector<int64_t>& header,
               const Arguments& given, Copies& copies) {
  if (header.size() != 7) throw std::invalid_argument("call: a header has 7 numbers");
  const int64_t size = is_double ? sizeof(double) : sizeof(float);
  Call call;
  call.steps = header[0];
  call.rows = header[1];
  call.threads = header[2];
  call.reverse = header[3] != 0;
  call.packed = header[4] != 0;
  call.truncate = header[5];
  call.poison = (header[6] & 1) != 0;
  call.by_columns = (header[6] & 2) != 0;
  if (!given.reset.is_none()) {
    const TensorView reset = view_tensor(given.reset);
    call.reset = static_cast<const uint8_t*>(reset.data);
    call.reset_time_stride = reset.strides[0];
    call.reset_row_stride = reset.strides[1];
  }
  const auto integers = [](const nb::object& tensor) {
    return tensor.is_none() ? nullptr : static_cast<const int64_t*>(view_tensor(tensor).data);
  };
  set_rows(call, integers(given.batch_sizes), integers(given.lengths));
  int64_t rows = 0;
  for (int64_t n : call.active) {
    call.offset.push_back(rows);
    rows += n;
  }
  const Tensors tensors(given.tensors, "tensors"), initial(given.initial, "initial states");
  for (const StreamSource& stream : bound.streams) {
    StreamArg arg{};
    if (stream.source == Source::kTensor) {
      const TensorView v = view_tensor(tensors[stream.first]);
      arg.base = v.data;
      arg.time_stride = call.packed ? 0 : v.strides[0];
      arg.row_stride = v.strides[call.packed ? 0 : 1];
    } else if (stream.source == Source::kKept) {
      arg.base = static_cast<char*>(view_tensor(given.kept).data) + stream.first * rows * size;
      arg.row_stride = stream.width;
    } else {
      arg.initial = view_tensor(initial[stream.first]).data;
    }
    call.streams.push_back(arg);
  }
  const Tensors entering(given.entering, "states"), leaving(given.leaving, "states");
  entering.require(bound.plan.carry.size());
  leaving.require(bound.plan.carry.size());
  for (int64_t i = 0; i < entering.size(); ++i) {
    call.carry_init.push_back(view_tensor(entering[i]).data);
    call.carry_final.push_back(view_tensor(leaving[i]).data);
  }
  const Tensors statics(given.statics, "statics");
  for (int64_t index : bound.vectors) {
    call.vectors.push_back(contiguous(view_tensor(statics[index]), size, copies));
  }
  for (const auto& [index, transposed] : bound.maps) {
    call.maps.push_back(matrix<MatrixArg>(view_tensor(statics[index]), transposed));
  }
  const Tensors sums(given.sums, "sums"), outers(given.outers, "weight gradients");
  sums.require(bound.plan.sums.size());
  outers.require(bound.plan.outers.size());
  for (int64_t i = 0; i < sums.size(); ++i) call.sums.push_back(view_tensor(sums[i]).data);
  for (int64_t i = 0; i < outers.size(); ++i) {
    call.outers.push_back(matrix<OuterArg>(view_tensor(outers[i]), bound.outers[i]));
  }
  return call;
}

void run(const Bound& bound, bool is_double, const std::vector<int64_t>& header, nb::object reset,
         nb::object batch_sizes, nb::object lengths, nb::object tensors, nb::object kept,
         nb::object initial, nb::object entering, nb::object leaving, nb::object statics,
         nb::object sums, nb::object outers) {
  Copies copies;
  const Call call = read_call(bound, is_double, header,
                              {reset, batch_sizes, lengths, tensors, kept, initial, entering,
                               leaving, statics, sums, outers},
                              copies);
  nb::gil_scoped_release release;
  if (is_double) {
    run_plan<double>(bound.plan, call);
  } else {
    run_plan<float>(bound.plan, call);
  }
}

using StreamTuple = std::tuple<int64_t, int64_t, int64_t>;

void make(Bound* self, const std::vector<int64_t>& code, const std::vector<double>& consts,
          const std::vector<StreamTuple>& streams, const std::vector<int64_t>& vectors,
          const std::vector<std::pair<int64_t, bool>>& maps, const std::vector<bool>& outers) {
  new (self) Bound{decode_plan(code, consts), {}, vectors, maps, outers};
  for (const auto& [source, first, width] : streams) {
    self->streams.push_back({static_cast<Source>(source), first, width});
  }
}

}  // namespace
}  // namespace ostinato

void bind_loop(nb::module_& m) {
  using namespace ostinato;
  m.def("use_tensor_table", &use_tensor_table, nb::arg("capsule"),
        "Sets how tensors are read: torch.Tensor.__dlpack_c_exchange_api__.");
  nb::class_<Bound>(m, "Plan", "A step's plan, decoded, and where a call's tensors belong in it.")
      .def("__init__", &make, nb::arg("code"), nb::arg("consts"), nb::arg("streams"),
           nb::arg("vectors"), nb::arg("maps"), nb::arg("outers"))
      .def("run", &run, nb::arg("is_double"), nb::arg("header"), nb::arg("reset").none(),
           nb::arg("batch_sizes").none(), nb::arg("lengths").none(), nb::arg("tensors"),
           nb::arg("kept").none(), nb::arg("initial"), nb::arg("entering"), nb::arg("leaving"),
           nb::arg("statics"), nb::arg("sums"), nb::arg("outers"),
           "Run through time. The header: steps, rows, threads, reverse, packed, truncate, and for "
           "tests 1 to poison scratch memory, 2 to divide columns.");
}
