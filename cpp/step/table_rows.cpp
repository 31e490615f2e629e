#include "step/table_rows.hpp"

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <utility>

#include "step/dispatch.hpp"
#include "step/mixed.hpp"
#include "step/parallel.hpp"
#include "step/tiles.hpp"

namespace fusedstep {
namespace {

/// A row is prefetched while the rows before it are stepped, but only the first lines of a long row: the
/// processor itself foresees the rest. These functions are inlined, since GCC drops calls of functions that
/// only prefetch.
constexpr std::size_t ahead = 4, line = 64, most_lines = 16;

[[gnu::always_inline]] inline void prefetch_run(const Array& array, std::size_t size) {
  const auto begin = reinterpret_cast<std::uintptr_t>(array.data);
  const std::size_t bytes = std::min(size * width(array.format), most_lines * line);
  for (std::uintptr_t at = begin / line * line; at < begin + bytes; at += line)
    __builtin_prefetch(reinterpret_cast<const void*>(at));
}

}  // namespace

TableRows::TableRows(const Rows& p, std::vector<Rows> state, const std::optional<Rows>& average)
    : p_(p), state_(std::move(state)), average_(average) {
  if (state_.size() >= max_slots) throw std::invalid_argument("more state than any kernel has");
  Operands of{.p = p_.first};
  for (std::size_t slot = 0; slot < state_.size(); ++slot) of.state[slot] = state_[slot].first;
  slots_format_ = format_of_slots(of, state_.size());
}

bool TableRows::may_touch(const Run& run) const {
  const auto touches = [&](const Rows& rows) { return rows.may_touch(run); };
  return touches(p_) || (average_ && touches(*average_)) ||
         std::any_of(state_.begin(), state_.end(), touches);
}

void TableRows::measure(const Kernel& kernel, const Coefficients& coefficients, double* values) const {
  const Table& table = active();
  for_each_row([&](std::size_t k, const Operands& of) {
    const double* const own = coefficients.rule.data() + k * coefficients.stride;
    OfSums factors, sums;
    factors.fill(1);
    do {
      sums.fill(0);
      for (std::size_t begin = 0; begin < p_.width; begin += Tiles::size)
        fusedstep::measure(table, kernel, own, factors, begin, std::min(begin + Tiles::size, p_.width), of,
                           sums);
    } while (put(kernel, of.p.format, sums, factors, values + k * values_of(kernel)));
  });
}

void TableRows::run(const Kernel& kernel, const Kernel& average_kernel, const Coefficients& coefficients,
                    StepSums* sums) const {
  const Table& table = active();
  const bool averages = average_ && !coefficients.average.empty();
  for_each_row([&](std::size_t k, const Operands& of) {
    const double* const own = coefficients.rule.data() + k * coefficients.stride;
    const double* const of_average = averages ? coefficients.average.data() : nullptr;
    if (sums != nullptr)
      for (std::size_t begin = 0; begin < p_.width; begin += Tiles::size)
        add(sweep_and_sum(table, &kernel, average_kernel, own, of_average, begin,
                          std::min(begin + Tiles::size, p_.width), of),
            sums[k]);
    else if (averages)
      sweep_and_average(table, kernel, average_kernel, own, of_average, 0, p_.width, of);
    else
      sweep(table, kernel, own, 0, p_.width, of);
  });
}

template <class Function>
void TableRows::for_each_row(const Function& work) const {
  const std::size_t together = std::max<std::size_t>(1, Tiles::size / (p_.width + line));
  const std::size_t tiles = (size() + together - 1) / together;
  for_each_range(tiles, Tiles::least_a_thread, [&](std::size_t first, std::size_t last) {
    Operands of{.slots = slots_format_};
    for (std::size_t k = first * together; k < std::min(last * together, size()); ++k) {
      if (k + ahead < size()) prefetch(k + ahead);
      set_operands(k, of);
      work(k, of);
    }
  });
}

void TableRows::set_operands(std::size_t k, Operands& of) const {
  const std::int64_t row = touched()[k];
  of.p = p_[row];
  of.g = gradients_[k];
  for (std::size_t slot = 0; slot < state_.size(); ++slot) of.state[slot] = state_[slot][row];
  if (average_) of.average = (*average_)[row];
}

[[gnu::always_inline]] inline void TableRows::prefetch(std::size_t k) const {
  const std::int64_t row = touched()[k];
  prefetch_run(gradients_[k], p_.width);
  prefetch_run(p_[row], p_.width);
  for (const Rows& slot : state_) prefetch_run(slot[row], p_.width);
  if (average_) prefetch_run((*average_)[row], p_.width);
}

}  // namespace fusedstep
