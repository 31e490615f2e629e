// What a step needs and can know in advance: where the tensors are, and which tiles they make.
#pragma once

#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "step/coefficients.hpp"
#include "step/intervals.hpp"
#include "step/mixed.hpp"
#include "step/operands.hpp"
#include "step/step_sums.hpp"
#include "step/table_rows.hpp"
#include "step/tiles.hpp"

namespace fusedstep {

/// A kernel as a list of its sweeps: the index of each in the table. Most kernels have one sweep; those whose
/// direction is computed from the whole matrix have two, one before that and one after it.
using Sweeps = std::vector<std::size_t>;

/// A parameter and what belongs to it. The gradient changes from step to step.
struct Tensor : Operands {
  std::size_t group = 0;
  std::size_t size = 0;
  bool stepped = false;  // whether it has a gradient
};

/// A table of which a step touches some rows; it is a group by itself.
struct TableStep {
  std::size_t before;  // the norm counts its gradient before that of this tensor, which has none itself
  std::size_t group;
  std::size_t kernel;  // the index of the kernel's only sweep
  const TableRows* rows;
};

/// The sums that a group's step depends on, over each of its tensors or over each touched row of its table.
struct Sums {
  std::vector<std::size_t> items;  // the tensors that have a gradient, or 0, 1... for rows; none without sums
  std::vector<double> values;      // one item's sums after the other's, each as values_of has them
};

/// The groups of tensors, each with a kernel and coefficients, and the tables of a step. If some kernels have
/// one sweep and others two, the former take part in the second sweep only, so that all end together.
class Plan {
 public:
  /// `kernels` has a kernel for each group; `average` is the index of the rule that updates the averages.
  /// Throws std::invalid_argument if the sweeps of a kernel do not take the same number of slots.
  Plan(std::vector<Sweeps> kernels, std::size_t average, std::vector<Tensor> tensors);

  /// Takes the tables of the next step, which replace those of the last step. A table may have a group of its
  /// own after those of the tensors, or a group of tensors none of which has a gradient.
  void take(std::vector<TableStep> tables);

  std::size_t sweeps() const { return sweeps_; }
  std::size_t groups() const { return kernels_.size(); }

  /// The index of a group's kernel in a sweep; nothing if the group does not have the sweep.
  std::optional<std::size_t> kernel_index(std::size_t group, std::size_t sweep) const;
  std::size_t average_index() const { return average_; }

  /// The number of items that each group steps: tensors that have a gradient, or touched rows of a table.
  std::vector<std::size_t> items() const;

  /// The sums of each group that has this sweep. In each block of Tiles::size elements of a tensor or row,
  /// element i goes to lane i mod lanes; the lanes are added by halves, the blocks one after the other; all
  /// in double.
  std::vector<Sums> measure(std::size_t sweep, const std::vector<Coefficients>& by_group) const;

  /// Prepares a sweep over every tensor that has a gradient and whose kernel has this sweep. Throws what its
  /// memory may throw; after it, run() does not fail.
  void prepare(std::size_t sweep, std::vector<Coefficients> by_group);

  /// Runs the sweep that was prepared. The last sweep also updates the averages, steps the tables' rows, and,
  /// if `zero_gradients`, sets the gradients of tensors to 0. With `sums`, which is for the last sweep, it
  /// sums squares too, also of the weights that it does not step.
  void run(bool zero_gradients, SumsOfStep* sums = nullptr) noexcept;

  /// The room for the sums of the next step, kept from step to step.
  SumsOfStep& sums();

  /// The gradients in the order of the tensors, with a table's rows at its place. A tensor without a gradient
  /// has a run without elements.
  std::vector<Run> gradients() const;

  std::vector<Tensor>& tensors() { return tensors_; }
  const std::vector<Tensor>& tensors() const { return tensors_; }
  const std::vector<TableStep>& tables() const { return tables_; }
  const std::vector<Sweeps>& kernels() const { return kernels_; }

  /// Says that a step also writes these runs, such as state that is one number for a tensor.
  void writes(const std::vector<Run>& runs);

  /// Whether a run of memory overlaps a parameter, its state, its average, or what else a step writes.
  bool touches(const Run& run) const {
    return memory_.touches(run.array.data, run.bytes()) || beside_.touches(run.array.data, run.bytes());
  }

  /// Two tensors whose parameters or state share memory, or one tensor twice; nothing if there are none.
  std::optional<std::pair<std::size_t, std::size_t>> overlap() const { return memory_.overlap(); }

 private:
  /// What a sweep does to a tensor: nothing if there is no kernel.
  struct Pass {
    const Kernel* kernel = nullptr;
    const double *coefficients = nullptr, *average = nullptr;
  };

  /// A sweep as it was prepared.
  struct Prepared {
    std::size_t sweep = 0;
    std::vector<Coefficients> by_group;
    std::vector<Pass> passes;  // of each tensor
  };

  /// The same kernel, of the instruction set in use; null if there is none.
  const Kernel* kernel(std::size_t group, std::size_t sweep) const;

  bool is_last(std::size_t sweep) const { return sweep + 1 == sweeps_; }
  std::vector<Pass> passes(std::size_t sweep, const std::vector<Coefficients>& by_group) const;
  void measure_tensors(const std::vector<Pass>& passes, std::vector<Sums>& found) const;

  /// A tensor that a sweep measures, with the place of its sums in its group's.
  struct Item {
    std::size_t tensor, place;
    OfSums factors, sums;
  };
  void sum_up(const std::vector<Pass>& passes, std::vector<Item>& items) const;

  std::vector<Sweeps> kernels_;
  std::size_t groups_of_tensors_;
  std::size_t average_;
  std::vector<Tensor> tensors_;
  std::vector<TableStep> tables_;
  std::size_t sweeps_;
  Prepared prepared_;
  std::vector<Tiles> tiles_;  // of each sweep, over the tensors that it stepped the last time
  std::optional<SumsOfStep> sums_;
  Intervals memory_;  // what the sweeps write except gradients
  Intervals beside_;  // what else a step writes
};

}  // namespace fusedstep
