// Python's view of plans: decode once, run many times on a call's tensors.
#include "bindings_loop.h"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <iterator>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bound.h"
#include "call_builder.h"
#include "callables.h"
#include "tensors.h"

namespace nb = nanobind;

namespace ostinato {
namespace {

using StreamTuple = std::tuple<int64_t, int64_t, int64_t>;
using CutTuple = std::tuple<int64_t, std::vector<int64_t>, std::vector<int64_t>>;

void make(Bound* self, const std::vector<int64_t>& code, const std::vector<double>& consts,
          const std::vector<StreamTuple>& streams, const std::vector<int64_t>& vectors,
          const std::vector<std::pair<int64_t, bool>>& maps, const std::vector<bool>& outers,
          const std::vector<Shape>& statics,
          const std::vector<std::pair<std::string, Shape>>& sources,
          const std::vector<CutTuple>& cuts, const std::vector<std::vector<int64_t>>& gradients) {
  new (self) Bound{decode_plan(code, consts), {}, vectors, maps, outers, statics, {}, {}, gradients};
  for (const auto& [name, shape] : sources) self->sources.push_back({name, shape});
  for (const auto& [source, starts, dims] : cuts) {
    self->cuts.push_back({source, starts, dims, false, 0, {}, false});
  }
  see_cuts(*self);
  for (const auto& [behind, first, width] : streams) {
    const int64_t found = self->plan.streams[self->streams.size()].width;
    self->streams.push_back({static_cast<Behind>(behind), first, width});
    if (self->streams.back().behind == Behind::kTensor) self->widths[first] = found;
    if (self->streams.back().behind == Behind::kKept) {
      self->kept_width = std::max(self->kept_width, first + width);
    }
  }
}

const Bound& plan_of(nb::handle code, PyObject* direction) {
  return *nb::inst_ptr<Bound>(attribute(code, direction));
}

}  // namespace

Tensors Tensors::of(nb::handle sequence) {
  if (!PyTuple_Check(sequence.ptr()) && !PyList_Check(sequence.ptr())) {
    throw nb::type_error("tensors must come as a list or a tuple");
  }
  return {PySequence_Fast_ITEMS(sequence.ptr()),
          static_cast<size_t>(PySequence_Fast_GET_SIZE(sequence.ptr()))};
}

nb::object tuple_of(Results&& objects) {
  nb::object made = nb::steal(PyTuple_New(static_cast<Py_ssize_t>(objects.size())));
  if (!made.is_valid()) nb::raise_python_error();
  for (size_t i = 0; i < objects.size(); ++i) {
    PyTuple_SET_ITEM(made.ptr(), static_cast<Py_ssize_t>(i), objects[i].release().ptr());
  }
  return made;
}

size_t count_states(nb::handle code) { return plan_of(code, names().forward).plan.carry.size(); }

Results run_forward(nb::handle code, nb::handle course, nb::handle x, Tensors state,
                    Tensors sources, int64_t room) {
  CallBuilder builder(plan_of(code, names().forward), Course(course), x);
  builder.call.read_again = !attribute(code, names().backward).is_none();
  Results results;
  results.reserve(2 + state.size());
  results.push_back(builder.make(kY));
  results.push_back(builder.make_kept(room < 0 ? builder.call.row_steps : room));
  builder.carry(state, state, results);
  builder.read_statics(sources);
  builder.run();
  return results;
}

Results run_backward(nb::handle code, nb::handle course, nb::handle x, nb::handle y,
                     nb::handle kept, Tensors state, Tensors sources, nb::handle dy,
                     Tensors dfinal) {
  const Bound& bound = plan_of(code, names().backward);
  CallBuilder builder(bound, Course(course), x);
  builder.read(kY, y);
  builder.read(kDy, dy);
  builder.read_kept(kept);
  Results results;
  results.reserve(1 + state.size() + sources.size());
  results.push_back(bound.widths[kDx] < 0 ? nb::none() : builder.make(kDx));
  builder.carry(state, dfinal, results);
  builder.read_statics(sources);
  builder.make_gradients(results);
  builder.run();
  return results;
}

}  // namespace ostinato

void bind_loop(nb::module_& m) {
  using namespace ostinato;
  m.def("use_tensor_table", &use_tensor_table, nb::arg("capsule"),
        "Sets how tensors are read and made: torch.Tensor.__dlpack_c_exchange_api__.");
  m.def("use", &set_callables, nb::arg("callables"),
        "Sets what is called in Python, by name (native/callables.h).");
  nb::class_<Bound>(m, "Plan", "A step's plan, decoded, and where a call's tensors belong in it.")
      .def("__init__", &make, nb::arg("code"), nb::arg("consts"), nb::arg("streams"),
           nb::arg("vectors"), nb::arg("maps"), nb::arg("outers"), nb::arg("statics"),
           nb::arg("sources"), nb::arg("cuts"), nb::arg("gradients"))
      .def_prop_ro("units", [](const Bound& self) { return self.plan.units; },
                   "Columns of the runs of which all values are made, so that threads can divide units; "
                   "0: they can't.");
  m.def(
      "forward",
      [](nb::handle code, nb::handle course, nb::handle x, nb::handle state, nb::handle sources,
         int64_t room) {
        return tuple_of(run_forward(code, course, x, Tensors::of(state), Tensors::of(sources), room));
      },
      nb::arg("code"), nb::arg("course"), nb::arg("x"), nb::arg("state"), nb::arg("sources"),
      nb::arg("room") = -1,
      "Run forward, outside of autograd: (output, what is kept for backward or None, *final state), "
      "none of them an argument's memory. state, sources (of the statics): lists or tuples. room: rows to keep "
      "values of, the rest of which is left unwritten; -1: as many as there are. InputError: a "
      "source has another shape or dtype than when the cell was traced. ValueError: another tensor "
      "doesn't fit the plan. MemoryError: there is none for the results.");
  m.def(
      "backward",
      [](nb::handle code, nb::handle course, nb::handle x, nb::handle y, nb::handle kept,
         nb::handle state, nb::handle sources, nb::handle dy, nb::handle dfinal) {
        return tuple_of(run_backward(code, course, x, y, kept, Tensors::of(state),
                                     Tensors::of(sources), dy, Tensors::of(dfinal)));
      },
      nb::arg("code"), nb::arg("course"), nb::arg("x"), nb::arg("y"), nb::arg("kept").none(),
      nb::arg("state"), nb::arg("sources"), nb::arg("dy").none(), nb::arg("dfinal"),
      "The gradients of (x, *state, *sources), None for what `code` leaves out; dy and each of "
      "dfinal may be None, for zeros. Errors as forward's.");
  m.def(
      "set_testing",
      [](bool poison, const std::string& divide) {
        const char* const kinds[] = {"", "rows", "columns", "units", "relay"};  // in the order of Division
        const auto found = std::find(std::begin(kinds), std::end(kinds), divide);
        if (found == std::end(kinds)) throw std::invalid_argument("no such division: " + divide);
        poisoned = poison;
        division = static_cast<Division>(found - kinds);
      },
      nb::arg("poison") = false, nb::arg("divide") = "",
      "For tests: memory begins as NaN, and products ask memory for what comes however little it is; "
      "threads divide 'rows', 'columns' or 'units' or run a 'relay' however small the work ('': by its "
      "size).");
}
