#include "step/dispatch.hpp"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <iterator>
#include <stdexcept>
#include <string_view>

#if defined(_MSC_VER)
#include <intrin.h>
#elif defined(__x86_64__)
#include <cpuid.h>
#endif

namespace fusedstep {

#define FUSEDSTEP_DECLARE(isa) \
  namespace isa {              \
  extern const Table table;    \
  }

#if defined(__x86_64__) || defined(_M_X64)

FUSEDSTEP_DECLARE(x86_64)
FUSEDSTEP_DECLARE(x86_64_v3)
FUSEDSTEP_DECLARE(x86_64_v4)

namespace {

struct Registers {
  std::uint32_t a, b, c, d;
};

Registers cpuid(std::uint32_t leaf) {
  Registers r{};
#if defined(_MSC_VER)
  int values[4];
  __cpuidex(values, static_cast<int>(leaf), 0);
  r = {static_cast<std::uint32_t>(values[0]), static_cast<std::uint32_t>(values[1]),
       static_cast<std::uint32_t>(values[2]), static_cast<std::uint32_t>(values[3])};
#else
  __get_cpuid_count(leaf, 0, &r.a, &r.b, &r.c, &r.d);
#endif
  return r;
}

/// The register states that the operating system saves (XCR0).
std::uint64_t saved_state() {
#if defined(_MSC_VER)
  return _xgetbv(0);
#else
  std::uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (std::uint64_t{high} << 32) | low;
#endif
}

constexpr bool all(std::uint64_t have, std::uint64_t need) { return (have & need) == need; }

template <class... Bit>
constexpr std::uint32_t bits(Bit... bit) {
  return (0U | ... | (1U << bit));
}

/// The highest x86-64 psABI level that the processor supports, of those that kernels can be compiled for.
std::string_view level() {
  const Registers one = cpuid(1), seven = cpuid(7), extended = cpuid(0x80000001);
  // SSE3 SSSE3 FMA CX16 SSE4.1 SSE4.2 MOVBE POPCNT OSXSAVE AVX F16C; BMI1 AVX2 BMI2; LAHF LZCNT.
  const bool v3 = all(one.c, bits(0, 9, 12, 13, 19, 20, 22, 23, 27, 28, 29)) && all(seven.b, bits(3, 5, 8)) &&
                  all(extended.c, bits(0, 5)) && all(saved_state(), bits(1, 2));
  // AVX-512 F DQ CD BW VL; opmask and the upper halves of the vector registers.
  const bool v4 = v3 && all(seven.b, bits(16, 17, 28, 30, 31)) && all(saved_state(), bits(5, 6, 7));
  return v4 ? "x86-64-v4" : v3 ? "x86-64-v3" : "x86-64";
}

/// The names of the levels are in their order.
bool supports(const Table* table) { return table->isa <= level(); }

}  // namespace

#else

FUSEDSTEP_DECLARE(aarch64)

namespace {

bool supports(const Table*) { return true; }

}  // namespace

#endif

namespace {

template <class... Tables>
std::vector<const Table*> addresses(const Tables&... tables) {
  return {&tables...};
}

const std::vector<const Table*> compiled = addresses(FUSEDSTEP_TABLES);

std::string names(const std::vector<const Table*>& tables) {
  std::string list;
  for (const Table* table : tables) list += (list.empty() ? "" : ", ") + std::string(table->isa);
  return list;
}

std::vector<const Table*> supported() {
  std::vector<const Table*> tables;
  std::copy_if(compiled.begin(), compiled.end(), std::back_inserter(tables), supports);
  if (tables.empty()) throw std::runtime_error("this processor supports none of " + names(compiled));
  return tables;
}

std::atomic<const Table*>& chosen() {
  static std::atomic<const Table*> table = available().back();
  return table;
}

}  // namespace

const std::vector<const Table*>& available() {
  static const std::vector<const Table*> tables = supported();
  return tables;
}

const Table& active() { return *chosen(); }

void use(const std::string& isa) {
  for (const Table* table : available())
    if (table->isa == isa) {
      chosen() = table;
      return;
    }
  for (const Table* table : compiled)
    if (table->isa == isa)
      throw std::invalid_argument("this processor does not support the instruction set '" + isa +
                                  "'; it supports " + names(available()));
  throw std::invalid_argument("unknown instruction set '" + isa + "'; this build has " + names(compiled));
}

}  // namespace fusedstep
