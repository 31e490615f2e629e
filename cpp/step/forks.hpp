// What must survive a fork of the process, which copies the thread that forks and no other.
#pragma once

#include <atomic>
#include <cstdint>
#include <shared_mutex>

namespace fusedstep {

/// Whether this process is a forked child.
bool is_forked();

/// While it exists, a fork of the process waits.
class Unforked {
 public:
  Unforked();

 private:
  std::shared_lock<std::shared_mutex> lock_;
};

/// A lock that one thread has at a time, and for which nobody waits. A thread that a fork did not copy has no
/// lock in the child.
class Turn {
 public:
  /// Takes the lock for the calling thread; returns false if somebody has it, perhaps this thread itself.
  bool take();

  /// Gives it back, in the thread that has taken it.
  void leave();

 private:
  std::atomic<std::uint64_t> holder_ = 0;  // a thread of a process; 0 is nobody
};

}  // namespace fusedstep
