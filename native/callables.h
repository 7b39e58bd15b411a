// What the bindings call and look up in Python: functions of PyTorch's and of ostinato's own, handed
// over once by ostinato/engine/native.py, and names of attributes.
#pragma once

#include <nanobind/nanobind.h>

namespace ostinato {

// Never released, since a thread may be in a call while the interpreter ends.
struct Callables {
  // PyTorch's
  nanobind::handle tensor;  // the type
  nanobind::handle parameter;
  nanobind::handle is_grad_enabled, get_num_threads, is_any_autocast_enabled, get_tracing_state;
  nanobind::handle are_transforms_active, is_dead_wrapper;  // torch.func's
  nanobind::handle forward_ad;  // the module, whose _current_level is -1 outside of it
  // ours
  nanobind::handle input_error;  // the type
  nanobind::handle code_for;  // (program, wanted) -> code
  nanobind::handle ragged_course;  // (course, lengths, reset, batch_first) -> course
  nanobind::handle apply, apply_in_transforms;  // of the autograd function
  nanobind::handle second_derivative;
};

// Takes a dict by the names above; raises KeyError where one is missing.
void set_callables(nanobind::dict table);

const Callables& callables();

// Attribute names as Python's own strings, so that a look-up makes none.
struct Names {
  PyObject *reset, *lengths, *batch_sizes, *reverse, *bptt, *batch_first, *requires_grad, *made,
      *forward, *backward, *call, *to_save, *saved_tensors, *materialize_grads,
      *transpose, *is_neg, *resolve_neg, *current_level;
};

const Names& names();

inline nanobind::object attribute(nanobind::handle object, PyObject* name) {
  nanobind::object found = nanobind::steal(PyObject_GetAttr(object.ptr(), name));
  if (!found.is_valid()) nanobind::raise_python_error();
  return found;
}

template <class... Handles>
nanobind::object call(nanobind::handle function, const Handles&... arguments) {
  PyObject* all[] = {nullptr, arguments.ptr()...};  // Python may write into the first
  nanobind::object result = nanobind::steal(
      PyObject_Vectorcall(function.ptr(), all + 1,
                          sizeof...(arguments) | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr));
  if (!result.is_valid()) nanobind::raise_python_error();
  return result;
}

inline bool is_true(nanobind::handle object) { return object.ptr() == Py_True; }

}  // namespace ostinato
