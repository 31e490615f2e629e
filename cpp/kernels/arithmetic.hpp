// The functions that a rule may use besides + - * /. Each rounds once, to the same bits on every machine.
#pragma once

#include <math.h>
#include <stddef.h>

namespace fusedstep::FUSEDSTEP_ISA {
namespace {

inline float sqrt(float x) { return ::sqrtf(x); }
inline double sqrt(double x) { return ::sqrt(x); }

/// The sign of x: 1, -1, 0 or NaN, as in numpy.sign.
template <class T>
inline T sign(T x) {
  return x > 0 ? T(1) : x < 0 ? T(-1) : x == 0 ? T(0) : x;
}

/// |x|
template <class T>
inline T absolute(T x) {
  return x < 0 ? -x : x;
}

/// The larger of a and b, or NaN if either is NaN, as in numpy.maximum.
template <class T>
inline T maximum(T a, T b) {
  return a > b || a != a ? a : b;
}

/// x limited to the range least..most; NaN stays NaN.
template <class T>
inline T clamp(T x, T least, T most) {
  const T above = x < least ? least : x;
  return above > most ? most : above;
}

/// x limited to the range -bound..bound; NaN stays NaN, as in numpy.clip.
template <class T>
inline T clamp(T x, T bound) {
  return clamp(x, -bound, bound);
}

/// x, or 0 where rounding made a variance negative.
template <class T>
inline T positive(T x) {
  return x < 0 ? T(0) : x;
}

/// The terms that one element adds to the sums over its tensor.
template <size_t n>
struct Terms {
  static constexpr size_t count = n;
  double of[n];
};

inline double square(double x) { return x * x; }

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
