// Tests that a caller's floating-point mode changes no bit, and is there again afterwards.
#include <cfenv>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "step/factors.hpp"
#include "step/reduce.hpp"
#include "step/table_rows.hpp"
#include "support.hpp"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace fusedstep::testing {
namespace {

/// Sets the mode in which the processor flushes tiny numbers to zero, for which C++ has no function.
void flush_tiny_numbers() {
#if defined(__aarch64__)
  std::uint64_t fpcr;
  asm volatile("mrs %0, fpcr" : "=r"(fpcr));
  asm volatile("msr fpcr, %0" : : "r"(fpcr | std::uint64_t{1} << 24));
#else
  _mm_setcsr(_mm_getcsr() | 0x8040);  // results, and operands
#endif
}

// The arguments are volatile: the compiler must leave the arithmetic to the processor.
bool rounds_upward() {
  const volatile float one = 1, little = 0x1p-60F;
  return one + little > 1;
}
bool flushes() {
  const volatile float smallest_normal = 0x1p-126F, half = 0.5F;
  return smallest_normal * half == 0;
}

/// The mode of another library in this thread, while it exists.
class OtherMode {
 public:
  OtherMode() {
    require(!rounds_upward() && !flushes(), "the mode was another one before");
    std::fegetenv(&found_);
    std::fesetround(FE_UPWARD);
    flush_tiny_numbers();
    require(is_there(), "the mode cannot be set");
  }
  ~OtherMode() { std::fesetenv(&found_); }
  OtherMode(const OtherMode&) = delete;
  OtherMode& operator=(const OtherMode&) = delete;

  bool is_there() const { return rounds_upward() && flushes(); }

 private:
  std::fenv_t found_;
};

/// The numbers that a call leaves behind, which it computes of arguments that were made before. It is made
/// once in the standard mode, and once in another.
template <class Call>
void is_the_same_in_another_mode(const char* what, const Call& call) {
  const auto expected = call();
  const OtherMode other;
  const auto found = call();
  require(other.is_there(), "the caller's mode is not there again");
  require(same_bits(found, expected), what);
}

constexpr std::size_t rows = 150, columns = 301, size = rows * columns;

/// Numbers of which the last ones are too small to be normal.
Floats also_tiny_numbers(std::uint32_t seed) {
  Floats found = numbers(size, seed);
  for (std::size_t i = size / 2; i < size; ++i) found[i] *= 0x1p-128F;
  return found;
}

void steps_in_another_mode() {
  const std::size_t kernel = kernel_named("EMAMomentum");
  const Coefficients coefficients = named(kernel, {{"momentum", 0.9}, {"gain", 0.1}, {"lr", 0.3}});
  const Floats p = also_tiny_numbers(1), g = also_tiny_numbers(2), v = also_tiny_numbers(3);
  is_the_same_in_another_mode("a step", [&] {
    Floats new_p = p, new_g = g, new_v = v;
    Plan plan({{kernel}}, kernel_named("Average"), {tensor_of(new_p, new_g, {float32(new_v)})});
    run(plan, 0, {coefficients}, false);
    return new_p;
  });
}

void sums_in_another_mode() {
  Floats p = numbers(size, 1), g = numbers(size, 2), v(size);
  const std::size_t lars = kernel_named("LARS");
  const Coefficients coefficients = named(lars, {{"momentum", 0.5}, {"decay", 0}, {"step", 1}, {"unit", 1}});
  const Plan plan({{lars}}, kernel_named("Average"), {tensor_of(p, g, {float32(v)})});
  is_the_same_in_another_mode("sums over a tensor",
                              [&] { return plan.measure(0, {coefficients})[0].values; });
  is_the_same_in_another_mode("a norm", [&] { return std::vector{norm(plan.gradients()).value}; });
  const Matrices matrices{float32(p), 1, rows, columns};
  is_the_same_in_another_mode("sums over rows", [&] { return square_sums(matrices).rows; });
  is_the_same_in_another_mode("sums over columns", [&] { return square_sums(matrices).columns; });
}

void factors_in_another_mode() {
  const Floats g = also_tiny_numbers(1);
  const std::vector<double> of_rows(rows, 0.3), of_columns(columns, 0.7);
  is_the_same_in_another_mode("scaled gradients", [&] {
    Floats scaled = g;
    scale({{float32(scaled), size}}, 0.3);
    return scaled;
  });
  is_the_same_in_another_mode("factors of rows and columns", [&] {
    Floats multiplied = g;
    multiply({float32(multiplied), 1, rows, columns}, of_rows.data(), of_columns.data(), 1);
    return multiplied;
  });
}

/// The gradients of a row that is named twice are added, before there is a step.
void gradients_of_rows_in_another_mode() {
  Floats p(columns), given = also_tiny_numbers(1);
  const std::vector<std::int64_t> indices(rows, 0);
  TableRows table({float32(p), columns, 1, columns * sizeof(float)}, {}, {});
  Plan plan({}, kernel_named("Average"), {});
  require(table.name(indices.data(), rows), "the only row");
  is_the_same_in_another_mode("the sum of a row's gradients", [&] {
    table.take(float32(given));
    plan.take({{0, 0, kernel_named("SGD"), &table}});
    return std::vector{norm(plan.gradients()).value};
  });
}

}  // namespace

void modes() {
  steps_in_another_mode();
  sums_in_another_mode();
  factors_in_another_mode();
  gradients_of_rows_in_another_mode();
}

}  // namespace fusedstep::testing
