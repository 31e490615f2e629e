// The coefficients of a step, which Python gives by name, and the sums and norm that a step returns.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "python/changes.hpp"
#include "step/plan.hpp"

namespace fusedstep {

namespace py = pybind11;

/// The coefficients of each group, None for a group without the sweep. Each is a tuple of dictionaries: those
/// of the prologue, of the rule, of the averages or None if none are kept, and, if the rule measures, arrays
/// of those that each tensor with a gradient or each touched row has of its own, or else None.
using ByGroup = std::vector<py::object>;

/// The positions of a group's items, which are tensors or touched rows, and the sums over each item.
using Measured = std::pair<std::vector<std::size_t>, py::array_t<double>>;

/// The index of the kernel with this name; throws std::invalid_argument if there is none.
std::size_t kernel_index(const std::string& name);

/// The index of each of a kernel's sweeps, from their names.
Sweeps sweeps_of(const std::vector<std::string>& names);

/// The coefficients of one group for the only sweep of a step, equal for all of its tensors.
Coefficients coefficients_of(const Plan& plan, std::size_t group, const py::object& given);

/// Runs a sweep that was prepared, without the GIL, and writes the changes as run_sweep does.
void run_prepared(Plan& plan, bool zero_gradients, const Changes* changes, SumsOfStep* sums = nullptr);

/// Measures before a sweep: returns the sums that the coefficients of tensors and rows depend on, by group.
std::vector<Measured> measure(const Plan& plan, std::size_t sweep, const ByGroup& given);

/// Runs a sweep of `plan` without the GIL, and writes the changes, if there are any: the dictionaries before
/// the pass, the arrays after it. It fails before anything is written or not at all. Each coefficient goes
/// where the kernel has its name; throws std::invalid_argument for a name that the kernel lacks, and for a
/// name with no value or with two.
void run_sweep(Plan& plan, std::size_t sweep, const ByGroup& given, bool zero_gradients,
               const Changes* changes, SumsOfStep* sums = nullptr);

/// The 2-norm of gradients, and whether all their elements are finite.
std::pair<double, bool> norm_of(const std::vector<Run>& runs);

}  // namespace fusedstep
