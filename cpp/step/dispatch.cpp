#include "step/dispatch.hpp"

#include <atomic>
#include <cstdint>
#include <stdexcept>

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

/// The highest x86-64 psABI level that the processor supports of those compiled here: 1, 3 or 4.
int level() {
  const Registers one = cpuid(1), seven = cpuid(7), extended = cpuid(0x80000001);
  // SSE3 SSSE3 FMA CX16 SSE4.1 SSE4.2 MOVBE POPCNT OSXSAVE AVX F16C; BMI1 AVX2 BMI2; LAHF LZCNT.
  const bool v3 = all(one.c, bits(0, 9, 12, 13, 19, 20, 22, 23, 27, 28, 29)) && all(seven.b, bits(3, 5, 8)) &&
                  all(extended.c, bits(0, 5)) && all(saved_state(), bits(1, 2));
  // AVX-512 F DQ CD BW VL; opmask and the upper halves of the vector registers.
  const bool v4 = v3 && all(seven.b, bits(16, 17, 28, 30, 31)) && all(saved_state(), bits(5, 6, 7));
  return v4 ? 4 : v3 ? 3 : 1;
}

const std::vector<const Table*> compiled = {&x86_64::table, &x86_64_v3::table, &x86_64_v4::table};

std::size_t supported() { return level() == 4 ? 3 : level() == 3 ? 2 : 1; }

}  // namespace

#else

FUSEDSTEP_DECLARE(aarch64)

namespace {

const std::vector<const Table*> compiled = {&aarch64::table};

std::size_t supported() { return compiled.size(); }

}  // namespace

#endif

namespace {

std::string names(const std::vector<const Table*>& tables) {
  std::string list;
  for (const Table* table : tables) list += (list.empty() ? "" : ", ") + std::string(table->isa);
  return list;
}

std::atomic<const Table*>& chosen() {
  static std::atomic<const Table*> table = available().back();
  return table;
}

}  // namespace

const std::vector<const Table*>& available() {
  static const std::vector<const Table*> tables(compiled.begin(),
                                                compiled.begin() + static_cast<std::ptrdiff_t>(supported()));
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
