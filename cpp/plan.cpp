#include "plan.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

#include "dispatch.hpp"
#include "mixed.hpp"
#include "parallel.hpp"

namespace fusedstep {
namespace {

/// Elements in a cache line of the narrowest numbers, twice.
constexpr std::size_t grain = 64;

std::vector<std::size_t> sizes(const std::vector<Tensor>& tensors) {
  std::vector<std::size_t> list;
  for (const Tensor& tensor : tensors) list.push_back(tensor.size);
  return list;
}

}  // namespace

std::vector<double> no_prologue() {
  std::vector<double> row(c_rule, 0);
  row[c_scale] = row[c_keep] = 1;
  row[c_clip] = std::numeric_limits<double>::infinity();
  return row;
}

Plan::Plan(std::vector<std::size_t> kernels, std::size_t average, std::vector<Tensor> tensors)
    : kernels_(std::move(kernels)),
      average_(average),
      tensors_(std::move(tensors)),
      tiles_(sizes(tensors_), grain) {
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const Tensor& tensor = tensors_[i];
    if (tensor.size == 0) continue;
    const auto remember = [&](Number number, const void* start) {
      const auto* begin = static_cast<const char*>(start);
      memory_.push_back({begin, begin + tensor.size * width(number), i});
    };
    remember(tensor.p.number, tensor.p.data);
    const Kernel& kernel = active().kernels[kernels_[tensor.group]];
    for (std::size_t slot = 0; slot < kernel.slots; ++slot) remember(tensor.kept, tensor.state[slot]);
    if (tensor.average != nullptr) remember(tensor.kept, tensor.average);
  }
  std::sort(memory_.begin(), memory_.end(),
            [](const Interval& a, const Interval& b) { return a.begin < b.begin; });
}

void Plan::run(const std::vector<Row>& rows, bool zero_gradients) const {
  const Table& table = active();
  const auto step = [&](std::size_t i, std::size_t begin, std::size_t end) {
    const Tensor& tensor = tensors_[i];
    if (tensor.g.data == nullptr) return;
    const Row& row = rows[tensor.group];
    sweep(table, table.kernels[kernels_[tensor.group]], row.rule.data(), begin, end, tensor.p, tensor.g,
          tensor.kept, tensor.state.data());
    // What follows finds the run in the cache.
    if (tensor.average != nullptr)
      sweep(table, table.kernels[average_], row.average.data(), begin, end, {tensor.kept, tensor.average},
            tensor.p, tensor.kept, nullptr);
    if (zero_gradients) std::memset(tensor.g.at(begin), 0, (end - begin) * width(tensor.g.number));
  };
  for_each_range(tiles_.count(), Tiles::least_a_thread,
                 [&](std::size_t first, std::size_t last) { tiles_.for_each_run(first, last, step); });
}

std::vector<Run> Plan::gradients() const {
  std::vector<Run> runs;
  runs.reserve(tensors_.size());
  for (const Tensor& tensor : tensors_)
    runs.push_back({tensor.g, tensor.g.data == nullptr ? 0 : tensor.size});
  return runs;
}

bool Plan::touches(const void* memory, std::size_t size) const {
  if (size == 0) return false;
  const auto* begin = static_cast<const char*>(memory);
  const auto after =
      std::lower_bound(memory_.begin(), memory_.end(), begin + size,
                       [](const Interval& interval, const char* end) { return interval.begin < end; });
  return after != memory_.begin() && std::prev(after)->end > begin;
}

std::optional<std::pair<std::size_t, std::size_t>> Plan::overlap() const {
  for (std::size_t i = 1; i < memory_.size(); ++i)
    if (memory_[i].begin < memory_[i - 1].end) return {{memory_[i - 1].tensor, memory_[i].tensor}};
  return {};
}

}  // namespace fusedstep
