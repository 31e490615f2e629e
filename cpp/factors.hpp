// What is factored into rows and columns: the squares of matrices, and what multiplies their elements.
#pragma once

#include <cstddef>
#include <vector>

#include "array.hpp"

namespace fusedstep {

/// `count` matrices, one after the other, row by row, of float32 or float64.
struct Matrices {
  Array array;
  std::size_t count, rows, columns;
};

/// Sums of squares in double, of each row and of each column of each matrix.
///
/// They have one order: of each block of Tiles::size columns of a row, element j goes to lane j mod lanes,
/// lanes are added by halves, blocks one after the other; columns are added row by row in blocks of 64 rows,
/// and these one after the other.
struct SquareSums {
  std::vector<double> rows, columns;
};
SquareSums square_sums(const Matrices& matrices);

/// Multiplies each element by its row's number and its column's, their product being at most `limit`.
void multiply(const Matrices& matrices, const double* rows, const double* columns, double limit);

}  // namespace fusedstep
