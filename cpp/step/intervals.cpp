#include "step/intervals.hpp"

#include <algorithm>
#include <iterator>

namespace fusedstep {

void Intervals::add(const void* memory, std::size_t bytes, std::size_t tensor) {
  const auto* begin = static_cast<const char*>(memory);
  if (bytes > 0) intervals_.push_back({begin, begin + bytes, tensor});
}

void Intervals::sort() {
  std::sort(intervals_.begin(), intervals_.end(),
            [](const Interval& a, const Interval& b) { return a.begin < b.begin; });
}

bool Intervals::touches(const void* memory, std::size_t bytes) const {
  if (bytes == 0) return false;
  const auto* begin = static_cast<const char*>(memory);
  const auto after =
      std::lower_bound(intervals_.begin(), intervals_.end(), begin + bytes,
                       [](const Interval& interval, const char* end) { return interval.begin < end; });
  return after != intervals_.begin() && std::prev(after)->end > begin;
}

std::optional<std::pair<std::size_t, std::size_t>> Intervals::overlap() const {
  for (std::size_t i = 1; i < intervals_.size(); ++i)
    if (intervals_[i].begin < intervals_[i - 1].end)
      return {{intervals_[i - 1].tensor, intervals_[i].tensor}};
  return {};
}

}  // namespace fusedstep
