// Tests of what has no elements: its address may be null.
#include <array>
#include <cstddef>
#include <cstdint>

#include "step/factors.hpp"
#include "step/reduce.hpp"
#include "step/table_rows.hpp"
#include "support.hpp"

namespace fusedstep::testing {
namespace {

const std::vector<Format> all_formats = {format_f32, format_f64, format_bf16, format_f16};

void tensors_without_elements() {
  const std::size_t lars = kernel_named("LARS"), average = kernel_named("Average");
  const Coefficients coefficients = named(lars, {{"momentum", 0.5}, {"decay", 0}, {"step", 1}, {"unit", 1}});
  for (const Format format : all_formats)
    for (const std::size_t count : {0U, 1U, 9U}) {
      Tensor tensor;
      tensor.p = tensor.g = tensor.state[0] = {format, nullptr};
      tensor.stepped = true;
      Plan plan({{lars}}, average, std::vector<Tensor>(count, tensor));
      require(norm(plan.gradients()).value == 0, "the norm of no gradients");
      require(plan.measure(0, {coefficients})[0].values == std::vector<double>(6 * count),
              "the sums over no elements");
      run(plan, 0, {coefficients}, true);
      scale(plan.gradients(), 0.5);
      require(!plan.overlap() && !plan.touches({tensor.p, 0}) && overlapping(plan.gradients()).empty(),
              "tensors without elements overlap");
    }
}

void tables_without_elements() {
  const std::size_t sgd = kernel_named("SGD");
  const std::vector<std::int64_t> indices = {1, 0, 1};
  for (const Format format : all_formats)
    for (const std::size_t named_rows : {std::size_t{0}, indices.size()}) {
      TableRows table({{format, nullptr}, 0, 2, 0}, {}, {});
      Plan plan({}, kernel_named("Average"), {});
      require(table.name(indices.data(), named_rows), "the names of empty rows");
      table.take({format, nullptr});
      require(table.size() == (named_rows == 0 ? 0 : 2), "which empty rows are touched");
      require(!table.may_touch({{format, nullptr}, 0}), "a table without elements overlaps");
      plan.take({{0, 0, sgd, &table}});
      require(norm(plan.gradients()).value == 0, "the norm of empty rows");
      run(plan, 0, {named(sgd, {{"lr", 1}})}, false);
    }
}

void matrices_without_elements() {
  for (const auto& [count, rows, columns] : {std::array<std::size_t, 3>{0, 3, 4}, {2, 0, 4}, {2, 3, 0}}) {
    const Matrices matrices{{format_f32, nullptr}, count, rows, columns};
    const SquareSums sums = square_sums(matrices);
    require(sums.rows == std::vector<double>(count * rows) &&
                sums.columns == std::vector<double>(count * columns),
            "the sums over matrices without elements");
    multiply(matrices, sums.rows.data(), sums.columns.data(), 1);
  }
}

}  // namespace

void nothing() {
  tensors_without_elements();
  tables_without_elements();
  matrices_without_elements();
}

}  // namespace fusedstep::testing
