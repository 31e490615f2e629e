#include "step/mixed.hpp"

#include <algorithm>
#include <cstring>

#include "step/reduce.hpp"

namespace fusedstep {
namespace {

/// The number of elements copied at a time: they and their state stay in the first-level cache.
constexpr std::size_t block = 256;
static_assert(block % lanes == 0);

/// float32 copies of a block of a tensor, its gradient and its state.
class Copies {
 public:
  Copies(const Table& table, std::size_t slots, const Operands& of) : table_(table), slots_(slots), of_(of) {
    for (std::size_t slot = 0; slot < slots_; ++slot) pointers_[slot] = state_[slot];
  }

  void widen(std::size_t begin, std::size_t n) {
    widen(of_.p, begin, n, p_);
    widen(of_.g, begin, n, g_);
    for (std::size_t slot = 0; slot < slots_; ++slot) widen(of_.state[slot], begin, n, state_[slot]);
  }

  void narrow(std::size_t begin, std::size_t n) const {
    narrow(of_.p, begin, n, p_);
    for (std::size_t slot = 0; slot < slots_; ++slot) narrow(of_.state[slot], begin, n, state_[slot]);
  }

  float* p() { return p_; }
  const float* g() const { return g_; }
  void* const* state() const { return pointers_; }

 private:
  void widen(const Array& kept, std::size_t begin, std::size_t n, float* wide) const {
    table_.widen[kept.format](n, kept.at(begin), wide);
  }
  void narrow(const Array& kept, std::size_t begin, std::size_t n, const float* wide) const {
    table_.narrow[kept.format](n, wide, kept.at(begin));
  }

