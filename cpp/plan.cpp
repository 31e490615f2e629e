#include "plan.hpp"

#include <algorithm>

#include "dispatch.hpp"
#include "parallel.hpp"

namespace fusedstep {
namespace {

/// Tiles end at multiples of this many elements of a tensor: whole cache lines and vectors.
/// A tensor smaller than that counts as that much work.
constexpr std::size_t grain = 64;

constexpr std::size_t width(Number number) { return number == number_f32 ? sizeof(float) : sizeof(double); }

}  // namespace

Plan::Plan(std::vector<std::size_t> kernels, std::vector<Tensor> tensors)
    : kernels_(std::move(kernels)), tensors_(std::move(tensors)) {
  std::size_t room = 0;  // what the current tile still takes
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const Tensor& tensor = tensors_[i];
    for (std::size_t element = 0; element < tensor.size;) {
      if (room == 0) {
        tiles_.push_back({i, element});
        room = tile;
      }
      const std::size_t taken = std::min(room, tensor.size - element);
      element += taken;
      room -= (taken + grain - 1) / grain * grain;
    }
    const std::size_t bytes = tensor.size * width(tensor.number);
    if (bytes == 0) continue;
    const auto remember = [&](const void* start) {
      const auto* begin = static_cast<const char*>(start);
      memory_.emplace_back(begin, begin + bytes);
    };
    remember(tensor.p);
    const Kernel& kernel = active().kernels[kernels_[tensor.group]];
    std::for_each_n(tensor.state.begin(), kernel.slots, remember);
  }
  tiles_.push_back({tensors_.size(), 0});
  std::sort(memory_.begin(), memory_.end());
}

void Plan::run(const std::vector<std::vector<double>>& coefficients) const {
  const Table& table = active();
  const auto step = [&](const Tensor& tensor, std::size_t begin, std::size_t end) {
    if (tensor.g == nullptr || begin == end) return;
    const double* row = coefficients[tensor.group].data();
    const bool coupled = row[c_l2] != 0 || row[c_l1] != 0;
    const Kernel& kernel = table.kernels[kernels_[tensor.group]];
    kernel.sweep[tensor.number][coupled](row, begin, end, tensor.p, tensor.g, tensor.state.data());
  };
  for_each_tile(tiles_.size() - 1, [&](std::size_t tile) {
    Position at = tiles_[tile];
    const Position stop = tiles_[tile + 1];
    for (; at.tensor < stop.tensor; at = {at.tensor + 1, 0})
      step(tensors_[at.tensor], at.element, tensors_[at.tensor].size);
    if (at.element < stop.element) step(tensors_[at.tensor], at.element, stop.element);
  });
}

bool Plan::touches(const void* memory, std::size_t size) const {
  if (size == 0) return false;
  const auto* begin = static_cast<const char*>(memory);
  const auto after =
      std::lower_bound(memory_.begin(), memory_.end(), begin + size,
                       [](const Interval& interval, const char* end) { return interval.first < end; });
  return after != memory_.begin() && std::prev(after)->second > begin;
}

}  // namespace fusedstep
