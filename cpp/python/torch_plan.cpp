#include "python/torch_plan.hpp"

#include <stdexcept>
#include <utility>

#include "python/look_up.hpp"
#include "step/dispatch.hpp"
#include "step/team.hpp"

namespace fusedstep {
namespace {

bool same_memory(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (!same_memory(a[i], b[i])) return false;
  return true;
}

void check_slots(const TorchParameters& parameters) {
  for (const std::size_t sweep : parameters.kernel())
    if (active().kernels[sweep].slots != parameters.slots())
      throw std::invalid_argument(std::string("wrong number of state slots for ") +
                                  active().kernels[sweep].name);
}

/// The step of one parameter's rows; their gradients count in the norm before that of tensor `before`.
TableStep table_step(const TorchPlan::Batch& batch, const Sweeps& sweeps, std::size_t before,
                     std::size_t group, const TorchRows& rows) {
  const auto& [parameters, members, small] = batch;
  if (parameters->size(members) != 1)
    throw std::logic_error("a parameter whose gradient is rows is not the only one of its batch");
  if (sweeps.size() != 1) throw std::invalid_argument("rows have kernels of one sweep");
  return {before, group, sweeps.front(), &rows.table};
}

}  // namespace

TorchPlan::TorchPlan(py::type kind, const std::string& average, py::function increment)
    : exchange_(std::move(kind)), increment_(std::move(increment)), average_(kernel_index(average)) {
  find_team("libtorch_cpu.so");
}

TorchPlan::Odd TorchPlan::take(const std::vector<Batch>& batches) {
  taken_ = false;
  forget_tables();
  sources_.clear();
  remembered_.clear();
  forecast_.forget();
  std::vector<Sweeps> kernels;
  std::vector<Tensor> tensors;
  std::vector<TableStep> tables;
  Odd odd;
  positions_.clear();
  for (std::size_t b = 0; b < batches.size(); ++b) {
    const auto& [parameters, members, small] = batches[b];
    sources_.push_back(parameters);
    check_slots(*parameters);
    kernels.push_back(parameters->kernel());
    parameters->for_each(members, [&, found = parameters](std::size_t i) {
      positions_.emplace_back(b, i);
      tensors.push_back(found->tensor(i));
      tensors.back().group = b;
      const std::shared_ptr<TorchRows> rows = found->rows(i);
      if (!found->fits(i)) {
        odd.parameters.emplace_back(b, i);
      } else if (rows) {
        tensors.back().stepped = false;
        tables.push_back(table_step(batches[b], kernels.back(), tensors.size() - 1, b, *rows));
        tables_.push_back(rows);
      } else if (!found->gradient_fits(i)) {
        odd.gradients.emplace_back(b, i);
      }
    });
  }
  if (!odd.parameters.empty() || !odd.gradients.empty()) return odd;

  std::vector<Run> small_state = small_state_of(batches);
  const bool known = plan_ && plan_->kernels() == kernels && same_memory(plan_->tensors(), tensors) &&
                     small_state == small_state_;
  if (!known) {
    plan_.reset();
    small_state_ = std::move(small_state);
    in_small_state_ = {};
    for (std::size_t i = 0; i < small_state_.size(); ++i)
      in_small_state_.add(small_state_[i].array.data, small_state_[i].bytes(), i);
    in_small_state_.sort();
    plan_.emplace(std::move(kernels), average_, tensors);
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    Tensor& planned = plan_->tensors()[i];
    planned.stepped = tensors[i].stepped;
    const bool checked = !planned.stepped || (known && planned.g == tensors[i].g);
    if (checked || check({tensors[i].g, tensors[i].size}, positions_[i], odd)) planned.g = tensors[i].g;
  }
  take_tables(std::move(tables), odd);
  taken_ = odd.gradients.empty() && odd.in_small_state.empty();
  if (!taken_) plan_.reset();
  return odd;
}

void TorchPlan::remember(const std::vector<std::shared_ptr<TorchParameters>>& groups, bool counted,
                         std::size_t shared) {
  check_taken();
  remembered_.clear();
  for (const auto& parameters : groups) remembered_.push_back({parameters, parameters->version(), {}, {}});
  counted_ = counted;
  shared_ = shared;
}

bool TorchPlan::remember_entries(std::size_t k, const py::dict& group) {
  remembered_.at(k).entries = Entries(group);
  forecast_.forget();
  return remembered_[k].entries.stay();
}

bool TorchPlan::again(const py::list& groups, const py::dict& states) {
  release();
  if (!plan_ || groups.empty() || groups.size() != remembered_.size()) return false;
  for (std::size_t k = 0; k < groups.size(); ++k) {
    auto& [parameters, version, group, entries] = remembered_[k];
    const py::tuple given = groups[k];
    if (!parameters->look(given[1], states) || parameters->version() != version) return false;
    if (!parameters->are_alike(shared_)) return false;
    group = given[0].cast<py::dict>();
  }
  if (!take_gradients()) return false;
  for (const Remembered& group : remembered_) sources_.push_back(group.parameters);
  return true;
}

std::pair<std::vector<std::vector<double>>, std::vector<std::size_t>> TorchPlan::found_again() const {
  check_taken();
  std::vector<std::vector<double>> scalars;
  std::vector<std::size_t> changed;
  for (std::size_t k = 0; k < remembered_.size(); ++k) {
    const auto& [parameters, version, group, entries] = remembered_[k];
    std::vector<double>& own = scalars.emplace_back();
    for (std::size_t i = 0; i < shared_; ++i) own.push_back(parameters->first(i));
    if (!entries.are_of(group)) changed.push_back(k);
  }
  return {scalars, changed};
}

bool TorchPlan::take_gradients() {
  Odd odd;
  std::size_t at = 0;
  for (const Remembered& group : remembered_)
    for (std::size_t i = 0; i < group.parameters->size(); ++i, ++at) {
      const Tensor& found = group.parameters->tensor(i);
      Tensor& planned = plan_->tensors()[at];
      if (!found.stepped) return false;
      if (planned.g != found.g && !check({found.g, found.size}, positions_[at], odd)) return false;
      planned.g = found.g;
    }
  return taken_ = true;
}

void TorchPlan::forecast(std::size_t k, std::int64_t first, const ByGroup& steps) {
  if (!plan_ || k >= remembered_.size()) throw std::invalid_argument("no such group");
  forecast_.set(*plan_, k, first, steps);
}

bool TorchPlan::step_again(const GradientOptions& options, const py::dict& attributes, Changes& changes) {
  check_taken();
  std::vector<std::int64_t> steps;
  for (const auto& [parameters, version, group, entries] : remembered_) {
    if (!entries.are_of(group)) return false;
    steps.push_back(counted_ ? static_cast<std::int64_t>(parameters->first(0)) + 1 : 0);
  }
  auto known = forecast_.at(steps);
  if (!known) return false;
  static const py::handle grad_norm = interned("grad_norm");
  if (!options.clip_norm) {
    const py::object before = look_up(attributes, grad_norm);
    if (before && !before.is_none()) return false;
  }
  const std::optional<double> norm = prepare_ahead(*plan_, *std::move(known), options).norm;
  if (counted_)
    for (std::size_t k = 0; k < steps.size(); ++k)
      remembered_[k].parameters->fill(changes, 0, {}, static_cast<double>(steps[k]));
  if (norm) {
    py::dict found;
    found[grad_norm] = *norm;
    changes.update(attributes, found);
  }
  increment_(parameters());
  run_prepared(*plan_, false, &changes);
  release();
  return true;
}

py::list TorchPlan::parameters() const {
  py::list list(positions_.size());
  for (std::size_t k = 0; k < positions_.size(); ++k) {
    const auto [batch, i] = positions_[k];
    list[k] = sources_[batch]->parameter(i);
  }
  return list;
}

bool TorchPlan::check(const Run& gradient, const Position& position, Odd& odd) const {
  const bool in_small_state = in_small_state_.touches(gradient.array.data, gradient.bytes());
  if (in_small_state) odd.in_small_state.push_back(position);
  const bool touches = plan_->touches(gradient);
  if (touches) odd.gradients.push_back(position);
  return !in_small_state && !touches;
}

void TorchPlan::take_tables(std::vector<TableStep> steps, Odd& odd) {
  for (std::size_t k = 0; k < steps.size(); ++k) check(tables_[k]->run, positions_[steps[k].before], odd);
  plan_->take(std::move(steps));
}

std::vector<Run> TorchPlan::small_state_of(const std::vector<Batch>& batches) const {
  std::vector<Run> runs;
  for (const auto& [parameters, members, small] : batches) {
    parameters->for_each(members, [&, found = parameters](std::size_t i) { found->add_scalars(i, runs); });
    for (const py::handle tensor : small)
      if (const std::optional<View> view = exchange_.view(tensor); view && is_dense(*view))
        runs.push_back({view->array, view->size});
  }
  return runs;
}

void TorchPlan::release() {
  taken_ = false;
  forget_tables();
  for (const auto& parameters : sources_) parameters->release();
  sources_.clear();
  for (Remembered& remembered : remembered_) remembered.group = {};
}

void TorchPlan::forget_tables() {
  if (tables_.empty()) return;
  if (plan_) plan_->take({});
  tables_.clear();
}

void TorchPlan::check_taken() const {
  if (!taken_) throw std::logic_error("no tensors, or some that cannot be used as they are");
}

std::optional<std::pair<TorchPlan::Position, TorchPlan::Position>> TorchPlan::overlap() const {
  check_taken();
  const auto found = plan_->overlap();
  if (!found) return {};
  return {{positions_[found->first], positions_[found->second]}};
}

std::pair<double, bool> TorchPlan::norm() const {
  check_taken();
  return norm_of(plan_->gradients());
}

std::vector<Measured> TorchPlan::measure(std::size_t sweep, const ByGroup& coefficients) const {
  check_taken();
  std::vector<Measured> measured = fusedstep::measure(*plan_, sweep, coefficients);
  std::vector<bool> of_rows(measured.size());
  for (const TableStep& table : plan_->tables()) of_rows[table.group] = true;
  for (std::size_t batch = 0; batch < measured.size(); ++batch)
    if (!of_rows[batch])
      for (std::size_t& tensor : measured[batch].first) tensor = positions_[tensor].second;
  return measured;
}

void TorchPlan::run(std::size_t sweep, const ByGroup& coefficients, bool zero_gradients,
                    const Changes* changes) {
  check_taken();
  run_sweep(*plan_, sweep, coefficients, zero_gradients, changes);
  if (sweep + 1 == plan_->sweeps()) release();
}

}  // namespace fusedstep
