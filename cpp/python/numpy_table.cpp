#include "python/numpy_table.hpp"

#include <algorithm>
#include <stdexcept>

#include "python/gil.hpp"

namespace fusedstep {
namespace {

Run run_of(const py::array& array) {
  return {{format_of(array.dtype()), const_cast<void*>(array.data())},
          static_cast<std::size_t>(array.size())};
}

Rows rows_of(py::array array) {
  Rows rows = {{checked_format(array.dtype()), array.mutable_data()}, 1, array.shape(0), array.strides(0)};
  for (py::ssize_t axis = array.ndim() - 1; axis > 0; --axis) {
    const bool run = array.size() == 0 || array.shape(axis) == 1 ||
                     array.strides(axis) == static_cast<py::ssize_t>(rows.width) * array.itemsize();
    if (!run) throw std::invalid_argument("rows that are no runs of memory");
    rows.width *= static_cast<std::size_t>(array.shape(axis));
  }
  return rows;
}

std::vector<Rows> rows_of(const std::vector<py::array>& arrays) {
  std::vector<Rows> rows;
  for (const py::array& array : arrays) rows.push_back(rows_of(array));
  return rows;
}

/// The rows of an array that belongs to p: its state or its average.
Rows rows_beside(const py::array& p, const py::array& array) {
  const bool alike = array.ndim() == p.ndim() && std::equal(p.shape(), p.shape() + p.ndim(), array.shape());
  if (!alike) throw std::invalid_argument("state of another shape than its parameter");
  const Rows rows = rows_of(array);
  if (!mix(rows.first.format, checked_format(p.dtype())))
    throw std::invalid_argument("float64 mixes with no other type");
  return rows;
}

TableRows table_of(const py::array& p, const std::vector<py::array>& state,
                   const std::optional<py::array>& mean) {
  const Rows rows = rows_of(p);
  std::vector<Rows> slots;
  for (const py::array& slot : state) slots.push_back(rows_beside(p, slot));
  std::optional<Rows> average;
  if (mean) average = rows_beside(p, *mean);
  return {rows, std::move(slots), average};
}

}  // namespace

NumpyTable::NumpyTable(const py::array& p, const std::vector<py::array>& state,
                       const std::optional<py::array>& mean, const std::vector<py::array>& others)
    : ndarray_(py::module_::import("numpy").attr("ndarray")),
      p_(p),
      kept_(state),
      others_(rows_of(others)),
      rows_(table_of(p, state, mean)) {
  kept_.insert(kept_.end(), others.begin(), others.end());
  if (mean) kept_.push_back(*mean);
}

std::optional<NumpyTable::Indices> NumpyTable::take(py::handle indices, py::handle values) {
  release();
  if (!py::type::handle_of(indices).is(ndarray_) || !py::isinstance<Indices>(indices)) return {};
  const auto named = py::reinterpret_borrow<Indices>(indices);
  if (named.ndim() != 1 || !fits(values, named.size())) return {};
  // The indices are copied before they are checked: another thread may write to the array.
  if (!rows_.name(named.data(), static_cast<std::size_t>(named.size()))) return {};
  values_ = py::reinterpret_borrow<py::array>(values);
  const Array given = this->values().array;
  without_gil([&] { rows_.take(given); });
  return Indices(static_cast<py::ssize_t>(rows_.size()), rows_.touched());
}

Run NumpyTable::values() const { return run_of(*values_); }

bool NumpyTable::may_touch(const Run& run) const {
  const auto touches = [&](const Rows& rows) { return rows.may_touch(run); };
  return rows_.may_touch(run) || std::any_of(others_.begin(), others_.end(), touches);
}

bool NumpyTable::fits(py::handle values, py::ssize_t count) const {
  if (!py::type::handle_of(values).is(ndarray_)) return false;
  const auto given = py::reinterpret_borrow<py::array>(values);
  const Format found = format_of(given.dtype());
  if (found == formats || !mix(found, rows_.p().first.format)) return false;
  const auto is = [&](int flag) { return (given.flags() & flag) != 0; };
  if (!is(py::array::c_style) || !is(py::detail::npy_api::NPY_ARRAY_ALIGNED_)) return false;
  if (given.ndim() != p_.ndim() || given.shape(0) != count) return false;
  if (!std::equal(p_.shape() + 1, p_.shape() + p_.ndim(), given.shape() + 1)) return false;
  return !may_touch(run_of(given));
}

}  // namespace fusedstep
