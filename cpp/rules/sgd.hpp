// Gradient descent and momentum.
#pragma once

namespace fusedstep::FUSEDSTEP_ISA {
namespace {

/// Stochastic gradient descent. Robbins & Monro 1951.
template <class T>
struct SGD {
  T lr;

  void operator()(T& p, T g) const { p = p - lr * g; }
};

/// Momentum, with the step size inside the velocity. Polyak 1964; CS231n.
template <class T>
struct Momentum {
  T momentum, lr;

  void operator()(T& p, T g, T& v) const {
    v = momentum * v - lr * g;
    p = p + v;
  }
};

/// Momentum as an exponential average of the gradients.
template <class T>
struct EMAMomentum {
  T momentum, gain, lr;

  void operator()(T& p, T g, T& m) const {
    m = momentum * m + gain * g;
    p = p - lr * m;
  }
};

/// Nesterov momentum; p stands at the look-ahead point x + behind·v, and is left at x' + ahead·v'.
/// Nesterov 1983; CS231n.
template <class T>
struct Nesterov {
  T momentum, behind, onward, lr;  // onward = 1 + ahead

  void operator()(T& p, T g, T& v) const {
    const T u = momentum * v - lr * g;
    p = p - behind * v + onward * u;
    v = u;
  }
};

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
