// Helpers of the tests: numbers, tensors of them, coefficients by name, and a check that ends with a plain
// message.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

#include "step/coefficients.hpp"
#include "step/dispatch.hpp"
#include "step/parallel.hpp"
#include "step/plan.hpp"

namespace fusedstep::testing {

using Floats = std::vector<float>;

inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "wrong: %s (%s, %d threads)\n", what, active().isa, num_threads());
  std::exit(1);
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  if (a.size() != b.size()) return false;
  // Without elements there may be no address, which memcmp must have.
  return a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

/// Numbers of both signs around 0, the same for the same seed.
inline Floats numbers(std::size_t n, std::uint32_t seed) {
  Floats found(n);
  for (float& x : found) {
    seed = seed * 1664525 + 1013904223;
    x = static_cast<float>(static_cast<std::int32_t>(seed)) * 0x1p-31F;
  }
  return found;
}

/// Multiples of 4 from -16 to 16, the same for the same seed: numbers that each format keeps exactly, also
/// after a step with coefficients like 0.5.
inline Floats whole_numbers(std::size_t n, std::uint32_t seed) {
  Floats found = numbers(n, seed);
  for (float& x : found) x = 4 * std::round(4 * x);
  return found;
}

inline Floats squared(Floats x) {
  for (float& each : x) each = each * each;
  return x;
}

inline std::size_t kernel_named(std::string_view name) {
  for (std::size_t i = 0; i < active().size; ++i)
    if (active().kernels[i].name == name) return i;
  require(false, "a kernel is missing");
  return 0;
}

using Values = std::vector<std::pair<std::string_view, double>>;

/// Coefficients by their names, after those of a prologue that changes nothing.
inline Coefficients named(std::size_t kernel, const Values& values) {
  Coefficients coefficients;
  coefficients.rule = no_prologue();
  for (const std::string_view name : separate(active().kernels[kernel].coefficients))
    for (const auto& [given, value] : values)
      if (given == name) coefficients.rule.push_back(value);
  require(coefficients.rule.size() == c_rule + separate(active().kernels[kernel].coefficients).size(),
          "a coefficient is missing");
  return coefficients;
}

inline Array float32(Floats& x) { return {format_f32, x.data()}; }

inline Tensor tensor_of(Floats& p, Floats& g, std::vector<Array> state) {
  Tensor tensor;
  tensor.size = p.size();
  tensor.p = float32(p);
  tensor.g = float32(g);
  for (std::size_t slot = 0; slot < state.size(); ++slot) tensor.state[slot] = state[slot];
  tensor.stepped = true;
  return tensor;
}

/// Runs a sweep of a plan.
inline void run(Plan& plan, std::size_t sweep, std::vector<Coefficients> by_group, bool zero_gradients) {
  plan.prepare(sweep, std::move(by_group));
  plan.run(zero_gradients);
}

/// Numbers in some format, the first at some element of its memory and the last at the end of it: what goes
/// further is seen by AddressSanitizer, and what begins too early by a test.
class Kept {
 public:
  Kept(Format format, const Floats& numbers, std::size_t offset = 0)
      : format_(format), offset_(offset), size_(numbers.size()), memory_((offset + size_) * width(format)) {
    if (format_ == format_f64)
      std::copy(numbers.begin(), numbers.end(), static_cast<double*>(array().data));
    else
      active().narrow[format_](size_, numbers.data(), array().data);
  }

  Array array() { return {format_, Array{format_, memory_.data()}.at(offset_)}; }

  Floats values() {
    Floats found(size_);
    if (format_ == format_f64)
      std::copy_n(static_cast<const double*>(array().data), size_, found.begin());
    else
      active().widen[format_](size_, array().data, found.data());
    return found;
  }

  bool untouched_before() const {
    return std::all_of(memory_.begin(), memory_.end() - static_cast<std::ptrdiff_t>(size_ * width(format_)),
                       [](char byte) { return byte == 0; });
  }

 private:
  Format format_;
  std::size_t offset_, size_;
  std::vector<char> memory_;
};

/// Rounds a finite number to bfloat16, to nearest even.
inline std::uint16_t bfloat16(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float from_bfloat16(std::uint16_t x) {
  const std::uint32_t bits = std::uint32_t{x} << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}

}  // namespace fusedstep::testing
