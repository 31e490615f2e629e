// Powers for coefficients.
#pragma once

#include <cmath>

namespace fusedstep {

/// x to the power n, a whole number that is not negative, by squaring: products are the same on every system,
/// and what a C library calls a power is not.
inline double whole_power(double x, double n) {
  double result = 1;
  while (n > 0) {
    const double half = std::floor(n / 2);
    if (n != 2 * half) result *= x;
    x *= x;
    n = half;
  }
  return result;
}

}  // namespace fusedstep
