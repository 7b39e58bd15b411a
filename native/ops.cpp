#include "ops.h"

#include <stdexcept>

namespace ostinato {
namespace {

constexpr int kOps = static_cast<int>(Op::kCount);

// In the order of Op. What is fused of products and sums rounds once or twice for each of them, so that
// its error has no bound in ULP where a sum cancels: negative here.
constexpr OpInfo kTable[] = {
    {"copy", 1, 0, 0},
    {"neg", 1, 0, 0},
    {"abs", 1, 0, 0},
    {"sign", 1, 0, 0},
    {"floor", 1, 0, 0},
    {"reciprocal", 1, 0.5, 0.5},
    {"sqrt", 1, 0.5, 0.5},
    {"rsqrt", 1, 1.5, 1.5},
    {"exp", 1, 1.5, 1.5},
    {"expm1", 1, 2.0, 2.5},
    {"log", 1, 1.5, 1.5},
    {"log1p", 1, 2.0, 2.0},
    {"sin", 1, 2.0, 1.5},
    {"cos", 1, 2.0, 1.5},
    {"erf", 1, 1.5, 2.0},
    {"relu", 1, 0, 0},
    {"copy_past_cache", 1, 0, 0},
    {"add", 2, 0.5, 0.5},
    {"sub", 2, 0.5, 0.5},
    {"mul", 2, 0.5, 0.5},
    {"div", 2, 0.5, 0.5},
    {"max", 2, 0, 0},
    {"min", 2, 0, 0},
    {"pow", 2, 1.0, 1.0},
    {"lt", 2, 0, 0},
    {"le", 2, 0, 0},
    {"gt", 2, 0, 0},
    {"ge", 2, 0, 0},
    {"eq", 2, 0, 0},
    {"ne", 2, 0, 0},
    {"where", 3, 0, 0},
    {"mul_add", 3, -1, -1},
    {"neg_mul_add", 3, -1, -1},
    {"sigmoid_grad", 2, -1, -1},
    {"tanh_grad", 2, -1, -1},
    {"relu_grad", 2, 0, 0},
    {"sigmoid_grad_mul", 3, -1, -1},
    {"tanh_grad_mul", 3, -1, -1},
    {"mix", 3, -1, -1},
    {"sigmoid", 1, 2.5, 2.5},
    {"tanh", 1, 3.0, 3.0},
    {"sigmoid_add", 2, -1, -1},
    {"tanh_add", 2, -1, -1},
    {"sigmoid_mul_add", 3, -1, -1},
    {"tanh_mul_add", 3, -1, -1},
    {"mul_sigmoid", 2, -1, -1},
    {"mul_tanh", 2, -1, -1},
    {"mul_sigmoid_tanh", 2, -1, -1},
    {"mul_sigmoid_add", 3, -1, -1},
};
static_assert(sizeof(kTable) / sizeof(kTable[0]) == kOps);

}  // namespace

const OpInfo& op_info(Op op) { return kTable[static_cast<int>(op)]; }

Op op_from_name(const std::string& name) {
  for (int i = 0; i < kOps; ++i) {
    if (name == kTable[i].name) return static_cast<Op>(i);
  }
  throw std::invalid_argument("unknown pointwise operation '" + name + "'");
}

}  // namespace ostinato
