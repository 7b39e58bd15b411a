// What the chip can do at most, to compare with: fused multiply-adds from registers, and a copy
// through memory; what it takes two threads to hear from each other; and a loop that shows whether
// something else is on the core. Compiled by benchmarks/measure.py for the machine that it runs on.
#include <stdint.h>
#include <string.h>
#include <time.h>

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
typedef float vec __attribute__((vector_size(BYTES)));

// Chains enough to cover the latency of a multiply-add (4 cycles) on two ports.
enum { kChains = 12 };

// FLOP done in `rounds` rounds; *out keeps the compiler from leaving the work out.
int64_t fma_rounds(int64_t rounds, float* out) {
  vec acc[kChains];
  // Volatile: 1 * 0.999 + 0.001 is 1, and the compiler would leave that chain out of the loop.
  volatile float scale = 0.999f, shift = 0.001f;
  const vec a = (vec){} + scale, b = (vec){} + shift;
  for (int i = 0; i < kChains; ++i) acc[i] = (vec){} + (float)i;
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) acc[i] = acc[i] * a + b;
  }
  vec sum = acc[0];
  for (int i = 1; i < kChains; ++i) sum += acc[i];
  *out = sum[0];
  return rounds * kChains * (BYTES / 4) * 2;
}

// Seconds that so many rounds of integer operations take, of six chains, as many at once as a core can
// do. The clock is read here: in Python a thread would wait for the interpreter at the end.
double add_rounds(int64_t rounds) {
  struct timespec begin, end;
  clock_gettime(CLOCK_MONOTONIC, &begin);
  uint64_t a = 1, b = 2, c = 3, d = 4, e = 5, f = 6;
  for (int64_t i = 0; i < rounds; ++i) {
    a = a * 3 + 1;
    b += (uint64_t)i ^ 7;
    c ^= b;
    d += (uint64_t)i;
    e -= 3;
    f ^= (uint64_t)i;
    // Kept as they are: the compiler would find sums for some of them.
    __asm__ volatile("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d), "+r"(e), "+r"(f));
  }
  clock_gettime(CLOCK_MONOTONIC, &end);
  return (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
}

// One side of a ball game between two threads: `side` is 0 or 1, and the ball starts at 0.
void pass_ball(int* ball, int side, int64_t times) {
  for (int64_t i = 0; i < times; ++i) {
    while (__atomic_load_n(ball, __ATOMIC_ACQUIRE) != side) {
    }
    __atomic_store_n(ball, 1 - side, __ATOMIC_RELEASE);
  }
}

void copy_bytes(void* to, const void* from, int64_t bytes) { memcpy(to, from, (size_t)bytes); }
