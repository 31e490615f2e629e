// Tests of tables of which a step touches many rows, several times each.
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "step/table_rows.hpp"
#include "support.hpp"

namespace fusedstep::testing {
namespace {

constexpr std::int64_t count = 5000;  // more than a digit of the radix sort can name
constexpr std::size_t width = 5, given = 9000, gap = 2;

/// The first element of a row, in an array with a gap behind each row.
std::size_t begin_of(std::int64_t row) { return static_cast<std::size_t>(row) * (width + gap); }

Rows rows_of(Kept& kept) {
  const Array first = kept.array();
  return {first, width, count, static_cast<std::ptrdiff_t>((width + gap) * fusedstep::width(first.format))};
}

/// Momentum along the sum of each row's gradients, in numbers that no format rounds.
void rows_named_again_are_summed(Format format, Format of_gradients, Format of_state) {
  const std::size_t size = begin_of(count - 1) + width;
  Floats p = whole_numbers(size, 1), v = whole_numbers(size, 2);
  const Floats values = whole_numbers(given * width, 3), draws = numbers(given, 4);
  Kept kept_p(format, p, 1), kept_v(of_state, v, 1), kept_values(of_gradients, values, 1);

  std::vector<std::int64_t> indices(given);
  std::vector<std::vector<float>> sums(count);
  for (std::size_t i = 0; i < given; ++i) {
    // Every second one names one of 1000 rows.
    const auto row = static_cast<std::int64_t>(std::abs(draws[i]) * static_cast<float>(count));
    indices[i] = i % 2 == 0 ? row / 5 * 5 : std::min(row, count - 1);
    std::vector<float>& sum = sums[static_cast<std::size_t>(indices[i])];
    sum.resize(width);
    for (std::size_t j = 0; j < width; ++j) sum[j] += values[i * width + j];
  }
  std::vector<std::int64_t> touched;
  for (std::int64_t row = 0; row < count; ++row) {
    const std::vector<float>& sum = sums[static_cast<std::size_t>(row)];
    if (sum.empty()) continue;
    touched.push_back(row);
    for (std::size_t j = 0; j < width; ++j) {
      float& of_row = v[begin_of(row) + j];
      of_row = 0.5F * of_row - 0.25F * sum[j];
      p[begin_of(row) + j] += of_row;
    }
  }

  const std::size_t momentum = kernel_named("Momentum");
  TableRows table(rows_of(kept_p), {rows_of(kept_v)}, {});
  Plan plan({}, kernel_named("Average"), {});
  require(table.name(indices.data(), given), "the names of many rows");
  table.take(kept_values.array());
  require(std::vector(table.touched(), table.touched() + table.size()) == touched, "which rows are touched");
  plan.take({{0, 0, momentum, &table}});
  run(plan, 0, {named(momentum, {{"momentum", 0.5}, {"lr", 0.25}})}, false);
  require(kept_p.values() == p && kept_v.values() == v, "rows that are named several times");
  require(kept_p.untouched_before() && kept_v.untouched_before(), "what lies before a table");
}

}  // namespace

void rows() {
  rows_named_again_are_summed(format_f32, format_f32, format_f32);
  rows_named_again_are_summed(format_f64, format_f64, format_f64);
  rows_named_again_are_summed(format_f32, format_bf16, format_f32);
  rows_named_again_are_summed(format_f32, format_f16, format_bf16);
}

}  // namespace fusedstep::testing
