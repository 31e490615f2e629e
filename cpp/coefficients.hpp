// What all plans need for a step: the coefficients as Python gives them, and the norm.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "dispatch.hpp"
#include "plan.hpp"

namespace fusedstep {

namespace py = pybind11;

/// A group's: of the prologue, of the rule, of the averages if any are kept, and, as arrays, those that each
/// tensor with a gradient has of its own, if the rule measures it.
using Coefficients = std::tuple<py::dict, py::dict, std::optional<py::dict>, std::optional<py::dict>>;

inline std::pair<double, bool> norm_of(const std::vector<Run>& runs) {
  const py::gil_scoped_release release;
  const Norm found = norm(runs);
  return {found.value, found.finite};
}

inline std::size_t kernel_index(const std::string& name) {
  const Table& table = active();
  for (std::size_t i = 0; i < table.size; ++i)
    if (table.kernels[i].name == name) return i;
  throw std::invalid_argument("no kernel named '" + name + "'");
}

inline void append(std::vector<double>& row, const py::dict& values) {
  for (const auto& [name, value] : values) row.push_back(value.cast<double>());
}

inline void check(bool holds, const char* what, const Kernel& kernel) {
  if (!holds) throw std::invalid_argument(std::string("wrong number of ") + what + " for " + kernel.name);
}

/// A row for each tensor: the group's, then the tensor's own.
inline std::vector<double> rows_of_tensors(const std::vector<double>& group, const py::dict& own,
                                           std::size_t tensors, const Kernel& kernel) {
  const std::size_t stride = group.size() + own.size();
  std::vector<double> rows(tensors * stride);
  for (std::size_t i = 0; i < tensors; ++i)
    std::copy(group.begin(), group.end(), rows.begin() + static_cast<std::ptrdiff_t>(i * stride));
  std::size_t place = group.size();
  for (const auto& [name, values] : own) {
    const auto column = values.cast<py::array_t<double, py::array::c_style | py::array::forcecast>>();
    check(column.ndim() == 1 && static_cast<std::size_t>(column.size()) == tensors, "tensors", kernel);
    for (std::size_t i = 0; i < tensors; ++i) rows[i * stride + place] = column.data()[i];
    ++place;
  }
  return rows;
}

/// The row of a group of so many tensors with a gradient; an error unless it is what the kernels need. Before
/// the tensors are measured, what they have of their own is 0.
inline Row row_for(const Kernel& kernel, const Kernel& of_average, std::size_t tensors,
                   const Coefficients& group) {
  const auto& [prologue, rule, average, own] = group;
  const std::size_t width = c_rule + kernel.coefficients;
  Row row = {};
  append(row.rule, prologue);
  append(row.rule, rule);
  if (own) {
    row.stride = row.rule.size() + own->size();
    check(row.stride == width, "coefficients", kernel);
    row.rule = rows_of_tensors(row.rule, *own, tensors, kernel);
  } else {
    check(kernel.sums > 0 ? row.rule.size() < width : row.rule.size() == width, "coefficients", kernel);
    row.rule.resize(width);
  }
  if (average) {
    row.average = no_prologue();
    append(row.average, *average);
    check(row.average.size() == c_rule + of_average.coefficients, "coefficients", of_average);
  }
  return row;
}

/// The rows that `plan` steps by.
inline std::vector<Row> rows_for(const Plan& plan, const std::vector<Coefficients>& groups) {
  const std::vector<std::size_t>& kernels = plan.kernels();
  if (groups.size() != kernels.size()) throw std::invalid_argument("coefficients for each group");
  std::vector<std::size_t> stepped(kernels.size());
  for (const Tensor& tensor : plan.tensors()) stepped[tensor.group] += tensor.stepped;
  std::vector<Row> rows;
  for (std::size_t group = 0; group < kernels.size(); ++group)
    rows.push_back(row_for(active().kernels[kernels[group]], active().kernels[plan.average()], stepped[group],
                           groups[group]));
  return rows;
}

/// The positions of a group's tensors, and as many rows of sums.
using Measured = std::pair<std::vector<std::size_t>, py::array_t<double>>;

inline std::vector<Measured> measure(const Plan& plan, const std::vector<Coefficients>& groups) {
  const std::vector<Row> rows = rows_for(plan, groups);
  std::vector<Sums> sums;
  {
    const py::gil_scoped_release release;
    sums = plan.measure(rows);
  }
  std::vector<Measured> measured;
  for (Sums& group : sums) {
    const std::size_t n = group.tensors.size();
    const std::vector<std::size_t> shape = {n, n == 0 ? 0 : group.values.size() / n};
    measured.emplace_back(std::move(group.tensors), py::array_t<double>(shape, group.values.data()));
  }
  return measured;
}

}  // namespace fusedstep
