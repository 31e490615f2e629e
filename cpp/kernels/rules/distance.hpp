// Steps whose size is found from the distance that the weights have moved.
#pragma once

#include "kernels/arithmetic.hpp"
#include "kernels/coefficients.hpp"

namespace fusedstep::FUSEDSTEP_ISA {
namespace {

/// Prodigy: Adam that finds its step size from the distance that the parameter has moved. Mishchenko &
/// Defazio 2023, arXiv:2306.06101, Algorithm 4.
template <class T>
struct Prodigy {
  COEFFICIENTS(beta1, gain1, beta2, gain2, beta3, gain3, keep, step, eps);

  Terms<2> measure(T p, T g, T, T, T s, T p0) const {
    return {static_cast<double>(g) * static_cast<double>(p0 - p), absolute(beta3 * s + gain3 * g)};
  }

  void operator()(T& p, T g, T& m, T& v, T& s, T) const {
    m = beta1 * m + gain1 * g;
    v = term(beta2, v) + term(gain2, g * g);
    s = beta3 * s + gain3 * g;
    p = keep * p - step * m / (sqrt(v) + eps);
  }
};

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
