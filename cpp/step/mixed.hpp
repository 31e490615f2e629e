// One rule over one run of elements, whatever the format of each array.
#pragma once

#include <array>
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

/// The sums of squares over some elements: of each StepSum, in each Range.
using StepSums = std::array<std::array<double, ranges>, step_sums>;

/// Adds sums to a total.
void add(const StepSums& sums, StepSums& total);

/// Does the same as sweep, or, unless `of_average` is null, as sweep_and_average; without a kernel, nothing.
/// Sums the squares of the elements, at most Tiles::size: element `begin` goes to lane 0, the
/// others to the lanes in turn, and the lanes are added by halves.
StepSums sweep_and_sum(const Table& table, const Kernel* kernel, const Kernel& average_kernel,
                       const double* coefficients, const double* of_average, std::size_t begin,
                       std::size_t end, const Operands& of);

/// A number for each sum that a kernel measures.
using OfSums = std::array<double, max_sums>;

/// The pass before the step: adds the terms of elements begin..end, at most Tiles::size of them, to each sum,
/// which has a factor as in Measure. The elements go to the lanes in turn, and the lanes are added by halves.
void measure(const Table& table, const Kernel& kernel, const double* coefficients, const OfSums& factors,
             std::size_t begin, std::size_t end, const Operands& of, OfSums& sums);

/// The number of values in which an item keeps its sums: one for each sum, or, so that those of parts of a
/// tensor can be added, three for each sum of squares, of which two are 0: first all sums as they are, then
/// all of squares times 2¹²⁰⁰, then all of squares times 2⁻¹²⁰⁰.
std::size_t values_of(const Kernel& kernel);

/// Puts the sums of an item where they belong. Returns whether to measure it again, with the factors changed:
/// squares of float64 can be out of range.
bool put(const Kernel& kernel, Format format, const OfSums& sums, OfSums& factors, double* values);

}  // namespace fusedstep
