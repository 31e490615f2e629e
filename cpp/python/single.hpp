// One pass over one array with given coefficients, also where NumPy has no type for what the array keeps.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <optional>
#include <string>
#include <vector>

#include "python/coefficients.hpp"

namespace fusedstep {

namespace py = pybind11;

/// Runs a kernel of one sweep over arrays of equal size, each in one run of memory. uint16 stands for
/// bfloat16. Throws std::invalid_argument for arrays that the kernel cannot take together.
void step_single(const std::string& kernel, const py::object& coefficients, py::array p, py::array g,
                 std::vector<py::array> state, std::optional<py::array> average);

}  // namespace fusedstep
