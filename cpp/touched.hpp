// Which rows of a table are named, where, and what is given for them in all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "array.hpp"

namespace fusedstep {

/// Rows that are named, each once, in ascending order, with their gradients. Made once and filled at each
/// step, it keeps its memory.
class Touched {
 public:
  /// Takes the names of rows, copied; false if one of them is none of 0..count-1.
  bool name(const std::int64_t* rows, std::size_t n, std::int64_t count);

  /// Takes what is given for each of them, `width` elements. Gradients of one row are summed, in the order in
  /// which they are given and in the type that a step computes in.
  void take(const Array& given, std::size_t width);

  std::size_t size() const { return size_; }
  const std::int64_t* rows() const { return rows_.data(); }
  const Array& gradient(std::size_t k) const { return gradients_[k]; }

 private:
  struct Named {
    std::int64_t row;
    std::size_t place;
  };

  /// By row; what names the same row stays in order.
  void sort();

  /// The sum of what is given at the places first..last of `named_`; after it comes room for another.
  template <class T>
  void sum(std::size_t first, std::size_t last, const Array& given, std::size_t width, T* total) const;

  std::size_t size_ = 0;
  std::vector<Named> named_, sorted_;
  std::vector<std::int64_t> rows_;
  std::vector<Array> gradients_;
  std::vector<double> sums_;
};

}  // namespace fusedstep
