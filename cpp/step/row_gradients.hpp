// The rows of a table that have a gradient, and the total gradient of each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "step/array.hpp"

namespace fusedstep {

/// The rows that a step names, each once, in ascending order, with their gradients. The object is filled at
/// each step and keeps its memory.
class RowGradients {
 public:
  /// Copies the indices of rows; returns false if one of them is outside 0..count-1.
  bool name(const std::int64_t* rows, std::size_t n, std::int64_t count);

  /// Takes a gradient of `width` elements for each of them. Gradients of the same row are summed, in the
  /// order in which they are given and in the format that a step computes in.
  void take(const Array& given, std::size_t width);

  std::size_t size() const { return size_; }
  const std::int64_t* rows() const { return rows_.data(); }
  const Array& operator[](std::size_t k) const { return gradients_[k]; }

 private:
  struct Named {
    std::int64_t row;
    std::size_t place;
  };

  /// Sorts `named_` by row; entries of the same row stay in order.
  void sort();

  /// Writes the sum of the gradients of `named_`'s entries first..last to `total`, which has room for one
  /// more gradient behind the sum.
  template <class T>
  void sum(std::size_t first, std::size_t last, const Array& given, std::size_t width, T* total) const;

  std::size_t size_ = 0;
  std::vector<Named> named_, sorted_;
  std::vector<std::int64_t> rows_;
  std::vector<Array> gradients_;
  std::vector<double> sums_;
};

}  // namespace fusedstep
