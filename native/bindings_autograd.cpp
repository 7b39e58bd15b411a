// A call as PyTorch's autograd sees it. In C++, since a call's overhead is mostly Python: beside a
// loop that has emptied the caches, each of Python's steps costs two to three times what it costs
// alone.
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <iterator>
#include <utility>
#include <vector>

#include "bindings_loop.h"
#include "callables.h"
#include "tensors.h"

namespace nb = nanobind;

namespace ostinato {
namespace {

nb::object call(nb::handle function) {
  nb::object result = nb::steal(PyObject_CallNoArgs(function.ptr()));
  if (!result.is_valid()) nb::raise_python_error();
  return result;
}

nb::object call(nb::handle function, nb::handle argument) {
  nb::object result = nb::steal(PyObject_CallOneArg(function.ptr(), argument.ptr()));
  if (!result.is_valid()) nb::raise_python_error();
  return result;
}

nb::object call_with(nb::handle function, nb::handle arguments) {
  nb::object result = nb::steal(PyObject_CallObject(function.ptr(), arguments.ptr()));
  if (!result.is_valid()) nb::raise_python_error();
  return result;
}

bool requires_grad(nb::handle tensor) {
  return is_true(attribute(tensor, names().requires_grad));
}

void set_attribute(nb::handle object, PyObject* name, nb::handle value) {
  if (PyObject_SetAttr(object.ptr(), name, value.ptr()) != 0) nb::raise_python_error();
}

void append(Results& to, Tensors tensors) {
  for (size_t i = 0; i < tensors.size(); ++i) to.push_back(nb::borrow(tensors[i]));
}

// (first, (the rest)).
nb::object with_rest(Results&& results) {
  nb::object first = std::move(results.front());
  results.erase(results.begin());
  return nb::make_tuple(std::move(first), tuple_of(std::move(results)));
}

// ---- the autograd function's forward and backward

nb::object forward_of_function(nb::handle ctx, nb::handle code, nb::handle course, nb::handle x,
                               nb::args tensors) {
  const Tensors all = Tensors::of(tensors);
  const size_t states = count_states(code);
  Results results = run_forward(code, course, x, all.first(states), all.after(states));
  set_attribute(ctx, names().call, nb::make_tuple(code, course));
  // What PyTorch's methods for these two do, which are functions of Python's. A gradient that doesn't
  // come is None, not a tensor of zeros that PyTorch makes.
  set_attribute(ctx, names().materialize_grads, nb::handle(Py_False));
  Results saved;
  saved.reserve(3 + all.size());
  saved.insert(saved.end(), {nb::borrow(x), results[0], results[1]});
  append(saved, all);
  set_attribute(ctx, names().to_save, tuple_of(std::move(saved)));
  results.erase(results.begin() + 1);
  return tuple_of(std::move(results));
}

nb::object backward_of_function(nb::handle ctx, nb::handle dy, nb::args dfinal) {
  const nb::object held = attribute(ctx, names().call);
  const nb::handle code = PyTuple_GET_ITEM(held.ptr(), 0);
  const nb::handle course = PyTuple_GET_ITEM(held.ptr(), 1);
  const nb::object saved = attribute(ctx, names().saved_tensors);
  const Tensors all = Tensors::of(saved), inputs = all.after(3);
  const size_t states = count_states(code);
  Results grads{nb::none(), nb::none()};  // code and course have none
  if (is_true(call(callables().is_grad_enabled))) {
    const nb::object found = call_with(callables().second_derivative,
                                       nb::make_tuple(ctx, code, course, saved, dy, dfinal));
    append(grads, Tensors::of(found));
    return tuple_of(std::move(grads));
  }
  Results found = run_backward(code, course, all[0], all[1], all[2], inputs.first(states),
                               inputs.after(states), dy, Tensors::of(dfinal));
  grads.reserve(2 + found.size());
  grads.insert(grads.end(), std::make_move_iterator(found.begin()),
               std::make_move_iterator(found.end()));
  return tuple_of(std::move(grads));
}

// ---- calls

// The code for the gradients that are wanted, flags of (x, *statics) or None. The program keeps it.
nb::object code_for(nb::handle program, nb::handle wanted) {
  const nb::object made = attribute(program, names().made);
  PyObject* found = PyDict_GetItemWithError(made.ptr(), wanted.ptr());
  if (found != nullptr) return nb::borrow(found);
  if (PyErr_Occurred()) nb::raise_python_error();
  return call_with(callables().code_for, nb::make_tuple(program, wanted));
}

// What apply() does for torch.func costs time, so only where it is used: inside a transform, or with
// a tensor that has got out of one.
bool in_transforms(Tensors tensors) {
  if (is_true(call(callables().are_transforms_active))) return true;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (is_true(call(callables().is_dead_wrapper, tensors[i]))) return true;
  }
  return false;
}

// `plain`: torch.func has nothing to do with this call, which has been looked at.
nb::object run(nb::handle program, nb::handle course, Tensors statics, nb::handle x, Tensors state,
               bool plain) {
  if (is_true(call(callables().is_grad_enabled))) {
    Results wanted;
    wanted.reserve(1 + statics.size());
    wanted.push_back(attribute(x, names().requires_grad));
    bool any = is_true(wanted[0]);
    for (size_t i = 0; i < statics.size(); ++i) {
      wanted.push_back(attribute(statics[i], names().requires_grad));
      any = any || is_true(wanted.back());
    }
    for (size_t i = 0; i < state.size() && !any; ++i) any = requires_grad(state[i]);
    if (any) {
      Results arguments;
      arguments.reserve(3 + state.size() + statics.size());
      arguments.push_back(code_for(program, tuple_of(std::move(wanted))));
      arguments.push_back(nb::borrow(course));
      arguments.push_back(nb::borrow(x));
      append(arguments, state);
      append(arguments, statics);
      const nb::object all = tuple_of(std::move(arguments));
      const bool special = !plain && in_transforms(Tensors::of(all).after(2));
      const nb::object made =
          call_with(special ? callables().apply_in_transforms : callables().apply, all);
      Results results;
      append(results, Tensors::of(made));
      return with_rest(std::move(results));
    }
  }
  const nb::object code = code_for(program, nb::none());
  Results results = run_forward(code, course, x, state, statics);
  results.erase(results.begin() + 1);  // nothing is kept
  return with_rest(std::move(results));
}

// A layer's calls in which nothing is out of the ordinary: on a batch of the layer's own dtype, from
// time's beginning to its end, by a cell whose statics are the layer's parameters themselves. It
// holds no tensor, so that it is no part of a cycle.
class Shortcut {
 public:
  Shortcut(nb::object program, nb::object course, nb::tuple parameter_names, int64_t width,
           std::vector<int64_t> state_widths, bool is_double)
      : program_(std::move(program)), course_(std::move(course)),
        names_(std::move(parameter_names)), width_(width), state_widths_(std::move(state_widths)),
        is_double_(is_double) {}

