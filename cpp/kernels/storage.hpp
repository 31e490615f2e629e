// How a number is kept in memory: the type it is computed in, and how ONE element is loaded and stored.
#pragma once

#include <stdint.h>

namespace fusedstep::FUSEDSTEP_ISA {
namespace {

/// float and double are computed as they are kept. A narrower format is computed in a wider Arithmetic;
/// load is exact, store rounds once, to nearest even.
template <class Kept>
struct Storage {
  using Arithmetic = Kept;
  static Kept load(Kept x) { return x; }
  static Kept store(Kept x) { return x; }
};

inline float as_float(uint32_t bits) { return __builtin_bit_cast(float, bits); }
inline uint32_t as_bits(float x) { return __builtin_bit_cast(uint32_t, x); }

/// The bits without the last `count`, rounded to nearest even; a carry goes into the exponent, as it should.
inline uint32_t rounded(uint32_t bits, int count) {
  const uint32_t odd = (bits >> count) & 1;
  return (bits + (1U << (count - 1)) - 1 + odd) >> count;
}

/// bfloat16: the upper half of a float.
enum class BFloat16 : uint16_t {};

template <>
struct Storage<BFloat16> {
  using Arithmetic = float;

  static float load(BFloat16 x) { return as_float(static_cast<uint32_t>(x) << 16); }

  static BFloat16 store(float x) {
    constexpr uint32_t nan = 0x7fc0;
    return static_cast<BFloat16>(x != x ? nan : rounded(as_bits(x), 16));
  }
};

/// IEEE 754 binary16: sign, 5 bits of exponent, 10 of fraction.
enum class Float16 : uint16_t {};

template <>
struct Storage<Float16> {
  using Arithmetic = float;

  static float load(Float16 x) {
    const uint32_t half = static_cast<uint32_t>(x);
    // f is right for the exponents of normal numbers. Exponent 0, that of subnormals, means exponent 1
    // without a leading 1; the highest exponent means infinity or NaN.
    const float f = as_float(((half & 0x7fff) << 13) + bias);
    const float finite = f < 0x1p-14F ? f + f - 0x1p-14F : f;
    const uint32_t special = f >= 0x1p16F ? 0x7f800000 : 0;
    return as_float(as_bits(finite) | special | (half & 0x8000) << 16);
  }

  static Float16 store(float x) {
    constexpr uint32_t nan = 0x7e00, infinity = 0x7c00;
    const uint32_t bits = as_bits(x), sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
    const uint32_t normal = rounded(magnitude - bias, 13);
    // The sum ½ + |x| has its last bit at 2⁻²⁴, as a subnormal half has.
    const uint32_t subnormal = as_bits(as_float(magnitude) + 0.5F) - half_bits;
    const uint32_t finite = magnitude < smallest_normal ? subnormal : normal;
    const uint32_t capped = finite < infinity ? finite : infinity;
    return static_cast<Float16>(x != x ? nan : sign | capped);
  }

 private:
  static constexpr uint32_t bias = 112U << 23;             // difference of the exponents of float and half
  static constexpr uint32_t half_bits = 126U << 23;        // ½ as a float
  static constexpr uint32_t smallest_normal = 113U << 23;  // 2⁻¹⁴
};

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
