#include "step/plan.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "step/dispatch.hpp"
#include "step/floating_point.hpp"
#include "step/mixed.hpp"
#include "step/parallel.hpp"

namespace fusedstep {
namespace {

/// Twice the number of elements in a cache line of the narrowest format.
constexpr std::size_t grain = 64;

void check(const std::vector<Sweeps>& kernels) {
  const Kernel* const compiled = active().kernels;
  for (const Sweeps& sweeps : kernels) {
    if (sweeps.empty()) throw std::invalid_argument("a kernel without sweeps");
    const Kernel& first = compiled[sweeps.front()];
    for (const std::size_t sweep : sweeps)
      if (compiled[sweep].slots != first.slots)
        throw std::invalid_argument(std::string(first.name) + " and " + compiled[sweep].name +
                                    " do not take the same state slots");
  }
}

/// The most sweeps that a kernel has, but at least one, since each step has one.
std::size_t most_sweeps(const std::vector<Sweeps>& kernels) {
  std::size_t most = 1;
  for (const Sweeps& sweeps : kernels) most = std::max(most, sweeps.size());
  return most;
}

/// Sets a gradient to 0, which is still in the cache.
void set_to_zero(const Tensor& tensor, std::size_t begin, std::size_t end) {
  std::memset(tensor.g.at(begin), 0, Run{tensor.g, end - begin}.bytes());
}

}  // namespace

Plan::Plan(std::vector<Sweeps> kernels, std::size_t average, std::vector<Tensor> tensors)
    : kernels_(std::move(kernels)),
      groups_of_tensors_(kernels_.size()),
      average_(average),
      tensors_(std::move(tensors)),
      sweeps_(most_sweeps(kernels_)),
      tiles_(sweeps_, Tiles({}, grain)) {
  check(kernels_);
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    Tensor& tensor = tensors_[i];
    const std::size_t slots = kernel(tensor.group, sweeps_ - 1)->slots;
    tensor.slots = format_of_slots(tensor, slots);
    const auto remember = [&](const Array& array) {
      memory_.add(array.data, Run{array, tensor.size}.bytes(), i);
    };
    remember(tensor.p);
    for (std::size_t slot = 0; slot < slots; ++slot) remember(tensor.state[slot]);
    if (tensor.average.data != nullptr) remember(tensor.average);
  }
  memory_.sort();
}

void Plan::writes(const std::vector<Run>& runs) {
  for (std::size_t i = 0; i < runs.size(); ++i) beside_.add(runs[i].array.data, runs[i].bytes(), i);
  beside_.sort();
}

void Plan::take(std::vector<TableStep> tables) {
  kernels_.resize(groups_of_tensors_);
  for (const TableStep& table : tables) {
    kernels_.resize(std::max(kernels_.size(), table.group + 1));
    kernels_[table.group] = {table.kernel};
  }
  tables_ = std::move(tables);
}

std::optional<std::size_t> Plan::kernel_index(std::size_t group, std::size_t sweep) const {
  const Sweeps& own = kernels_[group];
  const std::size_t absent = sweeps_ - own.size();
  return sweep < absent ? std::nullopt : std::optional(own[sweep - absent]);
}

const Kernel* Plan::kernel(std::size_t group, std::size_t sweep) const {
  const std::optional<std::size_t> index = kernel_index(group, sweep);
  return index ? &active().kernels[*index] : nullptr;
}

std::vector<std::size_t> Plan::items() const {
  std::vector<std::size_t> items(groups());
  for (const Tensor& tensor : tensors_) items[tensor.group] += tensor.stepped;
  for (const TableStep& table : tables_) items[table.group] = table.rows->size();
  return items;
}

std::vector<Plan::Pass> Plan::passes(std::size_t sweep, const std::vector<Coefficients>& by_group) const {
  std::vector<Pass> next(groups()), found(tensors_.size());
  for (std::size_t group = 0; group < groups(); ++group) {
    const std::vector<double>& average = by_group[group].average;
    next[group] = {kernel(group, sweep), by_group[group].rule.data(),
                   is_last(sweep) && !average.empty() ? average.data() : nullptr};
  }
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    if (!tensors_[i].stepped) continue;
    found[i] = next[tensors_[i].group];
    if (tensors_[i].average.data == nullptr) found[i].average = nullptr;
    next[tensors_[i].group].coefficients += by_group[tensors_[i].group].stride;
  }
  return found;
}

std::vector<Sums> Plan::measure(std::size_t sweep, const std::vector<Coefficients>& by_group) const {
  const StandardMode mode;
  std::vector<Sums> found(groups());
  measure_tensors(passes(sweep, by_group), found);
  for (const TableStep& step : tables_) {
    const Kernel* const rule = kernel(step.group, sweep);
    if (rule == nullptr || rule->sums == 0) continue;
    Sums& sums = found[step.group];
    sums.items.resize(step.rows->size());
    std::iota(sums.items.begin(), sums.items.end(), std::size_t{0});
    sums.values.resize(step.rows->size() * values_of(*rule));
    step.rows->measure(*rule, by_group[step.group], sums.values.data());
  }
  return found;
}

