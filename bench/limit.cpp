// The memory limit: the traffic of a pass with next to no arithmetic, on the kernels' threads and tiles.
//
// limit_T(w, r, n, threads, arrays) reads w + r arrays of n elements, and writes the first w of them, with
// the values that they have.
#include <algorithm>
#include <array>
#include <cstddef>
#include <numeric>

#include "step/parallel.hpp"
#include "step/team.hpp"
#include "step/tiles.hpp"

namespace {

using fusedstep::Tiles;

constexpr std::size_t most_written = 6, most_read = 6, lanes = 64;

template <class T, std::size_t written, std::size_t read>
T sum_of(const std::array<T*, written + read>& arrays, std::size_t i) {
  T sum = 0;
  for (std::size_t k = written; k < written + read; ++k) sum += arrays[k][i];
  return sum;
}

template <class T, std::size_t written, std::size_t read>
void stream(std::size_t begin, std::size_t end, const std::array<T*, written + read>& arrays) {
  if constexpr (written == 0) {
    T totals[lanes] = {};
    for (; end - begin >= lanes; begin += lanes) {
#pragma omp simd
      for (std::size_t lane = 0; lane < lanes; ++lane)
        totals[lane] += sum_of<T, written, read>(arrays, begin + lane);
    }
    [[maybe_unused]] volatile T seen = std::accumulate(totals, totals + lanes, T{0});
  } else {
#pragma omp simd
    for (std::size_t i = begin; i < end; ++i) {
      const T sum = sum_of<T, written, read>(arrays, i);
      for (std::size_t k = 0; k < written; ++k) arrays[k][i] += 0 * sum;
    }
  }
}

template <class T, std::size_t written, std::size_t read>
void pass(std::size_t n, T* const* from) {
  std::array<T*, written + read> arrays;
  std::copy_n(from, written + read, arrays.begin());
  fusedstep::for_each_range(
      (n + Tiles::size - 1) / Tiles::size, Tiles::least_a_thread, [&](std::size_t first, std::size_t last) {
        stream<T, written, read>(first * Tiles::size, std::min(last * Tiles::size, n), arrays);
      });
}

template <class T, std::size_t written = 0, std::size_t read = 1>
void choose(std::size_t w, std::size_t r, std::size_t n, T* const* arrays) {
  if constexpr (written > most_written) {
    return;
  } else if constexpr (read > most_read) {
    choose<T, written + 1, 1>(w, r, n, arrays);
  } else if (w == written && r == read) {
    pass<T, written, read>(n, arrays);
  } else {
    choose<T, written, read + 1>(w, r, n, arrays);
  }
}

}  // namespace

/// Takes the threads of this library where they are awake, as the kernels do.
extern "C" void limit_team(const char* library) { fusedstep::find_team(library); }

extern "C" void limit_f32(std::size_t w, std::size_t r, std::size_t n, int threads, float* const* arrays) {
  fusedstep::set_num_threads(threads);
  choose(w, r, n, arrays);
}

extern "C" void limit_f64(std::size_t w, std::size_t r, std::size_t n, int threads, double* const* arrays) {
  fusedstep::set_num_threads(threads);
  choose(w, r, n, arrays);
}
