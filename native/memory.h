// Memory that outlives a call: what forward keeps for backward, and results.
#pragma once

#include <cstdint>

namespace ostinato {

// Memory of `bytes`, aligned for vectors; not cleared. Throws std::bad_alloc.
//
// A large block may be one that was given back: memory that is new to the process costs a page fault
// for every 4 KiB, which for 46 MB is a third of the time of a training call. The C library gives
// large blocks back at once, others when enough of them lie at the end of its heap.
void* take_memory(int64_t bytes);

// Gives memory of so many bytes back, from any thread. A large block waits for the next that is
// asked for, a small one for the next of its size.
void give_memory(void* memory, int64_t bytes);

// Bytes of the large blocks that wait, and of the small ones.
int64_t waiting_bytes();
int64_t small_waiting_bytes();

}  // namespace ostinato