  // The output and the state as the layer's caller sees them; None, and nothing has been done, where
  // something is out of the ordinary.
  nb::object take(nb::dict now, nb::list parameters, nb::list statics, nb::handle x, nb::handle hx,
                  bool batch_first) const {
    if (!hold(now, parameters) || !ordinary_surroundings()) return nb::none();
    TensorView v;
    if (!is_plain(x, v) || v.ndim != 3 || v.elements() == 0 || v.last() != width_) {
      return nb::none();
    }
    Results state;
    if (!enter(hx, v.shape[batch_first ? 0 : 1], state)) return nb::none();
    const nb::object given = batch_first ? transposed(x) : nb::borrow(x);
    const nb::object entering = tuple_of(std::move(state));
    const nb::object made =
        run(program_, course_, Tensors::of(statics), given, Tensors::of(entering), true);
    const nb::object y = nb::borrow(PyTuple_GET_ITEM(made.ptr(), 0));
    const nb::handle final = PyTuple_GET_ITEM(made.ptr(), 1);
    return nb::make_tuple(batch_first ? transposed(y) : y,
                          state_widths_.size() == 1 ? nb::handle(PyTuple_GET_ITEM(final.ptr(), 0))
                                                    : final);
  }

 private:
  // Whether the layer's parameters, by name, are still these, of its dtype and in memory.
  bool hold(nb::handle now, nb::handle parameters) const {
    const Tensors then = Tensors::of(parameters);
    for (size_t i = 0; i < then.size(); ++i) {
      PyObject* name = PyTuple_GET_ITEM(names_.ptr(), static_cast<Py_ssize_t>(i));
      PyObject* found = PyDict_GetItemWithError(now.ptr(), name);
      if (found == nullptr && PyErr_Occurred()) nb::raise_python_error();
      TensorView v;
      if (!then[i].is(found) || !lies_here(then[i], v)) return false;
    }
    return true;
  }

  static bool ordinary_surroundings() {
    return !is_true(call(callables().is_any_autocast_enabled)) &&
           call(callables().get_tracing_state).is_none() &&
           !is_true(call(callables().are_transforms_active));
  }

