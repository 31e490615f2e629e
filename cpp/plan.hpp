// What a step needs to know and can know before: where the tensors are, and which tiles they make.
#pragma once

#include <array>
#include <cstddef>
#include <utility>
#include <vector>

#include "table.hpp"

namespace fusedstep {

constexpr std::size_t max_slots = 8;

/// One parameter with its state; the gradient changes from step to step, null where there is none.
struct Tensor {
  std::size_t group;
  Number number;
  std::size_t size;
  void* p;
  const void* g;
  std::array<void*, max_slots> state;
};

/// All tensors end to end, cut into tiles of about equal work: a large tensor makes many tiles, many small
/// tensors share one.
class Plan {
 public:
  /// Elements of a tile: some microseconds of work.
  static constexpr std::size_t tile = 16384;

  /// `kernels` holds, for each group of tensors, the rule's index in the table.
  Plan(std::vector<std::size_t> kernels, std::vector<Tensor> tensors);

  /// Steps every tensor that has a gradient; coefficients holds a row for each group.
  void run(const std::vector<std::vector<double>>& coefficients) const;

  std::vector<Tensor>& tensors() { return tensors_; }
  const std::vector<std::size_t>& kernels() const { return kernels_; }

  /// Whether `size` bytes at `memory` touch a parameter or its state.
  bool touches(const void* memory, std::size_t size) const;

 private:
  struct Position {
    std::size_t tensor, element;
  };
  using Interval = std::pair<const char*, const char*>;

  std::vector<std::size_t> kernels_;
  std::vector<Tensor> tensors_;
  std::vector<Position> tiles_;   // where each begins; one more for the end
  std::vector<Interval> memory_;  // sorted
};

}  // namespace fusedstep
