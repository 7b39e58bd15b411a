#include "openmp.h"

#if defined(__linux__)
#include <dlfcn.h>
#include <pthread.h>
#endif

#include <atomic>

namespace ostinato {

#if defined(__linux__)
namespace {

// What GCC compiles `#pragma omp parallel` to. LLVM's runtime has these entries too, on Linux.
struct Runtime {
  void (*parallel)(void (*)(void*), void*, unsigned threads, unsigned flags) = nullptr;
  int (*thread_num)() = nullptr;
  int (*num_threads)() = nullptr;
  int (*in_parallel)() = nullptr;

  bool found() const { return parallel && thread_num && num_threads && in_parallel; }
};

std::atomic<bool> forked{false};

template <class F>
void look_up(F& function, const char* name) {
  function = reinterpret_cast<F>(dlsym(RTLD_DEFAULT, name));
}

// PyTorch loads its runtime into the global scope, where this finds it.
const Runtime& runtime() {
  static const Runtime found = [] {
    Runtime r;
    look_up(r.parallel, "GOMP_parallel");
    look_up(r.thread_num, "omp_get_thread_num");
    look_up(r.num_threads, "omp_get_num_threads");
    look_up(r.in_parallel, "omp_in_parallel");
    if (r.found()) pthread_atfork(nullptr, nullptr, [] { forked.store(true); });
    return r;
  }();
  return found;
}

struct Region {
  const std::function<void(int)>& body;
  int n;
  int team;
  std::atomic<bool> granted{true};
};

void enter(void* data) {
  auto& region = *static_cast<Region*>(data);
  // All of the team see the same number.
  if (runtime().num_threads() < region.team) {
    region.granted.store(false, std::memory_order_relaxed);
    return;
  }
  const int index = runtime().thread_num();
  if (index < region.n) region.body(index);
}

}  // namespace

bool openmp_usable() {
  return runtime().found() && !forked.load() && !runtime().in_parallel();
}

bool openmp_parallel(int n, int team, const std::function<void(int)>& body) {
  Region region{body, n, team};
  runtime().parallel(enter, &region, static_cast<unsigned>(team), 0);
  return region.granted.load(std::memory_order_relaxed);
}

#else

bool openmp_usable() { return false; }

bool openmp_parallel(int, int, const std::function<void(int)>&) { return false; }

#endif

}  // namespace ostinato
