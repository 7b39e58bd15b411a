// A layer's calls in which nothing is out of the ordinary, without Python.
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "bindings_autograd.h"
#include "callables.h"
#include "tensors.h"

namespace nb = nanobind;

namespace ostinato {
namespace {

// Whether a dict has just these items, the same objects in the same order: key, value, key, value...
bool has_items(PyObject* dict, PyObject* items) {
  if (2 * PyDict_GET_SIZE(dict) != PyTuple_GET_SIZE(items)) return false;
  Py_ssize_t at = 0, i = 0;
  PyObject *key, *value;
  while (PyDict_Next(dict, &at, &key, &value)) {
    if (key != PyTuple_GET_ITEM(items, i) || value != PyTuple_GET_ITEM(items, i + 1)) return false;
    i += 2;
  }
  return true;
}

// Whether `value` is what a mapping has for a name.
bool has_item(nb::handle mapping, nb::handle name, nb::handle value) {
  if (PyDict_CheckExact(mapping.ptr())) {
    PyObject* found = PyDict_GetItemWithError(mapping.ptr(), name.ptr());
    if (found == nullptr && PyErr_Occurred()) nb::raise_python_error();
    return value.is(found);
  }
  const nb::object found = nb::steal(PyObject_GetItem(mapping.ptr(), name.ptr()));
  if (!found.is_valid()) PyErr_Clear();
  return found.is(value);
}

bool has_dict(nb::handle object, nb::handle dict) {
  const nb::object found = nb::steal(PyObject_GenericGetDict(object.ptr(), nullptr));
  if (!found.is_valid()) nb::raise_python_error();
  return found.is(dict);
}

// Whether all is as it was when `parts` was written down (ostinato/engine/parts.py), for this layer
// and not for one that a copy of its attributes has been made into.
bool unchanged(nb::handle layer, nb::handle parts) {
  const Tensors all = Tensors::of(parts);  // no tensors, but handles like these
  if (!has_dict(layer, PyTuple_GET_ITEM(all[0].ptr(), 0))) return false;
  for (size_t i = 0; i < all.size(); ++i) {
    PyObject* const* part = &PyTuple_GET_ITEM(all[i].ptr(), 0);
    switch (PyTuple_GET_SIZE(all[i].ptr())) {
      case 2:
        if (!has_items(part[0], part[1])) return false;
        break;
      case 3:
        if (!has_item(part[0], part[1], part[2])) return false;
        break;
      default:
        if (nb::handle(part[0]).type().ptr() != part[1] || !has_dict(part[0], part[2]) ||
            !has_items(part[2], part[3])) {
          return false;
        }
    }
  }
  return true;
}

bool ordinary_surroundings() {
  return !is_true(call(callables().is_any_autocast_enabled)) &&
         call(callables().get_tracing_state).is_none() &&
         !is_true(call(callables().are_transforms_active)) &&
         nb::cast<int>(attribute(callables().forward_ad, names().current_level)) < 0;
}

// A tensor's view; false where it isn't in memory, which one of torch.func's never is, nor what is
// left of one after its transform.
bool lies_here(nb::handle tensor, TensorView& v) {
  try {
    v = view_tensor(tensor);
  } catch (const nb::python_error&) {
    return false;  // sparse, say, or without memory
  }
  return v.on_cpu;
}

// What a tensor must still be: one and the same object may get another dtype or shape.
struct Form {
  nb::dlpack::dtype dtype;
  Shape shape;

