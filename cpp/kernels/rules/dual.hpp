// Dual averaging: the parameter is computed anew from sums over all steps.
#pragma once

#include "kernels/arithmetic.hpp"
#include "kernels/coefficients.hpp"
#include "kernels/cube_root.hpp"

namespace fusedstep::FUSEDSTEP_ISA {
namespace {

/// Follow the regularized leader. McMahan et al. 2013, KDD, Algorithm 1.
template <class T>
struct Ftrl {
  COEFFICIENTS(rate, ridge, l1);  // rate = 1/lr, ridge = β/lr + l2

  void operator()(T& p, T g, T& n, T& z) const {
    const T root = sqrt(n);
    n = n + g * g;
    const T grown = sqrt(n), slope = grown * rate + ridge;
    const bool moves = !(slope > largest<T>);
    z = moves ? z + g - (grown - root) * rate * p : z;
    p = moves ? (clamp(z, l1) - z) / slope : p;
  }
};

/// The same with n to a power other than ½: the sum of some of ¼, ½ and 1.
template <class T>
struct FtrlPower {
  COEFFICIENTS(rate, ridge, l1, quarter, half, whole);  // quarter, half, whole: 1 if in the sum, else 0

  T power(T n) const {
    const T root = sqrt(n);
    return (quarter > 0 ? sqrt(root) : T(1)) * (half > 0 ? root : T(1)) * (whole > 0 ? n : T(1));
  }

  void operator()(T& p, T g, T& n, T& z) const {
    const T before = power(n);
    n = n + g * g;
    const T grown = power(n), slope = grown * rate + ridge;
    const bool moves = !(slope > largest<T>);
    z = moves ? z + g - (grown - before) * rate * p : z;
    p = moves ? (clamp(z, l1) - z) / slope : p;
  }
};

/// MADGRAD. Defazio & Jelassi 2021, arXiv:2101.11075, Algorithm 1.
template <class T>
struct MADGRAD {
  COEFFICIENTS(weight, eps, momentum, gain);

  void operator()(T& p, T g, T& s, T& z, T x0) const {
    s = s + term(weight, g * g);
    z = z + weight * g;
    p = momentum * p + gain * (x0 - z / (cube_root(s) + eps));
  }
};

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
