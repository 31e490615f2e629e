// The memory limit: the traffic of a pass with next to no arithmetic, for the benchmarks.
//
// limit_T(w, r, n, threads, arrays) reads w + r arrays of n elements, and writes the first w of them.
#include <array>
#include <cstddef>

namespace {

constexpr int most_written = 6, most_read = 6;

template <class T, int written, int read>
void stream(std::ptrdiff_t n, int threads, T* const* from) {
  std::array<T*, written + read> arrays;
  for (int k = 0; k < written + read; ++k) arrays[k] = from[k];
  T total = 0;
#pragma omp parallel for simd num_threads(threads) schedule(static) reduction(+ : total)
  for (std::ptrdiff_t i = 0; i < n; ++i) {
    T sum = 0;
    for (int k = written; k < written + read; ++k) sum += arrays[k][i];
    for (int k = 0; k < written; ++k) arrays[k][i] += sum;
    if constexpr (written == 0) total += sum;
  }
  volatile T seen = total;
  (void)seen;
}

template <class T, int written = 0, int read = 1>
void choose(int w, int r, std::ptrdiff_t n, int threads, T* const* arrays) {
  if constexpr (written > most_written) {
    return;
  } else if constexpr (read > most_read) {
    choose<T, written + 1, 1>(w, r, n, threads, arrays);
  } else if (w == written && r == read) {
    stream<T, written, read>(n, threads, arrays);
  } else {
    choose<T, written, read + 1>(w, r, n, threads, arrays);
  }
}

}  // namespace

extern "C" void limit_f32(int w, int r, std::ptrdiff_t n, int threads, float* const* arrays) {
  choose(w, r, n, threads, arrays);
}

extern "C" void limit_f64(int w, int r, std::ptrdiff_t n, int threads, double* const* arrays) {
  choose(w, r, n, threads, arrays);
}