  const Table& table_;
  std::size_t slots_;
  const Operands& of_;
  float p_[block], g_[block], state_[max_slots][block];
  void* pointers_[max_slots];
};

/// The addresses of the slots, as the loops take them.
struct Addresses {
  Addresses(const Operands& of, std::size_t slots) {
    for (std::size_t slot = 0; slot < slots; ++slot) state[slot] = of.state[slot].data;
  }
  void* state[max_slots];
};

bool is_coupled(const double* coefficients) { return coefficients[c_l2] != 0 || coefficients[c_l1] != 0; }

}  // namespace

void sweep(const Table& table, const Kernel& kernel, const double* coefficients, std::size_t begin,
           std::size_t end, const Operands& of) {
  const bool coupled = is_coupled(coefficients);
  const Sweep own = of.slots == formats ? nullptr : kernel.sweep[of.p.format][of.g.format][of.slots][coupled];
  if (own != nullptr) {
    own(coefficients, begin, end, of.p.data, of.g.data, Addresses(of, kernel.slots).state);
    return;
  }
  const Sweep wide = kernel.sweep[format_f32][format_f32][format_f32][coupled];
  Copies copies(table, kernel.slots, of);
  for (; begin < end; begin += block) {
    const std::size_t n = std::min(block, end - begin);
    copies.widen(begin, n);
    wide(coefficients, 0, n, copies.p(), copies.g(), copies.state());
    copies.narrow(begin, n);
  }
}

void sweep_and_average(const Table& table, const Kernel& kernel, const Kernel& average_kernel,
                       const double* coefficients, const double* of_average, std::size_t begin,
                       std::size_t end, const Operands& of) {
  const bool alike = of.p.format == format_f32 && of.g.format == format_f32 && of.slots == format_f32 &&
                     of.average.format == format_f32;
  if (alike && kernel.averaged != nullptr && &average_kernel == table.average && !is_coupled(coefficients)) {
    kernel.averaged(coefficients, of_average, begin, end, of.p.data, of.g.data, of.average.data,
                    Addresses(of, kernel.slots).state);
    return;
  }
  sweep(table, kernel, coefficients, begin, end, of);
  sweep(table, average_kernel, of_average, begin, end,
        {.p = of.average, .g = of.p, .slots = of.average.format});
}

void add(const StepSums& sums, StepSums& total) {
  for (std::size_t k = 0; k < step_sums; ++k)
    for (std::size_t range = 0; range < ranges; ++range) total[k][range] += sums[k][range];
}

StepSums sweep_and_sum(const Table& table, const Kernel* kernel, const Kernel& average_kernel,
                       const double* coefficients, const double* of_average, std::size_t begin,
                       std::size_t end, const Operands& of) {
  double wide[step_sums][ranges][lanes] = {};
  const auto add_squares = [&](StepSum k, const Array& x, const void* before, std::size_t from,
                               std::size_t n) {
    table.ranged_squares[x.format](n, x.at(from), before, wide[k]);
  };
  const bool alike = of.p.format == format_f32 && of.g.format == format_f32 && of.slots == format_f32;
  if (kernel == nullptr) {
    add_squares(sum_of_weights, of.p, nullptr, begin, end - begin);
  } else if (alike && of_average == nullptr && kernel->summed != nullptr && !is_coupled(coefficients)) {
    kernel->summed(coefficients, begin, end, of.p.data, of.g.data, Addresses(of, kernel->slots).state, wide);
  } else {
    alignas(64) char before[block * sizeof(double)];
    for (; begin < end; begin += block) {
      const std::size_t n = std::min(block, end - begin);
      add_squares(sum_of_gradients, of.g, nullptr, begin, n);
      add_squares(sum_of_weights, of.p, nullptr, begin, n);
      std::memcpy(before, of.p.at(begin), Run{of.p, n}.bytes());
      if (of_average == nullptr)
        sweep(table, *kernel, coefficients, begin, begin + n, of);
      else
        sweep_and_average(table, *kernel, average_kernel, coefficients, of_average, begin, begin + n, of);
      add_squares(sum_of_update, of.p, before, begin, n);
    }
  }
  StepSums sums{};
  const std::size_t used = of.p.format == format_f64 ? ranges : 1;
  for (std::size_t k = 0; k < step_sums; ++k)
    for (std::size_t range = 0; range < used; ++range) sums[k][range] = add_by_halves(wide[k][range]);
  return sums;
}

void measure(const Table& table, const Kernel& kernel, const double* coefficients, const OfSums& factors,
             std::size_t begin, std::size_t end, const Operands& of, OfSums& sums) {
  const bool coupled = is_coupled(coefficients);
  const bool alike = of.p.format == of.g.format && of.p.format == of.slots;
  double wide[max_sums * lanes];
  std::fill_n(wide, kernel.sums * lanes, 0.0);
  if (alike && (of.p.format == format_f32 || of.p.format == format_f64)) {
    kernel.measure[of.p.format][coupled](coefficients, factors.data(), begin, end, of.p.data, of.g.data,
                                         Addresses(of, kernel.slots).state, wide);
  } else {
    Copies copies(table, kernel.slots, of);
    for (; begin < end; begin += block) {
      const std::size_t n = std::min(block, end - begin);
      copies.widen(begin, n);
      kernel.measure[format_f32][coupled](coefficients, factors.data(), 0, n, copies.p(), copies.g(),
                                          copies.state(), wide);
    }
  }
  for (std::size_t k = 0; k < kernel.sums; ++k) sums[k] += add_by_halves(wide + k * lanes);
}

std::size_t values_of(const Kernel& kernel) { return kernel.squares ? 3 * kernel.sums : kernel.sums; }

bool put(const Kernel& kernel, Format format, const OfSums& sums, OfSums& factors, double* values) {
  bool again = false;
  for (std::size_t k = 0; k < kernel.sums; ++k) {
    const bool first = factors[k] == 1;
    if (first && kernel.squares && format == format_f64) factors[k] = factor_for(sums[k]);
    const std::size_t unit = factors[k] == 1 ? 0 : factors[k] > 1 ? 1 : 2;
    if (first && unit != 0)
      again = true;
    else
      values[unit * kernel.sums + k] = sums[k];
  }
  return again;
}

}  // namespace fusedstep
