// The body of isa_baseline.cpp, isa_avx2.cpp and isa_avx512.cpp, which differ in OSTINATO_ISA_NS,
// OSTINATO_ISA_NAME and the compiler's flags.
#pragma once

#include "features.inc.h"
#include "gemm.inc.h"
#include "handover.inc.h"
#include "kernels.h"
#include "pointwise.inc.h"
#include "vec.h"

namespace ostinato::OSTINATO_ISA_NS {

template <class T>
Kernels<T> make_kernels() {
  Kernels<T> kernels{};
  kernels.isa = OSTINATO_ISA_NAME;
  fill_gemm(kernels);
  fill_handover(kernels);
  fill_pointwise(kernels);
  fill_features(kernels);
  return kernels;
}

const Kernels<float>& kernels_f32() {
  static const Kernels<float> table = make_kernels<float>();
  return table;
}

const Kernels<double>& kernels_f64() {
  static const Kernels<double> table = make_kernels<double>();
  return table;
}

#if defined(__AVX512F__)
const Kernels<float>& kernels_f32_newton() {
  static const Kernels<float> table = [] {
    Kernels<float> kernels = make_kernels<float>();
    fill_gates<float, true>(kernels);
    return kernels;
  }();
  return table;
}
#endif

}  // namespace ostinato::OSTINATO_ISA_NS
