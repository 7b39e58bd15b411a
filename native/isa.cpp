// Which instruction sets this build has and this machine can run, and which one is in use.
#include <atomic>
#include <stdexcept>
#include <string>

#include "kernels.h"

#ifdef OSTINATO_X86
#include <cpuid.h>
#endif

namespace ostinato {
namespace {

struct Isa {
  const char* name;
  const Kernels<float>& (*f32)();
  const Kernels<double>& (*f64)();
};

#ifdef OSTINATO_X86
struct Features {
  bool avx2 = false;  // with FMA
  bool avx512 = false;  // F, DQ, BW and VL
  bool zen4 = false;  // or Zen 3, which hasn't AVX-512; later ones weren't measured
};

// What both the processor has and the operating system saves on a context switch.
Features detect() {
  Features found;
  unsigned a, b, c, d;
  constexpr unsigned kAuth = 0x68747541;  // "Auth" of AuthenticAMD
  const bool amd = __get_cpuid(0, &a, &b, &c, &d) && b == kAuth;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return found;
  const unsigned family = (a >> 8 & 15) + (a >> 20 & 255);  // base and extended
  found.zen4 = amd && family == 0x19;
  const bool os_saves = c >> 27 & 1, avx = c >> 28 & 1, fma = c >> 12 & 1;
  if (!os_saves || !avx || !fma) return found;
  unsigned saved, high;
  __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
  constexpr unsigned kYmm = 0x06, kZmm = 0xe6;  // SSE and AVX; also masks and both ZMM halves
  if ((saved & kYmm) != kYmm || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
  found.avx2 = b >> 5 & 1;
  constexpr unsigned kAvx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
  found.avx512 = found.avx2 && (saved & kZmm) == kZmm && (b & kAvx512) == kAvx512;
  return found;
}
#endif

// From the plainest to the best.
struct Table {
  Isa isas[3];
  const char* names[3];
  int count = 0;
  Isa variants[2];  // for tests
  int variant_count = 0;

  void add(Isa isa) {
    names[count] = isa.name;
    isas[count++] = isa;
  }

  Table() {
    add({"baseline", isa_baseline::kernels_f32, isa_baseline::kernels_f64});
#ifdef OSTINATO_X86
    const Features features = detect();
    if (features.avx2) add({"avx2", isa_avx2::kernels_f32, isa_avx2::kernels_f64});
    if (features.avx512) {
      using namespace isa_avx512;
      add({"avx512", features.zen4 ? kernels_f32 : kernels_f32_newton, kernels_f64});
      variants[variant_count++] = {"avx512/division", kernels_f32, kernels_f64};
      variants[variant_count++] = {"avx512/newton", kernels_f32_newton, kernels_f64};
    }
#endif
  }
};

const Table& table() {
  static const Table instance;
  return instance;
}

// Null until the first use or select_isa(): then the best.
std::atomic<const Isa*> selected{nullptr};

const Isa& current() {
  const Isa* isa = selected.load(std::memory_order_acquire);
  return isa ? *isa : table().isas[table().count - 1];
}

const Isa& find(const std::string& name) {
  std::string available;
  for (int i = 0; i < table().count; ++i) {
    if (name == table().names[i]) return table().isas[i];
    available += std::string(i ? ", " : "") + "'" + table().names[i] + "'";
  }
  for (int i = 0; i < table().variant_count; ++i) {
    if (name == table().variants[i].name) return table().variants[i];
  }
  throw std::invalid_argument("unknown or unavailable instruction set '" + name +
                              "'; this machine and build have " + available);
}

}  // namespace

const char* const* available_isas(int* count) {
  *count = table().count;
  return table().names;
}

void select_isa(const char* name) { selected.store(&find(name), std::memory_order_release); }

template <>
const Kernels<float>& kernels<float>() {
  return current().f32();
}

template <>
const Kernels<double>& kernels<double>() {
  return current().f64();
}

template <>
const Kernels<float>& kernels_of<float>(const char* name) {
  return find(name).f32();
}

template <>
const Kernels<double>& kernels_of<double>(const char* name) {
  return find(name).f64();
}

}  // namespace ostinato
