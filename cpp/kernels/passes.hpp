// The passes over memory that do not apply a rule.
#pragma once

#include "kernels/arithmetic.hpp"
#include "kernels/storage.hpp"
#include "kernels/table.hpp"

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

template <class T>
void row_squares(size_t begin, size_t end, const void* row, double* sums, double* columns) {
  const T* x = static_cast<const T*>(row);
  double wide[lanes];
  for (size_t i = 0; i < lanes; ++i) wide[i] = sums[i];
  const auto add = [&](size_t j, size_t lane) {
    const double squared = square(x[j]);
    wide[lane] += squared;
    columns[j] += squared;
  };
  for (; end - begin >= lanes; begin += lanes) {
#pragma omp simd
    for (size_t i = 0; i < lanes; ++i) add(begin + i, i);
  }
  for (size_t i = 0; begin < end; ++begin, ++i) add(begin, i);
  for (size_t i = 0; i < lanes; ++i) sums[i] = wide[i];
}

template <class T>
void row_product(size_t n, void* row, double factor, const double* columns, double limit) {
  auto* x = static_cast<T*>(row);
#pragma omp simd
  for (size_t j = 0; j < n; ++j) {
    const double product = factor * columns[j];
    x[j] = x[j] * static_cast<T>(product < limit || product != product ? product : limit);
  }
}

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
