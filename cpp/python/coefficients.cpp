#include "python/coefficients.hpp"

#include <algorithm>
#include <optional>
#include <stdexcept>

#include "python/gil.hpp"
#include "python/named.hpp"
#include "step/dispatch.hpp"
#include "step/reduce.hpp"

namespace fusedstep {
namespace {

/// The values of one coefficient for all items of a group.
using Column = py::array_t<double, py::array::c_style | py::array::forcecast>;

/// Repeats the group's coefficients for each item, then puts the item's own in their places.
void give_own(Coefficients& coefficients, const py::dict& own, std::size_t items, std::size_t kernel) {
  const std::vector<double> group = std::move(coefficients.rule);
  coefficients.stride = group.size();
  coefficients.rule.resize(items * group.size());
  for (std::size_t i = 0; i < items; ++i)
    std::copy(group.begin(), group.end(),
              coefficients.rule.begin() + static_cast<std::ptrdiff_t>(i * group.size()));
  for (const auto& [name, values] : own) {
    const std::size_t place = c_rule + fields_of(kernel).place_of(name);
    const auto column = values.cast<Column>();
    if (column.ndim() != 1 || static_cast<std::size_t>(column.size()) != items)
      throw std::invalid_argument(std::string("wrong number of items for ") + active().kernels[kernel].name);
    for (std::size_t i = 0; i < items; ++i) coefficients.rule[i * group.size() + place] = column.data()[i];
  }
}

/// A group's coefficients as Python gives them.
struct StepCoefficients {
  explicit StepCoefficients(const py::object& given) {
    if (!py::isinstance<py::tuple>(given) || PyTuple_GET_SIZE(given.ptr()) != 4)
      throw py::type_error("coefficients must be a tuple of four");
    const auto part = [&](py::ssize_t k) { return py::handle(PyTuple_GET_ITEM(given.ptr(), k)); };
    prologue = part(0).cast<py::dict>();
    rule = part(1).cast<py::dict>();
    if (!part(2).is_none()) average = part(2).cast<py::dict>();
    if (!part(3).is_none()) own = part(3).cast<py::dict>();
  }

  py::dict prologue{}, rule{};
  std::optional<py::dict> average, own;
};

/// A group's coefficients for so many items. If they are `partial`, missing coefficients are 0. The kernels
/// are those with these indices: another thread may change the instruction set, and so the table that has
/// them.
Coefficients coefficients_of(std::size_t kernel, std::size_t of_average, std::size_t items, bool partial,
                             const StepCoefficients& given) {
  const auto& [prologue, rule, average, own] = given;
  Coefficients coefficients;
  coefficients.rule.resize(c_rule + fields_of(kernel).size());
  fields_of_prologue().place(prologue, {}, false, coefficients.rule.data());
  fields_of(kernel).place(rule, own, partial && !own, coefficients.rule.data() + c_rule);
  if (own) give_own(coefficients, *own, items, kernel);
  if (average) {
    coefficients.average = no_prologue();
    coefficients.average.resize(c_rule + fields_of(of_average).size());
    fields_of(of_average).place(*average, {}, false, coefficients.average.data() + c_rule);
  }
  return coefficients;
}

/// The same for each group that has the sweep, before or after the sweep is measured.
std::vector<Coefficients> coefficients_of(const Plan& plan, std::size_t sweep, bool measured,
                                          const ByGroup& given) {
  if (sweep >= plan.sweeps()) throw std::invalid_argument("no such sweep");
  if (given.size() != plan.groups()) throw std::invalid_argument("coefficients for each group");
  const std::vector<std::size_t> items = plan.items();
  std::vector<Coefficients> by_group(plan.groups());
  for (std::size_t group = 0; group < plan.groups(); ++group) {
    const std::optional<std::size_t> kernel = plan.kernel_index(group, sweep);
    if (!kernel) continue;
    const Kernel& compiled = active().kernels[*kernel];
    if (given[group].is_none())
      throw std::invalid_argument(std::string("no coefficients for ") + compiled.name);
    const bool partial = compiled.sums > 0 && !(measured && items[group] > 0);
    by_group[group] =
        coefficients_of(*kernel, plan.average_index(), items[group], partial, StepCoefficients(given[group]));
  }
  return by_group;
}

}  // namespace

std::size_t kernel_index(const std::string& name) {
  const Table& table = active();
  for (std::size_t i = 0; i < table.size; ++i)
    if (table.kernels[i].name == name) return i;
  throw std::invalid_argument("no kernel named '" + name + "'");
}

Sweeps sweeps_of(const std::vector<std::string>& names) {
  Sweeps sweeps;
  for (const std::string& name : names) sweeps.push_back(kernel_index(name));
  return sweeps;
}

Coefficients coefficients_of(const Plan& plan, std::size_t group, const py::object& given) {
  const std::optional<std::size_t> kernel = plan.kernel_index(group, 0);
  if (!kernel) throw std::invalid_argument("no such sweep");
  return coefficients_of(*kernel, plan.average_index(), 1, false, StepCoefficients(given));
}

std::vector<Measured> measure(const Plan& plan, std::size_t sweep, const ByGroup& given) {
  const std::vector<Coefficients> by_group = coefficients_of(plan, sweep, false, given);
  std::vector<Sums> sums;
  without_gil([&] { sums = plan.measure(sweep, by_group); });
  std::vector<Measured> measured;
  for (Sums& group : sums) {
    const std::size_t n = group.items.size();
    const std::vector<std::size_t> shape = {n, n == 0 ? 0 : group.values.size() / n};
    measured.emplace_back(std::move(group.items), py::array_t<double>(shape, group.values.data()));
  }
  return measured;
}

void run_sweep(Plan& plan, std::size_t sweep, const ByGroup& given, bool zero_gradients,
               const Changes* changes, SumsOfStep* sums) {
  plan.prepare(sweep, coefficients_of(plan, sweep, true, given));
  run_prepared(plan, zero_gradients, changes, sums);
}

void run_prepared(Plan& plan, bool zero_gradients, const Changes* changes, SumsOfStep* sums) {
  if (changes != nullptr) changes->write_before();
  without_gil([&] {
    plan.run(zero_gradients, sums);
    if (changes != nullptr) changes->write_after();
  });
}

std::pair<double, bool> norm_of(const std::vector<Run>& runs) {
  Norm found{};
  without_gil([&] { found = norm(runs); });
  return {found.value, found.finite};
}

}  // namespace fusedstep
