#include "step/reduce.hpp"

#include <cmath>
#include <cstddef>

#include "step/dispatch.hpp"
#include "step/floating_point.hpp"
#include "step/parallel.hpp"
#include "step/tiles.hpp"

namespace fusedstep {
namespace {

Tiles tiles_of(const std::vector<Run>& runs) {
  std::vector<std::size_t> sizes;
  sizes.reserve(runs.size());
  for (const Run& run : runs) sizes.push_back(run.size);
  return {sizes, 1};
}

/// The sum of the squares of factor·element.
double sum_of_squares(const std::vector<Run>& runs, const Tiles& tiles, double factor) {
  const Table& table = active();
  std::vector<double> blocks(tiles.count());
  const auto add_block = [&](std::size_t tile) {
    double sums[lanes] = {};
    std::size_t lane = 0;
    tiles.for_each_run(tile, tile + 1, [&](std::size_t i, std::size_t begin, std::size_t end) {
      table.squares[runs[i].array.format](factor, begin, end, runs[i].array.data, lane, sums);
      lane += end - begin;
    });
    blocks[tile] = add_by_halves(sums);
  };
  for_each_range(tiles.count(), Tiles::least_a_thread, [&](std::size_t first, std::size_t last) {
    for (std::size_t tile = first; tile < last; ++tile) add_block(tile);
  });
  double sum = 0;
  for (const double block : blocks) sum += block;
  return sum;
}

/// Its loops have lengths that the compiler knows, and makes vectors of.
template <std::size_t half>
void add_halves(double* sums) {
  for (std::size_t i = 0; i < half; ++i) sums[i] += sums[i + half];
  if constexpr (half > 1) add_halves<half / 2>(sums);
}

}  // namespace

double add_by_halves(double* sums) {
  add_halves<lanes / 2>(sums);
  return sums[0];
}

double factor_for(double sum) { return sum < 0x1p-900 ? 0x1p600 : std::isfinite(sum) ? 1 : 0x1p-600; }

Norm norm(const std::vector<Run>& runs) {
  const StandardMode mode;
  const Tiles tiles = tiles_of(runs);
  double sum = sum_of_squares(runs, tiles, 1);
  const double factor = factor_for(sum);
  if (factor != 1) sum = sum_of_squares(runs, tiles, factor);
  return {std::sqrt(sum) / factor, std::isfinite(sum)};
}

void scale(const std::vector<Run>& runs, double factor) {
  const Table& table = active();
  const Tiles tiles = tiles_of(runs);
  for_each_range(tiles.count(), Tiles::least_a_thread, [&](std::size_t first, std::size_t last) {
    tiles.for_each_run(first, last, [&](std::size_t i, std::size_t begin, std::size_t end) {
      table.scaling[runs[i].array.format](factor, begin, end, runs[i].array.data);
    });
  });
}

}  // namespace fusedstep
