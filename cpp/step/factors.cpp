#include "step/factors.hpp"

#include <algorithm>

#include "step/dispatch.hpp"
#include "step/floating_point.hpp"
#include "step/parallel.hpp"
#include "step/reduce.hpp"
#include "step/tiles.hpp"

namespace fusedstep {
namespace {

constexpr std::size_t block_of_rows = 64;

std::size_t blocks(const Matrices& matrices) { return (matrices.rows + block_of_rows - 1) / block_of_rows; }

/// Calls work(block, matrix, first row, last row) for all blocks of all matrices, on as many threads as the
/// work is worth.
template <class Work>
void for_each_block(const Matrices& matrices, const Work& work) {
  const std::size_t each = blocks(matrices), elements = block_of_rows * matrices.columns + 1;
  const std::size_t least = Tiles::least_a_thread * Tiles::size / elements + 1;
  for_each_range(matrices.count * each, least, [&](std::size_t first, std::size_t last) {
    for (std::size_t block = first; block < last; ++block) {
      const std::size_t begin = block % each * block_of_rows;
      work(block, block / each, begin, std::min(begin + block_of_rows, matrices.rows));
    }
  });
}

void* row_of(const Matrices& matrices, std::size_t matrix, std::size_t row) {
  return matrices.array.at((matrix * matrices.rows + row) * matrices.columns);
}

}  // namespace

SquareSums square_sums(const Matrices& matrices) {
  const StandardMode mode;
  const RowSquares row_squares = active().row_squares[matrices.array.format];
  const std::size_t width = matrices.columns;
  SquareSums sums{std::vector<double>(matrices.count * matrices.rows),
                  std::vector<double>(matrices.count * width)};
  std::vector<double> of_blocks(matrices.count * blocks(matrices) * width);
  for_each_block(matrices, [&](std::size_t block, std::size_t matrix, std::size_t first, std::size_t last) {
    double* const columns = of_blocks.data() + block * width;
    for (std::size_t row = first; row < last; ++row)
      for (std::size_t begin = 0; begin < width; begin += Tiles::size) {
        double wide[lanes] = {};
        row_squares(begin, std::min(begin + Tiles::size, width), row_of(matrices, matrix, row), wide,
                    columns);
        sums.rows[matrix * matrices.rows + row] += add_by_halves(wide);
      }
  });
  for (std::size_t block = 0; block < matrices.count * blocks(matrices); ++block)
    for (std::size_t j = 0; j < width; ++j)
      sums.columns[block / blocks(matrices) * width + j] += of_blocks[block * width + j];
  return sums;
}

void multiply(const Matrices& matrices, const double* rows, const double* columns, double limit) {
  const RowProduct row_product = active().row_product[matrices.array.format];
  for_each_block(matrices, [&](std::size_t, std::size_t matrix, std::size_t first, std::size_t last) {
    for (std::size_t row = first; row < last; ++row)
      row_product(matrices.columns, row_of(matrices, matrix, row), rows[matrix * matrices.rows + row],
                  columns + matrix * matrices.columns, limit);
  });
}

}  // namespace fusedstep
