// An array as a table of rows.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "step/array.hpp"

namespace fusedstep {

/// The rows of an array, each one run of memory. Memory between two rows does not belong to the array.
struct Rows {
  Array first;
  std::size_t width;  // elements of a row
  std::int64_t count;
  std::ptrdiff_t stride;  // bytes from a row to the next one

  Array operator[](std::int64_t i) const {
    return {first.format, static_cast<char*>(first.data) + i * stride};
  }

  /// Whether a run of memory may overlap the rows.
  bool may_touch(const Run& run) const {
    if (count == 0 || width == 0 || run.size == 0) return false;
    const auto* const begin = static_cast<const char*>(run.array.data);
    const auto* const one = static_cast<const char*>(first.data);
    const auto* const other = static_cast<const char*>((*this)[count - 1].data);
    const auto [low, high] = std::minmax({one, other});
    return begin < high + width * fusedstep::width(first.format) && low < begin + run.bytes();
  }
};

}  // namespace fusedstep
