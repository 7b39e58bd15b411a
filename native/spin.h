// Waiting for what another thread is about to do.
#pragma once

#include <chrono>
#include <thread>

namespace ostinato {

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

// Longer than the gap between two time loops of one model, shorter than a scheduler's slice: a
// worker that is about to be needed again is awake, one that isn't doesn't hold a core.
inline constexpr std::chrono::microseconds kSpin{40};
// After this long the other side may be waiting for this very core: yield between looks. On two
// cores that other processes kept busy, a call then took 24 us, without it 164, alone 1.
inline constexpr std::chrono::microseconds kBeforeYield{5};
inline constexpr int kPausesPerLook = 32;  // at the clock, which costs about as much as a pause

// Spins until ready() or kSpin has passed; what ready() said last.
template <class Ready>
bool spin(Ready ready) {
  const auto start = std::chrono::steady_clock::now();
  for (;;) {
    for (int i = 0; i < kPausesPerLook; ++i) {
      if (ready()) return true;
      pause();
    }
    const auto waited = std::chrono::steady_clock::now() - start;
    if (waited > kSpin) return ready();
    if (waited > kBeforeYield) std::this_thread::yield();
  }
}

// Spins until ready(), yielding after a while.
template <class Ready>
void spin_until(Ready ready) {
  if (spin(ready)) return;
  while (!ready()) std::this_thread::yield();
}

}  // namespace ostinato
