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

#include "step/floating_point.hpp"
#include "step/forks.hpp"
#include "step/team.hpp"
#include "step/worker.hpp"

namespace fusedstep {
namespace {

using Clock = std::chrono::steady_clock;

/// What a call is about. Of its threads, so many are woken if they sleep.
struct Job {
  std::size_t threads, woken, tiles;
  Work work;
  const void* context;
};

/// A thread's own run of tiles. At each call a thread begins with the same tiles, which its core's cache may
/// still hold; a thread that is done early helps the others.
class Share {
 public:
  void deal(std::size_t begin, std::size_t end) {
    next_ = begin;
    end_ = end;
  }

  /// Works until no tile is left to take. The turns get shorter, so that all end at about the same time.
  void run(const Job& job) {
    for (std::size_t tile = next_; tile < end_;) {
      const std::size_t together = std::clamp<std::size_t>((end_ - tile) / turns, 1, most_together);
      if (!next_.compare_exchange_weak(tile, tile + together)) continue;
      job.work(job.context, tile, tile + together);
      tile = next_;
    }
  }

 private:
  /// A thread takes at most one of `turns` parts of the rest, and at most `most_together` tiles.
  static constexpr std::size_t turns = 4, most_together = 8;

  std::atomic<std::size_t> next_;
  std::size_t end_;
};

/// A worker as its callers see it.
class Worker {
 public:
  /// How long a worker without work stays awake, as the next call may follow: about as long as waking it
  /// takes. Milliseconds would come off the time of other libraries' work between two steps.
  static constexpr std::chrono::microseconds patience{200};

  // What the caller does, or for `wake` another worker:

  /// Wants the worker; if it sleeps, somebody has to wake it.
  void call() {
    state_ = wanted;
    ++calls_;
  }
  void wake() {
    if (!asleep_ || state_ != wanted) return;
    [[maybe_unused]] const Elsewhere elsewhere(id_);
    calls_.notify_one();
  }
  /// Ends the call: a worker that has not begun does not begin, one that has is soon done. Who gives up the
  /// core meanwhile may get it back only after milliseconds, if another library's thread wants it too.
  void dismiss() {
    State found = wanted;
    if (state_.compare_exchange_strong(found, unwanted)) return;
    const Clock::time_point soon = Clock::now() + std::chrono::microseconds(100);
    while (state_ != unwanted)
      if (Clock::now() > soon) std::this_thread::yield();
  }

  // What the worker itself does:

  /// Says who this worker is.
  void introduce() { id_ = own_id(); }
  /// Waits for a call that came after `seen`.
  void wait(unsigned seen) {
    const Clock::time_point bedtime = Clock::now() + patience;
    while (calls_ == seen && Clock::now() < bedtime) std::this_thread::yield();
    asleep_ = true;
    calls_.wait(seen);
    asleep_ = false;
  }
  unsigned calls() const { return calls_; }
  bool begin() {
    State found = wanted;
    return state_.compare_exchange_strong(found, working);
  }
  void end() { state_ = unwanted; }

 private:
  enum State { unwanted, wanted, working };

  std::atomic<State> state_ = unwanted;
  std::atomic<unsigned> calls_ = 0;
  std::atomic<bool> asleep_ = false;
  ThreadId id_{};
};

/// Threads that help a caller. Each has a cache line of its own, on which it finds calls and tiles; nothing
/// goes around between all of them, however many they are. The caller never waits for a thread that has not
/// begun: if another library's threads hold the cores, it does all tiles itself. (The barrier at the end of
/// an OpenMP region does wait: for milliseconds after a matrix product of OpenBLAS, whose threads go on
/// looking for work.) Where those threads are torch's, and hold the cores only to look for work, they get it.
class Pool {
 public:
  static constexpr std::size_t most_threads = 1024;

  /// Does the job; returns false without doing so if the pool works for another thread.
  bool run(const Job& job) {
    const std::unique_lock lock(caller_, std::try_to_lock);
    if (!lock) return false;
    job_ = &job;
    for (std::size_t i = 0; i < job.threads; ++i)
      seats_[i].share.deal(job.tiles * i / job.threads, job.tiles * (i + 1) / job.threads);
    if (job.woken > 1 && team_is_awake())
      run_with_team();
    else
      run_with_workers(job);
    return true;
  }

 private:
  /// What a thread of a call has, on a cache line. The caller has the first seat, and is no worker.
  struct alignas(64) Seat {
    Share share;
    Worker worker;
  };

  void run_with_workers(const Job& job) {
    hire(job.threads - 1);
    const std::size_t workers = std::min(workers_, job.threads - 1);
    for (std::size_t i = 1; i <= workers; ++i) seats_[i].worker.call();
    take_part(0);
    for (std::size_t i = 1; i <= workers; ++i) seats_[i].worker.dismiss();
  }

  /// Each thread of the team takes the seat of a worker that is not called.
  void run_with_team() {
    taken_ = 0;
    const auto work = [](void* pool) {
      Pool& self = *static_cast<Pool*>(pool);
      if (const std::size_t seat = self.taken_++; seat < self.job_->threads) self.take_part(seat);
    };
    run_in_team(work, this);
  }

  void hire(std::size_t workers) {
    try {
      [[maybe_unused]] const NoSignals none;
      for (; workers_ < workers; ++workers_) std::thread(&Pool::work, this, workers_ + 1).detach();
    } catch (const std::exception&) {
      // The system grants no more threads or memory: the existing threads do the work.
    }
  }

  void work(std::size_t seat) {
    Worker& self = seats_[seat].worker;
    self.introduce();
    take_short_turns();
    for (unsigned seen = 0;; seen = self.calls()) {
      if (self.begin()) {
        take_part(seat);
        self.end();
      }
      self.wait(seen);
    }
  }

  /// Wakes two others, which wake two others each, and works until no tile is left.
  void take_part(std::size_t seat) {
    for (std::size_t next = 2 * seat + 1; next <= 2 * seat + 2 && next < job_->woken; ++next)
      seats_[next].worker.wake();
    const std::size_t threads = job_->threads;
    const StandardMode mode;
    for (std::size_t i = 0; i < threads; ++i) seats_[(seat + i) % threads].share.run(*job_);
  }

  std::mutex caller_;
  std::size_t workers_ = 0;
  const Job* job_ = nullptr;
  std::atomic<std::size_t> taken_ = 0;  // seats, by a team
  Seat seats_[most_threads];
};

std::atomic<int> requested{1};

/// Waking a thread takes its waker some 40 µs, and itself as long again. So a thread has to get so many times
/// the least that a thread that is awake would come for.
constexpr std::size_t least_to_wake = 16;

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
  const std::size_t shares = tiles / least;
  const std::size_t threads = std::min({static_cast<std::size_t>(num_threads()), shares, Pool::most_threads});
  const std::size_t woken = std::min(threads, shares / least_to_wake);
  if (threads > 1 && pool().run({threads, woken, tiles, work, context})) return;
  const StandardMode mode;
  work(context, 0, tiles);
}

}  // namespace fusedstep
