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

/// Momentum, with the step size outside the buffer. Sutskever et al. 2013.
template <class T>
struct SGDM {
  T momentum, gain, lr;

  void operator()(T& p, T g, T& buf) const {
    buf = momentum * buf + gain * g;
    p = p - lr * buf;
  }
};

/// The same, stepping from where the momentum leads next.
template <class T>
struct SGDMNesterov {
  T momentum, gain, lr;

  void operator()(T& p, T g, T& buf) const {
    buf = momentum * buf + gain * g;
    p = p - lr * (g + momentum * buf);
  }
};

/// Averaged gradient descent; the average is the parameter itself until averaging begins (mu < 1).
/// Polyak & Juditsky 1992; Xu 2011, arXiv:1107.2490.
template <class T>
struct ASGD {
  T keep, eta, mu;

  void operator()(T& p, T g, T& ax) const {
    p = keep * p - eta * g;
    ax = mu < 1 ? ax + mu * (p - ax) : p;
  }
};

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
