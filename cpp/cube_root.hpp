// The cube root, in arithmetic that is alike on every machine.
#pragma once

#include <stdint.h>

namespace fusedstep::FUSEDSTEP_ISA {
namespace {

/// A step of Halley's method for root³ = x, which cubes the relative error.
template <class T>
inline T halley(T root, T x) {
  const T cube = root * root * root;
  return root * ((cube + (x + x)) / ((cube + cube) + x));
}

/// A little less than n/3: 1/4 + 1/16 is 5/16, and 17/16 of it is 85/256.
template <class Bits>
inline Bits third(Bits n) {
  Bits sum = (n >> 2) + (n >> 4);
  sum = sum + (sum >> 4);
  sum = sum + (sum >> 8);
  return sum + (sum >> 16);
}

/// A third of the bits of a number, as an integer, and a constant are the bits of its root to 1/31 (Kahan 1991,
/// "Computing a Real Cube Root"): 3e-2, then 2e-5, 7e-15.
inline float guessed_cube_root(float x) {
  const uint32_t bits = third(__builtin_bit_cast(uint32_t, x)) + 0x2a510000;
  return halley(halley(__builtin_bit_cast(float, bits), x), x);
}

inline double guessed_cube_root(double x) {
  const uint64_t bits = third(__builtin_bit_cast(uint64_t, x)) + 0x2a9f7a8b00000000;
  return halley(halley(halley(__builtin_bit_cast(double, bits), x), x), x);
}

/// The cube root of what is not negative, within 4 units in the last place.
template <class T>
inline T cube_root(T x) {
  // 2^±54 keeps the cubes from overflowing and what is subnormal from having too few bits.
  const T scaled = x < 1 ? x * T(0x1p54) : x * T(0x1p-54);
  const T root = guessed_cube_root(scaled) * (x < 1 ? T(0x1p-18) : T(0x1p18));
  return x > 0 && x < T(__builtin_inf()) ? root : x;
}

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
