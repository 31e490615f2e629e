// The arrays that the passes over a tensor read and write.
#pragma once

#include <array>
#include <cstddef>

#include "step/array.hpp"

namespace fusedstep {

/// A parameter, its gradient, its state, and the average of its weights, whose data is null if none is kept.
struct Operands {
  Array p{}, g{};
  std::array<Array, max_slots> state{};
  Array average{};
  Format slots{};  // of all slots, or of the parameter if it has none; `formats` if they differ
};

/// The value of Operands::slots for a parameter with so many slots.
inline Format format_of_slots(const Operands& of, std::size_t slots) {
  if (slots == 0) return of.p.format;
  for (std::size_t slot = 1; slot < slots; ++slot)
    if (of.state[slot].format != of.state[0].format) return formats;
  return of.state[0].format;
}

}  // namespace fusedstep
