// Steps that use only the sign of the gradient.
#pragma once

#include "kernels/arithmetic.hpp"
#include "kernels/coefficients.hpp"

namespace fusedstep::FUSEDSTEP_ISA {
namespace {

/// Steps of one size along the sign of the gradient. Bernstein et al. 2018, arXiv:1802.04434, Algorithm 1.
template <class T>
struct SignSGD {
  COEFFICIENTS(lr);

  void operator()(T& p, T g) const { p = p - lr * sign(g); }
};

/// The same along the sign of the gradient's mean. Bernstein et al. 2018, arXiv:1802.04434, Algorithm 2.
template <class T>
struct Signum {
  COEFFICIENTS(momentum, gain, lr);

  void operator()(T& p, T g, T& m) const {
    m = momentum * m + gain * g;
    p = p - lr * sign(m);
  }
};

/// Lion. Chen et al. 2023, arXiv:2302.06675, Program 1.
template <class T>
struct Lion {
  COEFFICIENTS(beta1, gain1, beta2, gain2, lr);

  void operator()(T& p, T g, T& m) const {
    p = p - lr * sign(beta1 * m + gain1 * g);
    m = beta2 * m + gain2 * g;
  }
};

/// Resilient backpropagation without backtracking. Riedmiller & Braun 1993; Igel & Hüsken 2000 (iRprop-).
template <class T>
struct Rprop {
  COEFFICIENTS(lr, minus, plus, least, most);  // a step of 0 has not begun, and stands for lr

  void operator()(T& p, T g, T& prev, T& step) const {
    const T agreement = sign(g) * sign(prev);
    const T factor = agreement > 0 ? plus : agreement < 0 ? minus : T(1);
    step = clamp((step == 0 ? lr : step) * factor, least, most);
    prev = agreement < 0 ? T(0) : g;
    p = p - sign(prev) * step;
  }
};

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
