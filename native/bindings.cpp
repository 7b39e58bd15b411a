// The module ostinato._native: instruction sets, hooks for the tests of the products and of the
// pool, and what the other bindings_*.cpp add. It needs neither PyTorch nor NumPy to be imported.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <atomic>
#include <cstdlib>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "cache.h"
#include "kernels.h"
#include "openmp.h"
#include "pool.h"

namespace nb = nanobind;

void bind_autograd(nb::module_& m);
void bind_kernels(nb::module_& m);
void bind_loop(nb::module_& m);
void bind_memory(nb::module_& m);
void bind_shortcut(nb::module_& m);

namespace ostinato {
namespace {

std::vector<std::string> isa_names() {
  int count;
  const char* const* names = available_isas(&count);
  return {names, names + count};
}

template <class T>
using Matrix = nb::ndarray<const T, nb::ndim<2>, nb::device::cpu>;
template <class T>
using MutableMatrix = nb::ndarray<T, nb::ndim<2>, nb::device::cpu>;
template <class T>
using Vector = nb::ndarray<const T, nb::ndim<1>, nb::device::cpu>;

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

// Pointers to the rows of a matrix whose columns are adjacent.
template <class M>
auto row_pointers(const M& m) {
  require(m.size() == 0 || m.shape(1) == 1 || m.stride(1) == 1,
          "a matrix's columns must be adjacent");
  std::vector<decltype(m.data())> rows(m.shape(0));
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = m.data() + i * m.stride(0);
  return rows;
}

// Memory for T, aligned to a cache line and full of NaN, so that a read of what was never written
// shows.
template <class T>
struct Scratch {
  std::vector<T> memory;
  T* data;
  explicit Scratch(int64_t size)
      : memory(size + 64 / sizeof(T), std::numeric_limits<T>::quiet_NaN()) {
    const auto address = reinterpret_cast<uintptr_t>(memory.data());
    data = reinterpret_cast<T*>((address + 63) / 64 * 64);
  }
};

template <class T>
void gemm(const std::string& isa, Matrix<T> a, Matrix<T> w, std::optional<Vector<T>> bias,
          MutableMatrix<T> out, bool accumulate, int64_t n_begin, int64_t n_end,
          bool descending, bool asks, int64_t k_cut, int64_t n_cut, bool past_cache, bool once) {
  const Kernels<T>& table = kernels_of<T>(isa.c_str());
  const int64_t rows = a.shape(0), k = a.shape(1), n = w.shape(1);
  require(static_cast<int64_t>(w.shape(0)) == k, "gemm: a is (rows, k) and w is (k, n)");
  require(static_cast<int64_t>(out.shape(0)) == rows && static_cast<int64_t>(out.shape(1)) == n,
          "gemm: out is (rows, n)");
  require(0 <= n_begin && n_begin <= n_end && n_end <= n && n_begin % table.panel == 0,
          "gemm: 0 <= n_begin <= n_end <= n, and n_begin is a multiple of the panel");
  require(!bias || (static_cast<int64_t>(bias->shape(0)) == n && bias->stride(0) == 1),
          "gemm: bias is (n,), contiguous");
  require(0 <= k_cut && k_cut <= k && 0 <= n_cut && n_cut <= n, "gemm: cuts lie within w");
  const auto from = row_pointers(a);
  const auto to = row_pointers(out);
  const nb::gil_scoped_release released;
  const T* const b = bias ? bias->data() : nullptr;
  if (once) {
    const Scratch<T> room(table.block_room);
    table.gemm_once(from.data(), rows, k, w.data(), w.stride(0), w.stride(1), n_begin, n_end, to.data(), b,
                    accumulate, past_cache, room.data);
    return fence_past_cache();
  }
  const Scratch<T> packed(packed_size(table.panel, k, n));
  const auto pack = [&](int64_t row, int64_t rows_here, int64_t column, int64_t columns) {
    table.pack(packed.data + row * table.panel, w.data() + row * w.stride(0) + column * w.stride(1),
               w.stride(0), w.stride(1), rows_here, columns, column, k);
  };
  for (const auto& [column, columns] : {std::pair(int64_t{0}, n_cut), std::pair(n_cut, n - n_cut)}) {
    pack(0, k_cut, column, columns);
    pack(k_cut, k - k_cut, column, columns);
  }
  Ahead ahead;
  for (const T* row : from) ahead.add(row, k * static_cast<int64_t>(sizeof(T)));
  table.gemm(from.data(), rows, k, packed.data, n_begin, n_end, to.data(),
             b, accumulate, descending, asks ? &ahead : nullptr, past_cache);
  fence_past_cache();
}

template <class T>
using MutableVector = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <class T>
void hand_over(const std::string& isa, MutableVector<T> to, MutableVector<T> from) {
  require(to.size() == from.size(), "hand_over: to and from are as long");
  kernels_of<T>(isa.c_str()).hand_over(to.data(), from.data(), static_cast<int64_t>(to.size()));
}

template <class T>
int64_t receive(const std::string& isa, MutableVector<T> to, MutableVector<T> from) {
  require(to.size() == from.size(), "receive: to and from are as long");
  return kernels_of<T>(isa.c_str()).receive(to.data(), from.data(), static_cast<int64_t>(to.size()));
}

template <class T>
void withdraw(const std::string& isa, MutableVector<T> at) {
  kernels_of<T>(isa.c_str()).withdraw(at.data(), static_cast<int64_t>(at.size()));
}

template <class T>
void outer(const std::string& isa, Matrix<T> a, Matrix<T> dz, MutableMatrix<T> g) {
  const Kernels<T>& table = kernels_of<T>(isa.c_str());
  const int64_t rows = a.shape(0), k = a.shape(1), n = dz.shape(1);
  require(static_cast<int64_t>(dz.shape(0)) == rows, "outer: a is (rows, k) and dz is (rows, n)");
  require(static_cast<int64_t>(g.shape(0)) == n && static_cast<int64_t>(g.shape(1)) == k,
          "outer: g is (n, k)");
  // A dimension of one element has no stride to speak of.
  const int64_t n_stride = n == 1 ? 1 : g.stride(0), k_stride = k == 1 ? 1 : g.stride(1);
  require(n_stride == 1 || k_stride == 1, "outer: one of g's strides is 1");
  const auto inputs = row_pointers(a);
  const auto gradients = row_pointers(dz);
  const nb::gil_scoped_release released;
  const Scratch<T> scratch(table.outer_scratch(rows, k, n));
  table.outer(inputs.data(), gradients.data(), rows, k, n, g.data(), n_stride, k_stride,
              scratch.data);
}

template <class T>
void bind_products(nb::module_& m) {
  m.def("gemm", &gemm<T>, nb::arg("isa"), nb::arg("a").noconvert(), nb::arg("w").noconvert(),
        nb::arg("bias").noconvert().none(), nb::arg("out").noconvert(), nb::arg("accumulate"),
        nb::arg("n_begin"), nb::arg("n_end"), nb::arg("descending") = false, nb::arg("asks") = false,
        nb::arg("k_cut") = 0, nb::arg("n_cut") = 0, nb::arg("past_cache") = false,
        nb::arg("once") = false,
        "For tests: out[:, n_begin:n_end] (+)= a @ w + bias, by the named instruction set; "
        "descending: the last columns first; asks: memory is asked for while it computes; w is packed "
        "in four parts, cut there; past_cache: out, whose rows begin with a line, is stored past it; "
        "once: w is packed as it is read.");
  m.def("hand_over", &hand_over<T>, nb::arg("isa"), nb::arg("to").noconvert(), nb::arg("from").noconvert(),
        "For tests: hand a vector over, in memory where another thread looks.");
  m.def("receive", &receive<T>, nb::arg("isa"), nb::arg("to").noconvert(), nb::arg("from").noconvert(),
        "For tests: copy what has been handed over, up to the first vector with a gap; how many.");
  m.def("withdraw", &withdraw<T>, nb::arg("isa"), nb::arg("at").noconvert(),
        "For tests: as if nothing had been handed over.");
  m.def("outer", &outer<T>, nb::arg("isa"), nb::arg("a").noconvert(), nb::arg("dz").noconvert(),
        nb::arg("g").noconvert(), "For tests: g += dz.T @ a, by the named instruction set.");
}

// `rounds` times, each of n bodies adds 1 to a counter and all meet; then each checks that it sees
// all of the round's additions. Body `thrower` throws after the last round. Returns the counter.
int64_t pool_check(int n, int rounds, int thrower, bool own) {
  const nb::gil_scoped_release released;
  std::atomic<int64_t> counter{0}, wrong{0};
  Barrier barrier(n);
  const auto body = [&](int i) {
    for (int round = 1; round <= rounds; ++round) {
      counter.fetch_add(1, std::memory_order_relaxed);
      barrier.wait();
      if (counter.load(std::memory_order_relaxed) != int64_t{n} * round) wrong.fetch_add(1);
      barrier.wait();
    }
    if (i == thrower) throw std::runtime_error("body " + std::to_string(i) + " was told to throw");
  };
  own ? parallel_on_pool(n, body) : parallel(n, n, body);
  if (wrong.load() != 0) throw std::logic_error("bodies did not meet at the barrier");
  return counter.load();
}

// OSTINATO_ISA forces one instruction set; one that isn't there stops the import.
void select_from_environment() {
  const char* name = std::getenv("OSTINATO_ISA");
  if (!name || !*name) return;
  try {
    select_isa(name);
  } catch (const std::invalid_argument& error) {
    const std::string message =
        std::string("OSTINATO_ISA: ") + error.what() + "; set it to one of these or unset it";
    throw nb::import_error(message.c_str());
  }
}

}  // namespace
}  // namespace ostinato

