// A call as PyTorch's autograd sees it. In C++, since a call's overhead is mostly Python: beside a
// loop that has emptied the caches, each of Python's steps costs two to three times what it costs
// alone.
#include "bindings_autograd.h"

#include <nanobind/nanobind.h>

#include <iterator>
#include <utility>

#include "callables.h"

namespace nb = nanobind;

namespace ostinato {
namespace {

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
    const nb::object found =
        call(callables().second_derivative, ctx, code, course, saved, dy, dfinal);
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

// The code for the gradients that are wanted, flags of (x, *sources) or None. The program keeps it.
nb::object code_for(nb::handle program, nb::handle wanted) {
  const nb::object made = attribute(program, names().made);
  PyObject* found = PyDict_GetItemWithError(made.ptr(), wanted.ptr());
  if (found != nullptr) return nb::borrow(found);
  if (PyErr_Occurred()) nb::raise_python_error();
  return call(callables().code_for, program, wanted);
}

// What apply() does for torch.func costs time, so only with a tensor that has got out of one of its
// transforms; inside of them layers run eagerly.
bool left_transform(Tensors tensors) {
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (is_true(call(callables().is_dead_wrapper, tensors[i]))) return true;
  }
  return false;
}

}  // namespace

nb::object run(nb::handle program, nb::handle course, Tensors sources, nb::handle x, Tensors state,
               bool plain) {
  if (is_true(call(callables().is_grad_enabled))) {
    Results wanted;
    wanted.reserve(1 + sources.size());
    wanted.push_back(attribute(x, names().requires_grad));
    bool any = is_true(wanted[0]);
    for (size_t i = 0; i < sources.size(); ++i) {
      wanted.push_back(attribute(sources[i], names().requires_grad));
      any = any || is_true(wanted.back());
    }
    for (size_t i = 0; i < state.size() && !any; ++i) any = requires_grad(state[i]);
    if (any) {
      Results arguments;
      arguments.reserve(3 + state.size() + sources.size());
      arguments.push_back(code_for(program, tuple_of(std::move(wanted))));
      arguments.push_back(nb::borrow(course));
      arguments.push_back(nb::borrow(x));
      append(arguments, state);
      append(arguments, sources);
      const nb::object all = tuple_of(std::move(arguments));
      const bool special = !plain && left_transform(Tensors::of(all).after(2));
      const nb::object made =
          call_with(special ? callables().apply_in_transforms : callables().apply, all);
      Results results;
      append(results, Tensors::of(made));
      return with_rest(std::move(results));
    }
  }
  const nb::object code = code_for(program, nb::none());
  Results results = run_forward(code, course, x, state, sources);
  results.erase(results.begin() + 1);  // nothing is kept
  return with_rest(std::move(results));
}

}  // namespace ostinato

void bind_autograd(nb::module_& m) {
  using namespace ostinato;
  m.def("forward_of_function", &forward_of_function, nb::arg("ctx"), nb::arg("code"),
        nb::arg("course"), nb::arg("x"), nb::arg("tensors"),
        "forward() of the autograd function; tensors: states, then sources.");
  m.def("backward_of_function", &backward_of_function, nb::arg("ctx"), nb::arg("dy").none(),
        nb::arg("dfinal"), "backward() of the autograd function.");
  // As a method of the node that autograd makes: a function of nanobind's alone binds no self.
  m.attr("apply_of_node") = nb::steal(PyInstanceMethod_New(m.attr("backward_of_function").ptr()));
  m.def(
      "run",
      [](nb::handle program, nb::handle course, nb::handle sources, nb::handle x,
         nb::handle state) {
        return run(program, course, Tensors::of(sources), x, Tensors::of(state), false);
      },
      nb::arg("program"), nb::arg("course"), nb::arg("sources"), nb::arg("x"), nb::arg("state"),
      "Run a program: (output, final state), differentiable with respect to x, state and sources. "
      "InputError: a static has another shape or dtype than when the cell was traced.");
}
