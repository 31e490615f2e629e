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

/// The largest finite number.
template <class T>
constexpr T largest = T(sizeof(T) == sizeof(float) ? 0x1.fffffep127 : 0x1.fffffffffffffp1023);

/// The variance of what has this mean and mean of squares: 0 where rounding would make it negative, infinite
/// where the mean of squares is.
template <class T>
inline T variance(T square, T mean) {
  const T difference = square - mean * mean;
  return square > largest<T> ? square : difference < 0 ? T(0) : difference;
}

/// c·x, a term that a coefficient of 0 removes, even where x is infinite.
template <class T>
inline T term(T c, T x) {
  return c != 0 ? c * x : T(0);
}

inline double square(double x) { return x * x; }

/// The terms that one element adds to the sums over its tensor.
template <size_t n>
struct Terms {
  static constexpr size_t count = n;
  static constexpr bool squares = false;
  double of[n];

  double term(size_t k, double) const { return of[k]; }
};

/// The same where the terms are squares, of these numbers times a factor that keeps their sum in range.
template <size_t n>
struct Squares {
  static constexpr size_t count = n;
  static constexpr bool squares = true;
  double of[n];

  double term(size_t k, double factor) const { return square(factor * of[k]); }
};

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
