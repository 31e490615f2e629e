// Tests of threads that step tensors of their own at once, share the workers, and are forked.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#ifndef _WIN32
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

#include "step/factors.hpp"
#include "step/forks.hpp"
#include "step/parallel.hpp"
#include "step/reduce.hpp"
#include "step/team.hpp"
#include "support.hpp"

namespace fusedstep::testing {
namespace {

/// The parameters after some steps of all that uses threads: norms, sums, factors and the step itself.
Floats stepped(std::uint32_t seed) {
  constexpr std::size_t rows = 20, columns = 2001;
  const std::size_t lars = kernel_named("LARS");
  Floats p = numbers(rows * columns, seed), g = numbers(p.size(), seed + 1), v(p.size());
  Plan plan({{lars}}, kernel_named("Average"), {tensor_of(p, g, {float32(v)})});
  for (int t = 0; t < 10; ++t) {
    const double size = norm(plan.gradients()).value;
    Coefficients coefficients =
        named(lars, {{"momentum", 0.5}, {"decay", 1 / size}, {"step", 1}, {"unit", 1}});
    coefficients.rule.back() = plan.measure(0, {coefficients})[0].values[0] / size / size;
    run(plan, 0, {coefficients}, false);
    const SquareSums sums = square_sums({float32(p), 1, rows, columns});
    multiply({float32(g), 1, rows, columns}, sums.rows.data(), sums.columns.data(), 0.875);
    scale(plan.gradients(), 1.125);
  }
  return p;
}

/// Each step is whole and has the same bits, whoever has the workers, while the number of threads changes.
void callers_at_once() {
  constexpr std::uint32_t callers = 4;
  std::vector<Floats> expected, found(callers);
  set_num_threads(1);
  for (std::uint32_t i = 0; i < callers; ++i) expected.push_back(stepped(i));

  std::atomic<std::uint32_t> running = callers;
  std::vector<std::thread> threads;
  for (std::uint32_t i = 0; i < callers; ++i)
    threads.emplace_back([&, i] {
      found[i] = stepped(i);
      --running;
    });
  for (int count = 1; running > 0; count = count % 5 + 1) {
    set_num_threads(count);
    std::this_thread::yield();
  }
  for (std::thread& thread : threads) thread.join();
  for (std::uint32_t i = 0; i < callers; ++i)
    require(same_bits(found[i], expected[i]), "steps of several threads at once");
}

/// Every tile is worked on once, by no more threads than may, whether they are awake or have to be woken.
void each_tile_once() {
  for (const int count : {1, 2, 3, 8, 64})
    for (const std::size_t tiles : std::vector<std::size_t>{0, 1, 2, 3, 7, 64, 1000, 4001})
      for (const std::size_t least : std::vector<std::size_t>{1, 2, 100}) {
        set_num_threads(count);
        std::vector<int> times(tiles);
        std::mutex lock;
        std::set<std::thread::id> workers;
        for_each_range(tiles, least, [&](std::size_t begin, std::size_t end) {
          for (std::size_t tile = begin; tile < end; ++tile) ++times[tile];
          const std::lock_guard guard(lock);
          workers.insert(std::this_thread::get_id());
        });
        require(times == std::vector<int>(tiles, 1), "tiles of a call");
        require(workers.size() <=
                    std::min(static_cast<std::size_t>(count), std::max<std::size_t>(1, tiles / least)),
                "threads of a call");
      }
}

#if defined(__linux__) && \
    !defined(__SANITIZE_THREAD__)  // which does not see how another runtime's threads wait
/// The same where the threads of an OpenMP runtime may take the place of workers: right after its own work,
/// after a rest, and while more are allowed than it has.
void through_a_team() {
  if (dlopen("libgomp.so.1", RTLD_LAZY) == nullptr) return;
  find_team("libgomp.so.1");
  for (int turn = 0; turn < 20; ++turn) {
    std::atomic<int> came = 0;
    team_is_awake();
    run_in_team([](void* count) { ++*static_cast<std::atomic<int>*>(count); }, &came);
    require(came > 0, "threads of a team");
    if (turn % 5 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    each_tile_once();
  }
  find_team("nothing");
  require(!team_is_awake(), "a team of nobody");
}
#else
void through_a_team() {}
#endif

/// Workers come to a call whether they are awake, asleep, or were not wanted by the last one, and no others
/// come: here a call ends only if all of its threads have begun.
void all_threads_come() {
  for (const std::size_t threads : std::vector<std::size_t>{8, 3, 2, 8, 2}) {
    set_num_threads(static_cast<int>(threads));
    std::mutex lock;
    std::set<std::thread::id> begun;
    const auto count = [&] {
      const std::lock_guard guard(lock);
      begun.insert(std::this_thread::get_id());
      return begun.size();
    };
    for_each_range(1000, 1, [&](std::size_t, std::size_t) {
      do std::this_thread::yield();
      while (count() < threads);
    });
    require(begun.size() == threads, "threads that come");
    if (threads == 2) std::this_thread::sleep_for(std::chrono::milliseconds(20));  // workers fall asleep
  }
}

/// A forked child has no workers and does not wait for any; its parent has kept them.
void a_fork_has_no_workers() {
#ifndef _WIN32
  set_num_threads(1);
  const Floats expected = stepped(1);
  set_num_threads(3);
  require(same_bits(stepped(1), expected), "steps before a fork");
  const pid_t child = fork();
  if (child == 0) _exit(num_threads() == 1 && same_bits(stepped(1), expected) ? 0 : 1);
  int status = 1;
  require(waitpid(child, &status, 0) == child && status == 0, "steps of a forked child");
  require(num_threads() == 3 && same_bits(stepped(1), expected), "steps after a fork");
#endif
}

/// At most one thread has the lock; those that do not get it do not wait.
void one_at_a_time() {
  constexpr int callers = 4, tries = 2000;
  Turn turn;
  int inside = 0;  // what two threads at once would spoil
  std::atomic<int> taken = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < callers; ++i)
    threads.emplace_back([&] {
      for (int k = 0; k < tries; ++k)
        if (turn.take()) {
          require(!turn.take(), "a thread that takes a lock twice");
          ++inside;
          ++taken;
          turn.leave();
        }
    });
  for (std::thread& thread : threads) thread.join();
  require(inside == taken && taken > 0, "threads that take a lock");
}

/// In a child nobody has the lock but the thread that has forked.
void a_fork_leaves_no_lock() {
#ifndef _WIN32
  Turn of_another, own;
  std::thread([&] { require(of_another.take(), "the lock of another thread"); }).join();
  require(own.take() && !of_another.take(), "locks before a fork");
  const pid_t child = fork();
  if (child == 0) _exit(!own.take() && of_another.take() && !of_another.take() ? 0 : 1);
  int status = 1;
  require(waitpid(child, &status, 0) == child && status == 0, "locks of a forked child");
  require(!own.take() && !of_another.take(), "locks after a fork");
  own.leave();
  require(own.take(), "a lock that was given back");
#endif
}

}  // namespace

void threads() {
  each_tile_once();
  through_a_team();
  all_threads_come();
  callers_at_once();
  one_at_a_time();
  a_fork_has_no_workers();
  a_fork_leaves_no_lock();
}

}  // namespace fusedstep::testing
