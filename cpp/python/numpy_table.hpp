// A table in a NumPy array, and the gradients of some of its rows.
#pragma once

#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "python/numpy.hpp"
#include "step/table_rows.hpp"

namespace fusedstep {

/// An array whose rows are stepped, with its state. It keeps the arrays whose addresses it has.
class NumpyTable {
 public:
  using Indices = py::array_t<std::int64_t, py::array::c_style>;

  /// `others` are the other arrays that a step writes. Throws std::invalid_argument unless each row of each
  /// array is one run of memory.
  NumpyTable(const py::array& p, const std::vector<py::array>& state, const std::optional<py::array>& mean,
             const std::vector<py::array>& others);

  /// Takes the gradients of rows, and keeps them until the step; gradients of the same row are summed.
  /// Returns the indices of these rows, ascending, each once; nothing if indices or values cannot be used as
  /// they are.
  std::optional<Indices> take(py::handle indices, py::handle values);

  bool taken() const { return values_.has_value(); }
  void release() { values_.reset(); }

  const TableRows& rows() const { return rows_; }

  /// The memory of the gradients as they were given.
  Run values() const;

  /// Whether a run of memory may overlap the memory that a step writes.
  bool may_touch(const Run& run) const;

 private:
  /// Whether `values` are gradients of `count` rows that can be used as they are.
  bool fits(py::handle values, py::ssize_t count) const;

  py::object ndarray_;
  py::array p_;
  std::vector<py::array> kept_;
  std::vector<Rows> others_;
  TableRows rows_;
  std::optional<py::array> values_;
};

}  // namespace fusedstep
