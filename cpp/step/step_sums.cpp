#include "step/step_sums.hpp"

#include <algorithm>

#include "step/floating_point.hpp"

namespace fusedstep {

SumsOfStep::SumsOfStep(const std::vector<std::size_t>& sizes) : tensors_(sizes.size()) {
  for (std::size_t tensor = 0; tensor < sizes.size(); ++tensor)
    for (std::size_t begin = 0; begin < sizes[tensor]; begin += Tiles::size)
      blocks_.push_back({tensor, begin, std::min(begin + Tiles::size, sizes[tensor]), {}});
}

void SumsOfStep::take(const std::vector<TableSize>& tables) {
  tables_.clear();
  for (const auto& [tensor, count] : tables) tables_.push_back({tensor, std::vector<StepSums>(count)});
}

std::vector<StepSums> SumsOfStep::by_tensor() const {
  const StandardMode mode;
  std::vector<StepSums> totals(tensors_);
  for (const Block& block : blocks_) add(block.sums, totals[block.tensor]);
  for (const OfTable& table : tables_)
    for (StepSums row : table.rows) {
      row[sum_of_weights] = {};  // which a block has
      add(row, totals[table.tensor]);
    }
  return totals;
}

}  // namespace fusedstep
