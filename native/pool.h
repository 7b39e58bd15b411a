// A small pool of threads. Work is divided by the number of threads asked for, never by how many
// are free, so that results don't depend on load.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

namespace ostinato {

// Runs body(0), ..., body(n - 1) at the same time: body(0) on the caller, each other on a worker
// of its own that was idle or is started now, so that bodies may wait for one another (Barrier).
// Callers may be concurrent. Returns when all are done; the first exception is thrown again here.
// After fork() the child starts with an empty pool. Workers wait for work spinning for a short
// time, then sleep.
void parallel(int n, const std::function<void(int)>& body);

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
