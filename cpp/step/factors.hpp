// Sums over the rows and columns of matrices, and factors for their rows and columns.
#pragma once

#include <cstddef>
#include <vector>

#include "step/array.hpp"

namespace fusedstep {

/// `count` matrices, one after the other, row by row, of float32 or float64.
struct Matrices {
  Array array;
  std::size_t count, rows, columns;
};

/// The sums of squares of each row and of each column of each matrix, in double.
///
/// They are always added in the same order. In each block of Tiles::size columns of a row, element j goes to
/// lane j mod lanes; the lanes are added by halves, the blocks one after the other. Columns are added row by
/// row within blocks of 64 rows, and the blocks one after the other.
struct SquareSums {
  std::vector<double> rows, columns;
};
SquareSums square_sums(const Matrices& matrices);

/// Multiplies each element by its row's factor times its column's, or by `limit` if that product is larger.
void multiply(const Matrices& matrices, const double* rows, const double* columns, double limit);

}  // namespace fusedstep
