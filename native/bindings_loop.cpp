// Python's view of plans: decode once, run many times on raw memory.
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "loop.h"

namespace nb = nanobind;

namespace ostinato {
namespace {

class CallReader {
 public:
  explicit CallReader(const std::vector<int64_t>& values) : values_(values) {}
  int64_t next() {
    if (at_ >= values_.size()) throw std::invalid_argument("call: too few values");
    return values_[at_++];
  }
  template <class T>
  T* pointer() {
    return reinterpret_cast<T*>(static_cast<uintptr_t>(next()));
  }
  bool at_end() const { return at_ == values_.size(); }

 private:
  const std::vector<int64_t>& values_;
  size_t at_ = 0;
};

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

// The order of values is that of ostinato/engine/native.py.
Call read_call(const Plan& plan, const std::vector<int64_t>& values) {
  CallReader in(values);
  Call call;
  call.steps = in.next();
  call.rows = in.next();
  call.threads = in.next();
  call.reverse = in.next() != 0;
  call.packed = in.next() != 0;
  call.truncate = in.next();
  const int64_t testing = in.next();
  call.poison = (testing & 1) != 0;
  call.by_columns = (testing & 2) != 0;
  call.reset = in.pointer<const uint8_t>();
  call.reset_time_stride = in.next();
  call.reset_row_stride = in.next();
  const auto* batch_sizes = in.pointer<const int64_t>();
  const auto* lengths = in.pointer<const int64_t>();
  set_rows(call, batch_sizes, lengths);
  int64_t before = 0;
  for (int64_t n : call.active) {
    call.offset.push_back(before);
    before += n;
  }
  for (size_t i = 0; i < plan.streams.size(); ++i) {
    StreamArg s{};
    s.base = in.pointer<void>();
    s.time_stride = in.next();
    s.row_stride = in.next();
    s.initial = in.pointer<const void>();
    call.streams.push_back(s);
  }
  for (size_t i = 0; i < plan.carry.size(); ++i) {
    call.carry_init.push_back(in.pointer<const void>());
    call.carry_final.push_back(in.pointer<void>());
  }
  for (int64_t i = 0; i < plan.n_vectors; ++i) call.vectors.push_back(in.pointer<const void>());
  for (size_t i = 0; i < plan.maps.size(); ++i) {
    MatrixArg m{};
    m.base = in.pointer<const void>();
    m.group_stride = in.next();
    m.k_stride = in.next();
    m.n_stride = in.next();
    call.maps.push_back(m);
  }
  for (size_t i = 0; i < plan.sums.size(); ++i) call.sums.push_back(in.pointer<void>());
  for (size_t i = 0; i < plan.outers.size(); ++i) {
    OuterArg o{};
    o.base = in.pointer<void>();
    o.group_stride = in.next();
    o.k_stride = in.next();
    o.n_stride = in.next();
    call.outers.push_back(o);
  }
  if (!in.at_end()) throw std::invalid_argument("call: too many values");
  return call;
}

void run(const Plan& plan, bool is_double, const std::vector<int64_t>& values) {
  const Call call = read_call(plan, values);
  nb::gil_scoped_release release;
  if (is_double) {
    run_plan<double>(plan, call);
  } else {
    run_plan<float>(plan, call);
  }
}

}  // namespace
}  // namespace ostinato

void bind_loop(nb::module_& m) {
  using namespace ostinato;
  nb::class_<Plan>(m, "Plan", "A step's plan, decoded. The caller keeps memory alive during run().")
      .def("__init__",
           [](Plan* self, const std::vector<int64_t>& code, const std::vector<double>& consts) {
             new (self) Plan(decode_plan(code, consts));
           },
           nb::arg("code"), nb::arg("consts"))
      .def("run", &run, nb::arg("is_double"), nb::arg("values"),
           "Run through time on the raw memory that `values` points at.");
}
