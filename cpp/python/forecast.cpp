#include "python/forecast.hpp"

#include <pybind11/critical_section.h>

#include <cmath>
#include <utility>

#include "python/look_up.hpp"

namespace fusedstep {
namespace {

/// Calls function(key, value) for each entry of a group besides its parameters and their names, until one
/// call returns false; returns whether none did.
template <class Function>
bool for_each_entry(py::handle group, const Function& function) {
  static const py::handle params = interned("params"), names = interned("param_names");
  const py::scoped_critical_section alone(group);
  PyObject *key = nullptr, *value = nullptr;
  for (Py_ssize_t next = 0; PyDict_Next(group.ptr(), &next, &key, &value) != 0;)
    if (key != params.ptr() && key != names.ptr() && !function(py::handle(key), py::handle(value)))
      return false;
  return true;
}

/// Whether an object is a number, a string, None, a tuple of these, or a callable that is fixed.
bool stays(py::handle object, const py::object& is_fixed) {
  PyObject* const o = object.ptr();
  if (o == Py_None || PyFloat_CheckExact(o) || PyLong_CheckExact(o) || PyBool_Check(o) ||
      PyUnicode_CheckExact(o))
    return true;
  if (PyCallable_Check(o)) return !is_fixed.is_none() && is_fixed(object).cast<bool>();
  if (!PyTuple_CheckExact(o)) return false;
  for (const py::handle part : py::reinterpret_borrow<py::tuple>(object))
    if (!stays(part, is_fixed)) return false;
  return true;
}

}  // namespace

Entries::Entries(const py::dict& group, const py::object& is_fixed) {
  std::vector<py::object> found;
  for_each_entry(group, [&](py::handle key, py::handle value) {
    found.push_back(py::reinterpret_borrow<py::object>(key));
    found.push_back(py::reinterpret_borrow<py::object>(value));
    return true;
  });
  for (const py::object& object : found)
    if (!stays(object, is_fixed)) return;
  keys_and_values_ = std::move(found);
}

bool Entries::are_of(py::handle group) const {
  if (!keys_and_values_) return false;
  const std::vector<py::object>& known = *keys_and_values_;
  std::size_t k = 0;
  const bool same = for_each_entry(group, [&](py::handle key, py::handle value) {
    if (k + 2 > known.size() || !key.is(known[k]) || !value.is(known[k + 1])) return false;
    k += 2;
    return true;
  });
  return same && k == known.size();
}

double clip_coefficient(double norm, double limit) {
  const double coefficient = limit / (norm + 1e-6);
  return coefficient > 1 ? 1 : coefficient;
}

void Forecast::set(const Plan& plan, std::size_t group, std::int64_t first, const ByGroup& steps) {
  std::vector<Coefficients> known;
  for (const py::object& step : steps) known.push_back(coefficients_of(plan, group, step));
  if (groups_.size() <= group) groups_.resize(group + 1);
  groups_[group] = {first, std::move(known)};
}

bool Forecast::has(const std::vector<std::int64_t>& steps) const {
  if (groups_.size() != steps.size()) return false;
  for (std::size_t k = 0; k < steps.size(); ++k) {
    const std::int64_t ahead = steps[k] - groups_[k].first;
    if (ahead < 0 || ahead >= static_cast<std::int64_t>(groups_[k].steps.size())) return false;
  }
  return true;
}

std::optional<std::vector<Coefficients>> Forecast::at(const std::vector<std::int64_t>& steps) const {
  if (!has(steps)) return {};
  std::vector<Coefficients> by_group;
  for (std::size_t k = 0; k < steps.size(); ++k)
    by_group.push_back(groups_[k].steps[static_cast<std::size_t>(steps[k] - groups_[k].first)]);
  return by_group;
}

Found prepare_ahead(Plan& plan, std::vector<Coefficients> known, const GradientOptions& options) {
  Found found{};
  double factor = options.scale;
  if (options.clip_norm || options.skip_nonfinite) {
    const auto [norm, finite] = norm_of(plan.gradients());
    found = {norm * std::abs(options.scale), options.skip_nonfinite && !finite};
    if (found.skipped) return found;
  }
  if (options.clip_norm) factor *= clip_coefficient(*found.norm, *options.clip_norm);
  for (Coefficients& group : known) {
    group.rule[c_scale] *= factor;  // 1, or -1 where the rule maximizes
    group.rule[c_clip] = options.clip_value;
  }
  plan.prepare(0, std::move(known));
  return found;
}

}  // namespace fusedstep
