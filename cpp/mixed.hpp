// One rule over one run of elements, whatever the numbers are kept as.
#pragma once

#include <cstddef>

#include "array.hpp"

namespace fusedstep {

/// A parameter, its gradient and its state, kept as `kept`.
struct Operands {
  Array p, g;
  Number kept;
  void* const* state;
};

/// Runs the kernel's loop for this mix of numbers, or, where there is none, its float32 loop over float32
/// copies of a few elements at a time.
void sweep(const Table& table, const Kernel& kernel, const double* row, std::size_t begin, std::size_t end,
           const Operands& of);

/// The same, and then the `average` of the parameter as it is kept, which is kept as state is: in the same
/// loop where there is one, else while the parameter is in the cache.
void sweep_and_average(const Table& table, const Kernel& kernel, const Kernel& average_kernel,
                       const double* row, const double* average_row, std::size_t begin, std::size_t end,
                       const Operands& of, void* average);

/// The same for the pass before it, which adds to the `lanes` of each sum.
void measure(const Table& table, const Kernel& kernel, const double* row, std::size_t begin, std::size_t end,
             const Operands& of, double* sums);

}  // namespace fusedstep
