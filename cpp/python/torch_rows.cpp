#include "python/torch_rows.hpp"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "python/gil.hpp"

namespace fusedstep {
namespace {

/// Whether `given` has `count` rows like those of p, and both have row after row without gaps.
bool are_rows_of(const View& p, const View& given, std::size_t count) {
  if (p.ndim == 0 || given.ndim != p.ndim || !is_row_major(p) || !is_row_major(given)) return false;
  return given.shape[0] == static_cast<std::int64_t>(count) &&
         std::equal(p.shape + 1, p.shape + p.ndim, given.shape + 1);
}

/// The rows of an array that lies as p does.
Rows rows_of(const View& p, const Array& array) {
  std::size_t elements = 1;
  for (std::int32_t axis = 1; axis < p.ndim; ++axis) elements *= static_cast<std::size_t>(p.shape[axis]);
  return {array, elements, p.shape[0], static_cast<std::ptrdiff_t>(elements * width(array.format))};
}

TableRows table_of(const View& p, const Tensor& tensor, std::size_t slots) {
  std::vector<Rows> state;
  for (std::size_t slot = 0; slot < slots; ++slot) state.push_back(rows_of(p, tensor.state[slot]));
  std::optional<Rows> average;
  if (tensor.average.data != nullptr) average = rows_of(p, tensor.average);
  return {rows_of(p, tensor.p), std::move(state), average};
}

}  // namespace

std::shared_ptr<TorchRows> take_torch_rows(const View& p, const Tensor& tensor, std::size_t slots,
                                           std::span<const std::int64_t> indices, const View& given,
                                           const py::object& values) {
  if (!mix(p.array.format, given.array.format) || !are_rows_of(p, given, indices.size())) return nullptr;
  const Run run = {given.array, given.size};
  auto taken = std::make_shared<TorchRows>(TorchRows{table_of(p, tensor, slots), values, run});
  if (taken->table.may_touch(run)) return nullptr;
  if (!taken->table.name(indices.data(), indices.size()))
    throw py::index_error("a row that the parameter does not have");
  without_gil([&] { taken->table.take(run.array); });
  return taken;
}

}  // namespace fusedstep
