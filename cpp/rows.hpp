// What both plans need for a step: the coefficients as Python gives them, and the norm.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

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

/// A group's: of the prologue, of the rule, and of the averages if any are kept.
using Coefficients = std::tuple<py::dict, py::dict, std::optional<py::dict>>;

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

inline void check(std::size_t kernel, const std::vector<double>& row) {
  const Kernel& wanted = active().kernels[kernel];
  if (row.size() != c_rule + wanted.coefficients)
    throw std::invalid_argument(std::string("wrong number of coefficients for ") + wanted.name);
}

/// The rows that `plan` steps by; an error unless they are those that its kernels need.
inline std::vector<Row> rows_for(const Plan& plan, const std::vector<Coefficients>& groups) {
  const std::vector<std::size_t>& kernels = plan.kernels();
  if (groups.size() != kernels.size()) throw std::invalid_argument("coefficients for each group");
  std::vector<Row> rows;
  for (std::size_t group = 0; group < kernels.size(); ++group) {
    const auto& [prologue, rule, average] = groups[group];
    Row& row = rows.emplace_back();
    append(row.rule, prologue);
    append(row.rule, rule);
    check(kernels[group], row.rule);
    if (!average) continue;
    row.average = no_prologue();
    append(row.average, *average);
    check(plan.average(), row.average);
  }
  for (const Tensor& tensor : plan.tensors())
    if (tensor.average != nullptr && rows[tensor.group].average.empty())
      throw std::invalid_argument("coefficients of the average for each group that keeps one");
  return rows;
}

}  // namespace fusedstep
