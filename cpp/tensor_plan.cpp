#include "tensor_plan.hpp"

#include <stdexcept>

namespace fusedstep {
namespace {

std::logic_error not_taken() {
  return std::logic_error("no tensors, or some that cannot be used as they are");
}

/// Whether a step of either writes to the same memory, by the same kernels.
bool same_memory(const Tensor& a, const Tensor& b) {
  return a.group == b.group && a.size == b.size && a.p.data == b.p.data && a.p.number == b.p.number &&
         a.kept == b.kept && a.state == b.state && a.average == b.average;
}

bool same_memory(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (!same_memory(a[i], b[i])) return false;
  return true;
}

}  // namespace

TensorPlan::TensorPlan(py::type kind, const std::string& average)
    : exchange_(std::move(kind)), average_(kernel_index(average)) {}

std::pair<TensorPlan::Positions, TensorPlan::Positions> TensorPlan::take(const std::vector<Batch>& batches) {
  taken_ = false;
  std::vector<std::size_t> kernels;
  std::vector<Tensor> tensors;
  Positions odd, odd_gradients;
  positions_.clear();
  for (std::size_t b = 0; b < batches.size(); ++b) {
    const auto& [name, gathered, members] = batches[b];
    kernels.push_back(kernel_index(name));
    gathered->for_each(members, [&, batch = b, found = gathered](std::size_t i) {
      positions_.emplace_back(batch, i);
      tensors.push_back(found->tensor(i));
      tensors.back().group = batch;
      if (!found->fits(i))
        odd.emplace_back(batch, i);
      else if (!found->gradient_fits(i))
        odd_gradients.emplace_back(batch, i);
    });
  }
  if (!odd.empty() || !odd_gradients.empty()) return {odd, odd_gradients};

  const bool known = plan_ && plan_->kernels() == kernels && same_memory(plan_->tensors(), tensors);
  if (!known) plan_.emplace(std::move(kernels), average_, tensors);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const Array &now = tensors[i].g, &before = plan_->tensors()[i].g;
    const bool checked = known && now.data == before.data && now.number == before.number;
    if (!checked && plan_->touches(now.data, tensors[i].size * width(now.number)))
      odd_gradients.push_back(positions_[i]);
    else
      plan_->tensors()[i].g = now;
  }
  taken_ = odd_gradients.empty();
  if (!taken_) plan_.reset();
  return {odd, odd_gradients};
}

std::optional<std::pair<TensorPlan::Position, TensorPlan::Position>> TensorPlan::overlap() const {
  if (!taken_) throw not_taken();
  const auto found = plan_->overlap();
  if (!found) return {};
  return {{positions_[found->first], positions_[found->second]}};
}

std::pair<double, bool> TensorPlan::norm() const {
  if (!taken_) throw not_taken();
  return norm_of(plan_->gradients());
}

std::vector<Measured> TensorPlan::measure(const std::vector<Coefficients>& groups) const {
  if (!taken_) throw not_taken();
  std::vector<Measured> measured = fusedstep::measure(*plan_, groups);
  for (auto& [tensors, sums] : measured)
    for (std::size_t& tensor : tensors) tensor = positions_[tensor].second;
  return measured;
}

void TensorPlan::run(const std::vector<Coefficients>& groups) {
  if (!taken_) throw not_taken();
  const std::vector<Row> rows = rows_for(*plan_, groups);
  taken_ = false;
  const py::gil_scoped_release release;
  plan_->run(rows, false);
}

}  // namespace fusedstep
