// The cube root, with the same bits on every machine.
#pragma once

#include <stdint.h>

namespace fusedstep::FUSEDSTEP_ISA {
namespace {

/// A little less than n/3: 1/4 + 1/16 is 5/16, and 17/16 of that is 85/256.
template <class Bits>
inline Bits third(Bits n) {
  Bits sum = (n >> 2) + (n >> 4);
  sum = sum + (sum >> 4);
  sum = sum + (sum >> 8);
  return sum + (sum >> 16);
}

/// 1/∛x to 1/800. The bits of the guess y, as an integer, are a constant minus a third of the bits of x (the
/// method of Kahan 1991, "Computing a Real Cube Root"); y is at most 1/29 off. Newton's step y·(4 - x·y³)/3
/// is never too large, so a factor of 1.001 spreads its error to both sides.
template <class T, class Bits>
inline T guessed_inverse_cube_root(T x, Bits constant) {
  const T y = __builtin_bit_cast(T, constant - third(__builtin_bit_cast(Bits, x)));
  return y * (T(4.004 / 3) - T(1.001 / 3) * ((x * y) * (y * y)));
}

inline float inverse_cube_root(float x) { return guessed_inverse_cube_root(x, uint32_t{0x54a23000}); }

/// 1/∛x to 1e-8: y times the first three terms of the series of (1 - h)^-⅓, where h = 1 - x·y³.
inline double inverse_cube_root(double x) {
  const double y = guessed_inverse_cube_root(x, uint64_t{0x553ef0fe00000000});
  const double h = 1 - (x * y) * (y * y);
  return y + y * (h * (1.0 / 3 + h * (2.0 / 9)));
}

/// The cube root of a number that is not negative, within 2 units in the last place. With y ≈ 1/∛x it is
/// x·y²·(1 - h)^-⅔, where h = 1 - x·y³.
template <class T>
inline T cube_root(T x) {
  // The scale 2^±54 keeps cubes from overflowing and subnormal numbers from having too few bits.
  const T scaled = x < 1 ? x * T(0x1p54) : x * T(0x1p-54);
  const T y = inverse_cube_root(scaled);
  const T near = scaled * (y * y), h = T(1) - near * y;
  const T root = near + near * (h * (T(2.0 / 3) + h * T(5.0 / 9)));
  return x < T(__builtin_inf()) ? root * (x < 1 ? T(0x1p-18) : T(0x1p18)) : x;
}

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
