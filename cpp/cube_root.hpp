// The cube root, in arithmetic that is alike on every machine.
#pragma once

#include <stdint.h>

namespace fusedstep::FUSEDSTEP_ISA {
namespace {

/// A little less than n/3: 1/4 + 1/16 is 5/16, and 17/16 of it is 85/256.
template <class Bits>
inline Bits third(Bits n) {
  Bits sum = (n >> 2) + (n >> 4);
  sum = sum + (sum >> 4);
  sum = sum + (sum >> 8);
  return sum + (sum >> 16);
}

/// Brings y nearer to 1/∛x: of (1 - h)^-⅓, where h = 1 - x·y³, the first three terms.
template <class T>
inline T refined(T y, T x) {
  const T h = T(1) - (x * y) * (y * y);
  return y + y * (h * (T(1.0 / 3) + h * T(2.0 / 9)));
}

/// 1/∛x. A constant less a third of the bits of x, as integers, are the bits of a guess that is 1/29 off (the
/// way of Kahan 1991, "Computing a Real Cube Root"): 3e-2, then 2e-4, 3e-11, and, in double, 1e-31.
inline float inverse_cube_root(float x) {
  const uint32_t bits = 0x54a23000 - third(__builtin_bit_cast(uint32_t, x));
  return refined(refined(__builtin_bit_cast(float, bits), x), x);
}

inline double inverse_cube_root(double x) {
  const uint64_t bits = 0x553ef0fe00000000 - third(__builtin_bit_cast(uint64_t, x));
  return refined(refined(refined(__builtin_bit_cast(double, bits), x), x), x);
}

/// The cube root of what is not negative, within 4 units in the last place.
template <class T>
inline T cube_root(T x) {
  // 2^±54 keeps the cubes from overflowing and what is subnormal from having too few bits.
  const T scaled = x < 1 ? x * T(0x1p54) : x * T(0x1p-54);
  const T y = inverse_cube_root(scaled);
  const T root = scaled * (y * y) * (x < 1 ? T(0x1p-18) : T(0x1p18));
  return x > 0 && x < T(__builtin_inf()) ? root : x;
}

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
