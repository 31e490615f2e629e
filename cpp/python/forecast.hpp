// The coefficients of steps to come.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "python/coefficients.hpp"
#include "step/plan.hpp"

namespace fusedstep {

namespace py = pybind11;

/// The entries of a dictionary that holds a group's hyperparameters. While it has the same objects, and none
/// that can change itself, the group has the same hyperparameters, or the same functions of the step.
class Entries {
 public:
  Entries() = default;
  /// `is_fixed` is a function of Python's: whether the value of a callable depends on the step alone.
  explicit Entries(const py::dict& group, const py::object& is_fixed = py::none());
  /// Whether none of them can change itself.
  bool stay() const { return keys_and_values_.has_value(); }

  /// `group` is a dictionary.
  bool are_of(py::handle group) const;

 private:
  std::optional<std::vector<py::object>> keys_and_values_;  // nothing if one of them can change itself
};

/// The factor that brings gradients of this norm to at most `limit`; NaN if the norm is NaN.
double clip_coefficient(double norm, double limit);

/// The coefficients of a plan's groups in the steps to come, while their hyperparameters stay as they are.
/// They are computed for some steps at once: where other work has come between two steps, Python's first
/// computation takes many times as long as those that follow it.
class Forecast {
 public:
  void forget() { groups_.clear(); }

  /// Takes a group's coefficients at step `first` and the steps after it, for gradients that are neither
  /// scaled nor clipped.
  void set(const Plan& plan, std::size_t group, std::int64_t first, const ByGroup& steps);

  /// Whether the coefficients of all groups are known, each at its own step.
  bool has(const std::vector<std::int64_t>& steps) const;

  /// These coefficients; nothing if some are not known.
  std::optional<std::vector<Coefficients>> at(const std::vector<std::int64_t>& steps) const;

 private:
  struct Group {
    std::int64_t first = 0;
    std::vector<Coefficients> steps;
  };
  std::vector<Group> groups_;
};

/// What a step does to gradients before its rules see them.
struct GradientOptions {
  double scale;
  std::optional<double> clip_norm;
  double clip_value;
  bool skip_nonfinite = false;  // whether there is no step if an element is not finite
};

/// What a step has found before its pass.
struct Found {
  std::optional<double> norm;  // of the scaled gradients, if the options need it
  bool skipped;
};

/// Prepares the only sweep of a step whose coefficients were forecast, unless it is skipped.
Found prepare_ahead(Plan& plan, std::vector<Coefficients> known, const GradientOptions& options);

}  // namespace fusedstep
