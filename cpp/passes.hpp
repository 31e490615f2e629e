// The passes over memory that are no rule.
#pragma once

#include "storage.hpp"
#include "table.hpp"

namespace fusedstep::FUSEDSTEP_ISA {
namespace {

template <class Kept>
void widen(size_t n, const void* from, void* to) {
  const auto* kept = static_cast<const Kept*>(from);
  auto* wide = static_cast<float*>(to);
#pragma omp simd
  for (size_t i = 0; i < n; ++i) wide[i] = Storage<Kept>::load(kept[i]);
}

template <class Kept>
void narrow(size_t n, const void* from, void* to) {
  const auto* wide = static_cast<const float*>(from);
  auto* kept = static_cast<Kept*>(to);
#pragma omp simd
  for (size_t i = 0; i < n; ++i) kept[i] = Storage<Kept>::store(wide[i]);
}

template <class Kept>
void scaling(double factor, size_t begin, size_t end, void* array) {
  using T = typename Storage<Kept>::Arithmetic;
  const T by = static_cast<T>(factor);
  auto* g = static_cast<Kept*>(array);
#pragma omp simd
  for (size_t i = begin; i < end; ++i) g[i] = Storage<Kept>::store(by * Storage<Kept>::load(g[i]));
}

template <class Kept>
void squares(double factor, size_t begin, size_t end, const void* array, size_t lane, double* sums) {
  const auto* g = static_cast<const Kept*>(array);
  const auto add = [&](size_t i, double& sum) {
    const double x = factor * static_cast<double>(Storage<Kept>::load(g[i]));
    sum += x * x;
  };
  for (; begin < end && lane % lanes != 0; ++begin, ++lane) add(begin, sums[lane % lanes]);
  double wide[lanes];
  for (size_t i = 0; i < lanes; ++i) wide[i] = sums[i];
  for (; end - begin >= lanes; begin += lanes) {
#pragma omp simd
    for (size_t i = 0; i < lanes; ++i) add(begin + i, wide[i]);
  }
  for (size_t i = 0; i < lanes; ++i) sums[i] = wide[i];
  for (size_t i = 0; begin < end; ++begin, ++i) add(begin, sums[i]);
}

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
