#include "python/torch_plan.hpp"

#include <stdexcept>

#include "step/dispatch.hpp"

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

TorchPlan::TorchPlan(py::type kind, const std::string& average)
    : exchange_(std::move(kind)), average_(kernel_index(average)) {}

TorchPlan::Odd TorchPlan::take(const std::vector<Batch>& batches) {
  release();
  if (take_again(batches)) return {};
  std::vector<Sweeps> kernels;
  std::vector<Tensor> tensors;
  std::vector<TableStep> tables;
  Odd odd;
  positions_.clear();
  for (std::size_t b = 0; b < batches.size(); ++b) {
    const auto& [parameters, members, small] = batches[b];
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
  known_.clear();
  if (taken_)
    for (const auto& [parameters, members, small] : batches)
      known_.emplace_back(small.empty() ? parameters->version() : 0, members);
  return odd;
}

bool TorchPlan::take_again(const std::vector<Batch>& batches) {
  if (!plan_ || batches.size() != known_.size()) return false;
  for (std::size_t b = 0; b < batches.size(); ++b) {
    const auto& [parameters, members, small] = batches[b];
    if (known_[b] != std::pair(parameters->version(), members) || parameters->has_rows()) return false;
  }
  Odd odd;
  for (std::size_t k = 0; k < positions_.size(); ++k) {
    const auto [b, i] = positions_[k];
    const Tensor& found = std::get<0>(batches[b])->tensor(i);
    Tensor& planned = plan_->tensors()[k];
    if (!found.stepped) return false;
    if (planned.g != found.g && !check({found.g, found.size}, positions_[k], odd)) return false;
    planned.g = found.g;
    planned.stepped = true;
  }
  return taken_ = true;
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
