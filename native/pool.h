// Bodies that run at the same time, on the threads of PyTorch's OpenMP runtime where the process has
// them (openmp.h), else on a small pool of our own. Work is divided by the number of threads asked
// for, never by how many are free, so that results don't depend on load.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

namespace ostinato {

// Runs body(0), ..., body(n - 1) at the same time: body(0) on the caller, each other on a thread of
// its own, so that bodies may wait for one another (Barrier). Callers may be concurrent. Returns
// when all are done; the exception of the lowest body is thrown again here. `team` >= n is the
// number of threads that the process usually asks for: OpenMP's runtime ends threads, and starts
// them again, where one region has fewer than the last.
void parallel(int n, int team, const std::function<void(int)>& body);

// The same on our own pool. A worker was idle or is started now; workers wait for work spinning for
// a short time, then sleep. After fork() the child starts with an empty pool.
void parallel_on_pool(int n, const std::function<void(int)>& body);

// A barrier for the n bodies of one parallel() call; spins (with a pause), yielding after a while.
class Barrier {
 public:
  explicit Barrier(int n) : n_(n) {}
  void wait();

 private:
  const int n_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> generation_{0};
};

}  // namespace ostinato
