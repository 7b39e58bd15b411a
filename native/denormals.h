// Denormal results as zeros while the loop runs.
//
// Gradients that vanish through time pass through the denormal numbers (below 1.2e-38 in float32),
// with which a processor takes over a hundred cycles an operation: SimpleRNN of 32 units, 100 steps,
// the gradient entering at the last one, took 11.3 ms a training call so and 1.6 ms without.
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace ostinato {

// For its life, the calling thread's operations give zero where they would give a denormal number.
// Denormal operands keep their value on x86, so that the logarithm of one stays finite.
class FlushDenormals {
 public:
  FlushDenormals() : before_(control()) { set_control(before_ | kFlush); }
  ~FlushDenormals() { set_control(before_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
#if defined(__SSE2__)
  using Control = unsigned;
  static constexpr Control kFlush = 0x8000;  // MXCSR.FTZ
  static Control control() { return _mm_getcsr(); }
  static void set_control(Control value) { _mm_setcsr(value); }
#elif defined(__aarch64__)
  using Control = uint64_t;
  static constexpr Control kFlush = uint64_t{1} << 24;  // FPCR.FZ
  static Control control() {
    Control value;
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(value));
    return value;
  }
  static void set_control(Control value) { __asm__ __volatile__("msr fpcr, %0" : : "r"(value)); }
#else
  using Control = int;
  static constexpr Control kFlush = 0;
  static Control control() { return 0; }
  static void set_control(Control) {}
#endif

  const Control before_;
};

}  // namespace ostinato
