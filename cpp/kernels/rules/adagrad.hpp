// Steps divided by the root of summed or averaged squares of the gradients.
#pragma once

#include "kernels/arithmetic.hpp"
#include "kernels/coefficients.hpp"

namespace fusedstep::FUSEDSTEP_ISA {
namespace {

/// Adagrad. Duchi, Hazan & Singer 2011, JMLR 12.
template <class T>
struct Adagrad {
  COEFFICIENTS(step, root, eps);  // root = 1/√t for the root mean square, else 1

  void operator()(T& p, T g, T& s) const {
    s = s + g * g;
    p = p - step * g / (sqrt(s) * root + eps);
  }
};

/// Adagrad with one accumulator per row, for a matrix: o is each row's gradient over the root of its
/// accumulator.
template <class T>
struct RowwiseAdagrad {
  COEFFICIENTS(lr);

  void operator()(T& p, T, T o) const { p = p - lr * o; }
};

/// The same for one row alone, with rate = 1/(√s + ε).
template <class T>
struct RowwiseAdagradRow {
  COEFFICIENTS(lr, rate);

  Terms<1> measure(T, T g) const { return {square(g)}; }

  void operator()(T& p, T g) const { p = p - lr * (rate * g); }
};

/// RMSProp. Tieleman & Hinton 2012, Coursera lecture 6.5.  √(s + inside) + outside: one is ε, the other 0.
template <class T>
struct RMSProp {
  COEFFICIENTS(rho, gain, step, inside, outside);

  void operator()(T& p, T g, T& s) const {
    s = term(rho, s) + gain * (g * g);
    p = p - step * g / (sqrt(s + inside) + outside);
  }
};

/// RMSProp that divides by the standard deviation. Graves 2013, arXiv:1308.0850, eq. 38-45.
template <class T>
struct RMSPropCentered {
  COEFFICIENTS(rho, gain, step, inside, outside);

  void operator()(T& p, T g, T& s, T& a) const {
    s = term(rho, s) + gain * (g * g);
    a = rho * a + gain * g;
    p = p - step * g / (sqrt(variance(s, a) + inside) + outside);
  }
};

/// RMSProp, then momentum.
template <class T>
struct RMSPropMomentum {
  COEFFICIENTS(rho, gain, step, inside, outside, momentum);

  void operator()(T& p, T g, T& s, T& b) const {
    s = term(rho, s) + gain * (g * g);
    b = momentum * b + g / (sqrt(s + inside) + outside);
    p = p - step * b;
  }
};

/// Centered RMSProp, then momentum. Graves 2013, arXiv:1308.0850, eq. 38-45.
template <class T>
struct RMSPropCenteredMomentum {
  COEFFICIENTS(rho, gain, step, inside, outside, momentum);

  void operator()(T& p, T g, T& s, T& a, T& b) const {
    s = term(rho, s) + gain * (g * g);
    a = rho * a + gain * g;
    b = momentum * b + g / (sqrt(variance(s, a) + inside) + outside);
    p = p - step * b;
  }
};

/// Adadelta. Zeiler 2012, arXiv:1212.5701, Algorithm 1.
template <class T>
struct Adadelta {
  COEFFICIENTS(rho, gain, eps, lr);

  void operator()(T& p, T g, T& s, T& d) const {
    s = term(rho, s) + term(gain, g * g);
    const T delta = sqrt(d + eps) / sqrt(s + eps) * g;
    d = rho * d + gain * (delta * delta);
    p = p - lr * delta;
  }
};

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
