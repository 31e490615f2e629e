#include "mixed.hpp"

#include <algorithm>

#include "plan.hpp"

namespace fusedstep {
namespace {

/// Elements that are copied at a time: they and their state stay in the first cache.
constexpr std::size_t block = 256;

void sweep_copies(const Table& table, const Kernel& kernel, bool coupled, const double* row,
                  std::size_t begin, std::size_t end, Array p, Array g, Number kept, void* const* state) {
  float p32[block], g32[block], state32[max_slots][block];
  void* slots[max_slots];
  for (std::size_t slot = 0; slot < kernel.slots; ++slot) slots[slot] = state32[slot];
  for (; begin < end; begin += block) {
    const std::size_t n = std::min(block, end - begin);
    table.widen[p.number](n, p.at(begin), p32);
    table.widen[g.number](n, g.at(begin), g32);
    for (std::size_t slot = 0; slot < kernel.slots; ++slot)
      table.widen[kept](n, Array{kept, state[slot]}.at(begin), slots[slot]);
    kernel.sweep[number_f32][number_f32][number_f32][coupled](row, 0, n, p32, g32, slots);
    table.narrow[p.number](n, p32, p.at(begin));
    for (std::size_t slot = 0; slot < kernel.slots; ++slot)
      table.narrow[kept](n, slots[slot], Array{kept, state[slot]}.at(begin));
  }
}

}  // namespace

void sweep(const Table& table, const Kernel& kernel, const double* row, std::size_t begin, std::size_t end,
           Array p, Array g, Number kept, void* const* state) {
  const bool coupled = row[c_l2] != 0 || row[c_l1] != 0;
  const Sweep loop = kernel.sweep[p.number][g.number][kept][coupled];
  if (loop != nullptr)
    loop(row, begin, end, p.data, g.data, state);
  else
    sweep_copies(table, kernel, coupled, row, begin, end, p, g, kept, state);
}

}  // namespace fusedstep
