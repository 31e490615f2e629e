// Some rows of a table, stepped without the others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "step/coefficients.hpp"
#include "step/mixed.hpp"
#include "step/operands.hpp"
#include "step/row_gradients.hpp"
#include "step/rows.hpp"

namespace fusedstep {

/// The rows of a parameter with their state and the average of their weights, and the gradients of the rows
/// that a step touches. Each row is stepped as a tensor of its own.
class TableRows {
 public:
  /// All arrays have the same number of rows, of the same width.
  TableRows(const Rows& p, std::vector<Rows> state, const std::optional<Rows>& average);

  /// Takes the indices of the rows to touch, in any order; returns false if one of them is not in the table.
  bool name(const std::int64_t* indices, std::size_t n) { return gradients_.name(indices, n, p_.count); }

  /// Takes the gradients, one row after the other, in the order of `indices`. They must stay in memory until
  /// the step. Gradients of the same row are summed.
  void take(const Array& values) { gradients_.take(values, p_.width); }

  const Rows& p() const { return p_; }
  std::size_t slots() const { return state_.size(); }

  /// How many rows are touched, and their indices: ascending, each once.
  std::size_t size() const { return gradients_.size(); }
  const std::int64_t* touched() const { return gradients_.rows(); }
  Run gradient(std::size_t k) const { return {gradients_[k], p_.width}; }

  /// Whether a run of memory may overlap the memory that a step writes.
  bool may_touch(const Run& run) const;

  /// Sums the terms of each touched row's elements; `values`, at first all 0, has values_of(kernel) per row.
  void measure(const Kernel& kernel, const Coefficients& coefficients, double* values) const;

  /// Steps the touched rows; `sums`, unless it is null, has one item per row, at first all 0, for what is
  /// summed.
  void run(const Kernel& kernel, const Kernel& average_kernel, const Coefficients& coefficients,
           StepSums* sums) const;

 private:
  /// Calls work(k, operands) for each touched row, the k-th one with its operands.
  template <class Function>
  void for_each_row(const Function& work) const;

  /// Replaces the operands of another row by those of the k-th touched row.
  void set_operands(std::size_t k, Operands& of) const;

  void prefetch(std::size_t k) const;

  Rows p_;
  std::vector<Rows> state_;
  std::optional<Rows> average_;
  Format slots_format_;
  RowGradients gradients_;
};

}  // namespace fusedstep
