// The plan of a step of NumPy's arrays.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "python/changes.hpp"
#include "python/coefficients.hpp"
#include "python/forecast.hpp"
#include "python/numpy_table.hpp"

namespace fusedstep {

/// A plan and the arrays whose addresses it holds.
class NumpyPlan {
 public:
  /// The group, the parameter, the state that its kernel takes, the average of its weights if one is kept,
  /// and other state.
  using Entry = std::tuple<std::size_t, py::array, std::vector<py::array>, std::optional<py::array>,
                           std::vector<py::array>>;

  /// A table's position among the parameters, the name of its kernel, and the table, which has taken its
  /// rows.
  using TableEntry = std::tuple<std::size_t, std::string, std::shared_ptr<NumpyTable>>;

  /// `kernels` has the names of the sweeps of each group's kernel.
  NumpyPlan(const std::vector<std::vector<std::string>>& kernels, const std::string& average,
            std::vector<Entry> entries);

  std::size_t sweeps() const { return plan_.sweeps(); }

  /// Takes a step's gradients, one or None for each parameter, and the tables whose rows are stepped too.
  /// Returns the positions of those that the kernels cannot use as they are; if there are any, run() throws.
  /// Gradients that will be zeroed must not overlap one another.
  std::vector<std::size_t> pin(const py::list& gradients, bool zero_gradients,
                               const std::vector<TableEntry>& tables);

  /// The 2-norm of the gradients, and whether all their elements are finite.
  std::pair<double, bool> norm() const;

  /// The sums that the coefficients of a sweep depend on, by group.
  std::vector<Measured> measure(std::size_t sweep, const ByGroup& coefficients) const;

  /// Runs a sweep. The last sweep ends the step, and writes the changes too, if there are any: it fails
  /// before anything is written or not at all. Each step needs its own pin(), since nothing keeps the
  /// gradients alive beyond the step.
  void run(std::size_t sweep, const ByGroup& coefficients, bool zero_gradients, const Changes* changes);

  /// Prepares the only sweep, with coefficients that are known already. A step that is skipped ends here.
  Found prepare_known(std::vector<Coefficients> known, const GradientOptions& options);

  /// Runs the sweep, and writes the changes.
  void run_known(bool zero_gradients, const Changes& changes);

  const Plan& plan() const { return plan_; }

  /// Runs the last sweep, and returns the sums over each tensor, as StepSums.
  py::array_t<double> run_and_sum(const ByGroup& coefficients, bool zero_gradients, const Changes* changes);

  /// Forgets the gradients of a step, also of one that did not come to its end.
  void release();

 private:
  void check_pinned() const;

  /// Takes the tables; each becomes a group after the groups of the parameters.
  void take_tables(const py::list& gradients, const std::vector<TableEntry>& tables);

  /// Takes the gradient of parameter i if its format can be mixed with the parameter's, its shape and order
  /// in memory are the parameter's, and it does not overlap anything that the step writes; else returns
  /// false.
  bool take(py::handle object, std::size_t i, bool writes);

  /// The positions of gradients, including those of tables, that begin inside the memory of another gradient.
  std::vector<std::size_t> overlapping_gradients() const;

  /// Whether a run of memory may overlap the memory that the tables' steps write.
  bool tables_may_touch(const Run& run) const;

  py::object ndarray_;
  Plan plan_;
  std::vector<Entry> entries_;
  std::vector<std::pair<std::size_t, std::shared_ptr<NumpyTable>>> tables_;  // with their positions
  bool pinned_ = false;
};

}  // namespace fusedstep
