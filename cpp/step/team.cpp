#include "step/team.hpp"

#ifdef __linux__

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>

namespace fusedstep {
namespace {

/// The entry of GNU's runtime to a parallel region. 0 asks for as many threads as the last region had: with
/// another number, threads would end and others be made.
using Parallel = void (*)(void (*)(void*), void*, unsigned threads, unsigned flags);
std::atomic<Parallel> parallel = nullptr;

/// The clocks of the other threads of a team, which count the time that each has run.
struct Clocks {
  static constexpr std::size_t most = 256;

  bool known = false;
  std::atomic<std::size_t> count = 0;
  std::array<clockid_t, most> ids{};
  pthread_t caller{};
};
thread_local Clocks clocks;

void note_clock(void* context) {
  Clocks& all = *static_cast<Clocks*>(context);
  clockid_t clock{};
  if (pthread_equal(pthread_self(), all.caller) != 0 || pthread_getcpuclockid(pthread_self(), &clock) != 0)
    return;
  if (const std::size_t i = all.count++; i < Clocks::most) all.ids[i] = clock;
}

std::int64_t nanoseconds(clockid_t clock) {
  timespec time{};
  if (clock_gettime(clock, &time) != 0) return -1;
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

/// Whether no more threads want to run now, of all processes, than this one may have processors. The fourth
/// number that Linux has in this file is how many do.
bool all_have_a_core() {
  static const int file = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
  cpu_set_t allowed;
  char text[128] = {};
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return false;
  if (file < 0 || pread(file, text, sizeof text - 1, 0) <= 0) return false;
  int running = 0;
  return std::sscanf(text, "%*s %*s %*s %d/", &running) == 1 && running <= CPU_COUNT(&allowed);
}

}  // namespace

void find_team(const char* library) {
  void* const found = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
  parallel = found == nullptr ? nullptr : reinterpret_cast<Parallel>(dlsym(found, "GOMP_parallel"));
}

bool team_is_awake() {
  if (parallel == nullptr) return false;
  if (!clocks.known) {
    clocks.count = 0;
    clocks.caller = pthread_self();
    run_in_team(note_clock, &clocks);
    clocks.known = true;
  }
  const std::size_t others = clocks.count;
  if (others == 0 || others > Clocks::most) return false;
  std::array<std::int64_t, Clocks::most> before;
  for (std::size_t i = 0; i < others; ++i) before[i] = nanoseconds(clocks.ids[i]);
  constexpr std::int64_t a_while = 2'000;
  const std::int64_t begin = nanoseconds(CLOCK_MONOTONIC);
  while (nanoseconds(CLOCK_MONOTONIC) < begin + a_while) continue;
  for (std::size_t i = 0; i < others; ++i) {
    const std::int64_t now = nanoseconds(clocks.ids[i]);
    if (before[i] < 0 || now < 0) clocks.known = false;  // the thread has ended: there is another team
    if (now - before[i] < a_while / 2) return false;
  }
  return clocks.known && all_have_a_core();
}

void run_in_team(void (*work)(void*), void* context) { parallel.load()(work, context, 0, 0); }

}  // namespace fusedstep

#else

namespace fusedstep {

void find_team(const char*) {}
bool team_is_awake() { return false; }
void run_in_team(void (*work)(void*), void* context) { work(context); }

}  // namespace fusedstep

#endif
