#include "python/numpy_plan.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "python/numpy.hpp"
#include "step/dispatch.hpp"

namespace fusedstep {
namespace {

Array array_of(py::array& array) { return {checked_format(array.dtype()), array.mutable_data()}; }

void check_slots(std::size_t slots, std::size_t kernel) {
  const Kernel& of = active().kernels[kernel];
  if (slots != of.slots)
    throw std::invalid_argument(std::string("wrong number of state slots for ") + of.name);
}

Tensor tensor_of(NumpyPlan::Entry& entry) {
  auto& [group, p, state, mean, others] = entry;
  Tensor tensor;
  tensor.group = group;
  tensor.size = static_cast<std::size_t>(p.size());
  tensor.p = array_of(p);
  tensor.g = {tensor.p.format, nullptr};
  const auto beside = [&](py::array& array) {
    const Array found = array_of(array);
    if (!mix(tensor.p.format, found.format)) throw std::invalid_argument("float64 mixes with no other type");
    return found;
  };
  for (std::size_t slot = 0; slot < state.size(); ++slot) tensor.state[slot] = beside(state[slot]);
  if (mean) tensor.average = beside(*mean);
  return tensor;
}

Plan plan_of(const std::vector<std::vector<std::string>>& names, const std::string& average,
             std::vector<NumpyPlan::Entry>& entries) {
  std::vector<Sweeps> kernels;
  for (const std::vector<std::string>& kernel : names) kernels.push_back(sweeps_of(kernel));
  std::vector<Tensor> tensors;
  for (NumpyPlan::Entry& entry : entries) {
    const Sweeps& sweeps = kernels.at(std::get<0>(entry));
    for (const std::size_t kernel : sweeps) check_slots(std::get<2>(entry).size(), kernel);
    tensors.push_back(tensor_of(entry));
  }
  return {std::move(kernels), kernel_index(average), std::move(tensors)};
}

}  // namespace

NumpyPlan::NumpyPlan(const std::vector<std::vector<std::string>>& kernels, const std::string& average,
                     std::vector<Entry> entries)
    : ndarray_(py::module_::import("numpy").attr("ndarray")),
      plan_(plan_of(kernels, average, entries)),
      entries_(std::move(entries)) {
  std::vector<Run> beside;
  for (const Entry& entry : entries_)
    for (const Run& run : runs_of(std::get<4>(entry))) beside.push_back(run);
  plan_.writes(beside);
}

std::vector<std::size_t> NumpyPlan::pin(const py::list& gradients, bool zero_gradients,
                                        const std::vector<TableEntry>& tables) {
  if (gradients.size() != entries_.size())
    throw std::invalid_argument("one gradient or None for each parameter");
  pinned_ = false;
  take_tables(gradients, tables);
  std::vector<std::size_t> odd;
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    const py::handle g = PyList_GET_ITEM(gradients.ptr(), static_cast<py::ssize_t>(i));
    bool& stepped = plan_.tensors()[i].stepped;
    stepped = !g.is_none() && take(g, i, zero_gradients);
    if (!g.is_none() && !stepped) odd.push_back(i);
  }
  for (const auto& [position, table] : tables_) {
    const Run values = table->values();
    if (plan_.touches(values) || tables_may_touch(values)) odd.push_back(position);
  }
  if (zero_gradients)
    for (const std::size_t i : overlapping_gradients()) odd.push_back(i);
  std::sort(odd.begin(), odd.end());
  odd.erase(std::unique(odd.begin(), odd.end()), odd.end());
  pinned_ = odd.empty();
  return odd;
}

void NumpyPlan::take_tables(const py::list& gradients, const std::vector<TableEntry>& tables) {
  std::vector<TableStep> steps;
  tables_.clear();
  for (const auto& [position, name, table] : tables) {
    if (!table) throw py::type_error("a table must not be None");
    if (position >= std::max<std::size_t>(entries_.size(), 1))
      throw std::invalid_argument("no parameter at the position of a table");
    if (position < entries_.size() && !gradients[position].is_none())
      throw std::invalid_argument("a parameter has rows of gradients, or all of them");
    if (!table->taken()) throw std::logic_error("a table without gradients");
    const std::size_t kernel = kernel_index(name);
    check_slots(table->rows().slots(), kernel);
    tables_.emplace_back(position, table);
    steps.push_back({position, plan_.groups() + steps.size(), kernel, &table->rows()});
  }
  plan_.take(std::move(steps));
}

