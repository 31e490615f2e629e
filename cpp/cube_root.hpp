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

/// 1/∛x to 1/800, from a guess that is at most 1/29 off: Newton's y·(4 - x·y³)/3, which is never too large,
/// times what spreads its error to both sides. A constant less a third of the bits of x, as integers, are the
/// bits of the guess (the way of Kahan 1991, "Computing a Real Cube Root").
template <class T, class Bits>
inline T guessed_inverse_cube_root(T x, Bits constant) {
  const T y = __builtin_bit_cast(T, constant - third(__builtin_bit_cast(Bits, x)));
  return y * (T(4.004 / 3) - T(1.001 / 3) * ((x * y) * (y * y)));
}

inline float inverse_cube_root(float x) { return guessed_inverse_cube_root(x, uint32_t{0x54a23000}); }

/// To 1e-8: of (1 - h)^-⅓, where h = 1 - x·y³, the first three terms.
inline double inverse_cube_root(double x) {
  const double y = guessed_inverse_cube_root(x, uint64_t{0x553ef0fe00000000});
  const double h = 1 - (x * y) * (y * y);
  return y + y * (h * (1.0 / 3 + h * (2.0 / 9)));
}

/// The cube root of what is not negative, within 2 units in the last place: x·y² is (1 - h)^⅔ of it, where h
/// = 1 - x·y³.
template <class T>
inline T cube_root(T x) {
  // 2^±54 keeps the cubes from overflowing and what is subnormal from having too few bits.
  const T scaled = x < 1 ? x * T(0x1p54) : x * T(0x1p-54);
  const T y = inverse_cube_root(scaled);
  const T near = scaled * (y * y), h = T(1) - near * y;
  const T root = near + near * (h * (T(2.0 / 3) + h * T(5.0 / 9)));
  return x < T(__builtin_inf()) ? root * (x < 1 ? T(0x1p-18) : T(0x1p18)) : x;
}

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
