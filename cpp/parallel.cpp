#include "parallel.hpp"

#include <atomic>

#ifndef _WIN32
#include <pthread.h>
#endif

namespace fusedstep {
namespace {

std::atomic<int> requested{1};
std::atomic<bool> forked{false};

#ifndef _WIN32
const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });
#endif

}  // namespace

int num_threads() { return has_openmp() && !forked ? requested.load() : 1; }

void set_num_threads(int threads) { requested = threads; }

}  // namespace fusedstep
