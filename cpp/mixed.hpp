// One rule over one run of elements, whatever the numbers are kept as.
#pragma once

#include <cstddef>

#include "array.hpp"

namespace fusedstep {

/// Runs the kernel's loop for this mix of numbers, or, where there is none, its float32 loop over float32
/// copies of a few elements at a time.
void sweep(const Table& table, const Kernel& kernel, const double* row, std::size_t begin, std::size_t end,
           Array p, Array g, Number kept, void* const* state);

}  // namespace fusedstep
