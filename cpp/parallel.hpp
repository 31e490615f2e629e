// Tiles -> threads: one parallel region for a whole call.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace fusedstep {

/// How many threads a call may use. A forked child has 1: the OpenMP pool did not come along.
int num_threads();
void set_num_threads(int threads);

/// Whether this build can use more than one.
constexpr bool has_openmp() {
#ifdef _OPENMP
  return true;
#else
  return false;
#endif
}

/// A thread's own run of tiles, of which others may take what it has not come to.
struct alignas(64) Share {
  std::atomic<std::size_t> next;
  std::size_t end;
};

/// Calls work(0) ... work(tiles - 1), each once, on as many threads as there are tiles for. From call to call
/// a thread begins with the same tiles, which its core's cache may still hold; one that is done early helps
/// the others.
template <class Work>
void for_each_tile(std::size_t tiles, const Work& work) {
#ifdef _OPENMP
  const std::size_t threads = std::min(static_cast<std::size_t>(num_threads()), tiles);
  if (threads > 1) {
    std::vector<Share> shares(threads);
    for (std::size_t i = 0; i < threads; ++i) {
      shares[i].next = tiles * i / threads;
      shares[i].end = tiles * (i + 1) / threads;
    }
#pragma omp parallel num_threads(static_cast<int>(threads))
    {
      const auto own = static_cast<std::size_t>(omp_get_thread_num());
      for (std::size_t i = 0; i < threads; ++i) {
        Share& share = shares[(own + i) % threads];
        for (std::size_t tile; (tile = share.next++) < share.end;) work(tile);
      }
    }
    return;
  }
#endif
  for (std::size_t tile = 0; tile < tiles; ++tile) work(tile);
}

}  // namespace fusedstep
