#include "step/row_gradients.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "step/dispatch.hpp"
#include "step/floating_point.hpp"

namespace fusedstep {
namespace {

void load(const Array& from, std::size_t n, float* to) { active().widen[from.format](n, from.data, to); }
void load(const Array& from, std::size_t n, double* to) {
  std::copy_n(static_cast<const double*>(from.data), n, to);
}

}  // namespace

bool RowGradients::name(const std::int64_t* rows, std::size_t n, std::int64_t count) {
  named_.resize(n);
  for (std::size_t i = 0; i < n; ++i) named_[i] = {rows[i], i};
  const auto beyond = [count](const Named& named) { return named.row < 0 || named.row >= count; };
  return std::none_of(named_.begin(), named_.end(), beyond);
}

void RowGradients::take(const Array& given, std::size_t width) {
  const StandardMode mode;
  sort();

  const std::size_t n = named_.size();
  const auto again = [this](std::size_t i) { return i > 0 && named_[i].row == named_[i - 1].row; };
  std::size_t sums_needed = 1;  // one more: room for the gradient that is added next
  for (std::size_t i = 1; i < n; ++i) sums_needed += again(i) && !again(i - 1);
  const Format format = given.format == format_f64 ? format_f64 : format_f32;
  sums_.resize((sums_needed * width * fusedstep::width(format) + sizeof(double) - 1) / sizeof(double));
  Array sums = {format, sums_.data()};

  rows_.resize(n);
  gradients_.resize(n);
  size_ = 0;
  for (std::size_t first = 0, last = 0; first < n; first = last) {
    while (last < n && named_[last].row == named_[first].row) ++last;
    rows_[size_] = named_[first].row;
    if (last - first == 1) {
      gradients_[size_++] = {given.format, given.at(named_[first].place * width)};
      continue;
    }
    if (sums.format == format_f64)
      sum(first, last, given, width, static_cast<double*>(sums.data));
    else
      sum(first, last, given, width, static_cast<float*>(sums.data));
    gradients_[size_++] = sums;
    sums.data = sums.at(width);
  }
}

/// A radix sort: one pass for each digit, from the lowest digit to the highest.
void RowGradients::sort() {
  constexpr unsigned bits = 11;
  constexpr std::size_t digits = std::size_t{1} << bits;
  std::int64_t most = 0;
  for (const Named& named : named_) most = std::max(most, named.row);
  sorted_.resize(named_.size());
  for (unsigned shift = 0; shift < 63 && most >> shift > 0; shift += bits) {
    const auto digit = [shift](const Named& named) {
      return static_cast<std::size_t>(named.row >> shift) & (digits - 1);
    };
    std::array<std::size_t, digits + 1> starts{};
    for (const Named& named : named_) ++starts[digit(named) + 1];
    for (std::size_t d = 0; d < digits; ++d) starts[d + 1] += starts[d];
    for (const Named& named : named_) sorted_[starts[digit(named)]++] = named;
    std::swap(named_, sorted_);
  }
}

template <class T>
void RowGradients::sum(std::size_t first, std::size_t last, const Array& given, std::size_t width,
                       T* total) const {
  const auto at = [&](std::size_t i) { return Array{given.format, given.at(named_[i].place * width)}; };
  T* const next = total + width;
  load(at(first), width, total);
  while (++first < last) {
    load(at(first), width, next);
    for (std::size_t i = 0; i < width; ++i) total[i] += next[i];
  }
}

}  // namespace fusedstep
