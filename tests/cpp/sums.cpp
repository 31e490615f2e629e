// Tests of what reads or multiplies whole tensors: norms, the sums that steps depend on, factors of rows and
// columns.
#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>

#include "step/factors.hpp"
#include "step/reduce.hpp"
#include "support.hpp"

namespace fusedstep::testing {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

Norm norm_of(std::vector<double> numbers) { return norm({{{format_f64, numbers.data()}, numbers.size()}}); }

/// Squares neither overflow nor vanish where the norm itself does not.
void norms_of_huge_and_tiny_numbers() {
  for (const double scale : {0x1p1020, 0x1p700, 1.0, 0x1p-700, 0x1p-1074}) {
    const Norm found = norm_of({3 * scale, 0, -4 * scale});
    require(found.value == 5 * scale && found.finite, "the norm of huge or tiny numbers");
  }
  Floats huge = {0x1.8p127F, 0x1p127F};
  require(norm({{float32(huge), 2}}).value == std::sqrt(3.25) * 0x1p127, "the norm of huge float32");
  const double most = std::numeric_limits<double>::max();
  require(norm_of({most, most}).value == infinity && norm_of({most, most}).finite, "a norm that overflows");
  require(norm_of({0, -0.0}).value == 0 && norm_of({}).value == 0, "the norm of nothing");
  require(!norm_of({1, -infinity}).finite && !norm_of({NAN, 1}).finite, "the norm of what is not finite");
}

/// The norm is the same in every format, and wherever one array ends and the next begins.
void norms_count_through_all_arrays() {
  const std::size_t n = 20001;
  const Floats g = whole_numbers(n, 1);
  double expected = 0;
  for (const float x : g) expected += double{x} * double{x};
  for (const Format format : {format_f32, format_f64, format_bf16, format_f16}) {
    Kept kept(format, g, 1);
    std::vector<Run> runs;
    std::size_t begin = 0;
    for (const std::size_t end : {std::size_t{1}, std::size_t{1}, std::size_t{4099}, n}) {
      runs.push_back({{format, kept.array().at(begin)}, end - begin});
      begin = end;
    }
    require(norm(runs).value == std::sqrt(expected), "the norm of several arrays");
    scale(runs, -0.25);
    Floats scaled = g;
    for (float& x : scaled) x *= -0.25F;
    require(kept.values() == scaled && kept.untouched_before(), "scaled arrays");
  }
}

/// LARS measures the squares of parameter and gradient, also of formats without a loop of their own, and of
/// those tensors only that have a gradient.
void sums_over_tensors() {
  const std::size_t lars = kernel_named("LARS");
  const Coefficients coefficients = named(lars, {{"momentum", 0.5}, {"decay", 0}, {"step", 1}, {"unit", 1}});
  for (const Format format : {format_f32, format_f64, format_bf16, format_f16}) {
    std::vector<Kept> kept;
    std::vector<Tensor> tensors;
    std::vector<double> expected;
    for (const std::size_t n : {9001U, 0U, 3U, 5U}) {
      Tensor tensor;
      tensor.size = n;
      tensor.stepped = n != 3;
      for (Array* array : {&tensor.p, &tensor.g, &tensor.state[0]}) {
        const Floats x = whole_numbers(n, static_cast<std::uint32_t>(kept.size()));
        double sum = 0;
        for (const float each : x) sum += double{each} * double{each};
        if (tensor.stepped && array != &tensor.state[0]) expected.push_back(sum);
        kept.emplace_back(format, x, 1);
        *array = kept.back().array();
      }
      if (tensor.stepped) expected.resize(expected.size() + 4);  // no sum is out of range
      tensors.push_back(tensor);
    }
    const Plan plan({{lars}}, kernel_named("Average"), tensors);
    const Sums sums = plan.measure(0, {coefficients})[0];
    require(sums.items == std::vector<std::size_t>{0, 1, 3} && sums.values == expected,
            "the sums over tensors");
  }
}

/// Sums over rows and columns, and factors of them, of matrices in more than one block and tile.
void factors_of_rows_and_columns() {
  constexpr std::size_t count = 2;
  for (const Format format : {format_f32, format_f64})
    for (const auto& [rows, columns] : {std::pair<std::size_t, std::size_t>{131, 77}, {3, 9001}}) {
      Floats x = whole_numbers(count * rows * columns, 1);
      Kept kept(format, x, 1);
      const Matrices matrices{kept.array(), count, rows, columns};
      std::vector<double> by_row(count * rows), by_column(count * columns);
      for (std::size_t i = 0; i < x.size(); ++i) {
        const std::size_t row = i / columns, column = row / rows * columns + i % columns;
        by_row[row] += double{x[i]} * double{x[i]};
        by_column[column] += double{x[i]} * double{x[i]};
        x[i] *= std::min((row % 2 == 0 ? 0.5F : 2.0F) * (column % 3 == 0 ? 4.0F : 1.0F), 2.0F);
      }
      const SquareSums sums = square_sums(matrices);
      require(sums.rows == by_row && sums.columns == by_column, "the sums over rows and columns");
      for (std::size_t row = 0; row < by_row.size(); ++row) by_row[row] = row % 2 == 0 ? 0.5 : 2;
      for (std::size_t column = 0; column < by_column.size(); ++column)
        by_column[column] = column % 3 == 0 ? 4 : 1;
      multiply(matrices, by_row.data(), by_column.data(), 2);
      require(kept.values() == x && kept.untouched_before(), "factors of rows and columns");
    }
}

}  // namespace

void sums() {
  norms_of_huge_and_tiny_numbers();
  norms_count_through_all_arrays();
  sums_over_tensors();
  factors_of_rows_and_columns();
}

}  // namespace fusedstep::testing
