// Steps of NumPy's arrays whose coefficients are known before.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "python/busy.hpp"
#include "python/forecast.hpp"
#include "python/layouts.hpp"
#include "python/numpy_plan.hpp"
#include "python/structure.hpp"

namespace fusedstep {

/// What an optimizer needs to do a step without Python: the plan, the coefficients of some steps to come, and
/// all that they depend on. They are computed when they are needed first. Where a step needs more, there is
/// none, and the engine does it.
class Foresight {
 public:
  /// `groups` has each group's dictionary of hyperparameters, and `counts` the number of steps, as "t".
  /// is_fixed(schedule) is whether the value of a schedule depends on t alone. coefficients(t, settled)
  /// returns for each group those of step t, and those of steps after it if its hyperparameters are settled.
  Foresight(std::shared_ptr<NumpyPlan> plan, std::shared_ptr<const Layouts> parameters, Structure structure,
            const std::vector<py::dict>& groups, py::function is_fixed, py::function coefficients,
            py::dict counts, std::shared_ptr<Busy> busy);

  /// Does the next step, by somebody who has the lock. `options` are those of Optimizer.step, unchecked, from
  /// `scale` to `norms`. Returns the norm of the scaled gradients, or None where it was not needed, in a
  /// tuple; None if there was no step.
  py::object step(py::handle gradients, py::handle loss, const py::tuple& options);

 private:
  std::vector<std::int64_t> all_at(std::int64_t t) const { return std::vector(groups_.size(), t); }

  /// Has the coefficients of step t for the hyperparameters as they are; returns whether they can be known.
  bool look(std::int64_t t);

  std::shared_ptr<NumpyPlan> plan_;
  std::shared_ptr<const Layouts> parameters_;
  Structure structure_;
  std::vector<std::pair<py::dict, Entries>> groups_;
  py::function is_fixed_, coefficients_;
  py::dict counts_;
  std::shared_ptr<Busy> busy_;
  Forecast forecast_;
};

}  // namespace fusedstep
