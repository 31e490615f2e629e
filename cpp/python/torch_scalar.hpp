// State that is one number per parameter, as torch keeps it.
#pragma once

#include <optional>

#include "python/dlpack.hpp"

namespace fusedstep {

/// A tensor of one element, in float32 or float64, and its value when it was looked up.
struct TorchScalar {
  Array array{};
  double value = 0;
};

/// Reads a scalar; throws py::type_error unless it is such a tensor.
TorchScalar scalar_of(const std::optional<View>& view);

/// Writes `value` to the tensor.
void set_scalar(const TorchScalar& scalar, double value);

}  // namespace fusedstep
