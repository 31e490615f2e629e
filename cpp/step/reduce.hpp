// The norm of gradients, and their scaling by it.
#pragma once

#include <vector>

#include "step/array.hpp"

namespace fusedstep {

/// Returns the sum of all lanes, added in a fixed order, and overwrites the lanes.
double add_by_halves(double* sums);

/// The factor for the numbers of which the squares have this sum, to sum them again: 1 unless the sum
/// overflowed, or is so small that squares of float64 have lost digits that their root would still have.
double factor_for(double sum);

struct Norm {
  double value;
  bool finite;  // whether all elements are finite; the value may be infinite even then
};

/// The 2-norm of all elements of all arrays.
///
/// The squares are added in the same order whatever the threads, the instruction set, and where one array
/// ends and the next begins: elements are counted through all arrays; in each block of Tiles::size of them,
/// element i goes to lane i mod lanes; the lanes are added by halves, the blocks one after the other; all in
/// double.
Norm norm(const std::vector<Run>& runs);

/// Multiplies every element by `factor`.
void scale(const std::vector<Run>& runs, double factor);

}  // namespace fusedstep
