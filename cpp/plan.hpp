// What a step needs to know and can know before: where the tensors are, and which tiles they make.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "mixed.hpp"
#include "reduce.hpp"
#include "table.hpp"
#include "tiles.hpp"

namespace fusedstep {

constexpr std::size_t max_slots = 8, max_sums = 2;

/// One parameter with its gradient, its state, and the average of its weights, null where there is none.
/// The gradient changes from step to step.
struct Tensor {
  std::size_t group;
  std::size_t size;
  Array p, g;
  Number kept;  // of state and average
  std::array<void*, max_slots> state;
  void* average;
  bool stepped;  // whether it has a gradient
};

/// A group's coefficients at a step, each after those of the prologue.
struct Row {
  std::vector<double> rule;     // one row for all, or one for each tensor that has a gradient
  std::size_t stride;           // from a tensor's to the next one's; 0 where all have the same
  std::vector<double> average;  // empty: what averages there are stay as they are
};

/// The sums over each tensor of a group that its step depends on.
struct Sums {
  std::vector<std::size_t> tensors;  // those that have a gradient; none where the rule has no sums
  std::vector<double> values;        // of one tensor after those of the other
};

/// The coefficients of a prologue that changes nothing.
std::vector<double> no_prologue();

/// Adds to each sum what elements begin..end say, at most Tiles::size of them.
void add_sums(const Kernel& kernel, const double* row, std::size_t begin, std::size_t end, const Operands& of,
              double* to);

class Plan {
 public:
  /// `kernels` holds, for each group of tensors, the rule's index in the table; `average` is the index of the
  /// rule that keeps the averages.
  Plan(std::vector<std::size_t> kernels, std::size_t average, std::vector<Tensor> tensors);

  /// The sums over every tensor that has a gradient, by group. Of each block of Tiles::size elements of a
  /// tensor, element i goes to lane i mod lanes; lanes are added by halves, blocks one after the other; all
  /// in double.
  std::vector<Sums> measure(const std::vector<Row>& rows) const;

  /// Steps every tensor that has a gradient, and then sets the gradient to 0 if so asked.
  void run(const std::vector<Row>& rows, bool zero_gradients) const;

  /// The gradients; without elements where there is none.
  std::vector<Run> gradients() const;

  std::vector<Tensor>& tensors() { return tensors_; }
  const std::vector<Tensor>& tensors() const { return tensors_; }
  const std::vector<std::size_t>& kernels() const { return kernels_; }
  std::size_t average() const { return average_; }

  /// Whether `size` bytes at `memory` touch a parameter or its state.
  bool touches(const void* memory, std::size_t size) const;

  /// Two tensors, or one twice, whose parameters and state share memory, if there are such.
  std::optional<std::pair<std::size_t, std::size_t>> overlap() const;

 private:
  const Kernel& kernel_of(const Tensor& tensor) const;

  /// Each tensor's row of coefficients.
  std::vector<const double*> by_tensor(const std::vector<Row>& rows) const;

  struct Interval {
    const char *begin, *end;
    std::size_t tensor;
  };

  std::vector<std::size_t> kernels_;
  std::size_t average_;
  std::vector<Tensor> tensors_;
  Tiles tiles_;
  std::vector<Interval> memory_;  // what a step writes but for gradients, sorted
};

}  // namespace fusedstep
