// What the loop must know of the machine's caches.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <unistd.h>
#endif
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace ostinato {

// A core's second-level cache in bytes; 1 MiB where the system doesn't say.
inline int64_t level2_bytes() {
  static const int64_t bytes = [] {
    int64_t said = 0;
#if defined(_SC_LEVEL2_CACHE_SIZE)
    said = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    return said > 0 ? said : int64_t{1} << 20;
  }();
  return bytes;
}

// What was stored past the cache is there for others who see what this thread stores next.
inline void fence_past_cache() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace ostinato