NB_MODULE(_native, m) {
  using namespace ostinato;
  m.doc() = "The engine: kernels, the time loop and the pool of threads, without PyTorch.";
  // Plans live in caches of Python's until the interpreter ends; nanobind would report them then.
  nb::set_leak_warnings(false);
  select_from_environment();
  m.def("isa", [] { return std::string(kernels<float>().isa); },
        "The name of the instruction set in use: 'baseline', 'avx2' or 'avx512'.");
  m.def("available_isas", &isa_names,
        "The instruction sets of this build that this machine can run, the plainest first.");
  m.def("set_isa", [](const std::string& name) { select_isa(name.c_str()); }, nb::arg("name"),
        "Use the named instruction set from now on; ValueError if it isn't available.");
  bind_products<float>(m);
  bind_products<double>(m);
  m.def("pool_check", &pool_check, nb::arg("n"), nb::arg("rounds"), nb::arg("thrower") = -1,
        nb::arg("own") = false,
        "For tests: n bodies at once meet at a barrier `rounds` times, on the pool of our own if "
        "told so. Returns n * rounds.");
  m.def("shares_threads", &openmp_usable,
        "Whether loops run on the threads of an OpenMP runtime that the process has loaded, "
        "PyTorch's, rather than on threads of our own.");
  bind_kernels(m);
  bind_autograd(m);
  bind_loop(m);
  bind_memory(m);
  bind_shortcut(m);
}
