#include "step/forks.hpp"

#include <new>

#ifndef _WIN32
#include <pthread.h>
#endif

namespace fusedstep {
namespace {

/// The number of the calling thread; no other thread ever has the same, also after this one has ended.
std::uint32_t this_thread() {
  static std::atomic<std::uint32_t> threads = 0;
  thread_local const std::uint32_t number = ++threads;
  return number;
}

/// How many forks lie between the first process and this one, and the thread that the last of them copied.
std::atomic<std::uint32_t> generation = 0, copied = 0;

/// Held by those that must not be divided by a fork, and by a fork alone. Never destroyed, as the pool.
std::shared_mutex& forking() {
  static std::shared_mutex* const only = new std::shared_mutex;
  return *only;
}

#ifndef _WIN32
void before_fork() { forking().lock(); }
void after_fork() { forking().unlock(); }
/// The child's only thread is not the one that has the lock, in the eyes of the system: it makes a new one.
void after_fork_in_child() {
  new (&forking()) std::shared_mutex;
  copied = this_thread();
  ++generation;
}
const int registered = pthread_atfork(before_fork, after_fork, after_fork_in_child);
#endif

/// Whether a fork has left this holder behind.
bool is_gone(std::uint64_t holder) {
  return holder >> 32 != generation && static_cast<std::uint32_t>(holder) != copied;
}

}  // namespace

bool is_forked() { return generation > 0; }

Unforked::Unforked() : lock_(forking()) {}

bool Turn::take() {
  const std::uint64_t own = std::uint64_t{generation} << 32 | this_thread();
  std::uint64_t found = 0;
  while (!holder_.compare_exchange_weak(found, own))
    if (found != 0 && !is_gone(found)) return false;
  return true;
}

void Turn::leave() { holder_ = 0; }

}  // namespace fusedstep
