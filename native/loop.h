// Runs a plan through time.
#pragma once

#include "plan.h"

namespace ostinato {

// Runs the plan through time. Outputs, sums and weight gradients are overwritten.
template <class T>
void run_plan(const Plan& plan, const Call& call);

}  // namespace ostinato
