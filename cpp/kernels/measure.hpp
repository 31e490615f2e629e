// The pass before the step, for a rule whose step depends on sums over the tensor. It only reads the tensor.
#pragma once

#include <stddef.h>

#include "kernels/sweep.hpp"
#include "kernels/table.hpp"

namespace fusedstep::FUSEDSTEP_ISA {
namespace {

/// Adds the terms of each element to its lane of each sum, which has a factor; element `begin` goes to lane
/// 0.
template <class Prologue, class Rule, class T, class... S>
inline void measure(const Prologue& prologue, const Rule& rule, const double* factors, size_t begin,
                    size_t end, double* sums, const T* p, const T* g, const S*... s) {
  constexpr size_t count = decltype(rule.measure(*p, *g, *s...))::count;
  double wide[count][lanes];
  for (size_t k = 0; k < count; ++k)
    for (size_t lane = 0; lane < lanes; ++lane) wide[k][lane] = sums[k * lanes + lane];
  const auto add = [&](size_t i, size_t lane) {
    T parameter = p[i], gradient = g[i];
    prologue(parameter, gradient);
    const auto terms = rule.measure(parameter, gradient, s[i]...);
    for (size_t k = 0; k < count; ++k) wide[k][lane] += terms.term(k, factors[k]);
  };
  for (; end - begin >= lanes; begin += lanes) {
#pragma omp simd
    for (size_t lane = 0; lane < lanes; ++lane) add(begin + lane, lane);
  }
  for (size_t lane = 0; begin < end; ++begin, ++lane) add(begin, lane);
  for (size_t k = 0; k < count; ++k)
    for (size_t lane = 0; lane < lanes; ++lane) sums[k * lanes + lane] = wide[k][lane];
}

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
