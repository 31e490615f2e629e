// The memory limit: the traffic of a step with next to no arithmetic, for bench/run.py.
//
// limit_K reads K + 1 arrays and writes K of them, as a rule with K - 1 state slots does.
#include <cstddef>
#include <cstdint>

namespace {

template <class T, class... Array>
void stream(std::ptrdiff_t n, int threads, const T* __restrict g, Array* __restrict... arrays) {
#pragma omp parallel for simd num_threads(threads) schedule(static)
  for (std::ptrdiff_t i = 0; i < n; ++i) ((arrays[i] += g[i]), ...);
}

}  // namespace

#define LIMIT(name, T)                                                                                  \
  extern "C" void name(int arrays, std::ptrdiff_t n, int threads, const T* g, T* a, T* b, T* c, T* d) { \
    if (arrays == 1) stream(n, threads, g, a);                                                          \
    if (arrays == 2) stream(n, threads, g, a, b);                                                       \
    if (arrays == 3) stream(n, threads, g, a, b, c);                                                    \
    if (arrays == 4) stream(n, threads, g, a, b, c, d);                                                 \
  }

LIMIT(limit_f32, float)
LIMIT(limit_f64, double)
