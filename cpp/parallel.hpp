// Tiles -> threads.
#pragma once

#include <cstddef>
#include <memory>

namespace fusedstep {

/// How many threads a call may use. A forked child has 1: the workers did not come along.
int num_threads();
void set_num_threads(int threads);

/// What there is to do for the tiles begin..end.
using Work = void (*)(const void* context, std::size_t begin, std::size_t end);

/// Does all tiles from 0 on, each once and a few together, on at most one thread for `least` tiles.
void for_each_range(std::size_t tiles, std::size_t least, Work work, const void* context);

template <class Function>
void for_each_range(std::size_t tiles, std::size_t least, const Function& function) {
  const Work work = [](const void* context, std::size_t begin, std::size_t end) {
    (*static_cast<const Function*>(context))(begin, end);
  };
  for_each_range(tiles, least, work, std::addressof(function));
}

}  // namespace fusedstep
