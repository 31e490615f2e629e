// The plan of tensors that belong to another library.
#pragma once

#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "coefficients.hpp"
#include "gathered.hpp"

namespace fusedstep {

/// Each step takes the tensors anew; what has been checked is remembered, and holds as long as they are where
/// they were.
class TensorPlan {
 public:
  /// Parameters that share a kernel, here its name, and coefficients.
  using Batch = std::tuple<std::string, const Gathered*, Gathered::Members>;
  /// The batch, and which of all gathered with it.
  using Position = std::pair<std::size_t, std::size_t>;
  using Positions = std::vector<Position>;

  /// `kind` is the class of the tensors.
  TensorPlan(py::type kind, const std::string& average);

  const Exchange& exchange() const { return exchange_; }

  /// Takes a step's tensors. Returns the positions at which parameter or state cannot be used as they are,
  /// and those where the gradient cannot; unless there are none, run() refuses.
  std::pair<Positions, Positions> take(const std::vector<Batch>& batches);

  /// Two positions where a parameter or its state shares memory with another's, if there are such.
  std::optional<std::pair<Position, Position>> overlap() const;

  /// The 2-norm of the gradients, and whether all their elements are finite.
  std::pair<double, bool> norm() const;

  /// What the coefficients of tensors depend on, by batch. Tensors have their positions among all gathered
  /// with it.
  std::vector<Measured> measure(const std::vector<Coefficients>& groups) const;

  /// Does the step, once for each time that tensors are taken.
  void run(const std::vector<Coefficients>& rows);

 private:
  Exchange exchange_;
  std::size_t average_;
  std::optional<Plan> plan_;
  Positions positions_;  // of the plan's tensors
  bool taken_ = false;
};

}  // namespace fusedstep
