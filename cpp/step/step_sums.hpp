// The sums of squares that a step makes within its pass: of gradients, weights and updates.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "step/mixed.hpp"
#include "step/parallel.hpp"
#include "step/tiles.hpp"

namespace fusedstep {

/// What a step sums within its pass, in an order that depends on sizes alone: the squares of each tensor, and
/// of each touched row of a table, in blocks of Tiles::size elements, one block after the other.
class SumsOfStep {
 public:
  /// Takes the sizes of the tensors.
  explicit SumsOfStep(const std::vector<std::size_t>& sizes);

  /// The tensor of a table, and how many of its rows a step touches.
  using TableSize = std::pair<std::size_t, std::size_t>;

  /// Takes the tables of the next step, which replace those of the last step.
  void take(const std::vector<TableSize>& tables);

  /// Calls work(tensor, begin, end) for each block of each tensor, and keeps the sums that it returns.
  template <class Function>
  void for_each_block(const Function& work) noexcept {
    for_each_range(blocks_.size(), Tiles::least_a_thread, [&](std::size_t first, std::size_t last) {
      for (std::size_t i = first; i < last; ++i)
        blocks_[i].sums = work(blocks_[i].tensor, blocks_[i].begin, blocks_[i].end);
    });
  }

  /// The sums over each touched row of table k, to be filled.
  StepSums* rows(std::size_t k) { return tables_[k].rows.data(); }

  /// The sums over each tensor: of all of its weights; of its gradient and update, or those of the rows
  /// touched.
  std::vector<StepSums> by_tensor() const;

 private:
  struct Block {
    std::size_t tensor, begin, end;
    StepSums sums;
  };

  struct OfTable {
    std::size_t tensor;
    std::vector<StepSums> rows;
  };

  std::size_t tensors_;
  std::vector<Block> blocks_;
  std::vector<OfTable> tables_;
};

}  // namespace fusedstep
