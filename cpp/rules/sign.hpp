// Steps that take from the gradient its sign alone.
#pragma once

#include "../arithmetic.hpp"

namespace fusedstep::FUSEDSTEP_ISA {
namespace {

/// Steps of one size, by the sign of the gradient. Bernstein et al. 2018, arXiv:1802.04434, Algorithm 1.
template <class T>
struct SignSGD {
  T lr;

  void operator()(T& p, T g) const { p = p - lr * sign(g); }
};

/// The same by the sign of its mean. Bernstein et al. 2018, arXiv:1802.04434, Algorithm 2.
template <class T>
struct Signum {
  T momentum, gain, lr;

  void operator()(T& p, T g, T& m) const {
    m = momentum * m + gain * g;
    p = p - lr * sign(m);
  }
};

/// Lion. Chen et al. 2023, arXiv:2302.06675, Program 1.
template <class T>
struct Lion {
  T beta1, gain1, beta2, gain2, lr;

  void operator()(T& p, T g, T& m) const {
    p = p - lr * sign(beta1 * m + gain1 * g);
    m = beta2 * m + gain2 * g;
  }
};

/// Resilient backpropagation, without going back. Riedmiller & Braun 1993; Igel & Hüsken 2000 (iRprop-).
template <class T>
struct Rprop {
  T lr, minus, plus, least, most;  // a step of 0 is one that has not begun, with lr

  void operator()(T& p, T g, T& prev, T& step) const {
    const T agreement = g * prev;
    const T factor = agreement > 0 ? plus : agreement < 0 ? minus : T(1);
    step = clamp((step == 0 ? lr : step) * factor, least, most);
    prev = agreement < 0 ? T(0) : g;
    p = p - sign(prev) * step;
  }
};

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
