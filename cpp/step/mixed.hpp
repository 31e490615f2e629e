// One rule over one run of elements, whatever the format of each array.
#pragma once

#include <cstddef>

#include "step/operands.hpp"

namespace fusedstep {

/// Runs the kernel's loop for this mix of formats, or, where there is none, its float32 loop over float32
/// copies of a few elements at a time.
void sweep(const Table& table, const Kernel& kernel, const double* coefficients, std::size_t begin,
           std::size_t end, const Operands& of);

/// The same, and then updates the average of the parameter as stored: in the same loop if the kernel has one
/// that does, else while the parameter is in the cache.
void sweep_and_average(const Table& table, const Kernel& kernel, const Kernel& average_kernel,
                       const double* coefficients, const double* of_average, std::size_t begin,
                       std::size_t end, const Operands& of);

/// The pass before the step: adds the terms of elements begin..end, at most Tiles::size of them, to each sum.
/// The elements go to the lanes in turn, and the lanes are added by halves.
void measure(const Table& table, const Kernel& kernel, const double* coefficients, std::size_t begin,
             std::size_t end, const Operands& of, double* sums);

}  // namespace fusedstep
