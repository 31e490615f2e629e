// The plan of some rows of an array.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "coefficients.hpp"
#include "numpy.hpp"
#include "touched.hpp"

namespace fusedstep {

/// An array whose rows are runs of memory.
class Rows {
 public:
  explicit Rows(py::array array);

  Number number() const { return number_; }
  std::size_t width() const { return width_; }
  std::int64_t count() const { return array_.shape(0); }
  Array operator[](std::int64_t i) const { return {number_, data_ + i * stride_}; }

  /// Whether an array has the shape of so many of the rows, in one run of memory.
  bool fits(const py::array& rows, py::ssize_t count) const;

  /// Whether an array, one run of memory, may share some with the rows.
  bool may_touch(const py::array& run) const;

 private:
  py::array array_;
  Number number_;
  std::size_t width_;  // elements of a row
  char* data_;
  std::ptrdiff_t stride_;  // in bytes
};

/// An array with its state, of which a step touches some rows.
class RowPlan {
 public:
  using Indices = py::array_t<std::int64_t, py::array::c_style>;

  /// `others` is what else a step writes.
  RowPlan(const std::string& kernel, const std::string& average, const py::array& p,
          const std::vector<py::array>& state, const std::optional<py::array>& mean,
          const std::vector<py::array>& others);

  /// Takes the gradients of rows, and keeps them until the step; those of one row are summed. Returns which
  /// rows these are, ascending, each once; nothing if rows or gradients cannot be used as they are.
  std::optional<Indices> take(py::handle rows, py::handle gradients);

  /// The 2-norm of the gradients, and whether all their elements are finite.
  std::pair<double, bool> norm() const;

  /// The sums over each row that its step depends on, as Plan has them of a tensor.
  py::array_t<double> measure(const Coefficients& coefficients) const;

  /// Does the step, once for each time that gradients are taken.
  void run(const Coefficients& coefficients);

 private:
  /// Whether the gradients of so many rows can be used as they are.
  bool fits(py::handle gradients, py::ssize_t count) const;

  void check_taken() const;

  const Kernel& kernel() const { return active().kernels[kernel_]; }
  const Kernel& of_average() const { return active().kernels[average_]; }

  /// Calls work(k, operands) for the k-th of the rows, for each of them.
  template <class Function>
  void for_each_row(const Function& work) const;

  void prefetch(std::size_t k) const;

  py::object ndarray_;
  std::size_t kernel_, average_;
  Rows p_;
  std::vector<Rows> state_;
  std::optional<Rows> mean_;
  std::vector<Rows> others_;
  Touched touched_;
  std::optional<py::array> gradients_;
};

}  // namespace fusedstep
