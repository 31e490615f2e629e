// Gradient descent and momentum.
#pragma once

#include "kernels/arithmetic.hpp"
#include "kernels/coefficients.hpp"

namespace fusedstep::FUSEDSTEP_ISA {
namespace {

/// Stochastic gradient descent. Robbins & Monro 1951.
template <class T>
struct SGD {
  COEFFICIENTS(lr);

  void operator()(T& p, T g) const { p = p - lr * g; }
};

/// Momentum, with the learning rate inside the velocity. Polyak 1964; CS231n.
template <class T>
struct Momentum {
  COEFFICIENTS(momentum, lr);

  void operator()(T& p, T g, T& v) const {
    v = momentum * v - lr * g;
    p = p + v;
  }
};

/// Momentum as an exponential average of the gradients.
template <class T>
struct EMAMomentum {
  COEFFICIENTS(momentum, gain, lr);

  void operator()(T& p, T g, T& m) const {
    m = momentum * m + gain * g;
    p = p - lr * m;
  }
};

/// Nesterov momentum. Before the step p is the look-ahead point x + behind·v, after it x' + ahead·v'.
/// Nesterov 1983; CS231n.
template <class T>
struct Nesterov {
  COEFFICIENTS(momentum, behind, onward, lr);  // onward = 1 + ahead

  void operator()(T& p, T g, T& v) const {
    const T u = momentum * v - lr * g;
    p = p - behind * v + onward * u;
    v = u;
  }
};

/// Momentum, with the learning rate outside the buffer. Sutskever et al. 2013.
template <class T>
struct SGDM {
  COEFFICIENTS(momentum, gain, lr);

  void operator()(T& p, T g, T& buf) const {
    buf = term(momentum, buf) + gain * g;
    p = p - term(lr, buf);
  }
};

/// The same with Nesterov's look-ahead: it steps along g + momentum·buf.
template <class T>
struct SGDMNesterov {
  COEFFICIENTS(momentum, gain, lr);

  void operator()(T& p, T g, T& buf) const {
    buf = term(momentum, buf) + gain * g;
    p = p - term(lr, g + term(momentum, buf));
  }
};

/// Averaged gradient descent; the average is the parameter itself until averaging begins (mu < 1).
/// Polyak & Juditsky 1992; Xu 2011, arXiv:1107.2490.
template <class T>
struct ASGD {
  COEFFICIENTS(keep, eta, mu);

  void operator()(T& p, T g, T& ax) const {
    p = keep * p - eta * g;
    ax = mu < 1 ? ax + mu * (p - ax) : p;
  }
};

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
