// Names of the pointwise operations, and how exact they are.
#pragma once

#include <string>

#include "kernels.h"

namespace ostinato {

struct OpInfo {
  const char* name;  // the IR's; "copy" and the fused ones are the engine's own
  int arity;
  // The largest error in ULP for float and for double. 0.5: rounded correctly. 0: exact.
  double ulp_f32, ulp_f64;
};

const OpInfo& op_info(Op op);
inline const char* op_name(Op op) { return op_info(op).name; }
Op op_from_name(const std::string& name);  // throws std::invalid_argument

}  // namespace ostinato
