#include "python/changes.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "python/gil.hpp"

namespace fusedstep {
namespace {

/// Copies elements of one width; `sign` is the bit that changes, or 0.
template <class Bits>
void copy_axis(std::size_t n, char* to, std::ptrdiff_t to_step, const char* from, std::ptrdiff_t from_step,
               Bits sign) {
  for (std::size_t i = 0; i < n; ++i, to += to_step, from += from_step) {
    Bits bits;
    std::memcpy(&bits, from, sizeof bits);
    bits = static_cast<Bits>(bits ^ sign);
    std::memcpy(to, &bits, sizeof bits);
  }
}

template <class Bits>
Bits sign_of(bool negated) {
  return negated ? static_cast<Bits>(Bits{1} << (8 * sizeof(Bits) - 1)) : Bits{0};
}

}  // namespace

void Changes::update(const py::dict& target, const py::dict& values) {
  dictionaries_.emplace_back(target, values);
}

void Changes::copy(py::array target, const py::array& source, bool negated) {
  const auto width = static_cast<std::size_t>(target.itemsize());
  const bool alike = target.ndim() == source.ndim() && target.itemsize() == source.itemsize() &&
                     std::equal(target.shape(), target.shape() + target.ndim(), source.shape());
  if (!alike || (negated && width != 2 && width != 4 && width != 8))
    throw std::invalid_argument("a copy of another shape or width");
  Copy copy{
      static_cast<char*>(target.mutable_data()), static_cast<const char*>(source.data()), width, negated, {}};
  for (py::ssize_t axis = 0; axis < target.ndim(); ++axis)
    copy.axes.push_back(
        {static_cast<std::size_t>(target.shape(axis)), target.strides(axis), source.strides(axis)});
  std::stable_sort(copy.axes.begin(), copy.axes.end(),
                   [](const Axis& a, const Axis& b) { return std::abs(a.to) > std::abs(b.to); });
  copies_.push_back(std::move(copy));
  targets_.push_back(std::move(target));
  sources_.push_back(source);
}

void Changes::put(py::array target, const Indices& rows, const py::array& source) {
  const auto width_of = [](const py::array& array) {
    return static_cast<std::size_t>(array.itemsize() *
                                    (array.shape(0) == 0 ? 0 : array.size() / array.shape(0)));
  };
  const std::int64_t *const first = rows.data(), *const last = first + rows.size();
  const bool fits =
      target.ndim() > 0 && source.ndim() > 0 && rows.ndim() == 1 && source.shape(0) == rows.size() &&
      std::all_of(first, last, [&](std::int64_t row) { return 0 <= row && row < target.shape(0); });
  if (!fits || (rows.size() > 0 && width_of(source) != width_of(target)))
    throw std::invalid_argument("rows of another number or width");
  puts_.push_back({static_cast<char*>(target.mutable_data()), static_cast<const char*>(source.data()),
                   target.strides(0), source.strides(0), width_of(target), first,
                   static_cast<std::size_t>(rows.size())});
  targets_.push_back(std::move(target));
  sources_.push_back(source);
  sources_.push_back(rows);
}

void Changes::extend(const Changes& others) {
  const auto add = [](auto& all, const auto& more) { all.insert(all.end(), more.begin(), more.end()); };
  add(dictionaries_, others.dictionaries_);
  add(targets_, others.targets_);
  add(sources_, others.sources_);
  add(copies_, others.copies_);
  add(puts_, others.puts_);
  add(scalars_, others.scalars_);
}

void Changes::forget() noexcept {
  dictionaries_.clear();
  targets_.clear();
  sources_.clear();
  copies_.clear();
  puts_.clear();
  scalars_.clear();
}

void Changes::restore(const Changes& others) {
  for (const auto& [target, values] : others.dictionaries_) {
    py::dict before;
    for (const auto& [key, value] : values)
      if (target.contains(key)) before[key] = target[key];
    update(target, before);
  }
  for (const py::array& target : others.targets_) copy(target, target.attr("copy")(), false);
}

void Changes::write() const {
  write_before();
  if (!targets_.empty()) without_gil([this] { write_after(); });
}

void Changes::write_before() const {
  if (dictionaries_.size() > 1) add_keys();
  for (const auto& [target, values] : dictionaries_)
    if (PyDict_Update(target.ptr(), values.ptr()) != 0) throw py::error_already_set();
  for (const auto& [scalar, value] : scalars_) set_scalar(scalar, value);
}

void Changes::add_keys() const {
  std::vector<std::size_t> sizes;
  for (const auto& [target, values] : dictionaries_) sizes.push_back(target.size());
  for (const auto& [target, values] : dictionaries_) {
    if (PyDict_Merge(target.ptr(), values.ptr(), 0) == 0) continue;
    const py::error_already_set error;
    for (std::size_t i = 0; i < sizes.size(); ++i)
      while (dictionaries_[i].first.size() > sizes[i]) dictionaries_[i].first.attr("popitem")();
    throw error;
  }
}

void Changes::write_after() const noexcept {
  for (const Copy& copy : copies_) write_axes(copy, 0, copy.to, copy.from);
  for (const Put& put : puts_)
    for (std::size_t k = 0; k < put.count; ++k)
      std::memcpy(put.to + put.rows[k] * put.to_step,
                  put.from + static_cast<std::ptrdiff_t>(k) * put.from_step, put.width);
}

void Changes::write_axes(const Copy& copy, std::size_t axis, char* to, const char* from) noexcept {
  if (axis + 1 < copy.axes.size()) {
    const Axis& along = copy.axes[axis];
    for (std::size_t i = 0; i < along.length; ++i, to += along.to, from += along.from)
      write_axes(copy, axis + 1, to, from);
    return;
  }
  const Axis last = copy.axes.empty() ? Axis{1, 0, 0} : copy.axes.back();
  const auto whole = static_cast<std::ptrdiff_t>(copy.width);
  if (last.to == whole && last.from == whole && !copy.negated)
    std::memcpy(to, from, last.length * copy.width);
  else if (!copy.negated && copy.width != 2 && copy.width != 4 && copy.width != 8)
    for (std::size_t i = 0; i < last.length; ++i, to += last.to, from += last.from)
      std::memcpy(to, from, copy.width);
  else if (copy.width == 2)
    copy_axis(last.length, to, last.to, from, last.from, sign_of<std::uint16_t>(copy.negated));
  else if (copy.width == 4)
    copy_axis(last.length, to, last.to, from, last.from, sign_of<std::uint32_t>(copy.negated));
  else
    copy_axis(last.length, to, last.to, from, last.from, sign_of<std::uint64_t>(copy.negated));
}

}  // namespace fusedstep