  bool is_of(const TensorView& v) const {
    return v.dtype.code == dtype.code && v.dtype.bits == dtype.bits &&
           std::equal(shape.begin(), shape.end(), v.shape, v.shape + v.ndim);
  }
};

// Takes the calls on a batch in the layer's own dtype, of a cell that hasn't changed. It holds no
// tensor, so that it is no part of a cycle.
class Shortcut {
 public:
  Shortcut(nb::object program, nb::object course, nb::list tensors, int64_t width,
           std::vector<int64_t> state_widths, bool is_double, bool leading, bool bare)
      : program_(std::move(program)), course_(std::move(course)), width_(width),
        state_widths_(std::move(state_widths)), is_double_(is_double), leading_(leading),
        bare_(bare) {
    for (nb::handle tensor : tensors) {
      const TensorView v = view_tensor(tensor);
      forms_.push_back({v.dtype, Shape(v.shape, v.shape + v.ndim)});
    }
  }

  // The output and the state as the layer's caller sees them; None, and nothing has been done, where
  // something is out of the ordinary.
  nb::object take(nb::handle layer, nb::list parts, nb::list tensors, nb::handle sources,
                  nb::handle x, nb::handle hx, bool batch_first, nb::handle lengths,
                  nb::handle reset) {
    stale_ = !unchanged(layer, parts) || !hold(tensors);
    if (stale_ || !ordinary_surroundings()) return nb::none();
    TensorView v;
    if (!is_plain(x, v) || v.ndim != 3 || v.elements() == 0 || v.last() != width_) {
      return nb::none();
    }
    Results state;
    const int64_t batch = v.shape[batch_first ? 0 : 1];
    if (!enter(hx, batch, state)) return nb::none();
    nb::object course = course_;
    if (!lengths.is_none() || !reset.is_none()) {
      if (!are_lengths(lengths, v.shape[batch_first ? 1 : 0], batch) ||
          !is_mask(reset, Extents(v.shape, 2))) {
        return nb::none();
      }
      course = call(callables().ragged_course, course_, lengths, reset,
                    nb::handle(batch_first ? Py_True : Py_False));
    }
    const nb::object given = batch_first ? transposed(x) : nb::borrow(x);
    const nb::object entering = tuple_of(std::move(state));
    const nb::object ready = PyList_CheckExact(sources.ptr()) ? nb::borrow(sources) : call(sources);
    const nb::object made =
        run(program_, course, Tensors::of(ready), given, Tensors::of(entering), true);
    ++taken_;
    const nb::object y = nb::borrow(PyTuple_GET_ITEM(made.ptr(), 0));
    const nb::handle final = PyTuple_GET_ITEM(made.ptr(), 1);
    return nb::make_tuple(batch_first ? transposed(y) : y,
                          bare_ ? nb::handle(PyTuple_GET_ITEM(final.ptr(), 0)) : final);
  }

  int64_t taken() const { return taken_; }
  bool stale() const { return stale_; }

 private:
  bool hold(nb::handle tensors) const {
    const Tensors all = Tensors::of(tensors);
    for (size_t i = 0; i < all.size(); ++i) {
      TensorView v;
      if (!lies_here(all[i], v) || !forms_[i].is_of(v)) return false;
    }
    return true;
  }

  // In memory, of the layer's dtype and of no class of its own.
  bool is_plain(nb::handle tensor, TensorView& v) const {
    return is_plain(tensor, v, nb::dlpack::dtype_code::Float, is_double_ ? 64 : 32);
  }

  static bool is_plain(nb::handle tensor, TensorView& v, nb::dlpack::dtype_code code, int bits) {
    const nb::handle type = tensor.type();
    return (type.is(callables().tensor) || type.is(callables().parameter)) &&
           lies_here(tensor, v) && v.dtype.code == static_cast<uint8_t>(code) &&
           v.dtype.bits == bits;
  }

  // None, or for each row one of 0 to `steps`.
  static bool are_lengths(nb::handle lengths, int64_t steps, int64_t batch) {
    if (lengths.is_none()) return true;
    TensorView v;
    if (!is_plain(lengths, v, nb::dlpack::dtype_code::Int, 64) || v.ndim != 1 ||
        v.shape[0] != batch) {
      return false;
    }
    const auto* values = static_cast<const int64_t*>(v.data);
    for (int64_t i = 0; i < batch; ++i) {
      const int64_t length = values[i * v.strides[0]];
      if (length < 0 || length > steps) return false;
    }
    return true;
  }

