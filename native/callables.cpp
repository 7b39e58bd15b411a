#include "callables.h"

namespace nb = nanobind;

namespace ostinato {
namespace {

Callables set;

PyObject* interned(const char* name) {
  PyObject* made = PyUnicode_InternFromString(name);
  if (made == nullptr) nb::raise_python_error();
  return made;
}

}  // namespace

void set_callables(nb::dict table) {
  const auto take = [&](const char* name) { return nb::object(table[name]).release(); };
  set = {take("tensor"), take("parameter"), take("is_grad_enabled"), take("get_num_threads"),
         take("is_any_autocast_enabled"), take("get_tracing_state"), take("are_transforms_active"),
         take("is_dead_wrapper"), take("forward_ad"), take("input_error"), take("code_for"), take("ragged_course"),
         take("apply"), take("apply_in_transforms"), take("second_derivative")};
}

const Callables& callables() { return set; }

const Names& names() {
  static const Names all = {
      interned("reset"),         interned("lengths"),
      interned("batch_sizes"),   interned("reverse"),
      interned("bptt"),          interned("batch_first"),
      interned("requires_grad"), interned("made"),
      interned("forward"),       interned("backward"),
      interned("call"),          interned("to_save"),
      interned("saved_tensors"), interned("materialize_grads"),
      interned("transpose"),     interned("is_neg"),
      interned("resolve_neg"),   interned("_current_level")};
  return all;
}

}  // namespace ostinato
