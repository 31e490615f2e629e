// Tiles -> threads.
#pragma once

#include <cstddef>
#include <memory>

namespace fusedstep {

/// How many threads a call may use. A forked child has 1: the workers did not come along.
int num_threads();
void set_num_threads(int threads);

/// Calls work(context, 0) ... work(context, tiles - 1), each once, on at most one thread for `least` tiles.
void for_each_tile(std::size_t tiles, std::size_t least, void (*work)(const void* context, std::size_t tile),
                   const void* context);

template <class Work>
void for_each_tile(std::size_t tiles, std::size_t least, const Work& work) {
  for_each_tile(
      tiles, least, [](const void* context, std::size_t tile) { (*static_cast<const Work*>(context))(tile); },
      std::addressof(work));
}

}  // namespace fusedstep
