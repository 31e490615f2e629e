// The plan of a step of another library's tensors.
#pragma once

#include <pybind11/stl.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "python/changes.hpp"
#include "python/coefficients.hpp"
#include "python/torch_parameters.hpp"

namespace fusedstep {

/// A plan that takes its tensors again at each step. It remembers the results of its checks, which hold as
/// long as the tensors are where they were.
class TorchPlan {
 public:
  /// Parameters that share coefficients and a kernel, which is given by the names of its sweeps.
  using Batch = std::tuple<std::vector<std::string>, const TorchParameters*, TorchParameters::Members>;
  /// A batch, and a parameter's position in the TorchParameters of the batch.
  using Position = std::pair<std::size_t, std::size_t>;
  using Positions = std::vector<Position>;

  /// `kind` is the class of the tensors.
  TorchPlan(py::type kind, const std::string& average);

  const Exchange& exchange() const { return exchange_; }

  /// The number of sweeps of the step that was taken last.
  std::size_t sweeps() const { return plan_ ? plan_->sweeps() : 1; }

  /// Takes a step's tensors. Returns the positions at which parameter or state cannot be used as they are,
  /// and those at which the gradient cannot; if there are any, run() throws. A parameter whose gradient is
  /// rows must be the only one of its batch; otherwise throws std::logic_error.
  std::pair<Positions, Positions> take(const std::vector<Batch>& batches);

  /// Two positions whose parameters or state share memory; nothing if there are none.
  std::optional<std::pair<Position, Position>> overlap() const;

  /// The 2-norm of the gradients, and whether all their elements are finite.
  std::pair<double, bool> norm() const;

  /// The sums that the coefficients of a sweep depend on, by batch. A tensor's position is the one in the
  /// TorchParameters of its batch.
  std::vector<Measured> measure(std::size_t sweep, const ByGroup& coefficients) const;

  /// Runs a sweep. The last sweep ends the step, and writes the changes too, if there are any: it fails
  /// before anything is written or not at all. Each step needs its own take().
  void run(std::size_t sweep, const ByGroup& coefficients, bool zero_gradients, const Changes* changes);

  /// Forgets the gradients of a step, also of one that did not come to its end.
  void release();

 private:
  void check_taken() const;

  /// Gives the plan the tables of the parameters whose gradient is rows; adds the positions of those whose
  /// gradient cannot be used as it is to `odd_gradients`.
  void take_tables(std::vector<TableStep> steps, Positions& odd_gradients);

  Exchange exchange_;
  std::size_t average_;
  std::optional<Plan> plan_;
  Positions positions_;  // of the plan's tensors
  std::vector<std::shared_ptr<TorchRows>> tables_;
  bool taken_ = false;
};

}  // namespace fusedstep
