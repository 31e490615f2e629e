#include "step/parallel.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <thread>

#ifndef _WIN32
#include <pthread.h>
#include <signal.h>
#endif
#ifdef __linux__
#include <sched.h>
#include <unistd.h>
#endif

#include "step/floating_point.hpp"
#include "step/forks.hpp"

namespace fusedstep {
namespace {

/// A thread's own run of tiles. Other threads may take those that it has not come to.
struct alignas(64) Share {
  std::atomic<std::size_t> next;
  std::size_t end;
};

/// The tiles of one call. At each call a thread begins with the same tiles, which its core's cache may still
/// hold; a thread that is done early helps the others.
class Job {
 public:
  /// `shares` has room for so many threads.
  Job(Share* shares, std::size_t threads, std::size_t tiles, Work work, const void* context)
      : work_(work),
        context_(context),
        together_(std::clamp<std::size_t>(tiles / threads / turns, 1, most_together)),
        shares_(shares),
        threads_(threads) {
    for (std::size_t i = 0; i < threads; ++i) {
      shares_[i].next = tiles * i / threads;
      shares_[i].end = tiles * (i + 1) / threads;
    }
  }

  std::size_t threads() const { return threads_; }

  /// Works until no tile is left to take.
  void run(std::size_t thread) {
    const StandardMode mode;
    for (std::size_t i = 0; i < threads(); ++i) {
      Share& share = shares_[(thread + i) % threads()];
      for (std::size_t tile; (tile = share.next.fetch_add(together_)) < share.end;)
        work_(context_, tile, std::min(tile + together_, share.end));
    }
  }

 private:
  /// A thread takes tiles in at least `turns` turns, which leaves others something to help with, and takes at
  /// most `most_together` tiles in a turn.
  static constexpr std::size_t turns = 8, most_together = 8;

  Work work_;
  const void* context_;
  std::size_t together_;
  Share* shares_;
  std::size_t threads_;
};

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
/// Keeps a sleeping thread on the processor that it ran on, so that it wakes up there. In a virtual machine
/// Linux may take an idle processor for a preempted one and wake the thread on the caller's processor, which
/// is busy.
class Place {
 public:
  Place() {
    CPU_ZERO(&here_);
    CPU_SET(sched_getcpu(), &here_);
    kept_ = of(0, allowed_) && sched_setaffinity(0, sizeof here_, &here_) == 0;
  }
  ~Place() {
    if (kept_ && !moved()) sched_setaffinity(0, sizeof allowed_, &allowed_);
  }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;

 private:
  static bool of(pid_t thread, cpu_set_t& processors) {
    return sched_getaffinity(thread, sizeof processors, &processors) == 0;
  }

  /// Whether someone has meanwhile said where the thread may run, perhaps `here_` with all other threads.
  bool moved() const {
    cpu_set_t now, of_main_thread;
    if (!of(0, now) || !CPU_EQUAL(&now, &here_)) return true;
    return !CPU_EQUAL(&allowed_, &here_) && of(getpid(), of_main_thread) &&
           CPU_EQUAL(&of_main_thread, &here_);
  }

  cpu_set_t here_, allowed_;
  bool kept_;
};
#else
struct Place {};
#endif

/// Threads that help a caller. The caller never waits for a thread that has not begun: if another library's
/// threads hold the cores, it does all tiles itself. (The barrier at the end of an OpenMP region does wait:
/// for milliseconds after a matrix product of OpenBLAS, whose threads go on looking for work.)
class Pool {
 public:
  /// Runs the job; returns false without doing so if the pool works for another thread.
  bool run(Job& job) {
    const std::unique_lock lock(caller_, std::try_to_lock);
    if (!lock) return false;
    hire(job.threads() - 1);
    job_ = &job;
    gate_ = 0;
    ++calls_;
    calls_.notify_all();
    job.run(0);
    gate_ |= closed;
    while (gate_ != closed) std::this_thread::yield();
    return true;
  }

 private:
  /// The bit of `gate_` that is set when no more workers may enter; the bits below count the workers inside.
  static constexpr unsigned closed = 1U << 31;
  /// How long a worker without work stays awake; the next call often follows soon.
  static constexpr std::chrono::microseconds patience{5000};

  void hire(std::size_t workers) {
    try {
      [[maybe_unused]] const NoSignals none;
      for (; workers_ < workers; ++workers_) std::thread(&Pool::work, this, workers_ + 1).detach();
    } catch (const std::exception&) {
      // The system grants no more threads or memory: the existing threads do the work.
    }
  }

  void work(std::size_t thread) {
    for (unsigned seen = 0;; seen = calls_) {
      if (enter()) {
        if (thread < job_->threads()) job_->run(thread);
        --gate_;
      }
      const auto bedtime = std::chrono::steady_clock::now() + patience;
      while (calls_ == seen && std::chrono::steady_clock::now() < bedtime) std::this_thread::yield();
      [[maybe_unused]] const Place place;
      calls_.wait(seen);
    }
  }

  bool enter() {
    unsigned inside = gate_;
    while (inside < closed)
      if (gate_.compare_exchange_weak(inside, inside + 1)) return true;
    return false;
  }

  std::mutex caller_;
  std::size_t workers_ = 0;
  Job* job_ = nullptr;
  std::atomic<unsigned> gate_{closed};
  std::atomic<unsigned> calls_{0};
};

std::atomic<int> requested{1};

/// Never destroyed, since its workers may outlive everything else. It takes no memory, which could fail.
Pool& pool() {
  alignas(Pool) static std::byte room[sizeof(Pool)];
  static Pool* const only = new (room) Pool;
  return *only;
}

}  // namespace

int num_threads() { return is_forked() ? 1 : requested.load(); }

void set_num_threads(int threads) { requested = threads; }

void for_each_range(std::size_t tiles, std::size_t least, Work work, const void* context) {
  const std::size_t threads = std::min(static_cast<std::size_t>(num_threads()), tiles / least);
  if (threads > 1) {
    // A pass must not fail once an earlier pass of the same step has written: without memory, no thread
    // helps.
    if (const std::unique_ptr<Share[]> shares{new (std::nothrow) Share[threads]}) {
      Job job(shares.get(), threads, tiles, work, context);
      if (pool().run(job)) return;
    }
  }
  const StandardMode mode;
  work(context, 0, tiles);
}

}  // namespace fusedstep
