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

Operands operands(const Tensor& tensor) { return {tensor.p, tensor.g, tensor.kept, tensor.state.data()}; }

}  // namespace

std::vector<double> no_prologue() {
  std::vector<double> row(c_rule, 0);
  row[c_scale] = row[c_keep] = 1;
  row[c_clip] = std::numeric_limits<double>::infinity();
  return row;
}

void add_sums(const Kernel& kernel, const double* row, std::size_t begin, std::size_t end, const Operands& of,
              double* to) {
  double sums[max_sums * lanes];
  std::fill_n(sums, kernel.sums * lanes, 0.0);
  measure(active(), kernel, row, begin, end, of, sums);
  for (std::size_t k = 0; k < kernel.sums; ++k) to[k] += add_by_halves(sums + k * lanes);
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
    for (std::size_t slot = 0; slot < kernel_of(tensor).slots; ++slot)
      remember(tensor.kept, tensor.state[slot]);
    if (tensor.average != nullptr) remember(tensor.kept, tensor.average);
  }
  std::sort(memory_.begin(), memory_.end(),
            [](const Interval& a, const Interval& b) { return a.begin < b.begin; });
}

const Kernel& Plan::kernel_of(const Tensor& tensor) const { return active().kernels[kernels_[tensor.group]]; }

std::vector<const double*> Plan::by_tensor(const std::vector<Row>& rows) const {
  std::vector<const double*> next, found;
  for (const Row& row : rows) next.push_back(row.rule.data());
  for (const Tensor& tensor : tensors_) {
    found.push_back(next[tensor.group]);
    if (tensor.stepped) next[tensor.group] += rows[tensor.group].stride;
  }
  return found;
}

std::vector<Sums> Plan::measure(const std::vector<Row>& rows) const {
  struct Block {
    std::size_t tensor, place, begin;  // the place of its sums among those of the group
  };
  std::vector<Block> blocks;
  std::vector<Sums> found(kernels_.size());
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    if (!tensors_[i].stepped || kernel_of(tensors_[i]).sums == 0) continue;
    Sums& sums = found[tensors_[i].group];
    for (std::size_t begin = 0; begin < tensors_[i].size; begin += Tiles::size)
      blocks.push_back({i, sums.values.size(), begin});
    sums.tensors.push_back(i);
    sums.values.resize(sums.values.size() + kernel_of(tensors_[i]).sums);
  }

  std::vector<double> of_blocks(blocks.size() * max_sums);
  for_each_range(blocks.size(), Tiles::least_a_thread, [&](std::size_t first, std::size_t last) {
    for (std::size_t block = first; block < last; ++block) {
      const Tensor& tensor = tensors_[blocks[block].tensor];
      const std::size_t begin = blocks[block].begin, end = std::min(begin + Tiles::size, tensor.size);
      add_sums(kernel_of(tensor), rows[tensor.group].rule.data(), begin, end, operands(tensor),
               &of_blocks[block * max_sums]);
    }
  });

  for (std::size_t block = 0; block < blocks.size(); ++block) {
    const Tensor& tensor = tensors_[blocks[block].tensor];
    for (std::size_t k = 0; k < kernel_of(tensor).sums; ++k)
      found[tensor.group].values[blocks[block].place + k] += of_blocks[block * max_sums + k];
  }
  return found;
}

void Plan::run(const std::vector<Row>& rows, bool zero_gradients) const {
  const Table& table = active();
  const std::vector<const double*> coefficients = by_tensor(rows);
  const auto step = [&](std::size_t i, std::size_t begin, std::size_t end) {
    const Tensor& tensor = tensors_[i];
    if (!tensor.stepped) return;
    const std::vector<double>& average = rows[tensor.group].average;
    if (tensor.average != nullptr && !average.empty())
      sweep_and_average(table, kernel_of(tensor), table.kernels[average_], coefficients[i], average.data(),
                        begin, end, operands(tensor), tensor.average);
    else
      sweep(table, kernel_of(tensor), coefficients[i], begin, end, operands(tensor));
    // The gradient is still in the cache.
    if (zero_gradients) std::memset(tensor.g.at(begin), 0, (end - begin) * width(tensor.g.number));
  };
  for_each_range(tiles_.count(), Tiles::least_a_thread,
                 [&](std::size_t first, std::size_t last) { tiles_.for_each_run(first, last, step); });
}

std::vector<Run> Plan::gradients() const {
  std::vector<Run> runs;
  runs.reserve(tensors_.size());
  for (const Tensor& tensor : tensors_) runs.push_back({tensor.g, tensor.stepped ? tensor.size : 0});
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
