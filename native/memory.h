// Large blocks of memory that outlive a call: what forward keeps for backward, and long results.
#pragma once

#include <cstdint>

namespace ostinato {

// A block of at least `bytes`, aligned for vectors; not cleared. It may be one that was given back:
// memory that is new to the process costs a page fault for every 4 KiB, which for 46 MB is a third of
// the time of a training call.
void* take_block(int64_t bytes);

// Gives a block back, from any thread. It waits for the next that is asked for.
void give_block(void* block);

// Bytes of the blocks that wait.
int64_t waiting_bytes();

}  // namespace ostinato
