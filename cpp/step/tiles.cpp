#include "step/tiles.hpp"

#include <algorithm>
#include <utility>

namespace fusedstep {

Tiles::Tiles(std::vector<std::size_t> sizes, std::size_t grain) : sizes_(std::move(sizes)) {
  std::size_t room = 0;  // for more elements in the current tile
  for (std::size_t i = 0; i < sizes_.size(); ++i)
    for (std::size_t element = 0; element < sizes_[i];) {
      if (room == 0) {
        starts_.push_back({i, element});
        room = size;
      }
      const std::size_t taken = std::min(room, sizes_[i] - element);
      element += taken;
      room -= (taken + grain - 1) / grain * grain;
    }
  starts_.push_back({sizes_.size(), 0});
}

}  // namespace fusedstep