void NumpyPlan::release() {
  pinned_ = false;
  if (tables_.empty()) return;
  for (const auto& [position, table] : tables_) table->release();
  plan_.take({});
  tables_.clear();
}

bool NumpyPlan::take(py::handle object, std::size_t i, bool writes) {
  if (!py::type::handle_of(object).is(ndarray_)) return false;
  const auto g = py::reinterpret_borrow<py::array>(object);
  const py::array& p = std::get<1>(entries_[i]);
  Tensor& tensor = plan_.tensors()[i];
  const Format found = g.dtype().is(p.dtype()) ? tensor.p.format : format_of(g.dtype());
  if (found == formats || !mix(found, tensor.p.format)) return false;
  if (!p.writeable() || (writes && !g.writeable())) return false;
  if ((g.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) == 0) return false;
  if (!lies_as(g, p)) return false;
  const Array array{found, const_cast<void*>(g.data())};
  const Run run{array, tensor.size};
  // A gradient that passed last time need not be looked up again; the tables are new at each step.
  if (array != tensor.g && plan_.touches(run)) return false;
  if (tables_may_touch(run)) return false;
  tensor.g = array;
  return true;
}

std::vector<std::size_t> NumpyPlan::overlapping_gradients() const {
  std::vector<Run> runs;
  for (const Tensor& tensor : plan_.tensors()) runs.push_back({tensor.g, tensor.stepped ? tensor.size : 0});
  for (const auto& [position, table] : tables_) runs.push_back(table->values());
  std::vector<std::size_t> found = overlapping(runs);
  for (std::size_t& i : found)
    if (i >= entries_.size()) i = tables_[i - entries_.size()].first;
  return found;
}

bool NumpyPlan::tables_may_touch(const Run& run) const {
  return std::any_of(tables_.begin(), tables_.end(),
                     [&](const auto& entry) { return entry.second->may_touch(run); });
}

void NumpyPlan::check_pinned() const {
  const auto taken = [](const auto& entry) { return entry.second->taken(); };
  if (!pinned_ || !std::all_of(tables_.begin(), tables_.end(), taken))
    throw std::logic_error("no gradients, or some that cannot be used as they are");
}

std::pair<double, bool> NumpyPlan::norm() const {
  check_pinned();
  return norm_of(plan_.gradients());
}

std::vector<Measured> NumpyPlan::measure(std::size_t sweep, const ByGroup& coefficients) const {
  check_pinned();
  return fusedstep::measure(plan_, sweep, coefficients);
}

void NumpyPlan::run(std::size_t sweep, const ByGroup& coefficients, bool zero_gradients,
                    const Changes* changes) {
  check_pinned();
  run_sweep(plan_, sweep, coefficients, zero_gradients, changes);
  if (sweep + 1 == plan_.sweeps()) release();
}

Found NumpyPlan::prepare_known(std::vector<Coefficients> known, const GradientOptions& options) {
  check_pinned();
  const Found found = prepare_ahead(plan_, std::move(known), options);
  if (found.skipped) release();
  return found;
}

void NumpyPlan::run_known(bool zero_gradients, const Changes& changes) {
  check_pinned();
  run_prepared(plan_, zero_gradients, &changes);
  release();
}

py::array_t<double> NumpyPlan::run_and_sum(const ByGroup& coefficients, bool zero_gradients,
                                           const Changes* changes) {
  check_pinned();
  if (plan_.tensors().empty() && !tables_.empty())
    throw std::invalid_argument("sums of a table's rows alone");
  SumsOfStep& sums = plan_.sums();
  py::array_t<double> by_tensor({plan_.tensors().size(), std::size_t{step_sums}, std::size_t{ranges}});
  run_sweep(plan_, plan_.sweeps() - 1, coefficients, zero_gradients, changes, &sums);
  release();
  const std::vector<StepSums> found = sums.by_tensor();
  std::memcpy(by_tensor.mutable_data(), found.data(), found.size() * sizeof(StepSums));
  return by_tensor;
}

}  // namespace fusedstep
