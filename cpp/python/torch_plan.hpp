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
#include "python/forecast.hpp"
#include "python/torch_parameters.hpp"
#include "step/intervals.hpp"

namespace fusedstep {

/// A plan that takes its tensors again at each step. It remembers the results of its checks, which hold as
/// long as the tensors are where they were.
class TorchPlan {
 public:
  /// Parameters that share coefficients, and the tensors of their state that have a number for each row or
  /// column.
  using Batch = std::tuple<std::shared_ptr<TorchParameters>, TorchParameters::Members, py::list>;
  /// A batch, and a parameter's position in the TorchParameters of the batch.
  using Position = std::pair<std::size_t, std::size_t>;
  using Positions = std::vector<Position>;

  /// What of a step cannot be used as it is.
  struct Odd {
    Positions parameters;  // or their state
    Positions gradients;
    Positions in_small_state;  // gradients in the memory of state that is no slot of a kernel

    bool empty() const { return parameters.empty() && gradients.empty() && in_small_state.empty(); }
  };

  /// `kind` is the class of the tensors; `increment` is the function that tells autograd that these are
  /// changed.
  TorchPlan(py::type kind, const std::string& average, py::function increment);

  const Exchange& exchange() const { return exchange_; }

  /// The number of sweeps of the step that was taken last.
  std::size_t sweeps() const { return plan_ ? plan_->sweeps() : 1; }

  /// Takes a step's tensors. Returns the positions of those that cannot be used as they are; if there are
  /// any, run() throws. A parameter whose gradient is rows must be the only one of its batch; otherwise
  /// throws std::logic_error.
  Odd take(const std::vector<Batch>& batches);

  /// The parameters of the step, in the order of its batches.
  py::list parameters() const;

  /// Says that the step which was taken last had these batches, each all that was found of one group; next
  /// come calls of remember_entries. If steps are `counted`, the first scalar of a parameter is their number;
  /// the first `shared` scalars are equal for all parameters of a group.
  void remember(const std::vector<std::shared_ptr<TorchParameters>>& groups, bool counted,
                std::size_t shared);

  /// Remembers the entries of the k-th group besides its parameters; returns whether none can change itself.
  bool remember_entries(std::size_t k, const py::dict& group);

  /// Looks up the tensors of groups, and takes them if they are those that were remembered, where they were,
  /// and can be used as they are; returns whether it did so. `groups` has pairs of a group as torch keeps it
  /// and the list of those of its parameters that are to be stepped.
  bool again(const py::list& groups, const py::dict& states);

  /// Steps the tensors that were taken again, where the coefficients of all groups were forecast and their
  /// entries have stayed. Adds to the changes the count of steps, and the norm of the gradients under
  /// ``"grad_norm"`` in `attributes` if they are to be clipped. Returns whether it did so.
  bool step_again(const GradientOptions& options, const py::dict& attributes, Changes& changes);

  /// Of the groups that were taken again, the shared scalars of each; and the positions of the groups whose
  /// entries are not the objects that are remembered, or can change themselves.
  std::pair<std::vector<std::vector<double>>, std::vector<std::size_t>> found_again() const;

  /// Says which coefficients the k-th of the remembered groups will have at step `first` and after it, if its
  /// entries stay.
  void forecast(std::size_t k, std::int64_t first, const ByGroup& steps);

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

  /// Lets go of the tensors of a step, also of one that did not come to its end.
  void release();

 private:
  /// A group that may be stepped again.
  struct Remembered {
    std::shared_ptr<TorchParameters> parameters;
    std::uint64_t version;
    py::object group;  // while it is stepped
    Entries entries;
  };

  /// Takes the gradients of the groups that are remembered; returns false if not all can be used as they are.
  bool take_gradients();

  void check_taken() const;

  /// Whether a gradient can be used where it is; otherwise adds its position to `odd`.
  bool check(const Run& gradient, const Position& position, Odd& odd) const;

  void forget_tables();

  /// Gives the plan the tables of the parameters whose gradient is rows.
  void take_tables(std::vector<TableStep> steps, Odd& odd);

  /// The memory of the batches' small state: numbers of a tensor, a row or a column.
  std::vector<Run> small_state_of(const std::vector<Batch>& batches) const;

  Exchange exchange_;
  py::function increment_;
  std::size_t average_;
  std::optional<Plan> plan_;
  Positions positions_;           // of the plan's tensors
  std::vector<Run> small_state_;  // which the plan was made for
  Intervals in_small_state_;      // the same, to search in
  std::vector<std::shared_ptr<TorchRows>> tables_;
  std::vector<std::shared_ptr<TorchParameters>> sources_;  // of the tensors of this step
  std::vector<Remembered> remembered_;
  bool counted_ = false;    // whether the parameters that are remembered count their steps
  std::size_t shared_ = 0;  // the number of their shared scalars
  Forecast forecast_;       // of the groups that are remembered
  bool taken_ = false;
};

}  // namespace fusedstep
