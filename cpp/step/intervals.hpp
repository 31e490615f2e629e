// Pieces of memory, and the tensors that they belong to.
#pragma once

#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

namespace fusedstep {

/// The memory of tensors. All of it must be added and then sorted before the first query.
class Intervals {
 public:
  void add(const void* memory, std::size_t bytes, std::size_t tensor);
  void sort();

  /// Whether a run of memory overlaps one of the pieces.
  bool touches(const void* memory, std::size_t bytes) const;

  /// Two tensors that share memory, or one tensor twice if its own pieces do; nothing if there are none.
  std::optional<std::pair<std::size_t, std::size_t>> overlap() const;

 private:
  struct Interval {
    const char *begin, *end;
    std::size_t tensor;
  };

  std::vector<Interval> intervals_;
};

}  // namespace fusedstep
