// Sums of squares: of numbers, and within the loop that steps them.
#pragma once

#include <stddef.h>

#include <type_traits>

#include "kernels/arithmetic.hpp"
#include "kernels/storage.hpp"
#include "kernels/sweep.hpp"
#include "kernels/table.hpp"

namespace fusedstep::FUSEDSTEP_ISA {
namespace {

/// Calls add(i, lane) for elements begin..end, which go to the lanes in turn.
template <class Add>
inline void for_each_lane(size_t begin, size_t end, const Add& add) {
  for (; end - begin >= lanes; begin += lanes) {
#pragma omp simd
    for (size_t lane = 0; lane < lanes; ++lane) add(begin + lane, lane);
  }
  for (size_t lane = 0; begin < end; ++begin, ++lane) add(begin, lane);
}

/// Adds the squares of n numbers of(i) that float64 has.
template <class Of>
inline void add_squares(size_t n, double (*sums)[lanes], const Of& of) {
  double wide[ranges][lanes];
  for (size_t range = 0; range < ranges; ++range)
    for (size_t lane = 0; lane < lanes; ++lane) wide[range][lane] = sums[range][lane];
  for_each_lane(0, n, [&](size_t i, size_t lane) {
    const double x = of(i), size = absolute(x);
    const bool small = size < 0x1p-450, large = size >= 0x1p450;
    wide[range_middle][lane] += square(small || large ? 0 : x);
    wide[range_small][lane] += square(small ? 0x1p600 * x : 0);
    wide[range_large][lane] += square(large ? 0x1p-600 * x : 0);
  });
  for (size_t range = 0; range < ranges; ++range)
    for (size_t lane = 0; lane < lanes; ++lane) sums[range][lane] = wide[range][lane];
}

/// The same for numbers that are all in the middle.
template <class Of>
inline void add_middle_squares(size_t n, double (*sums)[lanes], const Of& of) {
  double wide[lanes];
  for (size_t lane = 0; lane < lanes; ++lane) wide[lane] = sums[range_middle][lane];
  for_each_lane(0, n, [&](size_t i, size_t lane) { wide[lane] += square(of(i)); });
  for (size_t lane = 0; lane < lanes; ++lane) sums[range_middle][lane] = wide[lane];
}

template <class Kept>
void ranged_squares(size_t n, const void* x, const void* y, double (*sums)[lanes]) {
  const auto add = [&](const auto& of) {
    if constexpr (std::is_same_v<Kept, double>)
      add_squares(n, sums, of);
    else
      add_middle_squares(n, sums, of);
  };
  const auto at = [](const void* numbers, size_t i) -> double {
    return Storage<Kept>::load(static_cast<const Kept*>(numbers)[i]);
  };
  if (y == nullptr)
    add([&](size_t i) { return at(x, i); });
  else
    add([&](size_t i) { return at(x, i) - at(y, i); });
}

/// The loop of sweep.hpp, which adds the squares too: each number is in a register anyway.
template <class Prologue, class Rule, class... S>
inline void sweep_and_sum(const Prologue& prologue, const Rule& rule, size_t begin, size_t end,
                          double (*sums)[ranges][lanes], float* p, const float* g, S*... s) {
  double wide[step_sums][lanes];
  for (size_t k = 0; k < step_sums; ++k)
    for (size_t lane = 0; lane < lanes; ++lane) wide[k][lane] = sums[k][range_middle][lane];
  for_each_lane(begin, end, [&](size_t i, size_t lane) {
    const double gradient = g[i], before = p[i];
    float after = p[i];
    update(prologue, rule, after, g[i], s[i]...);
    p[i] = after;
    wide[sum_of_gradients][lane] += square(gradient);
    wide[sum_of_weights][lane] += square(before);
    wide[sum_of_update][lane] += square(static_cast<double>(after) - before);
  });
  for (size_t k = 0; k < step_sums; ++k)
    for (size_t lane = 0; lane < lanes; ++lane) sums[k][range_middle][lane] = wide[k][lane];
}

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
