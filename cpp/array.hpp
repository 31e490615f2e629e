// Arrays as the kernels see them.
#pragma once

#include <cstddef>
#include <vector>

#include "table.hpp"

namespace fusedstep {

constexpr std::size_t width(Number number) {
  constexpr std::size_t bytes[numbers] = {4, 8, 2, 2};
  return bytes[number];
}

/// float64 is computed in float64 and mixes with nothing; all else is computed in float32.
constexpr bool mix(Number a, Number b) { return (a == number_f64) == (b == number_f64); }

struct Array {
  Number number;
  void* data;

  void* at(std::size_t element) const { return static_cast<char*>(data) + element * width(number); }
};

/// An array and its number of elements.
struct Run {
  Array array;
  std::size_t size;
};

/// The positions of runs that begin in another's memory.
std::vector<std::size_t> overlapping(const std::vector<Run>& runs);

}  // namespace fusedstep
