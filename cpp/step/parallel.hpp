// How threads share the tiles of a call.
#pragma once

#include <cstddef>
#include <memory>

namespace fusedstep {

/// The number of threads that a call may use. A forked child has 1, since a fork does not copy the workers.
int num_threads();
void set_num_threads(int threads);

/// The work on the tiles begin..end.
using Work = void (*)(const void* context, std::size_t begin, std::size_t end);

/// Does the work on the tiles 0..tiles, each once and a few at a time, on at most one thread per `least`
/// tiles.
void for_each_range(std::size_t tiles, std::size_t least, Work work, const void* context);

template <class Function>
void for_each_range(std::size_t tiles, std::size_t least, const Function& function) {
  const Work work = [](const void* context, std::size_t begin, std::size_t end) {
    (*static_cast<const Function*>(context))(begin, end);
  };
  for_each_range(tiles, least, work, std::addressof(function));
}

}  // namespace fusedstep
