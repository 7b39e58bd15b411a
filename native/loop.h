// Runs a plan through time.
#pragma once

#include "plan.h"

namespace ostinato {

// Runs the plan through time. Outputs, sums and weight gradients are overwritten. Returns how many
// teams of threads there were: so many blocks of rows there are in what forward keeps.
template <class T>
int64_t run_plan(const Plan& plan, const Call& call);

}  // namespace ostinato
