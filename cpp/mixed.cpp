#include "mixed.hpp"

#include <algorithm>

#include "plan.hpp"

namespace fusedstep {
namespace {

/// Elements that are copied at a time: they and their state stay in the first cache.
constexpr std::size_t block = 256;
static_assert(block % lanes == 0);

/// A block of a tensor and its state in float32.
class Copies {
 public:
  Copies(const Table& table, std::size_t slots, const Operands& of) : table_(table), slots_(slots), of_(of) {
    for (std::size_t slot = 0; slot < slots_; ++slot) pointers_[slot] = state_[slot];
  }

  void widen(std::size_t begin, std::size_t n) {
    table_.widen[of_.p.number](n, of_.p.at(begin), p_);
    table_.widen[of_.g.number](n, of_.g.at(begin), g_);
    for (std::size_t slot = 0; slot < slots_; ++slot)
      table_.widen[of_.kept](n, kept(slot).at(begin), state_[slot]);
  }

  void narrow(std::size_t begin, std::size_t n) const {
    table_.narrow[of_.p.number](n, p_, of_.p.at(begin));
    for (std::size_t slot = 0; slot < slots_; ++slot)
      table_.narrow[of_.kept](n, state_[slot], kept(slot).at(begin));
  }

  float* p() { return p_; }
  const float* g() const { return g_; }
  void* const* state() const { return pointers_; }

 private:
  Array kept(std::size_t slot) const { return {of_.kept, of_.state[slot]}; }

  const Table& table_;
  std::size_t slots_;
  const Operands& of_;
  float p_[block], g_[block], state_[max_slots][block];
  void* pointers_[max_slots];
};

bool is_coupled(const double* row) { return row[c_l2] != 0 || row[c_l1] != 0; }

}  // namespace

void sweep(const Table& table, const Kernel& kernel, const double* row, std::size_t begin, std::size_t end,
           const Operands& of) {
  const bool coupled = is_coupled(row);
  if (const Sweep loop = kernel.sweep[of.p.number][of.g.number][of.kept][coupled]) {
    loop(row, begin, end, of.p.data, of.g.data, of.state);
    return;
  }
  Copies copies(table, kernel.slots, of);
  for (; begin < end; begin += block) {
    const std::size_t n = std::min(block, end - begin);
    copies.widen(begin, n);
    kernel.sweep[number_f32][number_f32][number_f32][coupled](row, 0, n, copies.p(), copies.g(),
                                                              copies.state());
    copies.narrow(begin, n);
  }
}

void sweep_and_average(const Table& table, const Kernel& kernel, const Kernel& average_kernel,
                       const double* row, const double* average_row, std::size_t begin, std::size_t end,
                       const Operands& of, void* average) {
  const bool alike = of.p.number == number_f32 && of.g.number == number_f32 && of.kept == number_f32;
  if (alike && kernel.averaged != nullptr && !is_coupled(row)) {
    kernel.averaged(row, average_row, begin, end, of.p.data, of.g.data, average, of.state);
    return;
  }
  const Array mean = {of.kept, average};
  sweep(table, kernel, row, begin, end, of);
  sweep(table, average_kernel, average_row, begin, end, {mean, of.p, of.kept, nullptr});
}

void measure(const Table& table, const Kernel& kernel, const double* row, std::size_t begin, std::size_t end,
             const Operands& of, double* sums) {
  const bool coupled = is_coupled(row);
  const bool alike = of.p.number == of.g.number && (of.p.number == of.kept || kernel.slots == 0);
  if (alike && (of.p.number == number_f32 || of.p.number == number_f64)) {
    kernel.measure[of.p.number][coupled](row, begin, end, of.p.data, of.g.data, of.state, sums);
    return;
  }
  Copies copies(table, kernel.slots, of);
  for (; begin < end; begin += block) {
    const std::size_t n = std::min(block, end - begin);
    copies.widen(begin, n);
    kernel.measure[number_f32][coupled](row, 0, n, copies.p(), copies.g(), copies.state(), sums);
  }
}

}  // namespace fusedstep
