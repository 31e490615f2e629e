// The norm of gradients, and their scaling by it.
#pragma once

#include <vector>

#include "array.hpp"

namespace fusedstep {

/// The sum of all lanes, in one order; it overwrites them.
double add_by_halves(double* sums);

struct Norm {
  double value;
  bool finite;  // whether all elements are; the value may be infinite all the same
};

/// The 2-norm of all elements of all arrays.
///
/// The sum of squares has one order, whatever the threads, the instruction set, and where one array ends and
/// the next begins: elements are counted through all arrays; of each block of Tiles::size of them, element i
/// goes to lane i mod lanes; lanes are added by halves, blocks one after the other; all in double.
Norm norm(const std::vector<Run>& runs);

/// Multiplies every element.
void scale(const std::vector<Run>& runs, double factor);

}  // namespace fusedstep
