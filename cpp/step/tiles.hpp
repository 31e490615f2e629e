// Tiles: arrays laid end to end and cut into pieces of equal work.
#pragma once

#include <cstddef>
#include <vector>

namespace fusedstep {

/// The tiles of some arrays. A large array makes many tiles, many small arrays share one.
class Tiles {
 public:
  /// The number of elements of a tile: a microsecond of work, and few enough that a core's cache keeps them.
  static constexpr std::size_t size = 4096;

  /// The least number of tiles that is worth waking a thread for.
  static constexpr std::size_t least_a_thread = 2;

  /// Cuts arrays of these sizes. Each array counts as a multiple of `grain` elements, so that tiles end where
  /// cache lines end, and no tile has too many small arrays.
  Tiles(std::vector<std::size_t> sizes, std::size_t grain);

  const std::vector<std::size_t>& sizes() const { return sizes_; }
  std::size_t count() const { return starts_.size() - 1; }

  /// Calls work(array, begin, end) for each run of elements of the tiles first..last, in order.
  template <class Function>
  void for_each_run(std::size_t first, std::size_t last, const Function& work) const {
    Position at = starts_[first];
    const Position stop = starts_[last];
    for (; at.array < stop.array; at = {at.array + 1, 0})
      if (at.element < sizes_[at.array]) work(at.array, at.element, sizes_[at.array]);
    if (at.element < stop.element) work(at.array, at.element, stop.element);
  }

 private:
  struct Position {
    std::size_t array, element;
  };

  std::vector<std::size_t> sizes_;
  std::vector<Position> starts_;  // where each tile starts; one more for the end
};

}  // namespace fusedstep
