#include "pool.h"

#include <exception>
#include <mutex>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include "openmp.h"
#include "spin.h"

#ifndef _WIN32
#include <pthread.h>
#endif

namespace ostinato {
namespace {

// A thread and its mailbox. The caller that leased it fills in the task and sets kBusy; the worker
// sets kIdle when the task is done and touches nothing of the task after that.
struct Worker {
  enum State : int { kIdle, kBusy };
  alignas(64) std::atomic<int> state{kIdle};
  const std::function<void(int)>* body = nullptr;
  int index = 0;
  std::exception_ptr error;

  void wait_while(int value) {
    const auto changed = [&] { return state.load(std::memory_order_acquire) != value; };
    if (spin(changed)) return;
    while (!changed()) state.wait(value, std::memory_order_acquire);
  }

  void set(int value) {
    state.store(value, std::memory_order_release);
    state.notify_one();
  }

  void serve() {
    for (;;) {
      wait_while(kIdle);
      try {
        (*body)(index);
      } catch (...) {
        error = std::current_exception();
      }
      set(kIdle);
    }
  }
};

struct Pool {
  std::mutex mutex;
  std::vector<Worker*> idle;

  // Hands out `count` idle workers, started now where there are too few. If a thread can't be
  // started, none is taken and the error goes to the caller before any body ran.
  std::vector<Worker*> lease(int count) {
    std::vector<Worker*> taken;
    taken.reserve(count);
    {
      const std::lock_guard lock(mutex);
      while (!idle.empty() && static_cast<int>(taken.size()) < count) {
        taken.push_back(idle.back());
        idle.pop_back();
      }
    }
    try {
      while (static_cast<int>(taken.size()) < count) {
        // Never freed: its thread lives as long as the process.
        auto* worker = new Worker;
        try {
          std::thread([worker] { worker->serve(); }).detach();
        } catch (...) {
          delete worker;
          throw;
        }
        taken.push_back(worker);
      }
    } catch (...) {
      give_back(taken);
      throw;
    }
    return taken;
  }

  void give_back(const std::vector<Worker*>& workers) {
    const std::lock_guard lock(mutex);
    // In reverse, so that the next call finds the same worker, with its share of the data still in
    // its core's cache, for the same index.
    idle.insert(idle.end(), workers.rbegin(), workers.rend());
  }
};

// The pool is never destroyed: workers may be asleep in it, or at work for another thread, while
// the process runs its static destructors.
alignas(Pool) unsigned char storage[sizeof(Pool)];

Pool& pool() {
  static Pool* const instance = [] {
    auto* fresh = new (storage) Pool;
#ifndef _WIN32
    // The child has none of the parent's threads, and the mutex may have been held at the fork: a
    // fresh pool is put in the place of the inherited one, whose memory is left alone.
    pthread_atfork(nullptr, nullptr, [] { new (storage) Pool; });
#endif
    return fresh;
  }();
  return *instance;
}

void throw_first(const std::vector<std::exception_ptr>& errors) {
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace

void parallel(int n, int team, const std::function<void(int)>& body) {
  if (n <= 0) return;
  if (n == 1) return body(0);
  if (openmp_usable()) {
    std::vector<std::exception_ptr> errors(n);
    const bool ran = openmp_parallel(n, team, [&](int i) {
      try {
        body(i);
      } catch (...) {
        errors[i] = std::current_exception();
      }
    });
    if (ran) return throw_first(errors);
  }
  parallel_on_pool(n, body);
}

void parallel_on_pool(int n, const std::function<void(int)>& body) {
  const std::vector<Worker*> workers = pool().lease(n - 1);
  for (int i = 1; i < n; ++i) {
    Worker& worker = *workers[i - 1];
    worker.body = &body;
    worker.index = i;
    worker.set(Worker::kBusy);
  }
  std::vector<std::exception_ptr> errors(n);
  try {
    body(0);
  } catch (...) {
    errors[0] = std::current_exception();
  }
  for (int i = 1; i < n; ++i) {
    Worker& worker = *workers[i - 1];
    worker.wait_while(Worker::kBusy);
    errors[i] = std::exchange(worker.error, nullptr);
  }
  pool().give_back(workers);
  throw_first(errors);
}

void Barrier::wait() {
  const int generation = generation_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == n_) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.store(generation + 1, std::memory_order_release);
    return;
  }
  const auto passed = [&] { return generation_.load(std::memory_order_acquire) != generation; };
  spin_until(passed);
}

}  // namespace ostinato
