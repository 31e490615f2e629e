// What a step needs to know and can know before: where the tensors are, and which tiles they make.
#pragma once

#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "step/coefficients.hpp"
#include "step/intervals.hpp"
#include "step/operands.hpp"
#include "step/table_rows.hpp"
#include "step/tiles.hpp"

namespace fusedstep {

/// A kernel as a step goes through it: the index in the table of each of its sweeps. Most have one; two have
/// those whose direction is made of the whole matrix in between.
using Sweeps = std::vector<std::size_t>;

/// A parameter and what belongs to it. The gradient changes from step to step.
struct Tensor : Operands {
  std::size_t group = 0;
  std::size_t size = 0;
  bool stepped = false;  // whether it has a gradient
};

/// A table of which a step touches some rows: a group by itself.
struct TableStep {
  std::size_t before;  // its gradient counts in the norm before that of this tensor, which has none itself
  std::size_t group;
  std::size_t kernel;  // its index; there is one sweep
  const TableRows* rows;
};

/// The sums that a group's step depends on, over each of its tensors or each touched row of its table.
struct Sums {
  std::vector<std::size_t> items;  // the tensors that have a gradient, or 0, 1... for rows; none without sums
  std::vector<double> values;      // of one item after those of the other
};

/// Groups of tensors, of which each has a kernel and coefficients, and at a step tables too. In a plan of
/// kernels with one sweep and kernels with two, the former take part in the second sweep alone: all end
/// together.
class Plan {
 public:
  /// `kernels` has a kernel for each group; `average` is the index of the rule that keeps the averages.
  /// Throws std::invalid_argument where the sweeps of a kernel do not take the same slots.
  Plan(std::vector<Sweeps> kernels, std::size_t average, std::vector<Tensor> tensors);

  /// Takes the tables of the next step, instead of those before. One may have a group of its own after those
  /// of the tensors, or one of these that has no other tensor with a gradient.
  void take(std::vector<TableStep> tables);

  std::size_t sweeps() const { return sweeps_; }
  std::size_t groups() const { return kernels_.size(); }

  /// A group's kernel in a sweep; null where it has no such sweep.
  const Kernel* kernel(std::size_t group, std::size_t sweep) const;
  const Kernel& average_kernel() const;

  /// How many items each group steps: tensors that have a gradient, or rows of a table.
  std::vector<std::size_t> items() const;

  /// The sums of each group that has this sweep. Of each block of Tiles::size elements of a tensor or row,
  /// element i goes to lane i mod lanes; lanes are added by halves, blocks one after the other; all in
  /// double.
  std::vector<Sums> measure(std::size_t sweep, const std::vector<Coefficients>& by_group) const;

  /// Does a sweep over every tensor that has a gradient and has this sweep; in the last one it brings the
  /// averages up to date, steps the tables' rows, and sets the gradients of tensors to 0 if so asked.
  void run(std::size_t sweep, const std::vector<Coefficients>& by_group, bool zero_gradients);

  /// The gradients in the order of tensors, a table's rows in its place; without elements where there is
  /// none.
  std::vector<Run> gradients() const;

  std::vector<Tensor>& tensors() { return tensors_; }
  const std::vector<Tensor>& tensors() const { return tensors_; }
  const std::vector<TableStep>& tables() const { return tables_; }
  const std::vector<Sweeps>& kernels() const { return kernels_; }

  /// Whether a run of memory touches a tensor or its state.
  bool touches(const Run& run) const { return memory_.touches(run.array.data, run.bytes()); }

  /// Two tensors, or one twice, whose parameters and state share memory, if there are such.
  std::optional<std::pair<std::size_t, std::size_t>> overlap() const { return memory_.overlap(); }

 private:
  /// What a sweep does to a tensor; without a kernel, nothing.
  struct Pass {
    const Kernel* kernel = nullptr;
    const double *coefficients = nullptr, *average = nullptr;
  };

  bool is_last(std::size_t sweep) const { return sweep + 1 == sweeps_; }
  std::vector<Pass> passes(std::size_t sweep, const std::vector<Coefficients>& by_group) const;
  void measure_tensors(const std::vector<Pass>& passes, std::vector<Sums>& found) const;

  std::vector<Sweeps> kernels_;
  std::size_t groups_of_tensors_;
  std::size_t average_;
  std::vector<Tensor> tensors_;
  std::vector<TableStep> tables_;
  std::size_t sweeps_;
  std::vector<Tiles> tiles_;  // of each sweep: made of the tensors that it was over the last time
  Intervals memory_;          // what a step writes but for gradients
};

}  // namespace fusedstep
