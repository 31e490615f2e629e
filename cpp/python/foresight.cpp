#include "python/foresight.hpp"

#include <cmath>
#include <limits>
#include <optional>

#include "python/look_up.hpp"

namespace fusedstep {
namespace {

/// A float or an int as a number; nothing if it is none, or too large.
std::optional<double> number_of(py::handle object) {
  if (PyFloat_CheckExact(object.ptr())) return PyFloat_AS_DOUBLE(object.ptr());
  if (!PyLong_CheckExact(object.ptr())) return {};
  const double number = PyLong_AsDouble(object.ptr());
  if (number == -1 && PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    return {};
  }
  return number;
}

std::optional<bool> bool_of(py::handle object) {
  if (object.ptr() != Py_True && object.ptr() != Py_False) return {};
  return object.ptr() == Py_True;
}

struct Options {
  GradientOptions of_gradients;
  bool zero_gradients;
};

/// The options of a step, if they are right and such that all is known before.
std::optional<Options> options_of(const py::tuple& given) {
  const auto option = [&](py::ssize_t k) { return py::handle(PyTuple_GET_ITEM(given.ptr(), k)); };
  const py::handle clip_norm = option(1), clip_value = option(2), norms = option(5);
  const std::optional<double> scale = number_of(option(0));
  const std::optional<bool> skip = bool_of(option(3)), zero = bool_of(option(4));
  if (!scale || !std::isfinite(*scale) || !skip || !zero || norms.ptr() != Py_False) return {};
  Options options{{*scale, {}, std::numeric_limits<double>::infinity(), *skip}, *zero};
  if (!clip_norm.is_none()) {
    options.of_gradients.clip_norm = number_of(clip_norm);
    if (!(options.of_gradients.clip_norm >= 0.0)) return {};
  }
  if (!clip_value.is_none()) {
    const std::optional<double> limit = number_of(clip_value);
    if (!(limit >= 0.0)) return {};
    options.of_gradients.clip_value = *limit;
  }
  return options;
}

}  // namespace

Foresight::Foresight(std::shared_ptr<NumpyPlan> plan, std::shared_ptr<const Layouts> parameters,
                     Structure structure, const std::vector<py::dict>& groups, py::function is_fixed,
                     py::function coefficients, py::dict counts, std::shared_ptr<Busy> busy)
    : plan_(std::move(plan)),
      parameters_(std::move(parameters)),
      structure_(std::move(structure)),
      is_fixed_(std::move(is_fixed)),
      coefficients_(std::move(coefficients)),
      counts_(std::move(counts)),
      busy_(std::move(busy)) {
  for (const py::dict& group : groups) groups_.emplace_back(group, Entries());
}

bool Foresight::look(std::int64_t t) {
  bool settled = true, stay = true;
  for (auto& [group, entries] : groups_) {
    if (entries.are_of(group)) continue;
    entries = Entries(group, is_fixed_);
    settled = false;
    stay = stay && entries.stay();
  }
  if (settled && forecast_.has(all_at(t))) return true;
  forecast_.forget();
  if (!stay) return false;
  const auto found = coefficients_(t, settled).cast<std::vector<ByGroup>>();
  for (std::size_t k = 0; k < found.size(); ++k) forecast_.set(plan_->plan(), k, t, found[k]);
  return forecast_.has(all_at(t));
}

py::object Foresight::step(py::handle gradients, py::handle loss, const py::tuple& options) {
  const std::optional<Options> found = options.size() == 6 ? options_of(options) : std::nullopt;
  if (!found || !(loss.is_none() || number_of(loss))) return py::none();
  static const py::handle key = interned("t");
  const std::int64_t t = look_up(counts_, key).cast<std::int64_t>() + 1;
  if (!look(t)) return py::none();
  const std::optional<py::list> leaves = structure_.gradients(gradients);
  if (!leaves || parameters_->changed()) return py::none();
  if (!plan_->pin(*leaves, found->zero_gradients, {}).empty()) return py::none();
  const auto [norm, skipped] = plan_->prepare_known(*forecast_.at(all_at(t)), found->of_gradients);
  if (skipped) return py::none();
  py::dict count;
  count[key] = t;
  busy_->changes.update(counts_, count);
  plan_->run_known(found->zero_gradients, busy_->changes);
  return py::make_tuple(norm);
}

}  // namespace fusedstep
