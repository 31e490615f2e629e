// Steps of only those elements whose step and gradient agree in sign, made longer to make up for the others:
// each `measure` counts how many agree. Liang et al. 2024, arXiv:2411.16085, Algorithm 1.
#pragma once

#include "kernels/arithmetic.hpp"
#include "kernels/coefficients.hpp"

namespace fusedstep::FUSEDSTEP_ISA {
namespace {

/// 1 where the signs agree, else 0.
template <class T>
inline T agreement(T step, T g) {
  return sign(step) * g > 0 ? T(1) : T(0);
}

template <class T>
struct CautiousAdam {
  COEFFICIENTS(beta1, gain1, beta2, gain2, root, eps, step);

  Terms<1> measure(T, T g, T m, T) const { return {agreement(beta1 * m + gain1 * g, g)}; }

  void operator()(T& p, T g, T& m, T& v) const {
    m = beta1 * m + gain1 * g;
    v = term(beta2, v) + gain2 * (g * g);
    p = p - agreement(m, g) * (step * m / (sqrt(v) * root + eps));
  }
};

template <class T>
struct CautiousAMSGrad {
  COEFFICIENTS(beta1, gain1, beta2, gain2, root, eps, step);

  Terms<1> measure(T, T g, T m, T, T) const { return {agreement(beta1 * m + gain1 * g, g)}; }

  void operator()(T& p, T g, T& m, T& v, T& vmax) const {
    m = beta1 * m + gain1 * g;
    v = term(beta2, v) + gain2 * (g * g);
    vmax = maximum(vmax, v);
    p = p - agreement(m, g) * (step * m / (sqrt(vmax) * root + eps));
  }
};

template <class T>
struct CautiousLion {
  COEFFICIENTS(beta1, gain1, beta2, gain2, step);

  Terms<1> measure(T, T g, T m) const { return {agreement(beta1 * m + gain1 * g, g)}; }

  void operator()(T& p, T g, T& m) const {
    const T direction = beta1 * m + gain1 * g;
    p = p - agreement(direction, g) * (step * sign(direction));
    m = beta2 * m + gain2 * g;
  }
};

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