  // Whether a tensor is of the layer's dtype and in memory, which one of torch.func's never is, nor
  // what is left of one after its transform; `v` is its view then.
  bool lies_here(nb::handle tensor, TensorView& v) const {
    try {
      v = view_tensor(tensor);
    } catch (const nb::python_error&) {
      return false;  // sparse, say, or without memory
    }
    return v.on_cpu && v.dtype.code == static_cast<uint8_t>(nb::dlpack::dtype_code::Float) &&
           v.dtype.bits == (is_double_ ? 64 : 32);
  }

  // Likewise, and of no class of its own.
  bool is_plain(nb::handle tensor, TensorView& v) const {
    const nb::handle type = tensor.type();
    return (type.is(callables().tensor) || type.is(callables().parameter)) && lies_here(tensor, v);
  }

  bool enter(nb::handle hx, int64_t batch, Results& state) const {
    const size_t count = state_widths_.size();
    if (hx.is_none()) {
      for (size_t i = 0; i < count; ++i) {
        // States aren't written into, so those of one width may be the same zeros.
        if (i > 0 && state_widths_[i] == state_widths_[0]) {
          state.push_back(state[0]);
          continue;
        }
        const int64_t shape[] = {1, batch, state_widths_[i]};
        NewTensor made = new_tensor(shape, {}, is_double_);
        const int64_t size = is_double_ ? sizeof(double) : sizeof(float);
        std::memset(made.data, 0, static_cast<size_t>(batch * state_widths_[i] * size));
        state.push_back(std::move(made.object));
      }
      return true;
    }
    if (count == 1) {
      state.push_back(nb::borrow(hx));
    } else {
      if (!PyTuple_CheckExact(hx.ptr()) && !PyList_CheckExact(hx.ptr())) return false;
      append(state, Tensors::of(hx));
      if (state.size() != count) return false;
    }
    for (size_t i = 0; i < count; ++i) {
      TensorView v;
      if (!is_plain(state[i], v) || v.ndim != 3 || v.shape[0] != 1 || v.shape[1] != batch ||
          v.shape[2] != state_widths_[i]) {
        return false;
      }
    }
    return true;
  }

  static nb::object transposed(nb::handle tensor) {
    return attribute(tensor, names().transpose)(0, 1);
  }

  nb::object program_, course_;
  nb::tuple names_;
  int64_t width_;
  std::vector<int64_t> state_widths_;
  bool is_double_;
};

}  // namespace
}  // namespace ostinato

void bind_autograd(nb::module_& m) {
  using namespace ostinato;
  m.def("forward_of_function", &forward_of_function, nb::arg("ctx"), nb::arg("code"),
        nb::arg("course"), nb::arg("x"), nb::arg("tensors"),
        "forward() of the autograd function; tensors: states, then statics.");
  m.def("backward_of_function", &backward_of_function, nb::arg("ctx"), nb::arg("dy").none(),
        nb::arg("dfinal"), "backward() of the autograd function.");
  // As a method of the node that autograd makes: a function of nanobind's alone binds no self.
  m.attr("apply_of_node") = nb::steal(PyInstanceMethod_New(m.attr("backward_of_function").ptr()));
  m.def(
      "run",
      [](nb::handle program, nb::handle course, nb::handle statics, nb::handle x,
         nb::handle state) {
        return run(program, course, Tensors::of(statics), x, Tensors::of(state), false);
      },
      nb::arg("program"), nb::arg("course"), nb::arg("statics"), nb::arg("x"), nb::arg("state"),
      "Run a program: (output, final state), differentiable with respect to x, state and statics. "
      "InputError: a static has another shape or dtype than when the cell was traced.");
  nb::class_<Shortcut>(m, "Shortcut",
                       "Takes the calls of a layer in which nothing is out of the ordinary.")
      .def(nb::init<nb::object, nb::object, nb::tuple, int64_t, std::vector<int64_t>, bool>(),
           nb::arg("program"), nb::arg("course"), nb::arg("parameter_names"), nb::arg("width"),
           nb::arg("state_widths"), nb::arg("is_double"))
      .def("take", &Shortcut::take, nb::arg("now"), nb::arg("parameters"), nb::arg("statics"),
           nb::arg("x").none(), nb::arg("hx").none(), nb::arg("batch_first"),
           "(output, state) as a layer gives them, or None where something is out of the ordinary: "
           "the parameters that the layer has `now`, by name, aren't `parameters`; a tensor of a "
           "class of its own, or that doesn't fit; autocast, tracing, or one of torch.func's "
           "transforms.");
}
