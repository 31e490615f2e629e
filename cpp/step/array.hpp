// Arrays as the kernels see them.
#pragma once

#include <cstddef>
#include <vector>

#include "kernels/table.hpp"

namespace fusedstep {

/// The number of bytes of an element.
constexpr std::size_t width(Format format) {
  constexpr std::size_t bytes[formats] = {4, 8, 2, 2};
  return bytes[format];
}

/// Whether a step can mix two formats. float64 is computed in float64 and mixes with no other format; all
/// others are computed in float32.
constexpr bool mix(Format a, Format b) { return (a == format_f64) == (b == format_f64); }

struct Array {
  Format format;
  void* data;

  void* at(std::size_t element) const { return static_cast<char*>(data) + element * width(format); }
  bool operator==(const Array&) const = default;
};

/// An array and its number of elements.
struct Run {
  Array array;
  std::size_t size;

  std::size_t bytes() const { return size * width(array.format); }
  bool operator==(const Run&) const = default;
};

/// The positions of runs that begin inside the memory of another run.
std::vector<std::size_t> overlapping(const std::vector<Run>& runs);

}  // namespace fusedstep
