// What a plan is run on, made from a call's tensors; for the bindings.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings_loop.h"
#include "bound.h"
#include "callables.h"
#include "loop.h"
#include "tensors.h"

namespace ostinato {

namespace nb = nanobind;

// For tests: memory begins as NaN; how threads divide the work.
inline bool poisoned = false;
inline Division division = Division::kAuto;

// How a call goes through time (ostinato/engine/native.py).
struct Course {
  nb::object reset, lengths, batch_sizes;  // None: there are none
  bool reverse;
  int64_t bptt;
  nb::object batch_first;  // how results lie in memory; None: as x does

  explicit Course(nb::handle course)
      : reset(attribute(course, names().reset)),
        lengths(attribute(course, names().lengths)),
        batch_sizes(attribute(course, names().batch_sizes)),
        reverse(is_true(attribute(course, names().reverse))),
        bptt(nb::cast<int64_t>(attribute(course, names().bptt))),
        batch_first(attribute(course, names().batch_first)) {}
};

// How many of `falling` are above each of 0, 1, ... `count` - 1. Of lengths it gives the rows that
// are running at each step; of those it gives the lengths.
inline std::vector<int64_t> count_above(const std::vector<int64_t>& falling, int64_t count) {
  std::vector<int64_t> above;
  auto n = static_cast<int64_t>(falling.size());
  for (int64_t bound = 0; bound < count; ++bound) {
    while (n > 0 && falling[n - 1] <= bound) --n;
    above.push_back(n);
  }
  return above;
}

// The engine's rows: in order of falling length.
inline void set_rows(Call& call, const int64_t* batch_sizes, const int64_t* lengths) {
  call.uniform = batch_sizes == nullptr && lengths == nullptr;
  if (call.uniform) {
    call.row_steps = call.steps * call.rows;
    call.length.assign(static_cast<size_t>(call.rows), call.steps);
    return;
  }
  if (batch_sizes != nullptr) {
    call.active.assign(batch_sizes, batch_sizes + call.steps);
    call.length = count_above(call.active, call.rows);
    call.offset.reserve(call.active.size());
    for (int64_t n : call.active) {
      call.offset.push_back(call.row_steps);
      call.row_steps += n;
    }
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
  call.row_steps = std::accumulate(call.length.begin(), call.length.end(), int64_t{0});
}

[[noreturn]] inline void misfit(const char* what) {
  throw std::invalid_argument(std::string("call: ") + what + " doesn't fit the plan");
}

[[noreturn]] inline void changed_source(const std::string& name, const Shape& shape, bool is_double,
                                 nb::handle got) {
  const nb::str text =
      nb::str("{} must be {} of torch.float{}, as when the cell was traced, got {} of {} on {}; "
              "make a new layer for other sizes")
          .format(name, nb::tuple(nb::cast(shape)), is_double ? 64 : 32,
                  nb::tuple(nb::list(got.attr("shape"))), got.attr("dtype"), got.attr("device"));
  PyErr_SetObject(callables().input_error.ptr(), text.ptr());
  nb::raise_python_error();
}

// Strides of group, feature in and feature out.
inline MatrixArg matrix(const TensorView& v, bool transposed) {
  return {v.data, v.ndim == 3 ? v.strides[0] : 0, v.strides[v.ndim - (transposed ? 1 : 2)],
          v.strides[v.ndim - (transposed ? 2 : 1)]};
}

// A call under construction: reads arguments, makes results. The memory of its vectors goes from call
// to call of a thread.
class CallBuilder {
 public:
  CallBuilder(const Bound& bound, const Course& course, nb::handle x)
      : call(std::move(last_call())), bound_(bound), x_(adjacent(x)) {
    call.clear();
    call.threads = nb::cast<int64_t>(callables().get_num_threads());
    call.reverse = course.reverse;
    call.packed = !course.batch_sizes.is_none();
    call.truncate = course.bptt;
    call.poison = poisoned;
    call.division = division;
    const auto real = static_cast<uint8_t>(nb::dlpack::dtype_code::Float);
    if (!x_.on_cpu || x_.dtype.code != real || (x_.dtype.bits != 32 && x_.dtype.bits != 64)) {
      misfit("x");
    }
    is_double = x_.dtype.bits == 64;
    const int64_t width = bound.widths[kX];
    if (x_.ndim != (call.packed ? 2 : 3) || (width >= 0 && x_.last() != width)) misfit("x");
    call.steps = x_.shape[0];
    call.rows = call.packed ? 0 : x_.shape[1];
    const int64_t* sizes = nullptr;
    if (call.packed) {
      const TensorView v = view_tensor(course.batch_sizes);
      sizes = static_cast<const int64_t*>(v.data);
      call.steps = v.shape[0];
      call.rows = call.steps == 0 ? 0 : sizes[0];
    }
    const int64_t* lengths = nullptr;
    if (!course.lengths.is_none()) {
      const TensorView v = view_tensor(course.lengths);
      if (v.shape[0] != call.rows) misfit("lengths");
      lengths = static_cast<const int64_t*>(v.data);
    }
    set_rows(call, sizes, lengths);
    if (call.packed && call.row_steps != x_.shape[0]) misfit("batch_sizes");
    if (!course.reset.is_none()) {
      const TensorView v = view_tensor(course.reset);
      if (v.ndim != 2 || v.shape[0] != call.steps || v.shape[1] != call.rows) misfit("reset");
      call.reset = static_cast<const uint8_t*>(v.data);
      call.reset_time_stride = v.strides[0];
      call.reset_row_stride = v.strides[1];
    }
    place(kX, x_);
    // As the caller's x lies: a copy of it is always time first.
    const TensorView given = view_tensor(x);
    batch_first_ = !call.packed && (course.batch_first.is_none()
                                        ? given.strides[0] < given.strides[1]
                                        : is_true(course.batch_first));
  }

  CallBuilder(const CallBuilder&) = delete;
  CallBuilder& operator=(const CallBuilder&) = delete;
  ~CallBuilder() {
    if (call.steps + call.rows <= kRemembered) last_call() = std::move(call);
  }

  Call call;
  bool is_double = false;

  // A streamed tensor of the caller's, if the plan reads it; None: zeros.
  void read(int which, nb::handle tensor) {
    const int64_t width = bound_.widths[which];
    if (width < 0) return;
    if (tensor.is_none()) {
      place(which, zeros(width), 0, 0);  // one row for all
      return;
    }
    const char* what = which == kDy ? "the output's gradient" : "the output";
    const TensorView v = adjacent(tensor);
    check(v, what);
    if (v.ndim != x_.ndim || v.last() != bound_.widths[which] ||
        !std::equal(v.shape, v.shape + v.ndim - 1, x_.shape)) {
      misfit(what);
    }
    place(which, v);
  }

  // A new streamed tensor.
  nb::object make(int which) {
    const int64_t width = bound_.widths[which];
    const int64_t rows = call.rows, steps = call.steps;
    const int64_t time_stride = call.packed ? 0 : batch_first_ ? width : rows * width;
    const int64_t row_stride = batch_first_ ? steps * width : width;
    const int64_t packed[] = {call.row_steps, width}, shape[] = {steps, rows, width};
    const int64_t strides[] = {time_stride, row_stride, 1};
    NewTensor made = call.packed ? new_tensor(packed, {}, is_double)
                                 : new_tensor(shape, strides, is_double);
    poison(made.data, (call.packed ? call.row_steps : steps * rows) * width);
    place(which, made.data, time_stride, row_stride);
    return std::move(made.object);
  }

  // What is kept, with room for so many rows. Its last element says how many blocks (kept.h) there
  // are besides the first, so that zeros are something that could have been kept.
  nb::object make_kept(int64_t room) {
    if (bound_.kept_width == 0) return nb::none();
    if (room < call.row_steps) misfit("what is kept");
    const int64_t count = room * bound_.kept_width + 1;
    NewTensor made = new_tensor({&count, 1}, {}, is_double);
    poison(made.data, count);
    kept_ = made.data;
    more_blocks_ = count - 1;
    return std::move(made.object);
  }

  void read_kept(nb::handle kept) {
    if (bound_.kept_width == 0) return;
    if (kept.is_none()) misfit("what is kept");
    const TensorView v = view_tensor(kept);
    check(v, "what is kept");
    if (v.elements() <= call.row_steps * bound_.kept_width) misfit("what is kept");
    kept_ = v.data;
    const int64_t last = v.elements() - 1;
    const double more = is_double ? static_cast<double*>(kept_)[last]
                                  : static_cast<double>(static_cast<float*>(kept_)[last]);
    if (!(more >= 0 && more < kMostBlocks) || more != std::floor(more)) misfit("what is kept");
    call.kept_blocks = 1 + static_cast<int64_t>(more);
  }

  // The values that are carried along: what enters first (None: zeros), and where what leaves
  // goes, in the shapes of the initial states.
  void carry(Tensors initial, Tensors entering, Results& leaving) {
    const std::vector<int64_t>& widths = bound_.plan.carry;
    if (initial.size() != widths.size() || entering.size() != widths.size()) misfit("the state");
    initial_.reserve(widths.size());
    call.carry_init.reserve(widths.size());
    call.carry_final.reserve(widths.size());
    for (size_t i = 0; i < widths.size(); ++i) {
      const TensorView first = state(initial[i], widths[i]);
      initial_.push_back(first.data);
      call.carry_init.push_back(entering[i].is(initial[i]) ? first.data
                                : entering[i].is_none()    ? zeros(call.rows * widths[i])
                                                           : state(entering[i], widths[i]).data);
      NewTensor made =
          new_tensor({first.shape, static_cast<size_t>(first.ndim)}, {}, is_double);
      call.carry_final.push_back(made.data);
      leaving.push_back(std::move(made.object));
    }
  }

  void read_statics(Tensors sources) {
    if (sources.size() != bound_.sources.size()) misfit("the number of sources");
    std::vector<TensorView> whole, views;
    whole.reserve(sources.size());
    for (size_t i = 0; i < sources.size(); ++i) {
      const TensorView v = signed_view(sources[i]);
      const auto& [name, shape, wanted, gaps, overlaps] = bound_.sources[i];
      if (!v.on_cpu || v.dtype != x_.dtype ||
          !std::equal(shape.begin(), shape.end(), v.shape, v.shape + v.ndim)) {
        changed_source(name, shape, is_double, sources[i]);
      }
      whole.push_back(v);
    }
    views.reserve(bound_.cuts.size());
    strides_.reserve(bound_.cuts.size());  // so that none of them moves
    for (size_t i = 0; i < bound_.cuts.size(); ++i) {
      const Cut& cut = bound_.cuts[i];
      TensorView& v = views.emplace_back(whole[cut.source]);
      if (cut.whole) continue;
      v.data = static_cast<char*>(v.data) + cut.offset(v.strides) * size();
      v.strides = strides_.emplace_back(cut.strides_in(v.strides)).data();
      v.shape = bound_.statics[i].data();
      v.ndim = static_cast<int32_t>(cut.dims.size());
    }
    call.vectors.reserve(bound_.vectors.size());
    call.maps.reserve(bound_.maps.size());
    for (int64_t index : bound_.vectors) call.vectors.push_back(side_by_side(views[index]));
    for (const auto& [index, transposed] : bound_.maps) {
      call.maps.push_back(matrix(views[index], transposed));
    }
  }

  // The gradients of the sources, and memory for sums and weight gradients: where one of them is a
  // static's gradient, its place in its source's, if it lies there without gaps.
  void make_gradients(Results& gradients) {
    const Plan& plan = bound_.plan;
    std::vector<void*> at(plan.sums.size() + plan.outers.size(), nullptr), whole;
    call.sums.reserve(plan.sums.size());
    call.outers.reserve(plan.outers.size());
    whole.reserve(bound_.sources.size());
    for (const Source& source : bound_.sources) {
      whole.push_back(nullptr);
      gradients.push_back(nb::none());
      if (!source.wanted) continue;
      NewTensor made = new_tensor(source.shape, {}, is_double);
      gradients.back() = std::move(made.object);
      whole.back() = made.data;
      if (source.has_gaps || source.has_overlaps) {
        std::memset(made.data, 0, static_cast<size_t>(elements(source.shape) * size()));
      }
    }
    for (size_t i = 0; i < bound_.gradients.size(); ++i) {
      const std::vector<int64_t>& results = bound_.gradients[i];
      if (results.empty()) continue;
      const Cut& cut = bound_.cuts[i];
      const Source& source = bound_.sources[cut.source];
      void* data = static_cast<char*>(whole[cut.source]) + cut.place * size();
      if (results.size() == 1 && at[results[0]] == nullptr && cut.together && !source.has_overlaps) {
        at[results[0]] = data;
      } else {
        assembled_.push_back({data, &bound_.statics[i], &cut.strides, source.has_overlaps, &results});
      }
    }
    for (size_t r = 0; r < at.size(); ++r) {
      if (at[r] == nullptr) {
        at[r] = zeros(result_size(r));
      }
      if (r < plan.sums.size()) {
        call.sums.push_back(at[r]);
        continue;
      }
      const Map& m = plan.outers[r - plan.sums.size()];
      const bool transposed = bound_.outers[r - plan.sums.size()];
      call.outers.push_back(
          {at[r], m.k * m.n, transposed ? int64_t{1} : m.n, transposed ? m.k : int64_t{1}});
    }
    results_ = std::move(at);
  }

  void run() {
    call.streams.reserve(bound_.streams.size());
    for (const StreamSource& s : bound_.streams) {
      StreamArg arg{};
      if (s.behind == Behind::kTensor) {
        arg = streamed_[s.first];
      } else if (s.behind == Behind::kKept) {
        arg.base = static_cast<char*>(kept_) + s.first * call.row_steps * size();
        arg.row_stride = s.width;
      } else {
        arg.initial = initial_[s.first];
      }
      call.streams.push_back(arg);
    }
    const nb::gil_scoped_release release;
    if (is_double) {
      run_as<double>();
    } else {
      run_as<float>();
    }
  }

 private:
  // More threads than any machine has, and fewer than a float can count.
  static constexpr double kMostBlocks = 1 << 16;

  // Steps and rows of a call whose memory isn't worth its return.
  static constexpr int64_t kRemembered = int64_t{1} << 12;

  // What a builder within another one (a tensor may run code of the user's) finds is empty.
  static Call& last_call() {
    static thread_local Call call;
    return call;
  }

  int64_t size() const { return is_double ? sizeof(double) : sizeof(float); }

  void check(const TensorView& v, const char* what) const {
    if (!v.on_cpu || v.dtype != x_.dtype) misfit(what);
  }

  // PyTorch may keep a sign beside a tensor's memory, as for z.conj().imag: in a view, whose strides
  // are none that a tensor is made with.
  TensorView signed_view(nb::handle tensor) {
    const TensorView v = view_tensor(tensor);
    if (v.as_made() || !is_true(ostinato::call(attribute(tensor, names().is_neg)))) return v;
    held_.push_back(ostinato::call(attribute(tensor, names().resolve_neg)));
    return view_tensor(held_.back());
  }

  // The engine wants the features of a row side by side.
  TensorView adjacent(nb::handle tensor) {
    const TensorView v = signed_view(tensor);
    return v.ndim == 0 || v.strides[v.ndim - 1] == 1 || v.last() == 1 ? v : contiguous(tensor);
  }

  TensorView contiguous(nb::handle tensor) {
    held_.push_back(tensor.attr("contiguous")());
    return view_tensor(held_.back());
  }

  // A vector's elements without gaps.
  const void* side_by_side(const TensorView& v) {
    if (v.contiguous()) return v.data;
    char* to = static_cast<char*>(zeros(v.elements()));
    for (int64_t i = 0; i < v.elements(); ++i) {
      std::memcpy(to + i * size(), static_cast<char*>(v.data) + i * v.strides[0] * size(),
                  static_cast<size_t>(size()));
    }
    return to;
  }

  TensorView state(nb::handle tensor, int64_t width) {
    const TensorView v = signed_view(tensor);
    check(v, "the state");
    if (v.ndim < 2 || v.last() != width || v.shape[v.ndim - 2] != call.rows) misfit("the state");
    return v.contiguous() ? v : contiguous(tensor);
  }

  // Memory for so many elements, as long as the call.
  void* zeros(int64_t count) {
    return spare_.emplace_back(static_cast<size_t>(count)).data();
  }

  void place(int which, void* data, int64_t time_stride, int64_t row_stride) {
    streamed_[which].base = data;
    streamed_[which].time_stride = time_stride;
    streamed_[which].row_stride = row_stride;
  }

  void place(int which, const TensorView& v) {
    place(which, v.data, call.packed ? 0 : v.strides[0], v.strides[call.packed ? 0 : 1]);
  }

  void poison(void* data, int64_t count) const {
    if (!call.poison) return;
    if (is_double) {
      std::fill_n(static_cast<double*>(data), count, std::numeric_limits<double>::quiet_NaN());
    } else {
      std::fill_n(static_cast<float*>(data), count, std::numeric_limits<float>::quiet_NaN());
    }
  }

  int64_t result_size(size_t r) const {
    const Plan& plan = bound_.plan;
    if (r < plan.sums.size()) return plan.sums[r];
    const Map& m = plan.outers[r - plan.sums.size()];
    return m.groups * m.k * m.n;
  }

  template <class T>
  void run_as() {
    const int64_t teams = run_plan<T>(bound_.plan, call);
    if (more_blocks_ >= 0) static_cast<T*>(kept_)[more_blocks_] = static_cast<T>(teams - 1);
    assemble<T>();
  }

  // Gradients that are sums of several results, or a result that is another's gradient too (autograd
  // may add to what it is given, so that none is given twice), or that have gaps in their source's.
  template <class T>
  void assemble() const {
    for (const Assembled& one : assembled_) {
      // As of three dimensions.
      int64_t n[3] = {1, 1, 1}, stride[3] = {0, 0, 0};
      std::copy_backward(one.shape->begin(), one.shape->end(), n + 3);
      std::copy_backward(one.strides->begin(), one.strides->end(), stride + 3);
      bool adds = one.adds;
      for (int64_t r : *one.results) {
        const T* from = static_cast<const T*>(results_[r]);
        for (int64_t i = 0; i < n[0]; ++i) {
          for (int64_t j = 0; j < n[1]; ++j) {
            T* to = static_cast<T*>(one.data) + i * stride[0] + j * stride[1];
            if (!adds && stride[2] == 1) {
              std::copy_n(from, n[2], to);
            } else {
              for (int64_t k = 0; k < n[2]; ++k) {
                to[k * stride[2]] = (adds ? to[k * stride[2]] : T(0)) + from[k];
              }
            }
            from += n[2];
          }
        }
        adds = true;
      }
    }
  }

  struct Assembled {
    void* data;
    const Shape *shape, *strides;
    bool adds;  // to what is there
    const std::vector<int64_t>* results;
  };

  const Bound& bound_;
  std::vector<nb::object> held_;  // copies that the call reads
  TensorView x_;
  bool batch_first_ = false;
  StreamArg streamed_[kStreamed] = {};
  void* kept_ = nullptr;
  int64_t more_blocks_ = -1;  // forward: where it says how many
  std::vector<const void*> initial_;
  std::vector<Shape> strides_;  // of statics
  std::vector<Assembled> assembled_;
  std::vector<void*> results_;
  std::vector<std::vector<double>> spare_;
};

}  // namespace ostinato
