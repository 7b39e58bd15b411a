// The threads of an OpenMP runtime that the process has already loaded: PyTorch's, where PyTorch is
// there. They spin for a while after each of its parallel operations; threads of our own would
// compete with them for the same cores.
#pragma once

#include <functional>

namespace ostinato {

// Whether the process has such a runtime that can be used here. Not in a forked child, which has
// none of its parent's threads, and not inside another parallel region.
bool openmp_usable();

// Runs body(0), ..., body(n - 1) at the same time on a team of `team` >= n of these threads.
// Returns false, having run nothing, if the runtime grants fewer. The bodies don't throw.
bool openmp_parallel(int n, int team, const std::function<void(int)>& body);

}  // namespace ostinato