void Plan::measure_tensors(const std::vector<Pass>& passes, std::vector<Sums>& found) const {
  std::vector<Item> items;
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const Kernel* const rule = passes[i].kernel;
    if (rule == nullptr || rule->sums == 0) continue;
    Sums& sums = found[tensors_[i].group];
    items.push_back({.tensor = i, .place = sums.values.size(), .factors = {}, .sums = {}});
    items.back().factors.fill(1);
    sums.items.push_back(i);
    sums.values.resize(sums.values.size() + values_of(*rule));
  }
  while (!items.empty()) {
    sum_up(passes, items);
    std::vector<Item> again;
    for (Item& item : items) {
      const Tensor& tensor = tensors_[item.tensor];
      double* const values = &found[tensor.group].values[item.place];
      if (put(*passes[item.tensor].kernel, tensor.p.format, item.sums, item.factors, values))
        again.push_back(item);
    }
    items = std::move(again);
  }
}

void Plan::sum_up(const std::vector<Pass>& passes, std::vector<Item>& items) const {
  struct Block {
    std::size_t item, begin;
    OfSums sums;
  };
  std::vector<Block> blocks;
  for (std::size_t item = 0; item < items.size(); ++item) {
    items[item].sums.fill(0);
    for (std::size_t begin = 0; begin < tensors_[items[item].tensor].size; begin += Tiles::size)
      blocks.push_back({.item = item, .begin = begin, .sums = {}});
  }
  const Table& table = active();
  for_each_range(blocks.size(), Tiles::least_a_thread, [&](std::size_t first, std::size_t last) {
    for (std::size_t block = first; block < last; ++block) {
      auto& [item, begin, sums] = blocks[block];
      const Tensor& tensor = tensors_[items[item].tensor];
      const Pass& pass = passes[items[item].tensor];
      fusedstep::measure(table, *pass.kernel, pass.coefficients, items[item].factors, begin,
                         std::min(begin + Tiles::size, tensor.size), tensor, sums);
    }
  });
  for (const Block& block : blocks)
    for (std::size_t k = 0; k < max_sums; ++k) items[block.item].sums[k] += block.sums[k];
}

void Plan::prepare(std::size_t sweep, std::vector<Coefficients> by_group) {
  std::vector<Pass> passes = this->passes(sweep, by_group);
  std::vector<std::size_t> sizes;
  sizes.reserve(tensors_.size());
  for (std::size_t i = 0; i < tensors_.size(); ++i)
    sizes.push_back(passes[i].kernel == nullptr ? 0 : tensors_[i].size);
  if (tiles_[sweep].sizes() != sizes) tiles_[sweep] = Tiles(std::move(sizes), grain);
  prepared_ = {sweep, std::move(by_group), std::move(passes)};
}

SumsOfStep& Plan::sums() {
  if (!sums_) {
    std::vector<std::size_t> sizes;
    for (const Tensor& tensor : tensors_) sizes.push_back(tensor.size);
    sums_.emplace(sizes);
  }
  std::vector<SumsOfStep::TableSize> tables;
  for (const TableStep& table : tables_) tables.emplace_back(table.before, table.rows->size());
  sums_->take(tables);
  return *sums_;
}

void Plan::run(bool zero_gradients, SumsOfStep* sums) noexcept {
  const Table& table = active();
  const Kernel& average = table.kernels[average_];
  const std::size_t sweep = prepared_.sweep;
  const bool zero = zero_gradients && is_last(sweep);
  const auto step = [&](std::size_t i, std::size_t begin, std::size_t end) {
    const Tensor& tensor = tensors_[i];
    const Pass& pass = prepared_.passes[i];
    if (pass.average != nullptr)
      sweep_and_average(table, *pass.kernel, average, pass.coefficients, pass.average, begin, end, tensor);
    else
      fusedstep::sweep(table, *pass.kernel, pass.coefficients, begin, end, tensor);
    if (zero) set_to_zero(tensor, begin, end);
  };
  if (sums != nullptr) {
    sums->for_each_block([&](std::size_t i, std::size_t begin, std::size_t end) {
      const Tensor& tensor = tensors_[i];
      const Pass& pass = prepared_.passes[i];
      const StepSums found =
          sweep_and_sum(table, pass.kernel, average, pass.coefficients, pass.average, begin, end, tensor);
      if (zero && pass.kernel != nullptr) set_to_zero(tensor, begin, end);
      return found;
    });
  } else {
    const Tiles& tiles = tiles_[sweep];
    for_each_range(tiles.count(), Tiles::least_a_thread,
                   [&](std::size_t first, std::size_t last) { tiles.for_each_run(first, last, step); });
  }
  for (std::size_t k = 0; k < tables_.size(); ++k)
    if (const Kernel* const rule = kernel(tables_[k].group, sweep))
      tables_[k].rows->run(*rule, average, prepared_.by_group[tables_[k].group],
                           sums == nullptr ? nullptr : sums->rows(k));
}

std::vector<Run> Plan::gradients() const {
  std::vector<const TableStep*> tables;
  for (const TableStep& table : tables_) tables.push_back(&table);
  std::stable_sort(tables.begin(), tables.end(),
                   [](const TableStep* a, const TableStep* b) { return a->before < b->before; });

  std::vector<Run> runs;
  runs.reserve(tensors_.size());
  auto next = tables.begin();
  for (std::size_t i = 0; i <= tensors_.size(); ++i) {
    for (; next != tables.end() && ((*next)->before == i || i == tensors_.size()); ++next)
      for (std::size_t k = 0; k < (*next)->rows->size(); ++k) runs.push_back((*next)->rows->gradient(k));
    if (i < tensors_.size()) runs.push_back({tensors_[i].g, tensors_[i].stepped ? tensors_[i].size : 0});
  }
  return runs;
}

}  // namespace fusedstep
