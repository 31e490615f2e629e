// What a worker asks of the system: to take no signals, to have a core soon, and not that of who wakes it.
#pragma once

#include <cstdint>

#ifndef _WIN32
#include <pthread.h>
#include <signal.h>
#endif
#ifdef __linux__
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fusedstep {

#ifndef _WIN32
/// Blocks all signals while it exists. A thread that is made meanwhile never takes a signal of the process
/// from those that wait for it.
class NoSignals {
 public:
  NoSignals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &found_);
  }
  ~NoSignals() { pthread_sigmask(SIG_SETMASK, &found_, nullptr); }
  NoSignals(const NoSignals&) = delete;
  NoSignals& operator=(const NoSignals&) = delete;

 private:
  sigset_t found_;
};
#else
struct NoSignals {};
#endif

#ifdef __linux__
/// A thread as the system knows it.
using ThreadId = pid_t;
inline ThreadId own_id() { return static_cast<ThreadId>(syscall(SYS_gettid)); }

/// Asks for short turns on a core, the shortest that there are, and so for early ones: of those that want the
/// core, Linux lets that one run whose turn would end first. Without it a worker that wakes up waits for
/// milliseconds where another library's thread looks for work. Linux before 6.12 takes no notice.
inline void take_short_turns() {
  struct {
    std::uint32_t size, policy;
    std::uint64_t flags;
    std::int32_t nice;
    std::uint32_t priority;
    std::uint64_t turn, deadline, period;  // in nanoseconds
  } schedule{};
  if (syscall(SYS_sched_getattr, 0, &schedule, sizeof schedule, 0) != 0 || schedule.policy != SCHED_OTHER)
    return;
  schedule.turn = 100'000;
  syscall(SYS_sched_setattr, 0, &schedule, 0);
}

/// Keeps a sleeping thread from this thread's processor while it exists, so that it is not woken there: in a
/// virtual machine Linux may take idle processors for preempted ones, and wake a thread where its waker runs.
class Elsewhere {
 public:
  explicit Elsewhere(ThreadId thread) : thread_(thread) {
    if (sched_getaffinity(thread, sizeof allowed_, &allowed_) != 0) return;
    cpu_set_t others = allowed_;
    CPU_CLR(sched_getcpu(), &others);
    kept_ = sched_setaffinity(thread, sizeof others, &others) == 0;  // not if there are no others
  }
  ~Elsewhere() {
    if (kept_) sched_setaffinity(thread_, sizeof allowed_, &allowed_);
  }
  Elsewhere(const Elsewhere&) = delete;
  Elsewhere& operator=(const Elsewhere&) = delete;

 private:
  ThreadId thread_;
  cpu_set_t allowed_;
  bool kept_ = false;
};
#else
struct ThreadId {};
inline ThreadId own_id() { return {}; }
inline void take_short_turns() {}
struct Elsewhere {
  explicit Elsewhere(ThreadId) {}
};
#endif

}  // namespace fusedstep
