#include "step/parallel.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#ifndef _WIN32
#include <pthread.h>
#endif
#ifdef __linux__
#include <sched.h>
#endif

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
  Job(std::size_t tiles, std::size_t threads, Work work, const void* context)
      : work_(work),
        context_(context),
        together_(std::clamp<std::size_t>(tiles / threads / turns, 1, most_together)),
        shares_(threads) {
    for (std::size_t i = 0; i < threads; ++i) {
      shares_[i].next = tiles * i / threads;
      shares_[i].end = tiles * (i + 1) / threads;
    }
  }

  std::size_t threads() const { return shares_.size(); }

  /// Works until no tile is left to take.
  void run(std::size_t thread) {
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
  std::vector<Share> shares_;
};

#ifdef __linux__
/// Keeps a sleeping thread on the processor that it ran on, so that it wakes up there. In a virtual machine
/// Linux may take an idle processor for a preempted one and wake the thread on the caller's processor, which
/// is busy.
class Place {
 public:
  Place() {
    cpu_set_t here;
    CPU_ZERO(&here);
    CPU_SET(sched_getcpu(), &here);
    kept_ = sched_getaffinity(0, sizeof allowed_, &allowed_) == 0 &&
            sched_setaffinity(0, sizeof here, &here) == 0;
  }
  ~Place() {
    if (kept_) sched_setaffinity(0, sizeof allowed_, &allowed_);
  }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;

 private:
  cpu_set_t allowed_;
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
      for (; workers_ < workers; ++workers_) std::thread(&Pool::work, this, workers_ + 1).detach();
    } catch (const std::system_error&) {
      // The system grants no more threads: the existing ones do the work.
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
std::atomic<bool> forked{false};

#ifndef _WIN32
const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });
#endif

/// Never destroyed: its workers may outlive everything else.
Pool& pool() {
  static Pool* const only = new Pool;
  return *only;
}

}  // namespace

int num_threads() { return forked ? 1 : requested.load(); }

void set_num_threads(int threads) { requested = threads; }

void for_each_range(std::size_t tiles, std::size_t least, Work work, const void* context) {
  const std::size_t threads = std::min(static_cast<std::size_t>(num_threads()), tiles / least);
  if (threads > 1) {
    Job job(tiles, threads, work, context);
    if (pool().run(job)) return;
  }
  work(context, 0, tiles);
}

}  // namespace fusedstep
