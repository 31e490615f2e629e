#include "step/array.hpp"

#include <algorithm>
#include <utility>

namespace fusedstep {

std::vector<std::size_t> overlapping(const std::vector<Run>& runs) {
  std::vector<std::pair<const char*, std::size_t>> starts;
  for (std::size_t i = 0; i < runs.size(); ++i)
    if (runs[i].size > 0) starts.emplace_back(static_cast<const char*>(runs[i].array.data), i);
  std::sort(starts.begin(), starts.end());
  std::vector<std::size_t> found;
  const char* reach = nullptr;
  for (const auto& [start, i] : starts) {
    if (start < reach) found.push_back(i);
    reach = std::max(reach, start + runs[i].bytes());
  }
  return found;
}

}  // namespace fusedstep
