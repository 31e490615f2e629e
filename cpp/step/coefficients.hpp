// The coefficients of a step.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

namespace fusedstep {

/// A group's coefficients at a step. In each list those of the prologue come first.
struct Coefficients {
  std::vector<double> rule;     // one list for all, or one for each tensor with a gradient or row of a table
  std::size_t stride = 0;       // from one list to the next; 0 if there is one list for all
  std::vector<double> average;  // empty if the averages stay as they are
};

/// The coefficients of a prologue that changes nothing.
std::vector<double> no_prologue();

/// Splits the names that a table of kernels gives as one text.
std::vector<std::string_view> separate(std::string_view names);

}  // namespace fusedstep
