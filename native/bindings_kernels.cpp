// Hooks for the tests of the kernels on rows: pointwise, over features, moves, sum over rows.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"
#include "ops.h"

namespace nb = nanobind;

namespace ostinato {
namespace {

template <class T>
using ConstMatrix = nb::ndarray<const T, nb::ndim<2>, nb::device::cpu>;
template <class T>
using Matrix = nb::ndarray<T, nb::ndim<2>, nb::device::cpu>;
template <class T>
using Vector = nb::ndarray<T, nb::ndim<1>, nb::device::cpu>;
using Indices = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

template <class M>
int64_t rows_of(const M& m) {
  return static_cast<int64_t>(m.shape(0));
}
template <class M>
int64_t cols_of(const M& m) {
  return static_cast<int64_t>(m.shape(1));
}

template <class T>
In<T> operand(const ConstMatrix<T>& a) {
  if (a.size() == 0) return {a.data(), 0, 1};  // its strides say nothing
  const int64_t step = cols_of(a) == 1 ? 1 : a.stride(1);
  require(step == 0 || step == 1, "an operand's columns must be adjacent or all the same");
  return {a.data(), rows_of(a) == 1 ? 0 : a.stride(0), step};
}

template <class T>
int64_t row_stride(const Matrix<T>& d) {
  require(d.size() == 0 || cols_of(d) == 1 || d.stride(1) == 1,
          "the destination's columns must be adjacent");
  return d.stride(0);
}

template <class T>
void pointwise(const std::string& op, const std::string& isa, Matrix<T> d,
               const std::vector<ConstMatrix<T>>& operands) {
  const Op which = op_from_name(op);
  require(static_cast<int>(operands.size()) == op_info(which).arity, "wrong number of operands");
  std::vector<In<T>> in;
  for (const auto& a : operands) {
    require(rows_of(a) == rows_of(d) && cols_of(a) == cols_of(d),
            "each operand has the destination's shape (numpy.broadcast_to gives it)");
    in.push_back(operand<T>(a));
  }
  const auto kernel = kernels_of<T>(isa.c_str()).pointwise[static_cast<int>(which)];
  kernel(d.data(), row_stride<T>(d), in.data(), rows_of(d), cols_of(d));
}

template <class T>
void group(const std::string& op, const std::string& isa, Matrix<T> d, ConstMatrix<T> a,
           int64_t groups, int64_t m) {
  const Kernels<T>& k = kernels_of<T>(isa.c_str());
  struct Entry {
    const char* name;
    typename Kernels<T>::GroupFn kernel;
    bool wide_in, wide_out;
  };
  const Entry entries[] = {{"sum", k.sum, true, false},
                           {"amax", k.amax, true, false},
                           {"cumsum", k.cumsum, true, true},
                           {"cumsum_reverse", k.cumsum_reverse, true, true},
                           {"expand", k.expand, false, true}};
  for (const Entry& e : entries) {
    if (op != e.name) continue;
    require(rows_of(a) == rows_of(d) && cols_of(a) == (e.wide_in ? groups * m : groups) &&
                cols_of(d) == (e.wide_out ? groups * m : groups),
            "group: shapes don't fit groups and m");
    e.kernel(d.data(), row_stride<T>(d), operand<T>(a), rows_of(d), groups, m);
    return;
  }
  throw std::invalid_argument("unknown operation over features '" + op + "'");
}

void require_inside(const Indices& index, int64_t bound) {
  for (size_t i = 0; i < index.shape(0); ++i) {
    require(0 <= index.data()[i] && index.data()[i] < bound, "an index is out of range");
  }
}

template <class T>
void take(const std::string& isa, Matrix<T> d, ConstMatrix<T> a, Indices index) {
  require(rows_of(a) == rows_of(d) && cols_of(d) == rows_of(index), "take: shapes don't fit");
  require_inside(index, cols_of(a));
  kernels_of<T>(isa.c_str())
      .take(d.data(), row_stride<T>(d), operand<T>(a), rows_of(d), index.data(), rows_of(index));
}

template <class T>
void put(const std::string& isa, Matrix<T> d, ConstMatrix<T> a, Indices index) {
  require(rows_of(a) == rows_of(d) && cols_of(a) == rows_of(index), "put: shapes don't fit");
  require_inside(index, cols_of(d));
  kernels_of<T>(isa.c_str())
      .put(d.data(), row_stride<T>(d), operand<T>(a), rows_of(d), index.data(), rows_of(index),
           cols_of(d));
}

// Operands by the operation's definition in kernels.h; normalise_grad's d has m features a group.
template <class T>
void normalise(const std::string& op, const std::string& isa, Matrix<T> d,
               const std::vector<ConstMatrix<T>>& operands, int64_t groups, T eps) {
  const Kernels<T>& k = kernels_of<T>(isa.c_str());
  require(!operands.empty() && groups > 0 && cols_of(operands[0]) % groups == 0,
          "normalise: the features don't divide into groups");
  const int64_t rows = rows_of(d), m = cols_of(operands[0]) / groups;
  std::vector<In<T>> in;
  for (const auto& a : operands) {
    require(rows_of(a) == rows, "normalise: each operand has the destination's rows");
    in.push_back(operand<T>(a));
  }
  if (op == "moments" && in.size() == 1) {
    k.moments(d.data(), row_stride<T>(d), in[0], eps, rows, groups, m);
  } else if (op == "normalise" && in.size() == 2) {
    k.normalise(d.data(), row_stride<T>(d), in[0], in[1], rows, groups, m);
  } else if (op == "normalise_grad" && in.size() == 4) {
    k.normalise_grad(d.data(), row_stride<T>(d), in.data(), rows, groups, m);
  } else if (op == "normalise_grad_raw" && in.size() == 4) {
    k.normalise_grad_raw(d.data(), row_stride<T>(d), in.data(), rows, groups, m);
  } else if (op == "normalise_mul_add" && in.size() == 4) {
    k.normalise_mul_add(d.data(), row_stride<T>(d), in.data(), rows, groups, m);
  } else {
    throw std::invalid_argument("unknown operation '" + op + "' or wrong number of operands");
  }
}

template <class T>
void sum_rows(const std::string& isa, Vector<T> acc, ConstMatrix<T> a,
              const std::optional<ConstMatrix<T>>& b,
              const std::optional<ConstMatrix<T>>& moments) {
  require(rows_of(acc) == cols_of(a) && (rows_of(acc) <= 1 || acc.stride(0) == 1),
          "sum_rows: acc is (cols,), contiguous");
  const Kernels<T>& k = kernels_of<T>(isa.c_str());
  if (!b) {
    k.sum_rows(acc.data(), operand<T>(a), rows_of(a), cols_of(a));
    return;
  }
  require(rows_of(*b) == rows_of(a) && cols_of(*b) == cols_of(a), "sum_rows: a and b differ");
  if (!moments) {
    k.sum_rows_mul(acc.data(), operand<T>(a), operand<T>(*b), rows_of(a), cols_of(a));
    return;
  }
  const int64_t groups = cols_of(*moments) / 2;
  require(rows_of(*moments) == rows_of(a) && groups > 0 && cols_of(a) % groups == 0,
          "sum_rows: moments are (rows, 2 * groups)");
  const In<T> in[] = {operand<T>(a), operand<T>(*b), operand<T>(*moments)};
  k.sum_rows_mul_normalise(acc.data(), in, rows_of(a), groups, cols_of(a) / groups);
}

// name, arity, ULP for float, ULP for double; negative: no bound in ULP.
nb::list op_table() {
  nb::list table;
  for (int i = 0; i < static_cast<int>(Op::kCount); ++i) {
    const OpInfo& info = op_info(static_cast<Op>(i));
    table.append(nb::make_tuple(info.name, info.arity, info.ulp_f32, info.ulp_f64));
  }
  return table;
}

template <class T>
void bind(nb::module_& m) {
  m.def("pointwise", &pointwise<T>, nb::arg("op"), nb::arg("isa"), nb::arg("d").noconvert(),
        nb::arg("operands").noconvert(), "For tests: d[...] = op(*operands), all of one shape.");
  m.def("group", &group<T>, nb::arg("op"), nb::arg("isa"), nb::arg("d").noconvert(),
        nb::arg("a").noconvert(), nb::arg("groups"), nb::arg("m"),
        "For tests: sum, amax, cumsum, cumsum_reverse or expand over features.");
  m.def("take", &take<T>, nb::arg("isa"), nb::arg("d").noconvert(), nb::arg("a").noconvert(),
        nb::arg("index"), "For tests: d[:, j] = a[:, index[j]].");
  m.def("put", &put<T>, nb::arg("isa"), nb::arg("d").noconvert(), nb::arg("a").noconvert(),
        nb::arg("index"), "For tests: d = 0; d[:, index[j]] += a[:, j].");
  m.def("sum_rows", &sum_rows<T>, nb::arg("isa"), nb::arg("acc").noconvert(),
        nb::arg("a").noconvert(), nb::arg("b").noconvert().none() = nb::none(),
        nb::arg("moments").noconvert().none() = nb::none(),
        "For tests: acc += a.sum(0), (a * b).sum(0), or (a * normalise(b)).sum(0).");
  m.def("normalise", &normalise<T>, nb::arg("op"), nb::arg("isa"), nb::arg("d").noconvert(),
        nb::arg("operands").noconvert(), nb::arg("groups"), nb::arg("eps") = T(0),
        "For tests: an operation by mean and deviation, of `groups` runs a row.");
}

}  // namespace
}  // namespace ostinato

void bind_kernels(nb::module_& m) {
  using namespace ostinato;
  bind<float>(m);
  bind<double>(m);
  m.def("op_table", &op_table,
        "(name, arity, ULP bound float, ULP bound double) of each pointwise operation.");
}
