// The part of the Python module that knows torch.
#pragma once

#include <pybind11/pybind11.h>

namespace fusedstep {

void add_torch(pybind11::module_& m);

}  // namespace fusedstep