  static bool is_mask(nb::handle reset, Extents shape) {
    if (reset.is_none()) return true;
    TensorView v;
    return is_plain(reset, v, nb::dlpack::dtype_code::Bool, 8) && v.ndim == 2 &&
           std::equal(shape.begin(), shape.end(), v.shape);
  }

  bool enter(nb::handle hx, int64_t batch, Results& state) const {
    const size_t count = state_widths_.size();
    // (1, B, n) as torch's layers have it, or (B, n).
    int64_t shape[] = {1, batch, 0};
    const Extents extents = Extents(shape).last(leading_ ? 3 : 2);
    if (hx.is_none()) {
      for (size_t i = 0; i < count; ++i) {
        // States aren't written into, so those of one width may be the same zeros.
        if (i > 0 && state_widths_[i] == state_widths_[0]) {
          state.push_back(state[0]);
          continue;
        }
        shape[2] = state_widths_[i];
        NewTensor made = new_tensor(extents, {}, is_double_);
        const int64_t size = is_double_ ? sizeof(double) : sizeof(float);
        std::memset(made.data, 0, static_cast<size_t>(batch * state_widths_[i] * size));
        state.push_back(std::move(made.object));
      }
      return true;
    }
    if (bare_) {
      state.push_back(nb::borrow(hx));
    } else {
      if (!PyTuple_CheckExact(hx.ptr()) && !PyList_CheckExact(hx.ptr())) return false;
      append(state, Tensors::of(hx));
      if (state.size() != count) return false;
    }
    for (size_t i = 0; i < count; ++i) {
      TensorView v;
      shape[2] = state_widths_[i];
      if (!is_plain(state[i], v) ||
          !std::equal(extents.begin(), extents.end(), v.shape, v.shape + v.ndim)) {
        return false;
      }
    }
    return true;
  }

  static nb::object transposed(nb::handle tensor) {
    return attribute(tensor, names().transpose)(0, 1);
  }

  nb::object program_, course_;
  std::vector<Form> forms_;
  int64_t width_;
  std::vector<int64_t> state_widths_;
  bool is_double_, leading_, bare_;
  int64_t taken_ = 0;
  bool stale_ = false;
};

}  // namespace
}  // namespace ostinato

void bind_shortcut(nb::module_& m) {
  using ostinato::Shortcut;
  nb::class_<Shortcut>(m, "Shortcut",
                       "Takes the calls of a layer in which nothing is out of the ordinary.")
      .def(nb::init<nb::object, nb::object, nb::list, int64_t, std::vector<int64_t>, bool, bool,
                    bool>(),
           nb::arg("program"), nb::arg("course"), nb::arg("tensors"), nb::arg("width"),
           nb::arg("state_widths"), nb::arg("is_double"), nb::arg("leading"), nb::arg("bare"))
      .def("take", &Shortcut::take, nb::arg("layer"), nb::arg("parts"), nb::arg("tensors"),
           nb::arg("sources"), nb::arg("x").none(), nb::arg("hx").none(), nb::arg("batch_first"),
           nb::arg("lengths").none() = nb::none(), nb::arg("reset").none() = nb::none(),
           "(output, state) as a layer gives them, or None where something is out of the ordinary: "
           "one of the layer's `parts` has changed (ostinato/engine/parts.py), or the dtype, shape "
           "or place of one of its `tensors`; x, hx, lengths or reset is of a class of its own, or "
           "doesn't fit; "
           "autocast, tracing, or one of torch.func's transforms. sources: a list, or what gives "
           "it, called where the call is taken.")
      .def_prop_ro("taken", &Shortcut::taken, "Calls that were taken.")
      .def_prop_ro("stale", &Shortcut::stale,
                   "Whether the last call found that a part or a tensor has changed.");
}
