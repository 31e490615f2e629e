// The plan of a step of another library's tensors.
#pragma once

#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "python/changes.hpp"
#include "python/coefficients.hpp"
#include "python/torch_parameters.hpp"
#include "step/intervals.hpp"

namespace fusedstep {

/// A plan that takes its tensors again at each step. It remembers the results of its checks, which hold as
/// long as the tensors are where they were.
class TorchPlan {
 public:
  /// Parameters that share coefficients, and the tensors of their state that have a number for each row or
  /// column.
  using Batch = std::tuple<const TorchParameters*, TorchParameters::Members, py::list>;
  /// A batch, and a parameter's position in the TorchParameters of the batch.
  using Position = std::pair<std::size_t, std::size_t>;
  using Positions = std::vector<Position>;

  /// What of a step cannot be used as it is.
  struct Odd {
    Positions parameters;  // or their state
    Positions gradients;
    Positions in_small_state;  // gradients in the memory of state that is no slot of a kernel
  };

  /// `kind` is the class of the tensors.
  TorchPlan(py::type kind, const std::string& average);

  const Exchange& exchange() const { return exchange_; }

  /// The number of sweeps of the step that was taken last.
  std::size_t sweeps() const { return plan_ ? plan_->sweeps() : 1; }

  /// Takes a step's tensors. Returns the positions of those that cannot be used as they are; if there are
  /// any, run() throws. A parameter whose gradient is rows must be the only one of its batch; otherwise
  /// throws std::logic_error.
  Odd take(const std::vector<Batch>& batches);

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

  /// Whether a gradient can be used where it is; otherwise adds its position to `odd`.
  bool check(const Run& gradient, const Position& position, Odd& odd) const;

  /// Gives the plan the tables of the parameters whose gradient is rows.
  void take_tables(std::vector<TableStep> steps, Odd& odd);

  /// The memory of the batches' small state: numbers of a tensor, a row or a column.
  std::vector<Run> small_state_of(const std::vector<Batch>& batches) const;

  Exchange exchange_;
  std::size_t average_;
  std::optional<Plan> plan_;
  /// What the plan was made for: versions of the parameters, and the members of each batch.
  using Known = std::vector<std::pair<std::uint64_t, TorchParameters::Members>>;

  /// Takes the gradients of the tensors that the plan was made for; returns false if it was made for others,
  /// or if not all gradients can be used as they are.
  bool take_again(const std::vector<Batch>& batches);

  Known known_;
  Positions positions_;           // of the plan's tensors
  std::vector<Run> small_state_;  // which the plan was made for
  Intervals in_small_state_;      // the same, to search in
  std::vector<std::shared_ptr<TorchRows>> tables_;
  bool taken_ = false;
};

}  // namespace fusedstep
